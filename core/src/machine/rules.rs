//! The rules of `docs/rules.md` that can be removed one by one, to see that the model catches it. Only
//! compiled for tests.

use std::cell::Cell;

use super::{Eof, Input, Machine, Proof, Slot};

/// A rule, numbered as in `docs/rules.md`. Rules 1, 5 and 8 live outside of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// 2: the designated peer holds the other's `Migrate`.
    DesignatedHolds,
    /// 3: who denies keeps its own `Migrate`.
    DenierKeepsItsOwn,
    /// 4: a `Migrate` for a stream that is still migrating is held.
    HoldWhileMigrating,
    /// 6: a drop after both directions ended is no abort.
    DropAfterEndIsNoAbort,
    /// 7: in doubt, an EOF read after our FIN is a reset.
    DoubtAfterFin,
    /// 9: the initiator's count is the commit.
    CountIsCommit,
    /// 10: an end of the new leg before the count aborts.
    EndBeforeCountAborts,
    /// 11: a deny does not end an older attempt's doubt.
    DenyKeepsDoubt,
    /// 12: writing an accepting ack does not end doubt.
    AckKeepsDoubt,
    /// 13: yielding is a failed attempt too.
    YieldIsFailure,
    /// 14: in doubt, the empty write is mandatory on every kind of leg.
    DoubtNeedsProof,
    /// 15: in doubt, the `Migrate` of a peer that does not verify is dropped.
    DoubtNeedsVerify,
    /// 16: a count that has been reached is enough, whatever becomes of the old leg.
    CountIsEnough,
    /// 17: a stream that the application has let go of waits for a slow remote as any other does.
    DetachedIsWaitedFor,
    /// 18: a verdict is about the `Migrate` that it was asked about.
    VerdictsAreNamed,
    /// 19: who has denied a stream once denies every later `Migrate` for it. A peer that forgets is
    /// what makes rule 11 matter.
    DenyIsForGood,
    /// 41: a drop in a migration waits for its end.
    DropAfterMove,
    /// 42: between two that speak, an end by itself is none.
    EndNeedsWord,
    /// 43: the remote's total is compared with what was read.
    TotalIsCompared,
    /// 49: a resume that is not newer than the last is dropped.
    OlderIsDropped,
    /// 50: a stream without a leg takes no planned `Migrate`.
    LeglessTakesNone,
    /// 51: an acceptor that has lost its legs says so.
    AcceptorSaysLost,
    /// 52: that counts only at the generation that it is about.
    LostIsOfNow,
    /// 53: bytes that are not kept any more are noticed.
    SlidIsNoticed,
    /// 54: a responder whose new leg ends before the count goes back to the old one.
    ResponderGoesBack,
    /// 55: an end that nothing explains is given up.
    UnexplainedIsGivenUp,
}

thread_local! {
    /// The rule that machines made by this thread do not obey.
    static WITHOUT: Cell<Option<Rule>> = const { Cell::new(None) };
}

/// Lets the machines that this thread makes from now on disobey this rule: a stream makes its
/// machine itself.
pub fn without(rule: Option<Rule>) {
    WITHOUT.set(rule);
}

/// The rules, or all but one of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Rules {
    /// The one that is not obeyed.
    pub without: Option<Rule>,
    /// Rule 10 is obeyed twice: whoever waits for a message takes a leg's end for a failed read, so the machine does
    /// not get to see that it was an end. Under a stream, both have to go.
    under_a_stream: bool,
    /// The count of rule 10 was given up.
    gave_count_up: bool,
}

impl Rules {
    /// The rules but this one, if there is one.
    #[must_use]
    pub fn without(rule: Option<Rule>) -> Self {
        Self {
            without: rule,
            ..Self::default()
        }
    }

    pub(super) fn of_thread() -> Self {
        let without = WITHOUT.get();
        Self {
            without,
            under_a_stream: without.is_some(),
            gave_count_up: false,
        }
    }
}

impl Machine {
    /// The input as a machine without rule 10 takes it.
    pub(super) fn disobey(&mut self, input: Input) -> Input {
        let rules = self.rules;
        let ignores = rules.under_a_stream && rules.without == Some(Rule::EndBeforeCountAborts);
        if input == Input::ReadFailed(Slot::New) && ignores && self.needs_count() {
            self.rules.gave_count_up = true;
            let eof = Eof::new(Proof::Unavailable, true);
            return Input::End(Slot::New, eof);
        }
        input
    }

    pub(super) fn gave_count_up(&self) -> bool {
        self.rules.gave_count_up
    }
}
