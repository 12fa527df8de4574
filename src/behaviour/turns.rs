//! Whose turn it is: our migrations wait for a place among those of their peer that are unanswered, and
//! for room on the connection to which they go. A muxer that gets too many streams may end the whole
//! connection.

#[cfg(test)]
use std::collections::BTreeSet;
use std::collections::{BTreeMap, HashMap};

use futures::channel::oneshot;
use libp2p_identity::PeerId;
use libp2p_swarm::ConnectionId;

use super::{Behaviour, Due};
use crate::{
    ConnectionInfo, Event, MigrateError,
    handler::Purpose,
    stream::{Places, StreamKey},
};

/// How many of those that wait for one connection are asked again when another one has room.
const ASKED_AGAIN: usize = 8;

/// Our attempt, from the wish to the end.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) to: ConnectionId,
    asker: Asker,
    stage: Stage,
    /// Its target is not idle while it waits for its turn.
    pub(super) alive: Option<Places>,
}

/// Who asked for it.
#[derive(Debug)]
pub(super) enum Asker {
    /// The policy, by [`Policy::place`](crate::Policy::place) or its order.
    Place,
    /// The policy, by [`Action::Move`](crate::Action::Move).
    Action,
    /// The application, which may wait for the outcome.
    Control(oneshot::Sender<Result<(), MigrateError>>),
}

#[derive(Debug)]
enum Stage {
    /// In the queue, with this number.
    Waiting(u64),
    /// Until its leg is open.
    Opening(Places),
    /// `Migrate` is sent: from now on the stream says what comes of it.
    Asking {
        _place: Places,
    },
    Agreed,
}

impl Outgoing {
    pub(super) fn new(to: ConnectionId, asker: Asker) -> Self {
        Self {
            to,
            asker,
            stage: Stage::Waiting(0),
            alive: None,
        }
    }

    pub(super) fn resolve(self, result: Result<(), MigrateError>) {
        if let Asker::Control(reply) = self.asker {
            let _ = reply.send(result);
        }
    }

    /// Whether the policy may still think better of it.
    pub(super) fn may_change(&self) -> bool {
        matches!(
            (&self.asker, &self.stage),
            (Asker::Place, Stage::Waiting(_))
        )
    }

    /// Whether it is where the policy wants the stream to be: asked once more before `Migrate` is sent,
    /// and tried again after a failure.
    pub(super) fn is_placement(&self) -> bool {
        matches!(self.asker, Asker::Place)
    }

    /// Whether it has not been started.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.stage, Stage::Waiting(_))
    }

    #[cfg(test)]
    pub(super) fn holds_a_place(&self) -> bool {
        matches!(self.stage, Stage::Opening(_) | Stage::Asking { .. })
    }

    /// Of its wait.
    #[cfg(test)]
    pub(super) fn number(&self) -> Option<u64> {
        match self.stage {
            Stage::Waiting(number) => Some(number),
            _ => None,
        }
    }

    /// Whether its leg is being opened on this connection.
    pub(super) fn is_opening_on(&self, connection: ConnectionId) -> bool {
        matches!(self.stage, Stage::Opening(_)) && self.to == connection
    }

    /// Whether the application asked for it.
    pub(super) fn is_from_outside(&self) -> bool {
        matches!(self.asker, Asker::Control(_))
    }

    /// `Migrate` is sent.
    pub(super) fn asked(&mut self) {
        if let Stage::Opening(place) = std::mem::replace(&mut self.stage, Stage::Agreed) {
            self.stage = Stage::Asking { _place: place };
        }
    }

    /// What is agreed may take as long as its reader, and holds nobody up.
    pub(super) fn agreed(&mut self) {
        self.stage = Stage::Agreed;
    }
}

/// Those that wait for one connection.
#[derive(Debug, Default)]
struct Line {
    keys: BTreeMap<u64, StreamKey>,
    /// The last of whom was told that it waits for room.
    told: u64,
}

#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Per peer, for attempts that are unanswered.
    places: HashMap<PeerId, Places>,
    /// Per target, those that wait, in order.
    waiting: HashMap<ConnectionId, Line>,
    next_number: u64,
}

impl Turns {
    pub(super) fn forget_connection(&mut self, connection: ConnectionId) {
        self.waiting.remove(&connection);
    }

    pub(super) fn forget_peer(&mut self, peer: PeerId) {
        self.places.remove(&peer);
    }

    fn wait(&mut self, key: StreamKey, mut outgoing: Outgoing) -> Outgoing {
        self.next_number += 1;
        outgoing.stage = Stage::Waiting(self.next_number);
        let waiting = self.waiting.entry(outgoing.to).or_default();
        waiting.keys.insert(self.next_number, key);
        outgoing
    }

    /// It waits no more, if it did.
    pub(super) fn leave(&mut self, outgoing: &Outgoing) {
        if let Stage::Waiting(number) = outgoing.stage
            && let Some(waiting) = self.waiting.get_mut(&outgoing.to)
        {
            waiting.keys.remove(&number);
            self.tidy(outgoing.to);
        }
    }

    fn next(&mut self, connection: ConnectionId) -> Option<StreamKey> {
        let (_, key) = self.waiting.get_mut(&connection)?.keys.pop_first()?;
        self.tidy(connection);
        Some(key)
    }

    /// Those wait that say so, and those have places that hold them.
    #[cfg(test)]
    pub(super) fn check(
        &self,
        waiting: &BTreeMap<ConnectionId, BTreeSet<(u64, u64)>>,
        places: &HashMap<PeerId, usize>,
        peers: &BTreeSet<PeerId>,
    ) {
        let wait = self.waiting.iter().map(|(to, keys)| {
            let keys = keys.keys.iter().map(|(number, key)| (*number, key.0));
            (*to, keys.collect())
        });
        assert_eq!(wait.collect::<BTreeMap<_, _>>(), *waiting);
        for (peer, taken) in &self.places {
            assert!(peers.contains(peer));
            let holders = places.get(peer).copied().unwrap_or_default();
            assert_eq!(taken.taken(), holders, "places of {peer}");
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty() && self.waiting.is_empty()
    }

    fn tidy(&mut self, connection: ConnectionId) {
        if self
            .waiting
            .get(&connection)
            .is_some_and(|line| line.keys.is_empty())
        {
            self.waiting.remove(&connection);
        }
    }
}

impl Behaviour {
    /// Has the migration wait for its turn, which may come at once.
    pub(super) fn enqueue(&mut self, key: StreamKey, outgoing: Outgoing) {
        let Some(entry) = self.table.get_mut(key) else {
            return outgoing.resolve(Err(MigrateError::UnknownStream(key)));
        };
        let peer = entry.peer();
        if let Some(before) = entry.extra.take_outgoing() {
            self.turns.leave(&before);
        }
        let mut outgoing = self.turns.wait(key, outgoing);
        let record = self.records.get_mut(outgoing.to);
        outgoing.alive = record.and_then(|record| record.alive.take());
        entry.extra.moves().outgoing = Some(outgoing);
        self.room_changed(peer);
    }

    /// The policy does not want the stream to go anywhere any more.
    pub(super) fn unwanted(&mut self, key: StreamKey) {
        if let Some(entry) = self.table.get_mut(key)
            && entry.extra.outgoing().is_some_and(Outgoing::may_change)
            && let Some(outgoing) = entry.extra.take_outgoing()
        {
            let (peer, to) = (entry.peer(), outgoing.to);
            self.turns.leave(&outgoing);
            drop(outgoing);
            self.released(peer, to);
        }
    }

    /// Starts what may be started.
    pub(super) fn take_turns(&mut self, peer: PeerId) {
        if self.turns.waiting.is_empty() {
            return;
        }
        self.think_again(peer);
        let targets: Vec<_> = self
            .connections
            .of(peer)
            .iter()
            .map(|info| info.id)
            .collect();
        for to in targets {
            while self.has_room(peer, to)
                && let Some(place) = self.place_for_one(peer)
                && let Some(key) = self.turns.next(to)
            {
                self.turn(peer, key, to, place);
            }
            self.tell_who_waits(peer, to);
        }
    }

    /// Tells of those for which there is no room, and has another connection thought of.
    fn tell_who_waits(&mut self, peer: PeerId, to: ConnectionId) {
        let info = self.connections.get(peer, to);
        if !info.is_some_and(ConnectionInfo::is_full) {
            return;
        }
        let Some(line) = self.turns.waiting.get_mut(&to) else {
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
        let waiting = full.filter_map(|info| self.turns.waiting.get(&info.id));
        let first: Vec<_> = waiting
            .flat_map(|line| line.keys.values().take(ASKED_AGAIN))
            .copied()
            .collect();
        for key in first {
            self.place(key);
        }
    }

    fn has_room(&self, peer: PeerId, to: ConnectionId) -> bool {
        let info = self.connections.get(peer, to);
        info.is_some_and(|info| !info.is_full()) && self.turns.waiting.contains_key(&to)
    }

    fn place_for_one(&mut self, peer: PeerId) -> Option<Places> {
        let places = self.turns.places.entry(peer).or_default();
        places.take(self.config.max_migrations_per_peer)
    }

    fn turn(&mut self, peer: PeerId, key: StreamKey, to: ConnectionId, place: Places) {
        // Things may have changed since it was asked for.
        let Some(entry) = self.table.get_mut(key) else {
            return;
        };
        let Some(outgoing) = entry.extra.outgoing() else {
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
        if let Some(outgoing) = entry.extra.outgoing_mut() {
            outgoing.stage = Stage::Opening(place);
        }
        let from = entry.shared.status().connection;
        // The handler may not be polled any more, as on a connection that somebody closes.
        let overdue = self.config.answer_timeout.saturating_mul(2);
        let timer = self.later(overdue, Due::LegOverdue(key));
        if let Some(entry) = self.table.get_mut(key) {
            let before = std::mem::replace(&mut entry.extra.moves().leg_overdue, timer);
            self.due.cancel(before);
        }
        self.change_legs(key, |legs| legs.opening = Some(to));
        self.event(Event::MigrationStarted {
            peer,
            key,
            from,
            to,
        });
        self.notify(peer, to, Purpose::Leg(key));
    }
}
