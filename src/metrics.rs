//! Metrics for Prometheus, fed from events and nothing else (feature `metrics`).
//!
//! | name | labels | moves when |
//! |---|---|---|
//! | `streams` | `opener` | a stream is labelled, or over |
//! | `plain_streams_total` | `opener` | a stream without migration is opened or accepted |
//! | `stream_bytes_total` | `direction` | a stream is over: what it carried, over all legs |
//! | `aborts_total` | `cause` | a stream is over, but not in order |
//! | `migrations_started_total` | – | we ask a remote to move a stream |
//! | `migrations_total` | `outcome`, `initiator` | a migration is complete, or an attempt has come to nothing, other than by the stream's end |
//! | `migration_agreement_seconds` | – | a remote has agreed: the time since we began to ask |
//! | `migration_duration_seconds` | `initiator` | a migration is complete: the time since it was agreed |
//! | `migration_gap_seconds` | `initiator` | the first byte is read on a new leg: the time since the old leg's end; once at most for each migration |
//! | `migrated_bytes_total` | `direction` | a migration is complete: what its old leg carried |
//! | `declined_total` | `for_good` | our verdict, or nobody's within the time for one, refuses a remote's migration |
//! | `refused_total` | `limit` | a limit refuses something of a remote's |
//! | `violations_total` | `what` | a remote breaks the protocol |
//! | `connections` | `relayed`, `transport` | a connection is established, changes, or is closed |
//! | `connections_pruned_total` | – | a connection that nothing uses any more is closed by us |
//!
//! All are registered under `stream_migration`, as libp2p-metrics does for its protocols: give
//! [`Metrics::new`] the registry that you give to `libp2p_metrics::Metrics::new`, or one prefixed `libp2p`.
//!
//! Whatever can happen is there from the start, at zero, so that a graph shows "none" and not "no
//! data", and so that `rate` sees the first of each. `initiator` and `opener` are `local` or `remote`,
//! `direction` is `sent` or `received`, `relayed` and `for_good` are `true` or `false`; other values are the names of
//! the variants of [`Failure`](crate::Failure) (and `completed`), [`Abort`], [`Limit`], [`Violation`]
//! and [`Transport`](crate::Transport). What we refuse to a remote, by a verdict or by a limit, is no migration here; at
//! the remote it is a failed one.

mod labels;

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use prometheus_client::{
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use web_time::Instant;

use self::labels::{
    COMPLETED, Direction, Labels, Named, connection, connections, outcome, outcomes,
};
use crate::{Abort, ConnectionKey, Event, Limit, Side, StreamKey, Violation};

/// The memory of the metrics: as much as there are streams and connections, and no more.
#[derive(Debug, Default)]
struct Remembered {
    openers: HashMap<StreamKey, Side>,
    asked: HashMap<StreamKey, Instant>,
    connections: HashMap<ConnectionKey, Labels<2>>,
}

/// Buckets from a tenth of a millisecond to some 100 s.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.0, 21))
}

/// A metric of which all series are there that there can be.
fn all<const N: usize, M>(
    new: fn() -> M,
    series: impl Iterator<Item = Labels<N>>,
) -> Family<Labels<N>, M> {
    let family = Family::new_with_constructor(new);
    for labels in series {
        drop(family.get_or_create(&labels));
    }
    family
}

/// The table of metrics: the field of each, and how the registry gets it.
macro_rules! metrics {
    ($($field:ident: $type:ty = $new:expr, $register:ident($($argument:expr),*);)*) => {
        /// Metrics of one behaviour. Give it every [`Event`].
        #[derive(Debug)]
        pub struct Metrics {
            $($field: $type,)*
            /// Protects what has to be remembered between two events.
            remembered: Mutex<Remembered>,
        }

        impl Metrics {
            /// Registers the metrics.
            pub fn new(registry: &mut Registry) -> Self {
                let metrics = Self {
                    $($field: $new,)*
                    remembered: Mutex::default(),
                };
                let registry = registry.sub_registry_with_prefix("stream_migration");
                $(registry.$register($($argument,)* metrics.$field.clone());)*
                metrics
            }
        }
    };
}

metrics! {
    streams: Family<Labels<1>, Gauge> = all(Gauge::default, Side::all("opener")),
        register("streams", "Live migratable streams");
    plain_streams: Family<Labels<1>, Counter> = all(Counter::default, Side::all("opener")),
        register("plain_streams", "Streams opened or accepted without migration, which the remote does not speak");
    stream_bytes: Family<Labels<1>, Counter> = all(Counter::default, Direction::all("direction")),
        register_with_unit("stream", "Carried by migratable streams that are over", Unit::Bytes);
    aborts: Family<Labels<1>, Counter> = all(Counter::default, Abort::all("cause")),
        register("aborts", "Migratable streams that were not closed in order");
    started: Counter = Counter::default(),
        register("migrations_started", "Migrations that we have asked a remote for");
    migrations: Family<Labels<2>, Counter> = all(Counter::default, outcomes()),
        register("migrations", "Migrations that are complete, and attempts that have come to nothing");
    agreement: Histogram = seconds(),
        register_with_unit("migration_agreement", "From the start of a migration of ours to the agreement", Unit::Seconds);
    duration: Family<Labels<1>, Histogram> = all(seconds, Side::all("initiator")),
        register_with_unit("migration_duration", "From the agreement on a migration to its completion", Unit::Seconds);
    gap: Family<Labels<1>, Histogram> = all(seconds, Side::all("initiator")),
        register_with_unit("migration_gap", "From the end of an old leg to the first byte read on the new one", Unit::Seconds);
    migrated_bytes: Family<Labels<1>, Counter> = all(Counter::default, Direction::all("direction")),
        register_with_unit("migrated", "Carried by the old legs of migrations that are complete", Unit::Bytes);
    declined: Family<Labels<1>, Counter> = all(Counter::default, bool::all("for_good")),
        register("declined", "Migrations of remotes that a verdict refused");
    refused: Family<Labels<1>, Counter> = all(Counter::default, Limit::all("limit")),
        register("refused", "What a remote was refused because of a limit");
    violations: Family<Labels<1>, Counter> = all(Counter::default, Violation::all("what")),
        register("violations", "Breaches of the protocol by remotes");
    connections: Family<Labels<2>, Gauge> = all(Gauge::default, connections()),
        register("connections", "Established connections");
    pruned: Counter = Counter::default(),
        register("connections_pruned", "Connections that nothing used any more, closed by us");
}

impl Metrics {
    /// Takes note of an event.
    pub fn record(&self, event: &Event) {
        let mut remembered = self
            .remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::ConnectionEstablished(info) | Event::ConnectionChanged(info) => {
                let labels = connection(info.relayed, info.transport);
                if let Some(before) = remembered.connections.insert(info.key, labels) {
                    self.connections.get_or_create(&before).dec();
                }
                self.connections.get_or_create(&labels).inc();
            }
            Event::ConnectionClosed { connection, .. } => {
                if let Some(labels) = remembered.connections.remove(connection) {
                    self.connections.get_or_create(&labels).dec();
                }
            }
            Event::PlainStream { opener, .. } => {
                count(&self.plain_streams, "opener", *opener, 1);
            }
            Event::StreamStarted { key, opener, .. } => {
                remembered.openers.insert(*key, *opener);
                let labels = [("opener", opener.name())];
                self.streams.get_or_create(&labels).inc();
            }
            Event::StreamEnded {
                key,
                result,
                sent,
                received,
                ..
            } => {
                remembered.asked.remove(key);
                if let Some(opener) = remembered.openers.remove(key) {
                    let labels = [("opener", opener.name())];
                    self.streams.get_or_create(&labels).dec();
                }
                count_bytes(&self.stream_bytes, *sent, *received);
                if let Err(cause) = result {
                    count(&self.aborts, "cause", *cause, 1);
                }
            }
            Event::MigrationStarted { key, .. } => {
                remembered.asked.insert(*key, Instant::now());
                self.started.inc();
            }
            Event::MigrationAgreed { key, initiator, .. } => {
                // One of the remote's may come between ours and its agreement.
                if initiator.is_local()
                    && let Some(asked) = remembered.asked.remove(key)
                {
                    self.agreement.observe(asked.elapsed().as_secs_f64());
                }
            }
            Event::MigrationCompleted {
                initiator,
                took,
                old_leg_sent,
                old_leg_received,
                ..
            } => {
                let labels = outcome(COMPLETED, *initiator);
                self.migrations.get_or_create(&labels).inc();
                observe(&self.duration, *initiator, *took);
                count_bytes(&self.migrated_bytes, *old_leg_sent, *old_leg_received);
            }
            Event::MigrationFailed {
                key,
                reason,
                initiator,
                ..
            } => {
                if initiator.is_local() {
                    remembered.asked.remove(key);
                }
                let labels = outcome(reason.name(), *initiator);
                self.migrations.get_or_create(&labels).inc();
            }
            Event::Resumed { initiator, gap, .. } => observe(&self.gap, *initiator, *gap),
            Event::ConnectionPruned { .. } => {
                self.pruned.inc();
            }
            Event::MigrationDeclined { for_good, .. } => {
                count(&self.declined, "for_good", *for_good, 1);
            }
            Event::Refused { limit, .. } => count(&self.refused, "limit", *limit, 1),
            Event::Violation { what, .. } => count(&self.violations, "what", *what, 1),
            // Nothing is counted of the others.
            _ => {}
        }
    }
}

fn count(family: &Family<Labels<1>, Counter>, label: &'static str, value: impl Named, number: u64) {
    let labels = [(label, value.name())];
    family.get_or_create(&labels).inc_by(number);
}

fn count_bytes(bytes: &Family<Labels<1>, Counter>, sent: u64, received: u64) {
    count(bytes, "direction", Direction::Sent, sent);
    count(bytes, "direction", Direction::Received, received);
}

fn observe(times: &Family<Labels<1>, Histogram>, initiator: Side, time: Duration) {
    let labels = [("initiator", initiator.name())];
    times.get_or_create(&labels).observe(time.as_secs_f64());
}
