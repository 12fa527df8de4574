package migration

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"
)

var verifying = Config{Verify: true}

// configs are the pairs that must understand each other.
var configs = map[string][2]Config{
	"verify":         {verifying, verifying},
	"plain":          {{}, {}},
	"mixed":          {verifying, {}},
	"bare acks":      {{Verify: true, BareAck: true}, {Verify: true, BareAck: true}},
	"nested":         {{Verify: true, Nested: true}, verifying},
	"nested, plain":  {{Nested: true, BareAck: true}, {BareAck: true}},
	"nested, remote": {verifying, {Nested: true}},
}

func TestMoveUnderLoad(t *testing.T) {
	for name, c := range configs {
		for _, kinds := range [][2]string{{tcpAddr, quicAddr}, {quicAddr, tcpAddr}, {tcpAddr, tcpAddr}} {
			t.Run(fmt.Sprint(name, kinds), func(t *testing.T) {
				a, b := connect(t, c[0], c[1], kinds, true)
				sa, sb := open(t, a, b)
				if !sa.Migratable() || !sb.Migratable() || sa.ID() != sb.ID() || !sa.Opener() || sb.Opener() {
					t.Fatal("labels", sa.ID(), sb.ID())
				}
				const n = 6 << 20
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
				eventually(t, "both complete", func() bool { return b.count(Migrated) == 6 && a.count(Migrated) == 6 })
				if sa.ID() != sb.ID() || sa.Conn() != a.conns[0] || sb.Conn() != b.conns[0] {
					t.Error("where are they?", sa.ID(), sb.ID(), sa.Conn(), sb.Conn())
				}
				finish(t, a, b, sa, sb)
			})
		}
	}
}

func TestHalfClosed(t *testing.T) {
	for name, c := range configs {
		t.Run(name, func(t *testing.T) {
			a, b := connect(t, c[0], c[1], [2]string{tcpAddr, quicAddr}, true)
			for _, by := range []string{"initiator", "responder", "both in turn"} {
				sa, sb := open(t, a, b)
				if by != "responder" {
					send(t, sa, 1000)
					sa.CloseWrite()
				} else {
					send(t, sb, 1000)
					sb.CloseWrite()
				}
				migrate(t, sa, a.conns[1])
				switch by {
				case "initiator":
					receive(t, sb, 1000)
					wantEOF(t, sb)
					send(t, sb, 3000)
					sb.CloseWrite()
					receive(t, sa, 3000)
					wantEOF(t, sa)
				case "responder":
					receive(t, sa, 1000)
					wantEOF(t, sa)
					send(t, sa, 3000)
					sa.CloseWrite()
					receive(t, sb, 3000)
					wantEOF(t, sb)
				default:
					migrate(t, sb, b.conns[0])
					migrate(t, sa, a.conns[1])
					receive(t, sb, 1000)
					wantEOF(t, sb)
					sb.CloseWrite()
					wantEOF(t, sa)
				}
				empty(t, a, b)
			}
		})
	}
}

func TestSimultaneousStart(t *testing.T) {
	for name, c := range configs {
		for _, aDesignated := range []bool{true, false} {
			t.Run(fmt.Sprint(name, aDesignated), func(t *testing.T) {
				a, b := connect(t, c[0], c[1], [2]string{tcpAddr, quicAddr}, aDesignated)
				for range 20 {
					sa, sb := open(t, a, b)
					var wg sync.WaitGroup
					var ea, eb error
					wg.Go(func() { ea = sa.Migrate(t.Context(), a.conns[1], Hooks{}) })
					wg.Go(func() { eb = sb.Migrate(t.Context(), b.conns[1], Hooks{}) })
					wg.Go(func() { echo(t, sa, sb) })
					wg.Wait()
					if ea != nil && eb != nil || ea != nil && !errors.Is(ea, ErrFailed) || eb != nil && !errors.Is(eb, ErrFailed) {
						t.Error(ea, eb)
					}
					echo(t, sa, sb)
					finish(t, a, b, sa, sb)
				}
			})
		}
	}
}

func TestAnswers(t *testing.T) {
	for name, c := range configs {
		t.Run(name, func(t *testing.T) {
			next := make(chan Decision, 1)
			c[1].Decide = func(*Stream) Decision { return <-next }
			a, b := connect(t, c[0], c[1], [2]string{tcpAddr, quicAddr}, true)

			sa, sb := open(t, a, b)
			next <- Deny
			for range 2 { // the second time without asking
				if err := sa.Migrate(t.Context(), a.conns[1], Hooks{}); !errors.Is(err, ErrDenied) {
					t.Error(err)
				}
			}
			echo(t, sa, sb)
			// Who has denied a stream denies every later Migrate for it.
			raw := rawLeg(t, a.conns[1], Migrate{ID: 1 << 20, From: sa.ID()}.Encode())
			wantAck(t, raw, Ack{Deny: true})
			finish(t, a, b, sa, sb)

			sa, sb = open(t, a, b)
			next <- Ignore
			if err := sa.Migrate(t.Context(), a.conns[1], Hooks{}); !errors.Is(err, ErrFailed) {
				t.Error(err)
			}
			echo(t, sa, sb)
			next <- Accept
			migrate(t, sa, a.conns[1])
			echo(t, sa, sb)
			finish(t, a, b, sa, sb)

			for _, d := range []Decision{ResetBeforeAck, ResetAfterAck} {
				sa, sb = open(t, a, b)
				next <- d
				if err := sa.Migrate(t.Context(), a.conns[1], Hooks{}); err == nil {
					t.Error("migrated a reset stream")
				}
				wantReset(t, sa)
				wantReset(t, sb)
				empty(t, a, b)
			}
			for _, hooks := range []func(*Stream) Hooks{
				func(s *Stream) Hooks { return Hooks{MigrateSent: s.Reset} },
				func(s *Stream) Hooks { return Hooks{AckRead: s.Reset} },
			} {
				sa, sb = open(t, a, b)
				next <- Accept
				if err := sa.Migrate(t.Context(), a.conns[1], hooks(sa)); !errors.Is(err, ErrReset) {
					t.Error(err)
				}
				wantReset(t, sa)
				wantReset(t, sb)
				empty(t, a, b)
				select { // the Migrate may not have come through
				case <-next:
				default:
				}
			}
		})
	}
}

// A migration completes while nobody reads, up to the bound of the read-ahead; beyond it, it waits
// for the reader. A writer that waits for the old leg's window is not in its way.
func TestReadAhead(t *testing.T) {
	a, b, sa, sb := pair(t, verifying, Config{Verify: true, ReadAhead: 512 << 10})
	send(t, sa, 500<<10)
	migrate(t, sa, a.conns[1])
	receive(t, sb, 500<<10)

	const n = 32 << 20 // above quic's window
	var wg sync.WaitGroup
	wg.Go(func() { send(t, sa, n) })
	ahead := func() int {
		sb.mu.Lock()
		defer sb.mu.Unlock()
		return sb.buf.Len()
	}
	eventually(t, "full read-ahead", func() bool { return ahead() == 512<<10 })
	done := make(chan error, 1)
	go func() { done <- sa.Migrate(t.Context(), a.conns[0], Hooks{}) }()
	select {
	case err := <-done:
		t.Fatal("did not wait for the reader", err)
	case <-time.After(300 * time.Millisecond):
	}
	if have := ahead(); have > 512<<10 {
		t.Error("read ahead:", have)
	}
	receive(t, sb, n)
	if err := <-done; err != nil {
		t.Error(err)
	}
	wg.Wait()
	finish(t, a, b, sa, sb)
}

// The bound of a peer leaves every stream of its a little.
func TestReadAheadOfAPeer(t *testing.T) {
	a, b := connect(t, verifying, Config{Verify: true, ReadAheadPeer: 100 << 10}, [2]string{tcpAddr, quicAddr}, true)
	var sent sync.WaitGroup
	var streams [6][2]*Stream
	for i := range streams {
		streams[i][0], streams[i][1] = open(t, a, b)
		sent.Go(func() { send(t, streams[i][0], 100<<10) })
	}
	sent.Wait()
	time.Sleep(100 * time.Millisecond)
	b.m.table.with(party{id: a.conns[0].LocalPeer()}, func(st *peerState) {
		if most := 100<<10 + len(streams)*2*chunk; st.ahead > most {
			t.Error("read ahead:", st.ahead)
		}
	})
	for _, s := range streams {
		receive(t, s[1], 100<<10)
		migrate(t, s[0], a.conns[1])
		s[0].CloseWrite()
		s[1].CloseWrite()
	}
	empty(t, a, b)
}

func TestRelease(t *testing.T) {
	a, b, sa, sb := pair(t, verifying, verifying)
	sa.Release() // before a close: an abort
	wantReset(t, sb)

	sa, sb = open(t, a, b) // after it: what was written is delivered, what comes is discarded
	send(t, sa, 900<<10)
	sa.CloseWrite()
	migrated := make(chan error, 1)
	go func() { migrated <- sa.Migrate(t.Context(), a.conns[1], Hooks{}) }()
	sa.Release()
	if err := <-migrated; err != nil {
		t.Error(err)
	}
	send(t, sb, 8<<20)
	sb.CloseWrite()
	receive(t, sb, 900<<10)
	wantEOF(t, sb)
	empty(t, a, b)
}

func TestWithoutTheProtocol(t *testing.T) {
	for _, c := range [][2]Config{{{Disabled: true}, verifying}, {verifying, {Disabled: true}}} {
		a, b := connect(t, c[0], c[1], [2]string{tcpAddr, quicAddr}, true)
		sa, sb := open(t, a, b)
		if sa.Migratable() || sb.Migratable() {
			t.Error("migratable")
		}
		echo(t, sa, sb)
		if err := sa.Migrate(t.Context(), a.conns[1], Hooks{}); !errors.Is(err, ErrNotMigratable) {
			t.Error(err)
		}
		sa.CloseWrite()
		wantEOF(t, sb)
		sb.CloseWrite()
		wantEOF(t, sa)
	}
}

func TestUnsupported(t *testing.T) {
	a, _, _, _ := pair(t, verifying, verifying)
	a.m.cfg.Protocol = "/other/1"
	if _, err := a.m.Open(t.Context(), a.conns[0]); !errors.Is(err, ErrUnsupported) {
		t.Error(err)
	}
}

func TestConnectionLost(t *testing.T) {
	a, b, sa, sb := pair(t, verifying, verifying)
	sb.CloseWrite()
	wantEOF(t, sa) // nothing reads a leg after its end
	a.conns[0].Close()
	wantReset(t, sb)
	eventually(t, "the other side knows", func() bool {
		_, err := sa.Write([]byte("x"))
		return errors.Is(err, ErrReset)
	})
	if _, err := sa.Read(make([]byte, 1)); err != io.EOF {
		t.Error("the end was clean:", err)
	}
	empty(t, a, b)
}
