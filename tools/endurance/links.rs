//! Which connections there are, how those of two nodes belong together, and what became of them when.

use std::{collections::HashMap, time::Instant};

use libp2p::PeerId;
use libp2p_stream_migration::ConnectionKey;
use libp2p_stream_migration::{ConnectionInfo, Transport};

use crate::proxy::{Path, Proxy};

/// A connection as one of its two nodes knows it.
pub type End = (usize, ConnectionKey);

#[derive(Debug)]
struct Known {
    peer: PeerId,
    quic: bool,
    relayed: bool,
    link: Option<usize>,
    closed: Option<Instant>,
    /// Why it was closed, if neither this node nor disuse closed it.
    broke: Option<String>,
}

#[derive(Debug)]
struct Link {
    ends: [End; 2],
    chaos: Option<Instant>,
    /// Since when nothing is certain to come through, though it may come later.
    silent: Option<Instant>,
    /// It is being emptied, to be closed.
    leaving: bool,
    proxy: Option<Proxy>,
}

#[derive(Debug, Default)]
pub struct Links {
    known: HashMap<End, Known>,
    links: Vec<Link>,
    /// Below the swarm: what is called a link here outlives the connection that came with it.
    pub layered: bool,
    /// Streams outlive their connections.
    pub resumes: bool,
}

impl Links {
    pub fn established(&mut self, node: usize, info: &ConnectionInfo) {
        let known = Known {
            peer: info.peer,
            quic: info.transport == Transport::Quic && !info.relayed,
            relayed: info.relayed,
            link: None,
            closed: None,
            broke: None,
        };
        self.known.insert((node, info.key), known);
    }

    pub fn closed(&mut self, end: End) {
        if let Some(known) = self.known.get_mut(&end) {
            known.closed.get_or_insert_with(Instant::now);
        }
    }

    /// It was closed by an error.
    pub fn broke(&mut self, end: End, why: String) {
        if let Some(known) = self.known.get_mut(&end) {
            known.broke = Some(why);
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

    pub fn join(&mut self, ends: [End; 2], proxy: Option<Proxy>) {
        for end in ends {
            if let Some(known) = self.known.get_mut(&end) {
                known.link = Some(self.links.len());
            }
        }
        self.links.push(Link {
            ends,
            chaos: None,
            silent: None,
            leaving: false,
            proxy,
        });
    }

    /// Those between two nodes that are open at both ends.
    pub fn between(&self, nodes: [usize; 2]) -> Vec<[End; 2]> {
        let links = self.links_between(nodes);
        links.map(|link| link.ends).collect()
    }

    fn links_between(&self, nodes: [usize; 2]) -> impl Iterator<Item = &Link> {
        let theirs = move |link: &&Link| link.ends.iter().all(|end| nodes.contains(&end.0));
        let open = |link: &&Link| link.ends.iter().all(|end| self.is_open(*end));
        self.links.iter().filter(theirs).filter(open)
    }

    /// Of these, those whose paths have never been silent.
    pub fn audible(&self, nodes: [usize; 2]) -> Vec<[End; 2]> {
        let links = self.links_between(nodes);
        let audible = links.filter(|link| link.silent.is_none());
        audible.map(|link| link.ends).collect()
    }

    /// Of these, those that are neither silent nor about to be closed.
    pub fn staying(&self, nodes: [usize; 2]) -> Vec<[End; 2]> {
        let stays = |link: &&Link| !link.leaving && link.silent.is_none() && link.chaos.is_none();
        let links = self.links_between(nodes).filter(stays);
        links.map(|link| link.ends).collect()
    }

    /// Of these, those that the behaviour has no reason to close.
    pub fn healthy(&self, nodes: [usize; 2]) -> Vec<[End; 2]> {
        let mut staying = self.staying(nodes);
        let direct = |end: &End| self.known.get(end).is_some_and(|known| !known.relayed);
        staying.retain(|ends| ends.iter().all(direct));
        staying
    }

    fn of(&self, end: End) -> Option<&Link> {
        self.links.get(self.known.get(&end)?.link?)
    }

    fn of_mut(&mut self, end: End) -> Option<&mut Link> {
        self.links.get_mut(self.known.get(&end)?.link?)
    }

    /// It is about to be closed under its streams.
    pub fn chaos(&mut self, end: End) {
        if let Some(link) = self.of_mut(end) {
            link.chaos = Some(Instant::now());
        }
    }

    /// With the last connection of a peer all links go, below the swarm, also those whose own has been closed before.
    pub fn chaos_between(&mut self, nodes: [usize; 2]) {
        let theirs = |link: &&mut Link| link.ends.iter().all(|end| nodes.contains(&end.0));
        for link in self.links.iter_mut().filter(theirs) {
            link.chaos = Some(Instant::now());
        }
    }

    pub fn chaos_at(&self, end: End) -> Option<Instant> {
        self.of(end)?.chaos
    }

    /// It is to be emptied and closed.
    pub fn leave(&mut self, end: End) {
        if let Some(link) = self.of_mut(end) {
            link.leaving = true;
        }
    }

    /// Has its path go silent, if that is one of which we can say so. Tells whether it was.
    pub fn silence(&mut self, end: End, path: Path) -> bool {
        let Some(link) = self.of_mut(end) else {
            return false;
        };
        let Some(proxy) = link.proxy.as_ref().filter(|_| link.silent.is_none()) else {
            return false;
        };
        proxy.set(path);
        link.silent = Some(Instant::now());
        true
    }

    /// Has its path forward again what it has held up.
    pub fn speak(&mut self, end: End) {
        if let Some(Link {
            proxy: Some(proxy), ..
        }) = self.of(end)
        {
            proxy.set(Path::Forwards);
        }
    }

    /// Since when its path has been silent, though it may have spoken again.
    pub fn silent_at(&self, end: End) -> Option<Instant> {
        self.of(end)?.silent
    }

    /// Has nobody wait for a path that is silent.
    pub fn stop_proxies(&mut self) {
        for link in self.links.iter_mut().filter(|link| link.silent.is_some()) {
            link.proxy = None;
        }
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

    /// Connections that neither end has closed, nor we: a muxer closes one whose limits are overrun. One that
    /// is closed by both at once may break, too, so those that somebody may have closed tell nothing.
    pub fn broken(&self) -> Vec<String> {
        let nobody = |link: &&Link| link.chaos.is_none() && link.silent.is_none() && !link.leaving;
        let both = |link: &Link| -> Option<String> {
            let [a, b] = link.ends.map(|end| self.known.get(&end));
            let (a, b) = (a?, b?);
            let (why, why_there) = (a.broke.as_ref()?, b.broke.as_ref()?);
            (!a.relayed && !b.relayed).then(|| format!("{:?}: {why}; {why_there}", link.ends))
        };
        self.links.iter().filter(nobody).filter_map(both).collect()
    }

    pub fn of_node(&self, node: usize) -> Vec<End> {
        let ends = self.known.keys().copied();
        ends.filter(|end| end.0 == node).collect()
    }

    /// A node is gone, which had this peer ID, and nobody may have been told.
    pub fn gone(&mut self, node: usize, peer: PeerId) {
        let now = Instant::now();
        let ends: Vec<_> = self.known.keys().copied().collect();
        for end in ends {
            let Some(known) = self.known.get_mut(&end) else {
                continue;
            };
            let is_its = end.0 == node;
            if is_its {
                known.closed.get_or_insert(now);
            } else if known.peer != peer || known.closed.is_some() && !self.layered {
                continue;
            }
            if known.link.is_none() {
                // Its other end will never be known.
                self.join([end, end], None);
            }
            if let Some(link) = self.of_mut(end) {
                link.chaos = Some(now);
            }
        }
    }

    pub fn forget_all(&mut self) {
        *self = Self {
            layered: self.layered,
            resumes: self.resumes,
            ..Self::default()
        };
    }
}
