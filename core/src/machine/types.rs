//! The machine's vocabulary.

use std::fmt;

/// A stream's ID on the wire: unique between two peers, and another one after each migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u64);

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One of the two ends of whatever it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// This peer.
    Local,
    /// The remote.
    Remote,
}

impl Side {
    /// The local side if something is ours.
    #[must_use]
    pub fn of(ours: bool) -> Self {
        if ours { Self::Local } else { Self::Remote }
    }

    /// True for this peer.
    #[must_use]
    pub fn is_local(self) -> bool {
        self == Self::Local
    }
}

/// The knowledge of a new machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Setup {
    /// True if the hash rule names us.
    pub designated: bool,
    /// True if we offer the verified switch.
    pub verify: bool,
    /// True if an earlier ack of the remote said that it verifies.
    pub peer_verifies: bool,
    /// The remote's speech.
    pub speech: Speech,
    /// True if we opened the stream.
    pub opener: bool,
    /// True if we keep what we write until the remote has it, as long as nothing says that the remote does not
    /// (*Resume*).
    pub keeps: bool,
}

/// The knowledge of whether the remote says of a stream, beside its legs, what only it can know (*Facts*).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Speech {
    /// None, as far as we know.
    #[default]
    No,
    /// An answer is awaited.
    Asked,
    /// A remote that says and believes facts.
    Yes,
    /// A remote that, beside, keeps what it writes until it has arrived, and goes on with the stream on another leg
    /// when it has lost its own (*Resume*).
    Resumes,
}

/// A side's word on a stream, beside its legs: the newest contains all older ones (*Facts*).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Facts {
    /// So many bytes it has taken from the legs.
    pub received: u64,
    /// True if it has all of the other's bytes, and their total.
    pub done: bool,
    /// All its bytes, once it has closed its write side.
    pub total: Option<u64>,
    /// From the acceptor: it has no leg of a generation below this.
    pub lost: Option<u64>,
    /// True if it holds nothing of the stream any more.
    pub gone: bool,
    /// With `gone`: all that it wrote on the legs, if it knows.
    pub sent: Option<u64>,
}

impl Facts {
    /// The word of a side that holds nothing of the stream, and knows nothing of it.
    pub const GONE: Self = Self {
        received: 0,
        done: false,
        total: None,
        lost: None,
        gone: true,
        sent: None,
    };
}

/// The places in which a stream can have a leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Slot {
    /// The only leg, or the old one of a migration.
    Current,
    /// The leg on which we sent a `Migrate` that is not answered.
    Ours,
    /// The leg on which we read a `Migrate` that is not answered.
    Theirs,
    /// The new leg of a migration that is agreed, or whose ack is being written.
    New,
}

/// The empty write's word about an EOF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Proof {
    /// The leg still takes writes: the EOF is a FIN.
    Agrees,
    /// A word against it: the leg may have been reset or lost.
    Disagrees,
    /// No word, since it could not be asked: our write side is closed, or the kind of leg does not
    /// need it.
    Unavailable,
}

/// An end of input as it was when it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Eof {
    /// The empty write's word.
    pub proof: Proof,
    /// True if this kind of leg shows a reset or a loss as an EOF (yamux does).
    pub ambiguous: bool,
    /// True if our FIN was on that leg.
    pub(super) fin: bool,
}

impl Eof {
    /// An end of input, with what is known about it.
    #[must_use]
    pub fn new(proof: Proof, ambiguous: bool) -> Self {
        Self {
            proof,
            ambiguous,
            fin: false,
        }
    }
}

/// An event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Input {
    /// A leg in [`Slot::Ours`] is ready: ask the remote to move the stream onto it, or, if the stream has no other,
    /// to go on there.
    Start {
        /// The ID that the stream will have.
        id: StreamId,
    },
    /// The answer was read on [`Slot::Ours`].
    Answered {
        /// The remote refuses for good.
        deny: bool,
        /// The remote verifies.
        verify: bool,
    },
    /// The remote's `Migrate` was read on a leg that is now in [`Slot::Theirs`]; a leg that was there
    /// before has been dropped.
    Migrate {
        /// The ID that the stream will have.
        id: StreamId,
        /// The ID that the remote thinks it has.
        from: StreamId,
        /// The remote verifies.
        verify: bool,
    },
    /// The answer to [`Output::Ask`].
    Verdict(Question, Verdict),
    /// A `Migrate` that has not been asked about has been held for as long as its initiator may wait.
    HeldTooLong,
    /// The accepting ack has been handed to the leg in [`Slot::New`].
    AnswerWritten,
    /// The remote's count was read on [`Slot::New`].
    Switched(u64),
    /// The end of what the remote's count says, which has been read:
    /// [`Machine::has_read_all`](super::Machine::has_read_all).
    ReadAll,
    /// The remote took its `Migrate` back, on [`Slot::New`] or [`Slot::Theirs`].
    Cancelled(Slot),
    /// An EOF was read.
    End(Slot, Eof),
    /// Reading failed, or the connection is known to be lost, or what came was no valid message.
    ReadFailed(Slot),
    /// Writing, flushing or closing failed.
    WriteFailed(Slot),
    /// Data came in a direction that has ended, or after a `Migrate` before its answer.
    Unexpected(Slot),
    /// The leg's write side is closed.
    Closed(Slot),
    /// The application closes its write side.
    CloseWrite,
    /// The application dropped the stream.
    Dropped {
        /// True if closing had been reported as done to the application.
        closed: bool,
        /// True if the remote has nothing to say any more that it must not fail to say.
        answered: bool,
    },
    /// The armed timer fired.
    Timeout,
    /// The probe of [`Output::Probe`] was answered.
    ProbeAnswered,
    /// The probe failed: that connection is gone.
    ProbeFailed(Slot),
    /// The answer on whether the remote says and believes facts.
    Speaks(Speech),
    /// The remote's word on the stream.
    Said(Facts),
    /// The connection of this leg is lost, or given up.
    Lost(Slot),
    /// The opener asks, on a leg that is now in [`Slot::Theirs`], that the stream go on there; a leg that was there
    /// before has been dropped.
    Resume {
        /// The ID that the stream will have.
        id: StreamId,
        /// The number of the opener's attempt.
        generation: u64,
        /// All that it knows.
        facts: Facts,
    },
    /// The acceptor's answer to that was read on [`Slot::Ours`]: all that it knows.
    Resumed(Facts),
    /// The leg has been given everything that [`Output::Resume`] asked for.
    Replayed,
}

/// The `Migrate` of the remote that the policy is asked about: another may take its place before
/// the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Question(pub u32);

/// The policy's answer to a `Migrate` of the remote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Move.
    Accept,
    /// Never move this stream.
    Deny,
    /// No answer: drop the leg, which means "try again later".
    NotNow,
}

/// A thing to be done, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Output {
    /// Write `Migrate` on [`Slot::Ours`].
    SendMigrate {
        /// The new ID.
        id: StreamId,
        /// The present ID.
        from: StreamId,
        /// True if we verify.
        verify: bool,
    },
    /// Ask the policy about the `Migrate` in [`Slot::Theirs`].
    Ask(Question),
    /// The leg in [`Slot::Theirs`] moves to [`Slot::New`]: write an accepting ack on it.
    Accept {
        /// True if we verify too.
        verify: bool,
    },
    /// Write a denying ack on [`Slot::Theirs`], close it, forget it.
    Deny,
    /// Write `Switched { cancelled }` on [`Slot::Ours`], close it, forget it.
    Cancel,
    /// Drop the leg without a word.
    Drop(Slot),
    /// The leg in [`Slot::Ours`] moves to [`Slot::New`]: the migration is agreed.
    Agreed {
        /// True if both verify.
        verify: bool,
        /// True if we initiated it.
        initiator: bool,
    },
    /// Write our count on [`Slot::New`].
    SendSwitched(u64),
    /// Flush and close the leg for writing.
    Close(Slot),
    /// The leg in [`Slot::New`] moves to [`Slot::Current`], whose leg is done with.
    Complete {
        /// True if we initiated the migration.
        initiator: bool,
    },
    /// A failed attempt of ours: the old leg goes on.
    Failed(Failure),
    /// The remote's attempt, which we had accepted, has come to nothing, and the old leg goes on.
    TheirsFailed(Failure),
    /// Start the timer anew.
    Arm(Timer),
    /// Stop the timer.
    Disarm,
    /// Open a substream on the leg's connection, to see whether anybody answers.
    Probe(Slot),
    /// Say [`Machine::facts`](super::Machine::facts), as they are by then.
    Say,
    /// Drop all legs but that in [`Slot::Theirs`]: the stream waits for another.
    Suspend,
    /// Write on [`Slot::Ours`] that the stream is to go on there, with [`Machine::facts`](super::Machine::facts).
    SendResume {
        /// The new ID.
        id: StreamId,
        /// The number of the attempt.
        generation: u64,
    },
    /// The leg in this slot moves to [`Slot::Current`]. If it was in [`Slot::Theirs`], write the answer on it, with
    /// [`Machine::facts`](super::Machine::facts); then what we have written from this count on.
    Resume {
        /// The place of the leg.
        slot: Slot,
        /// The bytes that the remote has.
        from: u64,
    },
    /// Reset all legs; every read and write fails from now on.
    Abort(Abort),
    /// Drop all legs, the current one when what is to be said on it has been; every read and write fails from now
    /// on.
    Leave,
    /// The end of all: forget the legs.
    Finish,
}

/// Timers; at most one is armed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Timer {
    /// The wait for the answer to `Migrate`, or for our own ack to be written.
    Answer,
    /// The wait for anything to happen in an agreed migration, or for a detached stream to end.
    Progress,
    /// The wait for the remote's word on an end that nothing explains.
    Explain,
    /// The wait of a stream without a leg for another.
    Resume,
}

/// Why an attempt came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Failure {
    /// The remote refused for good.
    Denied,
    /// The new leg was lost, or the remote dropped it unanswered: try again later.
    LegLost,
    /// No answer came in time.
    TimedOut,
    /// The remote started at the same time; ours gave way.
    Yielded,
    /// An attempt that its initiator took back before it was agreed.
    Cancelled,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Denied => "the remote refused it for good",
            Self::LegLost => "the new leg was lost, or the remote dropped it: try again later",
            Self::TimedOut => "no answer came in time",
            Self::Yielded => "the remote started one at the same time",
            Self::Cancelled => "it was taken back before it was agreed",
        })
    }
}

/// Why a stream was aborted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Abort {
    /// The application dropped it before it was closed.
    Dropped,
    /// A leg was reset or its connection lost.
    LegLost,
    /// An EOF that may be a reset: bytes may be missing.
    Unproven,
    /// The old leg ended before everything that the remote wrote had been read.
    Cut,
    /// The remote broke the protocol.
    Violation,
    /// No progress within the configured time.
    TimedOut,
    /// The remote has said that it holds nothing of it any more.
    Gone,
}

impl fmt::Display for Abort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dropped => "dropped before it was closed",
            Self::LegLost => "a leg was reset or its connection lost",
            Self::Unproven => "its end may be a reset",
            Self::Cut => "a leg ended before all bytes had come",
            Self::Violation => "the remote broke the protocol",
            Self::TimedOut => "no progress in time",
            Self::Gone => "the remote has let go of it",
        })
    }
}

/// Why a migration cannot be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refused {
    /// The remote denied one before.
    Denied,
    /// A migration that is under way.
    Migrating,
    /// The stream is over or about to be.
    Ended,
}

/// The destination of the application's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WriteTo {
    /// This leg.
    Leg(Slot),
    /// A leg that is not known yet: wait for the machine.
    Hold,
    /// The replay buffer alone: no leg takes it yet.
    Keep,
    /// No leg: the application closed the stream.
    Closed,
    /// No leg: it refused a write before.
    Failed,
    /// No leg: the stream is aborted.
    Aborted(Abort),
}

/// The origin of the application's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReadFrom {
    /// This leg.
    Leg(Slot),
    /// A leg that is not known yet: wait for the machine.
    Hold,
    /// No leg: there are no more bytes.
    Ended,
    /// The stream is aborted.
    Aborted(Abort),
}
