package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"libp2p-stream-migration/interop/migration"
)

// protocolID is the application's protocol.
const protocolID = "/interop/1"

// command is any command; what a command does not have is nil or zero.
type command struct {
	Cmd    string          `json:"cmd"`
	Seq    json.RawMessage `json:"seq"`
	Addr   string          `json:"addr"`
	Peer   string          `json:"peer"`
	Conn   string          `json:"conn"`
	Stream string          `json:"stream"`
	Action string          `json:"action"`
	Bytes  *uint64         `json:"bytes"`
	Seed   *uint32         `json:"seed"`
	EOF    bool            `json:"eof"`
	Reset  string          `json:"reset"`
	Next   []string        `json:"next"`

	// Below the swarm.
	Layer    bool    `json:"layer"`
	Of       string  `json:"of"`
	Route    *uint64 `json:"route"`
	Unrouted bool    `json:"unrouted"`
	Quietly  bool    `json:"quietly"`
}

type peerProgram struct {
	hosts   *hosts
	streams *streams
	manager *migration.Manager
	out     *output

	mu       sync.Mutex // protects all below
	next     []string   // what to do with the Migrates to come
	released chan struct{}
}

func newPeer(f flags, out *output) (*peerProgram, error) {
	p := &peerProgram{streams: newStreams(), out: out, released: make(chan struct{})}
	p.manager = migration.New(migration.Config{
		Protocol: protocolID,
		Verify:   !f.noVerify,
		BareAck:  f.ack == "bare",
		Nested:   f.nested,
		Disabled: f.noMigration,
		Layer:    f.layer,
		Relayed:  isRelayed,
		Accept:   p.accepted,
		Decide:   p.decide,
		Event:    p.event,
	})
	var err error
	p.hosts, err = newHosts(f, out, func(h host.Host) { p.manager.Attach(h) })
	return p, err
}

func (p *peerProgram) accepted(s *migration.Stream) {
	event := object{
		"event": "accepted", "stream": p.streams.name(s).name, "peer": s.Peer().String(),
		"conn": p.hosts.nameOf(s.Conn()), "migratable": s.Migratable(),
	}
	p.belowTheSwarm(event, s)
	p.out.emit(event)
}

// belowTheSwarm says of a stream of the layer that it is one, and of which connection.
func (p *peerProgram) belowTheSwarm(o object, s *migration.Stream) {
	if !s.Layered() {
		return
	}
	o["layer"] = true
	if of := s.Of(); of != nil {
		o["of"] = p.hosts.nameOf(of)
	}
}

// addLink says what there is to know of a link. Epochs are text: not every reader of JSON has 64 bits.
func addLink(o object, l migration.Link) {
	o["link"], o["number"], o["epoch"], o["closed"] = l.State, l.Connection, fmt.Sprintf("%016x", l.Epoch), l.Closed
	if l.State == migration.Ready {
		o["remote_number"], o["remote_epoch"] = l.Remote, fmt.Sprintf("%016x", l.RemoteEpoch)
	}
}

func (p *peerProgram) linkEvent(e migration.Event) {
	line := object{"conn": p.hosts.nameOf(e.Conn)}
	switch e.Kind {
	case migration.LinkReady:
		line["event"] = "link_ready"
		addLink(line, e.Link)
	case migration.LinkPlain:
		line["event"], line["reason"] = "link_plain", e.Reason.Error()
		addLink(line, e.Link)
	case migration.ClosedRead:
		line["event"], line["numbers"] = "closed_read", e.Numbers
	case migration.RouteUnknown:
		line["event"], line["route"] = "route_unknown", e.Numbers[0]
	case migration.ConnectionClosed:
		line["event"], line["number"] = "connection_closed", e.Numbers[0]
	}
	p.out.emit(line)
}

func (p *peerProgram) event(e migration.Event) {
	if e.Stream == nil {
		p.linkEvent(e)
		return
	}
	line := object{"stream": p.streams.name(e.Stream).name}
	switch e.Kind {
	case migration.MigrateReceived:
		line["event"] = "migrate_received"
	case migration.Migrated:
		line["event"], line["initiator"] = "migrated", e.Initiator
		line["from"], line["to"] = p.hosts.nameOf(e.From), p.hosts.nameOf(e.To)
	case migration.MigrationFailed:
		line["event"], line["initiator"] = "migration_failed", e.Initiator
		line["reason"] = e.Reason.Error()
	}
	p.out.emit(line)
}

var decisions = map[string]migration.Decision{
	"accept": migration.Accept, "deny": migration.Deny, "ignore": migration.Ignore,
	"reset_before_ack": migration.ResetBeforeAck, "reset_after_ack": migration.ResetAfterAck,
	"hold": migration.Accept,
}

// decide takes the next of the answers; held is held until release.
func (p *peerProgram) decide(*migration.Stream) migration.Decision {
	p.mu.Lock()
	next, released := "accept", p.released
	if len(p.next) > 0 {
		next, p.next = p.next[0], p.next[1:]
	}
	p.mu.Unlock()
	if next == "hold" {
		<-released
	}
	return decisions[next]
}

func (p *peerProgram) setAnswers(next []string) error {
	for _, n := range next {
		if _, ok := decisions[n]; !ok {
			return badCommand("answer %q", n)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next = next
	return nil
}

func (p *peerProgram) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.released)
	p.released = make(chan struct{})
}

// dispatch runs a command. What must keep its order is queued before dispatch returns.
func (p *peerProgram) dispatch(c command, reply func(object, error)) {
	switch c.Cmd {
	case "write", "read", "close", "drop", "reset", "migrate":
		s, err := p.streams.get(c.Stream)
		if err != nil {
			reply(nil, err)
			return
		}
		p.streamCommand(c, s, reply)
	case "answer":
		reply(nil, p.setAnswers(c.Next))
	case "on_relayed":
		reply(nil, p.hosts.onRelayed(c.Action))
	case "release":
		p.release()
		reply(nil, nil)
	default:
		go func() { reply(p.networkCommand(c)) }()
	}
}

func (p *peerProgram) networkCommand(c command) (object, error) {
	ctx := context.Background()
	switch c.Cmd {
	case "listen":
		addrs, err := p.hosts.listen(ctx, c.Addr)
		return object{"addrs": addrs}, err
	case "dial":
		conn, err := p.hosts.dial(ctx, c.Addr)
		if err != nil {
			return nil, err
		}
		return object{"conn": p.hosts.nameOf(conn), "peer": conn.RemotePeer().String()}, nil
	case "connections":
		list := p.hosts.connections(c.Peer)
		for _, one := range list {
			if l, ok := p.manager.Link(p.hosts.known(one["conn"].(string))); ok {
				addLink(one, l)
			}
		}
		return object{"connections": list}, nil
	case "close_connection":
		conn, err := p.hosts.conn(c.Conn)
		if err != nil {
			return nil, err
		}
		return nil, conn.Close()
	case "hello":
		conn, err := p.hosts.conn(c.Conn)
		if err != nil {
			return nil, err
		}
		return nil, p.manager.Hello(conn)
	case "close_number":
		return nil, p.manager.CloseConnection(p.hosts.known(c.Conn), c.Quietly)
	case "open":
		conn, err := p.hosts.conn(c.Conn)
		if err != nil {
			return nil, err
		}
		if c.Peer != "" && c.Peer != conn.RemotePeer().String() {
			return nil, badCommand("connection %q is to another peer", c.Conn)
		}
		var s *migration.Stream
		if c.Of != "" && p.hosts.known(c.Of) == nil {
			return nil, badCommand("no connection %q", c.Of)
		}
		if c.Layer {
			s, err = p.manager.OpenThrough(ctx, conn, migration.Through{
				Of: p.hosts.known(c.Of), Route: c.Route, Unrouted: c.Unrouted,
			})
		} else {
			s, err = p.manager.Open(ctx, conn)
		}
		if err != nil {
			return nil, err
		}
		return object{"stream": p.streams.name(s).name, "migratable": s.Migratable()}, nil
	case "count":
		id, err := peer.Decode(c.Peer)
		if err != nil {
			return nil, badCommand("%w", err)
		}
		return object{"counts": p.hosts.counts.with(id)}, nil
	case "streams":
		list := []object{}
		for _, s := range p.streams.list() {
			one := object{
				"stream": s.name, "peer": s.Peer().String(), "opener": s.Opener(),
				"conn": p.hosts.nameOf(s.Conn()), "in_conn": p.hosts.nameOf(s.InConn()),
			}
			p.belowTheSwarm(one, s.Stream)
			if s.Migratable() {
				one["id"] = s.ID()
			}
			list = append(list, one)
		}
		return object{"streams": list}, nil
	}
	return nil, badCommand("command %q", c.Cmd)
}

func (p *peerProgram) streamCommand(c command, s *stream, reply func(object, error)) {
	// By default the opener writes with seed 1 and the acceptor with seed 2.
	ours, theirs := uint32(2), uint32(1)
	if s.Opener() {
		ours, theirs = 1, 2
	}
	if c.Seed != nil {
		ours, theirs = *c.Seed, *c.Seed
	}
	switch c.Cmd {
	case "write":
		if c.Bytes == nil {
			reply(nil, badCommand("no bytes"))
			return
		}
		s.writes.add(func() { reply(s.write(*c.Bytes, ours)) })
	case "read":
		if c.EOF == (c.Bytes != nil) {
			reply(nil, badCommand("one of bytes and eof"))
			return
		}
		var want uint64
		if !c.EOF {
			want = *c.Bytes
		}
		s.reads.add(func() { reply(s.readPattern(want, c.EOF, theirs)) })
	case "close":
		s.writes.add(func() { reply(nil, s.CloseWrite()) })
	case "drop":
		s.writes.add(func() {
			s.Release()
			p.streams.hide(s)
			reply(nil, nil)
		})
	case "reset":
		go func() {
			s.Reset()
			reply(nil, nil)
		}()
	case "migrate":
		go func() { reply(p.migrate(c, s)) }()
	}
}

func (p *peerProgram) migrate(c command, s *stream) (object, error) {
	var hooks migration.Hooks
	switch c.Reset {
	case "":
	case "before_ack":
		hooks.MigrateSent = s.Reset
	case "after_ack":
		hooks.AckRead = s.Reset
	default:
		return nil, badCommand("reset %q", c.Reset)
	}
	conn, err := p.hosts.conn(c.Conn)
	if err != nil {
		return nil, err
	}
	if conn.RemotePeer() != s.Peer() {
		return nil, badCommand("connection %q is to another peer", c.Conn)
	}
	start := time.Now()
	if err := s.Migrate(context.Background(), conn, hooks); err != nil {
		return nil, err
	}
	return object{"took_ms": float64(time.Since(start).Microseconds()) / 1000}, nil
}
