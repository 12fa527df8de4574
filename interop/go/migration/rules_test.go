package migration

import (
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/multiformats/go-multistream"
)

// The rules of docs/protocol.md that only a peer shows who does odd things: legs made by hand.

// labelled opens a stream by hand: the label, and the application's protocol inside.
func labelled(t *testing.T, a, b *end, id uint64) (network.Stream, *Stream) {
	t.Helper()
	raw := rawLeg(t, a.conns[0], Label{ID: id}.Encode())
	if err := multistream.SelectProtoOrFail(protocol.ID(app), raw); err != nil {
		t.Fatal(err)
	}
	s := <-b.accepted
	t.Cleanup(s.Reset)
	return raw, s
}

func inDoubt(s *Stream) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.doubt
}

func setDoubt(s *Stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doubt = true
}

func TestIDInUse(t *testing.T) {
	a, b, sa, sb := pair(t, verifying, verifying)
	other, so := open(t, a, b)
	// A label and a Migrate with an ID in use abort the new leg only. Any parity will do.
	wantDropped(t, rawLeg(t, a.conns[1], Label{ID: sa.ID()}.Encode()))
	wantDropped(t, rawLeg(t, a.conns[1], Migrate{ID: other.ID(), From: sa.ID()}.Encode()))
	wantDropped(t, rawLeg(t, a.conns[1], Migrate{ID: sa.ID(), From: sa.ID()}.Encode()))
	if n := b.m.InUse.Load(); n != 3 {
		t.Error(n, "counted")
	}
	raw, odd := labelled(t, a, b, sa.ID()^1)
	raw.Write(data(100))
	receive(t, odd, 100)
	echo(t, sa, sb)
	echo(t, other, so)
	// When b allocates it skips that ID of its parity.
	for range 3 {
		migrate(t, sb, b.conns[1])
		migrate(t, sb, b.conns[0])
	}
	echo(t, sa, sb)
}

func TestMigrateBeforeLabel(t *testing.T) {
	a, b := connect(t, verifying, Config{HoldTimeout: 300 * time.Millisecond, MaxHeld: 2}, [2]string{tcpAddr, quicAddr}, true)
	early := rawLeg(t, a.conns[1], Migrate{ID: 2, From: 0}.Encode())
	never := rawLeg(t, a.conns[1], Migrate{ID: 6, From: 4}.Encode())
	eventually(t, "both held", func() (full bool) {
		b.m.table.with(party{id: a.conns[0].LocalPeer()}, func(st *peerState) { full = st.held == 2 })
		return full
	})
	wantDropped(t, rawLeg(t, a.conns[1], Migrate{ID: 10, From: 8}.Encode())) // no room
	old, s := labelled(t, a, b, 0)
	wantAck(t, early, Ack{})
	old.CloseWrite()
	early.Write(data(100))
	receive(t, s, 100)
	wantDropped(t, never)
	eventually(t, "the new ID", func() bool { return s.ID() == 2 })
	wantDropped(t, rawLeg(t, a.conns[1], Migrate{ID: 4, From: 0}.Encode())) // retired
	s.CloseWrite()
	early.CloseWrite()
	empty(t, b)
}

func TestMigrateAfterTheEnd(t *testing.T) {
	a, b, sa, sb := pair(t, verifying, verifying)
	id := sa.ID()
	finish(t, a, b, sa, sb)
	wantAck(t, rawLeg(t, a.conns[1], Migrate{ID: 1000, From: id, Verify: true}.Encode()), Ack{Deny: true})

	sa, sb = open(t, a, b)
	id = sa.ID()
	sb.Reset()
	wantReset(t, sa)
	wantDropped(t, rawLeg(t, a.conns[1], Migrate{ID: 1000, From: id, Verify: true}.Encode()))

	// What is remembered is bounded.
	for i := range uint64(2 * maxEnded) {
		b.m.table.end(party{id: "peer"}, i, true)
	}
	if len(b.m.table.ended) > maxEnded || len(b.m.table.order) > maxEnded {
		t.Error(len(b.m.table.ended), len(b.m.table.order))
	}
}

func TestTooManyStreams(t *testing.T) {
	a, b := connect(t, verifying, Config{MaxStreams: 2}, [2]string{tcpAddr, quicAddr}, true)
	open(t, a, b)
	open(t, a, b)
	wantDropped(t, rawLeg(t, a.conns[1], Label{ID: 100}.Encode()))
}

func TestTooManyMigrations(t *testing.T) {
	a, b := connect(t, verifying, Config{Verify: true, MaxRate: 3}, [2]string{tcpAddr, quicAddr}, true)
	sa, sb := open(t, a, b)
	failed := 0
	for i := range 6 {
		if err := sa.Migrate(t.Context(), a.conns[(i+1)%2], Hooks{}); err != nil {
			failed++
		}
	}
	if failed == 0 {
		t.Error("no limit")
	}
	echo(t, sa, sb)
}

// A Migrate from the ID that an open migration will give waits for that one (rule 4).
func TestMigrateFromTheNextID(t *testing.T) {
	a, b := connect(t, verifying, Config{}, [2]string{tcpAddr, quicAddr}, true)
	old, s := labelled(t, a, b, 0)
	first := rawLeg(t, a.conns[1], Migrate{ID: 2, From: 0}.Encode())
	wantAck(t, first, Ack{})
	second := rawLeg(t, a.conns[0], Migrate{ID: 4, From: 2}.Encode())
	second.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := readMessage(second); !isTimeout(err) {
		t.Error("not held:", err)
	}
	second.SetReadDeadline(time.Time{})
	old.CloseWrite()
	wantAck(t, second, Ack{})
	first.CloseWrite()
	second.Write(data(10))
	receive(t, s, 10)
	eventually(t, "the last ID", func() bool { return s.ID() == 4 })
}

// The initiator's count is the commit, and "cancelled" takes it back.
func TestCancelled(t *testing.T) {
	for _, halfClosed := range []bool{false, true} {
		t.Run(fmt.Sprint(halfClosed), func(t *testing.T) {
			a, b := connect(t, verifying, verifying, [2]string{tcpAddr, quicAddr}, true)
			old, s := labelled(t, a, b, 0)
			if halfClosed {
				old.CloseWrite()
			}
			l := rawLeg(t, a.conns[1], Migrate{ID: 2, From: 0, Verify: true}.Encode())
			wantAck(t, l, Ack{Verify: true})
			l.Write(Switched{Cancelled: true}.Encode())
			l.CloseWrite()
			eventually(t, "cancelled", func() bool { return b.count(MigrationFailed) == 1 })
			send(t, s, 100)
			if _, err := io.ReadFull(old, make([]byte, 100)); err != nil {
				t.Error(err)
			}
			if !halfClosed {
				old.CloseWrite()
			}
			wantEOF(t, s)
			s.CloseWrite()
			empty(t, b)
		})
	}
}

func TestCounts(t *testing.T) {
	for name, c := range map[string]struct {
		wrong     int
		cut       bool // no count at all
		violation uint64
	}{
		"right":      {},
		"too few":    {wrong: 1}, // the leg was cut
		"too many":   {wrong: -1, violation: 1},
		"no count":   {cut: true},
		"underflown": {wrong: -1000, violation: 0},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := connect(t, verifying, verifying, [2]string{tcpAddr, quicAddr}, true)
			old, s := labelled(t, a, b, 0)
			old.Write(data(100))
			l := rawLeg(t, a.conns[1], Migrate{ID: 2, From: 0, Verify: true}.Encode())
			wantAck(t, l, Ack{Verify: true})
			// The inner negotiation's bytes count.
			sent := len(selects(multistream.ProtocolID, app)) + 100 + c.wrong
			if !c.cut {
				l.Write(Switched{Sent: uint64(sent)}.Encode())
			}
			old.CloseWrite()
			l.CloseWrite()
			if name == "right" {
				receive(t, s, 100)
				wantEOF(t, s)
				return
			}
			wantReset(t, s)
			if n := b.m.Violations.Load(); n != c.violation {
				t.Error(n, "violations")
			}
			if _, err := io.Copy(io.Discard, old); !errors.Is(err, network.ErrReset) {
				t.Error("old leg:", err)
			}
		})
	}
}

// With the switch off, nothing on the wire differs from a peer that has never heard of it.
func TestVerifyOffOnTheWire(t *testing.T) {
	a, b := connect(t, Config{}, Config{}, [2]string{tcpAddr, quicAddr}, true)
	old, s := labelled(t, a, b, 0)
	l := rawLeg(t, a.conns[1], Migrate{ID: 2, From: 0, Verify: true}.Encode())
	if body, err := readMessage(l); err != nil || string(body) != "\x1a\x00" {
		t.Errorf("%x %v", body, err)
	}
	old.CloseWrite()
	eventually(t, "switched", func() bool { return b.count(Migrated) == 1 })
	send(t, s, 10)
	got := make([]byte, 10)
	if _, err := io.ReadFull(l, got); err != nil || string(got) != string(data(10)) {
		t.Errorf("%x %v", got, err)
	}
}

func TestDataAfterTheEnd(t *testing.T) {
	a, b := connect(t, Config{}, Config{}, [2]string{tcpAddr, quicAddr}, true)
	old, s := labelled(t, a, b, 0)
	old.CloseWrite()
	wantEOF(t, s)
	l := rawLeg(t, a.conns[1], Migrate{ID: 2, From: 0}.Encode())
	wantAck(t, l, Ack{})
	l.Write([]byte("more"))
	eventually(t, "abort", func() bool {
		_, err := s.Write([]byte("x"))
		return errors.Is(err, ErrReset)
	})
	if b.m.Violations.Load() != 1 {
		t.Error("not counted")
	}
}

// While our Migrate is unanswered an EOF is held; a failed attempt puts it in doubt, and then it
// depends on whether our FIN was out when it was read.
func TestDoubt(t *testing.T) {
	for name, c := range map[string]struct {
		finFirst, held bool
		deny           bool
		wantEnd        func(*testing.T, *Stream)
	}{
		"held, our side open":           {held: true, wantEnd: wantEOF},
		"held, our side closed":         {held: true, finFirst: true, wantEnd: wantReset},
		"held, our side closed, denied": {held: true, finFirst: true, deny: true, wantEnd: wantEOF},
		"later, our side open":          {wantEnd: wantEOF},
		"later, our side closed":        {finFirst: true, wantEnd: wantReset},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := connect(t, verifying, verifying, [2]string{tcpAddr, quicAddr}, true)
			old, s := labelled(t, a, b, 0)
			legs := a.byHand()
			if c.finFirst {
				s.CloseWrite()
			}
			failed := make(chan error, 1)
			go func() { failed <- s.Migrate(t.Context(), b.conns[1], Hooks{}) }()
			l := <-legs
			if _, err := readMessage(l); err != nil {
				t.Fatal(err)
			}
			if c.held {
				old.CloseWrite()
				time.Sleep(50 * time.Millisecond)
				s.mu.Lock()
				if s.eof {
					t.Error("not held")
				}
				s.mu.Unlock()
			}
			want := ErrFailed
			if c.deny {
				want = ErrDenied
				l.Write(Ack{Deny: true}.Encode(true))
			} else {
				l.Reset()
			}
			if err := <-failed; !errors.Is(err, want) || inDoubt(s) == c.deny {
				t.Error(err, inDoubt(s))
			}
			if !c.held {
				old.CloseWrite()
			}
			c.wantEnd(t, s)
		})
	}
}

// In doubt an EOF on a QUIC leg whose other direction has been stopped is what a dropped stream of
// rust-libp2p looks like (rule 14).
func TestDroppedInDoubt(t *testing.T) {
	a, b := connect(t, verifying, verifying, [2]string{quicAddr, tcpAddr}, true)
	raw, s := labelled(t, a, b, 0)
	setDoubt(s)
	raw.CloseRead() // STOP_SENDING
	time.Sleep(50 * time.Millisecond)
	raw.CloseWrite()
	wantReset(t, s)
}

func TestDoubtEnds(t *testing.T) {
	next := make(chan Decision, 1)
	a, b, sa, sb := pair(t, verifying, Config{Verify: true, Decide: func(*Stream) Decision { return <-next }})
	next <- Ignore
	if err := sa.Migrate(t.Context(), a.conns[1], Hooks{}); !errors.Is(err, ErrFailed) || !inDoubt(sa) {
		t.Error(err)
	}
	// In doubt, the Migrate of a peer that does not verify is dropped, and that of one that does
	// is taken.
	wantDropped(t, rawLeg(t, b.conns[1], Migrate{ID: 1 << 30, From: sa.ID()}.Encode()))
	migrate(t, sb, b.conns[1])
	eventually(t, "no doubt", func() bool { return !inDoubt(sa) })
	setDoubt(sa)
	next <- Accept
	migrate(t, sa, a.conns[0])
	if inDoubt(sa) {
		t.Error("still in doubt")
	}
	echo(t, sa, sb)
	// A deny does not end it (rule 11).
	setDoubt(sa)
	next <- Deny
	if err := sa.Migrate(t.Context(), a.conns[1], Hooks{}); !errors.Is(err, ErrDenied) || !inDoubt(sa) {
		t.Error(err)
	}
}

// An attempt that times out at a peer known to verify is cancelled, so that the late ack does no
// harm; one that has not been known to may lose the stream, but never bytes.
func TestLateAck(t *testing.T) {
	hold := make(chan struct{})
	first := true
	cb := Config{Verify: true, Decide: func(*Stream) Decision {
		if !first {
			<-hold
		}
		first = false
		return Accept
	}}
	a, b, sa, sb := pair(t, Config{Verify: true, AckTimeout: 300 * time.Millisecond}, cb)
	migrate(t, sa, a.conns[1])
	if err := sa.Migrate(t.Context(), a.conns[0], Hooks{}); !errors.Is(err, ErrFailed) {
		t.Error(err)
	}
	sa.CloseWrite()
	close(hold)
	eventually(t, "cancelled", func() bool { return b.count(MigrationFailed) == 1 })
	send(t, sb, 1000)
	wantEOF(t, sb)
	receive(t, sa, 1000)
	sb.CloseWrite()
	// Our FIN was out, so this end proves nothing.
	wantReset(t, sa)
}

func TestNewLegLost(t *testing.T) {
	// Between the ack and the count: both sides abort.
	a, b := connect(t, verifying, verifying, [2]string{tcpAddr, quicAddr}, true)
	old, s := labelled(t, a, b, 0)
	l := rawLeg(t, a.conns[1], Migrate{ID: 2, From: 0, Verify: true}.Encode())
	wantAck(t, l, Ack{Verify: true})
	l.Reset()
	wantReset(t, s)
	if _, err := io.Copy(io.Discard, old); !errors.Is(err, network.ErrReset) {
		t.Error(err)
	}
	// Without the count: the connection's end is noticed though nobody reads the new leg yet.
	a, b = connect(t, Config{}, Config{}, [2]string{tcpAddr, quicAddr}, true)
	_, s = labelled(t, a, b, 0)
	wantAck(t, rawLeg(t, a.conns[1], Migrate{ID: 2, From: 0}.Encode()), Ack{})
	a.conns[1].Close()
	wantReset(t, s)
}

// With verify an initiator whose old connection is lost goes on, if every byte has come.
func TestOldLegLostAfterTheCount(t *testing.T) {
	a, b := connect(t, verifying, verifying, [2]string{tcpAddr, quicAddr}, true)
	old, s := labelled(t, a, b, 0)
	legs := a.byHand()
	done := make(chan error, 1)
	go func() { done <- s.Migrate(t.Context(), b.conns[1], Hooks{}) }()
	l := <-legs
	if _, err := readMessage(l); err != nil {
		t.Fatal(err)
	}
	l.Write(Ack{Verify: true}.Encode(false))
	if _, err := read(l, decodeSwitched); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, old); err != nil {
		t.Fatal(err)
	}
	l.Write(Switched{Sent: uint64(len(selects(multistream.ProtocolID, app)))}.Encode())
	l.Write(data(100))
	old.Reset()
	receive(t, s, 100)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestPrefixInsideAPrefix(t *testing.T) {
	a, b := connect(t, verifying, verifying, [2]string{tcpAddr, quicAddr}, true)
	_, s := labelled(t, a, b, 0)
	nested := func(label uint64, wire []byte) network.Stream {
		raw := rawLeg(t, a.conns[1], Label{ID: label}.Encode())
		if err := multistream.SelectProtoOrFail(NameSlash, raw); err != nil {
			t.Fatal(err)
		}
		raw.Write(wire)
		return raw
	}
	wantDropped(t, nested(2, Label{ID: 4}.Encode()))
	// The Migrate may have the label's ID or another.
	l := nested(2, Migrate{ID: 2, From: 0, Verify: true}.Encode())
	wantAck(t, l, Ack{Verify: true})
	l.Reset()
	wantReset(t, s)
	empty(t, b)
}
