package migration

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/multiformats/go-multistream"
)

// relayedTCP passes what goes over TCP off as relayed.
func relayedTCP(c network.Conn) bool {
	_, err := c.RemoteMultiaddr().ValueForProtocol(ma.P_TCP)
	return err == nil
}

var layered = Config{Verify: true, Layer: true, Relayed: relayedTCP}

// twoLayers is connect: conns[0] is "relayed", conns[1] direct, and both are ready on both sides.
func twoLayers(t *testing.T, ca, cb Config) (a, b *end) {
	t.Helper()
	a, b = connect(t, ca, cb, [2]string{tcpAddr, quicAddr}, true)
	for i := range 2 {
		a.wantLink(t, i, Ready)
		b.wantLink(t, i, Ready)
	}
	return a, b
}

func (e *end) link(i int) Link {
	l, _ := e.m.Link(e.conns[i])
	return l
}

func (e *end) wantLink(t *testing.T, i int, want LinkState) {
	t.Helper()
	eventually(t, fmt.Sprintf("link %d %s", i, want), func() bool { return e.link(i).State == want })
}

// numbers are those of all events of a kind.
func (e *end) numbers(kind EventKind) (list []uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ev := range e.events {
		if ev.Kind == kind {
			list = append(list, ev.Numbers...)
		}
	}
	return list
}

func openThrough(t *testing.T, a, b *end, i int, th Through) (sa, sb *Stream) {
	t.Helper()
	sa, err := a.m.OpenThrough(t.Context(), a.conns[i], th)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sa.Reset)
	select {
	case sb = <-b.accepted:
	case <-time.After(5 * time.Second):
		t.Fatal("not accepted")
	}
	t.Cleanup(sb.Reset)
	return sa, sb
}

// controls takes the control substreams that are opened to e.
func (e *end) controls() <-chan network.Stream {
	list := make(chan network.Stream, 10)
	for _, h := range e.hosts {
		h.SetStreamHandler(ControlName, func(raw network.Stream) { list <- raw })
	}
	return list
}

func rawHello(t *testing.T, c network.Conn, h Hello) network.Stream {
	t.Helper()
	return rawSubstream(t, c, ControlName, Control{Hello: &h}.Encode())
}

// rawRouted opens a stream through b's layer by hand.
func rawRouted(t *testing.T, c network.Conn, id, route uint64) network.Stream {
	t.Helper()
	raw := rawSubstream(t, c, LinkName, Label{ID: id, Route: route, Routed: true}.Encode())
	raw.Write(selects(multistream.ProtocolID, app))
	return raw
}

func TestHello(t *testing.T) {
	a, b := twoLayers(t, layered, layered)
	for i := range 2 {
		la, lb := a.link(i), b.link(i)
		if la.Epoch != lb.RemoteEpoch || la.RemoteEpoch != lb.Epoch || la.Connection != lb.Remote || la.Remote != lb.Connection {
			t.Error(la, lb)
		}
	}
	if a.link(0).Epoch != a.link(1).Epoch || a.link(0).Epoch == b.link(0).Epoch {
		t.Error("epochs")
	}
	if a.link(0).Connection == a.link(1).Connection {
		t.Error("numbers")
	}
	if n := a.count(LinkReady); n != 2 {
		t.Error(n, "events")
	}
}

// On direct links Hello is said when there is a reason for it.
func TestHelloOnDirectLinks(t *testing.T) {
	direct := Config{Verify: true, Layer: true}
	a, b := connect(t, direct, direct, [2]string{tcpAddr, quicAddr}, true)
	time.Sleep(100 * time.Millisecond)
	for i := range 2 {
		a.wantLink(t, i, Pending)
		b.wantLink(t, i, Pending)
	}
	if _, err := a.m.OpenThrough(t.Context(), a.conns[0], Through{}); !errors.Is(err, ErrNotReady) {
		t.Error(err)
	}
	if err := a.m.Hello(a.conns[0]); err != nil {
		t.Error(err)
	}
	for i := range 2 { // there since the other has said it there, then on the other since this one is ready
		a.wantLink(t, i, Ready)
		b.wantLink(t, i, Ready)
	}
}

// Control substreams that are made by hand, on a direct link.
func TestControlByHand(t *testing.T) {
	good := Control{Hello: &Hello{Epoch: 7, Connection: 3, Layered: true}}.Encode()
	filler := func(n int) string { // an unknown field, with the message's length: n bytes in all
		return string(frame(append([]byte{0x7a, byte(n-5) | 0x80, byte((n - 5) >> 7)}, make([]byte, n-5)...)))
	}
	for name, c := range map[string]struct {
		wire, more string // the rest comes when the link is ready
		state      LinkState
		violation  uint64
	}{
		"good":               {string(good), "", Ready, 0},
		"and more":           {string(good), "\x00" + string(Control{Closed: []uint64{1, 2}}.Encode()) + filler(2+maxControl), Ready, 0},
		"twice":              {string(good), string(good), Ready, 1},
		"twice at once":      {"\x16" + strings.Repeat("\x0a\x09\x0912345678", 2), "", Plain, 1},
		"absent":             {string(Control{Closed: []uint64{1}}.Encode()), "", Plain, 1},
		"empty":              {"\x00", "", Plain, 1},
		"without epoch":      {"\x04\x0a\x02\x18\x01", "", Plain, 1},
		"no message":         {"\x02\x0a\x09", "", Plain, 1},
		"too long":           {"\x81\x20", "", Plain, 1},
		"then too long":      {string(good), "\x81\x20", Ready, 1},
		"no layer":           {string(Control{Hello: &Hello{Epoch: 7}}.Encode()), "", Plain, 0},
		"half, and then end": {string(good[:5]), "", Pending, 0},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := connect(t, Config{}, Config{Layer: true}, [2]string{tcpAddr, quicAddr}, true)
			controls := a.controls()
			raw := rawSubstream(t, a.conns[0], ControlName, []byte(c.wire))
			if c.state == Pending {
				raw.CloseWrite()
				time.Sleep(100 * time.Millisecond)
			}
			b.wantLink(t, 0, c.state)
			raw.Write([]byte(c.more))
			if c.violation > 0 {
				wantDropped(t, raw)
				b.wantLink(t, 0, c.state)
			}
			if n := b.m.Violations.Load(); n != c.violation {
				t.Error(n, "violations")
			}
			if c.state != Ready {
				return
			}
			said := <-controls
			for said.Conn() != a.conns[0] { // it is ready, so Hello is said on the other as well
				said = <-controls
			}
			body, err := readAtMost(said, maxControl)
			if err != nil {
				t.Fatal(err)
			}
			answer, err := decodeControl(body)
			l := b.link(0)
			if err != nil || *answer.Hello != (Hello{Epoch: l.Epoch, Connection: l.Connection, Layered: true}) || l.Remote != 3 || l.RemoteEpoch != 7 {
				t.Errorf("%+v %+v %v", l, answer.Hello, err)
			}
			// A second substream replaces the first, but must say the same.
			second := rawSubstream(t, a.conns[0], ControlName, good)
			wantDropped(t, raw)
			second.Write(Control{Closed: []uint64{77}}.Encode())
			eventually(t, "the second is heard", func() bool { return slices.Contains(b.numbers(ClosedRead), 77) })
			wantDropped(t, rawHello(t, a.conns[0], Hello{Epoch: 7, Connection: 4, Layered: true}))
			if l := b.link(0); l.State != Ready || l.Remote != 3 || b.m.Violations.Load() != c.violation+1 {
				t.Errorf("%+v", l)
			}
		})
	}
}

// A peer that takes Hello and says nothing for a while; what it says later is heard all the same.
func TestSilent(t *testing.T) {
	a, b := connect(t, Config{}, Config{Layer: true, HelloTimeout: 200 * time.Millisecond}, [2]string{tcpAddr, quicAddr}, true)
	a.controls()
	b.m.Hello(b.conns[0])
	b.wantLink(t, 0, Silent)
	if _, err := b.m.OpenThrough(t.Context(), b.conns[0], Through{}); !errors.Is(err, ErrNotReady) {
		t.Error(err)
	}
	rawRouted(t, a.conns[0], 0, b.link(0).Connection) // waits
	rawHello(t, a.conns[0], Hello{Epoch: 7, Layered: true})
	b.wantLink(t, 0, Ready)
	if s := <-b.accepted; s.Of() != b.conns[0] {
		t.Error("of another connection")
	}
}

// A leg on a link that never gets ready is dropped.
func TestNeverReady(t *testing.T) {
	a, _ := connect(t, Config{}, Config{Layer: true, PrefixTimeout: 200 * time.Millisecond}, [2]string{tcpAddr, quicAddr}, true)
	wantDropped(t, rawRouted(t, a.conns[0], 0, 0))
}

// A peer without the layer sees one refused proposal on a relayed connection, and else nothing.
func TestWithoutTheLayer(t *testing.T) {
	a := &end{}
	a.attach(layered)
	ka, kb := newKey(t), newKey(t)
	var mu sync.Mutex // protects proposals
	proposals := make([][]string, 2)
	for i, kind := range []string{tcpAddr, quicAddr} {
		ha, hb := newHost(t, ka), newHost(t, kb, kind)
		a.m.Attach(ha)
		hb.Network().SetStreamHandler(func(raw network.Stream) {
			defer raw.Reset()
			for answer := multistream.ProtocolID; ; answer = "na" {
				name, err := multistream.ReadNextToken[string](raw)
				if err != nil {
					return
				}
				raw.Write(selects(answer))
				if strings.HasPrefix(name, string(Name)) {
					mu.Lock()
					proposals[i] = append(proposals[i], name)
					mu.Unlock()
				}
			}
		})
		if err := ha.Connect(t.Context(), peer.AddrInfo{ID: hb.ID(), Addrs: hb.Network().ListenAddresses()[:1]}); err != nil {
			t.Fatal(err)
		}
		a.conns[i] = ha.Network().ConnsToPeer(hb.ID())[0]
	}
	a.wantLink(t, 0, Plain)
	time.Sleep(200 * time.Millisecond)
	a.wantLink(t, 1, Pending)
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(proposals[0], []string{string(ControlName)}) || len(proposals[1]) > 0 {
		t.Error(proposals)
	}
}

// And with such a peer all is as it was.
func TestAboveTheSwarmAsBefore(t *testing.T) {
	for _, c := range [][2]Config{{layered, verifying}, {verifying, layered}, {layered, layered}} {
		a, b := connect(t, c[0], c[1], [2]string{tcpAddr, quicAddr}, true)
		sa, sb := open(t, a, b)
		migrate(t, sa, a.conns[1])
		migrate(t, sb, b.conns[0])
		echo(t, sa, sb)
		if sa.Layered() || sb.Layered() || sb.Of() != nil {
			t.Error("not of the layer")
		}
		finish(t, a, b, sa, sb)
	}
}

func TestRouted(t *testing.T) {
	a, b := twoLayers(t, layered, layered)
	for _, dir := range [][2]*end{{a, b}, {b, a}} {
		from, to := dir[0], dir[1]
		for on := range 2 {
			for of := range 2 { // labels name connections, not links
				s, r := openThrough(t, from, to, on, Through{Of: from.conns[of]})
				if !s.Layered() || !r.Layered() || s.ID() != r.ID() ||
					s.Of() != from.conns[of] || r.Of() != to.conns[of] || s.Conn() != from.conns[on] || r.InConn() != to.conns[on] {
					t.Error("labels", on, of)
				}
				echo(t, s, r)
				finish(t, a, b, s, r)
			}
			s, r := openThrough(t, from, to, on, Through{Unrouted: true})
			if s.Of() != nil || r.Of() != nil || !r.Layered() {
				t.Error("of no connection")
			}
			echo(t, s, r)
			finish(t, a, b, s, r)
		}
	}
	if n := len(a.numbers(RouteUnknown)) + len(b.numbers(RouteUnknown)); n > 0 {
		t.Error(n, "unknown routes")
	}
}

// On a stream with a route the prefix has no meaning: nothing there is the layer's.
func TestNoPrefixOnARoutedStream(t *testing.T) {
	a, b := connect(t, Config{}, Config{Layer: true}, [2]string{tcpAddr, quicAddr}, true)
	rawHello(t, a.conns[0], Hello{Epoch: 7, Layered: true})
	a.controls()
	raw := rawSubstream(t, a.conns[0], LinkName, Label{ID: 2, Route: b.link(0).Connection, Routed: true}.Encode())
	if _, err := multistream.SelectOneOf([]protocol.ID{Name, NameSlash, app}, raw); err != nil {
		t.Error(err)
	}
	s := <-b.accepted
	raw.Write(data(100))
	receive(t, s, 100)
}

func TestRoutedMoveUnderLoad(t *testing.T) {
	plainSwitch := layered
	plainSwitch.Verify = false
	for name, c := range map[string]struct {
		a, b     Config
		unrouted bool
	}{
		"verify": {a: layered, b: layered}, "plain switch": {a: plainSwitch, b: plainSwitch}, "unrouted": {layered, layered, true},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := twoLayers(t, c.a, c.b)
			for _, e := range []*end{a, b} { // no leg has the prefix of above
				for _, h := range e.hosts {
					h.SetStreamHandler(Name, func(raw network.Stream) { t.Error("wrong prefix"); raw.Reset() })
				}
			}
			sa, sb := openThrough(t, a, b, 0, Through{Unrouted: c.unrouted})
			const n = 3 << 20
			var wg sync.WaitGroup
			wg.Go(func() { send(t, sa, n) })
			wg.Go(func() { send(t, sb, n) })
			wg.Go(func() { receive(t, sa, n) })
			wg.Go(func() { receive(t, sb, n) })
			for i := 1; i <= 6; i++ {
				if i%3 == 0 {
					migrate(t, sb, b.conns[i%2])
				} else {
					migrate(t, sa, a.conns[i%2])
				}
			}
			wg.Wait()
			migrate(t, sa, a.conns[1])
			eventually(t, "both complete", func() bool { return b.count(Migrated) == 7 && a.count(Migrated) == 7 })
			if sa.ID() != sb.ID() || sb.Conn() != b.conns[1] || sb.InConn() != b.conns[1] {
				t.Error("where are they?")
			}
			if !c.unrouted && (sa.Of() != a.conns[0] || sb.Of() != b.conns[0]) {
				t.Error("a stream keeps its connection")
			}
			finish(t, a, b, sa, sb)
		})
	}
}

// A connection outlives the link that it came with, and streams of it are still opened.
func TestConnectionWithoutItsLink(t *testing.T) {
	a, b := twoLayers(t, layered, layered)
	sa, sb := openThrough(t, a, b, 0, Through{})
	migrate(t, sa, a.conns[1])
	echo(t, sa, sb)
	eventually(t, "complete", func() bool { return b.count(Migrated) == 1 })
	a.conns[0].Close()
	eventually(t, "the link has gone", func() bool {
		_, err := b.m.layer.ready(b.conns[0])
		return err != nil
	})
	echo(t, sa, sb)
	for _, dir := range [][2]*end{{a, b}, {b, a}} {
		s, r := openThrough(t, dir[0], dir[1], 1, Through{Of: dir[0].conns[0]})
		if r.Of() != dir[1].conns[0] {
			t.Error("of another connection")
		}
		echo(t, s, r)
		s.CloseWrite()
		wantEOF(t, r)
		r.CloseWrite()
		wantEOF(t, s)
	}
	finish(t, a, b, sa, sb)
	a.conns[1].Close()
	for _, e := range []*end{a, b} {
		eventually(t, "no links", func() bool {
			e.m.layer.mu.Lock()
			defer e.m.layer.mu.Unlock()
			return len(e.m.layer.links) == 0
		})
	}
}

func TestUnknownRoute(t *testing.T) {
	a, b := twoLayers(t, layered, layered)
	sa, sb := openThrough(t, a, b, 0, Through{})
	route := uint64(999)
	if _, err := a.m.OpenThrough(t.Context(), a.conns[1], Through{Route: &route}); !errors.Is(err, ErrReset) {
		t.Error(err)
	}
	eventually(t, "closed", func() bool { return slices.Equal(a.numbers(ClosedRead), []uint64{999}) })
	if got := b.numbers(RouteUnknown); !slices.Equal(got, []uint64{999}) {
		t.Error(got)
	}
	a.wantLink(t, 1, Ready)
	echo(t, sa, sb)
	finish(t, a, b, sa, sb)
	if n := a.count(ConnectionClosed); n != 0 {
		t.Error(n, "closed, of which none was meant")
	}
}

func TestClosed(t *testing.T) {
	for _, quietly := range []bool{false, true} {
		for _, inTime := range []bool{true, false} {
			t.Run(fmt.Sprint(quietly, inTime), func(t *testing.T) {
				cb := layered
				if !inTime {
					cb.Linger = 200 * time.Millisecond
				}
				a, b := twoLayers(t, layered, cb)
				sa, sb := openThrough(t, a, b, 1, Through{Of: a.conns[0]})
				other, so := openThrough(t, a, b, 1, Through{})
				if err := a.m.CloseConnection(a.conns[0], quietly); err != nil {
					t.Error(err)
				}
				if quietly { // then a label for it is answered
					if _, err := b.m.OpenThrough(t.Context(), b.conns[1], Through{Of: b.conns[0]}); !errors.Is(err, ErrReset) {
						t.Error(err)
					}
				}
				number := a.link(0).Connection
				eventually(t, "closed", func() bool { return slices.Contains(b.numbers(ClosedRead), number) })
				if _, err := b.m.OpenThrough(t.Context(), b.conns[1], Through{Of: b.conns[0]}); !errors.Is(err, ErrNotReady) {
					t.Error(err)
				}
				if inTime { // what is there is read to its end
					send(t, sa, 3000)
					receive(t, sb, 3000)
					if n := b.count(ConnectionClosed); n != 0 {
						t.Error("closed too soon")
					}
					sa.CloseWrite()
					wantEOF(t, sb)
				}
				eventually(t, "the counterpart", func() bool { return b.count(ConnectionClosed) == 1 })
				wantReset(t, sa)
				eventually(t, "and said so", func() bool { return slices.Contains(a.numbers(ClosedRead), b.link(0).Connection) })
				for i := range 2 { // the links stay
					a.wantLink(t, i, Ready)
					b.wantLink(t, i, Ready)
				}
				echo(t, other, so)
				finish(t, a, b, other, so)
			})
		}
	}
}

// Substreams have no order: a leg may come before the Hello that makes its link ready here, and a
// label for a connection before the Hello of that one's link.
func TestLegBeforeHello(t *testing.T) {
	a, b := connect(t, Config{}, Config{Layer: true}, [2]string{tcpAddr, quicAddr}, true)
	a.controls()
	b.m.Hello(b.conns[0])
	b.m.Hello(b.conns[1])
	early := rawRouted(t, a.conns[0], 0, b.link(1).Connection)
	time.Sleep(100 * time.Millisecond)
	select {
	case <-b.accepted:
		t.Error("from nobody")
	default:
	}
	rawHello(t, a.conns[0], Hello{Epoch: 7, Connection: 1, Layered: true})
	s := <-b.accepted
	if s.Of() != b.conns[1] {
		t.Error("of another connection")
	}
	early.Write(data(100))
	receive(t, s, 100)
}

// IDs and routes are those of one process: nothing goes over to a link to another one.
func TestAnotherEpoch(t *testing.T) {
	a, b := connect(t, Config{}, Config{Layer: true, HoldTimeout: 100 * time.Millisecond}, [2]string{tcpAddr, quicAddr}, true)
	a.controls()
	for i := range 2 {
		rawHello(t, a.conns[i], Hello{Epoch: uint64(i), Connection: 5, Layered: true})
		b.wantLink(t, i, Ready)
	}
	old := rawRouted(t, a.conns[0], 0, b.link(0).Connection)
	s := <-b.accepted
	if err := s.Migrate(t.Context(), b.conns[1], Hooks{}); !errors.Is(err, ErrFailed) || inDoubt(s) {
		t.Error(err)
	}
	wantDropped(t, rawSubstream(t, a.conns[1], LinkName, Migrate{ID: 2, From: 0}.Encode()))
	wantDropped(t, rawLeg(t, a.conns[0], Migrate{ID: 2, From: 0}.Encode())) // nor above the swarm
	wantDropped(t, rawRouted(t, a.conns[1], 4, b.link(0).Connection))
	if _, err := b.m.OpenThrough(t.Context(), b.conns[1], Through{Of: b.conns[0]}); !errors.Is(err, ErrNotReady) {
		t.Error(err)
	}
	// The same ID, of the other process.
	rawRouted(t, a.conns[1], 0, b.link(1).Connection)
	other := <-b.accepted
	if other.Of() != b.conns[1] {
		t.Error("of another connection")
	}
	old.Write(data(100))
	receive(t, s, 100)
	old.CloseWrite()
	wantEOF(t, s)
	if _, err := io.WriteString(s, "x"); err != nil {
		t.Error(err)
	}
}
