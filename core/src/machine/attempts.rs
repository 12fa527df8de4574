//! Attempts, which come before the agreement: ours and the remote's.

use super::*;

impl Machine {
    pub(super) fn start(&mut self, id: StreamId) {
        if self.wants_leg() {
            return self.ask_to_resume(id);
        }
        if self.may_start().is_err() {
            self.put(Output::Drop(Slot::Ours));
            self.put(Output::Failed(Failure::Yielded));
            return;
        }
        self.set(Phase::Requested { id, held: None });
        self.put(Output::SendMigrate {
            id,
            from: self.id,
            verify: self.verify,
        });
        self.put(Output::Arm(Timer::Answer));
    }

    pub(super) fn acked(&mut self, deny: bool, verify: bool) {
        let Phase::Requested { id, held } = self.phase else {
            return;
        };
        self.put(Output::Disarm);
        if deny {
            // "it should not make future attempts to migrate this stream". An older attempt may still
            // be accepted, so doubt stays (rule 11).
            self.denied_by_them = true;
            if !obeys!(self, DenyKeepsDoubt) {
                self.doubt = false;
            }
            self.put(Output::Drop(Slot::Ours));
            self.put(Output::Failed(Failure::Denied));
            self.back_to_stable(held);
            return;
        }
        self.peer_verifies |= verify;
        self.doubt = false;
        let verify = verify && self.verify;
        // The designated peer's attempt won: the other's is dropped without an answer. A `Migrate`
        // from the ID that the stream is about to have is the next one, and is held.
        if self.theirs.is_some_and(|theirs| theirs.from != id) {
            self.drop_theirs();
        }
        self.agree(id, true, verify, held);
        self.switch_out();
        self.advance();
    }

    /// The attempt has failed, and the remote may or may not know: *Doubt*.
    pub(super) fn attempt_failed(&mut self, failure: Failure) -> Option<Eof> {
        let Phase::Requested { held, .. } = self.phase else {
            return None;
        };
        if failure != Failure::Yielded || obeys!(self, YieldIsFailure) {
            self.doubt = !self.is_spoken_to();
        }
        self.put(Output::Disarm);
        // Only a peer known to verify can read this; to any other these bytes would be data.
        self.put(if self.peer_verifies && self.verify {
            Output::Cancel
        } else {
            Output::Drop(Slot::Ours)
        });
        self.put(Output::Failed(failure));
        held
    }

    /// The old leg goes on. An end that was held is judged, and the remote's held `Migrate` is treated
    /// as just arrived.
    pub(super) fn back_to_stable(&mut self, held: Option<Eof>) {
        self.set(Phase::Stable);
        if self.leaving {
            return self.leave();
        }
        if self.detached {
            self.put(Output::Arm(Timer::Progress));
        }
        match held {
            Some(mut eof) => {
                if self.current.refused {
                    // Found out since it was read.
                    eof.proof = Proof::Disagrees;
                }
                self.judge(eof);
            }
            None => self.wait_for_word(),
        }
        self.consider_theirs();
    }

    // ---- Before the agreement: the remote's attempt ----------------------------------------------

    pub(super) fn migrate(&mut self, theirs: Theirs) {
        // The remote has one attempt at a time: an older one, whose leg has just been replaced, it has
        // given up.
        self.theirs = Some(theirs);
        self.consider_theirs();
    }

    pub(super) fn consider_theirs(&mut self) {
        let Some(theirs) = self.theirs else { return };
        if theirs.asked.is_some() {
            return;
        }
        match self.phase {
            Phase::Stable if theirs.from != self.id => self.drop_theirs(),
            Phase::Stable if self.unexplained.is_some() || self.is_replaying() => {
                self.hold_theirs();
            }
            Phase::Stable => self.ask(theirs),
            Phase::Requested { id, .. } if theirs.from == id => self.hold_theirs(),
            Phase::Requested { .. } if theirs.from != self.id => self.drop_theirs(),
            // Simultaneous start: the designated peer's wins.
            Phase::Requested { .. } if self.designated => {
                if !obeys!(self, DesignatedHolds) {
                    self.drop_theirs();
                }
            }
            Phase::Requested { .. } => self.ask(theirs),
            Phase::Answering { .. } | Phase::Agreed(_) => self.hold_theirs(),
            // The remote may not know yet, and would switch to a leg that is older than the next.
            Phase::Legless { .. } if !obeys!(self, LeglessTakesNone) => self.ask(theirs),
            Phase::Legless { .. } | Phase::Aborted(_) | Phase::Finished => self.drop_theirs(),
        }
    }

    pub(super) fn hold_theirs(&mut self) {
        if !obeys!(self, HoldWhileMigrating) {
            self.drop_theirs();
        }
    }

    pub(super) fn ask(&mut self, theirs: Theirs) {
        if self.may_accept(theirs) {
            self.questions = self.questions.wrapping_add(1);
            let question = Question(self.questions);
            self.theirs = Some(Theirs {
                asked: Some(question),
                ..theirs
            });
            self.put(Output::Ask(question));
        }
    }

    /// True if accepting is possible; if not, the `Migrate` has been answered or dropped.
    pub(super) fn may_accept(&mut self, theirs: Theirs) -> bool {
        let goes = self.detached || self.leaving || self.out == Out::Failed;
        if self.denied_by_us || self.has_ended() || goes {
            // A deny proves that nothing was switched (rule 5).
            self.deny();
            return false;
        }
        let in_doubt = self.doubt && obeys!(self, DoubtNeedsVerify);
        if in_doubt && !(theirs.verify && self.verify) {
            self.drop_theirs();
            return false;
        }
        true
    }

    pub(super) fn deny(&mut self) {
        self.denied_by_us = obeys!(self, DenyIsForGood);
        self.theirs = None;
        self.put(Output::Deny);
    }

    pub(super) fn drop_theirs(&mut self) {
        self.theirs = None;
        self.put(Output::Drop(Slot::Theirs));
    }

    pub(super) fn held_too_long(&mut self) {
        if self.holds_theirs() {
            self.drop_theirs();
        }
    }

    pub(super) fn verdict(&mut self, question: Question, verdict: Verdict) {
        let obeyed = obeys!(self, VerdictsAreNamed);
        let about = |theirs: &Theirs| match obeyed {
            true => theirs.asked == Some(question),
            false => theirs.asked.is_some(),
        };
        let Some(theirs) = self.theirs.filter(about) else {
            return;
        };
        match verdict {
            Verdict::NotNow => self.drop_theirs(),
            Verdict::Deny => {
                // Our own attempt, if there is one, is kept (rule 3).
                self.deny();
                if !obeys!(self, DenierKeepsItsOwn)
                    && let Phase::Requested { held, .. } = self.phase
                {
                    self.put(Output::Disarm);
                    self.put(Output::Drop(Slot::Ours));
                    self.doubt = !self.is_spoken_to();
                    self.back_to_stable(held);
                }
            }
            Verdict::Accept => {
                // Things may have changed since the policy was asked.
                if !self.may_accept(theirs) {
                    return;
                }
                let held = self.attempt_failed(Failure::Yielded);
                let verify = theirs.verify && self.verify;
                self.theirs = None;
                self.put(Output::Accept { verify });
                self.put(Output::Arm(Timer::Answer));
                self.set(Phase::Answering {
                    id: theirs.id,
                    verify,
                    held,
                });
            }
        }
    }

    pub(super) fn ack_written(&mut self) {
        let Phase::Answering { id, verify, held } = self.phase else {
            return;
        };
        if !obeys!(self, AckKeepsDoubt) {
            self.doubt = false;
        }
        self.agree(id, false, verify, held);
        self.advance();
    }

    /// The new leg of a migration that we have not acknowledged, or that was taken back, is gone.
    pub(super) fn nothing_was_switched(&mut self, held: Option<Eof>, failure: Failure) {
        self.put(Output::Disarm);
        self.put(Output::Drop(Slot::New));
        self.put(Output::TheirsFailed(failure));
        self.back_to_stable(held);
    }
}
