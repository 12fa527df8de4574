package migration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
)

// cancelLinger is how long a cancelled leg is kept, so that its reset cannot overtake the message.
const cancelLinger = 5 * time.Second

var errYielded = fmt.Errorf("%w: yielded to the other side's", ErrFailed)

// Hooks interrupt a migration, for tests.
type Hooks struct {
	MigrateSent, AckRead func()
}

// Migrate moves the stream to conn, as the initiator, and returns when the migration is complete
// or has come to nothing. A migration under way is waited for. ErrFailed: the stream goes on where
// it was; ErrDenied: likewise, and it will never be moved; ErrReset: the stream is gone.
func (s *Stream) Migrate(ctx context.Context, conn network.Conn, hooks Hooks) error {
	mig, err := s.begin(ctx)
	if err != nil {
		return err
	}
	ack, err := s.ask(ctx, mig, conn, hooks)
	if ack != nil && ack.Verify && s.m.cfg.Verify {
		s.m.table.with(s.party, func(st *peerState) { st.verifies = true })
	}
	if !s.settle(mig, ack, err) {
		// Denied, failed or yielded: the leg goes, the stream stays.
		switch {
		case mig.new == nil:
		case ack != nil && ack.Deny:
			go mig.new.Close() // "the new stream should be closed"
		default:
			s.m.dropLeg(mig.new, mig.sent && ack == nil && !errors.Is(mig.err, ErrReset))
		}
		return mig.err
	}
	if hooks.AckRead != nil {
		hooks.AckRead()
	}
	if mig.verify {
		go s.readCount(mig)
	}
	s.switchOut(mig)
	<-mig.done
	return mig.err
}

// begin waits until no migration is open and opens ours.
func (s *Stream) begin(ctx context.Context) (*migration, error) {
	if !s.migratable {
		return nil, ErrNotMigratable
	}
	stop := context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.cond.Broadcast()
	})
	defer stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.err == nil && s.mig != nil && ctx.Err() == nil {
		s.cond.Wait()
	}
	switch {
	case s.err != nil:
		return nil, s.err
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%w: %w", ErrFailed, ctx.Err())
	case s.finished || s.eof && s.writeEnded():
		return nil, fmt.Errorf("%w: the stream has ended", ErrFailed)
	case s.writeErr != nil:
		return nil, fmt.Errorf("%w: %w", ErrFailed, s.writeErr)
	case s.denied:
		return nil, ErrDenied
	}
	id, err := s.m.table.reserve(s.local, s.party, s)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFailed, err)
	}
	s.mig = &migration{initiator: true, old: s.out, newID: id, done: make(chan struct{})}
	return s.mig, nil
}

// ask opens the new leg, sends Migrate and reads the answer.
func (s *Stream) ask(ctx context.Context, mig *migration, conn network.Conn, hooks Hooks) (*Ack, error) {
	ctx, cancel := context.WithTimeout(ctx, s.m.cfg.AckTimeout)
	defer cancel()
	s.mu.Lock()
	mig.stop = cancel
	over := s.mig != mig
	s.mu.Unlock()
	if over {
		return nil, errYielded
	}
	l, err := s.m.openLeg(ctx, conn, s.party)
	if err != nil {
		return nil, err // nothing was sent: no doubt
	}
	s.mu.Lock()
	mig.new = l
	over = s.mig != mig
	mig.sent = !over
	msg := Migrate{ID: mig.newID, From: s.id, Verify: s.m.cfg.Verify}
	s.mu.Unlock()
	if over {
		return nil, errYielded
	}
	var ack Ack
	err = interruptible(ctx, l, func() error {
		if _, err := l.Write(msg.Encode()); err != nil {
			return err
		}
		if hooks.MigrateSent != nil {
			hooks.MigrateSent()
		}
		ack, err = read(l, decodeAck)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &ack, nil
}

// settle says whether the migration is agreed. If not, it is over.
func (s *Stream) settle(mig *migration, ack *Ack, err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.mig != mig:
		// Yielded, or the stream was aborted: settled already.
		return false
	case ack != nil && !ack.Deny:
		mig.phase = agreed
		mig.verify = ack.Verify && s.m.cfg.Verify
		s.doubt = false // an accepting ack of the latest attempt has been read
		s.cond.Broadcast()
		return true
	case ack != nil:
		s.denied = true // not the end of an older attempt's doubt
		s.giveUp(mig, ErrDenied)
	default:
		s.giveUp(mig, fmt.Errorf("%w: %w", ErrFailed, err))
		s.doubt = s.doubt || mig.sent
	}
	return false
}

// giveUp ends our unanswered attempt. Called under mu.
func (s *Stream) giveUp(mig *migration, err error) {
	s.m.table.drop(s.party, mig.newID)
	s.over(mig, err)
}

// dropLeg gets rid of a leg of ours that came to nothing. A peer known to verify is told that
// nothing was switched, in case it has acked, or will; to any other these bytes would be data
// (*Failure*).
func (m *Manager) dropLeg(l *leg, mayHaveAcked bool) {
	known := false
	m.table.with(l.party, func(st *peerState) { known = st.verifies })
	if !mayHaveAcked || !known || !m.cfg.Verify {
		go l.Reset()
		return
	}
	go func() {
		defer l.Reset()
		l.SetDeadline(time.Now().Add(cancelLinger))
		if _, err := l.Write(Switched{Cancelled: true}.Encode()); err != nil {
			return
		}
		if l.CloseWrite() == nil {
			io.Copy(io.Discard, io.LimitReader(l, MaxMessage))
		}
	}()
}
