//! *Pruning*: which connections carry streams of ours, and which relayed one may be closed because its
//! streams have left.
//!
//! Closing a connection discards what is in flight on it, so we close one only if we initiated every
//! migration off it, and have heard from the remote on the new leg of each: it writes there only after
//! it has read our end of the old one.

use std::collections::{HashMap, HashSet};

use libp2p_identity::PeerId;
use libp2p_swarm::{CloseConnection, ConnectionId, ToSwarm};

use super::Behaviour;
use crate::{
    Event,
    handler::Purpose,
    stream::{Places, StreamKey},
};

/// What is known of one connection.
#[derive(Debug, Default)]
struct Load {
    /// A stream has left it on our initiative.
    left: bool,
    /// Bytes may be in flight on it of which we hear no more: a stream has left it on the remote's
    /// initiative, or has ended before the remote is known to have read our end.
    in_flight: bool,
    /// Streams that have left it and on whose new leg nothing has been read.
    unconfirmed: HashSet<StreamKey>,
    /// The policy or the application wants it closed.
    unwanted: bool,
    /// The handler has been asked to tell when nothing else uses it.
    watched: bool,
    /// For the remote's unanswered `Migrate`s on it.
    places: Places,
}

#[derive(Debug, Default)]
pub(super) struct Loads {
    connections: HashMap<ConnectionId, Load>,
}

impl Loads {
    fn of(&mut self, connection: ConnectionId) -> &mut Load {
        self.connections.entry(connection).or_default()
    }

    /// A place for one more unanswered `Migrate` on the connection, if there is one.
    pub(super) fn place(&mut self, connection: ConnectionId, places: usize) -> Option<Places> {
        self.of(connection).places.take(places)
    }

    pub(super) fn forget(&mut self, connection: ConnectionId) {
        self.connections.remove(&connection);
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

    fn all(self) -> impl Iterator<Item = ConnectionId> {
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
                self.drained(connection, Ok(()));
            }
        }
    }

    /// A migration off the connection is complete.
    pub(super) fn left(
        &mut self,
        key: StreamKey,
        connection: ConnectionId,
        initiator: bool,
        confirmed: bool,
    ) {
        let load = self.loads.of(connection);
        load.left |= initiator;
        load.in_flight |= !initiator;
        if initiator && !confirmed {
            load.unconfirmed.insert(key);
        }
    }

    /// The remote has read our end of the leg on this connection.
    pub(super) fn confirmed(&mut self, peer: PeerId, key: StreamKey, connection: ConnectionId) {
        if let Some(load) = self.loads.connections.get_mut(&connection) {
            load.unconfirmed.remove(&key);
        }
        self.released(peer, connection);
    }

    /// The stream is over, and nothing will be heard on its new leg any more.
    pub(super) fn forget_unconfirmed(&mut self, peer: PeerId, key: StreamKey, cleanly: bool) {
        let mut left = Vec::new();
        for info in self.connections.of(peer) {
            if let Some(load) = self.loads.connections.get_mut(&info.id)
                && load.unconfirmed.remove(&key)
            {
                // What an aborted stream has in flight is of no use to anybody.
                load.in_flight |= cleanly;
                left.push(info.id);
            }
        }
        for connection in left {
            self.released(peer, connection);
        }
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

    fn may_prune(&self, peer: PeerId, connection: ConnectionId) -> bool {
        let Some(load) = self.loads.connections.get(&connection) else {
            return false;
        };
        let Some(info) = self.connections.get(peer, connection) else {
            return false;
        };
        // Direct duplicates are left to the idle timeout: a handler may hold state there.
        let wanted = load.left && info.relayed && self.config.prune_grace.is_some();
        (wanted || load.unwanted)
            && info.streams == 0
            && !load.in_flight
            && load.unconfirmed.is_empty()
    }

    /// Closes the connection once that can do no harm.
    pub(super) fn close_when_free(&mut self, peer: PeerId, connection: ConnectionId) {
        if self.connections.get(peer, connection).is_some() {
            self.loads.of(connection).unwanted = true;
            self.consider_pruning(peer, connection);
        }
    }

    /// If a connection may be closed, has its handler tell when nothing else uses it.
    pub(super) fn consider_pruning(&mut self, peer: PeerId, connection: ConnectionId) {
        if self.may_prune(peer, connection)
            && !std::mem::replace(&mut self.loads.of(connection).watched, true)
        {
            self.notify(peer, connection, Purpose::Watch);
        }
    }

    /// The handler says that nothing has used the connection for the configured grace.
    pub(super) fn unused(&mut self, peer: PeerId, connection: ConnectionId) {
        self.loads.of(connection).watched = false;
        if self.may_prune(peer, connection) {
            self.event(Event::ConnectionPruned { peer, connection });
            self.actions.push_back(ToSwarm::CloseConnection {
                peer_id: peer,
                connection: CloseConnection::One(connection),
            });
        }
    }
}
