//! The loss of all legs, and the way back: between two that resume, whatever goes wrong with the legs has one remedy
//! (*Resume*). All legs are let go of, and the opener, nobody else, asks on another that the stream go on there. Each
//! then writes again what the other has not got.

use super::*;

/// The state of what is kept of what we wrote, and how often the stream was resumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Kept {
    opener: bool,
    /// True if we keep what the remote has not got.
    keeps: bool,
    /// The first byte that is kept: those before it have arrived, or were too many.
    from: u64,
    /// The bytes that have arrived, by the remote's word.
    acknowledged: u64,
    /// The number of the last resume, the opener's last attempt or the acceptor's last consent.
    generation: u64,
    /// True while the remote's missing bytes are written on the leg again, before anything new.
    replaying: bool,
    /// The count from which on what was written is on the leg that is written now.
    leg_from: u64,
}

impl Kept {
    pub(super) fn new(setup: Setup) -> Self {
        Self {
            opener: setup.opener,
            keeps: setup.keeps,
            from: 0,
            acknowledged: 0,
            generation: 0,
            replaying: false,
            leg_from: 0,
        }
    }

    pub(super) fn acknowledge(&mut self, received: u64) {
        self.acknowledged = self.acknowledged.max(received);
    }
}

impl Machine {
    // ---- Questions ---------------------------------------------------------------------------------

    /// True if what is written has to be kept: the remote resumes, or may yet say so.
    #[must_use]
    #[inline]
    pub fn keeps(&self) -> bool {
        self.kept.keeps
            && match self.word {
                Word::None => false,
                Word::Awaited => true,
                Word::Said(said) => said.resumes != Some(false) && said.gone.is_none(),
            }
    }

    /// True if the stream outlives its legs.
    #[must_use]
    pub fn resumes(&self) -> bool {
        let willing = matches!(self.word, Word::Said(said) if said.resumes == Some(true));
        willing && self.keeps() && self.out != Out::Failed
    }

    /// The bytes that the remote has, by its word.
    #[must_use]
    #[inline]
    pub fn acknowledged(&self) -> u64 {
        self.kept.acknowledged
    }

    /// True if what has not arrived is on the leg that is written now, so that how that is tells why.
    #[must_use]
    pub fn may_slide(&self) -> bool {
        !self.waits_for_leg() && self.kept.acknowledged >= self.kept.leg_from
    }

    /// The out side is on another leg from now on.
    pub(super) fn out_leg_begins(&mut self) {
        self.kept.leg_from = self.sent;
    }

    /// True if something that may not have arrived is not kept any more.
    #[must_use]
    pub fn has_slid(&self) -> bool {
        self.kept.from > self.kept.acknowledged
    }

    /// Notes that bytes before this count are not kept any more, though they may not have arrived.
    pub fn slid_to(&mut self, from: u64) {
        self.kept.from = from;
    }

    /// True if the stream has no leg.
    #[must_use]
    pub fn is_legless(&self) -> bool {
        matches!(self.phase, Phase::Legless { .. })
    }

    /// True if what is written, and the end of it, waits for another leg, or for its turn there.
    #[must_use]
    pub fn waits_for_leg(&self) -> bool {
        self.is_legless() || self.kept.replaying
    }

    /// True if the stream has no leg, and ours is the next move.
    #[must_use]
    pub fn wants_leg(&self) -> bool {
        self.kept.opener && self.phase == Phase::Legless { id: None }
    }

    /// True if what the remote has not got is being written again.
    #[must_use]
    #[inline]
    pub fn is_replaying(&self) -> bool {
        self.kept.replaying
    }

    /// True if the remote has everything that we wrote.
    #[must_use]
    pub fn is_delivered(&self) -> bool {
        self.kept.acknowledged == self.sent
    }

    /// True if the stream outlives its legs, and what was written, or the end of it, has not arrived.
    #[must_use]
    pub fn awaits_arrival(&self) -> bool {
        let end = self.out == Out::Closed && !self.is_done_with();
        self.resumes() && (!self.is_delivered() || end || self.is_agreed())
    }

    /// True if an attempt of this number would take the place of the stream's legs.
    #[must_use]
    pub fn admits(&self, generation: u64) -> bool {
        let newer = generation > self.kept.generation || !obeys!(self, OlderIsDropped);
        !self.kept.opener && self.resumes() && newer
    }

    /// The acceptor's word that it has no leg.
    pub(super) fn has_lost(&self) -> Option<u64> {
        let lost = self.is_legless() && !self.kept.opener;
        let next = self.kept.generation.saturating_add(1);
        (lost && obeys!(self, AcceptorSaysLost)).then_some(next)
    }

    /// True if the remote has said that it has all that we wrote, and that it was all.
    #[must_use]
    pub fn is_done_with(&self) -> bool {
        matches!(self.word, Word::Said(said) if said.done)
    }

    /// True if the leg is needed for anything.
    fn needs_leg(&self) -> bool {
        !(self.is_done_with() && (self.in_ended || self.detached))
    }

    // ---- Losing legs -------------------------------------------------------------------------------

    /// A leg that was needed is gone, or what it said cannot be.
    pub(super) fn fail(&mut self, abort: Abort) {
        if self.resumes() {
            self.suspend();
        } else {
            self.abort(abort);
        }
    }

    /// The connection of this leg is lost, or given up.
    pub(super) fn lost(&mut self, slot: Slot) {
        let responds = matches!(self.phase, Phase::Agreed(agreed) if !agreed.initiator);
        self.read_failed(slot);
        let goes_on = !self.is_legless() && self.over().is_none();
        let there = match slot {
            Slot::Current => true,
            // It may be the current one, or nothing, by now.
            Slot::New => self.is_agreed(),
            Slot::Ours | Slot::Theirs => false,
        };
        if goes_on && there && (slot == Slot::Current || !responds || self.has_count()) {
            self.write_failed(slot);
        }
    }

    /// The new leg of a migration is gone before it was needed, or when it was.
    pub(super) fn new_leg_lost(&mut self) {
        match self.phase {
            Phase::Agreed(agreed)
                if !agreed.initiator
                    && agreed.verify
                    && agreed.count.is_none()
                    && self.resumes()
                    && obeys!(self, ResponderGoesBack) =>
            {
                match agreed.in_end {
                    // Who has ended the old leg has switched.
                    Some(InEnd::Eof(_) | InEnd::Error) => self.suspend(),
                    Some(InEnd::Earlier) | None => {
                        self.nothing_was_switched(None, Failure::LegLost);
                    }
                }
            }
            _ => self.fail(Abort::LegLost),
        }
    }

    fn has_count(&self) -> bool {
        matches!(self.phase, Phase::Agreed(agreed) if agreed.count.is_some())
    }

    /// The leg takes nothing more of what was to be written again.
    pub(super) fn replay_no_more(&mut self) {
        self.kept.replaying = false;
    }

    /// Lets go of all legs.
    pub(super) fn suspend(&mut self) {
        if !self.needs_leg() {
            return self.do_without();
        }
        if self.leaving {
            return self.abort(Abort::Dropped);
        }
        self.let_go_of_legs();
        if self.is_spoken_to() && !self.kept.opener {
            self.say();
        }
        self.put(Output::Arm(Timer::Resume));
    }

    fn let_go_of_legs(&mut self) {
        if self.theirs.is_some() {
            self.drop_theirs();
        }
        match self.phase {
            Phase::Requested { .. } => self.put(Output::Failed(Failure::LegLost)),
            Phase::Answering { .. } => self.put(Output::TheirsFailed(Failure::LegLost)),
            Phase::Agreed(agreed) => self.put(match agreed.initiator {
                true => Output::Failed(Failure::LegLost),
                false => Output::TheirsFailed(Failure::LegLost),
            }),
            _ => {}
        }
        self.set(Phase::Legless { id: None });
        self.unexplained = None;
        self.kept.replaying = false;
        self.current = Ends::default();
        self.put(Output::Suspend);
    }

    /// Nothing is to be read or written any more: the stream is at its end without a leg, too.
    pub(super) fn do_without(&mut self) {
        self.current = Ends {
            fin: true,
            closed: true,
            read: true,
            refused: self.current.refused,
        };
        self.kept.replaying = false;
        let failed = match self.phase {
            Phase::Legless { .. } => {
                self.attempt_lost();
                self.put(Output::Disarm);
                return self.set(Phase::Stable);
            }
            Phase::Requested { .. } => {
                self.attempt_failed(Failure::LegLost);
                return self.back_to_stable(None);
            }
            Phase::Answering { .. } => Output::TheirsFailed(Failure::LegLost),
            Phase::Agreed(agreed) => match agreed.initiator {
                true => Output::Failed(Failure::LegLost),
                false => Output::TheirsFailed(Failure::LegLost),
            },
            Phase::Stable | Phase::Aborted(_) | Phase::Finished => return,
        };
        self.put(Output::Disarm);
        self.put(Output::Drop(Slot::New));
        self.put(failed);
        self.back_to_stable(None);
    }

    /// Looks whether the remote's word means that another leg is needed, or that none is.
    pub(super) fn said_of_legs(&mut self, facts: Facts) {
        if self.over().is_some() {
            return;
        }
        if let Phase::Legless { .. } = self.phase {
            if self.is_written_in_vain() {
                // What it wrote before will not come.
                return self.abort(Abort::Gone);
            }
            if !self.needs_leg() {
                return self.do_without();
            }
        }
        let news = facts.lost == Some(self.kept.generation.saturating_add(1))
            || !obeys!(self, LostIsOfNow);
        if facts.lost.is_some() && news && self.kept.opener && self.resumes() {
            match self.phase {
                Phase::Legless { id: None } => {}
                Phase::Legless { id: Some(_) } => self.attempt_lost(),
                _ => self.suspend(),
            }
        }
    }

    // ---- The opener --------------------------------------------------------------------------------

    /// Asks on the leg in [`Slot::Ours`] that the stream go on there.
    pub(super) fn ask_to_resume(&mut self, id: StreamId) {
        self.kept.generation = self.kept.generation.saturating_add(1);
        self.set(Phase::Legless { id: Some(id) });
        self.put(Output::SendResume {
            id,
            generation: self.kept.generation,
        });
    }

    /// The leg of the attempt is gone, or brings no answer.
    pub(super) fn attempt_lost(&mut self) {
        if let Phase::Legless { id: Some(_) } = self.phase {
            self.set(Phase::Legless { id: None });
            self.put(Output::Drop(Slot::Ours));
            self.put(Output::Failed(Failure::LegLost));
        }
    }

    /// The acceptor has taken the leg.
    pub(super) fn resumed(&mut self, facts: Facts) {
        let Phase::Legless { id: Some(id) } = self.phase else {
            return;
        };
        self.said(facts);
        if self.phase == (Phase::Legless { id: Some(id) }) {
            self.go_on(id, Slot::Ours, facts.received);
        }
    }

    // ---- The acceptor ------------------------------------------------------------------------------

    /// The opener asks that the stream go on, on the leg in [`Slot::Theirs`], in whatever phase it is here.
    pub(super) fn resume(&mut self, id: StreamId, generation: u64, facts: Facts) {
        // Its leg has been replaced.
        self.theirs = None;
        if !self.admits(generation) {
            return self.put(Output::Drop(Slot::Theirs));
        }
        if self.leaving {
            // The migration whose end was waited for is over.
            return self.abort(Abort::Dropped);
        }
        if !self.is_legless() {
            self.let_go_of_legs();
        }
        self.kept.generation = generation;
        self.said(facts);
        if self.over().is_none() {
            self.go_on(id, Slot::Theirs, facts.received);
        }
    }

    // ---- Both --------------------------------------------------------------------------------------

    /// The leg in this slot is the stream's, from the byte on that the remote has not got.
    fn go_on(&mut self, id: StreamId, slot: Slot, from: u64) {
        if from < self.kept.from && obeys!(self, SlidIsNoticed) {
            return self.abort(Abort::LegLost);
        }
        self.id = id;
        self.current = Ends::default();
        self.kept.replaying = true;
        self.kept.leg_from = from;
        self.put(Output::Disarm);
        if self.detached {
            self.put(Output::Arm(Timer::Progress));
        }
        self.set(Phase::Stable);
        self.put(Output::Resume { slot, from });
    }

    /// The leg has been given all that the remote had not got.
    pub(super) fn replayed(&mut self) {
        if !std::mem::take(&mut self.kept.replaying) || self.phase != Phase::Stable {
            return;
        }
        if self.out == Out::Closed {
            self.current.fin = true;
            self.put(Output::Close(Slot::Current));
        }
        self.consider_theirs();
    }
}
