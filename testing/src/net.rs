//! A dialer and a listener, and the connections between them.

use futures::StreamExt;
use libp2p::{Multiaddr, PeerId, StreamProtocol, multiaddr::Protocol};
use libp2p_stream_migration::{ConnectionKey, IncomingStreams, Stream};

use crate::{Node, PROTOCOL, Pair, Setup, within};

/// The kinds of connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Tcp,
    Quic,
    Relayed,
}

pub const KINDS: [Kind; 3] = [Kind::Tcp, Kind::Quic, Kind::Relayed];

/// A dialer and a listener, and what is between them.
pub struct Net {
    pub dialer: Node,
    pub listener: Node,
    relay: Option<(Node, Multiaddr)>,
    /// Whether the relay limits its circuits.
    pub limits: bool,
}

impl Default for Net {
    fn default() -> Self {
        Self::with(Node::new(), Node::new())
    }
}

impl Net {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn with(dialer: Node, listener: Node) -> Self {
        Self {
            dialer,
            listener,
            relay: None,
            limits: false,
        }
    }

    /// One more connection of this kind.
    pub async fn connect(&mut self, kind: Kind) -> Pair {
        let address = self.address(kind).await;
        self.dialer.dial(&self.listener, address).await
    }

    /// An address of this kind at which the listener listens, from now on.
    pub async fn address(&mut self, kind: Kind) -> Multiaddr {
        match kind {
            Kind::Tcp => self.listener.listen("/ip4/127.0.0.1/tcp/0").await,
            Kind::Quic => self.listener.listen("/ip4/127.0.0.1/udp/0/quic-v1").await,
            Kind::Relayed => self.circuit().await,
        }
    }

    /// A plain stream from dialer to listener, on whatever connection the swarm picks.
    pub async fn open_plain(
        &mut self,
        incoming: &mut libp2p_stream::IncomingStreams,
        protocol: StreamProtocol,
    ) -> (libp2p::Stream, libp2p::Stream) {
        let plain = self.dialer.plain.as_mut().unwrap();
        let opened = plain.open_stream(self.listener.id, protocol);
        let (opened, accepted) = within("opening a plain stream", async {
            futures::join!(opened, incoming.next())
        })
        .await;
        let (peer, accepted) = accepted.unwrap();
        assert_eq!(peer, self.dialer.id);
        (opened.unwrap(), accepted)
    }

    /// Has all nodes forget what has happened so far.
    pub fn forget(&self) {
        let relay = self.relay.as_ref().map(|(relay, _)| relay);
        for node in [&self.dialer, &self.listener].into_iter().chain(relay) {
            node.forget();
        }
    }

    /// Stops the relay, and with it all that goes through it.
    pub fn stop_relay(&mut self) {
        self.relay = None;
    }

    /// The listener's address at a relay.
    pub async fn circuit(&mut self) -> Multiaddr {
        if let Some((_, address)) = &self.relay {
            return address.clone();
        }
        let relay = Node::with(Setup {
            migration: false,
            relay: true,
            limits: self.limits,
            ..Default::default()
        });
        let address = relay.listen("/ip4/127.0.0.1/tcp/0").await;
        relay.is_reachable_at(address.clone());
        let circuit = address.with(Protocol::P2pCircuit);
        let listening = self.listener.listen(&circuit.to_string()).await;
        self.relay = Some((relay, listening.clone()));
        listening
    }
}

/// A stream from dialer to listener, or the other way round.
pub async fn open(
    opener: &mut Node,
    acceptor: PeerId,
    incoming: &mut IncomingStreams,
    connection: ConnectionKey,
) -> (Stream, Stream) {
    let opened = opener
        .control
        .open_stream_on(acceptor, connection, PROTOCOL);
    let (opened, accepted) = within("opening a stream", async {
        futures::join!(opened, incoming.next())
    })
    .await;
    let (peer, accepted) = accepted.unwrap();
    assert_eq!(peer, opener.id);
    (opened.unwrap(), accepted)
}
