//! The whole story: two nodes behind a relay punch through, the stream goes over by itself, and the
//! relayed connection goes away, though dcutr's handler would keep it.

use std::{collections::HashSet, time::Duration};

use futures::{AsyncReadExt, AsyncWriteExt, join};
use libp2p::{Multiaddr, multiaddr::Protocol};
use libp2p_stream_migration::ConnectionKey;
use libp2p_stream_migration::{Event, PreferDirect, Stream};
use testing::*;

fn behind_the_relay() -> Node {
    let setup = Setup {
        identify: true,
        dcutr: true,
        // The default: too long to be what closes the relayed connection here.
        idle: Duration::from_secs(300),
        ..Default::default()
    };
    Node::with(setup.policy(PreferDirect))
}

async fn identified(node: &Node, other: &Node) {
    node.wait("Identify", |seen| match seen {
        Seen::Identified(peer) if *peer == other.id => Some(()),
        _ => None,
    })
    .await;
}

async fn punches_through(listen: &str) {
    let relay = Node::with(Setup {
        migration: false,
        relay: true,
        identify: true,
        ..Default::default()
    });
    let mut dialer = behind_the_relay();
    let mut listener = behind_the_relay();
    let address = relay.listen(listen).await;
    relay.is_reachable_at(address.clone());
    // Both know, from Identify with the relay, as what they are seen.
    for node in [&dialer, &listener] {
        node.listen(listen).await;
        node.dial(&relay, address.clone()).await;
        identified(node, &relay).await;
        identified(&relay, node).await;
    }
    let circuit = address.with(Protocol::P2pCircuit);
    let circuit: Multiaddr = listener.listen(&circuit.to_string()).await;

    let mut incoming = listener.control.accept(PROTOCOL).unwrap();
    let relayed = dialer.dial(&listener, circuit).await;
    let peer = listener.id;
    let (ours, theirs) = open(&mut dialer, peer, &mut incoming, relayed.here).await;
    let keys = (ours.key(), theirs.key());
    let exchange = |stream: Stream, out, r#in| async move {
        let (mut reader, mut writer) = stream.split();
        join!(
            async {
                write(&mut writer, out, 0, 300_000).await;
            },
            read(&mut reader, r#in, 0, 300_000),
        );
        reader.reunite(writer).unwrap()
    };
    let moved = |node: &Node, key, from: ConnectionKey| {
        let events = node.events().into_iter();
        let completed = events.filter_map(|event| match event {
            Event::MigrationCompleted {
                key: k, from, to, ..
            } if k == key => Some((from, to)),
            _ => None,
        });
        let completed: Vec<_> = completed.collect();
        assert_eq!(completed.len(), 1, "{completed:?}");
        assert_eq!(completed[0].0, from);
    };
    let (mut ours, mut theirs) = within("the exchange", async {
        join!(exchange(ours, 1, 2), exchange(theirs, 2, 1))
    })
    .await;
    for (node, id) in [(&dialer, relayed.here), (&listener, relayed.there)] {
        node.wait("the relayed connection's end", |seen| match seen {
            Seen::Closed(closed) if *closed == id => Some(()),
            _ => None,
        })
        .await;
    }
    // QUIC leaves two direct connections; the stream has moved once nonetheless.
    moved(&dialer, keys.0, relayed.here);
    moved(&listener, keys.1, relayed.there);
    write(&mut ours, 3, 0, 1000).await;
    ours.close().await.unwrap();
    read(&mut theirs, 3, 0, 1000).await;
    read_end(&mut theirs).await;
    let direct: HashSet<_> = dialer
        .control
        .connections(peer)
        .await
        .into_iter()
        .map(|c| c.relayed)
        .collect();
    assert_eq!(direct, HashSet::from([false]));
}

#[tokio::test]
async fn tcp() {
    punches_through("/ip4/127.0.0.1/tcp/0").await;
}

#[tokio::test]
async fn quic() {
    punches_through("/ip4/127.0.0.1/udp/0/quic-v1").await;
}

/// A remote that closes the relayed connection as soon as there is a direct one, as js-libp2p does: the
/// stream has moved, or it ends in an error. It is never cut short and looks complete.
#[tokio::test]
async fn the_remote_closes_the_relayed_connection_at_once() {
    for round in 0..10 {
        let node = || Node::with(Setup::default().policy(PreferDirect));
        let mut net = Net::with(node(), node());
        let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
        let relayed = net.connect(Kind::Relayed).await;
        let peer = net.listener.id;
        let (ours, theirs) = open(&mut net.dialer, peer, &mut incoming, relayed.here).await;
        let total = 200_000;
        let exchange = |stream: Stream, out, r#in| async move {
            let (mut reader, mut writer) = stream.split();
            let mut buf = [0; 8192];
            let mut at = 0;
            let writing = async {
                for from in (0..total).step_by(1000) {
                    let chunk: Vec<_> = (from..from + 1000).map(|at| byte(out, at)).collect();
                    writer.write_all(&chunk).await?;
                }
                writer.flush().await
            };
            let reading = async {
                while at < total {
                    match reader.read(&mut buf).await {
                        Ok(0) => panic!("cut short at {at}, and looks complete"),
                        Ok(n) => {
                            for got in &buf[..n] {
                                assert_eq!(*got, byte(r#in, at));
                                at += 1;
                            }
                        }
                        Err(_) => return,
                    }
                }
            };
            let _ = join!(writing, reading);
            (reader, writer)
        };
        let closing = async {
            let closer = if round % 2 == 0 {
                &net.dialer
            } else {
                &net.listener
            };
            let direct = net.listener.listen("/ip4/127.0.0.1/udp/0/quic-v1").await;
            net.dialer.dial(&net.listener, direct).await;
            closer.close(if round % 2 == 0 {
                relayed.here
            } else {
                relayed.there
            });
        };
        within("the exchange", async {
            join!(exchange(ours, 1, 2), exchange(theirs, 2, 1), closing)
        })
        .await;
    }
}
