//! The peer-scoped stream table: which stream of which peer answers to which ID, on whatever
//! connection; and what is kept per peer beside it.
//!
//! Everything is looked up under the authenticated peer, so no peer can name another's stream. Knows
//! IDs and stream handles; knows nothing of swarms. `R` is what the owner keeps with each stream, its record.

use std::{
    collections::{HashMap, VecDeque},
    future::poll_fn,
    sync::{Arc, Mutex, PoisonError, Weak},
    task::Poll,
    time::Duration,
};

use futures::{FutureExt, channel::oneshot};
use libp2p_identity::PeerId;
use web_time::Instant;

use crate::{
    key::StreamKey,
    machine::StreamId,
    permits::{Permit, Permits},
    protocol::{
        codec::Switched,
        roles::{self, IdAllocator, Parity},
    },
    seen::Seen,
    shrink,
    stream::{Budget, Io, Leg, Shared},
};

/// A stream of the table.
pub struct Entry<L, R> {
    /// Shared by all the peer's streams: an ID is 80 bytes long.
    peer: Arc<PeerId>,
    pub shared: Arc<Shared<L>>,
    pub record: R,
    ids: Vec<StreamId>,
    /// The ID in its label.
    origin: StreamId,
    /// True if all the peer's connections have gone since it began; its IDs stand for nothing any
    /// more.
    stranded: bool,
}

impl<L, R> Entry<L, R> {
    pub fn peer(&self) -> PeerId {
        *self.peer
    }

    /// The ID in its label, by which the two speak of it.
    pub fn origin(&self) -> StreamId {
        self.origin
    }

    /// True if all the peer's connections have gone since it began.
    pub fn is_stranded(&self) -> bool {
        self.stranded
    }
}

/// A `Migrate` of the remote, which may have come before the label of the stream that it names.
pub struct Early<L> {
    pub leg: Leg<L>,
    pub id: StreamId,
    pub from: StreamId,
    pub verify: bool,
}

/// A `Migrate` that is kept, and looked after meanwhile.
struct Held<L> {
    number: u64,
    from: StreamId,
    /// Shared with whoever looks after it. Locked while it is polled; nothing else is done meanwhile.
    early: Arc<Mutex<Early<L>>>,
    /// Dropped when it is not kept any more.
    _kept: oneshot::Sender<()>,
}

impl<L> Held<L> {
    fn take(self) -> Option<Early<L>> {
        // Who looks after it has it only while it is polled, and that is in the same task.
        let early = Arc::into_inner(self.early)?.into_inner();
        Some(early.unwrap_or_else(PoisonError::into_inner))
    }
}

/// Why a `Migrate` that waits for its label is not kept any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// A `Migrate` that was asked for.
    Taken,
    /// The remote has taken it back, or its leg is gone.
    TakenBack,
    /// The remote said something else.
    Violation,
}

/// Looks after a leg that waits: nothing may come on it but that it is taken back.
async fn look_after<L: Io>(early: Weak<Mutex<Early<L>>>, mut kept: oneshot::Receiver<()>) -> Gone {
    poll_fn(|cx| {
        if kept.poll_unpin(cx).is_ready() {
            return Poll::Ready(Gone::Taken);
        }
        let Some(early) = early.upgrade() else {
            return Poll::Ready(Gone::Taken);
        };
        let mut early = early.lock().unwrap_or_else(PoisonError::into_inner);
        early
            .leg
            .poll_message::<Switched>(cx)
            .map(|said| match said {
                Ok(Switched::Cancelled) => Gone::TakenBack,
                Err(error) if !error.is_violation() => Gone::TakenBack,
                Ok(Switched::Sent(_)) | Err(_) => Gone::Violation,
            })
    })
    .await
}

/// An ID of a stream that is over.
struct Over {
    id: StreamId,
    cleanly: bool,
    at: Instant,
}

struct Peer<L> {
    name: Arc<PeerId>,
    ids: HashMap<StreamId, StreamKey>,
    origins: HashMap<StreamId, StreamKey>,
    streams: usize,
    /// The oldest first.
    over: VecDeque<Over>,
    early: Vec<Held<L>>,
    /// Places for its unanswered `Migrate`s, those in `early` and those of live streams.
    permits: Permits,
    budget: Budget,
    /// The IDs that the remote's process has used.
    seen: Seen,
    designated: bool,
    parity: Parity,
    verifies: bool,
    connected: bool,
}

/// The stream that an ID is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// A live stream's.
    Live(StreamKey),
    /// A stream that has ended cleanly.
    Ended,
    /// A stream that was aborted.
    Aborted,
    /// Nobody's, as far as we know.
    Unknown,
}

/// The table's bounds.
#[derive(Debug, Clone, Copy)]
pub struct Caps {
    pub streams_per_peer: usize,
    pub unanswered_per_peer: usize,
    pub ended_ids_per_peer: usize,
    pub ended_id_memory: Duration,
    pub read_ahead_per_stream: usize,
    pub read_ahead_per_peer: usize,
}

/// Why a stream or a leg does not get into the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejected {
    IdInUse,
    Full,
}

pub struct Table<L, R> {
    local: PeerId,
    caps: Caps,
    peers: HashMap<PeerId, Peer<L>>,
    /// Boxed: a hash table keeps up to half of its places free, and all of them when it empties.
    streams: HashMap<StreamKey, Box<Entry<L, R>>>,
    allocator: IdAllocator,
    next_key: u64,
    next_early: u64,
}

impl<L: Io, R> Table<L, R> {
    pub fn new(local: PeerId, caps: Caps, first_id: Option<u64>, first_key: u64) -> Self {
        Self {
            local,
            caps,
            peers: HashMap::new(),
            streams: HashMap::new(),
            allocator: IdAllocator::new(first_id),
            next_key: first_key,
            next_early: 0,
        }
    }

    fn peer(&mut self, peer: PeerId) -> &mut Peer<L> {
        let Self { local, caps, .. } = *self;
        self.peers.entry(peer).or_insert_with(|| Peer {
            name: Arc::new(peer),
            ids: HashMap::new(),
            origins: HashMap::new(),
            streams: 0,
            over: VecDeque::new(),
            early: Vec::new(),
            permits: Permits::default(),
            budget: Budget::new(caps.read_ahead_per_stream, caps.read_ahead_per_peer),
            seen: Seen::default(),
            designated: roles::is_designated(&local, &peer),
            parity: Parity::of(&local, &peer),
            verifies: false,
            connected: true,
        })
    }

    /// The peer's ID, to be kept with many things.
    pub fn name(&mut self, peer: PeerId) -> Arc<PeerId> {
        self.peer(peer).name.clone()
    }

    /// True if the hash rule names us.
    pub fn is_designated(&mut self, peer: PeerId) -> bool {
        self.peer(peer).designated
    }

    /// The hash rule's answer for a peer that is known.
    pub fn designated(&self, peer: PeerId) -> Option<bool> {
        Some(self.peers.get(&peer)?.designated)
    }

    /// True if an earlier ack of the peer's said that it verifies.
    pub fn verifies(&mut self, peer: PeerId) -> bool {
        self.peer(peer).verifies
    }

    pub fn set_verifies(&mut self, peer: PeerId) {
        self.peer(peer).verifies = true;
    }

    /// The IDs that the peer's process has used.
    pub fn seen(&mut self, peer: PeerId) -> &mut Seen {
        &mut self.peer(peer).seen
    }

    pub fn budget(&mut self, peer: PeerId) -> Budget {
        self.peer(peer).budget.clone()
    }

    /// An ID of ours for a new stream or a new leg.
    pub fn allocate(&mut self, peer: PeerId) -> StreamId {
        let parity = self.peer(peer).parity;
        let ids = self.peers.get(&peer).map(|peer| &peer.ids);
        let in_use = |id: StreamId| ids.is_some_and(|ids| ids.contains_key(&id));
        self.allocator.next(parity, in_use)
    }

    /// A key for a new stream.
    pub fn next_key(&mut self) -> StreamKey {
        self.next_key += 1;
        StreamKey(self.next_key)
    }

    /// The permission to add a stream with this ID.
    pub fn admits(&mut self, peer: PeerId, id: StreamId) -> Result<(), Rejected> {
        let cap = self.caps.streams_per_peer;
        let peer = self.peer(peer);
        if peer.ids.contains_key(&id) {
            Err(Rejected::IdInUse)
        } else if peer.streams >= cap {
            Err(Rejected::Full)
        } else {
            Ok(())
        }
    }

    /// Adds a stream that [`Table::admits`].
    pub fn insert(&mut self, peer: PeerId, shared: Arc<Shared<L>>, record: R) {
        let key = shared.key();
        let state = self.peer(peer);
        let origin = shared.status().id;
        state.streams += 1;
        state.origins.insert(origin, key);
        let entry = Entry {
            peer: state.name.clone(),
            shared,
            record,
            ids: Vec::new(),
            origin,
            stranded: false,
        };
        self.streams.insert(key, Box::new(entry));
        self.refresh(key);
    }

    /// Registers the IDs that the stream answers to now, and those only.
    pub fn refresh(&mut self, key: StreamKey) {
        let Some(entry) = self.streams.get_mut(&key) else {
            return;
        };
        let Some(peer) = self.peers.get_mut(&entry.peer) else {
            return;
        };
        if entry.stranded {
            return;
        }
        let now = entry.shared.ids();
        for id in std::mem::take(&mut entry.ids) {
            if !now.contains(&id) {
                peer.ids.remove(&id);
            }
        }
        for id in &now {
            peer.ids.insert(*id, key);
        }
        entry.ids = now;
        // One, but while it moves.
        entry.ids.shrink_to_fit();
    }

    pub fn get(&self, key: StreamKey) -> Option<&Entry<L, R>> {
        self.streams.get(&key).map(Box::as_ref)
    }

    pub fn get_mut(&mut self, key: StreamKey) -> Option<&mut Entry<L, R>> {
        self.streams.get_mut(&key).map(Box::as_mut)
    }

    #[cfg(any(test, stream_migration_mutants))]
    pub fn iter(&self) -> impl Iterator<Item = (StreamKey, &Entry<L, R>)> {
        self.streams.iter().map(|(key, entry)| (*key, &**entry))
    }

    #[cfg(any(test, stream_migration_mutants))]
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty() && self.peers.is_empty()
    }

    /// Each stream is counted, and answers to its IDs and no other; nothing is kept of a peer that is not
    /// there and has no streams.
    #[cfg(any(test, stream_migration_mutants))]
    pub fn check(&self, there: &std::collections::BTreeSet<PeerId>) {
        let mut ids = 0;
        for (key, entry) in self.iter() {
            ids += entry.ids.len();
            let peer = &self.peers[&entry.peer];
            assert!(entry.ids.iter().all(|id| peer.ids[id] == key), "{key:?}");
            assert_ne!(entry.stranded, !entry.ids.is_empty(), "{key:?}");
        }
        let known = self
            .peers
            .values()
            .map(|peer| peer.ids.len())
            .sum::<usize>();
        assert_eq!(ids, known);
        for (name, peer) in &self.peers {
            let streams = self.iter().filter(|(_, entry)| *entry.peer == *name);
            assert_eq!(streams.count(), peer.streams);
            assert_eq!(peer.connected, there.contains(name));
            assert!(peer.connected || peer.streams > 0);
        }
    }

    pub fn has_streams(&self) -> bool {
        !self.streams.is_empty()
    }

    /// The live streams of a peer.
    pub fn of_peer(&self, peer: PeerId) -> Vec<StreamKey> {
        let mut keys: Vec<_> = self
            .peers
            .get(&peer)
            .map(|peer| peer.ids.values().copied().collect())
            .unwrap_or_default();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    pub fn find(&mut self, peer: PeerId, id: StreamId) -> Found {
        let Some(peer) = self.peers.get_mut(&peer) else {
            return Found::Unknown;
        };
        peer.forget_over(self.caps);
        if let Some(key) = peer.ids.get(&id) {
            return Found::Live(*key);
        }
        // A remote may use an ID again: the last stream's end is the one that counts.
        match peer.over.iter().rev().find(|over| over.id == id) {
            Some(over) if over.cleanly => Found::Ended,
            Some(_) => Found::Aborted,
            None => Found::Unknown,
        }
    }

    /// As [`Table::find`], by the ID in a stream's label.
    pub fn find_origin(&mut self, peer: PeerId, origin: StreamId) -> Found {
        let known = self.peers.get(&peer);
        match known.and_then(|peer| peer.origins.get(&origin)) {
            Some(key) => Found::Live(*key),
            None => match self.find(peer, origin) {
                // Another stream has it, as a later one.
                Found::Live(_) => Found::Unknown,
                found => found,
            },
        }
    }

    /// True if we have made this ID.
    pub fn is_ours(&mut self, peer: PeerId, id: StreamId) -> bool {
        self.peer(peer).parity.has(id)
    }

    /// Takes a stream out; its IDs are remembered for a while.
    pub fn remove(&mut self, key: StreamKey, cleanly: bool) -> Option<Entry<L, R>> {
        let entry = self.streams.remove(&key)?;
        shrink::map(&mut self.streams);
        if let Some(peer) = self.peers.get_mut(&entry.peer) {
            peer.streams -= 1;
            if !entry.stranded {
                peer.origins.remove(&entry.origin);
                shrink::map(&mut peer.origins);
            }
            for id in &entry.ids {
                peer.ids.remove(id);
            }
            shrink::map(&mut peer.ids);
            let at = Instant::now();
            let origin = Some(&entry.origin).filter(|id| !entry.ids.contains(id));
            let ids = entry.ids.iter().chain(origin);
            peer.over.extend(ids.map(|&id| Over { id, cleanly, at }));
            peer.forget_over(self.caps);
            if peer.streams == 0 && !peer.connected {
                self.peers.remove(&entry.peer);
            }
        }
        Some(*entry)
    }

    /// A permit for one more unanswered `Migrate` of the peer's, if there is one.
    pub fn permit(&mut self, peer: PeerId) -> Option<Permit> {
        let limit = self.caps.unanswered_per_peer;
        self.peer(peer).permits.try_acquire(limit)
    }

    /// Keeps a `Migrate` until its label comes. What is returned has to be polled, and says when it need not
    /// be kept any more.
    pub fn hold(
        &mut self,
        peer: PeerId,
        early: Early<L>,
    ) -> (u64, impl Future<Output = Gone> + use<L, R>) {
        self.next_early += 1;
        let number = self.next_early;
        let from = early.from;
        let early = Arc::new(Mutex::new(early));
        let (sender, kept) = oneshot::channel();
        let gone = look_after(Arc::downgrade(&early), kept);
        self.peer(peer).early.push(Held {
            number,
            from,
            early,
            _kept: sender,
        });
        (number, gone)
    }

    /// The `Migrate`s that waited for this label, in the order of their arrival.
    pub fn take_early(&mut self, peer: PeerId, label: StreamId) -> Vec<Early<L>> {
        self.extract_early(peer, |early| early.from == label)
    }

    /// A `Migrate` whose label has not come in time.
    pub fn expire_early(&mut self, peer: PeerId, number: u64) -> Vec<Early<L>> {
        self.extract_early(peer, |early| early.number == number)
    }

    fn extract_early(&mut self, peer: PeerId, take: impl Fn(&Held<L>) -> bool) -> Vec<Early<L>> {
        let Some(peer) = self.peers.get_mut(&peer) else {
            return Vec::new();
        };
        let early = std::mem::take(&mut peer.early);
        let (taken, kept): (Vec<_>, Vec<_>) = early.into_iter().partition(take);
        peer.early = kept;
        taken.into_iter().filter_map(Held::take).collect()
    }

    /// A connection to the peer is there.
    pub fn connected(&mut self, peer: PeerId) {
        self.peer(peer).connected = true;
    }

    /// The last connection to a peer is gone, and all that its streams' IDs stood for with it: the
    /// remote may use them anew, though the application here still holds the streams.
    pub fn disconnected(&mut self, peer: PeerId) {
        let Some(mut state) = self.peers.remove(&peer) else {
            return;
        };
        let streams = &mut self.streams;
        let mut stranded = |key: &StreamKey| {
            let entry = streams.get_mut(key);
            // Those wait for another.
            let entry = entry.filter(|entry| !entry.shared.is_legless());
            entry.is_some_and(|entry| {
                entry.ids.clear();
                entry.stranded = true;
                true
            })
        };
        state.ids.retain(|_, key| !stranded(key));
        state.origins.retain(|_, key| !stranded(key));
        if state.streams > 0 {
            state.early.clear();
            state.over.clear();
            state.verifies = false;
            state.connected = false;
            self.peers.insert(peer, state);
        }
    }
}

impl<L> Peer<L> {
    fn forget_over(&mut self, caps: Caps) {
        while self.over.len() > caps.ended_ids_per_peer
            || self
                .over
                .front()
                .is_some_and(|over| over.at.elapsed() > caps.ended_id_memory)
        {
            self.over.pop_front();
        }
        shrink::queue(&mut self.over);
    }
}
