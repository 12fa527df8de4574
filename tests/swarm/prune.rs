//! The relayed connection goes away when its streams have left, and nobody is harmed.

use std::time::{Duration, Instant};

use futures::{AsyncReadExt, AsyncWriteExt, join};
use libp2p::StreamProtocol;
use libp2p_stream_migration::{Config, Event, PreferDirect};
use testing::*;

const GRACE: Duration = Duration::from_millis(100);
/// Enough for what is on its way here, and no more, since it has to pass.
const LINGER: Duration = Duration::from_secs(1);

fn node(plain: bool) -> Node {
    let setup = Setup {
        config: Config::default()
            .with_prune_grace(Some(GRACE))
            .with_old_leg_linger(LINGER),
        plain,
        ..Default::default()
    };
    Node::with(setup.policy(PreferDirect))
}

async fn closed(node: &Node, id: libp2p_stream_migration::ConnectionKey) {
    node.wait("closing", |seen| match seen {
        Seen::Closed(closed) if *closed == id => Some(()),
        _ => None,
    })
    .await;
}

fn pruned(node: &Node) -> usize {
    let events = node.events().into_iter();
    events
        .filter(|event| matches!(event, Event::ConnectionPruned { .. }))
        .count()
}

/// With bulk data in flight both ways at the switch: whoever initiated the migration closes the relayed
/// connection, and nothing is lost.
#[tokio::test]
async fn the_initiator_closes_the_emptied_relayed_connection() {
    for direct in [Kind::Quic, Kind::Tcp] {
        let mut net = Net::with(node(false), node(false));
        let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
        let relayed = net.connect(Kind::Relayed).await;
        let peer = net.listener.id;
        let (ours, theirs) = open(&mut net.dialer, peer, &mut incoming, relayed.here).await;
        let exchange = |stream: libp2p_stream_migration::Stream, out, r#in| async move {
            let (mut reader, mut writer) = stream.split();
            join!(
                async {
                    write(&mut writer, out, 0, 2_000_000).await;
                    writer.close().await.unwrap();
                },
                async {
                    assert_eq!(read_to_end(&mut reader, r#in, 0).await, 2_000_000);
                },
            );
        };
        let (ours, theirs) = (
            tokio::spawn(exchange(ours, 1, 2)),
            tokio::spawn(exchange(theirs, 2, 1)),
        );
        net.connect(direct).await;
        within("the exchange", ours).await.unwrap();
        within("the exchange", theirs).await.unwrap();
        closed(&net.dialer, relayed.here).await;
        closed(&net.listener, relayed.there).await;
        assert_eq!(pruned(&net.dialer) + pruned(&net.listener), 1);
        for node in [&net.dialer, &net.listener] {
            node.event("the relayed connection is free", |event| match event {
                Event::ConnectionFree { connection, .. } => {
                    (*connection == relayed.here || *connection == relayed.there).then_some(())
                }
                _ => None,
            })
            .await;
        }
    }
}

/// While another behaviour has a stream on it, the connection stays; when that ends, it goes.
#[tokio::test]
async fn other_behaviours_streams_are_not_harmed() {
    const OTHER: StreamProtocol = StreamProtocol::new("/other/1.0.0");
    let mut net = Net::with(node(true), node(true));
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let mut others = net.listener.accept_plain(OTHER);
    let relayed = net.connect(Kind::Relayed).await;
    let peer = net.listener.id;
    let (_ours, _theirs) = open(&mut net.dialer, peer, &mut incoming, relayed.here).await;
    let (mut other, mut there) = net.open_plain(&mut others, OTHER).await;

    net.connect(Kind::Quic).await;
    net.dialer
        .event("the relayed connection is free", |event| match event {
            Event::ConnectionFree { connection, .. } if *connection == relayed.here => Some(()),
            _ => None,
        })
        .await;
    // Used for many times the grace, with pauses as long as they come.
    let start = Instant::now();
    let mut position = 0;
    while start.elapsed() < 8 * GRACE {
        write(&mut other, 1, position, position + 100).await;
        read(&mut there, 1, position, position + 100).await;
        position += 100;
    }
    assert_eq!(pruned(&net.dialer) + pruned(&net.listener), 0);
    drop((other, there));
    closed(&net.dialer, relayed.here).await;
    closed(&net.listener, relayed.there).await;
    assert_eq!(pruned(&net.dialer) + pruned(&net.listener), 1);
}

/// Gossip and requests go on before, at and after the switch. Gossip's own streams keep the relayed
/// connection, so it is not closed.
#[tokio::test]
async fn gossip_and_requests_are_not_harmed() {
    let node = || {
        let setup = Setup {
            config: Config::default()
                .with_prune_grace(Some(GRACE))
                .with_old_leg_linger(LINGER),
            neighbours: true,
            ..Default::default()
        };
        Node::with(setup.policy(PreferDirect))
    };
    let mut net = Net::with(node(), node());
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let relayed = net.connect(Kind::Relayed).await;
    let peer = net.listener.id;
    for (node, other) in [(&net.dialer, peer), (&net.listener, net.dialer.id)] {
        node.wait("the subscription", |seen| match seen {
            Seen::Subscribed(who) if *who == other => Some(()),
            _ => None,
        })
        .await;
    }
    let (mut ours, mut theirs) = open(&mut net.dialer, peer, &mut incoming, relayed.here).await;
    let start = Instant::now();
    let mut round = 0_u64;
    // Over the time before, at and long after the switch.
    while start.elapsed() < 8 * GRACE {
        if round == 5 {
            net.connect(Kind::Quic).await;
        }
        let word = round.to_be_bytes();
        net.dialer.publish(&word);
        net.dialer.request(peer, &word);
        write(&mut ours, 1, round * 100, round * 100 + 100).await;
        read(&mut theirs, 1, round * 100, round * 100 + 100).await;
        net.listener
            .wait("the gossip", |seen| match seen {
                Seen::Gossip(said) => (*said == word).then_some(()),
                _ => None,
            })
            .await;
        net.dialer
            .wait("the response", |seen| match seen {
                Seen::Response(said) => (*said == word).then_some(()),
                _ => None,
            })
            .await;
        round += 1;
    }
    assert!(round > 5, "the switch was not reached in {round} rounds");
    net.dialer
        .event("the move", |event| match event {
            Event::MigrationCompleted { from, .. } if *from == relayed.here => Some(()),
            _ => None,
        })
        .await;
    assert_eq!(pruned(&net.dialer) + pruned(&net.listener), 0);
}

/// A stream that is dropped before the remote was heard on its new leg does not keep the relayed connection.
#[tokio::test]
async fn a_stream_that_is_dropped_unheard_keeps_nothing() {
    let node = || {
        let config = Config::default()
            .with_prune_grace(Some(GRACE))
            .with_old_leg_linger(LINGER)
            // The count would be heard at once.
            .with_verify(false);
        let setup = Setup {
            config,
            ..Default::default()
        };
        Node::with(setup)
    };
    let mut net = Net::with(node(), node());
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let relayed = net.connect(Kind::Relayed).await;
    let peer = net.listener.id;
    let (ours, _theirs) = open(&mut net.dialer, peer, &mut incoming, relayed.here).await;
    let direct = net.connect(Kind::Tcp).await;
    let migration = net.dialer.control.migrate(ours.key(), direct.here);
    within("the migration", migration).await.unwrap();
    drop(ours);
    closed(&net.dialer, relayed.here).await;
    closed(&net.listener, relayed.there).await;
    assert_eq!((pruned(&net.dialer), pruned(&net.listener)), (1, 0));
}

/// Two streams, each moved by another peer: neither has the right to close the connection, and the idle
/// timeout does.
#[tokio::test]
async fn nobody_closes_what_the_other_has_emptied_too() {
    let node = || {
        Node::with(Setup {
            config: Config::default()
                .with_prune_grace(Some(GRACE))
                .with_old_leg_linger(Duration::from_millis(10)),
            idle: Duration::from_secs(1),
            ..Default::default()
        })
    };
    let mut net = Net::with(node(), node());
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let relayed = net.connect(Kind::Relayed).await;
    let peer = net.listener.id;
    let (one, _one) = open(&mut net.dialer, peer, &mut incoming, relayed.here).await;
    let (_two, two) = open(&mut net.dialer, peer, &mut incoming, relayed.here).await;
    let direct = net.connect(Kind::Tcp).await;
    let (here, there) = within("both migrations", async {
        join!(
            net.dialer.control.migrate(one.key(), direct.here),
            net.listener.control.migrate(two.key(), direct.there),
        )
    })
    .await;
    assert_eq!((here, there), (Ok(()), Ok(())));
    closed(&net.dialer, relayed.here).await;
    closed(&net.listener, relayed.there).await;
    assert_eq!(pruned(&net.dialer) + pruned(&net.listener), 0);
}
