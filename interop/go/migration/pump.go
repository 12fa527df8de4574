package migration

import (
	"errors"
	"fmt"
	"io"
)

// chunk is what is read at once, and what a stream may read ahead even when its peer's streams
// together have reached their bound.
const chunk = 16 << 10

// pump is the in side. It reads the legs one after the other, whether the application reads or
// not, so a migration makes progress while the application does nothing; it stops, and the
// migration waits for the reader, when the read-ahead is full (*Switching, one
// direction at a time*).
//
// Bytes of the new leg that overtake the old leg's EOF stay where they are: the new leg is not
// read before its turn, and the muxer's own flow control holds them ("Overtaking").
func (s *Stream) pump() {
	defer close(s.pumpEnded)
	space := make([]byte, chunk)
	for l := s.in; l != nil; {
		err := s.drain(l, space)
		l = s.next(l, err)
	}
}

// drain reads a leg to its end, which is nil for an EOF.
func (s *Stream) drain(l *leg, space []byte) error {
	for {
		room := s.room()
		if room == 0 {
			return errors.New("stream has ended")
		}
		n, err := l.Read(space[:min(room, len(space))])
		s.mu.Lock()
		if n > 0 {
			if s.eof {
				// This direction had ended on an older leg ("Half-closed streams").
				s.mu.Unlock()
				s.violation("data after the end")
				return ErrReset
			}
			s.received += uint64(n)
			if !s.released {
				s.buf.Write(space[:n])
				s.chargeAhead()
			}
			s.cond.Broadcast()
		}
		stop := s.detached || s.err != nil
		s.mu.Unlock()
		switch {
		case stop:
			return ErrReset
		case err == io.EOF:
			return nil
		case err != nil && !isTimeout(err):
			return err
		}
	}
}

// room waits until something may be read ahead; 0 means that the stream has ended.
func (s *Stream) room() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if s.err != nil || s.detached {
			return 0
		}
		have := s.buf.Len()
		if room := s.m.cfg.ReadAhead - have; room > 0 {
			if have < chunk || s.peerAhead() < s.m.cfg.ReadAheadPeer {
				return room
			}
		}
		s.cond.Wait()
	}
}

func (s *Stream) peerAhead() (n int) {
	s.m.table.with(s.party, func(st *peerState) { n = st.ahead })
	return n
}

// chargeAhead tells the peer's account what buf holds. Called under mu.
func (s *Stream) chargeAhead() {
	delta := s.buf.Len() - s.aheadCount
	s.aheadCount += delta
	s.m.table.with(s.party, func(st *peerState) { st.ahead += delta })
}

// next decides what the end of the in side's leg means, waits for whatever that depends on, and
// returns the leg to read next, or nil when the stream is over.
func (s *Stream) next(l *leg, legErr error) *leg {
	s.mu.Lock()
	defer s.mu.Unlock()
	// "Judge each EOF when it is read": what counts is whether our FIN was out then.
	l.eofAfterFin = l.finSent
	for {
		mig := s.mig
		switch {
		case s.err != nil || s.detached:
			return nil

		case legErr == nil && mig != nil && mig.old != l:
			// The in side has crossed already; our FIN on the old leg is still under way.

		case mig != nil && mig.old == l && mig.phase == agreed:
			if next, done := s.cross(mig, legErr); done {
				return next
			}

		case mig != nil && mig.phase == acking:
			// About to be agreed, or not.

		case legErr == nil && !s.eof && mig != nil:
			// Our Migrate is unanswered: hold the EOF.

		case legErr != nil:
			err := fmt.Errorf("%w: %w", ErrReset, legErr)
			s.mu.Unlock()
			s.abort(err)
			s.mu.Lock()
			continue

		case !s.eof:
			s.judge(l)
			continue

		case mig == nil && s.writeEnded():
			s.finish(l)
			return nil
		}
		s.cond.Wait()
	}
}

// judge decides about an EOF that no migration explains (*Doubt*). Called under mu, which it may
// give up for a while.
//
// Without doubt it is the application's: go-libp2p's muxers tell a FIN from a reset and from a
// lost connection, so an empty write (docs/legs.md) has nothing to add. In doubt it may be the
// switch of a responder whose ack we never read, or the abort of a peer whose QUIC sends a FIN
// when a stream is dropped. After our own FIN nothing can tell these from an end. Before it, the
// switch is excluded, and the drop shows in that our direction has been stopped.
func (s *Stream) judge(l *leg) {
	switch {
	case s.doubt && l.eofAfterFin:
		s.abortLocked(fmt.Errorf("%w: an end in doubt", ErrReset))
	case s.doubt && !l.probed:
		s.mu.Unlock()
		alive := s.emptyWrite(l)
		s.mu.Lock()
		l.probed, l.alive = true, alive
	case s.doubt && !l.alive:
		s.abortLocked(fmt.Errorf("%w: an end in doubt, and the other direction stopped", ErrReset))
	default:
		s.eof = true
		s.cond.Broadcast()
	}
}

// emptyWrite says whether the leg still takes writes. quic-go looks at the stream's state and
// sends nothing; yamux looks at nothing, but there an EOF before our FIN is proof by itself.
func (s *Stream) emptyWrite(l *leg) bool {
	l.SetWriteDeadline(past) // a writer that waits for the window lets go of outMu and tries again
	s.outMu.Lock()
	defer s.outMu.Unlock()
	s.mu.Lock()
	if s.mig == nil || s.mig.phase != agreed { // then switchOut has set the deadline, and needs it
		l.SetWriteDeadline(noDeadline)
	}
	s.mu.Unlock()
	_, err := l.Write(nil)
	return err == nil || isTimeout(err)
}

func (s *Stream) abortLocked(err error) {
	s.mu.Unlock()
	s.abort(err)
	s.mu.Lock()
}

// finish takes a stream out of the table that has ended in both directions. Called under mu.
func (s *Stream) finish(l *leg) {
	s.finished = true
	s.cond.Broadcast()
	if s.migratable {
		s.m.table.end(s.party, s.id, s.writeErr == nil)
	}
	go l.Close() // both FINs are through; this frees the object
}
