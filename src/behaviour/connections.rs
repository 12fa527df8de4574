//! The connections of all peers, as views.

use std::collections::HashMap;

use libp2p_identity::PeerId;
use libp2p_swarm::ConnectionId;

use crate::view::ConnectionInfo;

#[derive(Debug, Default)]
pub(super) struct Connections {
    /// The oldest first.
    peers: HashMap<PeerId, Vec<ConnectionInfo>>,
}

impl Connections {
    pub(super) fn add(&mut self, info: ConnectionInfo) {
        self.peers.entry(info.peer).or_default().push(info);
    }

    /// The connection's address has changed.
    pub(super) fn moved(&mut self, new: ConnectionInfo) {
        if let Some(info) = self.get_mut(new.peer, new.id) {
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

    /// Returns whether it was the peer's last.
    pub(super) fn remove(&mut self, peer: PeerId, id: ConnectionId) -> bool {
        let Some(connections) = self.peers.get_mut(&peer) else {
            return true;
        };
        connections.retain(|info| info.id != id);
        let last = connections.is_empty();
        if last {
            self.peers.remove(&peer);
        }
        last
    }

    pub(super) fn get(&self, peer: PeerId, id: ConnectionId) -> Option<&ConnectionInfo> {
        self.of(peer).iter().find(|info| info.id == id)
    }

    pub(super) fn get_mut(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
    ) -> Option<&mut ConnectionInfo> {
        let connections = self.peers.get_mut(&peer)?;
        connections.iter_mut().find(|info| info.id == id)
    }

    #[cfg(test)]
    pub(super) fn all(&self) -> Vec<&ConnectionInfo> {
        assert!(
            self.peers
                .values()
                .all(|connections| !connections.is_empty())
        );
        self.peers.values().flatten().collect()
    }

    pub(super) fn of(&self, peer: PeerId) -> &[ConnectionInfo] {
        self.peers.get(&peer).map_or(&[], Vec::as_slice)
    }
}
