//! Runs the crate's own stream, machine and driver over legs that split, delay, cut and lie, with
//! everything scheduled by a seed, and checks every byte and every end.
//!
//! `cargo run --release --example soak -- --cases N --seed S [--minutes M] [--resume]`

use std::{
    panic,
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use clap::Parser;
use testing::sim::world::{self, Case};

#[derive(Debug, Parser)]
struct Cli {
    /// How many cases to run.
    #[arg(long, default_value_t = 10_000)]
    cases: u64,
    /// The first case's seed; the others follow it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Stop after so many minutes, however many cases have been run.
    #[arg(long)]
    minutes: Option<u64>,
    /// The streams outlive their connections, and nothing ends them as long as one is left.
    #[arg(long)]
    resume: bool,
    /// How many threads.
    #[arg(long, default_value_t = 2)]
    threads: u64,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let start = Instant::now();
    let end = cli
        .minutes
        .map(|minutes| start + Duration::from_secs(60 * minutes));
    let next = AtomicU64::new(0);
    let [ran, violations, unprovable, migrations, aborted, steps] =
        [(); 6].map(|()| AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..cli.threads.max(1) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= cli.cases || end.is_some_and(|end| Instant::now() > end) {
                        return;
                    }
                    let seed = cli.seed.wrapping_add(number);
                    tracing::info!(seed);
                    let case = match cli.resume {
                        true => Case::from_seed(seed).resumable(),
                        false => Case::from_seed(seed),
                    };
                    let outcome =
                        panic::catch_unwind(|| world::run(case.clone())).unwrap_or_else(|_| {
                            world::Outcome {
                                violation: Some("panicked".to_owned()),
                                ..Default::default()
                            }
                        });
                    ran.fetch_add(1, Ordering::Relaxed);
                    unprovable.fetch_add(outcome.unprovable as u64, Ordering::Relaxed);
                    migrations.fetch_add(outcome.migrations as u64, Ordering::Relaxed);
                    aborted.fetch_add(outcome.aborted.into(), Ordering::Relaxed);
                    steps.fetch_add(outcome.steps as u64, Ordering::Relaxed);
                    if let Some(violation) = outcome.violation
                        && violations.fetch_add(1, Ordering::Relaxed) < 20
                    {
                        println!("seed {seed}: {violation}");
                        println!("    {case:?}");
                    }
                }
            });
        }
    });
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "cases: {} from seed {}, {:.1} s; steps: {}; migrations completed: {}; cases with an abort: {}; \
         ends that nobody could have known: {}",
        count(&ran),
        cli.seed,
        start.elapsed().as_secs_f64(),
        count(&steps),
        count(&migrations),
        count(&aborted),
        count(&unprovable),
    );
    println!("violations: {}", count(&violations));
    ExitCode::from(u8::from(count(&violations) > 0))
}
