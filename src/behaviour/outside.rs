//! Protocols that a peer speaks on plain streams only, though it speaks the migration protocol: something
//! else than this crate serves them there.

use std::collections::{HashMap, VecDeque};

use libp2p_identity::PeerId;
use libp2p_swarm::StreamProtocol;

use crate::request::Inside;

/// Limits the protocols that are remembered of one peer, the last. A node has few protocols; one
/// that is forgotten costs a round trip.
const MAX_REMEMBERED: usize = 64;

/// The protocols that were seen at the peers that we are connected to.
#[derive(Debug, Default)]
pub(super) struct Outside {
    peers: HashMap<PeerId, VecDeque<StreamProtocol>>,
}

impl Outside {
    /// The peer has refused this inside the prefix, and serves it on a plain stream.
    pub(super) fn add(&mut self, peer: PeerId, protocol: StreamProtocol) {
        let protocols = self.peers.entry(peer).or_default();
        if !protocols.contains(&protocol) {
            if protocols.len() >= MAX_REMEMBERED {
                protocols.pop_front();
            }
            protocols.push_back(protocol);
        }
    }

    pub(super) fn find(&self, peer: PeerId, protocol: &StreamProtocol) -> Inside {
        match self.peers.get(&peer) {
            Some(protocols) if protocols.contains(protocol) => Inside::Remembered,
            _ => Inside::Unknown,
        }
    }

    #[cfg(all(test, stream_migration_mutants))]
    pub(super) fn peers(&self) -> impl Iterator<Item = &PeerId> {
        self.peers.keys()
    }

    /// The peer is gone, or may have changed.
    pub(super) fn forget(&mut self, peer: PeerId) {
        self.peers.remove(&peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_are_remembered_and_no_more() {
        let peer = PeerId::random();
        let protocol = |i| StreamProtocol::try_from_owned(format!("/{i}")).unwrap();
        let mut outside = Outside::default();
        for i in 0..MAX_REMEMBERED + 1 {
            outside.add(peer, protocol(i));
            outside.add(peer, protocol(i));
        }
        assert_eq!(outside.find(peer, &protocol(0)), Inside::Unknown);
        assert_eq!(outside.find(peer, &protocol(1)), Inside::Remembered);
        assert_eq!(
            outside.find(PeerId::random(), &protocol(1)),
            Inside::Unknown
        );
        outside.forget(peer);
        assert!(outside.peers.is_empty());
    }
}
