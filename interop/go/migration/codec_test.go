package migration

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/multiformats/go-multistream"
)

// vector is an entry of interop/vectors/messages.json. IDs are strings, so that JavaScript can
// read 2^64-1.
type vector struct {
	Kind       string // "" or "prefix"
	Protocol   string // of a prefix
	Message    string
	ID         *string
	Route      *string
	From       *string
	Sent       *string
	Epoch      *string
	Connection *string
	Closed     []string
	Verify     bool
	Deny       bool
	Wrapped    bool
	Cancelled  bool
	Hex        string
}

func number(t *testing.T, s *string) uint64 {
	t.Helper()
	if s == nil {
		t.Fatal("a number is missing")
	}
	n, err := strconv.ParseUint(*s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestVectors(t *testing.T) {
	file, err := os.ReadFile("../../vectors/messages.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []vector
	if err := json.Unmarshal(file, &vectors); err != nil {
		t.Fatal(err)
	}
	count := make(map[string]int)
	for _, v := range vectors {
		count[v.Kind+v.Message]++
		want, err := hex.DecodeString(v.Hex)
		if err != nil {
			t.Fatal(err)
		}
		if v.Kind == "prefix" {
			got := new(bytes.Buffer)
			// The answers that a responder would give, so that the initiator goes on.
			answers := selects("/multistream/1.0.0", v.Protocol)
			if err := multistream.SelectProtoOrFail(v.Protocol, &negotiation{bytes.NewReader(answers), got}); err != nil {
				t.Fatal(err)
			}
			got.Write(encode(t, v))
			if !bytes.Equal(got.Bytes(), want) {
				t.Errorf("%+v: sent %x", v, got)
			}
			continue
		}
		if got := encode(t, v); !bytes.Equal(got, want) {
			t.Errorf("%+v: encoded as %x", v, got)
		}
		decode(t, v, want)
	}
	for kind, least := range map[string]int{
		"label": 12, "migrate": 24, "ack": 8, "switched": 12, "control": 10, "prefixlabel": 1, "prefixmigrate": 1, "prefixcontrol": 1,
	} {
		if count[kind] < least {
			t.Errorf("%d vectors of %q, want %d", count[kind], kind, least)
		}
	}
}

// selects is multistream-select's form of some strings.
func selects(list ...string) (b []byte) {
	for _, s := range list {
		b = append(append(b, byte(len(s)+1)), s+"\n"...)
	}
	return b
}

func label(t *testing.T, v vector) Label {
	l := Label{ID: number(t, v.ID), Routed: v.Route != nil}
	if l.Routed {
		l.Route = number(t, v.Route)
	}
	return l
}

func control(t *testing.T, v vector) (c Control) {
	if v.Epoch != nil {
		c.Hello = &Hello{Epoch: number(t, v.Epoch), Layered: v.Connection != nil}
		if c.Hello.Layered {
			c.Hello.Connection = number(t, v.Connection)
		}
	}
	for _, n := range v.Closed {
		c.Closed = append(c.Closed, number(t, &n))
	}
	return c
}

func encode(t *testing.T, v vector) []byte {
	switch v.Message {
	case "label":
		return label(t, v).Encode()
	case "control":
		return control(t, v).Encode()
	case "migrate":
		return Migrate{ID: number(t, v.ID), From: number(t, v.From), Verify: v.Verify}.Encode()
	case "ack":
		return Ack{Deny: v.Deny, Verify: v.Verify}.Encode(!v.Wrapped)
	case "switched":
		if v.Cancelled {
			return Switched{Cancelled: true}.Encode()
		}
		return Switched{Sent: number(t, v.Sent)}.Encode()
	}
	t.Fatalf("message %q", v.Message)
	return nil
}

// decode also checks that nothing after the message is read.
func decode(t *testing.T, v vector, wire []byte) {
	r := bytes.NewReader(append(wire, "rest"...))
	body, err := readMessage(r)
	if err != nil {
		t.Fatalf("%+v: %v", v, err)
	}
	if rest, _ := io.ReadAll(r); string(rest) != "rest" {
		t.Errorf("%+v: %q is left", v, rest)
	}
	ok := false
	switch v.Message {
	case "label":
		var l *Label
		l, _, err = decodeFirst(body)
		ok = l != nil && *l == label(t, v)
	case "control":
		var c Control
		c, err = decodeControl(body)
		ok = reflect.DeepEqual(c, control(t, v))
	case "migrate":
		var m *Migrate
		_, m, err = decodeFirst(body)
		ok = m != nil && *m == Migrate{ID: number(t, v.ID), From: number(t, v.From), Verify: v.Verify}
	case "ack":
		var a Ack
		a, err = decodeAck(body)
		ok = a == Ack{Deny: v.Deny, Verify: v.Verify}
	case "switched":
		var s Switched
		s, err = decodeSwitched(body)
		ok = s.Cancelled == v.Cancelled && (v.Cancelled || s.Sent == number(t, v.Sent))
	}
	if err != nil || !ok {
		t.Errorf("%+v: decoded wrongly, %v", v, err)
	}
}

// Bytes that *Stream Migration Messages* names.
func TestFormsOfTheAck(t *testing.T) {
	for _, c := range []struct {
		ack  Ack
		bare bool
		want string
	}{{Ack{}, false, "\x02\x1a\x00"}, {Ack{}, true, "\x00"}, {Ack{Deny: true}, true, "\x02\x08\x01"}} {
		if got := c.ack.Encode(c.bare); string(got) != c.want {
			t.Errorf("%+v: %x", c, got)
		}
	}
}

func TestBadMessages(t *testing.T) {
	first := func(b []byte) error { _, _, err := decodeFirst(b); return err }
	ack := func(b []byte) error { _, err := decodeAck(b); return err }
	switched := func(b []byte) error { _, err := decodeSwitched(b); return err }
	control := func(b []byte) error { _, err := decodeControl(b); return err }
	for _, c := range []struct {
		name   string
		decode func([]byte) error
		body   string
	}{
		{"empty", first, ""},
		{"label without id", first, "\x0a\x00"},
		{"migrate without id", first, "\x12\x02\x10\x01"},
		{"migrate without from", first, "\x12\x02\x08\x01"},
		{"ack as the first message", first, "\x1a\x00"},
		{"label as a varint", first, "\x08\x01"},
		{"id as bytes", first, "\x0a\x03\x0a\x01a"},
		{"cut", first, "\x0a\x02\x08"},
		{"label as an answer", ack, "\x0a\x02\x08\x01"},
		{"migrate as an answer", ack, "\x12\x04\x08\x01\x10\x02"},
		{"route as bytes", first, "\x0a\x06\x08\x01\xd2\x3e\x01a"},
		{"hello without epoch", control, "\x0a\x02\x18\x01"},
		{"epoch as a varint", control, "\x0a\x02\x08\x01"},
		{"hello as a varint", control, "\x08\x01"},
		{"hello twice", control, strings.Repeat("\x0a\x09\x0912345678", 2)},
		{"connection as bytes", control, "\x0a\x0c\x0912345678\x1a\x01a"},
		{"closed as a fixed32", control, "\x2d1234"},
		{"closed, packed and cut", control, "\x2a\x01\x80"},
		{"neither sent nor cancelled", switched, ""},
		{"both", switched, "\x08\x01\x10\x01"},
		{"not cancelled", switched, "\x10\x00"},
	} {
		if err := c.decode([]byte(c.body)); !errors.Is(err, ErrMessage) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestUnknownFieldsAreSkipped(t *testing.T) {
	// Field 15 of every wire type before, inside and after.
	unknown := "\x78\x01" + "\x79abcdefgh" + "\x7a\x02hi" + "\x7b\x78\x05\x7c" + "\x7dabcd"
	inner := unknown + "\x08\x07" + unknown
	label, _, err := decodeFirst([]byte(unknown + "\x0a" + string(rune(len(inner))) + inner + unknown))
	if err != nil || label.ID != 7 {
		t.Error(label, err)
	}
	if a, err := decodeAck([]byte(unknown + "\x08\x01")); err != nil || !a.Deny {
		t.Error(a, err)
	}
}

// What goes between two layers (*Below the swarm*).
func TestControlMessages(t *testing.T) {
	label := Label{ID: 5, Route: 0, Routed: true}
	if got := label.Encode(); string(got) != "\x07\x0a\x05\x08\x05\xd0\x3e\x00" {
		t.Errorf("%x", got)
	}
	if got, _, err := decodeFirst(label.Encode()[1:]); err != nil || *got != label {
		t.Error(got, err)
	}
	// A Migrate knows nothing of routes.
	if _, m, err := decodeFirst([]byte("\x12\x07\x08\x07\x10\x05\xd0\x3e\x09")); err != nil || *m != (Migrate{ID: 7, From: 5}) {
		t.Error(m, err)
	}
	unknown := "\x78\x01" + "\x79abcdefgh" + "\x7a\x02hi" + "\x7b\x78\x05\x7c" + "\x7dabcd"
	for _, c := range []struct {
		control Control
		wire    string // its only form if one is given
		body    string
	}{
		{control: Control{}, wire: "\x00"},
		{control: Control{Hello: &Hello{Epoch: 1}}, wire: "\x0b\x0a\x09\x09\x01\x00\x00\x00\x00\x00\x00\x00"},
		{control: Control{Hello: &Hello{Epoch: 1 << 63, Layered: true}}, wire: "\x0d\x0a\x0b\x09\x00\x00\x00\x00\x00\x00\x00\x80\x18\x00"},
		{control: Control{Closed: []uint64{0, 300}}, wire: "\x05\x28\x00\x28\xac\x02"},
		{control: Control{Closed: []uint64{0, 300}}, body: "\x2a\x03\x00\xac\x02"},
		{control: Control{Hello: &Hello{Epoch: 1, Connection: 9, Layered: true}, Closed: []uint64{2}},
			body: "\x28\x02" + unknown + "\x0a\x23\x18\x09" + unknown + "\x09\x01\x00\x00\x00\x00\x00\x00\x00"},
	} {
		if c.wire != "" {
			if got := c.control.Encode(); string(got) != c.wire {
				t.Errorf("%+v: encoded as %x", c.control, got)
			}
			c.body = c.wire[1:]
		}
		got, err := decodeControl([]byte(c.body))
		same := (got.Hello == nil) == (c.control.Hello == nil) && slices.Equal(got.Closed, c.control.Closed)
		if err != nil || !same || got.Hello != nil && *got.Hello != *c.control.Hello {
			t.Errorf("%x: decoded as %+v, %+v, %v", c.body, got, got.Hello, err)
		}
	}
}

func TestLengths(t *testing.T) {
	for _, c := range []struct {
		name, wire string
		want       error
	}{
		{"at the cap", "\x80\x02" + string(make([]byte, MaxMessage)), nil},
		{"above the cap", "\x81\x02" + string(make([]byte, MaxMessage+1)), ErrMessage},
		{"enormous", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", ErrMessage},
		{"not minimal", "\x80\x00", ErrMessage},
		{"nothing", "", io.EOF},
		{"half a length", "\x80", io.EOF},
		{"half a body", "\x02a", io.ErrUnexpectedEOF},
		{"no body", "\x02", io.ErrUnexpectedEOF},
	} {
		if _, err := readMessage(bytes.NewReader([]byte(c.wire))); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestIDsAndTheHashRule(t *testing.T) {
	if a, b := streamID(5, "A", "B"), streamID(5, "B", "A"); a != 10 || b != 11 {
		t.Error(a, b)
	}
	// SHA-256("AB") ends in 0x53: odd, so the higher peer. The spec's example is wrong.
	if d := designated("A", "B"); d != "B" {
		t.Error(d)
	}
	if d := designated("B", "A"); d != "B" {
		t.Error(d)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("\x0a\x02\x08\x01"))
	f.Add([]byte("\x12\x04\x08\x01\x10\x02"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if label, migrate, err := decodeFirst(b); err == nil && (label == nil) == (migrate == nil) {
			t.Error("one of two")
		}
		decodeAck(b)
		decodeSwitched(b)
		decodeControl(b)
		readMessage(bytes.NewReader(b))
	})
}
