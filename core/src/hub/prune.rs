//! *Pruning*: which connections carry streams of ours, and which relayed one may be closed because its
//! streams have left.
//!
//! Closing a connection discards what is in flight on it, so we close one only if we initiated every
//! migration off it, and have heard from the remote on the new leg of each: it writes there only after
//! it has read our end of the old one. Of whatever else has ended on it, ours or not, nothing tells when
//! the remote has read it; there, only time does, far more of it than the grace.

use std::collections::HashSet;

use futures::{FutureExt, channel::oneshot, future::Shared};
use libp2p_identity::PeerId;
use web_time::Instant;

use super::{Hub, Output};
use crate::{
    error::DrainError,
    event::Event,
    key::{ConnectionKey, StreamKey},
    permits::{Permit, Permits, WeakPermits},
    stream::Io,
};

/// Reasons for and against closing one connection, and what is kept on it.
#[derive(Default)]
pub(super) struct Pruning {
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
    pub(super) unwanted: bool,
    /// True once its owner has been asked to tell when nothing else uses it.
    watched: bool,
    /// Places for the remote's unanswered `Migrate`s on it.
    pub(super) unanswered: Permits,
    /// The callers who wait for it to be free.
    pub(super) drains: Vec<oneshot::Sender<Result<(), DrainError>>>,
    /// The old leg of the last stream that the remote has moved off it, and how long it is kept: until
    /// then, or until the connection closes.
    pub(super) lingering: Option<(Box<dyn Send>, Option<Instant>)>,
    /// Places for last legs that are kept.
    pub(super) kept: Permits,
    /// Permits of its owner, of which each keeps the connection from being idle.
    pub(super) alive: WeakPermits,
    /// Tells those that the connection is gone, of which a muxer need not tell.
    gone: Option<(oneshot::Sender<()>, Shared<oneshot::Receiver<()>>)>,
}

impl Pruning {
    /// Done once the connection is gone.
    pub(super) fn gone(&mut self) -> Shared<oneshot::Receiver<()>> {
        let channel = || {
            let (alive, gone) = oneshot::channel();
            (alive, gone.shared())
        };
        self.gone.get_or_insert_with(channel).1.clone()
    }

    /// Panics unless it fits the connection's view, and the streams that there are.
    #[cfg(any(test, stream_migration_mutants))]
    pub(super) fn check(
        &self,
        info: &crate::view::ConnectionInfo,
        lives: impl Fn(StreamKey) -> bool,
    ) {
        assert!(self.unconfirmed.iter().all(|key| lives(*key)));
        assert!(self.drains.is_empty() || info.draining && info.streams > 0);
    }
}

/// The connections of a stream's legs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Legs {
    pub current: Option<ConnectionKey>,
    pub new: Option<ConnectionKey>,
    /// The leg of a migration of ours that is not agreed.
    pub opening: Option<ConnectionKey>,
}

impl Legs {
    pub const NONE: Self = Self {
        current: None,
        new: None,
        opening: None,
    };

    pub fn all(self) -> impl Iterator<Item = ConnectionKey> {
        [self.current, self.new, self.opening].into_iter().flatten()
    }
}

impl<L: Io + Send + 'static> Hub<L> {
    fn pruning(&mut self, connection: ConnectionKey) -> Option<&mut Pruning> {
        Some(&mut self.connections.record_mut(connection)?.pruning)
    }

    /// The stream has its legs on these connections from now on, and no longer on those.
    pub fn set_legs(&mut self, peer: PeerId, from: Legs, to: Legs) {
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
    pub fn left(
        &mut self,
        key: StreamKey,
        connection: ConnectionKey,
        initiator: bool,
        confirmed: bool,
    ) {
        let Some(record) = self.pruning(connection) else {
            return;
        };
        record.left |= initiator;
        record.in_flight |= !initiator;
        if initiator && !confirmed {
            record.unconfirmed.insert(key);
        }
    }

    /// A new stream is on the connection: it is in use again.
    pub fn arrived(&mut self, connection: ConnectionKey) {
        if let Some(record) = self.pruning(connection) {
            record.left = false;
        }
    }

    /// Something of ours has ended on the connection, and nothing tells when the remote has read it.
    pub fn ended(&mut self, connection: ConnectionKey) {
        let linger = self.settings.old_leg_linger;
        if let Some(record) = self.pruning(connection) {
            match Instant::now().checked_add(linger) {
                Some(quiet) => record.quiet_from = record.quiet_from.max(Some(quiet)),
                None => record.in_flight = true,
            }
        }
    }

    /// The remote has read our end of the leg on this connection.
    pub fn confirmed(&mut self, peer: PeerId, key: StreamKey, connection: ConnectionKey) {
        if let Some(record) = self.pruning(connection) {
            record.unconfirmed.remove(&key);
        }
        self.released(peer, connection);
    }

    /// The stream is over, and nothing will be heard on its new leg any more.
    pub fn forget_unconfirmed(&mut self, peer: PeerId, key: StreamKey, matters: bool) {
        for connection in self.connections.keys(peer) {
            if let Some(record) = self.pruning(connection)
                && record.unconfirmed.remove(&key)
            {
                if matters {
                    self.ended(connection);
                }
                self.released(peer, connection);
            }
        }
    }

    /// The connection's owner tells how to keep it from being idle, which somebody may have wanted before.
    pub fn born(&mut self, peer: PeerId, connection: ConnectionKey, alive: WeakPermits) {
        for key in self.table.of_peer(peer) {
            if let Some(entry) = self.table.get_mut(key) {
                entry.record.keep_alive(connection, &alive);
            }
        }
        if let Some(record) = self.pruning(connection) {
            record.alive = alive;
        }
        self.hold_for_suspended(peer, connection);
    }

    /// Keeps the connection from being idle as long as it is held.
    pub fn keep_alive(&mut self, connection: ConnectionKey) -> Option<Permit> {
        self.pruning(connection)?.alive.acquire()
    }

    /// Something of ours on the connection has been dropped: it may be of no use any more.
    pub fn released(&mut self, peer: PeerId, connection: ConnectionKey) {
        let info = self.connections.get(peer, connection);
        if info.is_some_and(|info| info.streams == 0) {
            self.output(Output::Wake(peer, connection));
            self.consider_pruning(peer, connection);
        }
    }

    /// The permission to close the connection once nobody else uses it, and the time since when
    /// nothing that was ours can be on its way there.
    fn may_prune(&self, peer: PeerId, connection: ConnectionKey) -> Option<Option<Instant>> {
        let record = &self.connections.record(connection)?.pruning;
        let info = self.connections.get(peer, connection)?;
        // Direct duplicates are left to the idle timeout: a handler may hold state there. And the last
        // connection to a peer is no duplicate.
        let left = record.left && info.relayed && self.settings.prune_grace.is_some();
        let others = self.connections.of(peer).len() > 1;
        let may = (left && others || record.unwanted)
            && info.streams == 0
            && !record.in_flight
            && record.unconfirmed.is_empty();
        may.then_some(record.quiet_from)
    }

    /// Closes the connection once that can do no harm.
    pub fn close_when_free(&mut self, peer: PeerId, connection: ConnectionKey) {
        if self.connections.get(peer, connection).is_some()
            && let Some(record) = self.pruning(connection)
        {
            record.unwanted = true;
            self.consider_pruning(peer, connection);
        }
    }

    /// True if the connection is being emptied, or is to be closed when it is free.
    pub fn is_unwanted(&self, peer: PeerId, connection: ConnectionKey) -> bool {
        let info = self.connections.get(peer, connection);
        let record = self.connections.record(connection);
        info.is_some_and(|it| it.draining) || record.is_some_and(|it| it.pruning.unwanted)
    }

    /// Lets the owner of a connection that may be closed tell when nothing else uses it.
    pub fn consider_pruning(&mut self, peer: PeerId, connection: ConnectionKey) {
        if let Some(quiet_from) = self.may_prune(peer, connection)
            && let Some(record) = self.pruning(connection)
            && !std::mem::replace(&mut record.watched, true)
        {
            self.output(Output::Watch(peer, connection, quiet_from));
        }
    }

    /// Hears from its owner that nothing has used the connection for long enough.
    pub fn unused(&mut self, peer: PeerId, connection: ConnectionKey) {
        if let Some(record) = self.pruning(connection) {
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
        self.output(Output::Close(peer, connection));
    }
}
