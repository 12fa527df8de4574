package migration

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/multiformats/go-multistream"
)

// Names of the protocols between two layers (*Below the swarm*).
const (
	ControlName = Name + "/control/1.0.0"
	LinkName    = Name + "/link/1.0.0"
)

// ErrNotReady is the error of opening through a layer that is not there.
var ErrNotReady = errors.New("link is not ready")

var (
	errLost   = errors.New("connection lost")
	errNoRoom = errors.New("no layer there")
	errSilent = errors.New("no Hello in time")
)

// LinkState is what a link is good for.
type LinkState string

// The states. Pending: nothing has been said yet, or not by both. Silent: the other side has let its
// time go by, and may still become Ready. Plain is for good.
const (
	Pending LinkState = "pending"
	Silent  LinkState = "silent"
	Ready   LinkState = "ready"
	Plain   LinkState = "plain"
)

// Link is what there is to know of a link.
type Link struct {
	State              LinkState
	Epoch, RemoteEpoch uint64
	// The numbers of the connection that came with the link, ours and the remote's.
	Connection, Remote uint64
	Closed             bool // our connection is
}

// layer is the wire of *Below the swarm*, for a peer without virtual connections: its links are its
// connections. A connection that came with a link outlives it all the same, as a number that labels
// may name, for as long as there is another link to the same process of the peer.
type layer struct {
	m     *Manager
	epoch uint64

	mu    sync.Mutex // protects all below, and the links; the Stream's mu is never taken under it
	next  uint64     // number of a connection. From 0, which is one like any other
	links map[network.Conn]*link
}

// link is a connection of go-libp2p, and the connection that came with it.
type link struct {
	conn   network.Conn
	number uint64

	writing sync.Mutex // of messages after the Hello; taken before mu, never under it

	// Guarded by the layer's mu.
	state        LinkState
	decided      chan struct{}  // closed when the state is Ready or Plain
	asked        bool           // our Hello is on its way
	out          network.Stream // our control substream, once the Hello is written
	in           network.Stream // theirs
	hello        *Hello         // theirs
	gone         bool           // the link, not its connection
	closed       bool           // its connection
	theirsClosed bool           // its counterpart
}

func newLayer(m *Manager) *layer {
	var epoch [8]byte
	rand.Read(epoch[:]) // never fails
	return &layer{m: m, epoch: binary.LittleEndian.Uint64(epoch[:]), links: make(map[network.Conn]*link)}
}

func (y *layer) attach(h host.Host) {
	h.SetStreamHandler(ControlName, y.control)
	h.SetStreamHandler(LinkName, y.serve)
	h.Network().Notify(&network.NotifyBundle{
		ConnectedF:    func(_ network.Network, c network.Conn) { y.connected(c) },
		DisconnectedF: func(_ network.Network, c network.Conn) { y.disconnected(c) },
	})
}

func (y *layer) connected(c network.Conn) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.link(c)
	y.occasions(c.RemotePeer())
}

// disconnected forgets the link, and the connections that have no link left.
func (y *layer) disconnected(c network.Conn) {
	y.mu.Lock()
	defer y.mu.Unlock()
	l := y.links[c]
	if l == nil {
		return
	}
	l.gone = true
	if l.state != Ready {
		l.settle(Plain)
	}
	for _, o := range y.links {
		if o.gone && len(y.readyOf(o)) == 0 {
			delete(y.links, o.conn)
		}
	}
}

// link is called under mu. What comes up after its connection has gone is not kept.
func (y *layer) link(c network.Conn) *link {
	l := y.links[c]
	if l == nil {
		l = &link{conn: c, number: y.next, state: Pending, decided: make(chan struct{})}
		y.next++
		if !c.IsClosed() {
			y.links[c] = l
		}
	}
	return l
}

// readyOf returns the ready links to the process that has said Hello on l. Called under mu.
func (y *layer) readyOf(l *link) (list []*link) {
	for _, o := range y.links {
		if o.state == Ready && !o.gone && o.party() == l.party() {
			list = append(list, o)
		}
	}
	return list
}

// party is called under mu. Without a Hello it is none of the layer's.
func (l *link) party() party {
	p := party{id: l.conn.RemotePeer()}
	if l.hello != nil {
		p.layered, p.epoch = true, l.hello.Epoch
	}
	return p
}

// settle is called under mu.
func (l *link) settle(state LinkState) {
	if l.state == Pending || l.state == Silent {
		close(l.decided)
	}
	l.state = state
}

// occasions says Hello to a peer wherever there is a reason now: the link is relayed, the other side
// has said it there, or another of the peer's links is ready. Called under mu.
func (y *layer) occasions(p peer.ID) {
	ready := false
	for _, l := range y.links {
		ready = ready || l.conn.RemotePeer() == p && l.state == Ready && !l.gone
	}
	for _, l := range y.links {
		if l.conn.RemotePeer() == p && (ready || l.hello != nil || y.m.cfg.Relayed(l.conn)) {
			y.sayOnce(l)
		}
	}
}

// sayOnce is called under mu.
func (y *layer) sayOnce(l *link) {
	if !l.asked && l.state == Pending {
		l.asked = true
		go y.say(l)
	}
}

// Hello says Hello on a link for which the protocol has no occasion yet. For tests.
func (m *Manager) Hello(c network.Conn) error {
	if m.layer == nil {
		return ErrNotReady
	}
	m.layer.mu.Lock()
	defer m.layer.mu.Unlock()
	m.layer.sayOnce(m.layer.link(c))
	return nil
}

// say opens our control substream. Hello leaves in one flight with the proposal.
func (y *layer) say(l *link) {
	ctx, cancel := context.WithTimeout(context.Background(), y.m.cfg.HelloTimeout)
	defer cancel()
	raw, err := l.conn.NewStream(network.WithAllowLimitedConn(ctx, "stream migration"))
	if err != nil {
		y.plain(l, err)
		return
	}
	lazy := multistream.NewMSSelect(raw, ControlName)
	hello := Control{Hello: &Hello{Epoch: y.epoch, Connection: l.number, Layered: true}}
	raw.SetWriteDeadline(time.Now().Add(y.m.cfg.HelloTimeout))
	if _, err := lazy.Write(hello.Encode()); err != nil {
		raw.Reset()
		y.plain(l, err)
		return
	}
	time.AfterFunc(y.m.cfg.HelloTimeout, func() { y.silent(l) })
	y.mu.Lock()
	l.out = raw
	y.update(l)
	y.mu.Unlock()
	if _, err := lazy.Read(nil); err != nil { // nothing waits for the answer
		raw.Reset()
		y.plain(l, unsupported(err))
	}
}

// silent is when the other side should have said Hello.
func (y *layer) silent(l *link) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if l.state == Pending && !l.gone {
		l.state = Silent
		y.m.cfg.Event(Event{Kind: LinkPlain, Conn: l.conn, Link: y.describe(l), Reason: errSilent})
	}
}

// update makes a link ready when both have said Hello. Called under mu.
func (y *layer) update(l *link) {
	switch {
	case l.state == Plain || l.out == nil || l.hello == nil:
	case !l.hello.Layered:
		y.plainLocked(l, errNoRoom)
	case l.state != Ready:
		l.settle(Ready)
		y.m.cfg.Event(Event{Kind: LinkReady, Conn: l.conn, Link: y.describe(l)})
		y.occasions(l.conn.RemotePeer())
	}
}

func (y *layer) plain(l *link, why error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.plainLocked(l, why)
}

// plainLocked makes a link plain for good. Streams that are on it stay. Called under mu.
func (y *layer) plainLocked(l *link, why error) {
	if l.state == Plain || l.gone || l.conn.IsClosed() { // then it has gone, and more is not known
		return
	}
	l.settle(Plain)
	y.m.cfg.Event(Event{Kind: LinkPlain, Conn: l.conn, Link: y.describe(l), Reason: why})
}

// control reads a control substream of the other side's.
func (y *layer) control(raw network.Stream) {
	defer raw.Reset()
	y.mu.Lock()
	l := y.link(raw.Conn())
	if first := l.in; first != nil {
		go first.Reset() // a second one replaces the first
	}
	l.in = raw
	y.mu.Unlock()
	raw.SetReadDeadline(time.Now().Add(y.m.cfg.HelloTimeout))
	for first := true; ; first = false {
		body, err := readAtMost(raw, maxControl)
		var c Control
		if err == nil {
			c, err = decodeControl(body)
		}
		if err == nil && (c.Hello != nil) != first {
			err = fmt.Errorf("%w: a hello that is absent, or comes again", ErrMessage)
		}
		if !y.said(l, raw, c, err) {
			return
		}
		raw.SetReadDeadline(noDeadline)
	}
}

// said takes what has been read from a control substream, and says whether to read on.
func (y *layer) said(l *link, raw network.Stream, c Control, err error) bool {
	y.mu.Lock()
	defer y.mu.Unlock()
	if err == nil && c.Hello != nil && l.hello != nil && *c.Hello != *l.hello {
		err = fmt.Errorf("%w: another hello than before", ErrMessage)
	}
	switch {
	case l.in != raw: // replaced
		return false
	case errors.Is(err, ErrMessage):
		y.m.Violations.Add(1)
		if l.state != Ready {
			y.plainLocked(l, err)
		}
		return false
	case err != nil: // its end, or no Hello, for which the link has its own clock
		return false
	case c.Hello != nil && l.state == Plain: // for good
		return false
	case c.Hello != nil:
		l.hello = c.Hello
		y.occasions(l.conn.RemotePeer())
		y.update(l)
	}
	if len(c.Closed) > 0 {
		y.theirsClosed(l, c.Closed)
	}
	return true
}

// theirsClosed closes the counterparts of what the remote has closed. Called under mu.
func (y *layer) theirsClosed(l *link, numbers []uint64) {
	y.m.cfg.Event(Event{Kind: ClosedRead, Conn: l.conn, Numbers: numbers})
	for _, o := range y.links {
		if !o.theirsClosed && o.party() == l.party() && o.hello.Layered && slices.Contains(numbers, o.hello.Connection) {
			o.theirsClosed = true
			go y.windUp(o)
		}
	}
}

// windUp closes our connection once the streams of it have been read to their end, for 30 s at most.
func (y *layer) windUp(l *link) {
	const step = 20 * time.Millisecond
	for end := time.Now().Add(y.m.cfg.Linger); time.Now().Before(end) && y.m.reading(l); time.Sleep(step) {
	}
	for _, s := range y.m.table.all() {
		if s.of == l {
			s.abort(fmt.Errorf("%w: its connection was closed", ErrReset))
		}
	}
	if y.close(l, false) {
		y.m.cfg.Event(Event{Kind: ConnectionClosed, Conn: l.conn, Numbers: []uint64{l.number}})
	}
}

// reading says whether a stream of the connection has not been read to its end.
func (m *Manager) reading(l *link) bool {
	for _, s := range m.table.all() {
		if s.of == l {
			s.mu.Lock()
			open := !s.eof && s.err == nil
			s.mu.Unlock()
			if open {
				return true
			}
		}
	}
	return false
}

// close closes the connection that came with a link, not the link, and says so wherever the other
// side hears it. It says whether it was open.
func (y *layer) close(l *link, quietly bool) bool {
	y.mu.Lock()
	was := l.closed
	l.closed = true
	tell := y.readyOf(l)
	y.mu.Unlock()
	if was {
		return false
	}
	for _, o := range tell {
		if !quietly {
			go y.sayClosed(o, l.number)
		}
	}
	return true
}

// sayClosed says on a link that connections of ours are closed, or have never been.
func (y *layer) sayClosed(l *link, numbers ...uint64) {
	y.mu.Lock()
	out := l.out
	y.mu.Unlock()
	if out == nil {
		return
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	out.SetWriteDeadline(time.Now().Add(y.m.cfg.HelloTimeout))
	out.Write(Control{Closed: numbers}.Encode())
}

// CloseConnection closes the connection that came with c as a swarm would, and not the link. Quietly:
// without a word, so that labels for it still come. For tests.
func (m *Manager) CloseConnection(c network.Conn, quietly bool) error {
	if m.layer == nil {
		return ErrNotReady
	}
	m.layer.mu.Lock()
	l := m.layer.links[c]
	m.layer.mu.Unlock()
	if l == nil || !m.layer.close(l, quietly) {
		return errLost
	}
	return nil
}

// route returns of whose connection a stream is that has come with a label on c. If there is no such
// connection it says so, and returns nil. The Hello of the link with which that connection came may
// be behind the label, so it is enough that ours has been said there.
func (y *layer) route(c network.Conn, number uint64) *link {
	y.mu.Lock()
	defer y.mu.Unlock()
	l := y.link(c)
	for _, o := range y.links {
		if o.number == number && o.conn.RemotePeer() == c.RemotePeer() && o.asked && !o.closed && o.state != Plain &&
			(o.hello == nil || o.party() == l.party()) {
			return o
		}
	}
	y.m.cfg.Event(Event{Kind: RouteUnknown, Conn: c, Numbers: []uint64{number}})
	go y.sayClosed(l, number)
	return nil
}

// serve serves a leg with the link's prefix. The link may be ready for the other side before it is
// for ours, since its Hello is on a substream of its own: so that is waited for.
func (y *layer) serve(raw network.Stream) {
	y.mu.Lock()
	l := y.link(raw.Conn())
	y.mu.Unlock()
	late := time.NewTimer(y.m.cfg.PrefixTimeout)
	defer late.Stop()
	select {
	case <-l.decided:
	case <-late.C:
	}
	p, err := y.ready(raw.Conn())
	if err != nil {
		raw.Reset()
		return
	}
	y.m.accept(&leg{Stream: raw, party: p})
}

// ready says with whom a link is ready.
func (y *layer) ready(c network.Conn) (party, error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	l := y.links[c]
	if l == nil || l.gone || l.state != Ready {
		return party{}, ErrNotReady
	}
	return l.party(), nil
}

// openLinkLeg opens a leg with the link's prefix, up to where the first message goes.
func (m *Manager) openLinkLeg(ctx context.Context, c network.Conn, p party) (*leg, error) {
	if now, err := m.layer.ready(c); err != nil || now != p {
		return nil, errors.Join(ErrNotReady, err)
	}
	l, _, err := openSubstream(ctx, c, []protocol.ID{LinkName})
	if err != nil {
		return nil, unsupported(err)
	}
	l.party = p
	return l, nil
}

// Through says of which connection a stream is that is opened through the layer.
type Through struct {
	Of       network.Conn // the one that came with this; default: with the link
	Route    *uint64      // this number, whatever the remote has said. For tests
	Unrouted bool         // of none: one of the application's own
}

// OpenThrough opens a stream of the application's protocol through the layer, on that link.
func (m *Manager) OpenThrough(ctx context.Context, c network.Conn, t Through) (*Stream, error) {
	if m.layer == nil {
		return nil, ErrNotReady
	}
	ctx, cancel := context.WithTimeout(ctx, m.cfg.PrefixTimeout)
	defer cancel()
	p, err := m.layer.ready(c)
	if err != nil {
		return nil, err
	}
	if t.Of == nil {
		t.Of = c
	}
	of, label, err := m.layer.label(t, p)
	if err != nil {
		return nil, err
	}
	l, err := m.openLinkLeg(ctx, c, p)
	if err != nil {
		return nil, err
	}
	s := m.newStream(l, true, true)
	s.of = of
	return m.openLabelled(ctx, s, label)
}

// label makes the label of a stream of ours, but for its ID. The route is what the remote has said on
// the link with which our connection came; it means nothing to another process.
func (y *layer) label(t Through, p party) (*link, Label, error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	of := y.links[t.Of]
	switch {
	case t.Unrouted:
		return nil, Label{}, nil
	case of == nil || of.party() != p || !of.hello.Layered || of.closed:
		return nil, Label{}, fmt.Errorf("%w: no such connection there", ErrNotReady)
	case t.Route != nil:
		return of, Label{Route: *t.Route, Routed: true}, nil
	case of.theirsClosed:
		return nil, Label{}, fmt.Errorf("%w: the connection is closed there", ErrNotReady)
	}
	return of, Label{Route: of.hello.Connection, Routed: true}, nil
}

// Link says what there is to know of a connection's link.
func (m *Manager) Link(c network.Conn) (Link, bool) {
	if m.layer == nil {
		return Link{}, false
	}
	m.layer.mu.Lock()
	defer m.layer.mu.Unlock()
	l := m.layer.links[c]
	if l == nil {
		return Link{}, false
	}
	return m.layer.describe(l), true
}

// describe is called under mu.
func (y *layer) describe(l *link) Link {
	d := Link{State: l.state, Epoch: y.epoch, Connection: l.number, Closed: l.closed}
	if l.hello != nil {
		d.RemoteEpoch, d.Remote = l.hello.Epoch, l.hello.Connection
	}
	return d
}
