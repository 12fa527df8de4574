package migration

import (
	"errors"
	"fmt"
	"time"
)

// verdict is what the state of a stream says about a Migrate for it.
type verdict int

const (
	proceed verdict = iota
	hold            // wait for the state to change
	drop            // without an answer: try again later
	deny            // for ever
)

// respond serves a new leg on which Migrate has been read.
func (m *Manager) respond(l *leg, msg Migrate) {
	deadline := time.Now().Add(m.cfg.HoldTimeout)
	if s, _, _ := m.table.find(l.party, msg.ID); s != nil {
		m.inUse(l)
		return
	}
	s, e := m.awaitStream(l, msg, deadline)
	switch {
	case s != nil:
		s.answer(l, msg, deadline)
	case e != nil && e.clean:
		// A deny proves that nothing was switched ("Overtaking").
		m.deny(l)
	default:
		l.Reset()
	}
}

// inUse aborts the new leg, and nothing else, for an ID in use (*Stream IDs*).
func (m *Manager) inUse(l *leg) {
	m.InUse.Add(1)
	l.Reset()
}

func (m *Manager) deny(l *leg) {
	m.writeAck(l, Ack{Deny: true})
	l.Close() // "the new stream should be closed"
}

// writeAck says whether any of the answer may have left.
func (m *Manager) writeAck(l *leg, ack Ack) bool {
	l.SetWriteDeadline(time.Now().Add(m.cfg.AckTimeout))
	defer l.SetWriteDeadline(noDeadline)
	n, _ := l.Write(ack.Encode(m.cfg.BareAck))
	return n > 0
}

// heldSlot takes one of the peer's places for a Migrate that waits; false: there is none.
func (m *Manager) heldSlot(l *leg) (ok bool) {
	m.table.with(l.party, func(st *peerState) {
		if ok = st.held < m.cfg.MaxHeld; ok {
			st.held++
		}
	})
	return ok
}

func (m *Manager) freeSlot(l *leg) {
	m.table.with(l.party, func(st *peerState) { st.held-- })
}

// awaitStream finds the stream, or what is remembered of it. A Migrate may overtake the label on
// a slower connection: it is held until the label comes (*Overtaking*).
func (m *Manager) awaitStream(l *leg, msg Migrate, deadline time.Time) (*Stream, *ended) {
	s, e, changed := m.table.find(l.party, msg.From)
	if s != nil || e != nil || !m.heldSlot(l) {
		return s, e
	}
	defer m.freeSlot(l)
	late := time.NewTimer(time.Until(deadline))
	defer late.Stop()
	for s == nil && e == nil {
		select {
		case <-changed:
			s, e, changed = m.table.find(l.party, msg.From)
		case <-late.C:
			return nil, nil
		}
	}
	return s, e
}

// answer answers a Migrate that has been matched to the stream.
func (s *Stream) answer(l *leg, msg Migrate, deadline time.Time) {
	s.m.cfg.Event(Event{Kind: MigrateReceived, Stream: s, To: l.Conn()})
	decided, decision := false, Accept
	for {
		v := s.settled(l, msg, deadline)
		if v == proceed && !decided {
			// The application may take its time; look again afterwards.
			decided, decision = true, s.m.cfg.Decide(s)
			deadline = time.Now().Add(s.m.cfg.HoldTimeout)
			if decision != Deny {
				continue
			}
		}
		switch {
		case v == drop || v == proceed && decision == Ignore:
			l.Reset()
		case v == deny || v == proceed && decision == Deny:
			// Our own Migrate, if there is one, stays ("Who starts").
			s.mu.Lock()
			s.refused = true
			s.mu.Unlock()
			s.m.deny(l)
		case decision == ResetBeforeAck:
			s.Reset()
			l.Reset()
		default:
			if !s.accept(l, msg, decision == ResetAfterAck) {
				continue
			}
		}
		return
	}
}

// settled waits until the state has a verdict other than hold.
func (s *Stream) settled(l *leg, msg Migrate, deadline time.Time) verdict {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.consider(msg)
	if v != hold {
		return v
	}
	if !s.m.heldSlot(l) {
		return drop
	}
	defer s.m.freeSlot(l)
	wake := time.AfterFunc(time.Until(deadline), func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.cond.Broadcast()
	})
	defer wake.Stop()
	for v == hold && time.Now().Before(deadline) {
		s.cond.Wait()
		v = s.consider(msg)
	}
	if v == hold {
		return drop
	}
	return v
}

// consider is the rules for a Migrate (*Who starts*, *Overtaking*). Called under mu.
func (s *Stream) consider(msg Migrate) verdict {
	mig := s.mig
	switch {
	case s.err != nil || s.detached:
		return drop
	case s.finished || mig == nil && s.eof && s.closed, s.refused:
		return deny
	case mig != nil && mig.newID == msg.From:
		// From the ID that the open migration will give: the other side has completed first.
		return hold
	case msg.From != s.id:
		return drop // retired since it was held
	case mig != nil && mig.phase == agreed && mig.initiator:
		return drop // the simultaneous start is decided, for ours
	case mig != nil && mig.phase != asking:
		return hold // may yet be cancelled, and then this ID is still good
	case s.doubt && !(s.m.cfg.Verify && msg.Verify):
		// Before looking at our own attempt: yielding that one is a failed attempt too, but the
		// ack that ends its doubt is then ours to write, and the designated peer has not acked it.
		return drop
	case mig != nil && designated(s.local, s.peer) == s.local:
		return hold // until ours is decided
	case s.writeErr != nil:
		return drop
	}
	return proceed
}

// tooFast counts a Migrate that is about to be accepted. Called under mu.
func (s *Stream) tooFast() bool {
	if now := time.Now(); now.Sub(s.rateStart) > time.Second {
		s.rateStart, s.rateCount = now, 0
	}
	s.rateCount++
	return s.rateCount > s.m.cfg.MaxRate
}

// accept yields our own attempt, if there is one, and writes an accepting ack. False: the state
// has changed, look again.
func (s *Stream) accept(l *leg, msg Migrate, thenReset bool) bool {
	s.mu.Lock()
	if s.consider(msg) != proceed {
		s.mu.Unlock()
		return false
	}
	if s.tooFast() {
		s.mu.Unlock()
		l.Reset()
		return true
	}
	if err := s.m.table.put(s.party, msg.ID, s); err != nil {
		s.mu.Unlock()
		if errors.Is(err, errInUse) {
			s.m.inUse(l)
		} else {
			l.Reset()
		}
		return true
	}
	if own := s.mig; own != nil {
		s.giveUp(own, errYielded)
		s.doubt = s.doubt || own.sent // yielding is a failed attempt too
	}
	mig := &migration{old: s.in, new: l, newID: msg.ID, phase: acking,
		verify: s.m.cfg.Verify && msg.Verify, done: make(chan struct{})}
	s.mig = mig
	s.mu.Unlock()

	left := s.m.writeAck(l, Ack{Verify: mig.verify})

	s.mu.Lock()
	switch {
	case s.mig != mig: // aborted meanwhile
		s.mu.Unlock()
		l.Reset()
		return true
	case !left:
		// The initiator has dropped the leg, and cannot have read an answer.
		s.m.table.drop(s.party, mig.newID)
		s.over(mig, fmt.Errorf("%w: the new leg was gone", ErrFailed))
		s.mu.Unlock()
		l.Reset()
		return true
	}
	mig.phase = agreed
	s.cond.Broadcast()
	s.mu.Unlock()
	if thenReset {
		s.Reset()
		return true
	}
	if mig.verify {
		go s.readCount(mig)
	}
	return true
}
