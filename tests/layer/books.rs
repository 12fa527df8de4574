//! Who closes what, and when; and that nothing is left.

use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p_stream_migration::{Chain, Config, ConnectionKey, Initiate};
use testing::*;

use crate::rehomed;

fn node(idle: Duration) -> Node {
    Node::with(setup(idle))
}

fn setup(idle: Duration) -> Setup {
    Setup {
        layer: true,
        plain: true,
        idle,
        config: Config::default().with_initiate(Initiate::Either),
        policy: Box::new(Chain::default()),
        ..Default::default()
    }
}

async fn closed(node: &Node, connection: ConnectionKey) {
    node.wait("a connection's end", |seen| match seen {
        Seen::Closed(it) if *it == connection => Some(()),
        _ => None,
    })
    .await;
}

fn is_closed(node: &Node, connection: ConnectionKey) -> bool {
    node.read(|seen| matches!(seen, Seen::Closed(it) if *it == connection))
}

/// A node with a relayed and a direct connection to another, both at home on the direct link.
async fn two_connections(idle: Duration) -> (Net, Pair, Pair) {
    let mut net = Net::with(node(idle), node(idle));
    let relayed = net.connect(Kind::Relayed).await;
    let direct = net.connect(Kind::Tcp).await;
    rehomed(&net, relayed).await;
    (net, relayed, direct)
}

/// A word each way, on whatever connection the swarm picks.
async fn a_word(net: &mut Net) {
    let mut incoming = net.listener.accept_plain(PROTOCOL);
    let (mut ours, mut theirs) = net.open_plain(&mut incoming, PROTOCOL).await;
    for _ in 0..2 {
        ours.write_all(b"word").await.unwrap();
        ours.flush().await.unwrap();
        let mut buf = [0; 4];
        within("a word", theirs.read_exact(&mut buf)).await.unwrap();
        assert_eq!(&buf, b"word");
        std::mem::swap(&mut ours, &mut theirs);
    }
}

/// "I closed one of my two connections to a peer; the other went with it."
#[tokio::test]
async fn closing_one_leaves_the_other() {
    for closes_relayed in [true, false] {
        for here in [true, false] {
            let (mut net, relayed, direct) = two_connections(Duration::from_secs(60)).await;
            let (closing, other) = match closes_relayed {
                true => (relayed, direct),
                false => (direct, relayed),
            };
            match here {
                true => net.dialer.close(closing.here),
                false => net.listener.close(closing.there),
            }
            closed(&net.dialer, closing.here).await;
            closed(&net.listener, closing.there).await;
            for _ in 0..3 {
                a_word(&mut net).await;
            }
            assert!(!is_closed(&net.dialer, other.here));
            assert!(!is_closed(&net.listener, other.there));
        }
    }
}

/// Whoever disconnects from a peer is disconnected, and so is the peer.
#[tokio::test]
async fn disconnecting_closes_all() {
    let (net, relayed, direct) = two_connections(Duration::from_secs(60)).await;
    net.dialer.disconnect(net.listener.id);
    for pair in [relayed, direct] {
        closed(&net.dialer, pair.here).await;
        closed(&net.listener, pair.there).await;
    }
}

/// Connections that nobody uses close by their own idleness, the links with them.
#[tokio::test]
async fn idle_connections_close() {
    let (net, relayed, direct) = two_connections(Duration::from_secs(2)).await;
    for pair in [relayed, direct] {
        closed(&net.dialer, pair.here).await;
        closed(&net.listener, pair.there).await;
    }
}

/// "The relay died, and with it the connection that had long been on a direct path."
#[tokio::test]
async fn a_relay_that_dies_takes_nothing_along() {
    let (mut net, relayed, direct) = two_connections(Duration::from_secs(60)).await;
    net.stop_relay();
    for node in [&net.dialer, &net.listener] {
        // Theirs to the relay.
        let ours = [relayed, direct]
            .map(|pair| [pair.here, pair.there])
            .concat();
        node.wait("the relay's end", |seen| match seen {
            Seen::Closed(it) if !ours.contains(it) => Some(()),
            _ => None,
        })
        .await;
    }
    for _ in 0..3 {
        a_word(&mut net).await;
    }
    for pair in [relayed, direct] {
        assert!(!is_closed(&net.dialer, pair.here));
        assert!(!is_closed(&net.listener, pair.there));
    }
}
