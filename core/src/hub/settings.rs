//! The hub's limits and times.

use std::time::Duration;

/// The moment at which our policy starts migrations (*Who moves the stream*). Migrations of the
/// remote are accepted from either side in both settings, and one that the application asks for by
/// name always starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Initiate {
    /// A start at once if the hash rule names us; otherwise if the remote has not started within
    /// this time.
    Designated {
        /// The time for which the other peer waits for the designated one.
        patience: Duration,
    },
    /// A start at once, whoever we are. Simultaneous starts are resolved by the hash rule.
    Either,
}

/// Limits and times of a [`Hub`](super::Hub). What each means, its owner's settings say.
#[derive(Debug, Clone)]
pub struct Settings {
    pub verify: bool,
    /// Facts are said and believed. Needs `verify`.
    pub facts: bool,
    /// Streams outlive their connections. Needs `facts`.
    pub resume: bool,
    pub resume_timeout: Duration,
    pub redial_max: Duration,
    /// The time without a sign of life after which a reader asks for one.
    pub reader_probe: Option<Duration>,
    pub max_replay_per_stream: usize,
    pub max_replay: usize,
    pub initiate: Initiate,
    pub answer_timeout: Duration,
    pub progress_timeout: Duration,
    pub old_leg_linger: Duration,
    pub prune_grace: Option<Duration>,
    pub read_ahead_per_stream: usize,
    pub read_ahead_per_peer: usize,
    pub max_streams_per_peer: usize,
    pub max_unanswered_per_peer: usize,
    pub max_unanswered_per_connection: usize,
    pub max_ended_ids_per_peer: usize,
    pub ended_id_memory: Duration,
    pub max_migration_rate: u32,
    pub max_migrations_per_peer: usize,
    pub max_streams_per_connection: usize,
    pub suspect_after: Duration,
    pub proving_time: Duration,
    pub probe_interval: Option<Duration>,
    pub first_id: Option<u64>,
    /// The number before the first stream's key.
    pub first_key: u64,
    /// Streams may be moved onto the connection on which they are: for tests that move all the time.
    pub restless: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            verify: true,
            facts: false,
            resume: false,
            resume_timeout: Duration::from_secs(30),
            redial_max: Duration::from_secs(2),
            reader_probe: Some(Duration::from_secs(15)),
            max_replay_per_stream: 8 << 20,
            max_replay: 64 << 20,
            initiate: Initiate::Designated {
                patience: Duration::from_secs(5),
            },
            answer_timeout: Duration::from_secs(10),
            progress_timeout: Duration::from_secs(30),
            old_leg_linger: Duration::from_secs(30),
            prune_grace: Some(Duration::from_secs(1)),
            read_ahead_per_stream: 1 << 20,
            read_ahead_per_peer: 64 << 20,
            max_streams_per_peer: 16_384,
            max_unanswered_per_peer: 256,
            max_unanswered_per_connection: 128,
            max_ended_ids_per_peer: 1024,
            ended_id_memory: Duration::from_secs(60),
            max_migration_rate: 10,
            max_migrations_per_peer: 64,
            max_streams_per_connection: 192,
            suspect_after: Duration::from_secs(3),
            proving_time: Duration::from_millis(1200),
            probe_interval: Some(Duration::from_secs(15)),
            first_id: None,
            first_key: 0,
            restless: false,
        }
    }
}
