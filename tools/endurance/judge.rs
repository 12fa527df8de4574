//! What may end how: the README's guarantees, and its exceptions by name.

use libp2p_stream_migration::Abort;

use crate::{
    flow::Side,
    side::{Outcome, Reading, WriteSide, Writing},
};

/// A legitimate exception to an exact and clean end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Exception {
    /// An attempt was not answered, our side was closed, and so the end was reported as a reset.
    ResetInDoubt,
    /// An aborted QUIC leg read as a clean end.
    CleanEndOfAbortedQuic,
    /// An aborted or lost yamux leg read as a clean end, our write side being closed.
    CleanEndWithClosedSide,
    /// A stream was dropped after it had been closed, while its remote was still writing: as with any
    /// stream, that fails, or waits for a reader that is not there.
    WritesToWhoHasLeft,
    /// A stream was opened on a connection while the remote closed it.
    OpenedOnClosing,
    /// After an abort or a chaos close, a side waited for a remote that is not there any more.
    GivenUp,
    /// A stream that must not be moved was on a path that went silent.
    PinnedInSilence,
    /// A remote had an error, and could not say so on a path that was silent.
    UnheardInSilence,
}

/// What is known of one side when all is over.
#[derive(Debug, Clone)]
pub struct Facts {
    /// `None` if it was never heard of: the stream's header did not come.
    pub outcome: Option<Outcome>,
    /// As the behaviour says it.
    pub ended: Option<Result<(), Abort>>,
    /// An attempt of this side's was not answered, and no migration has been completed since.
    pub in_doubt: bool,
    /// Migrations that were completed, each of them verified.
    pub migrated: u64,
    /// Whether the last connection is a direct QUIC one.
    pub quic: bool,
    /// How much it has written, and whether it has closed.
    pub written: u64,
    pub closing: bool,
}

/// A stream when all is over.
#[derive(Debug, Clone)]
pub struct Case {
    pub sides: [Facts; 2],
    /// A connection that it was on was closed for the sake of chaos.
    pub chaos: bool,
    /// A connection that it was on went silent.
    pub silent: bool,
    /// It must not be moved.
    pub pinned: bool,
    pub opened_on_closing: bool,
    pub given_up: bool,
    /// Both say how many bytes there are: no end is guessed.
    pub proven: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    pub exceptions: Vec<Exception>,
    /// What is wrong.
    pub violations: Vec<String>,
    /// Whether anything but a complete stream was expected.
    pub harmed: bool,
}

impl Facts {
    fn dropped(&self) -> bool {
        self.outcome.as_ref().is_some_and(|outcome| outcome.dropped)
    }

    fn left(&self) -> bool {
        self.outcome.as_ref().is_some_and(|outcome| outcome.left)
    }

    /// Whether it was done with the stream before that was given up.
    fn is_done(&self) -> bool {
        let outcome = self.outcome.as_ref();
        outcome.is_some_and(|outcome| !outcome.given_up)
    }

    fn failed_to_read(&self) -> bool {
        let reading = self.outcome.as_ref().map(|outcome| &outcome.reading);
        matches!(reading, Some(Reading::Failed(_)))
    }

    /// "After an attempt to migrate that was never answered, … an end that is read after we have closed our
    /// own side is reported as a reset until a later migration succeeds."
    fn is_reset_in_doubt(&self) -> bool {
        let closed = self.outcome.as_ref().map(|outcome| outcome.write_side);
        self.in_doubt
            && self.ended == Some(Err(Abort::Unproven))
            && closed == Some(WriteSide::Closed)
            && (self.failed_to_read() || self.left())
    }
}

impl Case {
    pub fn judge(&self) -> Judgement {
        let mut judgement = Judgement {
            harmed: self.is_forsaken() || self.silent,
            ..Judgement::default()
        };
        if !judgement.harmed {
            if !self.proven && self.sides.iter().any(Facts::is_reset_in_doubt) {
                judgement.except(Exception::ResetInDoubt);
            } else if self.opened_on_closing && !self.is_whole() {
                judgement.except(Exception::OpenedOnClosing);
            } else if Side::BOTH
                .into_iter()
                .any(|side| self.writes_to_who_has_left(side))
            {
                judgement.except(Exception::WritesToWhoHasLeft);
            }
        }
        if self.given_up {
            self.judge_standing(&mut judgement);
        }
        for side in Side::BOTH {
            self.judge_side(side, &mut judgement);
        }
        judgement
    }

    /// Whether somebody may wait for what nobody will do any more.
    fn is_forsaken(&self) -> bool {
        self.chaos || self.sides.iter().any(Facts::dropped)
    }

    /// Whether it is to leave a path that has gone silent, or to fail there.
    pub fn waits_for_a_silent_path(&self) -> bool {
        self.silent && !self.is_forsaken() && !self.pinned
    }

    fn judge_standing(&self, judgement: &mut Judgement) {
        if self.waits_for_a_silent_path() {
            match self.sides.iter().any(Facts::is_done) {
                true => judgement.except(Exception::UnheardInSilence),
                false => judgement
                    .violations
                    .push("stands still on a path that has gone silent".to_owned()),
            }
        } else if self.silent && !self.is_forsaken() {
            judgement.except(Exception::PinnedInSilence);
        } else {
            match judgement.harmed {
                true => judgement.except(Exception::GivenUp),
                false => judgement.violations.push("no progress".to_owned()),
            }
        }
    }

    fn of(&self, side: Side) -> &Facts {
        &self.sides[usize::from(side == Side::Accepter)]
    }

    /// Whether both sides have let go of it in order.
    pub fn is_whole(&self) -> bool {
        let mut sides = self.sides.iter();
        sides.all(|facts| facts.ended == Some(Ok(())) && facts.outcome.is_some())
    }

    fn writes_to_who_has_left(&self, side: Side) -> bool {
        let writing = self
            .of(side)
            .outcome
            .as_ref()
            .map(|outcome| &outcome.writing);
        let in_vain = self.given_up || matches!(writing, Some(Writing::Failed(_)));
        self.of(side.other()).left() && in_vain
    }

    fn judge_side(&self, side: Side, judgement: &mut Judgement) {
        let facts = self.of(side);
        let harmed = judgement.harmed;
        let mut wrong = |what: String| judgement.violations.push(format!("{side:?}: {what}"));
        let Some(outcome) = &facts.outcome else {
            if !harmed {
                wrong("never heard of the stream".to_owned());
            }
            return;
        };
        match &outcome.reading {
            Reading::Wrong(position) => wrong(format!("the byte at {position} is wrong")),
            Reading::Failed(error) if !harmed => wrong(format!("reading failed: {error}")),
            Reading::Failed(_) | Reading::Stopped => {}
            Reading::End => match self.judge_end(side, outcome, harmed) {
                Ok(None) => {}
                Ok(Some(exception)) => return judgement.except(exception),
                Err(violation) => wrong(violation),
            },
        }
        match &outcome.writing {
            Writing::Failed(error) if !harmed => wrong(format!("writing failed: {error}")),
            _ => {}
        }
        match facts.ended {
            Some(Err(abort)) if !harmed => wrong(format!("aborted: {abort}")),
            None if !harmed => wrong("the behaviour has not told of its end".to_owned()),
            _ => {}
        }
    }

    /// Whether a clean end is one.
    fn judge_end(
        &self,
        side: Side,
        outcome: &Outcome,
        harmed: bool,
    ) -> Result<Option<Exception>, String> {
        let (facts, remote) = (self.of(side), self.of(side.other()));
        if remote.closing && outcome.read == remote.written {
            return Ok(None);
        }
        let closed = outcome.write_side == WriteSide::Closed;
        // "QUIC, after a verified switch, write side open: an error."
        let knowable = facts.migrated > 0 && !closed;
        match (harmed && !self.proven, facts.quic) {
            (true, true) if !knowable => Ok(Some(Exception::CleanEndOfAbortedQuic)),
            (true, false) if closed => Ok(Some(Exception::CleanEndWithClosedSide)),
            _ => Err(format!(
                "a clean end after {} bytes, but the remote wrote {} and {} (quic: {}, migrated: {}, \
                 write side: {:?})",
                outcome.read,
                remote.written,
                if remote.closing {
                    "closed"
                } else {
                    "did not close"
                },
                facts.quic,
                facts.migrated,
                outcome.write_side,
            )),
        }
    }
}

impl Judgement {
    fn except(&mut self, exception: Exception) {
        self.exceptions.push(exception);
        self.harmed = true;
    }
}

#[cfg(test)]
mod tests;
