//! Opens, uses, migrates and ends streams at random for a given time, over real swarms on loopback: four
//! nodes and a relay, TCP, QUIC, WebSocket and circuits. Connections are closed under their streams, paths
//! go silent, streams are opened in bursts, and a node comes back with its key. Every byte is checked at its
//! position and every end against what the README promises; now and then everything ends, and what is left
//! is compared with what was left before.
//!
//! `cargo run --release --example endurance -- --seconds 1800 --seed 1`

mod alloc;
mod args;
mod content;
mod counts;
mod fit;
mod flow;
mod history;
mod judge;
mod known;
mod ledger;
mod links;
mod moves;
mod neighbours;
mod node;
mod plan;
mod policy;
mod proxy;
mod restart;
mod rests;
mod rounds;
mod side;
mod traffic;
mod watch;
mod world;

use std::{error::Error, process::ExitCode, time::Instant};

use clap::Parser;
use testing::alloc::Counting;

use crate::{args::Args, rests::Rests, world::World};

#[global_allocator]
static ALLOCATOR: Counting<alloc::Blocks> = Counting(alloc::Blocks);

/// Anything that may go wrong before the streams begin.
type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let args = Args::parse();
    let seed = args.seed();
    println!(
        "seed {seed}, {} s, {} streams at a time",
        args.seconds, args.streams
    );
    match run(&args, seed).await {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns how much is wrong.
async fn run(args: &Args, seed: u64) -> Fallible<u64> {
    let world = World::new(seed, args).await?;
    let start = Instant::now();
    rounds::warm_up(&world).await;
    println!("warm after {:.1} s", start.elapsed().as_secs_f64());
    let start = Instant::now();
    let watcher = tokio::spawn(rounds::watch(world.clone(), start, args.report));
    let mut rests = Rests::new(usize::try_from(args.seconds / 2)?);
    // Not in between, where they would be growth.
    let mut before = vec![0; alloc::PLACES];
    for round in 0.. {
        rounds::round(&world, round, args).await;
        rests.add(world.usage());
        if round == rests::WARM_UP {
            alloc::blocks(&mut before);
        }
        if start.elapsed().as_secs() >= args.seconds {
            break;
        }
    }
    let mut now = vec![0; alloc::PLACES];
    alloc::blocks(&mut now);
    watcher.abort();
    rests.show();
    let mut known = world.ledger.known();
    for fault in rests.faults() {
        known.violation(&fault);
        // What has grown since the first warm rest, to look for its kind.
        let grown = watch::grown(&before, &now);
        for (size, more) in grown.into_iter().take(8) {
            println!("    {more:+} blocks of {size} bytes");
        }
    }
    let counts = &known.counts;
    println!();
    counts.show();
    println!(
        "streams: {}, migrations: {}, bytes: {}, violations: {}, growth: {}",
        counts.ended,
        counts.completed,
        counts.bytes,
        counts.violations,
        rests.statement(),
    );
    Ok(counts.violations)
}
