//! *Pruning*: which connections carry streams of ours, and which relayed one may be closed because its
//! streams have left.
//!
//! Closing a connection discards what is in flight on it, so we close one only if we initiated every
//! migration off it, and have heard from the remote on the new leg of each: it writes there only after
//! it has read our end of the old one. Of whatever else has ended on it, ours or not, nothing tells when
//! the remote has read it; there, only time does, far more of it than the grace.

use std::collections::{HashMap, HashSet};

use futures::{FutureExt, channel::oneshot, future::Shared};
use libp2p_identity::PeerId;
use libp2p_swarm::{CloseConnection, ConnectionId, ToSwarm};
use web_time::Instant;

use super::{Behaviour, SwarmLeg};
use crate::{
    DrainError, Event,
    handler::Purpose,
    spare,
    stream::{Places, RemotePlaces, StreamKey},
};

/// What is known of one connection beside its view; there as long as that is.
#[derive(Default)]
pub(super) struct Record {
    /// A stream has left it on our initiative, and nothing has been put on it since.
    left: bool,
    /// Bytes may be in flight on it of which we hear no more: a stream has left it on the remote's
    /// initiative.
    in_flight: bool,
    /// Something has ended on it before the remote is known to have read our end; by then it has.
    quiet_from: Option<Instant>,
    /// Streams that have left it and on whose new leg nothing has been read.
    unconfirmed: HashSet<StreamKey>,
    /// The policy or the application wants it closed.
    unwanted: bool,
    /// The handler has been asked to tell when nothing else uses it.
    watched: bool,
    /// For the remote's unanswered `Migrate`s on it.
    places: Places,
    /// Who waits for it to be free.
    pub(super) drains: Vec<oneshot::Sender<Result<(), DrainError>>>,
    /// The old leg of the last stream that the remote has moved off it, and how long it is kept: until
    /// then, or until the connection closes.
    pub(super) lingering: Option<(SwarmLeg, Option<Instant>)>,
    /// For last legs that are kept.
    kept: Places,
    /// The handler's, of which each keeps the connection from being idle.
    pub(super) alive: RemotePlaces,
    /// Tells those that the connection is gone, of which a muxer need not tell.
    gone: Option<(oneshot::Sender<()>, Shared<oneshot::Receiver<()>>)>,
}

impl Record {
    /// A place for one more last leg to be kept, if there is one.
    pub(super) fn keep(&self, places: usize) -> Option<Places> {
        self.kept.take(places)
    }

    /// Is done once the connection is gone.
    pub(super) fn gone(&mut self) -> Shared<oneshot::Receiver<()>> {
        let channel = || {
            let (alive, gone) = oneshot::channel();
            (alive, gone.shared())
        };
        self.gone.get_or_insert_with(channel).1.clone()
    }
}

/// The records of all connections that are there. Nothing brings back one that is gone.
#[derive(Default)]
pub(super) struct Records {
    connections: HashMap<ConnectionId, Record>,
}

impl Records {
    pub(super) fn add(&mut self, connection: ConnectionId) {
        self.connections.insert(connection, Record::default());
    }

    pub(super) fn remove(&mut self, connection: ConnectionId) -> Option<Record> {
        let record = self.connections.remove(&connection);
        spare::shrink_map(&mut self.connections);
        record
    }

    pub(super) fn get_mut(&mut self, connection: ConnectionId) -> Option<&mut Record> {
        self.connections.get_mut(&connection)
    }

    #[cfg(test)]
    pub(super) fn ids(&self) -> impl Iterator<Item = ConnectionId> {
        self.connections.keys().copied()
    }

    /// What each has to do with the connection's view, and with the streams that there are.
    #[cfg(test)]
    pub(super) fn check(
        &self,
        infos: &[&crate::ConnectionInfo],
        lives: impl Fn(StreamKey) -> bool,
    ) {
        for info in infos {
            let record = &self.connections[&info.id];
            assert!(record.unconfirmed.iter().all(|key| lives(*key)));
            assert!(record.drains.is_empty() || info.draining && info.streams > 0);
        }
    }

    /// A place for one more unanswered `Migrate` on the connection, if there is one.
    pub(super) fn place(&mut self, connection: ConnectionId, places: usize) -> Option<Places> {
        self.get_mut(connection)?.places.take(places)
    }
}

/// The connections of a stream's legs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Legs {
    pub(super) current: Option<ConnectionId>,
    pub(super) new: Option<ConnectionId>,
    /// For a migration of ours that is not agreed.
    pub(super) opening: Option<ConnectionId>,
}

impl Legs {
    pub(super) const NONE: Self = Self {
        current: None,
        new: None,
        opening: None,
    };

    pub(super) fn all(self) -> impl Iterator<Item = ConnectionId> {
        [self.current, self.new, self.opening].into_iter().flatten()
    }
}

impl Behaviour {
    /// The stream has its legs on these connections from now on, and no longer on those.
    pub(super) fn set_legs(&mut self, peer: PeerId, from: Legs, to: Legs) {
        for connection in to.all() {
            if let Some(info) = self.connections.get_mut(peer, connection) {
                info.streams += 1;
            }
        }
        for connection in from.all() {
            // Gone already if the connection is.
            let Some(info) = self.connections.get_mut(peer, connection) else {
                continue;
            };
            info.streams = info.streams.saturating_sub(1);
            if info.streams == 0 {
                self.event(Event::ConnectionFree { peer, connection });
                self.released(peer, connection);
                self.drained(connection);
            }
        }
        self.room_changed(peer);
    }

    /// A migration off the connection is complete.
    pub(super) fn left(
        &mut self,
        key: StreamKey,
        connection: ConnectionId,
        initiator: bool,
        confirmed: bool,
    ) {
        let Some(record) = self.records.get_mut(connection) else {
            return;
        };
        record.left |= initiator;
        record.in_flight |= !initiator;
        if initiator && !confirmed {
            record.unconfirmed.insert(key);
        }
    }

    /// A new stream is on the connection: it is in use again.
    pub(super) fn arrived(&mut self, connection: ConnectionId) {
        if let Some(record) = self.records.get_mut(connection) {
            record.left = false;
        }
    }

    /// Something of ours has ended on the connection, and nothing tells when the remote has read it.
    pub(super) fn ended(&mut self, connection: ConnectionId) {
        let linger = self.config.old_leg_linger;
        if let Some(record) = self.records.get_mut(connection) {
            match Instant::now().checked_add(linger) {
                Some(quiet) => record.quiet_from = record.quiet_from.max(Some(quiet)),
                None => record.in_flight = true,
            }
        }
    }

    /// The remote has read our end of the leg on this connection.
    pub(super) fn confirmed(&mut self, peer: PeerId, key: StreamKey, connection: ConnectionId) {
        if let Some(record) = self.records.get_mut(connection) {
            record.unconfirmed.remove(&key);
        }
        self.released(peer, connection);
    }

    /// The stream is over, and nothing will be heard on its new leg any more.
    pub(super) fn forget_unconfirmed(&mut self, peer: PeerId, key: StreamKey, matters: bool) {
        let connections = self.connections.of(peer).iter().map(|info| info.id);
        for connection in connections.collect::<Vec<_>>() {
            if let Some(record) = self.records.get_mut(connection)
                && record.unconfirmed.remove(&key)
            {
                if matters {
                    self.ended(connection);
                }
                self.released(peer, connection);
            }
        }
    }

    /// The connection's handler tells how to keep it from being idle, which somebody may have wanted before.
    pub(super) fn born(&mut self, peer: PeerId, connection: ConnectionId, legs: RemotePlaces) {
        let Some(record) = self.records.get_mut(connection) else {
            return;
        };
        for key in self.table.of_peer(peer) {
            if let Some(entry) = self.table.get_mut(key) {
                entry.extra.keep_alive(connection, &legs);
            }
        }
        record.alive = legs;
    }

    /// Keeps the connection from being idle as long as it is held.
    pub(super) fn keep_alive(&mut self, connection: ConnectionId) -> Option<Places> {
        self.records.get_mut(connection)?.alive.take()
    }

    /// Something of ours on the connection has been dropped: it may be of no use any more.
    pub(super) fn released(&mut self, peer: PeerId, connection: ConnectionId) {
        if self
            .connections
            .get(peer, connection)
            .is_some_and(|info| info.streams == 0)
        {
            self.notify(peer, connection, Purpose::Released);
            self.consider_pruning(peer, connection);
        }
    }

    /// Whether the connection may be closed once nobody else uses it, and since when nothing that was ours
    /// can be on its way there.
    fn may_prune(&self, peer: PeerId, connection: ConnectionId) -> Option<Option<Instant>> {
        let record = self.records.connections.get(&connection)?;
        let info = self.connections.get(peer, connection)?;
        // Direct duplicates are left to the idle timeout: a handler may hold state there. And the last
        // connection to a peer is no duplicate.
        let left = record.left && info.relayed && self.config.prune_grace.is_some();
        let others = self.connections.of(peer).len() > 1;
        let may = (left && others || record.unwanted)
            && info.streams == 0
            && !record.in_flight
            && record.unconfirmed.is_empty();
        may.then_some(record.quiet_from)
    }

    /// Closes the connection once that can do no harm.
    pub(super) fn close_when_free(&mut self, peer: PeerId, connection: ConnectionId) {
        if self.connections.get(peer, connection).is_some()
            && let Some(record) = self.records.get_mut(connection)
        {
            record.unwanted = true;
            self.consider_pruning(peer, connection);
        }
    }

    /// If a connection may be closed, has its handler tell when nothing else uses it.
    pub(super) fn consider_pruning(&mut self, peer: PeerId, connection: ConnectionId) {
        if let Some(quiet_from) = self.may_prune(peer, connection)
            && let Some(record) = self.records.get_mut(connection)
            && !std::mem::replace(&mut record.watched, true)
        {
            self.notify(peer, connection, Purpose::Watch(quiet_from));
        }
    }

    /// The handler says that nothing has used the connection for long enough.
    pub(super) fn unused(&mut self, peer: PeerId, connection: ConnectionId) {
        if let Some(record) = self.records.get_mut(connection) {
            record.watched = false;
        }
        let Some(quiet_from) = self.may_prune(peer, connection) else {
            return;
        };
        if quiet_from.is_some_and(|at| at > Instant::now()) {
            // Something has ended since it was asked.
            return self.consider_pruning(peer, connection);
        }
        if let Some(info) = self.connections.get_mut(peer, connection) {
            info.closing = true;
        }
        self.event(Event::ConnectionPruned { peer, connection });
        self.actions.push_back(ToSwarm::CloseConnection {
            peer_id: peer,
            connection: CloseConnection::One(connection),
        });
    }
}
