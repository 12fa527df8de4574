package migration

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/multiformats/go-multistream"
)

// Names of the protocol; the proof of concept has the slash (*Stream Migration Protocol ID*).
const (
	Name      = protocol.ID("/libp2p/stream-migration")
	NameSlash = Name + "/"
)

// past is a deadline that interrupts a Read or Write under way.
var past = time.Unix(1, 0)

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// leg is one substream on one connection.
type leg struct {
	network.Stream
	party party  // in whose table its IDs are
	pre   []byte // arrived already, comes before what the substream still has

	// Guarded by the Stream's mu.
	finSent     bool // our FIN is on its way
	eofAfterFin bool // the remote's EOF was read after our FIN was sent
	probed      bool // alive has been found out
	alive       bool // the remote had not let go of the leg when its EOF was read
}

// newLeg makes a leg above the swarm.
func newLeg(raw network.Stream) *leg {
	return &leg{Stream: raw, party: party{id: raw.Conn().RemotePeer()}}
}

func (l *leg) Read(p []byte) (int, error) {
	if len(l.pre) > 0 {
		n := copy(p, l.pre)
		l.pre = l.pre[n:]
		return n, nil
	}
	return l.Stream.Read(p)
}

// names are the protocol's names in the order in which we offer them.
func (m *Manager) names() []protocol.ID {
	if m.cfg.Nested {
		return []protocol.ID{NameSlash, Name}
	}
	return []protocol.ID{Name, NameSlash}
}

// openSubstream opens a substream on conn and negotiates one of the protocols on it. The context
// bounds both. Limited (relayed) connections will do: they are what one migrates away from.
func openSubstream(ctx context.Context, conn network.Conn, protocols []protocol.ID) (*leg, protocol.ID, error) {
	raw, err := conn.NewStream(network.WithAllowLimitedConn(ctx, "stream migration"))
	if err != nil {
		return nil, "", err
	}
	var name protocol.ID
	err = interruptible(ctx, raw, func() (err error) {
		name, err = multistream.SelectOneOf(protocols, raw)
		return err
	})
	if err != nil {
		raw.Reset()
		return nil, "", err
	}
	return newLeg(raw), name, nil
}

// openLeg opens a leg for a migration, up to where the Migrate goes.
func (m *Manager) openLeg(ctx context.Context, conn network.Conn, p party) (*leg, error) {
	if p.layered {
		return m.openLinkLeg(ctx, conn, p)
	}
	l, _, err := openSubstream(ctx, conn, m.names())
	if err != nil || !m.cfg.Nested {
		return l, err
	}
	// As the proof of concept: a label, and the prefix again inside the labelled stream.
	label := m.table.unusedID(conn.LocalPeer(), p)
	err = interruptible(ctx, l, func() error {
		if _, err := l.Write(Label{ID: label}.Encode()); err != nil {
			return err
		}
		return multistream.SelectProtoOrFail(NameSlash, &negotiation{l, l})
	})
	if err != nil {
		l.Reset()
		return nil, err
	}
	return l, nil
}

// interruptible runs f and makes reads and writes on the substream fail once ctx is over.
func interruptible(ctx context.Context, raw network.MuxedStream, f func() error) error {
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		raw.SetDeadline(past)
		close(interrupted)
	})
	err := f()
	if !stop() {
		<-interrupted
	}
	raw.SetDeadline(time.Time{})
	return err
}

// negotiation is what multistream wants. Its Close is called for a broken peer only, and what it
// closes is then reset by whoever sees the error.
type negotiation struct {
	io.Reader
	io.Writer
}

func (*negotiation) Close() error { return nil }
