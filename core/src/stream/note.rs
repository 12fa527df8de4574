//! The words of a stream to the table's owner, and its state.

use std::time::Duration;

use web_time::Instant;

use crate::{
    key::ConnectionKey,
    machine::{Abort, Failure, Question, Side, StreamId},
};

/// Something that the table's owner has to know or to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// The policy is asked about a `Migrate` of the remote onto this connection, which came then.
    Ask {
        to: ConnectionKey,
        question: Question,
        since: Instant,
    },
    /// A migration is agreed; the stream answers to both IDs until it is complete.
    Agreed {
        from: ConnectionKey,
        to: ConnectionKey,
        initiator: Side,
    },
    /// An attempt has come to nothing.
    Failed {
        failure: Failure,
        initiator: Side,
        /// The connection that one of the remote's was to go to, if we had accepted it.
        to: Option<ConnectionKey>,
    },
    /// A migration is complete.
    Completed(Completed),
    /// Something was read on the new leg of a migration of ours: the remote has read our end of the old
    /// one, on this connection.
    Confirmed { from: ConnectionKey },
    /// The first byte has been read on the new leg, so long after the old leg's end.
    Resumed {
        connection: ConnectionKey,
        initiator: Side,
        gap: Duration,
    },
    /// See whether anybody answers on this connection.
    Probe { connection: ConnectionKey },
    /// The stream's word has changed, and is to be said.
    Say,
    /// Something is to be done a little later.
    Later(Later),
    /// Something was written that has not arrived, and before that there was nothing.
    Waits,
    /// The stream has let go of all its legs, and waits for another.
    Suspended,
    /// The stream goes on, on this connection; so many bytes are written again.
    GoesOn {
        connection: ConnectionKey,
        again: u64,
    },
    /// The remote broke the protocol.
    Violation,
    /// The stream is over for good.
    Over(Result<(), Abort>),
}

/// Things that are done later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Later {
    /// Say how much has been read.
    Say,
    /// See whether the writer still waits for room: [`Shared::is_later`](super::Shared::is_later).
    Slide,
}

/// A completed migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completed {
    pub from: ConnectionKey,
    pub to: ConnectionKey,
    pub initiator: Side,
    /// Bytes that the old leg carried: out, in.
    pub old_leg: (u64, u64),
    /// Bytes written and read on the new leg, so far.
    pub new_leg: (u64, u64),
    /// True if the remote is known to have read our end of the old leg.
    pub confirmed: bool,
    /// The time at which both sides had agreed.
    pub agreed_at: Instant,
}

/// The state of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    pub id: StreamId,
    /// The connection that carries what is written now.
    pub connection: Option<ConnectionKey>,
    pub sent: u64,
    pub received: u64,
    pub migrating: bool,
    pub in_doubt: bool,
    pub peer_verifies: bool,
    /// True if it outlives its connections, as things are.
    pub resumable: bool,
    /// True if it has lost its legs, or would go on without them, and something that was written has not arrived.
    pub unarrived: bool,
    /// True if the remote's `Migrate` waits for a verdict.
    pub asked: bool,
    /// True if both directions have ended.
    pub ended: bool,
    /// True if the remote has still to agree to what the application takes for agreed.
    pub unanswered: bool,
}
