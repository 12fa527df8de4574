//! A policy of our own, in the behaviour.

use std::time::Duration;

use libp2p::StreamProtocol;
use libp2p_stream_migration::{
    Behaviour, Chain, Config, Initiate, PeerView, Placement, Policy, StreamInfo, Transport,
};
use tokio::sync::mpsc;

use crate::{
    Fallible, Outcome,
    node::{Node, say},
    traffic::{Talks, echo},
};

const CHAT: StreamProtocol = StreamProtocol::new("/chat/1.0.0");
const BULK: StreamProtocol = StreamProtocol::new("/bulk/1.0.0");

/// Streams of `CHAT` are at home on TCP; others go to QUIC, once they have carried enough for a move to
/// be worth it.
struct ByProtocol {
    worth_it: u64,
}

impl Policy for ByProtocol {
    fn place(&mut self, stream: &StreamInfo, peer: &PeerView<'_>) -> Placement {
        let home = match &stream.protocol {
            // We are asked again when it is known.
            None => return Placement::Here,
            Some(protocol) if *protocol == CHAT => Transport::Tcp,
            Some(_) => Transport::Quic,
        };
        let at_home = |id| {
            let connection = peer.connection(id);
            connection.is_some_and(|info| info.transport == home && !info.relayed)
        };
        if stream.connection.is_some_and(at_home) {
            // Not a word about which of several: the rest of the chain may move it from one to another.
            return match home {
                Transport::Tcp => Placement::Here,
                _ => Placement::Indifferent,
            };
        }
        let mut connections = peer.connections().iter();
        let Some(there) = connections.find(|info| at_home(info.key)) else {
            return Placement::Indifferent;
        };
        if home == Transport::Quic && stream.sent + stream.received < self.worth_it {
            return Placement::AskAgain(Duration::from_millis(20));
        }
        Placement::On(there.key)
    }
}

/// A node with this policy before the default one.
async fn node() -> Fallible<(Node, mpsc::Receiver<libp2p_stream_migration::Event>)> {
    Node::start(|id| {
        let policy = Chain::new(ByProtocol { worth_it: 64 << 10 }).then(Chain::default());
        // Whoever sees it first starts; otherwise, the designated peer has some seconds to do so.
        let config = Config::default().with_initiate(Initiate::Either);
        Behaviour::with_policy(id, config, policy)
    })
    .await
}

pub async fn run() -> Fallible<Outcome> {
    let (mut here, events_here) = node().await?;
    let (mut there, events_there) = node().await?;
    let moves = [("here", events_here), ("there", events_there)]
        .map(|(name, events)| tokio::spawn(count(name, events)));
    for protocol in [CHAT, BULK] {
        tokio::spawn(echo(there.control.accept(protocol)?));
    }
    let tcp = here.dial(there.id, &there.tcp).await?;
    let mut talks = Talks::new();
    let mut chat = None;
    for protocol in [CHAT, BULK] {
        let opening = here.control.open_stream_on(there.id, tcp, protocol.clone());
        let stream = opening.await?;
        if protocol == CHAT {
            chat = Some(stream.key());
        }
        talks.start(stream);
    }
    let quic = here.dial(there.id, &there.quic).await?;
    println!("here: connection {tcp} is TCP, connection {quic} is QUIC");
    here.until(there.id, |_, streams| {
        streams.iter().all(|stream| {
            let home = if Some(stream.key) == chat { tcp } else { quic };
            !stream.migrating && stream.connection == Some(home)
        })
    })
    .await?;
    let there_too =
        |_: &[_], streams: &[StreamInfo]| streams.iter().all(|stream| !stream.migrating);
    there.until(here.id, there_too).await?;
    let lost = talks.end().await?;
    // Their swarms stop, and their events end.
    drop((here, there));
    let mut moved = 0;
    for count in moves {
        moved += count.await?;
    }
    Ok(Outcome { moved, lost })
}

/// Says what moves, and counts it.
async fn count(
    name: &'static str,
    mut events: mpsc::Receiver<libp2p_stream_migration::Event>,
) -> usize {
    let mut moved = 0;
    while let Some(event) = events.recv().await {
        moved += usize::from(say(name, &event));
    }
    moved
}
