//! What a behaviour tells of one of its streams, as far as the judgement needs it.

use std::time::{Duration, Instant};

use libp2p_stream_migration::ConnectionKey;
use libp2p_stream_migration::{Abort, Event, Failure, Side};

/// Events are told a little later than what they tell of.
const SLACK: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Leg {
    connection: ConnectionKey,
    from: Instant,
    until: Option<Instant>,
}

#[derive(Debug, Default)]
pub struct History {
    legs: Vec<Leg>,
    trying: Option<ConnectionKey>,
    pub in_doubt: bool,
    pub migrated: u64,
    pub ended: Option<Result<(), Abort>>,
    /// Its node is gone, and tells no end.
    pub gone: bool,
}

impl History {
    /// Whether nothing more will be told.
    pub fn is_over(&self) -> bool {
        self.gone || self.ended.is_some()
    }

    pub fn tell(&mut self, event: &Event) {
        match event {
            Event::MigrationStarted { to, .. } => {
                self.trying = Some(*to);
                self.enter(*to);
            }
            Event::MigrationAgreed { from, to, .. } => {
                // Whatever else was tried has given way.
                if let Some(other) = self.trying.take()
                    && other != *to
                {
                    self.leave(other);
                }
                self.enter(*from);
                self.enter(*to);
            }
            Event::MigrationCompleted { from, .. } => {
                self.migrated += 1;
                self.in_doubt = false;
                self.leave(*from);
            }
            Event::MigrationFailed {
                reason,
                initiator: Side::Local,
                ..
            } => {
                if let Some(tried) = self.trying.take() {
                    self.leave(tried);
                }
                self.in_doubt |= matches!(reason, Failure::LegLost | Failure::TimedOut);
            }
            Event::StreamSuspended { .. } => {
                let legs: Vec<_> = self.legs.iter().map(|leg| leg.connection).collect();
                legs.into_iter()
                    .for_each(|connection| self.leave(connection));
            }
            Event::StreamResumed { connection, .. } => self.enter(*connection),
            Event::StreamEnded { result, .. } => self.ended = Some(*result),
            _ => {}
        }
    }

    /// Has a leg on this connection, or will have.
    pub fn enter(&mut self, connection: ConnectionKey) {
        let mut open = self.legs.iter().filter(|leg| leg.until.is_none());
        if open.all(|leg| leg.connection != connection) {
            self.legs.push(Leg {
                connection,
                from: Instant::now(),
                until: None,
            });
        }
    }

    fn leave(&mut self, connection: ConnectionKey) {
        for leg in &mut self.legs {
            if leg.connection == connection && leg.until.is_none() {
                leg.until = Some(Instant::now());
            }
        }
    }

    /// Whether it was on a connection when that was closed.
    pub fn was_on(&self, closed: impl Fn(ConnectionKey) -> Option<Instant>) -> bool {
        self.legs.iter().any(|leg| {
            closed(leg.connection).is_some_and(|at| {
                leg.from <= at + SLACK && leg.until.is_none_or(|until| until + SLACK >= at)
            })
        })
    }

    /// Whether it was on a connection when that was silent, or later.
    pub fn was_on_since(&self, silent: impl Fn(ConnectionKey) -> Option<Instant>) -> bool {
        self.legs.iter().any(|leg| {
            silent(leg.connection)
                .is_some_and(|at| leg.until.is_none_or(|until| until + SLACK >= at))
        })
    }

    /// Whether its first connection was closed when it had hardly begun.
    pub fn began_on(&self, closed: impl Fn(ConnectionKey) -> Option<Instant>) -> bool {
        self.legs.first().is_some_and(|leg| {
            closed(leg.connection)
                .is_some_and(|at| leg.from <= at + SLACK && at <= leg.from + SLACK)
        })
    }
}
