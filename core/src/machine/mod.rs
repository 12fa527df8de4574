//! The migration state machine of one stream on one side: inputs in, outputs out, no I/O.
//!
//! It knows stream IDs and byte counts; timers are only outputs (arm) and inputs (fired). It is
//! `Clone + Eq + Hash`, so that every interleaving can be enumerated (`tests/model` does).
//!
//! Call order: after every [`Machine::handle`], take [`Machine::poll_output`] until it returns `None`
//! and carry each output out in order, before the next input. The data path asks
//! [`Machine::read_from`] and [`Machine::write_to`] where bytes come from and go to, and reports
//! [`Machine::wrote`] and [`Machine::read`].
//!
//! ```text
//!              Start                 Answered(accept)
//!   ┌────────┐ ─────▶ ┌───────────┐ ─────────────▶ ┌────────────────────┐   old leg closed
//!   │ Stable │        │ Requested │                │ Agreed (initiator) │── and its EOF read ─┐
//!   │        │ ◀───── └───────────┘                └────────────────────┘   (and counted)     │
//!   │        │  deny, timeout,  │ Verdict(Accept): yield                                      │
//!   │        │  leg lost        ▼                                                             │
//!   │        │ Verdict ┌────────┐   AnswerWritten     ┌────────────────────┐                     │
//!   │        │ ──────▶ │ Answering │ ───────────────▶ │ Agreed (responder) │─────────────────────┤
//!   │        │ ◀────── └────────┘                  └────────────────────┘                     │
//!   │        │ new leg lost                          │ Cancelled                              │
//!   │        │ ◀─────────────────────────────────────┘                                        │
//!   └────────┘ ◀──────────────────────── Complete: the new leg is the current one ────────────┘
//!
//!   any state ── a leg lost, a count that does not match, a violation, a drop ──▶ Aborted
//! ```
//!
//! Between two that verify, both directions switch when as much has been read as the remote's count says,
//! whether or not the old leg's end has come; the old leg is then watched to its end, or for one progress
//! timeout, before the migration is complete. A timer that fires in a stable state belongs to a stream that its
//! application has let go of: it probes, and waits on if anybody answers.

/// True if a rule is obeyed; always, except in tests that remove one.
macro_rules! obeys {
    ($machine:expr, $rule:ident) => {{
        #[cfg(any(test, stream_migration_mutants))]
        let obeyed = $machine.rules.without != Some(rules::Rule::$rule);
        #[cfg(not(any(test, stream_migration_mutants)))]
        let obeyed = true;
        obeyed
    }};
}

mod attempts;
mod handle;
mod legs;
#[cfg(any(test, stream_migration_mutants))]
pub mod rules;
mod switch;
mod types;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

#[cfg(any(test, stream_migration_mutants))]
use self::rules::Rules;
pub use self::types::*;
pub use self::types::{Abort, Failure, Side, StreamId};

/// The state of one stream on one side.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Machine {
    /// True if the hash rule names us (*Who moves the stream*).
    designated: bool,
    /// True if we offer the verified switch.
    verify: bool,
    /// True if the remote is known to verify: an earlier ack of its said so.
    peer_verifies: bool,
    id: StreamId,
    phase: Phase,
    /// A `Migrate` of the remote that is not answered yet; its leg is in [`Slot::Theirs`].
    theirs: Option<Theirs>,
    out: Out,
    /// The application has been given the end of its input, or will be at its next read.
    in_ended: bool,
    /// Stream bytes written, over all legs.
    sent: u64,
    /// Stream bytes read, over all legs.
    received: u64,
    current: Ends,
    /// A failed attempt left the old leg in doubt: the remote may have switched on our FIN.
    doubt: bool,
    denied_by_us: bool,
    denied_by_them: bool,
    /// A verified switch has happened: the remote follows our extension, and an EOF on any kind of leg is
    /// believed only if the empty write agrees (see [`Machine::needs_proof`]).
    has_verified: bool,
    /// The application dropped the stream, and what is open is finished in the background.
    detached: bool,
    /// True if it did so before the remote had agreed to the protocol. The remote reads nothing
    /// until it has said that, and on a QUIC leg that nobody reads it would fail to.
    listening: bool,
    /// Counts what the policy was asked.
    questions: u32,
    outputs: VecDeque<Output>,
    #[cfg(any(test, stream_migration_mutants))]
    rules: Rules,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Out {
    Open,
    /// The application closed it.
    Closed,
    /// The leg refused a write.
    Failed,
}

/// The ends of the two directions of one leg.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Ends {
    /// `Close` was put out: our FIN is, or may be, on the wire.
    fin: bool,
    /// Closing has been reported as done.
    closed: bool,
    /// The remote's end has been read.
    read: bool,
    /// A write, a flush or the closing has failed.
    refused: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Theirs {
    id: StreamId,
    from: StreamId,
    verify: bool,
    /// The policy has been asked this and has not answered.
    asked: Option<Question>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Phase {
    Stable,
    Requested {
        id: StreamId,
        /// An end of the old leg that was read while `Migrate` is unanswered.
        held: Option<Eof>,
    },
    Answering {
        id: StreamId,
        verify: bool,
        held: Option<Eof>,
    },
    Agreed(Agreed),
    Aborted(Abort),
    Finished,
}

impl Phase {
    /// The phase's name in logs; what it holds is told by the inputs and outputs, at trace.
    fn name(&self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Requested { .. } => "requested",
            Self::Answering { .. } => "acking",
            Self::Agreed(_) => "agreed",
            Self::Aborted(_) => "aborted",
            Self::Finished => "finished",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Agreed {
    id: StreamId,
    initiator: bool,
    verify: bool,
    new: Ends,
    /// `sent` when our out side switched.
    out_switched: Option<u64>,
    /// The end of the old leg's in side.
    in_end: Option<InEnd>,
    /// The remote's count, or what it said instead.
    count: Option<u64>,
    in_switched: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum InEnd {
    Eof(Eof),
    /// The end had been read and judged before the agreement.
    Earlier,
    Error,
}

impl Machine {
    /// A stream that has just been labelled.
    #[must_use]
    pub fn new(id: StreamId, setup: Setup) -> Self {
        Self {
            designated: setup.designated,
            verify: setup.verify,
            peer_verifies: setup.peer_verifies,
            id,
            phase: Phase::Stable,
            theirs: None,
            out: Out::Open,
            in_ended: false,
            sent: 0,
            received: 0,
            current: Ends::default(),
            doubt: false,
            denied_by_us: false,
            denied_by_them: false,
            has_verified: false,
            detached: false,
            listening: false,
            questions: 0,
            outputs: VecDeque::new(),
            #[cfg(any(test, stream_migration_mutants))]
            rules: Rules::of_thread(),
        }
    }

    /// This machine under other rules.
    #[cfg(any(test, stream_migration_mutants))]
    #[must_use]
    pub fn with_rules(mut self, rules: Rules) -> Self {
        self.rules = rules;
        self
    }

    /// The next thing to carry out.
    pub fn poll_output(&mut self) -> Option<Output> {
        let output = self.outputs.pop_front();
        if output.is_none() {
            // Nothing is kept between two inputs, not even room.
            self.outputs = VecDeque::new();
        }
        output
    }

    /// The stream's present ID.
    #[must_use]
    pub fn id(&self) -> StreamId {
        self.id
    }

    /// The IDs that the stream answers to: its own, that of a migration under way, that of the
    /// remote's unanswered `Migrate`.
    pub fn ids(&self) -> impl Iterator<Item = StreamId> + use<> {
        let pending = match &self.phase {
            Phase::Requested { id, .. } | Phase::Answering { id, .. } => Some(*id),
            Phase::Agreed(agreed) => Some(agreed.id),
            _ => None,
        };
        [Some(self.id), pending, self.theirs.map(|theirs| theirs.id)]
            .into_iter()
            .flatten()
    }

    /// Stream bytes written and read so far, over all legs.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.sent, self.received)
    }

    /// The leg to which the application's bytes go.
    #[must_use]
    pub fn write_to(&self) -> WriteTo {
        match (&self.phase, self.out) {
            (Phase::Aborted(abort), _) => WriteTo::Aborted(*abort),
            (_, Out::Closed) | (Phase::Finished, _) => WriteTo::Closed,
            (_, Out::Failed) => WriteTo::Failed,
            (Phase::Agreed(agreed), Out::Open) if agreed.out_switched.is_some() => {
                WriteTo::Leg(Slot::New)
            }
            (_, Out::Open) if self.will_write_elsewhere() => WriteTo::Hold,
            (_, Out::Open) => WriteTo::Leg(Slot::Current),
        }
    }

    /// True if the old leg takes nothing more and the new one will, but does not yet.
    #[must_use]
    pub fn will_write_elsewhere(&self) -> bool {
        let agreed = matches!(&self.phase, Phase::Agreed(a) if a.out_switched.is_none());
        agreed && self.current.refused && self.out != Out::Failed
    }

    /// The leg from which the application's bytes come.
    #[must_use]
    pub fn read_from(&self) -> ReadFrom {
        if self.in_ended {
            return ReadFrom::Ended;
        }
        match &self.phase {
            Phase::Aborted(abort) => ReadFrom::Aborted(*abort),
            Phase::Finished => ReadFrom::Ended,
            Phase::Requested { held: Some(_), .. } | Phase::Answering { held: Some(_), .. } => {
                ReadFrom::Hold
            }
            Phase::Agreed(agreed) if agreed.in_switched => ReadFrom::Leg(Slot::New),
            Phase::Agreed(agreed) if agreed.in_end.is_some() => ReadFrom::Hold,
            _ => ReadFrom::Leg(Slot::Current),
        }
    }

    /// A leg that has to be read although the application's input has ended, or is elsewhere: its end must
    /// come, and data on it is a violation (*Half-closed streams*).
    #[must_use]
    pub fn check(&self) -> Option<Slot> {
        match &self.phase {
            Phase::Agreed(agreed) if agreed.in_switched && agreed.in_end.is_none() => {
                Some(Slot::Current)
            }
            _ if !self.in_ended => None,
            Phase::Aborted(_) | Phase::Finished => None,
            Phase::Agreed(agreed) if agreed.in_switched => (!agreed.new.read).then_some(Slot::New),
            _ => (!self.current.read).then_some(Slot::Current),
        }
    }

    /// True if the first message on the new leg, the remote's count, is being waited for.
    #[must_use]
    pub fn awaits_count(&self) -> bool {
        #[cfg(any(test, stream_migration_mutants))]
        if self.gave_count_up() {
            return false;
        }
        self.needs_count()
    }

    fn needs_count(&self) -> bool {
        matches!(&self.phase, Phase::Agreed(a) if a.verify && a.count.is_none())
    }

    /// True if what comes on the new leg is the application's, and it is not its turn.
    #[must_use]
    pub fn is_before_new(&self) -> bool {
        matches!(&self.phase, Phase::Agreed(a) if !a.in_switched) && !self.needs_count()
    }

    /// True if as much has been read as the remote's count says, and the machine has not been told:
    /// [`Input::ReadAll`].
    #[must_use]
    pub fn has_read_all(&self) -> bool {
        matches!(&self.phase, Phase::Agreed(a) if !a.in_switched && a.count == Some(self.received))
    }

    /// True if the answer on our attempt's leg is being waited for.
    #[must_use]
    pub fn awaits_answer(&self) -> bool {
        matches!(self.phase, Phase::Requested { .. })
    }

    /// True if our accepting ack is being written.
    #[must_use]
    pub fn awaits_ack_written(&self) -> bool {
        matches!(self.phase, Phase::Answering { .. })
    }

    /// True if an EOF needs the empty write on every kind of leg: because a failed attempt leaves,
    /// or may yet leave, the current one in doubt; or because of a verified switch.
    ///
    /// The latter is needed for QUIC. A side that has completed a migration cannot know whether
    /// the other will: if it aborts instead, because its own end of the old leg was cut, its drop of a
    /// QUIC leg is a FIN, and would be a clean end. The empty write tells the two apart, as long as an
    /// ordinary close and drop does not look the same; so a stream of ours that has switched reads on
    /// after such a drop, in the background, to the remote's end.
    #[must_use]
    pub fn needs_proof(&self) -> bool {
        self.doubt || self.has_verified || !matches!(self.phase, Phase::Stable)
    }

    /// True if what still comes in has to be read and thrown away.
    #[must_use]
    pub fn discards(&self) -> bool {
        self.detached && self.reads_on() && self.phase == Phase::Stable && !self.in_ended
    }

    /// True if a drop does not end reading.
    fn reads_on(&self) -> bool {
        self.has_verified || self.listening
    }

    /// True if nothing but the rest of the old leg, in an agreed migration, is waited for.
    #[must_use]
    pub fn waits_for_reader(&self) -> bool {
        let Phase::Agreed(agreed) = &self.phase else {
            return false;
        };
        let closing = agreed.out_switched.is_some() && !self.current.closed;
        let reading = agreed.in_end.is_none() && !agreed.in_switched;
        reading && !closing && !self.awaits_count()
    }

    /// True if our FIN is, or may be, on the current leg.
    #[must_use]
    pub fn has_closed_current(&self) -> bool {
        self.current.fin
    }

    /// True if our FIN is, or may be, on the new leg.
    #[must_use]
    pub fn has_closed_new(&self) -> bool {
        matches!(&self.phase, Phase::Agreed(agreed) if agreed.new.fin)
    }

    /// The leg that carries the application's FIN.
    #[must_use]
    pub fn closes(&self) -> Slot {
        match &self.phase {
            Phase::Agreed(agreed) if agreed.out_switched.is_some() => Slot::New,
            _ => Slot::Current,
        }
    }

    /// True if a migration of this stream is under way, from `Migrate` to completion.
    #[must_use]
    pub fn is_migrating(&self) -> bool {
        matches!(
            self.phase,
            Phase::Requested { .. } | Phase::Answering { .. } | Phase::Agreed(_)
        )
    }

    /// True if both sides have agreed on a migration that is not complete.
    #[must_use]
    pub fn is_agreed(&self) -> bool {
        matches!(self.phase, Phase::Agreed(_))
    }

    /// True if there is anything left to do that the application does not do by reading or writing.
    #[must_use]
    pub fn has_background_work(&self) -> bool {
        match self.phase {
            Phase::Aborted(_) | Phase::Finished => false,
            Phase::Stable => {
                self.theirs.is_some()
                    || self.current.fin && !self.current.closed
                    || self.in_ended && !self.current.read
                    || self.detached
            }
            Phase::Requested { .. } | Phase::Answering { .. } | Phase::Agreed(_) => true,
        }
    }

    /// True if both directions have ended for the application.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.in_ended && self.out == Out::Closed
    }

    /// The result of the stream, if it is over.
    #[must_use]
    pub fn over(&self) -> Option<Result<(), Abort>> {
        match self.phase {
            Phase::Aborted(abort) => Some(Err(abort)),
            Phase::Finished => Some(Ok(())),
            _ => None,
        }
    }

    /// The permission to start a migration, or why there is none.
    pub fn may_start(&self) -> Result<(), Refused> {
        if self.denied_by_them {
            return Err(Refused::Denied);
        }
        if self.has_ended() || self.out == Out::Failed || self.detached {
            return Err(Refused::Ended);
        }
        match self.phase {
            Phase::Stable if self.theirs.is_none() => Ok(()),
            Phase::Aborted(_) | Phase::Finished => Err(Refused::Ended),
            _ => Err(Refused::Migrating),
        }
    }

    /// Ends a stream that turned out to be none, without a word to the remote. Returns whether that is
    /// possible: not in a migration, and not once anything has ended.
    pub fn dissolve(&mut self) -> bool {
        let idle = self.may_start().is_ok() && !self.in_ended && self.out == Out::Open;
        if idle {
            self.set(Phase::Finished);
            self.put(Output::Finish);
        }
        idle
    }

    /// True if a `Migrate` from this ID takes the place of the one that is unanswered, if there is
    /// one.
    ///
    /// The remote has one attempt at a time, so the newer one counts; but one may overtake the other on
    /// its way here. From the ID that the stream is about to have is newer than from the one it has, and
    /// that is newer than from any other.
    #[must_use]
    pub fn replaces_theirs(&self, from: StreamId) -> bool {
        let pending = match &self.phase {
            Phase::Requested { id, .. } | Phase::Answering { id, .. } => Some(*id),
            Phase::Agreed(agreed) => Some(agreed.id),
            Phase::Stable | Phase::Aborted(_) | Phase::Finished => None,
        };
        let age = |from| match from {
            from if Some(from) == pending => 0,
            from if from == self.id => 1,
            _ => 2,
        };
        self.theirs
            .is_none_or(|theirs| age(from) <= age(theirs.from))
    }

    /// True if the stream has this ID, or is about to: not one that an unanswered `Migrate` would
    /// give it.
    #[must_use]
    pub fn may_move_from(&self, from: StreamId) -> bool {
        let pending = match &self.phase {
            Phase::Requested { id, .. } | Phase::Answering { id, .. } => Some(*id),
            Phase::Agreed(agreed) => Some(agreed.id),
            Phase::Stable | Phase::Aborted(_) | Phase::Finished => None,
        };
        from == self.id || Some(from) == pending
    }

    /// True if the policy has been asked about a `Migrate` of the remote's and has not answered.
    #[must_use]
    pub fn is_asking(&self) -> bool {
        self.theirs.is_some_and(|theirs| theirs.asked.is_some())
    }

    /// True if the policy has been asked this and has not answered.
    #[must_use]
    pub fn has_asked(&self, question: Question) -> bool {
        self.theirs.is_some_and(|it| it.asked == Some(question))
    }

    /// True if a `Migrate` of the remote's waits until the policy can be asked about it.
    #[must_use]
    pub fn holds_theirs(&self) -> bool {
        self.theirs.is_some_and(|theirs| theirs.asked.is_none())
    }

    /// True if an attempt that failed has left the current leg in doubt.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.doubt
    }

    /// True if the remote is known to verify.
    #[must_use]
    pub fn peer_verifies(&self) -> bool {
        self.peer_verifies
    }

    /// The application wrote `n` bytes to the leg that [`Machine::write_to`] names.
    pub fn wrote(&mut self, n: u64) {
        self.sent = self.sent.saturating_add(n);
    }

    /// `n` bytes were read from the leg that [`Machine::read_from`] names.
    pub fn read(&mut self, n: u64) {
        self.received = self.received.saturating_add(n);
    }

    /// The one place where the phase changes.
    fn set(&mut self, phase: Phase) {
        let (from, to) = (self.phase.name(), phase.name());
        tracing::debug!(id = self.id.0, %from, %to, "stream migration state");
        self.phase = phase;
    }

    fn put(&mut self, output: Output) {
        self.outputs.push_back(output);
    }
}
