//! The connections of all peers, as views.

use std::{cmp::Reverse, collections::HashMap};

use libp2p_core::ConnectedPoint;
use libp2p_identity::PeerId;
use libp2p_swarm::ConnectionId;

use crate::event::ConnectionInfo;

#[derive(Debug, Default)]
pub(super) struct Connections {
    peers: HashMap<PeerId, Vec<ConnectionInfo>>,
}

impl Connections {
    pub(super) fn add(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        self.peers
            .entry(peer)
            .or_default()
            .push(ConnectionInfo::new(id, peer, endpoint));
    }

    pub(super) fn moved(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        if let Some(info) = self.peers.get_mut(&peer)
            && let Some(info) = info.iter_mut().find(|info| info.id == id)
        {
            let established = info.established;
            *info = ConnectionInfo {
                established,
                ..ConnectionInfo::new(id, peer, endpoint)
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
        self.of(peer).find(|info| info.id == id)
    }

    pub(super) fn of(&self, peer: PeerId) -> impl Iterator<Item = &ConnectionInfo> {
        self.peers.get(&peer).into_iter().flatten()
    }

    /// For new streams: direct before relayed, then the oldest, which is the one that both peers are
    /// most likely to keep.
    pub(super) fn ranked(&self, peer: PeerId) -> Vec<&ConnectionInfo> {
        let mut ranked: Vec<_> = self.of(peer).collect();
        ranked.sort_by_key(|info| (Reverse(!info.relayed), info.established));
        ranked
    }
}
