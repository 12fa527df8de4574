//! After the agreement: one direction at a time, the counts, completion.

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
            (Slot::New, Phase::Acking { held, .. }) => {
                self.nothing_was_switched(held, Failure::Cancelled);
            }
            (Slot::New, Phase::Agreed(agreed))
                if !agreed.initiator && agreed.verify && agreed.count.is_none() =>
            {
                match agreed.in_end {
                    Some(InEnd::Error) => self.abort(Abort::LegLost),
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
            return self.abort(Abort::LegLost);
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
    }

    /// Does whatever the old leg's end and the count now allow.
    pub(super) fn advance(&mut self) {
        let Phase::Agreed(mut agreed) = self.phase else {
            return;
        };
        if let Some(end) = agreed.in_end
            && !agreed.in_switched
        {
            if agreed.verify {
                match agreed.count {
                    Some(count) if count == self.received => agreed.in_switched = true,
                    Some(count) if count > self.received => return self.abort(Abort::Cut),
                    Some(_) => return self.abort(Abort::Violation),
                    None if !agreed.initiator && !obeys!(self, CountIsCommit) => {}
                    None => return,
                }
            } else {
                match end {
                    InEnd::Error => return self.abort(Abort::LegLost),
                    InEnd::Eof(eof) if eof.ambiguous && eof.proof == Proof::Disagrees => {
                        return self.abort(Abort::Unproven);
                    }
                    InEnd::Eof(_) | InEnd::Earlier => agreed.in_switched = true,
                }
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
        if agreed.out_switched.is_none() || !agreed.in_switched || !self.current.closed {
            return;
        }
        self.id = agreed.id;
        self.strict |= agreed.verify;
        self.current = agreed.new;
        self.doubt = false;
        self.put(Output::Disarm);
        self.put(Output::Complete {
            initiator: agreed.initiator,
        });
        self.back_to_stable(None);
    }
}
