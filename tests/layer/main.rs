//! Streams of unmodified behaviours, below the swarm: real swarms whose transport is wrapped.

mod books;
mod compose;
mod control;
mod crowds;
mod hostile;
mod moves;
mod plain;
mod policies;
mod stage;

use libp2p_stream_migration::Event;
use testing::{Net, Pair, within};

/// A connection of each side has gone to another link.
async fn rehomed(net: &Net, pair: Pair) {
    for (node, connection) in [(&net.dialer, pair.here), (&net.listener, pair.there)] {
        node.event("a new home", |event| match event {
            Event::ConnectionRehomed { connection: it, .. } if *it == connection => Some(()),
            _ => None,
        })
        .await;
    }
}

/// Waits until both sides list so many connections to each other, and no more.
async fn listed(net: &mut Net, number: usize) {
    let [here, there] = [net.dialer.id, net.listener.id];
    for (node, peer) in [(&mut net.dialer, there), (&mut net.listener, here)] {
        within("the books", async {
            while node.control.connections(peer).await.len() != number {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}
