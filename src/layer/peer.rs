//! One peer below the swarm: its links, its connections, and the hub that moves streams between links.
//!
//! *A link lives while it is some connection's home; a connection lives while its home does.* (docs/protocol.md,
//! *Below the swarm*.)

mod books;
mod connection;
mod said;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use libp2p_core::{ConnectedPoint, muxing::StreamMuxerBox};
use libp2p_identity::PeerId;
use libp2p_swarm::StreamProtocol;

use self::connection::Connection;
pub(super) use self::connection::{ConnectionShared, Decision};
pub(crate) use self::connection::{NotOpened, Opening};
use super::{
    link::{Link, LinkEvent, Open, Terms},
    peek::Peeked,
    substream::Virtual,
    transport::Shared,
    wakers::PeerWaker,
};
use crate::{
    hub::{Hub, Output, Purpose, Settings, TimerKey, Timers},
    key::{ConnectionKey, StreamKey},
    links::{Links, Readiness, Timer},
    protocol::codec::Hello,
    substream::Substream,
    view::{ConnectionInfo, Mobility, StreamInfo},
};

/// The time that a remote has to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// The time in which what is on its way on one link comes after what is said on another.
const SETTLING: Duration = Duration::from_secs(1);

/// Rounds of one poll, before others have their turn.
const MAX_ROUNDS: usize = 32;

/// Inbound streams of a connection that its swarm has not taken.
const MAX_INBOUND: usize = 256;

/// Keys of streams that one hub may draw before it meets the next one's.
pub(super) const KEYS: u64 = 1 << 32;

/// A peer.
pub(crate) struct Peer {
    pub(crate) id: PeerId,
    pub(crate) waker: Arc<PeerWaker>,
    /// Protects links, connections and hub. Held around polls of muxers and of the hub, because whoever polls
    /// one connection drives all links; reads and writes of streams do without, but for their first. Never
    /// taken while a stream's lock is held; no task of ours is woken under it.
    state: Mutex<State>,
}

/// Something that is due later.
#[derive(Debug, Clone, Copy)]
enum Due {
    /// For the books.
    Books(Timer),
    /// A link may have been unused for long enough.
    Unused,
    /// Streams are to be moved again, for the sake of it.
    Restless,
}

/// A process of the peer's, with a hub for the streams to it: its IDs are its own.
struct Instance {
    epoch: u64,
    /// The number of its streams' keys.
    number: u64,
    hub: Hub<Substream>,
}

pub(crate) struct State {
    id: PeerId,
    layer: Arc<Shared>,
    waker: Arc<PeerWaker>,
    books: Links,
    links: BTreeMap<u64, Link>,
    connections: BTreeMap<u64, Connection>,
    instances: Vec<Instance>,
    /// The connection of each stream that has one.
    routes: HashMap<StreamKey, u64>,
    due: Timers<Due>,
    /// The timers that the books have armed.
    armed: HashMap<Timer, TimerKey>,
    /// Tasks to be woken once the lock is released.
    wakes: Vec<Waker>,
    restless: bool,
    /// A link has been given up in the course of another one's poll.
    lost: VecDeque<(u64, io::Error)>,
}

impl Peer {
    pub(super) fn new(id: PeerId, layer: Arc<Shared>) -> Arc<Self> {
        let waker = Arc::new(PeerWaker::default());
        let books = Links::new(layer.config.layer_always);
        Arc::new(Self {
            id,
            state: Mutex::new(State {
                id,
                layer,
                waker: waker.clone(),
                books,
                links: BTreeMap::new(),
                connections: BTreeMap::new(),
                instances: Vec::new(),
                routes: HashMap::new(),
                due: Timers::default(),
                armed: HashMap::new(),
                wakes: Vec::new(),
                restless: false,
                lost: VecDeque::new(),
            }),
            waker,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `f` with the state, and then wakes whom it has found something for.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.lock();
        let result = f(&mut state);
        let wakes = std::mem::take(&mut state.wakes);
        drop(state);
        wakes.into_iter().for_each(Waker::wake);
        result
    }

    /// Drives links, hub and timers, if anything has happened; then runs `f`.
    pub(super) fn drive<R>(&self, f: impl FnOnce(&mut State, &mut Context<'_>) -> R) -> R {
        let waker = futures::task::waker(self.waker.clone());
        let mut cx = Context::from_waker(&waker);
        let taken = self.waker.take();
        self.with(|state| {
            if taken {
                state.drive(&mut cx);
            }
            f(state, &mut cx)
        })
    }
}

impl State {
    /// True if nothing is left of the peer.
    pub(super) fn is_empty(&self) -> bool {
        self.links.is_empty() && self.connections.is_empty() && self.instances.is_empty()
    }

    /// True if there is a layer at the other end of a link.
    pub(crate) fn is_layered(&self) -> bool {
        !self.instances.is_empty()
    }

    /// True if a link or a connection has this number.
    pub(super) fn knows(&self, number: u64) -> bool {
        self.links.contains_key(&number) || self.connections.contains_key(&number)
    }

    /// Takes all links, to be dropped without the lock.
    pub(super) fn take_links(&mut self) -> BTreeMap<u64, Link> {
        for instance in std::mem::take(&mut self.instances) {
            self.layer.unregister(instance.number);
        }
        std::mem::take(&mut self.links)
    }

    pub(super) fn is_orphaned(&self) -> bool {
        self.connections.is_empty() && !self.is_empty()
    }

    /// A link that is there, with the connection of the swarm's that comes with it.
    pub(super) fn adopt(
        &mut self,
        number: u64,
        muxer: StreamMuxerBox,
        endpoint: ConnectedPoint,
    ) -> Arc<ConnectionShared> {
        let relayed = endpoint.is_relayed();
        let link = Link::new(muxer, endpoint, &self.waker);
        self.links.insert(number, link);
        let connection = Connection::new(number, &self.waker);
        let shared = connection.shared.clone();
        self.connections.insert(number, connection);
        self.books.adopt(number, relayed);
        self.carry_out();
        // Somebody may wait for it to be there.
        self.layer.outbox.room(self.id);
        self.start_restlessness();
        self.waker.rouse();
        shared
    }

    fn instance(&mut self, epoch: u64) -> Option<&mut Instance> {
        self.instances.iter_mut().find(|it| it.epoch == epoch)
    }

    /// The hub of the process at the other end of a link that is ready.
    pub(crate) fn hub_of(&mut self, link: u64) -> Option<&mut Hub<Substream>> {
        let epoch = self.books.epoch(link)?;
        self.instance(epoch).map(|instance| &mut instance.hub)
    }

    pub(crate) fn hub_of_stream(&mut self, key: StreamKey) -> Option<&mut Hub<Substream>> {
        let hubs = self.instances.iter_mut().map(|it| &mut it.hub);
        hubs.into_iter().find(|hub| hub.stream(key).is_some())
    }

    fn new_instance(&mut self, epoch: u64) {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let first_key = NEXT.fetch_add(1, Ordering::Relaxed) * KEYS;
        let settings = Settings {
            first_key,
            restless: self.layer.config.restless_layer.is_some(),
            ..self.layer.config.hub.clone()
        };
        self.layer.register(first_key / KEYS, self.id);
        let hub = Hub::new(self.layer.local, settings, self.layer.policy());
        self.instances.push(Instance {
            epoch,
            number: first_key / KEYS,
            hub,
        });
    }

    // ---- The loop ----------------------------------------------------------------------------------

    fn drive(&mut self, cx: &mut Context<'_>) {
        self.due.begin_round();
        for instance in &mut self.instances {
            instance.hub.begin_round();
        }
        for _ in 0..MAX_ROUNDS {
            if !self.round(cx) {
                return;
            }
        }
        self.waker.rouse();
    }

    /// One round over everything that may be ready. Returns whether anything was.
    fn round(&mut self, cx: &mut Context<'_>) -> bool {
        let mut progress = false;
        for number in self.links.keys().copied().collect::<Vec<_>>() {
            progress |= self.drive_link(number, cx);
        }
        progress |= self.drive_hubs(cx);
        while let Poll::Ready(due) = self.due.poll_next(cx) {
            progress = true;
            self.is_due(due);
        }
        self.keep_books() || progress
    }

    fn drive_link(&mut self, number: u64, cx: &mut Context<'_>) -> bool {
        let mut progress = false;
        let terms = Terms {
            hello: Hello {
                epoch: self.layer.epoch,
                connection: Some(number),
                facts: false,
                resume: false,
            },
            answer_timeout: self.layer.config.hub.answer_timeout,
            limit: self.layer.config.muxer_limit,
        };
        for _ in 0..MAX_ROUNDS {
            let Some(link) = self.links.get_mut(&number) else {
                return progress;
            };
            let Poll::Ready(event) = link.poll(cx, terms) else {
                return progress;
            };
            progress = true;
            self.link_event(number, event);
        }
        true
    }

    fn link_event(&mut self, number: u64, event: LinkEvent) {
        let id = self.id;
        match event {
            LinkEvent::Said(control) => self.said(number, control),
            LinkEvent::Violation => self.books.violated(number),
            LinkEvent::Silenced => self.books.has_no_layer(number),
            LinkEvent::Peeked(peeked) => self.peeked(number, peeked),
            LinkEvent::Opened(purpose, result) => {
                let result = result.map(Substream::link);
                if let Some(hub) = self.hub_of(number) {
                    Self::hub_opened(hub, id, ConnectionKey::new(number), purpose, result);
                }
            }
            LinkEvent::Moved(address) => {
                if let Some(link) = self.links.get_mut(&number) {
                    link.endpoint.set_remote_address(address.clone());
                }
                if let Some(info) = self.info(number)
                    && let Some(hub) = self.hub_of(number)
                {
                    hub.moved(info);
                }
                if let Some(connection) = self.connections.get_mut(&number) {
                    connection.moved = Some(address);
                    self.wakes.extend(connection.waker());
                    self.waker.rouse();
                }
            }
            LinkEvent::Lost(error) => self.link_lost(number, error),
            LinkEvent::Closed => {
                let error = io::Error::new(io::ErrorKind::NotConnected, "the link is closed");
                self.link_lost(number, error);
            }
        }
    }

    fn drive_hubs(&mut self, cx: &mut Context<'_>) -> bool {
        let mut progress = false;
        for at in 0..self.instances.len() {
            for _ in 0..MAX_ROUNDS {
                let Poll::Ready(output) = self.instances[at].hub.poll(cx) else {
                    break;
                };
                progress = true;
                self.output(at, output);
            }
        }
        progress
    }

    fn output(&mut self, at: usize, output: Output) {
        match output {
            Output::Event(event) => {
                if let crate::Event::StreamEnded { key, .. } = &event {
                    self.routes.remove(key);
                }
                self.layer.outbox.tell(event);
            }
            Output::Open(_, key, purpose) => match self.links.get_mut(&key.number()) {
                Some(link) => {
                    link.open(Open::Hub(purpose));
                    self.waker.rouse();
                }
                None => Self::not_opened(&mut self.instances[at].hub, self.id, key, purpose),
            },
            Output::Watch(_, key, quiet_from) => {
                if let Some(link) = self.links.get_mut(&key.number()) {
                    link.watch = Some(quiet_from);
                }
            }
            Output::Close(_, key) => self.books.close_link(key.number()),
            Output::Room(peer) => self.layer.outbox.room(peer),
            // Facts are off.
            Output::Wake(..)
            | Output::Converse(..)
            | Output::Say(..)
            | Output::Dial(_)
            | Output::Ping(..) => {}
        }
    }

    fn hub_opened(
        hub: &mut Hub<Substream>,
        peer: PeerId,
        link: ConnectionKey,
        purpose: Purpose,
        result: Result<Substream, (String, bool)>,
    ) {
        let answered = match &result {
            Ok(_) => true,
            Err((_, answered)) => *answered,
        };
        if answered {
            hub.heard(peer, link);
        }
        match (purpose, result) {
            (Purpose::Leg(key), Ok(io)) => hub.leg_opened(key, link, io),
            (Purpose::Leg(key), Err((error, _))) => hub.leg_failed(key, link, error),
            (Purpose::Probe { number, .. }, _) => hub.probe_over(peer, link, number, answered),
        }
    }

    /// The link on which the hub wanted something opened is gone.
    fn not_opened(hub: &mut Hub<Substream>, peer: PeerId, link: ConnectionKey, purpose: Purpose) {
        let gone = Err(("the link is gone".to_owned(), false));
        Self::hub_opened(hub, peer, link, purpose, gone);
    }

    fn is_due(&mut self, due: Due) {
        match due {
            Due::Books(timer) => {
                self.armed.remove(&timer);
                self.books.fired(timer);
            }
            // The books look at it, in this round.
            Due::Unused => {}
            Due::Restless => self.move_all(),
        }
    }

    // ---- Inbound -----------------------------------------------------------------------------------

    fn peeked(&mut self, link: u64, peeked: Peeked) {
        match peeked {
            Peeked::Plain(io) => {
                self.seen(link);
                self.arrived(link, || Virtual::plain(io));
            }
            Peeked::Leg(io, request) => self.requested(link, io, request),
            Peeked::Violation => self.books.violated(link),
            Peeked::Control(_) | Peeked::Gone => {}
        }
    }

    /// Hands an inbound stream to its connection, if that is there and has room.
    fn arrived(&mut self, number: u64, stream: impl FnOnce() -> Virtual) -> bool {
        let Some(connection) = self.connections.get_mut(&number) else {
            return false;
        };
        if connection.inbound.len() >= MAX_INBOUND {
            return false;
        }
        let stream = stream().of(&connection.shared);
        connection.inbound.push_back(stream);
        self.wakes.extend(connection.waker());
        true
    }

    /// Something of the remote's has come on the link.
    fn seen(&mut self, link: u64) {
        let id = self.id;
        if let Some(hub) = self.hub_of(link) {
            hub.seen(id, ConnectionKey::new(link));
        }
    }

    // ---- For views ---------------------------------------------------------------------------------

    /// The live streams, of all links.
    pub(crate) fn streams(&self) -> Vec<StreamInfo> {
        let hubs = self.instances.iter().map(|instance| &instance.hub);
        hubs.flat_map(|hub| hub.streams(self.id)).collect()
    }

    /// Places for streams, the oldest first: links in place of the swarm's connections, as far as they are ready.
    /// `None` if none is.
    pub(crate) fn places(&self, connections: &[ConnectionInfo]) -> Option<Vec<ConnectionInfo>> {
        if !self.is_layered() {
            return None;
        }
        let hubs = self.instances.iter().map(|instance| &instance.hub);
        let links = hubs.flat_map(|hub| hub.connections(self.id)).cloned();
        let mut places: Vec<_> = links.collect();
        for info in connections {
            let link = self.link_named(info.key.number());
            match places
                .iter_mut()
                .find(|place| Some(place.key.number()) == link)
            {
                Some(place) => place.opening += info.opening,
                None => places.push(info.clone()),
            }
        }
        places.sort_by_key(|place| place.established);
        Some(places)
    }

    /// True if it is not known yet whether there is a layer at the other end of the link that is to be there, with
    /// this connection of the swarm's.
    pub(crate) fn is_awaited(&self, connection: ConnectionKey) -> bool {
        let readiness = self.books.readiness(connection.number());
        let adopted = self.books.home(connection.number()).is_some();
        readiness.map_or(!adopted, |it| it == Readiness::Asked)
    }

    /// The connection that keeps a link from being closed: the one that came with it, or one that is at home there.
    pub(crate) fn owner(&self, link: ConnectionKey) -> ConnectionKey {
        match self.connections.contains_key(&link.number()) {
            true => link,
            false => {
                let at_home = self.books.at_home(link.number()).next();
                at_home.map_or(link, ConnectionKey::new)
            }
        }
    }

    /// The places, with whose home each is; then the swarm's connections that are named by none of them.
    pub(crate) fn views(
        &self,
        places: Vec<ConnectionInfo>,
        connections: &[ConnectionInfo],
    ) -> Vec<ConnectionInfo> {
        let mut views = places;
        for info in connections {
            if views.iter().all(|view| view.key != info.key) {
                views.push(info.clone());
            }
        }
        for view in &mut views {
            let at_home = self.books.at_home(view.key.number());
            view.homes = at_home.map(ConnectionKey::new).collect();
        }
        views
    }

    /// The hub's view of a link that is ready.
    fn info(&self, number: u64) -> Option<ConnectionInfo> {
        let link = self.links.get(&number)?;
        let key = ConnectionKey::new(number);
        Some(self.layer.config.look_at(key, self.id, &link.endpoint))
    }

    fn mobility(&self, protocol: &str) -> Mobility {
        let protocol = StreamProtocol::try_from_owned(protocol.to_owned());
        let mobility = protocol.map(|protocol| self.layer.config.mobility_of(&protocol));
        mobility.unwrap_or_default()
    }
}
