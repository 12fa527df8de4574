//! Streams of unmodified behaviours go over, and their behaviours notice nothing.

use std::{pin::pin, time::Duration};

use futures::{AsyncReadExt, AsyncWriteExt, future::select, join};
use libp2p::PeerId;
use libp2p_stream_migration::{Chain, Config, ConnectionKey, Event, Initiate};
use testing::*;

use crate::{listed, rehomed};

/// A node with everything that is unmodified.
fn node() -> Node {
    Node::with(Setup {
        layer: true,
        plain: true,
        neighbours: true,
        dcutr: true,
        identify: true,
        config: Config::default()
            .with_initiate(Initiate::Either)
            .with_old_leg_linger(Duration::from_secs(2)),
        policy: Box::new(Chain::default()),
        ..Default::default()
    })
}

async fn moved(node: &Node, to: ConnectionKey) {
    node.event("the move", |event| match event {
        Event::MigrationCompleted { to: there, .. } if *there == to => Some(()),
        _ => None,
    })
    .await;
}

async fn subscribed(node: &Node, other: PeerId) {
    node.wait("the subscription", |seen| match seen {
        Seen::Subscribed(peer) if *peer == other => Some(()),
        _ => None,
    })
    .await;
}

async fn pruned(node: &Node, link: ConnectionKey) {
    node.event("the relayed link's end", |event| match event {
        Event::ConnectionPruned { connection, .. } if *connection == link => Some(()),
        _ => None,
    })
    .await;
}

/// "My transfer ran over the relay, the hole was punched, and the transfer died with the relay's limit."
#[tokio::test]
async fn a_plain_stream_leaves_the_relay() {
    for kind in [Kind::Tcp, Kind::Quic] {
        let mut net = Net::with(node(), node());
        let relayed = net.connect(Kind::Relayed).await;
        let mut incoming = net.listener.accept_plain(PROTOCOL);
        let (mut ours, mut theirs) = net.open_plain(&mut incoming, PROTOCOL).await;
        ours.write_all(&[1; 1000]).await.unwrap();
        ours.flush().await.unwrap();
        let mut buf = vec![0; 1000];
        within("the first bytes", theirs.read_exact(&mut buf))
            .await
            .unwrap();

        let direct = net.connect(kind).await;
        rehomed(&net, relayed).await;
        join!(
            moved(&net.dialer, direct.here),
            moved(&net.listener, direct.there)
        );
        // Whoever has moved it closes the relayed link.
        let here = pin!(pruned(&net.dialer, relayed.here));
        let there = pin!(pruned(&net.listener, relayed.there));
        select(here, there).await;
        let sent: Vec<u8> = (0..300_000_u32).map(|i| i as u8).collect();
        let mut got = Vec::new();
        within("the rest", async {
            join!(
                async {
                    ours.write_all(&sent).await.unwrap();
                    ours.close().await.unwrap();
                },
                async {
                    theirs.read_to_end(&mut got).await.unwrap();
                }
            )
        })
        .await;
        assert!(got == sent);
        // The connection that came with the relay lives on, without it.
        let closed = |node: &Node| node.read(|seen| matches!(seen, Seen::Closed(_)));
        assert!(!closed(&net.dialer) && !closed(&net.listener));
    }
}

/// "I have switched the behaviour off at that node, by a `Toggle`." A layer works without it, with the default policy.
#[tokio::test]
async fn a_layer_without_its_behaviour() {
    let off = Node::with(Setup {
        layer: true,
        migration: false,
        plain: true,
        policy: Box::new(Chain::default()),
        ..Default::default()
    });
    let mut net = Net::with(node(), off);
    let relayed = net.connect(Kind::Relayed).await;
    let mut incoming = net.listener.accept_plain(PROTOCOL);
    let (mut ours, mut theirs) = net.open_plain(&mut incoming, PROTOCOL).await;
    let direct = net.connect(Kind::Tcp).await;
    moved(&net.dialer, direct.here).await;
    net.stop_relay();
    let closed = |seen: &Seen| matches!(seen, Seen::Closed(it) if *it == relayed.here);
    write(&mut ours, 1, 0, 100_000).await;
    ours.close().await.unwrap();
    read(&mut theirs, 1, 0, 100_000).await;
    read_end(&mut theirs).await;
    assert!(!net.dialer.read(closed));
}

/// "I dial all addresses of a peer at once, and take the first that answers." The others are dropped before anybody has
/// polled them; nothing of them is left, on either side.
#[tokio::test]
async fn the_first_of_two_dials() {
    let mut net = Net::with(node(), node());
    let mut addresses = Vec::new();
    for kind in [Kind::Tcp, Kind::Quic] {
        addresses.push(net.address(kind).await);
    }
    for _ in 0..10 {
        net.dialer.dial_any(&net.listener, addresses.clone()).await;
    }
    let mut incoming = net.listener.accept_plain(PROTOCOL);
    drop(net.open_plain(&mut incoming, PROTOCOL).await);
    let peer = net.listener.id;
    assert_eq!(net.dialer.control.connections(peer).await.len(), 10);
    net.dialer.disconnect(peer);
    listed(&mut net, 0).await;
}

/// Gossip, requests, ping and Identify go on through it all.
#[tokio::test]
async fn the_neighbours_notice_nothing() {
    let mut net = Net::with(node(), node());
    net.connect(Kind::Relayed).await;
    join!(
        subscribed(&net.dialer, net.listener.id),
        subscribed(&net.listener, net.dialer.id)
    );
    for round in 0..20_u8 {
        if round == 5 {
            net.connect(Kind::Quic).await;
        }
        net.dialer.publish(&[round, 0]);
        net.listener.publish(&[round, 1]);
        net.dialer.request(net.listener.id, &[round, 2]);
        net.listener.request(net.dialer.id, &[round, 3]);
        for (node, gossip, response) in [(&net.dialer, 1, 2), (&net.listener, 0, 3)] {
            node.wait("gossip", |seen| match seen {
                Seen::Gossip(data) if *data == [round, gossip] => Some(()),
                _ => None,
            })
            .await;
            node.wait("a response", |seen| match seen {
                Seen::Response(data) if *data == [round, response] => Some(()),
                _ => None,
            })
            .await;
        }
    }
}

/// A peer without a layer is served as ever, relayed or not.
#[tokio::test]
async fn a_peer_without_a_layer_is_served() {
    for kind in [Kind::Relayed, Kind::Tcp, Kind::Quic] {
        let plain = Node::with(Setup {
            plain: true,
            ..Default::default()
        });
        let mut net = Net::with(node(), plain);
        net.connect(kind).await;
        let mut incoming = net.listener.accept_plain(PROTOCOL);
        let (mut ours, mut theirs) = net.open_plain(&mut incoming, PROTOCOL).await;
        ours.write_all(b"word").await.unwrap();
        ours.close().await.unwrap();
        let mut got = Vec::new();
        within("the word", theirs.read_to_end(&mut got))
            .await
            .unwrap();
        assert_eq!(got, b"word");
    }
}

/// "Opening a stream over the relay took until the next ping." What is written first on a substream goes out at
/// once, though nothing else happens on its link.
#[tokio::test]
async fn a_first_word_does_not_wait() {
    let quiet = || {
        Node::with(Setup {
            layer: true,
            plain: true,
            policy: Box::new(Chain::default()),
            ..Default::default()
        })
    };
    let mut net = Net::with(quiet(), quiet());
    net.connect(Kind::Tcp).await;
    let mut incoming = net.listener.accept_plain(PROTOCOL);
    let mut held = Vec::new();
    for _ in 0..50 {
        held.push(net.open_plain(&mut incoming, PROTOCOL).await);
    }
}
