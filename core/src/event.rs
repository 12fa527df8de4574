//! Events of the behaviour.
#![warn(missing_docs)]

use std::time::Duration;

use libp2p_identity::PeerId;

pub use crate::machine::{Abort, Failure, Side};
use crate::{
    key::{ConnectionKey, StreamKey},
    machine::StreamId,
    view::{ConnectionInfo, ProtocolName},
};

/// An event of a connection, a stream or a migration. Enough to write a policy or a metrics
/// exporter from; none is ever left out.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// A connection to a peer was established.
    ConnectionEstablished(ConnectionInfo),
    /// A connection has another address, is to be drained, is suspected or not any more, or has proven
    /// itself.
    ConnectionChanged(ConnectionInfo),
    /// A connection is gone, and what was on it has failed.
    #[non_exhaustive]
    ConnectionClosed {
        /// The remote.
        peer: PeerId,
        /// The connection.
        connection: ConnectionKey,
    },
    /// Below the swarm, a connection's streams are opened on another link from now on: on the one that came with
    /// the connection `to`. So the address that the swarm shows for it may not be where it runs.
    #[non_exhaustive]
    ConnectionRehomed {
        /// The remote.
        peer: PeerId,
        /// The connection.
        connection: ConnectionKey,
        /// The link that was its home.
        from: ConnectionKey,
        /// The link that is.
        to: ConnectionKey,
    },
    /// A stream without migration was opened or accepted, because the remote does not speak the protocol.
    /// Nothing more is heard of it.
    #[non_exhaustive]
    PlainStream {
        /// The remote.
        peer: PeerId,
        /// The connection that it is on for good.
        connection: ConnectionKey,
        /// The stream's protocol.
        protocol: ProtocolName,
        /// The side that opened it.
        opener: Side,
    },
    /// A migratable stream exists from now on. Its protocol may still be under negotiation.
    #[non_exhaustive]
    StreamStarted {
        /// The remote.
        peer: PeerId,
        /// The stream.
        key: StreamKey,
        /// The stream's first ID.
        id: StreamId,
        /// The side that opened it.
        opener: Side,
        /// The connection on which it began.
        connection: ConnectionKey,
    },
    /// A migratable stream has agreed on its protocol, and is handed to the application.
    #[non_exhaustive]
    StreamNegotiated {
        /// The remote.
        peer: PeerId,
        /// The stream.
        key: StreamKey,
        /// The stream's protocol.
        protocol: ProtocolName,
    },
    /// A migratable stream is over. It is reported once per [`Event::StreamStarted`].
    #[non_exhaustive]
    StreamEnded {
        /// The remote.
        peer: PeerId,
        /// The stream.
        key: StreamKey,
        /// `Ok` if it was closed in order and let go of; otherwise why it was aborted.
        result: Result<(), Abort>,
        /// Bytes written, over all legs.
        sent: u64,
        /// Bytes read, over all legs.
        received: u64,
    },
    /// A stream has lost its connection and waits for another (*Resume*): reads and writes wait, and nothing is lost.
    /// It ends in an error if none comes in time (`Config::with_resume_timeout`).
    #[non_exhaustive]
    StreamSuspended {
        /// The remote.
        peer: PeerId,
        /// The stream.
        key: StreamKey,
    },
    /// A stream that had lost its connection goes on.
    #[non_exhaustive]
    StreamResumed {
        /// The remote.
        peer: PeerId,
        /// The stream.
        key: StreamKey,
        /// The connection that it is on now.
        connection: ConnectionKey,
        /// Bytes of ours that had not arrived, and are written again.
        again: u64,
        /// The time without a connection.
        took: Duration,
    },
    /// An attempt to migrate was begun here: a substream is being opened for it.
    #[non_exhaustive]
    MigrationStarted {
        /// The remote.
        peer: PeerId,
        /// The stream.
        key: StreamKey,
        /// The connection that it is on.
        from: Option<ConnectionKey>,
        /// The connection that it is to go to.
        to: ConnectionKey,
    },
    /// A stream is to be moved onto a connection that holds as many as it may
    /// (`Config::with_max_streams_per_connection`), and
    /// waits for room there, or on another that is better than where it is.
    #[non_exhaustive]
    MigrationWaiting {
        /// The remote.
        peer: PeerId,
        /// The stream.
        key: StreamKey,
        /// The connection that it is to go to.
        to: ConnectionKey,
    },
    /// The remote asks to move a stream, and the policy leaves the answer to somebody outside
    /// ([`Verdict::Ask`](crate::policy::Verdict::Ask)): use `Control::answer`.
    #[non_exhaustive]
    MigrationRequested {
        /// The remote.
        peer: PeerId,
        /// The stream.
        key: StreamKey,
        /// The connection that it is to go to.
        to: ConnectionKey,
    },
    /// The remote asked to move a stream, and the policy, the stream's mobility or somebody outside said no.
    #[non_exhaustive]
    MigrationDeclined {
        /// The remote.
        peer: PeerId,
        /// The stream.
        key: StreamKey,
        /// The connection that it was to go to.
        to: ConnectionKey,
        /// True if the answer is for good, false if it is "not now".
        for_good: bool,
    },
    /// An agreement of both sides to move the stream.
    #[non_exhaustive]
    MigrationAgreed {
        /// The remote.
        peer: PeerId,
        /// The stream.
        key: StreamKey,
        /// The old leg's connection.
        from: ConnectionKey,
        /// The new leg's connection.
        to: ConnectionKey,
        /// The side that initiated the migration.
        initiator: Side,
    },
    /// A migration is complete: the old leg is done with.
    #[non_exhaustive]
    MigrationCompleted {
        /// The remote.
        peer: PeerId,
        /// The stream.
        key: StreamKey,
        /// The old leg's connection.
        from: ConnectionKey,
        /// The new leg's connection.
        to: ConnectionKey,
        /// The side that initiated the migration.
        initiator: Side,
        /// The time from the agreement to now.
        took: Duration,
        /// Bytes written on the old leg.
        old_leg_sent: u64,
        /// Bytes read on the old leg.
        old_leg_received: u64,
        /// Bytes written on the new leg so far.
        new_leg_sent: u64,
        /// Bytes read on the new leg so far.
        new_leg_received: u64,
    },
    /// The first byte has been read on the new leg of a migration.
    #[non_exhaustive]
    Resumed {
        /// The remote.
        peer: PeerId,
        /// The stream.
        key: StreamKey,
        /// The new leg's connection.
        connection: ConnectionKey,
        /// The side that initiated the migration.
        initiator: Side,
        /// The time since the last byte of the old leg. Long if the remote had nothing to say, or
        /// if our application did not read; after more than 10 s there is no such event.
        gap: Duration,
    },
    /// An attempt to migrate has come to nothing, and the stream goes on where it was.
    #[non_exhaustive]
    MigrationFailed {
        /// The remote.
        peer: PeerId,
        /// The stream.
        key: StreamKey,
        /// The connection that it was to go to.
        to: ConnectionKey,
        /// Why.
        reason: Failure,
        /// The side that initiated the migration.
        initiator: Side,
        /// The time until the policy tries again, if it does.
        retry_in: Option<Duration>,
    },
    /// A connection carries no leg of a migratable stream any more, and none is being opened on it.
    #[non_exhaustive]
    ConnectionFree {
        /// The remote.
        peer: PeerId,
        /// The connection.
        connection: ConnectionKey,
    },
    /// A connection that nothing uses any more is being closed: a relayed one that our migrations have
    /// emptied, or one that `Control::close_when_free` or
    /// [`Action::Close`](crate::policy::Action::Close) named.
    #[non_exhaustive]
    ConnectionPruned {
        /// The remote.
        peer: PeerId,
        /// The connection.
        connection: ConnectionKey,
    },
    /// Something of the remote's was refused, because a limit was reached.
    #[non_exhaustive]
    Refused {
        /// The remote.
        peer: PeerId,
        /// The connection on which it came, if it is known.
        connection: Option<ConnectionKey>,
        /// The limit.
        limit: Limit,
    },
    /// The remote broke the protocol. What it was about is aborted, and nothing else.
    #[non_exhaustive]
    Violation {
        /// The remote.
        peer: PeerId,
        /// The connection on which it came, if it is known.
        connection: Option<ConnectionKey>,
        /// The remote's fault.
        what: Violation,
    },
}

/// A limit of `Config`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Limit {
    /// `Config::with_max_streams_per_peer`.
    StreamsPerPeer,
    /// `Config::with_max_unanswered_per_peer`.
    UnansweredPerPeer,
    /// `Config::with_max_unanswered_per_connection`.
    UnansweredPerConnection,
    /// `Config::with_max_migration_rate`.
    MigrationRate,
    /// `Config::with_max_inbound_requests`.
    InboundRequests,
    /// `Config::with_accept_backlog`; or nobody accepts streams of
    /// this protocol any more.
    AcceptBacklog,
    /// `Config::with_accept_timeout`.
    AcceptTimeout,
}

/// A remote's breach of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Violation {
    /// A message was malformed, too long, or not what belongs in its place; or a count did not match.
    Message,
    /// An ID that is in use by a live stream was used again.
    IdInUse,
}
