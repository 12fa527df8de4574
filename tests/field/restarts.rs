//! A peer goes and comes back with the same key.

use futures::join;
use libp2p::identity::Keypair;
use libp2p_stream_migration::{Config, Event};
use testing::*;

/// The peer was killed and is back with the same key before its old connection has timed out: its first
/// stream opens, and nobody is blamed for using the IDs of its former life.
/// B2 · rust-libp2p 5097
#[tokio::test]
async fn back_with_the_same_key() {
    for kind in [Kind::Tcp, Kind::Quic] {
        for identify in [false, true] {
            let keypair = Keypair::generate_ed25519();
            let life = || {
                Node::with(Setup {
                    keypair: keypair.clone(),
                    identify,
                    ..Default::default()
                })
            };
            let listener = Node::with(Setup {
                identify,
                ..Default::default()
            });
            let mut net = Net::with(life(), listener);
            let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
            // The former life dies on a path that has gone silent.
            let path = Proxy::default();
            let old = path.connect(&net, kind).await;
            let peer = net.listener.id;
            let mut held = Vec::new();
            for _ in 0..3 {
                held.push(open(&mut net.dialer, peer, &mut incoming, old.here).await);
            }
            path.silence();
            let mut again = life();
            let address = match kind {
                Kind::Quic => net.listener.listen("/ip4/127.0.0.1/udp/0/quic-v1").await,
                _ => net.listener.listen("/ip4/127.0.0.1/tcp/0").await,
            };
            let new = again.dial(&net.listener, address).await;
            if identify {
                let identified = |seen: &Seen| matches!(seen, Seen::Identified(_)).then_some(());
                again.wait("identify", identified).await;
            }
            for _ in 0..3 {
                let (mut ours, mut theirs) = open(&mut again, peer, &mut incoming, new.here).await;
                within("both ways", async {
                    join!(write(&mut ours, 1, 0, 1000), read(&mut theirs, 1, 0, 1000));
                    join!(write(&mut theirs, 2, 0, 1000), read(&mut ours, 2, 0, 1000));
                })
                .await;
                held.push((ours, theirs));
            }
            let blamed = |event: &Event| matches!(event, Event::Violation { .. });
            assert!(!net.listener.events().iter().any(blamed));
        }
    }
}

/// Where the IDs begin can be said, for tests and for peers that know small ones only.
/// B2
#[tokio::test]
async fn the_first_id_can_be_said() {
    let node = || {
        Node::with(Setup {
            config: Config::default().with_first_id(0),
            ..Default::default()
        })
    };
    let mut net = Net::with(node(), node());
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let pair = net.connect(Kind::Tcp).await;
    let peer = net.listener.id;
    let (ours, theirs) = open(&mut net.dialer, peer, &mut incoming, pair.here).await;
    assert_eq!(ours.id(), theirs.id());
    assert!(ours.id().unwrap().0 < 2);
}
