package migration

import (
	"context"
	"errors"
	"fmt"
	"time"
)

var noDeadline time.Time

type phase int

const (
	asking phase = iota // ours, no answer yet
	acking              // theirs, our accept is being written
	agreed
)

// migration is one migration of one stream. Guarded by the stream's mu.
type migration struct {
	initiator bool
	old, new  *leg // new is nil until it has been opened
	newID     uint64
	phase     phase
	verify    bool // both have said so
	sent      bool // our Migrate may have reached the other side

	counted bool   // the remote's Switched has been read
	count   uint64 // and says this

	inDone, outDone bool

	stop context.CancelFunc // ends an initiator's wait for the answer
	done chan struct{}      // closed at the end, after err is set
	err  error
}

// over ends a migration, one way or the other. Called under mu; who waits on cond sees it.
func (s *Stream) over(mig *migration, err error) {
	if s.mig == mig {
		s.mig = nil
	}
	mig.err = err
	if mig.stop != nil {
		mig.stop()
	}
	close(mig.done)
	s.cond.Broadcast()
	switch {
	case err == nil:
		s.m.cfg.Event(Event{Kind: Migrated, Stream: s, Initiator: mig.initiator,
			From: mig.old.Conn(), To: mig.new.Conn()})
	default:
		s.m.cfg.Event(Event{Kind: MigrationFailed, Stream: s, Initiator: mig.initiator, Reason: err})
	}
}

// switchOut moves the out side: close the old leg for writing, write to the new one. The initiator
// does it at once, the responder when it has read the old leg's EOF and, with verify, the
// initiator's count (*Switching, one direction at a time*).
func (s *Stream) switchOut(mig *migration) {
	mig.old.SetWriteDeadline(past)
	s.outMu.Lock()
	defer s.outMu.Unlock()

	if mig.verify {
		mig.new.SetWriteDeadline(time.Now().Add(s.m.cfg.AckTimeout))
		_, err := mig.new.Write(Switched{Sent: s.sent}.Encode())
		mig.new.SetWriteDeadline(noDeadline)
		if err != nil {
			s.abort(fmt.Errorf("%w: new leg: %w", ErrReset, err))
			return
		}
	}
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return
	}
	s.out = mig.new
	closed, finSent := s.closed, mig.old.finSent
	mig.old.finSent = true
	s.mu.Unlock()

	if closed {
		// The result looks like the original ("Half-closed streams").
		if err := s.fin(mig.new); err != nil {
			s.abort(fmt.Errorf("%w: new leg: %w", ErrReset, err))
			return
		}
	}
	// The old leg's FIN may have to wait for a stalled connection. Nothing on the new leg waits
	// for it: the reader orders by EOF.
	go func() {
		var err error
		if !finSent {
			err = mig.old.CloseWrite()
		}
		if err != nil && !mig.verify {
			s.abort(fmt.Errorf("%w: old leg: %w", ErrReset, err))
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		mig.outDone = true
		s.complete(mig)
	}()
}

// cross moves the in side once a migration is agreed and the old leg has ended with legErr. It
// returns false while something is missing. Called under mu, which it may give up for a while.
func (s *Stream) cross(mig *migration, legErr error) (next *leg, done bool) {
	switch {
	case legErr != nil && (!mig.verify || !mig.initiator):
		// "Either leg reset, after the agreement and before completion". A responder's own out
		// side is on the old leg until here, so the exception is not for it.
		s.abortLocked(fmt.Errorf("%w: old leg: %w", ErrReset, legErr))
		return nil, true
	case mig.verify && !mig.counted:
		return nil, false
	case mig.verify && mig.count > s.received:
		s.abortLocked(fmt.Errorf("%w: old leg was cut: %d bytes of %d", ErrReset, s.received, mig.count))
		return nil, true
	case mig.verify && mig.count < s.received:
		s.mu.Unlock()
		s.violation(fmt.Sprintf("%d bytes on the old legs, said to be %d", s.received, mig.count))
		s.mu.Lock()
		return nil, true
	}
	// With verify and all bytes here, nothing was lost by the old leg's end, however it ended.
	if !mig.initiator {
		s.mu.Unlock()
		s.switchOut(mig)
		s.mu.Lock()
		if s.err != nil {
			return nil, true
		}
	}
	s.in = mig.new
	mig.inDone = true
	s.complete(mig)
	return mig.new, true
}

// complete ends a migration whose both sides are on the new leg. Called under mu.
func (s *Stream) complete(mig *migration) {
	if !mig.inDone || !mig.outDone || s.mig != mig {
		return
	}
	s.m.table.end(s.party, s.id, false) // the old ID is retired; who is late for it may try again
	s.id = mig.newID
	s.doubt = false // "a later migration completes"
	s.over(mig, nil)
	go mig.old.Close()
}

// readCount reads the remote's first message on the new leg of a verified switch. For a responder
// it is the commit.
func (s *Stream) readCount(mig *migration) {
	msg, err := read(mig.new, decodeSwitched)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.mig != mig:
	case errors.Is(err, ErrMessage), err == nil && msg.Cancelled && mig.initiator:
		s.mu.Unlock()
		s.violation("bad count")
		s.mu.Lock()
	case err != nil:
		// Also an EOF: an end of the new leg before the count.
		s.abortLocked(fmt.Errorf("%w: new leg ended before the count: %w", ErrReset, err))
	case msg.Cancelled:
		// Nothing was switched, the old leg goes on, and a doubt that was there stays.
		s.m.table.drop(s.party, mig.newID)
		s.over(mig, fmt.Errorf("%w: cancelled", ErrFailed))
		go mig.new.Close()
	default:
		mig.counted, mig.count = true, msg.Sent
		s.cond.Broadcast()
	}
}
