//! The switch, which comes after the agreement: one direction at a time, the counts, completion.

use super::*;

impl Machine {
    pub(super) fn agree(&mut self, id: StreamId, initiator: bool, verify: bool, held: Option<Eof>) {
        self.put(Output::Agreed { verify, initiator });
        self.put(Output::Arm(Timer::Progress));
        self.set(Phase::Agreed(Agreed {
            id,
            initiator,
            verify,
            new: Ends::default(),
            out_switched: None,
            in_end: self.earlier_end(held),
            count: None,
            in_switched: false,
        }));
    }

    pub(super) fn earlier_end(&self, held: Option<Eof>) -> Option<InEnd> {
        match held {
            Some(eof) => Some(InEnd::Eof(eof)),
            // "An EOF read before the agreement counts as read."
            None if self.current.read => Some(InEnd::Earlier),
            None => None,
        }
    }

    pub(super) fn switched(&mut self, count: u64) {
        match &mut self.phase {
            Phase::Agreed(agreed) if agreed.verify && agreed.count.is_none() => {
                agreed.count = Some(count);
                self.put(Output::Arm(Timer::Progress));
                self.advance();
            }
            _ => {}
        }
    }

    pub(super) fn cancelled(&mut self, slot: Slot) {
        match (slot, self.phase) {
            (Slot::Theirs, _) => self.theirs_is_gone(),
            (Slot::New, Phase::Answering { held, .. }) => {
                self.nothing_was_switched(held, Failure::Cancelled);
            }
            (Slot::New, Phase::Agreed(agreed))
                if !agreed.initiator && agreed.verify && agreed.count.is_none() =>
            {
                match agreed.in_end {
                    Some(InEnd::Error) => self.fail(Abort::LegLost),
                    Some(InEnd::Eof(eof)) => {
                        self.nothing_was_switched(Some(eof), Failure::Cancelled);
                    }
                    Some(InEnd::Earlier) | None => {
                        self.nothing_was_switched(None, Failure::Cancelled);
                    }
                }
            }
            (Slot::New, Phase::Agreed(_)) => self.abort(Abort::Violation),
            _ => {}
        }
    }

    /// *Switching, one direction at a time*: the out side leaves the old leg.
    pub(super) fn switch_out(&mut self) {
        let Phase::Agreed(agreed) = &mut self.phase else {
            return;
        };
        if self.out == Out::Failed {
            // What the old leg refused cannot be said on the new one.
            return self.fail(Abort::LegLost);
        }
        agreed.out_switched = Some(self.sent);
        let verify = agreed.verify;
        // *Half-closed streams*: the count is sent for a closed direction too, then the FIN.
        let fin = self.out == Out::Closed;
        agreed.new.fin = fin;
        if verify {
            self.outputs.push_back(Output::SendSwitched(self.sent));
        }
        if !self.current.fin {
            self.current.fin = true;
            self.outputs.push_back(Output::Close(Slot::Current));
        }
        if fin {
            self.outputs.push_back(Output::Close(Slot::New));
        }
        self.out_leg_begins();
    }

    /// The old leg's end will not come, or not as one. Between two that verify the counts decide: ours
    /// whether the remote has read all, the remote's whether we have.
    pub(super) fn old_leg_lost(&mut self) {
        let Phase::Agreed(agreed) = &mut self.phase else {
            return;
        };
        if agreed.in_end.is_some() {
            return;
        }
        let count_decides = agreed.out_switched.is_some() || obeys!(self, CountIsEnough);
        if !agreed.verify || !count_decides {
            return self.fail(Abort::LegLost);
        }
        agreed.in_end = Some(InEnd::Error);
        self.current.read = true;
        self.advance();
    }

    /// The old leg takes nothing more.
    pub(super) fn old_leg_refuses(&mut self) {
        let Phase::Agreed(agreed) = self.phase else {
            return;
        };
        if !agreed.verify {
            self.fail(Abort::LegLost);
        } else if agreed.out_switched.is_some() {
            // The remote's comparison with our count decides.
            self.current.closed = true;
            self.complete_if_done();
        } else if obeys!(self, CountIsEnough) {
            // As it will once we have said it. What comes until then, waits for the new leg.
            self.current.refused = true;
            self.current.closed = self.current.fin;
        } else {
            self.fail(Abort::LegLost);
        }
    }

    /// Does whatever the old leg's end and the count now allow.
    pub(super) fn advance(&mut self) {
        let Phase::Agreed(mut agreed) = self.phase else {
            return;
        };
        if !agreed.in_switched {
            match (agreed.in_end, agreed.count) {
                (None, Some(_)) if !obeys!(self, CountIsEnough) => return,
                // The count tells by itself whether all has been read: the old leg's path may be silent,
                // and its end never come.
                (_, Some(count)) if count == self.received => {
                    agreed.in_switched = true;
                    // That explains an end of the old leg, too.
                    self.unexplained = None;
                }
                (_, Some(count)) if count < self.received => return self.abort(Abort::Violation),
                (None, _) => return,
                (Some(_), Some(_)) => return self.fail(Abort::Cut),
                (Some(_), None) if agreed.verify => {
                    if agreed.initiator || obeys!(self, CountIsCommit) {
                        return;
                    }
                }
                (Some(InEnd::Error), None) => return self.fail(Abort::LegLost),
                (Some(InEnd::Eof(eof)), None) if eof.ambiguous && eof.proof == Proof::Disagrees => {
                    return self.fail(Abort::Unproven);
                }
                (Some(InEnd::Eof(_) | InEnd::Earlier), None) => agreed.in_switched = true,
            }
            self.phase = Phase::Agreed(agreed);
            if agreed.out_switched.is_none() {
                self.switch_out();
            }
        }
        self.complete_if_done();
    }

    pub(super) fn complete_if_done(&mut self) {
        let Phase::Agreed(agreed) = self.phase else {
            return;
        };
        // Its end is waited for even so, for a while: what is more than was counted has to be noticed.
        let switched = agreed.out_switched.is_some() && agreed.in_switched;
        if !switched || agreed.in_end.is_none() || !self.current.closed {
            return;
        }
        self.id = agreed.id;
        self.has_verified |= agreed.verify;
        self.current = agreed.new;
        self.doubt = false;
        self.put(Output::Disarm);
        self.put(Output::Complete {
            initiator: agreed.initiator,
        });
        self.back_to_stable(None);
    }
}
