//! The one entry for inputs; the application's and time's are handled here, the others beside it. Each
//! transition names the clause it implements.

use super::*;

impl Machine {
    /// Takes one input. Inputs that make no sense in the present state change nothing: what a remote
    /// or a late timer does must never be a panic here.
    pub fn handle(&mut self, input: Input) {
        #[cfg(any(test, stream_migration_mutants))]
        let input = self.disobey(input);
        if self.over().is_some() {
            if let Input::Migrate { .. } | Input::Resume { .. } = input {
                self.put(Output::Drop(Slot::Theirs));
            }
            return;
        }
        match input {
            Input::Start { id } => self.start(id),
            Input::Answered { deny, verify } => self.acked(deny, verify),
            Input::Migrate { id, from, verify } => self.migrate(Theirs {
                id,
                from,
                verify,
                asked: None,
            }),
            Input::Verdict(question, verdict) => self.verdict(question, verdict),
            Input::HeldTooLong => self.held_too_long(),
            Input::AnswerWritten => self.ack_written(),
            Input::Switched(count) => self.switched(count),
            Input::ReadAll => self.read_all(),
            Input::Cancelled(slot) => self.cancelled(slot),
            Input::End(slot, eof) => self.end(slot, eof),
            Input::ReadFailed(slot) => self.read_failed(slot),
            Input::WriteFailed(slot) => self.write_failed(slot),
            Input::Unexpected(slot) => self.unexpected(slot),
            Input::Closed(slot) => self.closed(slot),
            Input::CloseWrite => self.close_write(),
            Input::Dropped { closed, answered } => self.dropped(closed, answered),
            Input::Timeout => self.timeout(),
            Input::ProbeAnswered => {
                // Who answers is only slow.
                if self.is_agreed() || self.waits_detached() {
                    self.put(Output::Arm(Timer::Progress));
                }
                self.wait_for_rest();
            }
            Input::ProbeFailed(slot) => self.probe_failed(slot),
            Input::Speaks(speech) => self.speaks(speech),
            Input::Said(facts) => self.said(facts),
            Input::Lost(slot) => self.lost(slot),
            Input::Resume {
                id,
                generation,
                facts,
            } => self.resume(id, generation, facts),
            Input::Resumed(facts) => self.resumed(facts),
            Input::Replayed => self.replayed(),
        }
        self.finish_if_done();
    }

    // ---- The application ---------------------------------------------------------------------------

    pub(super) fn close_write(&mut self) {
        if self.out != Out::Open {
            return;
        }
        self.out = Out::Closed;
        // Before the end itself, so that it explains that.
        self.say();
        if self.is_legless() || self.is_replaying() {
            // When everything before it has been said.
            return;
        }
        let slot = match &mut self.phase {
            Phase::Agreed(agreed) if agreed.out_switched.is_some() => {
                agreed.new.fin = true;
                Slot::New
            }
            _ => {
                self.current.fin = true;
                Slot::Current
            }
        };
        self.put(Output::Close(slot));
    }

    pub(super) fn dropped(&mut self, closed: bool, answered: bool) {
        let ended = self.has_ended() && obeys!(self, DropAfterEndIsNoAbort);
        if !closed && !ended {
            // *Failure*: what was flushed before is to arrive, on whichever leg it is.
            self.leaving = self.is_migrating() && obeys!(self, DropAfterMove);
            if !self.leaving {
                self.abort(Abort::Dropped);
            }
            return;
        }
        self.detached = true;
        self.listening = !answered;
        if self.holds_theirs() && self.phase == Phase::Stable {
            self.deny();
        }
        match self.phase {
            Phase::Stable => self.put(Output::Arm(Timer::Progress)),
            // Only the rest of what the remote writes would come, and nobody reads it.
            Phase::Legless { .. } if self.is_done_with() => self.do_without(),
            _ => {}
        }
    }

    pub(super) fn finish_if_done(&mut self) {
        let done = self.detached
            && self.phase == Phase::Stable
            && self.theirs.is_none()
            && self.current.closed
            && self.is_heard_to_its_end();
        if done {
            if !self.in_ended {
                // Whoever writes to nobody is told.
                self.say();
            }
            self.put(Output::Disarm);
            self.set(Phase::Finished);
            self.put(Output::Finish);
        }
    }

    // ---- Time --------------------------------------------------------------------------------------

    pub(super) fn timeout(&mut self) {
        match self.phase {
            Phase::Requested { .. } => {
                let held = self.attempt_failed(Failure::TimedOut);
                self.back_to_stable(held);
            }
            Phase::Answering { held, .. } => self.nothing_was_switched(held, Failure::TimedOut),
            Phase::Agreed(_) | Phase::Stable
                if self.detached && !obeys!(self, DetachedIsWaitedFor) =>
            {
                self.fail(Abort::TimedOut);
            }
            Phase::Legless { .. } => self.abort(Abort::LegLost),
            Phase::Stable if self.is_unexplained() && !obeys!(self, UnexplainedIsGivenUp) => {}
            Phase::Stable if self.is_unexplained() && (!self.detached || self.resumes()) => {
                self.fail(Abort::Unproven);
            }
            Phase::Stable if self.waits_for_rest() => self.put(Output::Probe(Slot::Current)),
            Phase::Stable if self.has_heard_enough() => self.listening = false,
            // A reader may take its time, and we have ours; but is anybody there?
            Phase::Stable if self.waits_detached() => self.put(Output::Probe(Slot::Current)),
            Phase::Agreed(_) if self.leaving => self.abort(Abort::Dropped),
            Phase::Agreed(agreed) if agreed.in_switched && agreed.in_end.is_none() => {
                // It has had its time, and we have all that it was to bring.
                self.old_leg_lost();
                if self.is_agreed() {
                    self.timeout();
                }
            }
            Phase::Agreed(agreed) => {
                // "No wait on an old leg is for ever": whom do we wait for? A responder's old leg may be
                // well, and the count that it waits for lost with the new one.
                let closing = agreed.out_switched.is_some() && !self.current.closed;
                if agreed.in_end.is_none() || closing {
                    self.put(Output::Probe(Slot::Current));
                }
                if agreed.verify && agreed.count.is_none() {
                    self.put(Output::Probe(Slot::New));
                }
            }
            Phase::Stable | Phase::Aborted(_) | Phase::Finished => {}
        }
    }

    /// The application has let go of the stream, and it is not at its end.
    fn waits_detached(&self) -> bool {
        self.detached && self.phase == Phase::Stable
    }

    /// The remote was waited for until it has said that it agrees to the protocol, and has said something.
    /// It need not say more: it has all that we wrote.
    fn has_heard_enough(&self) -> bool {
        self.listening && !self.has_verified && self.current.closed && self.received > 0
    }

    /// Takes that connection for gone, though its legs do not say so.
    pub(super) fn probe_failed(&mut self, slot: Slot) {
        if self.waits_detached() && slot == Slot::Current {
            return self.fail(Abort::TimedOut);
        }
        if self.waits_for_rest() && slot == Slot::Current {
            return self.abort(Abort::Gone);
        }
        if !self.is_agreed() {
            return;
        }
        match slot {
            Slot::Current => {
                self.read_failed(Slot::Current);
                if self.is_agreed() && !self.current.closed {
                    self.write_failed(Slot::Current);
                }
                if self.is_agreed() {
                    self.put(Output::Arm(Timer::Progress));
                }
            }
            _ => self.fail(Abort::TimedOut),
        }
    }

    pub(super) fn abort(&mut self, abort: Abort) {
        self.end_in(abort);
        self.put(Output::Abort(abort));
    }

    /// The drop that has waited for the end of a migration.
    pub(super) fn leave(&mut self) {
        self.end_in(Abort::Dropped);
        self.put(Output::Leave);
    }

    fn end_in(&mut self, abort: Abort) {
        self.theirs = None;
        self.say();
        self.put(Output::Disarm);
        self.set(Phase::Aborted(abort));
    }
}
