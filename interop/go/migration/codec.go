package migration

import (
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protowire"
)

// MaxMessage is the largest message that is read; checked before anything is allocated
// (*Stream Migration Messages*).
const MaxMessage = 256

// ErrMessage is wrapped by every error about the content of a message.
var ErrMessage = errors.New("bad message")

// Field numbers (*Stream Migration Messages*).
const (
	fieldLabel, fieldMigrate, fieldAck = 1, 2, 3
	fieldID, fieldFrom                 = 1, 2
	fieldDeny                          = 1
	fieldSent, fieldCancelled          = 1, 2
	fieldVerify                        = 1000
	fieldRoute                         = 1002
	fieldHello, fieldClosed            = 1, 5
	fieldEpoch, fieldConnection        = 1, 3
)

// maxControl is the largest message on a control substream (*Control*).
const maxControl = 4096

// Label is the first message of a new stream. Below the swarm it may have a route, the number of
// the receiver's connection that it is for.
type Label struct {
	ID, Route uint64
	Routed    bool
}

// Migrate is the first message of a new leg.
type Migrate struct {
	ID, From uint64
	Verify   bool
}

// Ack is the only answer to Migrate.
type Ack struct{ Deny, Verify bool }

// Switched is the first message of each side on a new leg between two peers that verify:
// the number of bytes written before the switch, or that there was none.
type Switched struct {
	Sent      uint64
	Cancelled bool
}

// Hello is who speaks on a link: a process, and the number of its connection that came with the
// link. Not Layered is one that has no layer there, and no number.
type Hello struct {
	Epoch, Connection uint64
	Layered           bool
}

// Control is any message on a control substream.
type Control struct {
	Hello  *Hello
	Closed []uint64
}

// frame puts the length before a message.
func frame(body []byte) []byte {
	return append(protowire.AppendVarint(nil, uint64(len(body))), body...)
}

// wrap makes body the one field of a StreamMigration.
func wrap(field protowire.Number, body []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, field, protowire.BytesType), body)
}

func appendUint(b []byte, field protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

// appendTrue leaves a false out: a peer without the extension must see nothing of it.
func appendTrue(b []byte, field protowire.Number, v bool) []byte {
	if !v {
		return b
	}
	return appendUint(b, field, 1)
}

// Encode returns the message with its length.
func (l Label) Encode() []byte {
	b := appendUint(nil, fieldID, l.ID)
	if l.Routed {
		b = appendUint(b, fieldRoute, l.Route)
	}
	return frame(wrap(fieldLabel, b))
}

// Encode returns the message with its length.
func (m Migrate) Encode() []byte {
	b := appendUint(appendUint(nil, fieldID, m.ID), fieldFrom, m.From)
	return frame(wrap(fieldMigrate, appendTrue(b, fieldVerify, m.Verify)))
}

// Encode returns the message with its length, in the spec head's form or in the bare one of the
// earlier revision.
func (a Ack) Encode(bare bool) []byte {
	b := appendTrue(appendTrue(nil, fieldDeny, a.Deny), fieldVerify, a.Verify)
	if bare {
		return frame(b)
	}
	return frame(wrap(fieldAck, b))
}

// Encode returns the message with its length. It is always bare.
func (s Switched) Encode() []byte {
	if s.Cancelled {
		return frame(appendTrue(nil, fieldCancelled, true))
	}
	return frame(appendUint(nil, fieldSent, s.Sent))
}

// Encode returns the message with its length.
func (c Control) Encode() (b []byte) {
	if h := c.Hello; h != nil {
		inner := protowire.AppendFixed64(protowire.AppendTag(nil, fieldEpoch, protowire.Fixed64Type), h.Epoch)
		if h.Layered {
			inner = appendUint(inner, fieldConnection, h.Connection)
		}
		b = wrap(fieldHello, inner)
	}
	for _, n := range c.Closed {
		b = appendUint(b, fieldClosed, n)
	}
	return frame(b)
}

// field is one field of a message; num is what a varint or a fixed64 says, body a length-delimited
// one's.
type field struct {
	number protowire.Number
	kind   protowire.Type
	num    uint64
	body   []byte
}

// fields calls f for every field of b. What f does not know it lets pass.
func fields(b []byte, f func(field) error) error {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fmt.Errorf("%w: %w", ErrMessage, protowire.ParseError(n))
		}
		b = b[n:]
		one := field{number: number, kind: kind}
		switch kind {
		case protowire.VarintType:
			one.num, n = protowire.ConsumeVarint(b)
		case protowire.Fixed64Type:
			one.num, n = protowire.ConsumeFixed64(b)
		case protowire.BytesType:
			one.body, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(number, kind, b)
		}
		if n < 0 {
			return fmt.Errorf("%w: %w", ErrMessage, protowire.ParseError(n))
		}
		b = b[n:]
		if err := f(one); err != nil {
			return err
		}
	}
	return nil
}

// uints collects the varint fields of b with the given numbers; the last of several counts.
func uints(b []byte, numbers ...protowire.Number) (map[protowire.Number]uint64, error) {
	found := make(map[protowire.Number]uint64, len(numbers))
	err := fields(b, func(f field) error {
		for _, n := range numbers {
			if f.number != n {
				continue
			}
			if f.kind != protowire.VarintType {
				return fmt.Errorf("%w: field %d is not a varint", ErrMessage, n)
			}
			found[n] = f.num
		}
		return nil
	})
	return found, err
}

// decodeFirst decodes the first message of a leg: exactly one of the results is not nil.
func decodeFirst(b []byte) (label *Label, migrate *Migrate, err error) {
	err = fields(b, func(f field) error {
		switch f.number {
		case fieldLabel, fieldMigrate, fieldAck:
		default:
			return nil
		}
		if f.kind != protowire.BytesType {
			return fmt.Errorf("%w: field %d is not a message", ErrMessage, f.number)
		}
		// A oneof: the last one wins.
		label, migrate = nil, nil
		if f.number == fieldAck {
			return nil
		}
		numbers := []protowire.Number{fieldID, fieldFrom, fieldVerify}
		if f.number == fieldLabel {
			numbers = []protowire.Number{fieldID, fieldRoute}
		}
		v, err := uints(f.body, numbers...)
		if err != nil {
			return err
		}
		id, hasID := v[fieldID]
		from, hasFrom := v[fieldFrom]
		route, routed := v[fieldRoute]
		switch {
		case !hasID:
			return fmt.Errorf("%w: no id", ErrMessage)
		case f.number == fieldLabel:
			label = &Label{ID: id, Route: route, Routed: routed}
		case !hasFrom:
			return fmt.Errorf("%w: no from", ErrMessage)
		default:
			migrate = &Migrate{ID: id, From: from, Verify: v[fieldVerify] != 0}
		}
		return nil
	})
	if err == nil && label == nil && migrate == nil {
		err = fmt.Errorf("%w: neither label nor migrate", ErrMessage)
	}
	if err != nil {
		return nil, nil, err
	}
	return label, migrate, nil
}

// decodeAck reads both forms. They cannot be confused: the spec head's has field 3 as a message,
// the bare one has varints only. A label or a migrate (messages in fields 1 and 2) is no answer,
// and must not pass for a bare accept with unknown fields.
func decodeAck(b []byte) (Ack, error) {
	inner := b
	err := fields(b, func(f field) error {
		if f.kind != protowire.BytesType {
			return nil
		}
		switch f.number {
		case fieldAck:
			inner = f.body
		case fieldLabel, fieldMigrate:
			return fmt.Errorf("%w: not an answer", ErrMessage)
		}
		return nil
	})
	if err != nil {
		return Ack{}, err
	}
	v, err := uints(inner, fieldDeny, fieldVerify)
	return Ack{Deny: v[fieldDeny] != 0, Verify: v[fieldVerify] != 0}, err
}

func decodeSwitched(b []byte) (Switched, error) {
	v, err := uints(b, fieldSent, fieldCancelled)
	if err != nil {
		return Switched{}, err
	}
	sent, counted := v[fieldSent]
	cancelled := v[fieldCancelled] != 0
	if counted == cancelled {
		return Switched{}, fmt.Errorf("%w: one of sent and cancelled", ErrMessage)
	}
	return Switched{Sent: sent, Cancelled: cancelled}, nil
}

func decodeHello(b []byte) (*Hello, error) {
	h, hasEpoch := &Hello{}, false
	err := fields(b, func(f field) error {
		switch {
		case f.number == fieldEpoch && f.kind == protowire.Fixed64Type:
			h.Epoch, hasEpoch = f.num, true
		case f.number == fieldConnection && f.kind == protowire.VarintType:
			h.Connection, h.Layered = f.num, true
		case f.number == fieldEpoch || f.number == fieldConnection:
			return fmt.Errorf("%w: field %d of a hello", ErrMessage, f.number)
		}
		return nil
	})
	if err == nil && !hasEpoch {
		err = fmt.Errorf("%w: no epoch", ErrMessage)
	}
	return h, err
}

// decodeControl decodes a message of a control substream. What is repeated may come packed.
func decodeControl(b []byte) (c Control, err error) {
	err = fields(b, func(f field) (err error) {
		switch {
		case f.number == fieldHello && f.kind == protowire.BytesType && c.Hello == nil:
			c.Hello, err = decodeHello(f.body)
		case f.number == fieldClosed && f.kind == protowire.VarintType:
			c.Closed = append(c.Closed, f.num)
		case f.number == fieldClosed && f.kind == protowire.BytesType:
			for rest := f.body; len(rest) > 0; {
				v, n := protowire.ConsumeVarint(rest)
				if n < 0 {
					return fmt.Errorf("%w: %w", ErrMessage, protowire.ParseError(n))
				}
				c.Closed, rest = append(c.Closed, v), rest[n:]
			}
		case f.number == fieldHello || f.number == fieldClosed:
			return fmt.Errorf("%w: field %d of a control message", ErrMessage, f.number)
		}
		return err
	})
	return c, err
}

// readMessage reads one message and not a byte more: what follows belongs to the inner
// negotiation or to the application.
func readMessage(r io.Reader) ([]byte, error) { return readAtMost(r, MaxMessage) }

func readAtMost(r io.Reader, max uint64) ([]byte, error) {
	var length uint64
	var one [1]byte
	for shift := 0; ; shift += 7 {
		if _, err := io.ReadFull(r, one[:]); err != nil {
			return nil, err
		}
		length |= uint64(one[0]&0x7f) << shift
		if one[0] < 0x80 {
			if one[0] == 0 && shift > 0 {
				return nil, fmt.Errorf("%w: length not minimal", ErrMessage)
			}
			break
		}
		if shift == 14 {
			return nil, fmt.Errorf("%w: length too long", ErrMessage)
		}
	}
	if length > max {
		return nil, fmt.Errorf("%w: %d bytes", ErrMessage, length)
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(r, body); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return body, nil
}

// read reads one message and decodes it.
func read[T any](r io.Reader, decode func([]byte) (T, error)) (T, error) {
	body, err := readMessage(r)
	if err != nil {
		var none T
		return none, err
	}
	return decode(body)
}
