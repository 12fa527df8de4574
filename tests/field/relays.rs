//! Relays, with their limits, and streams that must not be on one.

use std::time::{Duration, Instant};

use futures::{FutureExt, StreamExt, join};
use libp2p_stream_migration::{Config, Mobility, OpenStreamError};
use testing::*;

fn never_relayed(wait: Duration) -> Setup {
    Setup {
        config: Config::default()
            .with_mobility(PROTOCOL, Mobility::NeverRelayed)
            .with_wait_for_direct(wait),
        ..Default::default()
    }
}

/// My protocol must not use up the relay's limit. A new stream of it begins on the relay all the same.
///
/// B7 · rust-libp2p 6238, go-libp2p 2219, 501
#[tokio::test]
async fn a_new_stream_waits_for_a_direct_connection() {
    let wait = Duration::MAX;
    let mut net = Net::with(Node::with(never_relayed(wait)), Node::new());
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    net.connect(Kind::Relayed).await;
    let peer = net.listener.id;
    let mut control = net.dialer.control.clone();
    let mut opening = Box::pin(control.open_stream(peer, PROTOCOL));
    assert!(opening.as_mut().now_or_never().is_none());
    net.dialer.control.connections(peer).await;
    assert!(opening.as_mut().now_or_never().is_none());
    let direct = net.connect(Kind::Tcp).await;
    let (opened, accepted) = within("opening", async { join!(opening, incoming.next()) }).await;
    assert_eq!(opened.unwrap().connection(), Some(direct.here));
    assert_eq!(accepted.unwrap().1.connection(), Some(direct.there));
}

/// And if none comes, I want to hear why.
///
/// B7
#[tokio::test]
async fn or_fails_and_says_why() {
    for wait in [Duration::ZERO, Duration::from_millis(300)] {
        let mut net = Net::with(Node::with(never_relayed(wait)), Node::new());
        let _incoming = net.listener.control.accept(PROTOCOL).unwrap();
        net.connect(Kind::Relayed).await;
        let peer = net.listener.id;
        let start = Instant::now();
        let opened = within("opening", net.dialer.control.open_stream(peer, PROTOCOL)).await;
        assert!(start.elapsed() >= wait);
        match opened {
            Err(OpenStreamError::NotAllowed(Mobility::NeverRelayed)) => {}
            other => panic!("{other:?}"),
        }
        assert!(net.dialer.control.streams(peer).await.is_empty());
    }
}
