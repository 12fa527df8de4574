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
//!   │        │ Verdict ┌───────────┐ AnswerWritten ┌────────────────────┐                     │
//!   │        │ ──────▶ │ Answering │ ────────────▶ │ Agreed (responder) │─────────────────────┤
//!   │        │ ◀────── └───────────┘               └────────────────────┘                     │
//!   │        │ new leg lost                          │ Cancelled                              │
//!   │        │ ◀─────────────────────────────────────┘                                        │
//!   └────────┘ ◀──────────────────────── Complete: the new leg is the current one ────────────┘
//!
//!   any state ── a leg lost, a count that does not match, a violation, a drop ──▶ Aborted
//!                (a drop in a migration: when that is over)
//! ```
//!
//! Between two that verify, both directions switch when as much has been read as the remote's count says,
//! whether or not the old leg's end has come; the old leg is then watched to its end, or for one progress
//! timeout, before the migration is complete. A timer that fires in a stable state belongs to a stream that its
//! application has let go of: it probes, and waits on if anybody answers.
//!
//! Between two that resume, what would abort for want of a leg suspends instead: all legs are let go of, and the
//! opener asks on another one that the stream go on there (`resume.rs`).

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
mod facts;
mod handle;
mod legs;
mod queries;
mod resume;
#[cfg(any(test, stream_migration_mutants))]
pub mod rules;
mod switch;
mod types;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use self::{facts::Word, resume::Kept};

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
    /// The application dropped the stream in a migration, unclosed: it is aborted when that is over.
    leaving: bool,
    /// The remote's word, if it gives any.
    word: Word,
    /// An end of the last leg that nothing explains yet.
    unexplained: Option<Eof>,
    /// The state of what is kept of what we wrote.
    kept: Kept,
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
    /// Without a leg, between two that resume.
    Legless {
        /// The ID that the stream will have if the opener's attempt, which is unanswered, succeeds.
        id: Option<StreamId>,
    },
    Aborted(Abort),
    Finished,
}

impl Phase {
    /// The phase's name in logs; what it holds is told by the inputs and outputs, at trace.
    fn name(&self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Requested { .. } => "requested",
            Self::Answering { .. } => "answering",
            Self::Agreed(_) => "agreed",
            Self::Legless { id: None } => "legless",
            Self::Legless { id: Some(_) } => "resuming",
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
            leaving: false,
            word: setup.speech.into(),
            unexplained: None,
            kept: Kept::new(setup),
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
