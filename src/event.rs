//! What the behaviour tells: events, and views of connections and streams.

use std::time::{Duration, Instant};

use libp2p_core::{ConnectedPoint, Multiaddr, multiaddr::Protocol};
use libp2p_identity::PeerId;
use libp2p_swarm::{ConnectionId, StreamProtocol};

pub use crate::machine::{Abort, Failure, StreamId};
use crate::stream::StreamKey;

/// What happened to a stream or a migration.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// A migratable stream exists from now on. Its protocol may still be under negotiation.
    StreamStarted {
        /// The remote.
        peer: PeerId,
        /// The stream.
        key: StreamKey,
        /// Its first ID.
        id: StreamId,
        /// Who opened it.
        opener: Opener,
        /// The connection on which it began.
        connection: ConnectionId,
    },
    /// A migratable stream is over. It is reported once per [`Event::StreamStarted`].
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
    /// An attempt to migrate was begun here: a substream is being opened for it.
    MigrationStarted {
        /// The remote.
        peer: PeerId,
        /// The stream.
        key: StreamKey,
        /// Where it is to go.
        to: ConnectionId,
    },
    /// Both sides have agreed to move the stream.
    MigrationAgreed {
        /// The remote.
        peer: PeerId,
        /// The stream.
        key: StreamKey,
        /// The old leg's connection.
        from: ConnectionId,
        /// The new leg's connection.
        to: ConnectionId,
        /// Whether we initiated the migration.
        initiator: bool,
    },
    /// A migration is complete: the old leg is done with.
    MigrationCompleted {
        /// The remote.
        peer: PeerId,
        /// The stream.
        key: StreamKey,
        /// The old leg's connection.
        from: ConnectionId,
        /// The new leg's connection.
        to: ConnectionId,
        /// Whether we initiated the migration.
        initiator: bool,
        /// From the agreement to now.
        took: Duration,
        /// Bytes written on the old leg.
        old_leg_sent: u64,
        /// Bytes read on the old leg.
        old_leg_received: u64,
    },
    /// An attempt to migrate has come to nothing, and the stream goes on where it was.
    MigrationFailed {
        /// The remote.
        peer: PeerId,
        /// The stream.
        key: StreamKey,
        /// Why.
        reason: Failure,
        /// Whether we initiated the migration.
        initiator: bool,
        /// When the policy will try again, if it will.
        retry_in: Option<Duration>,
    },
    /// A connection carries no leg of a migratable stream any more.
    ConnectionFree {
        /// The remote.
        peer: PeerId,
        /// The connection.
        connection: ConnectionId,
    },
    /// A relayed connection that our migrations have emptied, and that nothing else uses, is being closed.
    ConnectionPruned {
        /// The remote.
        peer: PeerId,
        /// The connection.
        connection: ConnectionId,
    },
    /// Something of the remote's was refused, because a limit was reached.
    Refused {
        /// The remote.
        peer: PeerId,
        /// The connection on which it came.
        connection: ConnectionId,
        /// Which limit.
        limit: Limit,
    },
    /// The remote broke the protocol. What it was about is aborted, and nothing else.
    Violation {
        /// The remote.
        peer: PeerId,
        /// The connection on which it came, if it is known.
        connection: Option<ConnectionId>,
        /// What it did.
        what: Violation,
    },
}

/// Who opened a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Opener {
    /// We did.
    Local,
    /// The remote did.
    Remote,
}

/// A limit of [`Config`](crate::Config).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Limit {
    /// [`Config::with_max_streams_per_peer`](crate::Config::with_max_streams_per_peer).
    StreamsPerPeer,
    /// [`Config::with_max_unanswered_per_peer`](crate::Config::with_max_unanswered_per_peer).
    UnansweredPerPeer,
    /// [`Config::with_max_unanswered_per_connection`](crate::Config::with_max_unanswered_per_connection).
    UnansweredPerConnection,
    /// [`Config::with_max_migration_rate`](crate::Config::with_max_migration_rate).
    MigrationRate,
    /// [`Config::with_max_inbound_requests`](crate::Config::with_max_inbound_requests).
    InboundRequests,
    /// [`Config::with_accept_backlog`](crate::Config::with_accept_backlog).
    AcceptBacklog,
}

/// How a remote broke the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Violation {
    /// A message was malformed, too long, or not what belongs in its place; or a count did not match.
    Message,
    /// An ID that is in use by a live stream was used again.
    IdInUse,
}

/// A connection as policies and [`Control::connections`](crate::Control::connections) see it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// Its ID in the swarm.
    pub id: ConnectionId,
    /// The remote.
    pub peer: PeerId,
    /// The remote's address.
    pub address: Multiaddr,
    /// Whether it goes through a relay.
    pub relayed: bool,
    /// What carries it; for a relayed connection, what carries the hop to the relay.
    pub transport: Transport,
    /// Whether we dialed it.
    pub dialer: bool,
    /// When it was established.
    pub established: Instant,
}

impl ConnectionInfo {
    pub(crate) fn new(id: ConnectionId, peer: PeerId, endpoint: &ConnectedPoint) -> Self {
        // A relayed connection shows in our own address when the remote dialed.
        let (address, local) = match endpoint {
            ConnectedPoint::Dialer { address, .. } => (address, None),
            ConnectedPoint::Listener {
                local_addr,
                send_back_addr,
            } => (send_back_addr, Some(local_addr)),
        };
        // `p2p-circuit` is tested first: a relayed address contains the relay's transport too.
        let relayed = is_relayed(address) || local.is_some_and(is_relayed);
        let transport = Transport::of(address)
            .or_else(|| local.and_then(Transport::of))
            .unwrap_or(Transport::Other);
        Self {
            id,
            peer,
            address: address.clone(),
            relayed,
            transport,
            dialer: endpoint.is_dialer(),
            established: Instant::now(),
        }
    }

    /// Whether a reset or a loss reads as an EOF on this connection's streams, as it does with yamux.
    /// The muxer's kind is not visible to a behaviour, so this goes by the address: everything but a
    /// direct QUIC-like connection runs yamux, the relayed ones included.
    pub(crate) fn is_ambiguous(&self) -> bool {
        self.relayed || !matches!(self.transport, Transport::Quic | Transport::WebTransport)
    }
}

fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

/// What carries a connection, told by its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Transport {
    /// TCP with a security protocol and a muxer.
    Tcp,
    /// QUIC.
    Quic,
    /// WebSocket, plain or over TLS.
    WebSocket,
    /// WebTransport.
    WebTransport,
    /// WebRTC.
    WebRtc,
    /// Within this process.
    Memory,
    /// Something else.
    Other,
}

impl Transport {
    fn of(address: &Multiaddr) -> Option<Self> {
        let mut found = None;
        for part in address {
            found = Some(match part {
                Protocol::Tcp(_) => Self::Tcp,
                Protocol::Quic | Protocol::QuicV1 => Self::Quic,
                Protocol::Ws(_) | Protocol::Wss(_) => Self::WebSocket,
                Protocol::WebTransport => Self::WebTransport,
                Protocol::WebRTC | Protocol::WebRTCDirect => Self::WebRtc,
                Protocol::Memory(_) => Self::Memory,
                Protocol::P2pCircuit => break,
                _ => continue,
            });
        }
        found
    }
}

/// A migratable stream as policies and [`Control::streams`](crate::Control::streams) see it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StreamInfo {
    /// Its name in this behaviour.
    pub key: StreamKey,
    /// Its present ID on the wire.
    pub id: StreamId,
    /// The remote.
    pub peer: PeerId,
    /// Its protocol, once negotiated.
    pub protocol: Option<StreamProtocol>,
    /// Who opened it.
    pub opener: Opener,
    /// The connection that carries what is written now.
    pub connection: ConnectionId,
    /// Bytes written, over all legs.
    pub sent: u64,
    /// Bytes read, over all legs.
    pub received: u64,
    /// Whether it is being migrated.
    pub migrating: bool,
    /// Whether it has left a relayed connection. Policies do not move it onto one again: the remote may
    /// be closing it (*Who starts*).
    pub left_relay: bool,
    /// When it was labelled.
    pub started: Instant,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relayed_address_is_told_before_its_relays_transport() {
        let relay = PeerId::random();
        let peer = PeerId::random();
        for (address, relayed, transport) in [
            ("/ip4/127.0.0.1/tcp/1".to_owned(), false, Transport::Tcp),
            (
                "/ip4/127.0.0.1/udp/1/quic-v1".to_owned(),
                false,
                Transport::Quic,
            ),
            (
                "/ip4/127.0.0.1/tcp/1/ws".to_owned(),
                false,
                Transport::WebSocket,
            ),
            ("/memory/1".to_owned(), false, Transport::Memory),
            (
                format!("/ip4/127.0.0.1/udp/1/quic-v1/p2p/{relay}/p2p-circuit/p2p/{peer}"),
                true,
                Transport::Quic,
            ),
            (
                format!("/ip4/127.0.0.1/tcp/1/ws/p2p/{relay}/p2p-circuit"),
                true,
                Transport::WebSocket,
            ),
        ] {
            let address: Multiaddr = address.parse().unwrap();
            let inbound = ConnectedPoint::Listener {
                local_addr: address.clone(),
                send_back_addr: format!("/p2p/{peer}").parse().unwrap(),
            };
            let outbound = ConnectedPoint::Dialer {
                address,
                role_override: libp2p_core::Endpoint::Dialer,
                port_use: libp2p_core::transport::PortUse::Reuse,
            };
            for endpoint in [inbound, outbound] {
                let info = ConnectionInfo::new(ConnectionId::new_unchecked(0), peer, &endpoint);
                assert_eq!((info.relayed, info.transport), (relayed, transport));
                assert_eq!(info.is_ambiguous(), relayed || transport != Transport::Quic);
            }
        }
    }
}
