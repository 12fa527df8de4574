//! The connections of all peers: what policies see of each, and beside it one record of what else there is to
//! know. Both go at once, and nothing brings back one that is gone.

use std::collections::HashMap;

use libp2p_identity::PeerId;

use super::{beat::Beat, health::Health, prune::Pruning, queue::Line, word::Talk};
use crate::{key::ConnectionKey, shrink, view::ConnectionInfo};

/// The record of one connection beside its view; each part belongs to the room that it is named
/// after.
#[derive(Default)]
pub(super) struct ConnectionRecord {
    pub(super) health: Health,
    pub(super) pruning: Pruning,
    /// Migrations of ours that wait to go there.
    pub(super) line: Line,
    pub(super) talk: Talk,
    pub(super) beat: Beat,
}

#[derive(Default)]
pub(super) struct Connections {
    /// The views, the oldest first.
    peers: HashMap<PeerId, Vec<ConnectionInfo>>,
    records: HashMap<ConnectionKey, ConnectionRecord>,
}

impl Connections {
    pub(super) fn add(&mut self, info: ConnectionInfo) {
        self.records.insert(info.key, ConnectionRecord::default());
        self.peers.entry(info.peer).or_default().push(info);
    }

    /// The connection's address has changed.
    pub(super) fn moved(&mut self, new: ConnectionInfo) {
        if let Some(info) = self.get_mut(new.peer, new.key) {
            *info = ConnectionInfo {
                established: info.established,
                streams: info.streams,
                opening: info.opening,
                capacity: info.capacity,
                draining: info.draining,
                closing: info.closing,
                suspected: info.suspected,
                proven: info.proven,
                ..new
            };
        }
    }

    /// Takes a connection out. Returns its record, and whether it was the peer's last.
    pub(super) fn remove(
        &mut self,
        peer: PeerId,
        key: ConnectionKey,
    ) -> (Option<ConnectionRecord>, bool) {
        let record = self.records.remove(&key);
        shrink::map(&mut self.records);
        let Some(connections) = self.peers.get_mut(&peer) else {
            return (record, true);
        };
        connections.retain(|info| info.key != key);
        let last = connections.is_empty();
        if last {
            self.peers.remove(&peer);
        }
        (record, last)
    }

    pub(super) fn get(&self, peer: PeerId, key: ConnectionKey) -> Option<&ConnectionInfo> {
        self.of(peer).iter().find(|info| info.key == key)
    }

    pub(super) fn get_mut(
        &mut self,
        peer: PeerId,
        key: ConnectionKey,
    ) -> Option<&mut ConnectionInfo> {
        let connections = self.peers.get_mut(&peer)?;
        connections.iter_mut().find(|info| info.key == key)
    }

    /// All peers that are connected, in order.
    pub(super) fn peers(&self) -> Vec<PeerId> {
        let mut peers: Vec<_> = self.peers.keys().copied().collect();
        peers.sort_unstable();
        peers
    }

    /// The views of a peer's connections, the oldest first.
    pub(super) fn of(&self, peer: PeerId) -> &[ConnectionInfo] {
        self.peers.get(&peer).map_or(&[], Vec::as_slice)
    }

    pub(super) fn keys(&self, peer: PeerId) -> Vec<ConnectionKey> {
        self.of(peer).iter().map(|info| info.key).collect()
    }

    pub(super) fn record(&self, key: ConnectionKey) -> Option<&ConnectionRecord> {
        self.records.get(&key)
    }

    pub(super) fn record_mut(&mut self, key: ConnectionKey) -> Option<&mut ConnectionRecord> {
        self.records.get_mut(&key)
    }

    #[cfg(any(test, stream_migration_mutants))]
    pub(super) fn all(&self) -> impl Iterator<Item = &ConnectionInfo> {
        self.peers.values().flatten()
    }

    /// Panics unless each connection has a view and a record.
    #[cfg(any(test, stream_migration_mutants))]
    pub(super) fn check(&self) {
        assert!(self.peers.values().all(|of_peer| !of_peer.is_empty()));
        assert_eq!(self.all().count(), self.records.len());
        assert!(self.all().all(|info| self.records.contains_key(&info.key)));
    }
}
