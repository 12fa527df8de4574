//! The transitions. Each names the clause it implements.

use super::*;

/// Whether a rule is obeyed; always, except in tests that remove one.
macro_rules! obeys {
    ($machine:expr, $rule:ident) => {{
        #[cfg(test)]
        let obeyed = $machine.rules.without != Some(rules::Rule::$rule);
        #[cfg(not(test))]
        let obeyed = true;
        obeyed
    }};
}

impl Machine {
    /// Takes one input. Inputs that make no sense in the present state change nothing: what a remote
    /// or a late timer does must never be a panic here.
    pub(crate) fn handle(&mut self, input: Input) {
        if self.over().is_some() {
            if let Input::Migrate { .. } = input {
                self.put(Output::Drop(Slot::Theirs));
            }
            return;
        }
        match input {
            Input::Start { id } => self.start(id),
            Input::Acked { deny, verify } => self.acked(deny, verify),
            Input::Migrate { id, from, verify } => self.migrate(Theirs {
                id,
                from,
                verify,
                asked: false,
            }),
            Input::Verdict(verdict) => self.verdict(verdict),
            Input::AckWritten => self.ack_written(),
            Input::Switched(count) => self.switched(count),
            Input::Cancelled(slot) => self.cancelled(slot),
            Input::End(slot, eof) => self.end(slot, eof),
            Input::ReadFailed(slot) => self.read_failed(slot),
            Input::WriteFailed(slot) => self.write_failed(slot),
            Input::Unexpected(slot) => self.unexpected(slot),
            Input::Closed(slot) => self.closed(slot),
            Input::CloseWrite => self.close_write(),
            Input::Dropped { closed } => self.dropped(closed),
            Input::Timeout => self.timeout(),
            Input::ProbeAnswered => {
                if self.is_agreed() {
                    self.put(Output::Arm(Timer::Progress));
                }
            }
            Input::ProbeFailed(slot) => self.probe_failed(slot),
        }
        self.finish_if_done();
    }

    // ---- Before the agreement: our attempt -------------------------------------------------------

    fn start(&mut self, id: StreamId) {
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

    fn acked(&mut self, deny: bool, verify: bool) {
        let Phase::Requested { id, held } = self.phase else {
            return;
        };
        self.put(Output::Disarm);
        if deny {
            // "it should not make future attempts to migrate this stream". An older attempt may still
            // be accepted, so doubt stays (TRACES 11).
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
        self.put(Output::Agreed {
            verify,
            initiator: true,
        });
        self.put(Output::Arm(Timer::Progress));
        self.set(Phase::Agreed(Agreed {
            id,
            initiator: true,
            verify,
            new: Ends::default(),
            out_switched: None,
            in_end: self.earlier_end(held),
            count: None,
            in_switched: false,
        }));
        self.switch_out();
        self.advance();
    }

    /// The attempt has failed, and the remote may or may not know: *Switching*, on doubt.
    fn attempt_failed(&mut self, failure: Failure) -> Option<Eof> {
        let Phase::Requested { held, .. } = self.phase else {
            return None;
        };
        if failure != Failure::Yielded || obeys!(self, YieldIsFailure) {
            self.doubt = true;
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
    fn back_to_stable(&mut self, held: Option<Eof>) {
        self.set(Phase::Stable);
        if let Some(mut eof) = held {
            if self.current.refused {
                // Found out since it was read.
                eof.proof = Proof::Disagrees;
            }
            self.judge(eof);
        }
        self.consider_theirs();
    }

    // ---- Before the agreement: the remote's attempt ----------------------------------------------

    fn migrate(&mut self, theirs: Theirs) {
        // The remote has one attempt at a time: an older one, whose leg has just been replaced, it has
        // given up.
        self.theirs = Some(theirs);
        self.consider_theirs();
    }

    fn consider_theirs(&mut self) {
        let Some(theirs) = self.theirs else { return };
        if theirs.asked {
            return;
        }
        match self.phase {
            Phase::Stable if theirs.from != self.id => self.drop_theirs(),
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
            Phase::Acking { .. } | Phase::Agreed(_) => self.hold_theirs(),
            Phase::Aborted(_) | Phase::Finished => self.drop_theirs(),
        }
    }

    fn hold_theirs(&mut self) {
        if !obeys!(self, HoldWhileMigrating) {
            self.drop_theirs();
        }
    }

    fn ask(&mut self, theirs: Theirs) {
        if self.may_accept(theirs) {
            self.theirs = Some(Theirs {
                asked: true,
                ..theirs
            });
            self.put(Output::Ask);
        }
    }

    /// Whether accepting is possible; if not, the `Migrate` has been answered or dropped.
    fn may_accept(&mut self, theirs: Theirs) -> bool {
        if self.denied_by_us || self.has_ended() || self.detached || self.out == Out::Failed {
            // A deny proves that nothing was switched (TRACES 5).
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

    fn deny(&mut self) {
        self.denied_by_us = obeys!(self, DenyIsForGood);
        self.theirs = None;
        self.put(Output::Deny);
    }

    fn drop_theirs(&mut self) {
        self.theirs = None;
        self.put(Output::Drop(Slot::Theirs));
    }

    fn verdict(&mut self, verdict: Verdict) {
        let Some(theirs) = self.theirs.filter(|theirs| theirs.asked) else {
            return;
        };
        match verdict {
            Verdict::NotNow => self.drop_theirs(),
            Verdict::Deny => {
                // Our own attempt, if there is one, is kept (TRACES 3).
                self.deny();
                if !obeys!(self, DenierKeepsItsOwn)
                    && let Phase::Requested { held, .. } = self.phase
                {
                    self.put(Output::Disarm);
                    self.put(Output::Drop(Slot::Ours));
                    self.doubt = true;
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
                self.set(Phase::Acking {
                    id: theirs.id,
                    verify,
                    held,
                });
            }
        }
    }

    fn ack_written(&mut self) {
        let Phase::Acking { id, verify, held } = self.phase else {
            return;
        };
        if !obeys!(self, AckKeepsDoubt) {
            self.doubt = false;
        }
        self.put(Output::Agreed {
            verify,
            initiator: false,
        });
        self.put(Output::Arm(Timer::Progress));
        self.set(Phase::Agreed(Agreed {
            id,
            initiator: false,
            verify,
            new: Ends::default(),
            out_switched: None,
            in_end: self.earlier_end(held),
            count: None,
            in_switched: false,
        }));
        self.advance();
    }

    /// The new leg of a migration that we have not acknowledged, or that was taken back, is gone.
    fn nothing_was_switched(&mut self, held: Option<Eof>, failure: Failure) {
        self.put(Output::Disarm);
        self.put(Output::Drop(Slot::New));
        self.put(Output::TheirsFailed(failure));
        self.back_to_stable(held);
    }

    // ---- After the agreement ---------------------------------------------------------------------

    fn earlier_end(&self, held: Option<Eof>) -> Option<InEnd> {
        match held {
            Some(eof) => Some(InEnd::Eof(eof)),
            // "An EOF read before the agreement counts as read."
            None if self.current.read => Some(InEnd::Earlier),
            None => None,
        }
    }

    fn switched(&mut self, count: u64) {
        match &mut self.phase {
            Phase::Agreed(agreed) if agreed.verify && agreed.count.is_none() => {
                agreed.count = Some(count);
                self.put(Output::Arm(Timer::Progress));
                self.advance();
            }
            _ => {}
        }
    }

    fn cancelled(&mut self, slot: Slot) {
        match (slot, self.phase) {
            (Slot::Theirs, _) => self.theirs_is_gone(),
            (Slot::New, Phase::Acking { held, .. }) => {
                self.nothing_was_switched(held, Failure::Cancelled);
            }
            (Slot::New, Phase::Agreed(agreed)) if !agreed.initiator && agreed.count.is_none() => {
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
    fn switch_out(&mut self) {
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
    fn advance(&mut self) {
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

    fn complete_if_done(&mut self) {
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
        if self.detached {
            self.put(Output::Arm(Timer::Progress));
        }
        self.back_to_stable(None);
    }

    // ---- Legs --------------------------------------------------------------------------------------

    fn end(&mut self, slot: Slot, mut eof: Eof) {
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
            (Slot::Current, Phase::Requested { held, .. } | Phase::Acking { held, .. }) => {
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
                if !self.in_ended {
                    // A fresh leg on which nothing was attempted: not in doubt.
                    self.accept_end(eof);
                }
            }
            (Slot::New, Phase::Agreed(agreed)) => {
                if obeys!(self, EndBeforeCountAborts) {
                    self.abort(Abort::LegLost);
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

    /// Whether an end of the only leg is the application's (*Switching*, on doubt).
    fn judge(&mut self, eof: Eof) {
        if self.in_ended {
            return;
        }
        if self.doubt {
            let proven = if eof.fin {
                !obeys!(self, DoubtAfterFin)
            } else {
                eof.proof == Proof::Agrees || !obeys!(self, DoubtNeedsProof)
            };
            if !proven {
                return self.abort(Abort::Unproven);
            }
        }
        self.accept_end(eof);
    }

    fn accept_end(&mut self, eof: Eof) {
        let verified = matches!(&self.phase, Phase::Agreed(agreed) if agreed.verify);
        if (eof.ambiguous || self.strict || verified) && eof.proof == Proof::Disagrees {
            self.abort(Abort::Unproven);
        } else {
            self.in_ended = true;
        }
    }

    fn theirs_is_gone(&mut self) {
        if self.theirs.is_some() {
            self.drop_theirs();
        }
    }

    fn read_failed(&mut self, slot: Slot) {
        match (slot, &mut self.phase) {
            (Slot::Ours, Phase::Requested { .. }) => {
                let held = self.attempt_failed(Failure::LegLost);
                self.back_to_stable(held);
            }
            (Slot::Theirs, _) => self.theirs_is_gone(),
            (Slot::New, Phase::Acking { held, .. }) => {
                let held = *held;
                self.nothing_was_switched(held, Failure::LegLost);
            }
            (Slot::New, Phase::Agreed(agreed)) => {
                if agreed.in_switched && self.in_ended {
                    agreed.new.read = true;
                } else {
                    self.abort(Abort::LegLost);
                }
            }
            (Slot::Current, Phase::Agreed(agreed)) => {
                if agreed.in_end.is_some() {
                    return;
                }
                // *Failure*, the exception: what has been counted has not been lost, provided that our
                // own out side has left.
                if agreed.verify && agreed.out_switched.is_some() {
                    self.current.read = true;
                    agreed.in_end = Some(InEnd::Error);
                    self.advance();
                } else {
                    self.abort(Abort::LegLost);
                }
            }
            (Slot::Current, Phase::Stable | Phase::Requested { .. } | Phase::Acking { .. }) => {
                if self.in_ended {
                    self.current.read = true;
                } else {
                    self.abort(Abort::LegLost);
                }
            }
            _ => {}
        }
    }

    fn write_failed(&mut self, slot: Slot) {
        match (slot, &mut self.phase) {
            (Slot::Ours | Slot::Theirs, _) | (Slot::New, Phase::Acking { .. }) => {
                self.read_failed(slot);
            }
            (Slot::New, Phase::Agreed(agreed)) => {
                agreed.new.refused = true;
                if agreed.out_switched.is_some() {
                    // As on a plain stream: the remote may have completed, read to the end and dropped
                    // the stream, and what it wrote can still be read. If the leg is lost, reading it
                    // will tell.
                    if !agreed.new.closed {
                        agreed.new.fin = true;
                        agreed.new.closed = true;
                        self.out = Out::Failed;
                    }
                } else if !agreed.verify {
                    self.abort(Abort::LegLost);
                }
                // Else it was our ack, to an initiator that may have taken its `Migrate` back: what it
                // said is still to be read, and the leg's end aborts.
            }
            (Slot::Current, Phase::Agreed(agreed)) => {
                if agreed.out_switched.is_some() && agreed.verify {
                    // The remote's comparison with our count decides.
                    self.current.closed = true;
                    self.complete_if_done();
                } else {
                    self.abort(Abort::LegLost);
                }
            }
            (Slot::Current, Phase::Stable | Phase::Requested { .. } | Phase::Acking { .. }) => {
                self.current.refused = true;
                if !self.current.closed {
                    self.out = Out::Failed;
                    self.current.fin = true;
                    self.current.closed = true;
                }
            }
            _ => {}
        }
    }

    fn unexpected(&mut self, slot: Slot) {
        match (slot, self.phase) {
            (Slot::Theirs, _) => self.theirs_is_gone(),
            (Slot::Ours, Phase::Requested { .. }) | (Slot::New, Phase::Acking { .. }) => {
                self.read_failed(slot);
            }
            (Slot::Current, _) | (Slot::New, Phase::Agreed(_)) => self.abort(Abort::Violation),
            _ => {}
        }
    }

    fn closed(&mut self, slot: Slot) {
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

    // ---- The application ---------------------------------------------------------------------------

    fn close_write(&mut self) {
        if self.out != Out::Open {
            return;
        }
        self.out = Out::Closed;
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

    fn dropped(&mut self, closed: bool) {
        let ended = self.has_ended() && obeys!(self, DropAfterEndIsNoAbort);
        if !closed && !ended {
            return self.abort(Abort::Dropped);
        }
        self.detached = true;
        if self.theirs.is_some_and(|theirs| !theirs.asked) && self.phase == Phase::Stable {
            self.deny();
        }
        if self.phase == Phase::Stable {
            self.put(Output::Arm(Timer::Progress));
        }
    }

    fn finish_if_done(&mut self) {
        let done = self.detached
            && self.phase == Phase::Stable
            && self.theirs.is_none()
            && self.current.closed
            && (self.current.read || !self.in_ended && !self.strict);
        if done {
            self.put(Output::Disarm);
            self.set(Phase::Finished);
            self.put(Output::Finish);
        }
    }

    // ---- Time --------------------------------------------------------------------------------------

    fn timeout(&mut self) {
        match self.phase {
            Phase::Requested { .. } => {
                let held = self.attempt_failed(Failure::TimedOut);
                self.back_to_stable(held);
            }
            Phase::Acking { held, .. } => self.nothing_was_switched(held, Failure::TimedOut),
            Phase::Agreed(_) | Phase::Stable if self.detached => self.abort(Abort::TimedOut),
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

    /// That connection is gone, though its legs do not say so.
    fn probe_failed(&mut self, slot: Slot) {
        let Phase::Agreed(agreed) = self.phase else {
            return;
        };
        match slot {
            Slot::Current => {
                if agreed.in_end.is_none() {
                    self.read_failed(Slot::Current);
                }
                if self.is_agreed() && !self.current.closed {
                    self.write_failed(Slot::Current);
                }
                if self.is_agreed() {
                    self.put(Output::Arm(Timer::Progress));
                }
            }
            _ => self.abort(Abort::TimedOut),
        }
    }

    fn abort(&mut self, abort: Abort) {
        self.theirs = None;
        self.put(Output::Disarm);
        self.set(Phase::Aborted(abort));
        self.put(Output::Abort(abort));
    }
}
