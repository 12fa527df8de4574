// Package migration implements the libp2p stream migration protocol for go-libp2p, from its text
// alone (docs/protocol.md), as a foreign peer for the tests of a Rust implementation. Names in
// *italics* are that text's sections; rules are numbered as in docs/rules.md.
//
// The order in which to read it: codec.go (messages), ids.go, leg.go (one substream), table.go
// (who has which ID), manager.go (opening and accepting), stream.go (what the application holds),
// pump.go (the in side), initiate.go and respond.go (a migration's two roles), switch.go (what
// both do once it is agreed), layer.go (*Below the swarm*: control substreams and routes).
//
// What go-libp2p makes simpler than docs/legs.md says of rust-libp2p: a reset and a lost connection
// are errors on every kind of leg, never io.EOF, so an EOF is always a FIN that the remote's muxer
// sent; wakers cannot be lost; yamux pings and QUIC's idle timeout end a silent connection after
// about 40 s, so there is no probing of old connections here; and a connection does not close
// because its streams are gone, so the responder need not linger on its old leg.
package migration

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/multiformats/go-multistream"
)

// Errors of streams and migrations.
var (
	ErrReset         = errors.New("stream reset")
	ErrDenied        = errors.New("migration denied")
	ErrFailed        = errors.New("migration failed")
	ErrUnsupported   = errors.New("protocol not supported")
	ErrNotMigratable = errors.New("stream cannot be migrated")
)

// Decision is what to do with a Migrate.
type Decision int

// The decisions. Ignore means "try again later"; the resets are for tests.
const (
	Accept Decision = iota
	Deny
	Ignore
	ResetBeforeAck
	ResetAfterAck
)

// Event is something that happened to a stream or to a link. What does not apply is zero.
type Event struct {
	Kind      EventKind
	Stream    *Stream
	Initiator bool
	From, To  network.Conn
	Reason    error
	Conn      network.Conn // whose link it is, or on which it was said
	Link      Link
	Numbers   []uint64 // of connections
}

// EventKind says what happened.
type EventKind int

// The kinds of events.
const (
	MigrateReceived EventKind = iota
	Migrated
	MigrationFailed
	LinkReady
	LinkPlain        // for good, or Silent
	ClosedRead       // the remote says that connections of its are closed, or have never been
	RouteUnknown     // a leg for a connection of ours that is not there was dropped
	ConnectionClosed // since its counterpart is: ours that came with Conn
)

// Config configures a Manager. Zero values mean the defaults.
type Config struct {
	Protocol protocol.ID // the application's
	Verify   bool        // the verified switch
	BareAck  bool        // write the earlier revision's form
	Nested   bool        // initiate as the proof of concept does
	Disabled bool        // a peer that has never heard of the protocol
	Layer    bool        // below the swarm as well

	Relayed func(network.Conn) bool // says on which links Hello is said at once; default: on none

	Accept func(*Stream)          // gets the streams that the remote opened
	Decide func(*Stream) Decision // may block; default: accept
	Event  func(Event)            // must neither block nor call back

	AckTimeout    time.Duration // from the start to the answer; 10 s
	HoldTimeout   time.Duration // for a held Migrate; 8 s
	PrefixTimeout time.Duration // for the first message, and for the inner negotiation; 10 s
	HelloTimeout  time.Duration // for the other's Hello; 5 s
	Linger        time.Duration // for a released stream, and for those of a closed connection; 30 s
	MaxStreams    int           // labelled streams per peer; 16384
	MaxHeld       int           // held Migrates per peer; 64
	MaxRate       int           // Migrates per second per stream; 1000
	ReadAhead     int           // bytes per stream; 1 MiB
	ReadAheadPeer int           // bytes per peer; 64 MiB
}

func (c *Config) defaults() {
	def(&c.AckTimeout, 10*time.Second)
	def(&c.HoldTimeout, 8*time.Second)
	def(&c.PrefixTimeout, 10*time.Second)
	def(&c.HelloTimeout, 5*time.Second)
	def(&c.Linger, 30*time.Second)
	def(&c.MaxStreams, 16384)
	def(&c.MaxHeld, 64)
	def(&c.MaxRate, 1000)
	def(&c.ReadAhead, 1<<20)
	def(&c.ReadAheadPeer, 64<<20)
	if c.Accept == nil {
		c.Accept = func(s *Stream) { s.Reset() }
	}
	if c.Decide == nil {
		c.Decide = func(*Stream) Decision { return Accept }
	}
	if c.Event == nil {
		c.Event = func(Event) {}
	}
	if c.Relayed == nil {
		c.Relayed = func(network.Conn) bool { return false }
	}
}

func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Manager is the protocol for one peer identity. It works on connections, whatever swarm they
// belong to, so it may span several hosts with the same key.
type Manager struct {
	cfg   Config
	table *table
	layer *layer // nil: there is none

	// InUse counts legs that were aborted because they named an ID in use, Violations streams
	// that were aborted because the remote broke the protocol.
	InUse, Violations atomic.Uint64
}

// New makes a Manager.
func New(cfg Config) *Manager {
	cfg.defaults()
	m := &Manager{cfg: cfg, table: newTable(cfg.MaxStreams)}
	if cfg.Layer {
		m.layer = newLayer(m)
	}
	return m
}

// Attach makes the manager serve a host: the application's protocol plain, for peers without the
// prefix, and behind the prefix under both names (*Opening*).
func (m *Manager) Attach(h host.Host) {
	h.SetStreamHandler(m.cfg.Protocol, func(raw network.Stream) {
		s := m.newStream(newLeg(raw), false, false)
		s.start()
		m.cfg.Accept(s)
	})
	if m.cfg.Disabled {
		return
	}
	for _, name := range m.names() {
		h.SetStreamHandler(name, func(raw network.Stream) { m.accept(newLeg(raw)) })
	}
	if m.layer != nil {
		m.layer.attach(h)
	}
	h.Network().Notify(&network.NotifyBundle{
		DisconnectedF: func(_ network.Network, c network.Conn) {
			for _, s := range m.table.all() {
				s.connectionLost(c)
			}
		},
	})
}

// Open opens a stream of the application's protocol. It offers [stream-migration, P] in one
// negotiation, so a peer without the protocol costs no failed stream (*Opening*).
func (m *Manager) Open(ctx context.Context, conn network.Conn) (*Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, m.cfg.PrefixTimeout)
	defer cancel()
	var offer []protocol.ID
	if !m.cfg.Disabled {
		offer = m.names()
	}
	l, chosen, err := openSubstream(ctx, conn, append(offer, m.cfg.Protocol))
	if err != nil {
		return nil, unsupported(err)
	}
	migratable := chosen != m.cfg.Protocol
	s := m.newStream(l, true, migratable)
	if !migratable {
		s.start()
		return s, nil
	}
	return m.openLabelled(ctx, s, Label{})
}

// openLabelled labels a new stream of ours, and negotiates the application's protocol on it.
func (m *Manager) openLabelled(ctx context.Context, s *Stream, label Label) (_ *Stream, err error) {
	l := s.out
	if s.id, err = m.table.reserve(s.local, s.party, s); err != nil {
		l.Reset()
		return nil, err
	}
	label.ID = s.id
	err = interruptible(ctx, l, func() error {
		_, err := l.Write(label.Encode())
		return err
	})
	if err != nil {
		s.abort(fmt.Errorf("%w: %w", ErrReset, err))
		return nil, err
	}
	s.start()
	// On top of the migratable stream, so that a migration during it is nothing special.
	err = s.within(ctx, func() error {
		return multistream.SelectProtoOrFail(m.cfg.Protocol, &negotiation{s, s})
	})
	if err != nil {
		s.Reset()
		return nil, unsupported(err)
	}
	return s, nil
}

func unsupported(err error) error {
	if errors.Is(err, multistream.ErrNotSupported[protocol.ID]{}) {
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return err
}

// accept serves a leg that the remote opened and on which the prefix has been negotiated.
func (m *Manager) accept(l *leg) {
	ctx, cancel := context.WithTimeout(context.Background(), m.cfg.PrefixTimeout)
	defer cancel()
	label, migrate, err := readFirst(ctx, l)
	switch {
	case err != nil:
		l.Reset()
	case migrate != nil:
		m.respond(l, *migrate)
	default:
		m.labelled(ctx, l, *label)
	}
}

func readFirst(ctx context.Context, l *leg) (label *Label, migrate *Migrate, err error) {
	err = interruptible(ctx, l, func() error {
		body, err := readMessage(l)
		if err != nil {
			return err
		}
		label, migrate, err = decodeFirst(body)
		return err
	})
	return label, migrate, err
}

// labelled negotiates what a labelled stream carries: the application's protocol, or, from a
// proof of concept, the prefix again and then a Migrate; but not on a stream with a route, where
// whatever has a name is the swarm's.
func (m *Manager) labelled(ctx context.Context, l *leg, label Label) {
	s := m.newStream(l, false, true)
	s.id = label.ID
	offer := append(m.names(), m.cfg.Protocol)
	if l.party.layered && label.Routed {
		if s.of = m.layer.route(l.Conn(), label.Route); s.of == nil {
			l.Reset()
			return
		}
		offer = offer[len(offer)-1:]
	}
	if err := m.table.put(s.party, label.ID, s); err != nil {
		if errors.Is(err, errInUse) {
			m.InUse.Add(1)
		}
		l.Reset()
		return
	}
	s.start()
	var chosen protocol.ID
	err := s.within(ctx, func() (err error) {
		mux := multistream.NewMultistreamMuxer[protocol.ID]()
		for _, name := range offer {
			mux.AddHandler(name, nil)
		}
		chosen, _, err = mux.Negotiate(&negotiation{s, s})
		return err
	})
	switch {
	case err != nil:
		s.Reset()
	case chosen == m.cfg.Protocol:
		m.cfg.Accept(s)
	default:
		// The label names nothing from here on: the Migrate names the leg, with the same ID
		// or with another.
		if l = s.detach(); l == nil {
			return
		}
		_, migrate, err := readFirst(ctx, l)
		if err != nil || migrate == nil {
			l.Reset() // a prefix inside a prefix is refused otherwise
			return
		}
		m.respond(l, *migrate)
	}
}

// connectionLost is for what no read under way would notice: a new leg is not read before the old
// one's EOF, and nothing is read after an EOF (*Failure*).
func (s *Stream) connectionLost(c network.Conn) {
	s.mu.Lock()
	lost := s.mig == nil && s.eof && !s.writeEnded() && s.out.Conn() == c ||
		s.mig != nil && s.mig.phase == agreed && s.mig.new.Conn() == c
	s.mu.Unlock()
	if lost {
		s.abort(fmt.Errorf("%w: connection lost", ErrReset))
	}
}
