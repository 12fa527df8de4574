//! The calls of whoever has the behaviour at hand, in the loop that polls the swarm.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Context,
};

use futures::{
    StreamExt,
    future::{Either, join, select},
    task::ArcWake,
};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder, noise,
    swarm::{
        SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
    },
    tcp, yamux,
};
use libp2p_stream_migration::{
    Abort, Behaviour, Config, Control, DrainError, MigrateError, Mobility, Side, Stay, StreamKey,
    Verdict,
};

const PROTOCOL: StreamProtocol = StreamProtocol::new("/test/1.0.0");

type Node = Swarm<Behaviour>;

fn node() -> Node {
    let tcp = tcp::Config::default().nodelay(true);
    let builder = SwarmBuilder::with_new_identity().with_tokio();
    let builder = builder
        .with_tcp(tcp, noise::Config::new, yamux::Config::default)
        .unwrap();
    let builder = builder.with_quic().with_behaviour(|keypair| {
        Behaviour::with_policy(keypair.public().to_peer_id(), Config::default(), Stay)
    });
    let builder = builder.unwrap();
    let idle = std::time::Duration::from_secs(60);
    let builder = builder.with_swarm_config(|config| config.with_idle_connection_timeout(idle));
    builder.build()
}

/// Polls both swarms until this is done.
async fn drive<T>(nodes: &mut [Node; 2], what: impl Future<Output = T>) -> T {
    let mut what = pin!(what);
    let [here, there] = nodes;
    loop {
        let events = select(here.select_next_some(), there.select_next_some());
        if let Either::Right((done, _)) = select(events, what.as_mut()).await {
            return done;
        }
    }
}

async fn listen(node: &mut Node, on: &str) -> Multiaddr {
    node.listen_on(on.parse().unwrap()).unwrap();
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = node.select_next_some().await {
            return address;
        }
    }
}

/// Connects once more, until both ends know.
async fn connect(nodes: &mut [Node; 2], address: Multiaddr, number: usize) {
    let ids = [*nodes[0].local_peer_id(), *nodes[1].local_peer_id()];
    let opts = DialOpts::peer_id(ids[1])
        .condition(PeerCondition::Always)
        .addresses(vec![address]);
    nodes[0].dial(opts.build()).unwrap();
    while nodes[0].behaviour().connections(ids[1]).len() < number
        || nodes[1].behaviour().connections(ids[0]).len() < number
    {
        let [here, there] = &mut *nodes;
        select(here.select_next_some(), there.select_next_some()).await;
    }
}

/// "I have the swarm in my loop. Awaiting a `Control` there waits for ever."
#[tokio::test]
async fn all_calls_without_a_control() {
    let mut nodes = [node(), node()];
    let peer = *nodes[1].local_peer_id();
    let tcp = listen(&mut nodes[1], "/ip4/127.0.0.1/tcp/0").await;
    let quic = listen(&mut nodes[1], "/ip4/127.0.0.1/udp/0/quic-v1").await;
    assert!(nodes[0].behaviour().peers().is_empty());
    connect(&mut nodes, tcp, 1).await;
    assert_eq!(nodes[0].behaviour().peers(), [peer]);

    let mut incoming = nodes[1].behaviour_mut().accept(PROTOCOL).unwrap();
    let opening = nodes[0].behaviour_mut().open_stream(peer, PROTOCOL);
    let (opened, accepted) = drive(&mut nodes, join(opening, incoming.next())).await;
    let (stream, (_, theirs)) = (opened.unwrap(), accepted.unwrap());
    assert_eq!(
        (stream.opener(), theirs.opener()),
        (Side::Local, Side::Remote)
    );
    let key = stream.key();
    assert_eq!(nodes[0].behaviour().streams(peer)[0].key, key);

    // A move, told to whoever waits for one, at both ends.
    connect(&mut nodes, quic, 2).await;
    let all = nodes[0].behaviour().connections(peer);
    let to = all
        .iter()
        .find(|info| Some(info.key) != stream.connection())
        .unwrap()
        .key;
    let moved = nodes[0].behaviour_mut().next_move(key);
    let moved_there = nodes[1].behaviour_mut().next_move(theirs.key());
    let migrated = nodes[0].behaviour_mut().migrate(key, to);
    let both = join(moved, moved_there);
    let (migrated, (moved, moved_there)) = drive(&mut nodes, join(migrated, both)).await;
    assert_eq!((migrated, moved), (Ok(()), Ok(to)));
    assert_eq!(moved_there.ok(), theirs.connection());
    assert_eq!(stream.connection(), Some(to));

    // Emptying is stopped.
    let drained = nodes[0].behaviour_mut().drain(peer, to);
    let is_drained = |node: &Node| {
        node.behaviour()
            .connections(peer)
            .iter()
            .any(|it| it.draining)
    };
    assert!(is_drained(&nodes[0]));
    nodes[0].behaviour_mut().undrain(peer, to).unwrap();
    assert!(!is_drained(&nodes[0]));
    assert_eq!(
        drive(&mut nodes, drained).await,
        Err(DrainError::Undrained(to))
    );
    assert_eq!(nodes[0].behaviour_mut().undrain(peer, to), Ok(()));

    let unknown = StreamKey::new(u64::MAX);
    let behaviour = nodes[0].behaviour_mut();
    assert_eq!(behaviour.set_mobility(key, Mobility::Pinned), Ok(()));
    assert_eq!(
        behaviour.set_mobility(unknown, Mobility::Free),
        Err(MigrateError::UnknownStream(unknown))
    );
    let answered = behaviour.answer(key, to, Verdict::Accept);
    assert_eq!(answered, Err(MigrateError::NotAsked));
    behaviour.close_when_free(peer, to);
    let never = behaviour.next_move(unknown);
    assert_eq!(never.await, Err(MigrateError::UnknownStream(unknown)));

    // Whoever waits for a move of a stream that is over is told so.
    let moved = nodes[0].behaviour_mut().next_move(key);
    drop(stream);
    let moved = drive(&mut nodes, moved).await;
    assert_eq!(moved, Err(MigrateError::Aborted(Abort::Dropped)));
}

/// The same from outside: all peers, all streams, a move that is waited for, emptying that is stopped.
#[tokio::test]
async fn the_same_by_a_control() {
    let mut nodes = [node(), node()];
    let peer = *nodes[1].local_peer_id();
    let tcp = listen(&mut nodes[1], "/ip4/127.0.0.1/tcp/0").await;
    let quic = listen(&mut nodes[1], "/ip4/127.0.0.1/udp/0/quic-v1").await;
    connect(&mut nodes, tcp, 1).await;
    connect(&mut nodes, quic, 2).await;
    let mut control: Control = nodes[0].behaviour().new_control();
    let mut incoming = nodes[1].behaviour_mut().accept(PROTOCOL).unwrap();
    let opening = control.open_stream(peer, PROTOCOL);
    let (opened, _accepted) = drive(&mut nodes, join(opening, incoming.next())).await;
    let stream = opened.unwrap();
    assert_eq!(drive(&mut nodes, control.peers()).await, [peer]);
    let all = drive(&mut nodes, control.all_streams()).await;
    assert_eq!((all.len(), all[0].key), (1, stream.key()));
    assert_eq!(all[0].connection, stream.connection());

    let connections = drive(&mut nodes, control.connections(peer)).await;
    let other = connections
        .iter()
        .find(|info| Some(info.key) != stream.connection());
    let to = other.unwrap().key;
    let (mut waiting, key) = (control.clone(), stream.key());
    let both = join(waiting.next_move(key), control.migrate(key, to));
    assert_eq!(drive(&mut nodes, both).await, (Ok(to), Ok(())));

    let mut draining = control.clone();
    let drained = draining.drain(peer, to);
    let stopped = async {
        // One request at a time: the drain has been asked for when this has been answered.
        while !control
            .connections(peer)
            .await
            .iter()
            .any(|info| info.draining)
        {}
        control.undrain(peer, to).await
    };
    let both = drive(&mut nodes, join(drained, stopped)).await;
    assert_eq!(both, (Err(DrainError::Undrained(to)), Ok(())));
}

/// "My own `poll` had polled the swarm, and only then took a command." Nobody polled the swarm again.
#[tokio::test]
async fn a_call_wakes_whoever_polls_the_swarm() {
    let mut nodes = [node(), node()];
    let peer = *nodes[1].local_peer_id();
    let tcp = listen(&mut nodes[1], "/ip4/127.0.0.1/tcp/0").await;
    connect(&mut nodes, tcp, 1).await;
    let _incoming = nodes[1].behaviour_mut().accept(PROTOCOL).unwrap();
    let [here, _] = &mut nodes;
    let woken = Arc::new(Woken::default());
    let waker = futures::task::waker(woken.clone());
    let mut cx = Context::from_waker(&waker);
    let key = StreamKey::new(u64::MAX);
    let calls: [fn(&mut Behaviour, PeerId, StreamKey); 3] = [
        |it, peer, _| drop(it.open_stream(peer, PROTOCOL)),
        |it, peer, key| drop(it.migrate(key, it.connections(peer)[0].key)),
        |it, peer, _| drop(it.drain(peer, it.connections(peer)[0].key)),
    ];
    for call in calls {
        while here.poll_next_unpin(&mut cx).is_ready() {}
        woken.0.store(false, Ordering::Relaxed);
        call(here.behaviour_mut(), peer, key);
        assert!(woken.0.load(Ordering::Relaxed));
    }
}

#[derive(Default)]
struct Woken(AtomicBool);

impl ArcWake for Woken {
    fn wake_by_ref(woken: &Arc<Self>) {
        woken.0.store(true, Ordering::Relaxed);
    }
}
