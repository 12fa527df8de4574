//! The queue of our migrations: they wait for a place among those of their peer that are
//! unanswered, and for room on the connection to which they go. A muxer that gets too many streams
//! may end the whole connection.

#[cfg(any(test, stream_migration_mutants))]
use std::collections::BTreeSet;
use std::collections::{BTreeMap, HashMap};

use futures::channel::oneshot;
use libp2p_identity::PeerId;

use super::{Due, Hub, Output, Purpose};
use crate::{
    error::MigrateError,
    event::Event,
    key::{ConnectionKey, StreamKey},
    permits::{Permit, Permits},
    stream::Io,
    view::ConnectionInfo,
};

/// Limits those that wait for one connection and are asked again when another one has room.
const ASKED_AGAIN: usize = 8;

/// An attempt of ours, from the wish to the end.
#[derive(Debug)]
pub(super) struct OutboundMigration {
    pub(super) to: ConnectionKey,
    origin: Origin,
    stage: Stage,
    /// The hold on its target, which is not idle while it waits for its turn.
    pub(super) alive: Option<Permit>,
}

/// The one who asked for it.
#[derive(Debug)]
pub(super) enum Origin {
    /// The policy, by [`Policy::place`](crate::policy::Policy::place) or its order.
    Place,
    /// The policy, by [`Action::Move`](crate::policy::Action::Move).
    Action,
    /// The application, which may wait for the outcome.
    Control(oneshot::Sender<Result<(), MigrateError>>),
}

#[derive(Debug)]
enum Stage {
    /// A place in the queue, with this number.
    Waiting(u64),
    /// The opening of its leg.
    Opening(Permit),
    /// `Migrate` is sent: from now on the stream says what comes of it.
    Requested {
        _permit: Permit,
    },
    Agreed,
}

impl OutboundMigration {
    pub(super) fn new(to: ConnectionKey, origin: Origin) -> Self {
        Self {
            to,
            origin,
            stage: Stage::Waiting(0),
            alive: None,
        }
    }

    pub(super) fn resolve(self, result: Result<(), MigrateError>) {
        if let Origin::Control(reply) = self.origin {
            let _ = reply.send(result);
        }
    }

    /// True if the policy may still think better of it.
    pub(super) fn may_change(&self) -> bool {
        matches!(
            (&self.origin, &self.stage),
            (Origin::Place, Stage::Waiting(_))
        )
    }

    /// True if it goes where the policy wants the stream to be: asked once more before `Migrate` is
    /// sent, and tried again after a failure.
    pub(super) fn is_placement(&self) -> bool {
        matches!(self.origin, Origin::Place)
    }

    /// True if it has not been started.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.stage, Stage::Waiting(_))
    }

    #[cfg(any(test, stream_migration_mutants))]
    pub(super) fn holds_a_permit(&self) -> bool {
        matches!(self.stage, Stage::Opening(_) | Stage::Requested { .. })
    }

    /// The number of its wait.
    #[cfg(any(test, stream_migration_mutants))]
    pub(super) fn number(&self) -> Option<u64> {
        match self.stage {
            Stage::Waiting(number) => Some(number),
            _ => None,
        }
    }

    /// True if its leg is being opened on this connection.
    pub(super) fn is_opening_on(&self, connection: ConnectionKey) -> bool {
        matches!(self.stage, Stage::Opening(_)) && self.to == connection
    }

    /// True if the application asked for it.
    pub(super) fn is_from_outside(&self) -> bool {
        matches!(self.origin, Origin::Control(_))
    }

    /// `Migrate` is sent.
    pub(super) fn requested(&mut self) {
        if let Stage::Opening(permit) = std::mem::replace(&mut self.stage, Stage::Agreed) {
            self.stage = Stage::Requested { _permit: permit };
        }
    }

    /// Frees the place of what is agreed: it may take as long as its reader, and holds nobody up.
    pub(super) fn agreed(&mut self) {
        self.stage = Stage::Agreed;
    }
}

/// Streams that wait to be moved onto one connection.
#[derive(Debug, Default)]
pub(super) struct Line {
    keys: BTreeMap<u64, StreamKey>,
    /// The last of whom was told that it waits for room.
    told: u64,
}

/// The queue: what the lines of all connections have in common.
#[derive(Debug, Default)]
pub(super) struct MigrationQueue {
    /// Per peer, for attempts that are unanswered.
    permits: HashMap<PeerId, Permits>,
    /// The number of those that wait in all lines together.
    waiting: usize,
    next_number: u64,
    /// The number of the round.
    round: u64,
}

impl MigrationQueue {
    /// Begins a round: whoever waits is asked again once in each, so that it ends.
    pub(super) fn begin_round(&mut self) {
        self.round += 1;
    }

    /// The line of a connection that is gone. Who waited in it will be told.
    pub(super) fn forget_line(&mut self, line: &Line) {
        self.waiting -= line.keys.len();
    }

    pub(super) fn forget_peer(&mut self, peer: PeerId) {
        self.permits.remove(&peer);
    }

    #[cfg(any(test, stream_migration_mutants))]
    pub(super) fn is_empty(&self) -> bool {
        self.permits.is_empty() && self.waiting == 0
    }
}

impl<L: Io + Send + 'static> Hub<L> {
    /// Panics unless those wait that say so, and those hold permits that should.
    #[cfg(any(test, stream_migration_mutants))]
    pub(super) fn check_queue(
        &self,
        waiting: &BTreeMap<ConnectionKey, BTreeSet<(u64, u64)>>,
        holders: &HashMap<PeerId, usize>,
    ) {
        let lines = self.connections.all().filter_map(|info| {
            let line = &self.connections.record(info.key)?.line;
            let keys = line.keys.iter().map(|(number, key)| (*number, key.0));
            (!line.keys.is_empty()).then(|| (info.key, keys.collect()))
        });
        let lines = lines.collect::<BTreeMap<_, BTreeSet<_>>>();
        assert_eq!(lines, *waiting);
        assert_eq!(
            lines.values().map(BTreeSet::len).sum::<usize>(),
            self.queue.waiting
        );
        for (peer, permits) in &self.queue.permits {
            assert!(!self.connections.of(*peer).is_empty());
            let holders = holders.get(peer).copied().unwrap_or_default();
            assert_eq!(permits.taken(), holders, "permits of {peer}");
        }
    }

    fn line(&mut self, connection: ConnectionKey) -> Option<&mut Line> {
        Some(&mut self.connections.record_mut(connection)?.line)
    }

    /// Takes it out of its line, if it waits in one.
    pub(super) fn leave_line(&mut self, outgoing: &OutboundMigration) {
        if let Stage::Waiting(number) = outgoing.stage
            && let Some(line) = self.line(outgoing.to)
            && line.keys.remove(&number).is_some()
        {
            self.queue.waiting -= 1;
        }
    }

    fn next_in_line(&mut self, connection: ConnectionKey) -> Option<StreamKey> {
        let (_, key) = self.line(connection)?.keys.pop_first()?;
        self.queue.waiting -= 1;
        Some(key)
    }

    /// Lets the migration wait for its turn, which may come at once.
    pub(super) fn enqueue(&mut self, key: StreamKey, mut outgoing: OutboundMigration) {
        let Some(entry) = self.table.get_mut(key) else {
            return outgoing.resolve(Err(MigrateError::UnknownStream(key)));
        };
        let peer = entry.peer();
        if let Some(before) = entry.record.take_outgoing() {
            self.leave_line(&before);
        }
        let to = outgoing.to;
        let Some(record) = self.connections.record_mut(to) else {
            return outgoing.resolve(Err(MigrateError::UnknownConnection(to)));
        };
        self.queue.next_number += 1;
        self.queue.waiting += 1;
        let number = self.queue.next_number;
        record.line.keys.insert(number, key);
        outgoing.stage = Stage::Waiting(number);
        outgoing.alive = record.pruning.alive.acquire();
        if let Some(entry) = self.table.get_mut(key) {
            entry.record.moves().outgoing = Some(outgoing);
        }
        self.room_changed(peer);
    }

    /// The policy does not want the stream to go anywhere any more.
    pub(super) fn unwanted(&mut self, key: StreamKey) {
        if let Some(entry) = self.table.get_mut(key)
            && entry
                .record
                .outgoing()
                .is_some_and(OutboundMigration::may_change)
            && let Some(outgoing) = entry.record.take_outgoing()
        {
            let (peer, to) = (entry.peer(), outgoing.to);
            self.leave_line(&outgoing);
            drop(outgoing);
            self.released(peer, to);
        }
    }

    /// Starts what may be started.
    pub(super) fn take_turns(&mut self, peer: PeerId) {
        if self.queue.waiting == 0 {
            return;
        }
        self.think_again(peer);
        for to in self.connections.keys(peer) {
            while self.has_room(peer, to)
                && let Some(permit) = self.permit_for_one(peer)
                && let Some(key) = self.next_in_line(to)
            {
                self.turn(peer, key, to, permit);
            }
            self.tell_who_waits(peer, to);
        }
    }

    /// Tells of those for which there is no room, and has another connection thought of.
    fn tell_who_waits(&mut self, peer: PeerId, to: ConnectionKey) {
        let info = self.connections.get(peer, to);
        if !info.is_some_and(ConnectionInfo::is_full) {
            return;
        }
        let Some(line) = self.line(to) else {
            return;
        };
        let told = line.told;
        let untold: Vec<_> = line.keys.range(told + 1..).map(|(_, key)| *key).collect();
        line.told = line.keys.last_key_value().map_or(told, |(last, _)| *last);
        if untold.is_empty() {
            return;
        }
        for key in untold {
            self.event(Event::MigrationWaiting { peer, key, to });
        }
        self.room_changed(peer);
    }

    /// Asks some of those that wait for a full connection whether another one would do by now. One that
    /// has room takes what it can; the others are asked when there is room again.
    fn think_again(&mut self, peer: PeerId) {
        let connections = self.connections.of(peer);
        if !connections.iter().any(|info| !info.is_full()) {
            return;
        }
        let full = connections.iter().filter(|info| info.is_full());
        let waiting = full.filter_map(|info| Some(&self.connections.record(info.key)?.line));
        let first: Vec<_> = waiting
            .flat_map(|line| line.keys.values().take(ASKED_AGAIN))
            .copied()
            .collect();
        let round = self.queue.round;
        for key in first {
            let moves = self.table.get_mut(key).map(|entry| entry.record.moves());
            // A policy that changes its mind each time that it is asked is asked again in the next round.
            if moves.is_some_and(|moves| std::mem::replace(&mut moves.asked_in, round) != round) {
                self.place(key);
            }
        }
    }

    fn has_room(&self, peer: PeerId, to: ConnectionKey) -> bool {
        let info = self.connections.get(peer, to);
        let record = self.connections.record(to);
        info.is_some_and(|info| !info.is_full())
            && record.is_some_and(|record| !record.line.keys.is_empty())
    }

    fn permit_for_one(&mut self, peer: PeerId) -> Option<Permit> {
        let permits = self.queue.permits.entry(peer).or_default();
        permits.try_acquire(self.settings.max_migrations_per_peer)
    }

    fn turn(&mut self, peer: PeerId, key: StreamKey, to: ConnectionKey, permit: Permit) {
        // Things may have changed since it was asked for.
        let Some(entry) = self.table.get_mut(key) else {
            return;
        };
        let Some(outgoing) = entry.record.outgoing() else {
            return;
        };
        let by_policy = !outgoing.is_from_outside();
        let may_change = outgoing.may_change();
        if let Err(error) = self.may_go_there(key, to, by_policy) {
            return self.outgoing_failed(key, error);
        }
        if may_change && !self.still_wanted(key, to) {
            self.unwanted(key);
            return self.place(key);
        }
        let Some(entry) = self.table.get_mut(key) else {
            return;
        };
        if let Some(outgoing) = entry.record.outgoing_mut() {
            outgoing.stage = Stage::Opening(permit);
        }
        let from = entry.shared.status().connection;
        // The handler may not be polled any more, as on a connection that somebody closes.
        let overdue = self.settings.answer_timeout.saturating_mul(2);
        let timer = self.due.add(overdue, Due::LegOverdue(key));
        if let Some(entry) = self.table.get_mut(key) {
            let before = std::mem::replace(&mut entry.record.moves().leg_overdue, timer);
            self.due.cancel(before);
        }
        self.change_legs(key, |legs| legs.opening = Some(to));
        self.event(Event::MigrationStarted {
            peer,
            key,
            from,
            to,
        });
        self.output(Output::Open(peer, to, Purpose::Leg(key)));
    }
}
