//! Who closes what, and when; and that nothing is left.

use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p_stream_migration::{Chain, Config, ConnectionKey, Initiate};
use testing::*;

use crate::{listed, rehomed};

/// Longer than any of these tests takes.
const BUSY: Duration = Duration::from_secs(60);

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
            let (mut net, relayed, direct) = two_connections(BUSY).await;
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
    let (net, relayed, direct) = two_connections(BUSY).await;
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

/// "I allow one connection to each peer. Since there is this layer, the relayed one goes, too, when a second is
/// denied." Whoever denies it, and whatever the other side has made of it meanwhile, nothing becomes of it.
#[tokio::test]
async fn a_second_connection_is_denied() {
    for by_dialer in [true, false] {
        for kind in [Kind::Tcp, Kind::Quic] {
            let limited = || {
                Node::with(Setup {
                    per_peer: Some(1),
                    ..setup(BUSY)
                })
            };
            let mut net = match by_dialer {
                true => Net::with(limited(), node(BUSY)),
                false => Net::with(node(BUSY), limited()),
            };
            let relayed = net.connect(Kind::Relayed).await;
            a_word(&mut net).await;
            let address = net.address(kind).await;
            for _ in 0..3 {
                net.dialer.dial_in_vain(&net.listener, address.clone());
            }
            let denier = if by_dialer {
                &net.dialer
            } else {
                &net.listener
            };
            let failed = |log: &[Seen]| log.iter().filter(|it| matches!(it, Seen::Failed)).count();
            denier.until("three denials", |log| failed(log) >= 3).await;
            listed(&mut net, 1).await;
            for _ in 0..3 {
                a_word(&mut net).await;
            }
            assert!(!is_closed(&net.dialer, relayed.here));
            assert!(!is_closed(&net.listener, relayed.there));
        }
    }
}

/// Whoever blocks a peer has no connection to it left, and the peer none to him, on whatever link they were.
#[tokio::test]
async fn who_blocks_a_peer_is_rid_of_it() {
    for here in [true, false] {
        let (mut net, relayed, direct) = two_connections(BUSY).await;
        match here {
            true => net.dialer.block(net.listener.id),
            false => net.listener.block(net.dialer.id),
        }
        for pair in [relayed, direct] {
            closed(&net.dialer, pair.here).await;
            closed(&net.listener, pair.there).await;
        }
        listed(&mut net, 0).await;
    }
}

/// Three connections over three links, closed in any order by either side: what is left goes on, and in the end
/// nothing is.
#[tokio::test]
async fn three_links_in_every_order() {
    let orders = [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ];
    for (number, order) in orders.into_iter().enumerate() {
        let mut net = Net::with(node(BUSY), node(BUSY));
        let relayed = net.connect(Kind::Relayed).await;
        let mut pairs = vec![relayed];
        for kind in [Kind::Tcp, Kind::Quic] {
            pairs.push(net.connect(kind).await);
        }
        rehomed(&net, relayed).await;
        for (turn, which) in order.into_iter().enumerate() {
            let pair = pairs[which];
            // Each side has its turn.
            match (number + turn) % 2 {
                0 => net.dialer.close(pair.here),
                _ => net.listener.close(pair.there),
            }
            closed(&net.dialer, pair.here).await;
            closed(&net.listener, pair.there).await;
            if turn < 2 {
                for _ in 0..3 {
                    a_word(&mut net).await;
                }
            }
        }
        listed(&mut net, 0).await;
        for node in [&mut net.dialer, &mut net.listener] {
            assert!(node.control.all_streams().await.is_empty());
        }
    }
}

/// A hundred connections to one peer: streams are for the connection that they were opened on, whichever link they
/// take, and when all are gone nothing is left.
#[tokio::test]
async fn a_hundred_links() {
    let mut net = Net::with(node(BUSY), node(BUSY));
    let relayed = net.connect(Kind::Relayed).await;
    let address = net.address(Kind::Tcp).await;
    for _ in 1..100 {
        net.dialer.dial(&net.listener, address.clone()).await;
    }
    listed(&mut net, 100).await;
    rehomed(&net, relayed).await;
    for _ in 0..20 {
        a_word(&mut net).await;
    }
    net.dialer.disconnect(net.listener.id);
    listed(&mut net, 0).await;
    for node in [&mut net.dialer, &mut net.listener] {
        assert!(node.control.all_streams().await.is_empty());
    }
}

/// "The relay died, and with it the connection that had long been on a direct path."
#[tokio::test]
async fn a_relay_that_dies_takes_nothing_along() {
    let (mut net, relayed, direct) = two_connections(BUSY).await;
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
