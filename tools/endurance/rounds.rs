//! A round: streams come and go, then all of them end, then there is nothing.

use std::{sync::Arc, time::Duration};

use libp2p::{Multiaddr, core::transport::PortUse, multiaddr::Protocol};
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, sleep, timeout},
};

use testing::Random;

use crate::{
    args::Args,
    known::Known,
    ledger::MOMENT,
    moves::{self, Pair},
    neighbours,
    node::{self, Command},
    policy::Mover,
    restart, traffic,
    world::{PAIRS, RESTARTED, World},
};

/// Longer than anything is remembered or waited for.
const REST: Duration = node::TIMEOUT.saturating_add(Duration::from_secs(1));
const PATIENCE: Duration = Duration::from_secs(30);

/// The time in which a peer may dial again that was disconnected.
const REDIALS: Duration = Duration::from_secs(5);

/// As many TLS sessions as a listener of libp2p's remembers (rustls's default). A QUIC connection leaves two,
/// of which the next may use one up. Without this, it takes many rounds until no more are kept.
const SESSIONS: usize = 256;

/// Fills what has a bound that rounds would take long to reach.
pub async fn warm_up(world: &World) {
    let number = RESTARTED;
    for to in 0..number {
        let quic = |address: &&Multiaddr| {
            let mut parts = address.iter();
            let circuit = address.iter().any(|part| part == Protocol::P2pCircuit);
            parts.any(|part| part == Protocol::QuicV1) && !circuit
        };
        let node = world.node(to);
        let Some(address) = node.addresses.iter().find(quic) else {
            continue;
        };
        for _ in 0..2 * SESSIONS / (number - 1) {
            for from in (0..number).filter(|from| *from != to) {
                moves::dial(world, [from, to], address, PortUse::Reuse, None).await;
            }
            disconnect_all(world).await;
        }
    }
    world.ledger.note(Known::rest);
}

pub async fn round(world: &Arc<World>, round: usize, args: &Args) {
    let mover = Mover::of_round(round);
    world.mode.set(mover);
    if round > 0 {
        restart::come_back(world).await;
    }
    let (stop, stopped) = watch::channel(false);
    let mut movers = Vec::new();
    for slots in PAIRS {
        let purpose = 10_000 + 10 * round as u64 + slots[0] as u64;
        let random = Random::of(world.seed, purpose);
        let mut pair = Pair::new(world.clone(), slots, random, mover);
        pair.dial().await;
        movers.push(tokio::spawn(pair.run(stopped.clone())));
    }
    let slots = Arc::new(Semaphore::new(args.streams as usize));
    let until = Instant::now() + args.round();
    if mover.has_bursts() {
        tokio::spawn(traffic::burst(world.clone(), round));
    }
    let questions = async {
        if world.layer {
            neighbours::ask(world, round as u64, until).await;
        }
    };
    let streams = traffic::open(world.clone(), round as u64, slots, until);
    tokio::join!(streams, questions);
    // They are moved to their end.
    world
        .ledger
        .until(|known| (known.live() == 0).then_some(()))
        .await;
    stop.send_replace(true);
    for mover in movers {
        if let Err(error) = mover.await {
            world.ledger.known().violation(&format!("a mover: {error}"));
        }
    }
    rest(world).await;
}

/// Nothing is left but the places at the relay.
async fn rest(world: &World) {
    world.ledger.note(|known| {
        for broken in known.links.broken() {
            known.violation(&format!(
                "a connection broke that nobody has closed: {broken}"
            ));
        }
        // Closing waits for what a path holds up.
        known.links.stop_proxies();
    });
    disconnect_all(world).await;
    sleep(REST).await;
    for node in world.nodes() {
        let mut control = world.control(node.life);
        for other in world.nodes().iter().filter(|other| other.id != node.id) {
            let streams = control.streams(other.id).await;
            let connections = control.connections(other.id).await;
            if !streams.is_empty() || !connections.is_empty() {
                let (life, there) = (node.life, format!("{streams:?} on {connections:?}"));
                let what = format!("at rest, node {life} has {there}");
                world.ledger.note(|known| known.violation(&what));
            }
        }
    }
    // Each of its lives makes tables of its own, as large as it happens to need: noise, where peers are measured.
    restart::stop(world).await;
    world.ledger.note(Known::rest);
}

async fn disconnect_all(world: &World) {
    let closed = |known: &Known| known.links.are_all_closed().then_some(());
    let closing = async {
        loop {
            let nodes = world.nodes();
            for node in &nodes {
                for other in nodes.iter().filter(|other| other.id != node.id) {
                    node.command(Command::Disconnect(other.id)).await;
                }
            }
            // Who does not hear on a silent path that it was closed on purpose, dials, and hears it then.
            if timeout(REDIALS, world.ledger.until(closed)).await.is_ok() {
                return;
            }
        }
    };
    if timeout(PATIENCE, closing).await.is_err() {
        let what = "connections are not closed when they are told to be";
        world.ledger.note(|known| known.violation(what));
    }
}

/// Looks after what stands still, and prints a line now and then.
pub async fn watch(world: Arc<World>, start: std::time::Instant, report: u64) {
    println!(
        "   time   opened    ended  live    moved   failed  refused      MiB  heap KiB   RSS KiB   fds \
         tasks conns  violations"
    );
    for look in 1_u64.. {
        sleep(MOMENT).await;
        world.ledger.look();
        let per_second = 1000 / MOMENT.as_millis() as u64;
        if look % (report * per_second) != 0 {
            continue;
        }
        let usage = world.usage();
        let known = world.ledger.known();
        let counts = &known.counts;
        println!(
            "{:>6.0}s {:>8} {:>8} {:>5} {:>8} {:>8} {:>8} {:>8} {:>9} {:>9} {:>5} {:>5} {:>5} {:>11}",
            start.elapsed().as_secs_f64(),
            counts.opened,
            counts.ended,
            known.live(),
            counts.completed,
            counts.failed,
            counts.refused,
            counts.bytes >> 20,
            usage.heap >> 10,
            usage.resident >> 10,
            usage.descriptors,
            usage.tasks,
            usage.connections,
            counts.violations,
        );
    }
}
