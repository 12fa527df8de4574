//! The legs' word: ends and what they are worth, failures, closes.

use super::*;

impl Machine {
    pub(super) fn end(&mut self, slot: Slot, mut eof: Eof) {
        let refused = match (slot, &self.phase) {
            (Slot::Current, _) => self.current.refused,
            (Slot::New, Phase::Agreed(agreed)) => agreed.new.refused,
            _ => false,
        };
        if refused {
            // What the empty write would have said, has been said.
            eof.proof = Proof::Disagrees;
        }
        match (slot, &mut self.phase) {
            (Slot::Current, Phase::Stable) => {
                self.current.read = true;
                eof.fin = self.current.fin;
                self.judge(eof);
            }
            (Slot::Current, Phase::Requested { held, .. } | Phase::Answering { held, .. }) => {
                self.current.read = true;
                eof.fin = self.current.fin;
                if !self.in_ended {
                    *held = Some(eof);
                }
            }
            (Slot::Current, Phase::Agreed(agreed)) if agreed.in_end.is_none() => {
                self.current.read = true;
                eof.fin = self.current.fin;
                agreed.in_end = Some(if self.in_ended {
                    InEnd::Earlier
                } else {
                    InEnd::Eof(eof)
                });
                self.put(Output::Arm(Timer::Progress));
                self.advance();
            }
            (Slot::New, Phase::Agreed(agreed)) if agreed.in_switched => {
                agreed.new.read = true;
                if !self.in_ended && !self.waits_for_word(eof) {
                    // A fresh leg on which nothing was attempted: not in doubt.
                    self.accept_end(eof);
                }
            }
            (Slot::New, Phase::Agreed(agreed)) => {
                if obeys!(self, EndBeforeCountAborts) {
                    self.new_leg_lost();
                } else if agreed.in_end.is_some() {
                    agreed.in_switched = true;
                    self.in_ended = true;
                    self.complete_if_done();
                }
            }
            (Slot::New | Slot::Ours | Slot::Theirs, _) => self.read_failed(slot),
            _ => {}
        }
    }

    /// Decides whether an end of the only leg is the application's (*Doubt*).
    pub(super) fn judge(&mut self, eof: Eof) {
        if self.in_ended || self.waits_for_word(eof) {
            return;
        }
        if self.doubt {
            let proven = if eof.fin {
                !obeys!(self, DoubtAfterFin)
            } else {
                eof.proof == Proof::Agrees || !obeys!(self, DoubtNeedsProof)
            };
            if !proven {
                return self.fail(Abort::Unproven);
            }
        }
        self.accept_end(eof);
    }

    pub(super) fn accept_end(&mut self, eof: Eof) {
        let verified = matches!(&self.phase, Phase::Agreed(agreed) if agreed.verify);
        if (eof.ambiguous || self.has_verified || verified) && eof.proof == Proof::Disagrees {
            self.fail(Abort::Unproven);
        } else {
            self.in_ended = true;
        }
    }

    pub(super) fn theirs_is_gone(&mut self) {
        if self.theirs.is_some() {
            self.drop_theirs();
        }
    }

    pub(super) fn read_failed(&mut self, slot: Slot) {
        match (slot, &mut self.phase) {
            (Slot::Ours, Phase::Legless { .. }) => self.attempt_lost(),
            (Slot::Ours, Phase::Requested { .. }) => {
                let held = self.attempt_failed(Failure::LegLost);
                self.back_to_stable(held);
            }
            (Slot::Theirs, _) => self.theirs_is_gone(),
            (Slot::New, Phase::Answering { held, .. }) => {
                let held = *held;
                self.nothing_was_switched(held, Failure::LegLost);
            }
            (Slot::New, Phase::Agreed(agreed)) => {
                if agreed.in_switched && self.in_ended {
                    agreed.new.read = true;
                } else {
                    self.new_leg_lost();
                }
            }
            // *Failure*, the exception: what has been counted has not been lost.
            (Slot::Current, Phase::Agreed(_)) => self.old_leg_lost(),
            (Slot::Current, Phase::Stable | Phase::Requested { .. } | Phase::Answering { .. }) => {
                if self.in_ended {
                    self.current.read = true;
                } else {
                    self.fail(Abort::LegLost);
                }
            }
            _ => {}
        }
    }

    pub(super) fn write_failed(&mut self, slot: Slot) {
        let needed = self.resumes() && !self.is_done_with();
        match (slot, &mut self.phase) {
            (Slot::Ours | Slot::Theirs, _) | (Slot::New, Phase::Answering { .. }) => {
                self.read_failed(slot);
            }
            (Slot::New, Phase::Agreed(agreed)) => {
                agreed.new.refused = true;
                if agreed.out_switched.is_some() && needed {
                    self.fail(Abort::LegLost);
                } else if agreed.out_switched.is_some() {
                    // As on a plain stream: the remote may have completed, read to the end and dropped
                    // the stream, and what it wrote can still be read. If the leg is lost, reading it
                    // will tell.
                    if !agreed.new.closed {
                        agreed.new.fin = true;
                        agreed.new.closed = true;
                        self.refuse();
                    }
                } else if !agreed.verify {
                    self.fail(Abort::LegLost);
                }
                // Else it was our ack, to an initiator that may have taken its `Migrate` back: what it
                // said is still to be read, and the leg's end aborts.
            }
            (Slot::Current, Phase::Agreed(_)) => self.old_leg_refuses(),
            (Slot::Current, Phase::Stable | Phase::Requested { .. } | Phase::Answering { .. }) => {
                self.current.refused = true;
                if needed {
                    return self.fail(Abort::LegLost);
                }
                self.replay_no_more();
                if !self.current.closed {
                    self.current.fin = true;
                    self.current.closed = true;
                    self.refuse();
                }
            }
            _ => {}
        }
    }

    /// The last leg refuses what was to be written on it, unless the remote has got all of it already.
    fn refuse(&mut self) {
        if !self.is_done_with() {
            self.out = Out::Failed;
        }
    }

    pub(super) fn unexpected(&mut self, slot: Slot) {
        match (slot, self.phase) {
            (Slot::Theirs, _) => self.theirs_is_gone(),
            (Slot::Ours, Phase::Requested { .. } | Phase::Legless { .. })
            | (Slot::New, Phase::Answering { .. }) => {
                self.read_failed(slot);
            }
            (Slot::Current, _) | (Slot::New, Phase::Agreed(_)) => self.abort(Abort::Violation),
            _ => {}
        }
    }

    pub(super) fn closed(&mut self, slot: Slot) {
        match (slot, &mut self.phase) {
            (Slot::Current, phase) => {
                self.current.closed = self.current.fin;
                if matches!(phase, Phase::Agreed(_)) {
                    self.complete_if_done();
                }
            }
            (Slot::New, Phase::Agreed(agreed)) => agreed.new.closed = agreed.new.fin,
            _ => {}
        }
    }
}
