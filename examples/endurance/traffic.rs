//! Opens streams at random, and accepts them.

use std::{sync::Arc, time::Duration};

use futures::{AsyncReadExt, StreamExt};
use libp2p::StreamProtocol;
use libp2p_stream_migration::{Control, IncomingStreams, Mobility, Stream};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout},
};

use crate::{
    Fallible, World,
    content::HEADER,
    flow::Side,
    known::Known,
    plan::{Plan, Scene},
    random::Random,
    side,
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
        let from = random.below(world.peers.len() as u64) as usize;
        let to =
            (from + 1 + random.below(world.peers.len() as u64 - 1) as usize) % world.peers.len();
        tokio::spawn(open_one(world.clone(), [from, to], slot));
        if random.chance(300) {
            sleep(Duration::from_micros(random.size(20_000))).await;
        }
    }
}

async fn open_one(world: Arc<World>, [from, to]: [usize; 2], slot: OwnedSemaphorePermit) {
    let flows = world.ledger.open();
    let number = flows.number;
    let mut random = Random::of(world.seed, mix_in(2, number));
    let peer = world.peers[to].id;
    let mut control = world.control(from);
    // Mostly where the behaviour would have it.
    let links = world.ledger.known().links.between([from, to]);
    let links: Vec<_> = links
        .into_iter()
        .flatten()
        .filter(|end| end.0 == from)
        .collect();
    let on = random.one_of(&links).filter(|_| random.clone().chance(500));
    let opening = async {
        match on {
            Some((_, id)) => control.open_stream_on(peer, *id, PROTOCOL).await,
            None => control.open_stream(peer, PROTOCOL).await,
        }
    };
    let stream = match timeout(PATIENCE, opening).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            world.ledger.not_opened(number, &format!("{error:?}"));
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
    drop(slot);
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
    let scene = Scene::of(world.seed, number, world.mode.takes_time());
    if scene != Scene::Ordinary && side == Side::Opener {
        let count = |known: &mut Known| known.counts.other(format!("{scene:?}"));
        world.ledger.note(count);
    }
    let plan = Plan::new(&mut random, side, scene);
    if random.chance(20) {
        // The remote's attempts are refused, for good.
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
    while let Some((_, _, stream)) = incoming.next().await {
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
