//! A layer among what else there is of transports, behaviours and executors.

use std::time::Duration;

use futures::{
    AsyncReadExt, AsyncWriteExt, StreamExt,
    channel::oneshot,
    executor::{ThreadPool, block_on},
    future::{Either, select},
};
use libp2p::{
    Multiaddr, PeerId, Swarm, Transport,
    core::{
        muxing::StreamMuxerBox,
        transport::{Boxed, MemoryTransport},
        upgrade::Version,
    },
    identity::Keypair,
    metrics::{BandwidthTransport, Registry},
    noise, swarm,
    swarm::{
        SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
    },
    yamux,
};
use libp2p_stream_migration::{Config, transport, transport::Layer};
use testing::*;

type Whole = Boxed<(PeerId, StreamMuxerBox)>;

/// How the layer and something else are put over one another.
type Compose = fn(&Layer, Whole) -> Whole;

fn swarm(compose: Compose, pool: ThreadPool) -> Swarm<libp2p_stream::Behaviour> {
    let key = Keypair::generate_ed25519();
    let local = key.public().to_peer_id();
    let memory = MemoryTransport::default()
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(&key).unwrap())
        .multiplex(yamux::Config::default())
        .boxed();
    // Without a behaviour of ours: the default policy.
    let (layer, _) = transport::new(local, Config::default().with_layer_always(true));
    let executor = swarm::Config::with_executor(move |task| pool.spawn_ok(task))
        .with_idle_connection_timeout(Duration::from_secs(60));
    let transport = compose(&layer, memory);
    Swarm::new(transport, libp2p_stream::Behaviour::new(), local, executor)
}

/// Two swarms on a thread pool, with nothing of tokio's: a stream, a second connection, and the end of the first.
async fn moves_without_a_runtime(compose: Compose) {
    let pool = ThreadPool::builder().pool_size(2).create().unwrap();
    let [mut dialer, mut listener] = [(); 2].map(|()| swarm(compose, pool.clone()));
    let peer = *listener.local_peer_id();
    let mut incoming = listener.behaviour().new_control().accept(PROTOCOL).unwrap();
    let mut control = dialer.behaviour().new_control();
    listener.listen_on("/memory/0".parse().unwrap()).unwrap();
    let address: Multiaddr = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = listener.select_next_some().await {
            break address;
        }
    };
    let mut connections = Vec::new();
    for _ in 0..2 {
        let opts = DialOpts::peer_id(peer)
            .condition(PeerCondition::Always)
            .addresses(vec![address.clone()])
            .build();
        dialer.dial(opts).unwrap();
        loop {
            match select(dialer.select_next_some(), listener.select_next_some()).await {
                Either::Left((SwarmEvent::ConnectionEstablished { connection_id, .. }, _)) => {
                    connections.push(connection_id);
                    break;
                }
                Either::Left(_) | Either::Right(_) => {}
            }
        }
    }
    pool.spawn_ok(async move { while listener.next().await.is_some() {} });
    let (close, mut to_close) = oneshot::channel::<()>();
    let (closed, is_closed) = oneshot::channel();
    let first = connections[0];
    pool.spawn_ok(async move {
        while let Either::Left((_, rest)) = select(dialer.next(), to_close).await {
            to_close = rest;
        }
        dialer.close_connection(first);
        let is_end = |event: &SwarmEvent<()>| {
            let id = match event {
                SwarmEvent::ConnectionClosed { connection_id, .. } => Some(*connection_id),
                _ => None,
            };
            id == Some(first)
        };
        while !is_end(&dialer.select_next_some().await) {}
        let _ = closed.send(());
        while dialer.next().await.is_some() {}
    });
    let opened = control.open_stream(peer, PROTOCOL);
    let (ours, theirs) = futures::join!(opened, incoming.next());
    let (mut ours, (_, mut theirs)) = (ours.unwrap(), theirs.unwrap());
    let mut word = [0; 4];
    ours.write_all(b"word").await.unwrap();
    ours.flush().await.unwrap();
    theirs.read_exact(&mut word).await.unwrap();
    drop(close);
    is_closed.await.unwrap();
    // Whichever of the two that was, there is another.
    let opened = control.open_stream(peer, PROTOCOL);
    let (again, there) = futures::join!(opened, incoming.next());
    let (mut again, (_, mut there)) = (again.unwrap(), there.unwrap());
    again.write_all(b"more").await.unwrap();
    again.close().await.unwrap();
    let mut all = Vec::new();
    there.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"more");
}

/// "My swarm runs on an executor of its own." There is no runtime, and no task but the swarm's.
#[test]
fn on_any_executor() {
    block_on(moves_without_a_runtime(|layer, inner| {
        layer.wrap(inner).boxed()
    }));
}

/// "I count the bytes of my swarm." Over the layer or under it.
#[test]
fn beside_a_bandwidth_transport() {
    let under: Compose = |layer, inner| {
        let counted = BandwidthTransport::new(inner, &mut Registry::default());
        let counted = counted.map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
        layer.wrap(counted.boxed()).boxed()
    };
    let over: Compose = |layer, inner| {
        let counted = BandwidthTransport::new(layer.wrap(inner), &mut Registry::default());
        let counted = counted.map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
        counted.boxed()
    };
    for compose in [under, over] {
        block_on(moves_without_a_runtime(compose));
    }
}
