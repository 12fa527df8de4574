//! Why something that was asked of the hub was not done.
#![warn(missing_docs)]

use crate::{
    key::{ConnectionKey, StreamKey},
    machine::{Abort, Failure, Refused},
    view::Mobility,
};

/// Why a stream was not moved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MigrateError {
    /// A key of no migratable stream, or of one that is over.
    #[error("there is no live migratable stream with key {0}")]
    UnknownStream(StreamKey),
    /// A connection that does not lead to the stream's peer, or is gone.
    #[error("there is no connection {0} to the stream's peer")]
    UnknownConnection(ConnectionKey),
    /// The stream is on that connection already.
    #[error("the stream is on connection {0} already")]
    AlreadyThere(ConnectionKey),
    /// A migration of the stream that is under way already.
    #[error("the stream is being migrated already")]
    AlreadyMigrating,
    /// The connection is being emptied (`Control::drain`).
    #[error("connection {0} is being drained")]
    Draining(ConnectionKey),
    /// The stream's [`Mobility`] forbids it; change that first.
    #[error("the stream may not go there: its mobility is {0:?}")]
    NotAllowed(Mobility),
    /// A question that was not asked, or has been answered.
    #[error("the remote does not ask to move the stream there, or not any more")]
    NotAsked,
    /// The remote has denied one, for good.
    #[error("the remote denied migrating this stream, for good")]
    Denied,
    /// A stream of which both directions have ended, or which its application has let go of.
    #[error("the stream has ended")]
    Ended,
    /// The new leg could not be opened.
    #[error("the new leg could not be opened: {0}")]
    NoLeg(String),
    /// The attempt has come to nothing.
    #[error("the migration has come to nothing: {0}")]
    Failed(Failure),
    /// The stream was aborted while it was moving.
    #[error("the stream was aborted: {0}")]
    Aborted(Abort),
    /// The behaviour is gone.
    #[error("the behaviour is gone")]
    BehaviourGone,
}

/// Why a connection was not emptied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DrainError {
    /// A connection that does not lead to this peer, or is gone.
    #[error("there is no connection {0} to this peer")]
    UnknownConnection(ConnectionKey),
    /// A connection that was closed with streams on it.
    #[error("connection {0} was closed before it was free")]
    Closed(ConnectionKey),
    /// Somebody has stopped it (`Control::undrain`).
    #[error("connection {0} is not to be emptied any more")]
    Undrained(ConnectionKey),
    /// The behaviour is gone.
    #[error("the behaviour is gone")]
    BehaviourGone,
}

impl From<Refused> for MigrateError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Denied => Self::Denied,
            Refused::Migrating => Self::AlreadyMigrating,
            Refused::Ended => Self::Ended,
        }
    }
}
