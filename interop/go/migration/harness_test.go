package migration

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"
	"github.com/multiformats/go-multistream"
)

const app = "/app/1"

func newHost(t *testing.T, key crypto.PrivKey, listen ...string) host.Host {
	t.Helper()
	h, err := libp2p.New(
		libp2p.Identity(key), libp2p.ListenAddrStrings(listen...), libp2p.DisableRelay(),
		libp2p.ResourceManager(&network.NullResourceManager{}), libp2p.DisableMetrics(),
	)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// end is one of two peers. It has two connections to the other.
type end struct {
	m        *Manager
	accepted chan *Stream
	conns    [2]network.Conn
	hosts    [2]host.Host

	mu     sync.Mutex // protects events
	events []Event
}

func (e *end) attach(cfg Config) {
	cfg.Protocol = app
	e.accepted = make(chan *Stream, 100)
	cfg.Accept = func(s *Stream) { e.accepted <- s }
	cfg.Event = func(ev Event) {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.events = append(e.events, ev)
	}
	e.m = New(cfg)
}

func (e *end) count(kind EventKind) (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ev := range e.events {
		if ev.Kind == kind {
			n++
		}
	}
	return n
}

const tcpAddr, quicAddr = "/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"

// connect makes two peers with two connections: conns[0] is of the first kind. a has dialed. The
// designated peer is a or b, as wanted.
func connect(t *testing.T, ca, cb Config, kinds [2]string, aDesignated bool) (a, b *end) {
	t.Helper()
	a, b = &end{}, &end{}
	a.attach(ca)
	b.attach(cb)
	var ka, kb crypto.PrivKey
	for {
		ka, kb = newKey(t), newKey(t)
		ia, _ := peer.IDFromPrivateKey(ka)
		ib, _ := peer.IDFromPrivateKey(kb)
		if (designated(ia, ib) == ia) == aDesignated {
			break
		}
	}
	for i, kind := range kinds {
		// A host for each connection on each side: the managers span them.
		ha, hb := newHost(t, ka), newHost(t, kb, kind)
		b.m.Attach(hb)
		a.m.Attach(ha)
		other := make(chan network.Conn, 1)
		hb.Network().Notify(&network.NotifyBundle{
			ConnectedF: func(_ network.Network, c network.Conn) { other <- c },
		})
		if err := ha.Connect(t.Context(), peer.AddrInfo{ID: hb.ID(), Addrs: []ma.Multiaddr{hb.Network().ListenAddresses()[0]}}); err != nil {
			t.Fatal(err)
		}
		a.hosts[i], b.hosts[i] = ha, hb
		a.conns[i] = ha.Network().ConnsToPeer(hb.ID())[0]
		b.conns[i] = <-other
	}
	return a, b
}

func newKey(t *testing.T) crypto.PrivKey {
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// pair is connect, and a stream that a has opened.
func pair(t *testing.T, ca, cb Config) (a, b *end, sa, sb *Stream) {
	t.Helper()
	a, b = connect(t, ca, cb, [2]string{tcpAddr, quicAddr}, true)
	sa, sb = open(t, a, b)
	return a, b, sa, sb
}

func open(t *testing.T, a, b *end) (sa, sb *Stream) {
	t.Helper()
	sa, err := a.m.Open(t.Context(), a.conns[0])
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

func data(n int) []byte {
	b := make([]byte, n)
	x := uint32(n) + 1
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}

// send writes what receive expects.
func send(t *testing.T, s *Stream, n int) {
	t.Helper()
	if m, err := s.Write(data(n)); err != nil || m != n {
		t.Error("write:", m, err)
	}
}

func receive(t *testing.T, s *Stream, n int) {
	t.Helper()
	got := make([]byte, n)
	if _, err := io.ReadFull(s, got); err != nil || !bytes.Equal(got, data(n)) {
		t.Error("read:", err)
	}
}

// echo shows that the stream works in both directions.
func echo(t *testing.T, a, b *Stream) {
	t.Helper()
	send(t, a, 3000)
	receive(t, b, 3000)
	send(t, b, 5000)
	receive(t, a, 5000)
}

func wantEOF(t *testing.T, s *Stream) {
	t.Helper()
	if rest, err := io.ReadAll(s); err != nil || len(rest) > 0 {
		t.Errorf("end: %d bytes, %v", len(rest), err)
	}
}

func wantReset(t *testing.T, s *Stream) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, s)
		done <- err
	}()
	select {
	case err := <-done:
		if !errors.Is(err, ErrReset) {
			t.Error("want a reset, have", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("no reset")
	}
}

// finish ends a stream in both directions and waits until both tables are empty.
func finish(t *testing.T, a, b *end, sa, sb *Stream) {
	t.Helper()
	for _, s := range []*Stream{sa, sb} {
		if err := s.CloseWrite(); err != nil {
			t.Error("close:", err)
		}
	}
	wantEOF(t, sa)
	wantEOF(t, sb)
	empty(t, a, b)
}

// empty waits until nothing is left in the tables.
func empty(t *testing.T, ends ...*end) {
	t.Helper()
	for _, e := range ends {
		eventually(t, "empty table", func() bool {
			return len(e.m.table.all()) == 0
		})
		// A Migrate that was held gives its place back when it has seen that the stream has ended.
		eventually(t, "nothing left over", func() bool {
			e.m.table.mu.Lock()
			defer e.m.table.mu.Unlock()
			for _, st := range e.m.table.peers {
				if st.live != 0 || st.held != 0 || st.ahead != 0 {
					return false
				}
			}
			return true
		})
	}
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never:", what)
		}
	}
}

func migrate(t *testing.T, s *Stream, c network.Conn) {
	t.Helper()
	if err := s.Migrate(t.Context(), c, Hooks{}); err != nil {
		t.Error("migrate:", err)
	}
}

// rawLeg opens a leg by hand and writes wire on it after the prefix.
func rawLeg(t *testing.T, c network.Conn, wire []byte) network.Stream {
	t.Helper()
	return rawSubstream(t, c, Name, wire)
}

func rawSubstream(t *testing.T, c network.Conn, name protocol.ID, wire []byte) network.Stream {
	t.Helper()
	raw, err := c.NewStream(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	raw.SetDeadline(time.Now().Add(5 * time.Second))
	if err := multistream.SelectProtoOrFail(name, raw); err != nil {
		t.Fatal(err)
	}
	if _, err := raw.Write(wire); err != nil {
		t.Fatal(err)
	}
	return raw
}

// wantDropped wants the leg to be reset without an answer.
func wantDropped(t *testing.T, raw network.Stream) {
	t.Helper()
	if b, err := readMessage(raw); !errors.Is(err, network.ErrReset) {
		t.Errorf("want a reset, have %x, %v", b, err)
	}
}

func wantAck(t *testing.T, raw network.Stream, want Ack) {
	t.Helper()
	if a, err := read(raw, decodeAck); err != nil || a != want {
		t.Errorf("want %+v, have %+v, %v", want, a, err)
	}
}

// byHand takes the legs that are opened to e's second connection from the manager.
func (e *end) byHand() <-chan network.Stream {
	legs := make(chan network.Stream, 10)
	for _, name := range []protocol.ID{Name, NameSlash} {
		e.hosts[1].SetStreamHandler(name, func(raw network.Stream) { legs <- raw })
	}
	return legs
}
