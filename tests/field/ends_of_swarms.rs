//! A swarm comes to its end, or is put together wrongly.

use futures::StreamExt;
use libp2p::{
    StreamProtocol,
    swarm::{DialError, NetworkBehaviour, SwarmEvent},
};
use libp2p_stream_migration::{
    AcceptError, Behaviour, Config, Control, Event, NameInUse, OpenStreamError,
};
use testing::*;

/// The swarm is dropped: whoever waits for inbound streams hears that there will be none, and every call
/// returns at once, those that wait for a connection or for a remote among them.
/// C12 · HotShot 575
#[tokio::test]
async fn the_swarm_is_dropped() {
    let path = Proxy::default();
    let mut net = Net::new();
    let silent = path.connect(&net, Kind::Tcp).await.here;
    path.silence();
    let peer = net.listener.id;
    let control = net.dialer.control.clone();
    let mut incoming = net.dialer.control.accept(PROTOCOL).unwrap();
    let mut control_of_open = control.clone();
    let waiting = tokio::spawn(async move {
        control_of_open
            .open_stream_on(peer, silent, PROTOCOL)
            .await
            .map(drop)
    });
    let taker = tokio::spawn(async move { incoming.next().await.map(drop) });
    tokio::task::yield_now().await;
    // All that was asked before has arrived.
    let mut gone = control;
    assert_eq!(gone.connections(peer).await.len(), 1);
    drop(net.dialer);
    assert!(
        within("the end of what comes in", taker)
            .await
            .unwrap()
            .is_none()
    );
    let opened = within("the open that waits", waiting).await.unwrap();
    assert!(
        matches!(opened, Err(OpenStreamError::BehaviourGone)),
        "{opened:?}"
    );
    within("all calls", async {
        assert!(gone.open_stream(peer, PROTOCOL).await.is_err());
        assert!(gone.drain(peer, silent).await.is_err());
        gone.close_when_free(peer, silent).await;
        assert!(gone.streams(peer).await.is_empty());
        assert!(gone.connections(peer).await.is_empty());
        let accepted = gone.accept(PROTOCOL).map(drop);
        assert_eq!(accepted, Err(AcceptError::BehaviourGone));
    })
    .await;
}

/// A control of a behaviour that was never added to a swarm, or is gone with it: its streams come to an end
/// even while nobody waits for them.
/// C12 · py-libp2p PR 1014
#[tokio::test]
async fn streams_that_have_come_are_there_after_the_swarm() {
    let mut net = Net::new();
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    net.connect(Kind::Tcp).await;
    let peer = net.listener.id;
    let opened = net.dialer.control.open_stream(peer, PROTOCOL);
    let _ours = within("the stream", opened).await.unwrap();
    let came = |event: &Event| matches!(event, Event::StreamNegotiated { .. }).then_some(());
    net.listener.event("the stream there", came).await;
    let Net { listener, .. } = net;
    let mut control = listener.control.clone();
    drop(listener);
    within("the swarm's end", async {
        let other = StreamProtocol::new("/other");
        while control.accept(other.clone()).is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(incoming.next().await.is_some());
    assert!(incoming.next().await.is_none());
    assert!(incoming.next().await.is_none());
}

#[derive(NetworkBehaviour)]
struct Twins {
    one: Behaviour,
    other: Behaviour,
}

fn twins(name: &'static str) -> (libp2p::Swarm<Twins>, Control, Control) {
    let swarm = libp2p::SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(
            libp2p::tcp::Config::default(),
            libp2p::noise::Config::new,
            libp2p::yamux::Config::default,
        )
        .unwrap()
        .with_behaviour(|keypair| {
            let id = keypair.public().to_peer_id();
            let config = Config::default().with_protocol_name(StreamProtocol::new(name));
            Twins {
                one: Behaviour::new(id, Config::default()),
                other: Behaviour::new(id, config),
            }
        })
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(HANG))
        .build();
    let one = swarm.behaviour().one.new_control();
    let other = swarm.behaviour().other.new_control();
    (swarm, one, other)
}

/// A swarm has two behaviours of this crate, by mistake: its connections are denied with an error that says
/// so. With a name each, both work.
/// B12 · rust-libp2p 4457
#[tokio::test]
async fn two_behaviours_in_one_swarm() {
    let mut node = Node::new();
    let address = node.listen("/ip4/127.0.0.1/tcp/0").await;
    let _incoming = node.control.accept(PROTOCOL).unwrap();
    for name in ["/libp2p/stream-migration", "/libp2p/stream-migration/"] {
        let (mut swarm, ..) = twins(name);
        swarm.dial(address.clone()).unwrap();
        let error = within("an error", async {
            loop {
                if let SwarmEvent::OutgoingConnectionError { error, .. } =
                    swarm.select_next_some().await
                {
                    return error;
                }
            }
        })
        .await;
        let DialError::Denied { cause } = error else {
            panic!("{error:?}");
        };
        let cause = cause.downcast::<NameInUse>().unwrap();
        assert!(cause.to_string().contains("with_protocol_name"), "{cause}");
    }
    let (mut swarm, one, other) = twins("/other");
    swarm.dial(address).unwrap();
    within("the connection", async {
        while !matches!(
            swarm.select_next_some().await,
            SwarmEvent::ConnectionEstablished { .. }
        ) {}
    })
    .await;
    let running = tokio::spawn(async move { while swarm.next().await.is_some() {} });
    for (mut control, migratable) in [(one, true), (other, false)] {
        let opened = within("a stream", control.open_stream(node.id, PROTOCOL)).await;
        assert_eq!(opened.unwrap().is_migratable(), migratable);
    }
    running.abort();
}
