//! Opens streams at random, and accepts them.

use std::{pin::pin, sync::Arc, time::Duration};

use futures::{AsyncReadExt, StreamExt};
use libp2p::StreamProtocol;
use libp2p_stream_migration::{Control, IncomingStreams, Mobility, Stream};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout},
};

use testing::Random;

use crate::{
    Fallible,
    content::HEADER,
    flow::Side,
    known::Known,
    ledger::MOMENT,
    plan::{Plan, Scene},
    policy::Mover,
    side,
    world::{PAIRS, RESTARTED, World},
};

const PROTOCOL: StreamProtocol = StreamProtocol::new("/endurance/1.0.0");
/// What is not opened within this time will not be.
const PATIENCE: Duration = Duration::from_secs(40);

/// Opens streams until then, so many at a time.
pub async fn open(world: Arc<World>, round: u64, slots: Arc<Semaphore>, until: Instant) {
    let mut random = Random::of(world.seed, mix_in(1, round));
    while let Ok(Ok(slot)) =
        tokio::time::timeout_at(until, Arc::clone(&slots).acquire_owned()).await
    {
        let slots = one_way(&mut random);
        tokio::spawn(open_one(world.clone(), slots, Kind::Single(slot)));
        if random.chance(300) {
            sleep(Duration::from_micros(random.size(20_000))).await;
        }
    }
}

/// Who speaks to whom.
fn one_way(random: &mut Random) -> [usize; 2] {
    let [a, b] = PAIRS[random.below(PAIRS.len() as u64) as usize];
    match random.chance(500) {
        true => [a, b],
        false => [b, a],
    }
}

/// So many streams of each side at once are more than a muxer carries.
const BURST: usize = 280;

/// Opens many streams at once, from both sides of a pair. Each pair has its turn, and in the first round all of
/// them, so that tables are soon as large as they will be.
pub async fn burst(world: Arc<World>, round: usize) {
    let mut random = Random::of(world.seed, mix_in(5, round as u64));
    sleep(Duration::from_millis(500 + random.below(1000))).await;
    let mut pairs = PAIRS.to_vec();
    pairs.retain(|pair| !pair.contains(&RESTARTED));
    let turn = round / Mover::ALL.len() % pairs.len();
    if round > 0 {
        pairs = vec![pairs[turn]];
    }
    for [a, b] in pairs {
        world.ledger.note(|known| known.counts.other("bursts"));
        for _ in 0..BURST {
            for slots in [[a, b], [b, a]] {
                tokio::spawn(open_one(world.clone(), slots, Kind::OfBurst));
            }
        }
    }
}

/// What a stream is opened for.
enum Kind {
    /// One of a few that there are at a time, as long as it has its place.
    Single(#[allow(dead_code)] OwnedSemaphorePermit),
    OfBurst,
}

async fn open_one(world: Arc<World>, slots: [usize; 2], kind: Kind) {
    let of_burst = matches!(kind, Kind::OfBurst);
    let flows = world.ledger.open(of_burst);
    let number = flows.number;
    let mut random = Random::of(world.seed, mix_in(2, number));
    let lives = world.lives(slots);
    let [from, to] = lives;
    let peer = world.node(to).id;
    let (control, mut opener) = (world.control(from), world.control(from));
    // Mostly where the behaviour would have it.
    let links = world.ledger.known().links.between(lives);
    let links: Vec<_> = links
        .into_iter()
        .flatten()
        .filter(|end| end.0 == from)
        .collect();
    let on = random
        .one_of(&links)
        .filter(|_| !of_burst && random.clone().chance(500));
    let opening = async {
        match on {
            Some((_, id)) => opener.open_stream_on(peer, *id, PROTOCOL).await,
            None => opener.open_stream(peer, PROTOCOL).await,
        }
    };
    let mut opening = pin!(timeout(PATIENCE, opening));
    // Whether there has been a connection all the time on which nothing speaks against it.
    let mut possible = on.is_none() && !of_burst;
    let opened = loop {
        possible &= !world.ledger.known().links.healthy(lives).is_empty();
        tokio::select! {
            biased;
            opened = &mut opening => break opened,
            () = sleep(MOMENT) => {}
        }
    };
    let stream = match opened {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            let why = format!("{error:?}");
            world.ledger.not_opened(number, &why);
            if possible && why.contains("TimedOut") {
                let seed = world.seed;
                world.ledger.note(|known| {
                    known.violation(&format!(
                        "seed {seed}, stream {number} of {lives:?}: not opened, beside connections that are well"
                    ));
                });
            }
            // There may be no connection for the moment.
            return sleep(Duration::from_millis(20)).await;
        }
        Err(_) => {
            let mut known = world.ledger.known();
            known.violation(&format!(
                "seed {}, stream {number}: opening hangs",
                world.seed
            ));
            drop(known);
            return world.ledger.not_opened(number, "no answer");
        }
    };
    carry(&world, from, stream, number, Side::Opener, random, control).await;
    drop(kind);
}

async fn carry(
    world: &World,
    node: usize,
    stream: Stream,
    number: u64,
    side: Side,
    mut random: Random,
    mut control: Control,
) {
    let key = stream.key();
    world.ledger.hold(node, key);
    let Some(flows) = world.ledger.claim(number, side, node, key) else {
        return world.ledger.orphan(node, key, "of a stream that is over");
    };
    flows.progressed();
    let scene = match flows.of_burst {
        true => Scene::OfBurst,
        false => Scene::of(world.seed, number, world.mode.takes_time()),
    };
    if scene != Scene::Ordinary && side == Side::Opener {
        let count = |known: &mut Known| known.counts.other(format!("{scene:?}"));
        world.ledger.note(count);
    }
    let plan = Plan::new(&mut random, side, scene);
    if random.chance(20) {
        // The remote's attempts are refused, for good.
        world.ledger.note(|known| known.pin(number));
        let _ = control.set_mobility(key, Mobility::Pinned).await;
    }
    let outcome = side::run(stream, side, flows, plan, random).await;
    world.ledger.finish(number, side, outcome);
}

/// Registers the protocol at a node.
pub fn accept(world: &Arc<World>, node: usize) -> Fallible<()> {
    let incoming = world.control(node).accept(PROTOCOL)?;
    tokio::spawn(accept_all(world.clone(), node, incoming));
    Ok(())
}

async fn accept_all(world: Arc<World>, node: usize, mut incoming: IncomingStreams) {
    while let Some((_, stream)) = incoming.next().await {
        world.ledger.hold(node, stream.key());
        tokio::spawn(accept_one(world.clone(), node, stream));
    }
}

async fn accept_one(world: Arc<World>, node: usize, mut stream: Stream) {
    let key = stream.key();
    let mut header = [0; HEADER as usize];
    let number = match timeout(PATIENCE, stream.read_exact(&mut header)).await {
        Ok(Ok(())) => u64::from_le_bytes(header),
        Ok(Err(error)) => {
            let why = error.kind().to_string();
            drop(stream);
            return world.ledger.orphan(node, key, &why);
        }
        Err(_) => {
            drop(stream);
            return world.ledger.orphan(node, key, "nothing came");
        }
    };
    let random = Random::of(world.seed, mix_in(3, number));
    let control = world.control(node);
    {
        let known = world.ledger.known();
        known.header_read(number, HEADER);
    }
    carry(
        &world,
        node,
        stream,
        number,
        Side::Accepter,
        random,
        control,
    )
    .await;
}

fn mix_in(purpose: u64, number: u64) -> u64 {
    number.wrapping_mul(8).wrapping_add(purpose)
}
