//! Which connections there are, how those of two nodes belong together, and which were closed when.

use std::{collections::HashMap, time::Instant};

use libp2p::{PeerId, swarm::ConnectionId};
use libp2p_stream_migration::{ConnectionInfo, Transport};

/// A connection as one of its two nodes knows it.
pub type End = (usize, ConnectionId);

#[derive(Debug)]
struct Known {
    peer: PeerId,
    quic: bool,
    link: Option<usize>,
    closed: Option<Instant>,
}

#[derive(Debug)]
struct Link {
    ends: [End; 2],
    chaos: Option<Instant>,
}

#[derive(Debug, Default)]
pub struct Links {
    known: HashMap<End, Known>,
    links: Vec<Link>,
}

impl Links {
    pub fn established(&mut self, node: usize, info: &ConnectionInfo) {
        let known = Known {
            peer: info.peer,
            quic: info.transport == Transport::Quic && !info.relayed,
            link: None,
            closed: None,
        };
        self.known.insert((node, info.id), known);
    }

    pub fn closed(&mut self, end: End) {
        if let Some(known) = self.known.get_mut(&end) {
            known.closed = Some(Instant::now());
        }
    }

    pub fn is_open(&self, end: End) -> bool {
        let known = self.known.get(&end);
        known.is_some_and(|known| known.closed.is_none())
    }

    pub fn is_quic(&self, end: End) -> bool {
        self.known.get(&end).is_some_and(|known| known.quic)
    }

    /// A connection of this node to that peer of which the other end is not known.
    pub fn unmatched(&self, node: usize, peer: PeerId) -> Option<End> {
        let mut known = self.known.iter();
        known.find_map(|(end, known)| {
            let fits = end.0 == node && known.peer == peer;
            (fits && known.link.is_none() && known.closed.is_none()).then_some(*end)
        })
    }

    pub fn join(&mut self, ends: [End; 2]) {
        for end in ends {
            if let Some(known) = self.known.get_mut(&end) {
                known.link = Some(self.links.len());
            }
        }
        self.links.push(Link { ends, chaos: None });
    }

    /// Those between two nodes that are open at both ends.
    pub fn between(&self, nodes: [usize; 2]) -> Vec<[End; 2]> {
        let open = |link: &&Link| link.ends.iter().all(|end| self.is_open(*end));
        let theirs = |link: &&Link| link.ends.iter().all(|end| nodes.contains(&end.0));
        let links = self.links.iter().filter(theirs).filter(open);
        links.map(|link| link.ends).collect()
    }

    /// It is about to be closed under its streams.
    pub fn chaos(&mut self, end: End) {
        let link = self.known.get(&end).and_then(|known| known.link);
        if let Some(link) = link {
            self.links[link].chaos = Some(Instant::now());
        }
    }

    pub fn chaos_at(&self, end: End) -> Option<Instant> {
        self.links[self.known.get(&end)?.link?].chaos
    }

    /// When it was closed, at whichever end came first.
    pub fn closed_at(&self, end: End) -> Option<Instant> {
        let known = self.known.get(&end)?;
        let Some(link) = known.link else {
            return known.closed;
        };
        let ends = self.links[link].ends.iter();
        ends.filter_map(|end| self.known.get(end)?.closed).min()
    }

    pub fn are_all_closed(&self) -> bool {
        self.known.values().all(|known| known.closed.is_some())
    }

    pub fn forget_all(&mut self) {
        *self = Self::default();
    }
}
