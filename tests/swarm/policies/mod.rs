//! Policies at work: the shipped ones, those of a test, and somebody outside.

mod accepting;
mod backoff;
mod calls;
mod drain;
mod duplicates;
mod history;
mod limits;
mod mobility;
mod old_leg;
mod outside;
mod ranking;

use futures::future::join_all;
use libp2p::{PeerId, identity::Keypair};
use libp2p_stream_migration::ConnectionKey;
use libp2p_stream_migration::{
    Config, Event, IncomingStreams, Initiate, Policy, Stream, StreamKey, designated_peer,
};
use testing::*;

/// Nobody waits for the designated peer: what a policy wants, it does at once, and when that is not, it
/// wants nothing.
fn eager() -> Config {
    Config::default().with_initiate(Initiate::Either)
}

fn setup(config: Config) -> Setup {
    Setup {
        config,
        ..Default::default()
    }
}

fn node(policy: impl Policy) -> Node {
    Node::with(setup(eager()).policy(policy))
}

/// Keys of two peers, the designated one's first.
fn keypairs() -> [Keypair; 2] {
    let [a, b] = [(); 2].map(|()| Keypair::generate_ed25519());
    let id = |keypair: &Keypair| keypair.public().to_peer_id();
    if designated_peer(id(&a), id(&b)) == id(&a) {
        [a, b]
    } else {
        [b, a]
    }
}

/// Waits until no stream to the peer is being moved, or waits for that.
async fn at_rest(node: &Node, peer: PeerId) {
    let mut control = node.control.clone();
    within("rest", async {
        while control.streams(peer).await.iter().any(|it| it.migrating) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

fn count(node: &Node, is: impl Fn(&Event) -> bool) -> usize {
    node.events().iter().filter(|event| is(event)).count()
}

fn is_start(event: &Event) -> bool {
    matches!(event, Event::MigrationStarted { .. })
}

fn is_failure(event: &Event) -> bool {
    matches!(event, Event::MigrationFailed { .. })
}

fn is_completion(event: &Event) -> bool {
    matches!(event, Event::MigrationCompleted { .. })
}

/// Waits until this stream has moved there.
async fn moved(node: &Node, stream: StreamKey, onto: ConnectionKey) {
    node.event("the move", |event| match event {
        Event::MigrationCompleted { key, to, .. } if *key == stream && *to == onto => Some(()),
        _ => None,
    })
    .await;
}

async fn closed(node: &Node, id: ConnectionKey) {
    node.wait("closing", |seen| match seen {
        Seen::Closed(closed) if *closed == id => Some(()),
        _ => None,
    })
    .await;
}

/// So many streams from dialer to listener.
async fn open_many(
    net: &mut Net,
    incoming: &mut IncomingStreams,
    connection: ConnectionKey,
    number: usize,
) -> Vec<(Stream, Stream)> {
    let peer = net.listener.id;
    let mut streams = Vec::new();
    for _ in 0..number {
        streams.push(open(&mut net.dialer, peer, incoming, connection).await);
    }
    streams
}

/// All of them still carry bytes, both ways.
async fn all_work(streams: &mut [(Stream, Stream)]) {
    let each = streams.iter_mut().map(|(ours, theirs)| async {
        let (at, there) = (ours.bytes_out(), theirs.bytes_out());
        write(ours, 1, at, at + 1000).await;
        read(theirs, 1, at, at + 1000).await;
        write(theirs, 2, there, there + 1000).await;
        read(ours, 2, there, there + 1000).await;
    });
    within("the bytes", join_all(each)).await;
}
