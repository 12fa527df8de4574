//! Choosing a connection: the one question that opening and moving ask. What a connection is (full,
//! closing, draining, suspected, proven) is in its [`ConnectionInfo`]; what a stream may do is in its
//! [`StreamInfo`](crate::view::StreamInfo) and its mobility; which of those that are left is better, the policy
//! says.

use std::cmp::Ordering;

use libp2p_identity::PeerId;

use super::Hub;
use crate::{
    key::ConnectionKey,
    stream::Io,
    view::{ConnectionInfo, Mobility, PeerView},
};

/// The rank of a connection as a place for new streams: the better ones are used up first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tier {
    Good,
    /// Being emptied, but it answers.
    Draining,
    /// A connection that may be dead.
    Suspected,
    /// No place at all.
    Closing,
}

impl Tier {
    fn of(info: &ConnectionInfo) -> Self {
        match (info.closing, info.suspected, info.draining) {
            (true, _, _) => Self::Closing,
            (_, true, _) => Self::Suspected,
            (_, _, true) => Self::Draining,
            _ => Self::Good,
        }
    }
}

/// The place where a new stream can be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// This connection.
    On(ConnectionKey),
    /// No connection before one of those that are full has room.
    Full,
    /// No connection that is there and may be used.
    None,
}

impl<L: Io + Send + 'static> Hub<L> {
    /// The connections to the peer, the best place for a new stream first: those that answer and are not
    /// to be emptied; of these, those that have room; of those, as the policy says; direct before relayed;
    /// the oldest.
    pub fn ranked(&self, peer: PeerId) -> Vec<&ConnectionInfo> {
        self.rank(peer, self.connections.of(peer))
    }

    /// The same order of these views of the peer's connections, the oldest first, of which somebody else may know
    /// more.
    pub fn rank<'a>(
        &self,
        peer: PeerId,
        connections: &'a [ConnectionInfo],
    ) -> Vec<&'a ConnectionInfo> {
        let view = PeerView {
            connections,
            ..self.view(peer)
        };
        let order = |a: &ConnectionInfo, b: &ConnectionInfo| -> Ordering {
            let standing = |info| (Tier::of(info), info.is_full());
            standing(a)
                .cmp(&standing(b))
                .then_with(|| self.policy.compare(a, b, &view))
                .then(a.relayed.cmp(&b.relayed))
        };
        let mut rest: Vec<_> = connections.iter().collect();
        let mut ranked = Vec::with_capacity(rest.len());
        // A policy's order need not be total, so this is no sort.
        while let Some(best) =
            (0..rest.len()).reduce(|best, other| match order(rest[other], rest[best]) {
                Ordering::Less => other,
                _ => best,
            })
        {
            ranked.push(rest.remove(best));
        }
        ranked
    }

    /// The place among these where a new stream of this mobility can be opened, other than where that has been
    /// `tried`.
    pub fn choose(
        &self,
        peer: PeerId,
        connections: &[ConnectionInfo],
        mobility: Mobility,
        tried: &[ConnectionKey],
    ) -> Choice {
        let ranked = self.rank(peer, connections);
        let usable = |info: &&&ConnectionInfo| {
            Tier::of(info) != Tier::Closing && mobility.admits(info) && !tried.contains(&info.key)
        };
        // The first tier that there is decides: what is full is waited for rather than left to a worse one.
        let Some(tier) = ranked.iter().find(usable).map(|info| Tier::of(info)) else {
            return Choice::None;
        };
        let mut of_tier = ranked.iter().filter(usable);
        match of_tier.find(|info| Tier::of(info) == tier && !info.is_full()) {
            Some(info) => Choice::On(info.key),
            None => Choice::Full,
        }
    }
}
