//! Dials for streams that have lost their connections (*Resume*).

use std::collections::{HashMap, VecDeque};

use libp2p_core::{ConnectedPoint, Multiaddr};
use libp2p_identity::PeerId;
use libp2p_swarm::{
    ConnectionId, DialError, ToSwarm,
    dial_opts::{DialOpts, PeerCondition},
};

use super::Behaviour;

/// Addresses that are remembered of one peer, the last ones.
const MAX_ADDRESSES: usize = 8;

/// Dials of one peer that run at once. None waits for one that may be lost.
const MAX_DIALS: usize = 4;

/// The ways to peers that have connections, or streams that wait for one.
#[derive(Debug, Default)]
pub(super) struct Ways(HashMap<PeerId, Way>);

#[derive(Debug, Default)]
struct Way {
    addresses: VecDeque<Multiaddr>,
    dials: Vec<ConnectionId>,
}

impl Way {
    fn add(&mut self, address: &Multiaddr) {
        self.addresses.retain(|it| it != address);
        if self.addresses.len() >= MAX_ADDRESSES {
            self.addresses.pop_front();
        }
        self.addresses.push_back(address.clone());
    }
}

impl Behaviour {
    /// This machine's network has changed.
    pub(super) fn network_changed(&mut self) {
        self.hub.network_changed();
    }

    /// A connection is there.
    pub(super) fn reached(&mut self, peer: PeerId, endpoint: &ConnectedPoint) {
        if !self.config.hub.resume {
            return;
        }
        let way = self.ways.0.entry(peer).or_default();
        way.dials.clear();
        if let ConnectedPoint::Dialer { address, .. } = endpoint {
            way.add(address);
        }
    }

    /// Somebody knows an address of the peer.
    pub(super) fn told_of_way(&mut self, peer: PeerId, address: &Multiaddr) {
        if let Some(way) = self.ways.0.get_mut(&peer) {
            way.add(address);
        }
    }

    /// Streams wait for a connection to the peer, and there is none.
    pub(super) fn dial_for_suspended(&mut self, peer: PeerId) {
        let way = self.ways.0.entry(peer).or_default();
        if way.dials.len() >= MAX_DIALS {
            return;
        }
        let opts = DialOpts::peer_id(peer)
            .condition(PeerCondition::Always)
            .addresses(way.addresses.iter().rev().cloned().collect())
            .extend_addresses_through_behaviour()
            .build();
        way.dials.push(opts.connection_id());
        self.actions.push_back(ToSwarm::Dial { opts });
    }

    /// A dial has failed.
    pub(super) fn not_reached(
        &mut self,
        peer: Option<PeerId>,
        connection: ConnectionId,
        error: &DialError,
    ) {
        let Some((peer, way)) = peer.and_then(|peer| Some((peer, self.ways.0.get_mut(&peer)?)))
        else {
            return;
        };
        let before = way.dials.len();
        way.dials.retain(|dial| *dial != connection);
        if way.dials.len() == before {
            return;
        }
        match error {
            // Somebody else is there now.
            DialError::WrongPeerId { address, .. } => way.addresses.retain(|it| it != address),
            DialError::Denied { .. } => self.hub.dial_denied(peer),
            _ => {}
        }
    }

    /// Nothing is kept of a peer that is not there and has no streams that wait.
    pub(super) fn forget_ways(&mut self, peer: PeerId) {
        if self.hub.connections(peer).is_empty() && !self.hub.has_suspended(peer) {
            self.ways.0.remove(&peer);
        }
    }
}
