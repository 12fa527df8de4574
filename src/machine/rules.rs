//! The rules of `docs/rules.md` that can be removed one by one, to see that the model catches it. Only
//! compiled into tests.

/// A rule, numbered as in `docs/rules.md`. Rules 1, 5 and 8 live outside of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Rule {
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
}

/// All rules, or all but one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Rules {
    /// The one that is not obeyed.
    pub(crate) without: Option<Rule>,
}
