//! Connections that others make for a moment, and duplicates that somebody else closes.

use std::time::Duration;

use futures::join;
use libp2p::identity::Keypair;
use libp2p_stream_migration::{Chain, Config, Event, Initiate, Stream, designated_peer};
use testing::*;

/// Two nodes with the default policy; whether the first is the designated one.
fn two(first_is_designated: bool, config: &Config) -> Net {
    let [a, b] = [(); 2].map(|()| Keypair::generate_ed25519());
    let id = |keypair: &Keypair| keypair.public().to_peer_id();
    let is_first = designated_peer(id(&a), id(&b)) == id(&a);
    let (dialer, listener) = match is_first == first_is_designated {
        true => (a, b),
        false => (b, a),
    };
    let node = |keypair| {
        Node::with(Setup {
            config: config.clone(),
            policy: Box::new(Chain::default()),
            keypair,
            ..Default::default()
        })
    };
    Net::with(node(dialer), node(listener))
}

async fn works(ours: &mut Stream, theirs: &mut Stream) {
    let at = ours.bytes_out();
    within("the bytes", async {
        join!(
            write(ours, 1, at, at + 10_000),
            read(theirs, 1, at, at + 10_000)
        );
    })
    .await;
}

fn moves(net: &Net) -> usize {
    let events = [net.dialer.events(), net.listener.events()].concat();
    let is_move = |event: &&Event| matches!(event, Event::MigrationStarted { .. });
    events.iter().filter(is_move).count()
}

/// Somebody sees whether I can be reached, as AutoNAT does, or closes duplicates by a rule of its own, a
/// second after they come. My streams had just been moved there, and are gone.
///
/// B10, B11 · KwaaiNet PR 206, rust-libp2p 2515, core-rs-albatross PR 1414, jvm-libp2p PR 528
#[tokio::test]
async fn a_connection_for_a_second_takes_nothing_along() {
    for initiate in [
        Initiate::Either,
        Initiate::Designated {
            patience: Duration::from_millis(100),
        },
    ] {
        for (designated, dial_back) in [(true, true), (true, false), (false, true), (false, false)]
        {
            let config = Config::default().with_initiate(initiate);
            let mut net = two(designated, &config);
            let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
            let first = net.connect(Kind::Tcp).await;
            let peer = net.listener.id;
            let (mut ours, mut theirs) =
                open(&mut net.dialer, peer, &mut incoming, first.here).await;
            let address = net.dialer.listen("/ip4/127.0.0.1/tcp/0").await;
            let probe = match dial_back {
                true => net.listener.dial_back(&net.dialer, address).await,
                false => net.listener.dial(&net.dialer, address).await,
            };
            works(&mut ours, &mut theirs).await;
            // A second has to pass: that nothing happens in it is what is tested.
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(moves(&net), 0);
            net.listener.close(probe.here);
            works(&mut ours, &mut theirs).await;
            assert_eq!(ours.connection(), Some(first.here));
        }
    }
}

/// A connection dialed from a new port is somebody's probe, however long it stays: who dialed it never
/// moves streams onto it. One that stays and is not is chosen in the end, by both.
///
/// B10
#[tokio::test]
async fn a_duplicate_is_chosen_once_it_has_proven_itself() {
    for dial_back in [true, false] {
        let config = Config::default()
            .with_initiate(Initiate::Either)
            .with_proving_time(Duration::from_millis(200));
        // The listener is designated, so what it dials is what both choose.
        let mut net = two(false, &config);
        let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
        let first = net.connect(Kind::Tcp).await;
        let (peer, dialer) = (net.listener.id, net.dialer.id);
        let (mut ours, mut theirs) = open(&mut net.dialer, peer, &mut incoming, first.here).await;
        let address = net.dialer.listen("/ip4/127.0.0.1/tcp/0").await;
        let second = match dial_back {
            true => net.listener.dial_back(&net.dialer, address).await,
            false => net.listener.dial(&net.dialer, address).await,
        };
        let info = net.listener.connection(dialer, second.here).await;
        assert_eq!(info.new_port, dial_back);
        assert!(!info.proven);
        net.dialer
            .event("the move", |event| match event {
                Event::MigrationCompleted { .. } => Some(()),
                _ => None,
            })
            .await;
        works(&mut ours, &mut theirs).await;
        assert_eq!(ours.connection(), Some(second.there));
        let info = net.listener.connection(dialer, second.here).await;
        assert_eq!(info.proven, !dial_back);
        if dial_back {
            // It was the other one, who could not know.
            let ours = net.listener.events();
            let started = |event: &Event| matches!(event, Event::MigrationStarted { .. });
            assert!(!ours.iter().any(started));
        }
    }
}
