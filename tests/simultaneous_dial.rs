//! Two nodes that dial each other at once have two connections of equal worth. They end with one, the
//! same for both, with all streams on it and no byte lost: with the policy that is built in, and with one
//! from outside that is written with nothing but the public API.

use std::{
    collections::HashMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{
    AsyncReadExt, AsyncWriteExt, FutureExt, StreamExt, channel::mpsc, future::join_all,
    stream::FuturesUnordered,
};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol,
    swarm::{
        SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use libp2p_stream_migration::{
    Behaviour, Config, ConnectionInfo, Control, Event, MigrateError, Outside, Stream, StreamKey,
    Verdict, designated_peer,
};
use testing::{Background, HANG, Log, Random, swarm};
use tokio::sync::Notify;

const PROTOCOL: StreamProtocol = StreamProtocol::new("/test/1.0.0");
const ROUNDS: u64 = 200;
const AT_ONCE: usize = 6;
const IDLE: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_default_policy() {
    rounds(|id| Behaviour::new(id, Config::default()), false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_from_outside() {
    rounds(
        |id| Behaviour::with_policy(id, Config::default(), Outside),
        true,
    )
    .await;
}

/// Two processors are busy enough with one of the tests.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

async fn rounds(behaviour: fn(PeerId) -> Behaviour, outside: bool) {
    let _alone = ONE_AT_A_TIME.lock().await;
    let seed = match std::env::var("SEED") {
        Ok(seed) => seed.parse().expect("SEED is a number"),
        Err(_) => 1,
    };
    let mut rounds = (seed..seed + ROUNDS).map(|seed| round(seed, behaviour, outside));
    let mut running: FuturesUnordered<_> = rounds.by_ref().take(AT_ONCE).collect();
    let mut outcome = Outcome::default();
    while let Some(round) = running.next().await {
        outcome.duplicates += round.duplicates;
        outcome.streams += round.streams;
        outcome.moved += round.moved;
        running.extend(rounds.next());
    }
    println!("seeds {seed} to {}: {outcome:?}", seed + ROUNDS - 1);
    // Or nothing was tested.
    assert!(outcome.duplicates > ROUNDS / 2, "{outcome:?}");
    assert!(outcome.moved > ROUNDS / 4, "{outcome:?}");
}

#[derive(Debug, Default)]
struct Outcome {
    duplicates: u64,
    streams: u64,
    moved: u64,
}

async fn round(seed: u64, behaviour: fn(PeerId) -> Behaviour, outside: bool) -> Outcome {
    let mut random = Random::new(seed);
    let transport = ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"];
    let transport = transport[random.below(2) as usize];
    let nodes = [
        Node::new(behaviour, outside, transport).await,
        Node::new(behaviour, outside, transport).await,
    ];
    let done = Arc::new(AtomicBool::new(false));
    let [a, b] = &nodes;
    let (streams, duplicates) = hangs(seed, "the round", async {
        let mut tasks = Vec::new();
        for (here, there) in [(a, b), (b, a)] {
            tasks.push(tokio::spawn(echo(
                here.control.clone(),
                here.registered.clone(),
            )));
            let wait = micros(&mut random, 3_000);
            here.registered.notified().await;
            here.dial(wait, there);
        }
        let mut streams = Vec::new();
        for (here, there) in [(a, b), (b, a)] {
            for number in 0..1 + random.below(3) {
                // The first is wanted before there is a connection, so that none is idle for long on a
                // busy machine before anything was opened.
                let wait = match number {
                    0 => Duration::ZERO,
                    _ => micros(&mut random, 4_000),
                };
                let stream = carry(here.clone(), there.id, wait, seed ^ number, done.clone());
                streams.push(tokio::spawn(stream));
            }
        }
        a.settled().await;
        b.settled().await;
        let survivors = [a.survivor(b.id).await, b.survivor(a.id).await];
        assert_ne!(
            survivors[0].dialer, survivors[1].dialer,
            "seed {seed}: they have kept different ones"
        );
        for (node, survivor) in [a, b].into_iter().zip(&survivors) {
            for stream in node.control.clone().streams(survivor.peer).await {
                assert_eq!(stream.connection, Some(survivor.key), "seed {seed}");
                assert!(!stream.migrating, "seed {seed}");
            }
        }
        done.store(true, Ordering::Relaxed);
        let count = streams.len() as u64;
        for stream in join_all(streams).await {
            stream.unwrap();
        }
        for task in tasks {
            task.abort();
        }
        (count, u64::from(a.seen().established > 1))
    })
    .await;
    let mut moved = 0;
    for node in &nodes {
        for (key, moves) in &node.seen().moves {
            assert_eq!(
                *moves, 1,
                "seed {seed}: stream {key} was moved {moves} times"
            );
            moved += 1;
        }
    }
    Outcome {
        duplicates,
        streams,
        moved: moved / 2,
    }
}

/// Sends a pattern there and back until told to stop; nothing may be missing or different.
async fn carry(mut node: Node, peer: PeerId, wait: Duration, seed: u64, done: Arc<AtomicBool>) {
    node.until(|seen| seen.dialing).await;
    tokio::time::sleep(wait).await;
    // On a machine that stalls for longer than the idle timeout, the remote may close the connection on
    // which a stream is being opened. Nothing was sent on it; as with any stream, one opens another.
    let mut stream = loop {
        match node.control.open_stream(peer, PROTOCOL).await {
            Ok(stream) => break stream,
            Err(error) => println!("seed {seed}: opening again: {error:?} {:?}", node.seen()),
        }
    };
    assert!(stream.is_migratable());
    let mut random = Random::new(seed);
    let mut back = [0; 512];
    while !done.load(Ordering::Relaxed) {
        let out: [u8; 512] = std::array::from_fn(|_| random.number() as u8);
        stream.write_all(&out).await.unwrap();
        stream.flush().await.unwrap();
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(out, back);
        // There are other streams, and two processors.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    stream.close().await.unwrap();
    assert_eq!(stream.read(&mut back).await.unwrap(), 0);
}

async fn echo(mut control: Control, registered: Arc<Notify>) {
    let mut incoming = control.accept(PROTOCOL).unwrap();
    registered.notify_one();
    let mut streams = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some((_, stream)) = incoming.next() => streams.push(echo_one(stream)),
            Some(()) = streams.next() => {}
            else => return,
        }
    }
}

async fn echo_one(mut stream: Stream) {
    let mut buf = [0; 4096];
    let mut received = 0;
    loop {
        match stream.read(&mut buf).await {
            // On a machine that stalls for longer than the head start, it is opened on the other connection,
            // too, and the slower attempt is given up.
            Err(error) if received == 0 => return println!("not wanted any more: {error}"),
            Err(error) => panic!("{error} after {received} bytes"),
            Ok(0) => return stream.close().await.unwrap(),
            Ok(n) => {
                received += n;
                stream.write_all(&buf[..n]).await.unwrap();
                stream.flush().await.unwrap();
            }
        }
    }
}

// ---- A node ------------------------------------------------------------------------------------------

#[derive(Clone)]
struct Node {
    id: PeerId,
    address: Multiaddr,
    control: Control,
    swarm: Background<Behaviour>,
    registered: Arc<Notify>,
    log: Log<Seen>,
}

#[derive(Debug, Clone, Default)]
struct Seen {
    /// Whether our dial has begun.
    dialing: bool,
    established: usize,
    closed: usize,
    moves: HashMap<StreamKey, usize>,
}

impl Node {
    async fn new(behaviour: fn(PeerId) -> Behaviour, outside: bool, address: &str) -> Self {
        let mut swarm = swarm(IDLE, |keypair| behaviour(keypair.public().to_peer_id()));
        swarm.listen_on(address.parse().unwrap()).unwrap();
        let address = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                break address;
            }
        };
        let (id, control) = (*swarm.local_peer_id(), swarm.behaviour().new_control());
        let mut policy = outside.then(|| {
            let (events, policy) = mpsc::channel(1024);
            tokio::spawn(merge_from_outside(id, control.clone(), policy));
            events
        });
        let log = Log::<Seen>::default();
        let ours = log.clone();
        let swarm = Background::run(swarm, move |_, event| {
            ours.write(|seen| seen.see(&event));
            if let (SwarmEvent::Behaviour(event), Some(policy)) = (event, &mut policy) {
                policy.try_send(event).expect("the policy keeps up");
            }
        });
        Self {
            id,
            address,
            control,
            swarm,
            registered: Arc::default(),
            log,
        }
    }

    fn dial(&self, wait: Duration, other: &Node) {
        // Not from the port that listens: two TCP sockets that connect to each other at once become one
        // connection with two dialers, which is another story.
        let opts = DialOpts::peer_id(other.id)
            .condition(PeerCondition::Always)
            .addresses(vec![other.address.clone()])
            .allocate_new_port()
            .build();
        let (swarm, log) = (self.swarm.clone(), self.log.clone());
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            swarm.tell(move |swarm| {
                swarm.dial(opts).unwrap();
                log.write(|seen| seen.dialing = true);
            });
        });
    }

    fn seen(&self) -> Seen {
        self.log.read().clone()
    }

    async fn until(&self, is: impl Fn(&Seen) -> bool) {
        self.log.until(|seen| is(seen).then_some(())).await;
    }

    /// Both dials have had success, and one connection is left.
    async fn settled(&self) {
        self.until(|seen| {
            let open = seen.established - seen.closed;
            seen.established == 2 && open == 1
        })
        .await;
    }

    async fn survivor(&self, peer: PeerId) -> ConnectionInfo {
        let mut connections = self.control.clone().connections(peer).await;
        assert_eq!(connections.len(), 1, "{connections:?}");
        connections.remove(0)
    }
}

impl Seen {
    fn see(&mut self, event: &SwarmEvent<Event>) {
        match event {
            SwarmEvent::ConnectionEstablished { .. } => self.established += 1,
            SwarmEvent::ConnectionClosed { .. } => self.closed += 1,
            SwarmEvent::OutgoingConnectionError { error, .. } => panic!("{error}"),
            SwarmEvent::Behaviour(Event::MigrationCompleted { key, .. }) => {
                *self.moves.entry(*key).or_default() += 1;
            }
            _ => {}
        }
    }
}

// ---- A policy from outside ---------------------------------------------------------------------------

/// Keeps the connection that the designated peer dialed. Both peers empty the other, so that no new
/// stream goes there; only the designated one moves, and the other agrees.
async fn merge_from_outside(
    local: PeerId,
    mut control: Control,
    mut events: mpsc::Receiver<Event>,
) {
    let mut under_way = FuturesUnordered::new();
    loop {
        let peer = tokio::select! {
            event = events.next() => match event {
                None => return,
                Some(Event::MigrationRequested { key, to, .. }) => {
                    // The remote may have thought better of it.
                    let _ = control.answer(key, to, Verdict::Accept).await;
                    continue;
                }
                Some(Event::ConnectionEstablished(info)) => info.peer,
                Some(Event::StreamNegotiated { peer, .. }) => peer,
                Some(_) => continue,
            },
            Some(()) = under_way.next() => continue,
        };
        let designated = designated_peer(local, peer) == local;
        let connections = control.connections(peer).await;
        let Some(best) = connections.iter().find(|info| info.dialer == designated) else {
            continue;
        };
        for other in connections
            .iter()
            .filter(|info| info.key != best.key && !info.draining)
        {
            let (mut control, id) = (control.clone(), other.key);
            under_way.push(
                async move {
                    // It may be closed before it is free.
                    let _ = control.drain(peer, id).await;
                }
                .boxed(),
            );
        }
        if !designated {
            continue;
        }
        for stream in control.streams(peer).await {
            if stream.connection != Some(best.key) && !stream.migrating {
                let (mut control, to) = (control.clone(), best.key);
                let migration = async move {
                    match control.migrate(stream.key, to).await {
                        // Asked for more than once.
                        Ok(())
                        | Err(MigrateError::AlreadyMigrating | MigrateError::AlreadyThere(_)) => {}
                        // On a machine that stalls, it may be closed as idle before anything is there.
                        Err(MigrateError::UnknownConnection(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                };
                under_way.push(migration.boxed());
            }
        }
    }
}

// ---- Helpers -----------------------------------------------------------------------------------------

fn micros(random: &mut Random, limit: u64) -> Duration {
    Duration::from_micros(random.below(limit))
}

async fn hangs<T>(seed: u64, what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(HANG, future).await {
        Ok(result) => result,
        Err(_) => panic!("seed {seed} hangs: {what}"),
    }
}
