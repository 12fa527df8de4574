package migration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Stream is what the application holds. It has one leg, or two while it is being migrated.
//
// Reads and writes may run side by side; several writes, or several reads, at once do not mix.
type Stream struct {
	m          *Manager
	local      peer.ID
	peer       peer.ID
	party      party // whose table it is in
	of         *link // below the swarm: of whose connection it is; nil: of none
	opener     bool
	migratable bool

	// outMu serialises the out side: writes, its close, its switch. Held while writing to a leg;
	// taken before mu, never under it. It protects sent.
	outMu sync.Mutex
	sent  uint64 // stream bytes written, over all legs

	// mu protects all below; held for moments only. The table's lock may be taken under it.
	mu   sync.Mutex
	cond *sync.Cond // anything below has changed

	id       uint64
	in, out  *leg
	mig      *migration
	buf      bytes.Buffer // read ahead
	received uint64       // stream bytes read, over all legs

	eof        bool  // the in side has ended cleanly
	closed     bool  // the application has closed the out side
	writeErr   error // the out side has failed while the in side goes on
	err        error // the stream was aborted
	byUs       bool  // ... by the application here
	finished   bool  // both sides have ended, out of the table
	released   bool  // the application has let go of it
	detached   bool  // its leg has another use
	pumpEnded  chan struct{}
	doubt      bool // an attempt of ours has failed (*Doubt*)
	denied     bool // the remote has denied: never try again
	refused    bool // we have denied: deny every later one
	rateStart  time.Time
	rateCount  int
	aheadCount int // what buf has been charged to the peer
}

func (m *Manager) newStream(l *leg, opener, migratable bool) *Stream {
	s := &Stream{
		m: m, local: l.Conn().LocalPeer(), peer: l.Conn().RemotePeer(), party: l.party,
		opener: opener, migratable: migratable,
		in: l, out: l, pumpEnded: make(chan struct{}),
	}
	s.cond = sync.NewCond(&s.mu)
	return s
}

func (s *Stream) start() { go s.pump() }

// Peer is the remote.
func (s *Stream) Peer() peer.ID { return s.peer }

// Opener says whether we opened the stream.
func (s *Stream) Opener() bool { return s.opener }

// Migratable says whether the remote has the protocol.
func (s *Stream) Migratable() bool { return s.migratable }

// ID is the wire ID; it changes with each migration.
func (s *Stream) ID() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.id
}

// Layered says whether the stream is one of the layer, and Of of which connection it is: nil for one
// of the application's own.
func (s *Stream) Layered() bool { return s.party.layered }

// Of is what Layered says.
func (s *Stream) Of() network.Conn {
	if s.of == nil {
		return nil
	}
	return s.of.conn
}

// InConn is the connection that the in side is on.
func (s *Stream) InConn() network.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.in.Conn()
}

// Conn is the connection that the out side is on.
func (s *Stream) Conn() network.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.Conn()
}

// Read reads what the pump has read ahead. What arrived before a clean end stays readable,
// whatever becomes of the other direction.
func (s *Stream) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.released:
			return 0, fmt.Errorf("%w: released", ErrReset)
		case s.err != nil && (s.byUs || !s.eof):
			return 0, s.err
		case len(p) == 0:
			return 0, nil
		case s.buf.Len() > 0:
			n, _ := s.buf.Read(p)
			s.chargeAhead()
			s.cond.Broadcast()
			return n, nil
		case s.eof:
			return 0, io.EOF
		}
		s.cond.Wait()
	}
}

// writeEnded is called under mu.
func (s *Stream) writeEnded() bool { return s.closed || s.writeErr != nil }

// writable is called under outMu.
func (s *Stream) writable() (*leg, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.err != nil:
		return nil, s.err
	case s.closed || s.released:
		return nil, errors.New("write on a closed stream")
	}
	return s.out, s.writeErr
}

// Write writes to the out side's leg. A migration interrupts a write that waits for the old leg's
// window: what is left of it goes to the new leg, so a writer never waits for a migration. Both
// muxers count exactly what they have taken when a deadline interrupts them.
func (s *Stream) Write(p []byte) (int, error) {
	total := 0
	for {
		s.outMu.Lock()
		l, err := s.writable()
		if err != nil || total == len(p) {
			s.outMu.Unlock()
			return total, err
		}
		n, err := l.Write(p[total:min(len(p), total+1<<16)])
		s.sent += uint64(n)
		s.outMu.Unlock()
		total += n
		if err != nil && !isTimeout(err) {
			return total, s.writeFailed(l, err)
		}
	}
}

// writeFailed ends the out side. While a migration is open both legs are aborted with it ("Resets");
// otherwise the in side goes on, as with a plain stream whose remote has stopped reading.
func (s *Stream) writeFailed(l *leg, err error) error {
	err = fmt.Errorf("%w: %w", ErrReset, err)
	s.mu.Lock()
	open := s.mig != nil
	if !open && s.writeErr == nil {
		s.writeErr = err
		s.cond.Broadcast()
	}
	s.mu.Unlock()
	if open {
		s.abort(err)
	}
	return err
}

// CloseWrite ends the out side; reading goes on.
func (s *Stream) CloseWrite() error {
	s.outMu.Lock()
	defer s.outMu.Unlock()
	l, err := s.writable()
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	err = s.fin(l)
	s.mu.Lock()
	s.cond.Broadcast()
	s.mu.Unlock()
	return err
}

// fin sends our FIN on a leg. The mark comes first: an EOF that is read from here on may be the
// remote's answer to it.
func (s *Stream) fin(l *leg) error {
	s.mu.Lock()
	l.finSent = true
	s.mu.Unlock()
	return l.CloseWrite()
}

// Reset aborts the stream.
func (s *Stream) Reset() {
	s.mu.Lock()
	s.byUs = true
	s.mu.Unlock()
	s.abort(fmt.Errorf("%w: by us", ErrReset))
}

// Release lets go of the stream. Before CloseWrite that aborts it, unless both directions have
// ended; after it, what was written is delivered: an open migration and the close are finished in
// the background, within a deadline, and unread input is discarded (*Failure*).
func (s *Stream) Release() {
	s.mu.Lock()
	if !s.closed {
		s.mu.Unlock()
		s.Reset()
		return
	}
	s.released = true
	s.buf = bytes.Buffer{}
	s.chargeAhead()
	s.cond.Broadcast()
	done := s.finished || s.err != nil
	s.mu.Unlock()
	if !done {
		time.AfterFunc(s.m.cfg.Linger, func() { s.abort(fmt.Errorf("%w: released", ErrReset)) })
	}
}

// abort resets every leg and ends both directions (*Failure*, *Resets*).
// A stream that has finished is past it.
func (s *Stream) abort(err error) {
	s.mu.Lock()
	if s.err != nil || s.finished || s.detached {
		s.mu.Unlock()
		return
	}
	s.err = err
	legs := map[*leg]bool{s.in: true, s.out: true}
	if mig := s.mig; mig != nil {
		legs[mig.old], legs[mig.new] = true, true
		s.m.table.end(s.party, mig.newID, false)
		s.over(mig, err)
	}
	if s.migratable {
		s.m.table.end(s.party, s.id, false)
	}
	if !s.eof || s.byUs {
		s.buf = bytes.Buffer{}
		s.chargeAhead()
	}
	s.cond.Broadcast()
	s.mu.Unlock()
	delete(legs, nil)
	for l := range legs {
		go l.Reset() // may wait for a stalled connection
	}
}

// violation aborts the stream because the remote broke the protocol.
func (s *Stream) violation(what string) {
	s.m.Violations.Add(1)
	s.abort(fmt.Errorf("%w: protocol violation: %s", ErrReset, what))
}

// within runs f on the stream and aborts the stream once ctx is over.
func (s *Stream) within(ctx context.Context, f func() error) error {
	stop := context.AfterFunc(ctx, func() { s.abort(fmt.Errorf("%w: %w", ErrReset, ctx.Err())) })
	defer stop()
	return f()
}

// detach ends the stream without touching its leg, and returns the leg.
func (s *Stream) detach() *leg {
	s.mu.Lock()
	if s.err != nil || s.mig != nil {
		s.mu.Unlock()
		s.abort(fmt.Errorf("%w: prefix inside a prefix", ErrReset))
		return nil
	}
	s.detached = true
	l := s.in
	s.cond.Broadcast()
	s.mu.Unlock()

	l.SetReadDeadline(past)
	<-s.pumpEnded
	l.SetReadDeadline(time.Time{})

	s.mu.Lock()
	defer s.mu.Unlock()
	l.pre = append([]byte(nil), s.buf.Bytes()...)
	s.buf = bytes.Buffer{}
	s.chargeAhead()
	s.m.table.drop(s.party, s.id)
	return l
}
