//! Streams of unmodified behaviours, below the swarm: real swarms whose transport is wrapped.

mod books;
mod compose;
mod crowds;
mod hostile;
mod moves;

use libp2p_stream_migration::Event;
use testing::{Net, Pair};

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
