//! The views of policies and applications: connections, streams, and a peer with all of its own.
//! Views are read-only; nothing here moves anything.
#![warn(missing_docs)]

use std::{fmt, sync::Arc};

use libp2p_core::{ConnectedPoint, Endpoint, Multiaddr, multiaddr::Protocol, transport::PortUse};
use libp2p_identity::PeerId;
use web_time::Instant;

use crate::{
    key::{ConnectionKey, StreamKey},
    machine::{Side, StreamId},
    protocol::roles,
    stream::LegKind,
};

/// The name of an application's protocol, such as `/ipfs/kad/1.0.0`. Cheap to clone; equal to whatever shows the same
/// string.
#[derive(Clone, Eq, Hash, PartialOrd, Ord)]
pub struct ProtocolName(Arc<str>);

impl ProtocolName {
    /// The name that this string is.
    #[must_use]
    pub fn new(name: impl AsRef<str>) -> Self {
        Self(name.as_ref().into())
    }
}

impl AsRef<str> for ProtocolName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl<T: AsRef<str> + ?Sized> PartialEq<T> for ProtocolName {
    fn eq(&self, other: &T) -> bool {
        *self.0 == *other.as_ref()
    }
}

impl fmt::Display for ProtocolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for ProtocolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// A connection as policies and `Control::connections` see it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// The connection's name.
    pub key: ConnectionKey,
    /// The remote.
    pub peer: PeerId,
    /// The remote's address.
    pub address: Multiaddr,
    /// True if the connection goes through a relay.
    pub relayed: bool,
    /// The transport that carries it; for a relayed connection, the one of the hop to the relay.
    pub transport: Transport,
    /// The way in which streams end on it; `Config::with_leg_kind` has the last word.
    pub leg_kind: LegKind,
    /// True if we dialed it; of a hole punch, if we took the dialer's role. The remote sees the
    /// opposite.
    pub dialer: bool,
    /// The time at which it was established.
    pub established: Instant,
    /// Legs of migratable streams on it, old and new ones of migrations included, and those that are
    /// being opened for migrations.
    pub streams: usize,
    /// Streams that are being opened on it and have no leg yet.
    pub opening: usize,
    /// The number of streams that it may hold, those being opened included
    /// (`Config::with_max_streams_per_connection`).
    pub capacity: usize,
    /// True while it is being emptied (`Control::drain`): nothing is put on it.
    pub draining: bool,
    /// True once we have asked the swarm to close it: nothing is put on it.
    pub closing: bool,
    /// True if it has not answered an open, a probe or a migration (`Config::with_suspect_after`):
    /// streams leave it, and none is put on it as long as another connection of the peer answers.
    /// Cleared when it answers.
    pub suspected: bool,
    /// True if it may be chosen among duplicates: it is older than `Config::with_proving_time`, was
    /// not dialed from a port of its own, and was never suspected. Somebody who made a connection
    /// for a moment, such as AutoNAT, closes it with all that is on it.
    pub proven: bool,
    /// True if we dialed it from a new port, as those do who only want to see whether a peer can be
    /// reached. The remote does not see that.
    pub new_port: bool,
    /// Below the swarm, the connections whose streams are opened on this link, which has the name of the one that
    /// it came with ([`Event::ConnectionRehomed`](crate::event::Event::ConnectionRehomed)). Empty above, and in what
    /// policies see.
    pub homes: Vec<ConnectionKey>,
}

/// A reason against putting streams on a connection. What one peer alone knows may only take a
/// connection off its list; it never makes one better, so that two peers come to the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Obstacle {
    /// A connection that is being closed by us. Nothing is put on it.
    Closing,
    /// A connection that does not answer. Nothing is put on it while there is another.
    Suspected,
    /// A connection that is being emptied. Nothing is put on it while there is another.
    Draining,
    /// A connection that holds as many streams as it may. What is to go there waits.
    Full,
    /// A connection that has still to prove itself, or never will: streams are not moved onto it
    /// from an equal one.
    Unproven,
}

impl ConnectionInfo {
    /// A connection as its endpoint shows it.
    #[must_use]
    pub fn new(key: ConnectionKey, peer: PeerId, endpoint: &ConnectedPoint) -> Self {
        // A relayed connection shows in our own address when the remote dialed.
        let (address, local) = match endpoint {
            ConnectedPoint::Dialer { address, .. } => (address, None),
            ConnectedPoint::Listener {
                local_addr,
                send_back_addr,
            } => (send_back_addr, Some(local_addr)),
        };
        let (relayed, transport) = carried(address);
        let (relayed_here, transport_here) = local.map_or((false, Transport::Unknown), carried);
        let relayed = relayed || relayed_here;
        let transport = match transport {
            Transport::Unknown => transport_here,
            told => told,
        };
        Self {
            key,
            peer,
            address: address.clone(),
            relayed,
            transport,
            leg_kind: LegKind::of(relayed, transport),
            dialer: matches!(
                endpoint,
                ConnectedPoint::Dialer {
                    role_override: Endpoint::Dialer,
                    ..
                }
            ),
            established: Instant::now(),
            streams: 0,
            opening: 0,
            capacity: usize::MAX,
            draining: false,
            closing: false,
            suspected: false,
            proven: false,
            new_port: matches!(
                endpoint,
                ConnectedPoint::Dialer {
                    port_use: PortUse::New,
                    ..
                }
            ),
            homes: Vec::new(),
        }
    }

    /// True if the connection holds as many streams as it may, those being opened included.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.streams + self.opening >= self.capacity
    }

    /// The gravest reason against putting streams on it; `None` of one on which anything may be
    /// put.
    #[must_use]
    pub fn obstacle(&self) -> Option<Obstacle> {
        [
            (self.closing, Obstacle::Closing),
            (self.suspected, Obstacle::Suspected),
            (self.draining, Obstacle::Draining),
            (self.is_full(), Obstacle::Full),
            (!self.proven, Obstacle::Unproven),
        ]
        .into_iter()
        .find_map(|(is, obstacle)| is.then_some(obstacle))
    }
}

/// The relay and the transport of an address: true if it goes through one, and what carries it, or
/// its hop to the relay.
fn carried(address: &Multiaddr) -> (bool, Transport) {
    let (mut relayed, mut transport) = (false, Transport::Unknown);
    for part in address {
        match part {
            Protocol::P2pCircuit => relayed = true,
            // The relay has only introduced the two.
            Protocol::WebRTC if relayed => (relayed, transport) = (false, Transport::WebRtc),
            // A relayed address begins with the relay's; what comes after says nothing of the connection.
            _ if relayed => {}
            part => transport = Transport::of(&part).unwrap_or(transport),
        }
    }
    (relayed, transport)
}

/// The transport that carries a connection, told by its address.
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
    /// A transport that is not told: the address names none of these. The side that has dialed a
    /// name may not know (`/dnsaddr`), while the other side does; so no policy takes it for better,
    /// worse or different.
    Unknown,
}

impl Transport {
    fn of(part: &Protocol<'_>) -> Option<Self> {
        Some(match part {
            Protocol::Tcp(_) => Self::Tcp,
            Protocol::Quic | Protocol::QuicV1 => Self::Quic,
            Protocol::Ws(_) | Protocol::Wss(_) => Self::WebSocket,
            Protocol::WebTransport => Self::WebTransport,
            Protocol::WebRTC | Protocol::WebRTCDirect => Self::WebRtc,
            Protocol::Memory(_) => Self::Memory,
            _ => return None,
        })
    }
}

impl LegKind {
    /// The kind that the address tells. What is relayed is multiplexed anew, whatever carries the
    /// hop.
    fn of(relayed: bool, transport: Transport) -> Self {
        match transport {
            _ if relayed => Self::Yamux,
            Transport::Tcp | Transport::WebSocket | Transport::Memory => Self::Yamux,
            Transport::Quic => Self::Quic,
            Transport::WebRtc => Self::WebRtc,
            // Nobody has measured the former.
            Transport::WebTransport | Transport::Unknown => Self::Unknown,
        }
    }
}

/// A migratable stream as policies and `Control::streams` see it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StreamInfo {
    /// The stream's name in this behaviour.
    pub key: StreamKey,
    /// The stream's present ID on the wire.
    pub id: StreamId,
    /// The remote.
    pub peer: PeerId,
    /// The stream's protocol, once negotiated.
    pub protocol: Option<ProtocolName>,
    /// The side that opened it.
    pub opener: Side,
    /// The connection that carries what is written now; `None` while it is between two.
    pub connection: Option<ConnectionKey>,
    /// Bytes written, over all legs.
    pub sent: u64,
    /// Bytes read, over all legs.
    pub received: u64,
    /// True while it is being migrated.
    pub migrating: bool,
    /// True once it has left a relayed connection. Policies do not move it onto one again: the
    /// remote may be closing it (*Who starts*).
    pub left_relay: bool,
    /// Connections off which the remote has moved it. Policies do not move it back onto these: two that
    /// disagree would move it to and fro for ever, and the remote may be draining one.
    pub moved_off_by_remote: Vec<ConnectionKey>,
    /// Connections that it is not to be moved onto for now: a move there has failed lately, or it has left
    /// one that did not answer.
    pub barred: Vec<ConnectionKey>,
    /// The connection that it is to be moved onto and that has no room yet.
    pub waiting_for: Option<ConnectionKey>,
    /// The freedom that it has to be moved.
    pub mobility: Mobility,
    /// The time at which it was labelled.
    pub started: Instant,
}

impl StreamInfo {
    /// A stream that we have just opened on this connection; all else can be set.
    #[must_use]
    pub fn new(key: StreamKey, peer: PeerId, connection: ConnectionKey) -> Self {
        Self {
            key,
            id: StreamId(0),
            peer,
            protocol: None,
            opener: Side::Local,
            connection: Some(connection),
            sent: 0,
            received: 0,
            migrating: false,
            left_relay: false,
            moved_off_by_remote: Vec::new(),
            barred: Vec::new(),
            waiting_for: None,
            mobility: Mobility::Free,
            started: Instant::now(),
        }
    }
}

/// A stream's freedom to be moved. Set for a protocol by `Config::with_mobility`, for a stream by
/// `Control::set_mobility`; the behaviour keeps to it, whatever a policy says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Mobility {
    /// Freedom to go anywhere, as the policy and the remote see fit.
    #[default]
    Free,
    /// Freedom to go anywhere but onto a relayed connection. If the remote tries, it is told "not
    /// now" by a stream that is on a relayed connection itself, and "never" by one that is on a
    /// direct one.
    NeverRelayed,
    /// No freedom. A remote that tries is refused, which is for good: it will not try again, even
    /// if the stream is set free later.
    Pinned,
    /// A place on this connection and no other. The stream is moved there, and stays.
    PinnedTo(ConnectionKey),
}

impl Mobility {
    /// True if a new stream may begin there.
    pub(crate) fn admits(self, on: &ConnectionInfo) -> bool {
        match self {
            Self::Free | Self::Pinned => true,
            Self::NeverRelayed | Self::PinnedTo(_) => self.allows(on),
        }
    }

    pub(crate) fn allows(self, to: &ConnectionInfo) -> bool {
        match self {
            Self::Free => true,
            Self::NeverRelayed => !to.relayed,
            Self::Pinned => false,
            Self::PinnedTo(connection) => connection == to.key,
        }
    }
}

/// A peer as a [`Policy`](crate::policy::Policy) sees it.
pub struct PeerView<'a> {
    pub(crate) local: PeerId,
    pub(crate) peer: PeerId,
    /// The hash rule's answer, if that has been found out: policies ask at every comparison.
    pub(crate) designated: Option<bool>,
    pub(crate) connections: &'a [ConnectionInfo],
    pub(crate) streams: &'a dyn Streams,
}

/// The source of a [`PeerView`]'s streams: looked up when asked for, so that a view costs nothing.
pub trait Streams {
    /// The stream of this key, if it is live.
    fn one(&self, key: StreamKey) -> Option<StreamInfo>;

    /// The peer's live streams.
    fn of_peer(&self, peer: PeerId) -> Vec<StreamInfo>;
}

impl Streams for Vec<StreamInfo> {
    fn one(&self, key: StreamKey) -> Option<StreamInfo> {
        self.iter().find(|stream| stream.key == key).cloned()
    }

    fn of_peer(&self, peer: PeerId) -> Vec<StreamInfo> {
        let of_peer = self.iter().filter(|stream| stream.peer == peer);
        of_peer.cloned().collect()
    }
}

impl fmt::Debug for PeerView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerView")
            .field("peer", &self.peer)
            .field("connections", &self.connections)
            .finish_non_exhaustive()
    }
}

impl<'a> PeerView<'a> {
    /// A view for tests of policies: of these connections, the oldest first, and of these streams.
    #[must_use]
    pub fn new(
        local: PeerId,
        peer: PeerId,
        connections: &'a [ConnectionInfo],
        streams: &'a dyn Streams,
    ) -> Self {
        Self {
            local,
            peer,
            designated: None,
            connections,
            streams,
        }
    }
}

impl PeerView<'_> {
    /// The remote.
    #[must_use]
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// The local peer.
    #[must_use]
    pub fn local_peer(&self) -> PeerId {
        self.local
    }

    /// True if the hash rule names us (*Who moves the stream*): one of the two peers, the same for
    /// both.
    #[must_use]
    pub fn is_designated(&self) -> bool {
        let hash = || roles::is_designated(&self.local, &self.peer);
        self.designated.unwrap_or_else(hash)
    }

    /// The connections to the peer, the oldest first.
    #[must_use]
    pub fn connections(&self) -> &[ConnectionInfo] {
        self.connections
    }

    /// A connection to the peer.
    #[must_use]
    pub fn connection(&self, key: ConnectionKey) -> Option<&ConnectionInfo> {
        self.connections.iter().find(|info| info.key == key)
    }

    /// The connection that a stream is on, unless it is between two.
    #[must_use]
    pub fn connection_of(&self, stream: &StreamInfo) -> Option<&ConnectionInfo> {
        self.connection(stream.connection?)
    }

    /// A live migratable stream to or from the peer.
    #[must_use]
    pub fn stream(&self, key: StreamKey) -> Option<StreamInfo> {
        self.streams.one(key)
    }

    /// The migratable streams of the peer. Costs time in proportion to their number.
    #[must_use]
    pub fn streams(&self) -> Vec<StreamInfo> {
        self.streams.of_peer(self.peer)
    }
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
                let info = ConnectionInfo::new(ConnectionKey::new(0), peer, &endpoint);
                assert_eq!((info.relayed, info.transport), (relayed, transport));
                let quic = !relayed && transport == Transport::Quic;
                let kind = if quic { LegKind::Quic } else { LegKind::Yamux };
                assert_eq!(info.leg_kind, kind);
            }
        }
    }
}
