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
//! and [`Transport`]. What we refuse to a remote, by a verdict or by a limit, is no migration here; at
//! the remote it is a failed one.

mod labels;

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
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

use self::labels::*;
use crate::{Abort, ConnectionKey, Event, Limit, Side, StreamKey, Transport, Violation};

/// Metrics of one behaviour. Give it every [`Event`].
#[derive(Debug)]
pub struct Metrics {
    streams: Family<OpenerLabels, Gauge>,
    plain_streams: Family<OpenerLabels, Counter>,
    stream_bytes: Family<DirectionLabels, Counter>,
    aborts: Family<AbortLabels, Counter>,
    started: Counter,
    migrations: Family<OutcomeLabels, Counter>,
    agreement: Histogram,
    duration: Family<InitiatorLabels, Histogram>,
    gap: Family<InitiatorLabels, Histogram>,
    migrated_bytes: Family<DirectionLabels, Counter>,
    declined: Family<ForGoodLabels, Counter>,
    refused: Family<LimitLabels, Counter>,
    violations: Family<ViolationLabels, Counter>,
    connections: Family<ConnectionLabels, Gauge>,
    pruned: Counter,
    /// Protects what has to be remembered between two events.
    remembered: Mutex<Remembered>,
}

/// The memory of the metrics: as much as there are streams and connections, and no more.
#[derive(Debug, Default)]
struct Remembered {
    openers: HashMap<StreamKey, Side>,
    asked: HashMap<StreamKey, Instant>,
    connections: HashMap<ConnectionKey, ConnectionLabels>,
}

/// Buckets from a tenth of a millisecond to some 100 s.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.0, 21))
}

impl Metrics {
    /// Registers the metrics.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            streams: Family::default(),
            plain_streams: Family::default(),
            stream_bytes: Family::default(),
            aborts: Family::default(),
            started: Counter::default(),
            migrations: Family::default(),
            agreement: seconds(),
            duration: Family::new_with_constructor(seconds),
            gap: Family::new_with_constructor(seconds),
            migrated_bytes: Family::default(),
            declined: Family::default(),
            refused: Family::default(),
            violations: Family::default(),
            connections: Family::default(),
            pruned: Counter::default(),
            remembered: Mutex::default(),
        };
        metrics.start_at_zero();
        let registry = registry.sub_registry_with_prefix("stream_migration");
        registry.register(
            "streams",
            "Live migratable streams",
            metrics.streams.clone(),
        );
        registry.register(
            "plain_streams",
            "Streams opened or accepted without migration, which the remote does not speak",
            metrics.plain_streams.clone(),
        );
        registry.register_with_unit(
            "stream",
            "Carried by migratable streams that are over",
            Unit::Bytes,
            metrics.stream_bytes.clone(),
        );
        registry.register(
            "aborts",
            "Migratable streams that were not closed in order",
            metrics.aborts.clone(),
        );
        registry.register(
            "migrations_started",
            "Migrations that we have asked a remote for",
            metrics.started.clone(),
        );
        registry.register(
            "migrations",
            "Migrations that are complete, and attempts that have come to nothing",
            metrics.migrations.clone(),
        );
        registry.register_with_unit(
            "migration_agreement",
            "From the start of a migration of ours to the agreement",
            Unit::Seconds,
            metrics.agreement.clone(),
        );
        registry.register_with_unit(
            "migration_duration",
            "From the agreement on a migration to its completion",
            Unit::Seconds,
            metrics.duration.clone(),
        );
        registry.register_with_unit(
            "migration_gap",
            "From the end of an old leg to the first byte read on the new one",
            Unit::Seconds,
            metrics.gap.clone(),
        );
        registry.register_with_unit(
            "migrated",
            "Carried by the old legs of migrations that are complete",
            Unit::Bytes,
            metrics.migrated_bytes.clone(),
        );
        registry.register(
            "declined",
            "Migrations of remotes that a verdict refused",
            metrics.declined.clone(),
        );
        registry.register(
            "refused",
            "What a remote was refused because of a limit",
            metrics.refused.clone(),
        );
        registry.register(
            "violations",
            "Breaches of the protocol by remotes",
            metrics.violations.clone(),
        );
        registry.register(
            "connections",
            "Established connections",
            metrics.connections.clone(),
        );
        registry.register(
            "connections_pruned",
            "Connections that nothing used any more, closed by us",
            metrics.pruned.clone(),
        );
        metrics
    }

    /// Makes all series that there can be.
    fn start_at_zero(&self) {
        for local in [Side::Local, Side::Remote] {
            let initiator = InitiatorLabels::from(local);
            drop(self.duration.get_or_create(&initiator));
            drop(self.gap.get_or_create(&initiator));
            for outcome in Outcome::possible(local) {
                self.outcome_counter(outcome, local);
            }
        }
        for opener in [Side::Local, Side::Remote] {
            drop(self.streams.get_or_create(&opener.into()));
            drop(self.plain_streams.get_or_create(&opener.into()));
        }
        count(&self.stream_bytes, 0, 0);
        count(&self.migrated_bytes, 0, 0);
        for &cause in Label::<Abort>::ALL {
            drop(self.aborts.get_or_create(&AbortLabels { cause }));
        }
        for for_good in [true, false].map(Flag) {
            drop(self.declined.get_or_create(&ForGoodLabels { for_good }));
        }
        for &limit in Label::<Limit>::ALL {
            drop(self.refused.get_or_create(&LimitLabels { limit }));
        }
        for &what in Label::<Violation>::ALL {
            drop(self.violations.get_or_create(&ViolationLabels { what }));
        }
        for &transport in Label::<Transport>::ALL {
            for relayed in [false, true].map(Flag) {
                let labels = ConnectionLabels { relayed, transport };
                drop(self.connections.get_or_create(&labels));
            }
        }
    }

    /// Takes note of an event.
    pub fn record(&self, event: &Event) {
        let mut remembered = self
            .remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::ConnectionEstablished(info) | Event::ConnectionChanged(info) => {
                let labels = ConnectionLabels {
                    relayed: info.relayed.into(),
                    transport: Label(info.transport),
                };
                let before = remembered.connections.insert(info.key, labels.clone());
                if let Some(before) = before {
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
                let labels = OpenerLabels::from(*opener);
                self.plain_streams.get_or_create(&labels).inc();
            }
            Event::StreamStarted { key, opener, .. } => {
                remembered.openers.insert(*key, *opener);
                self.streams.get_or_create(&(*opener).into()).inc();
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
                    self.streams.get_or_create(&opener.into()).dec();
                }
                count(&self.stream_bytes, *sent, *received);
                if let Err(cause) = result {
                    let cause = Label(*cause);
                    self.aborts.get_or_create(&AbortLabels { cause }).inc();
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
                self.outcome(Outcome::Completed, *initiator);
                let duration = self.duration.get_or_create(&(*initiator).into());
                duration.observe(took.as_secs_f64());
                count(&self.migrated_bytes, *old_leg_sent, *old_leg_received);
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
                self.outcome(Outcome::Failed(*reason), *initiator);
            }
            Event::Resumed { initiator, gap, .. } => {
                let gaps = self.gap.get_or_create(&(*initiator).into());
                gaps.observe(gap.as_secs_f64());
            }
            Event::ConnectionPruned { .. } => {
                self.pruned.inc();
            }
            Event::MigrationDeclined { for_good, .. } => {
                let for_good = Flag::from(*for_good);
                self.declined
                    .get_or_create(&ForGoodLabels { for_good })
                    .inc();
            }
            Event::Refused { limit, .. } => {
                let limit = Label(*limit);
                self.refused.get_or_create(&LimitLabels { limit }).inc();
            }
            Event::Violation { what, .. } => {
                let what = Label(*what);
                self.violations
                    .get_or_create(&ViolationLabels { what })
                    .inc();
            }
            // Nothing is counted of the others.
            _ => {}
        }
    }

    fn outcome(&self, outcome: Outcome, initiator: Side) {
        self.outcome_counter(outcome, initiator).inc();
    }

    fn outcome_counter(&self, outcome: Outcome, initiator: Side) -> Counter {
        let initiator = side(initiator);
        let labels = OutcomeLabels { outcome, initiator };
        self.migrations.get_or_create_owned(&labels)
    }
}

fn count(bytes: &Family<DirectionLabels, Counter>, sent: u64, received: u64) {
    for (direction, number) in [("sent", sent), ("received", received)] {
        bytes
            .get_or_create(&DirectionLabels { direction })
            .inc_by(number);
    }
}
