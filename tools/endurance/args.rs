//! The command line.

use std::time::Duration;

use clap::Parser;

/// Opens, uses, migrates and ends streams at random over real swarms on loopback, checks every byte and
/// every end, and watches memory, descriptors, tasks and connections.
///
/// Two runs with one seed do the same things, but not at the same moments: the machine schedules them.
#[derive(Debug, Clone, Parser)]
pub struct Args {
    /// How long to run.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(10..))]
    pub seconds: u64,
    /// What decides who does what; printed at the start. Default: another one each time.
    #[arg(long)]
    seed: Option<u64>,
    /// How many streams are open at a time. More would come near the 512 that rust-yamux can hold on
    /// one connection, old legs included.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=128))]
    pub streams: u32,
    /// Below the swarm: the transports are wrapped, and behaviours that know nothing of it speak beside the streams.
    #[arg(long)]
    pub layer: bool,
    /// The nodes say to each other how many bytes there are (`Config::with_facts`).
    #[arg(long, conflicts_with = "layer")]
    pub facts: bool,
    /// The streams outlive their connections (`Config::with_resume`).
    #[arg(long, conflicts_with = "layer")]
    pub resume: bool,
    /// Below the swarm every stream is moved all the time.
    #[arg(long, requires = "layer")]
    pub restless: bool,
    /// A line is printed so often, in seconds.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    pub report: u64,
}

/// Several rests are needed to tell growth, and streams need some time to get anywhere.
const SHORTEST_ROUND: u64 = 2;
const LONGEST_ROUND: u64 = 4;

impl Args {
    pub fn seed(&self) -> u64 {
        self.seed.unwrap_or_else(|| {
            use std::hash::{BuildHasher, RandomState};
            // Small enough to be typed.
            RandomState::new().hash_one(std::process::id()) % 1_000_000_000
        })
    }

    /// How long streams are opened before all comes to rest.
    pub fn round(&self) -> Duration {
        Duration::from_secs((self.seconds / 30).clamp(SHORTEST_ROUND, LONGEST_ROUND))
    }
}
