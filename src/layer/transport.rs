//! The layer: what all peers share, and the transport that is wrapped.

use std::{
    cell::Cell,
    collections::HashMap,
    fmt,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use futures::{FutureExt, TryFutureExt, future::BoxFuture, task::AtomicWaker};
use libp2p_core::{
    ConnectedPoint, Multiaddr, Transport,
    muxing::StreamMuxerBox,
    transport::{DialOpts, ListenerId, TransportError, TransportEvent},
};
use libp2p_identity::PeerId;

use super::{
    muxer::Muxer,
    outbox::Outbox,
    peer::{KEYS, Peer},
    policy::SharedPolicy,
    wakers::Task,
};
use crate::{Config, Policy, key::StreamKey, protocol};

/// Numbers of connections that no behaviour gives a name, above all that the swarm gives.
const UNNAMED: u64 = 1 << 48;

/// The part of a layer that all its peers share.
pub(crate) struct Shared {
    pub(super) local: PeerId,
    /// The process, or rather this layer in it.
    pub(super) epoch: u64,
    pub(super) config: Config,
    pub(crate) outbox: Outbox,
    policy: SharedPolicy,
    /// Protects the peers to which there is a link. Taken before a peer's own lock.
    peers: Mutex<HashMap<PeerId, Arc<Peer>>>,
    /// Protects the peers whose last connection is gone, and whose links are not. Nothing else is done under it.
    orphans: Mutex<Vec<Arc<Peer>>>,
    /// The task that polls the transport.
    transport: AtomicWaker,
    transports: AtomicUsize,
    next_number: AtomicU64,
    /// Protects whose streams have keys of this number. Nothing else is done under it.
    instances: Mutex<HashMap<u64, PeerId>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layer")
            .field("local", &self.local)
            .finish_non_exhaustive()
    }
}

thread_local! {
    /// The connection whose handler is being polled, and of which layer: a swarm polls the muxer next.
    static HERE: Cell<Option<(usize, u64)>> = const { Cell::new(None) };
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn identity(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Says that the handler of this connection is being polled, so that its muxer, which is polled next by the
    /// same task, knows its name. No other way tells them apart: two connections of a peer may show the same
    /// addresses.
    pub(crate) fn here(&self, number: u64) {
        HERE.set(Some((self.identity(), number)));
    }

    fn number(&self) -> u64 {
        match HERE.take() {
            Some((layer, number)) if layer == self.identity() => number,
            _ => UNNAMED + self.next_number.fetch_add(1, Ordering::Relaxed),
        }
    }

    pub(super) fn policy(&self) -> Box<dyn Policy> {
        Box::new(self.policy.clone())
    }

    /// The peer, if there is a link to it.
    pub(crate) fn peer(&self, peer: PeerId) -> Option<Arc<Peer>> {
        lock(&self.peers).get(&peer).cloned()
    }

    /// Streams whose keys begin with this number are of that peer.
    pub(super) fn register(&self, instance: u64, peer: PeerId) {
        lock(&self.instances).insert(instance, peer);
    }

    pub(super) fn unregister(&self, instance: u64) {
        lock(&self.instances).remove(&instance);
    }

    /// The peer to or from which a stream is.
    pub(crate) fn peer_of(&self, key: StreamKey) -> Option<Arc<Peer>> {
        let peer = *lock(&self.instances).get(&(key.number() / KEYS))?;
        self.peer(peer)
    }

    /// Takes a link in, with the connection that comes with it.
    pub(super) fn adopt(
        self: &Arc<Self>,
        id: PeerId,
        muxer: StreamMuxerBox,
        endpoint: ConnectedPoint,
    ) -> (Arc<Peer>, Arc<super::peer::ConnectionShared>) {
        let mut number = self.number();
        let mut peers = lock(&self.peers);
        let peer = peers
            .entry(id)
            .or_insert_with(|| Peer::new(id, self.clone()))
            .clone();
        let connection = peer.with(|state| {
            if state.knows(number) {
                number = UNNAMED + self.next_number.fetch_add(1, Ordering::Relaxed);
            }
            state.adopt(number, muxer, endpoint)
        });
        (peer, connection)
    }

    /// A connection is gone: so may be the peer, or it needs somebody else to drive it.
    pub(super) fn left(&self, peer: &Arc<Peer>) {
        let mut peers = lock(&self.peers);
        let (empty, orphaned) = peer.with(|state| (state.is_empty(), state.is_orphaned()));
        let undriven = self.transports.load(Ordering::SeqCst) == 0;
        if empty || orphaned && undriven {
            peers.remove(&peer.id);
            drop(peers);
            // Who would drive it is gone, too.
            let links = peer.with(|state| state.take_links());
            drop(links);
            return;
        }
        drop(peers);
        if orphaned {
            let mut orphans = lock(&self.orphans);
            if !orphans.iter().any(|orphan| Arc::ptr_eq(orphan, peer)) {
                orphans.push(peer.clone());
            }
            drop(orphans);
            self.transport.wake();
        }
    }

    /// Drives the links of which the last connection is gone.
    fn poll_orphans(&self, cx: &Context<'_>) {
        self.transport.register(cx.waker());
        let orphans = lock(&self.orphans).clone();
        for orphan in orphans {
            orphan.waker.register(Task::Transport, cx.waker());
            let orphaned = orphan.drive(|state, _| state.is_orphaned());
            if !orphaned {
                orphan.waker.forget(Task::Transport);
                lock(&self.orphans).retain(|it| !Arc::ptr_eq(it, &orphan));
                self.left(&orphan);
            }
        }
    }

    fn transport_gone(&self) {
        if self.transports.fetch_sub(1, Ordering::SeqCst) == 1 {
            let orphans = std::mem::take(&mut *lock(&self.orphans));
            for orphan in orphans {
                orphan.waker.forget(Task::Transport);
                self.left(&orphan);
            }
        }
    }
}

/// A layer below the swarm, under which streams of unmodified behaviours move. Cheap to clone.
///
/// See [`transport`](crate::transport).
#[derive(Debug, Clone)]
pub struct Layer(pub(crate) Arc<Shared>);

impl Layer {
    pub(crate) fn new(local: PeerId, config: &Config, policy: SharedPolicy) -> Self {
        Self(Arc::new(Shared {
            local,
            epoch: protocol::roles::new_epoch(),
            config: config.clone(),
            outbox: Outbox::default(),
            policy,
            peers: Mutex::default(),
            orphans: Mutex::default(),
            transport: AtomicWaker::new(),
            transports: AtomicUsize::new(0),
            next_number: AtomicU64::new(0),
            instances: Mutex::default(),
        }))
    }

    /// Wraps a transport: the streams of its connections move. The connections are those of the swarm as ever;
    /// dials and inbound connections are neither altered nor held back.
    ///
    /// A swarm has one layer, and may have several transports that are wrapped by it.
    pub fn wrap<T>(&self, transport: T) -> Layered<T>
    where
        T: Transport<Output = (PeerId, StreamMuxerBox)> + Unpin,
    {
        self.0.transports.fetch_add(1, Ordering::SeqCst);
        Layered {
            transport,
            layer: self.0.clone(),
        }
    }
}

/// A transport that is wrapped by a [`Layer`].
///
/// Dropped, with its swarm, it lets go of what was still to be delivered for connections that are gone.
#[derive(Debug)]
pub struct Layered<T> {
    transport: T,
    layer: Arc<Shared>,
}

impl<T> Drop for Layered<T> {
    fn drop(&mut self) {
        self.layer.transport_gone();
    }
}

type Connected = (PeerId, StreamMuxerBox);

/// Makes a virtual connection of one that is there.
fn adopted(
    layer: &Arc<Shared>,
    endpoint: ConnectedPoint,
) -> impl FnOnce(Connected) -> Connected + Send + use<> {
    let layer = layer.clone();
    move |(peer, muxer)| {
        let muxer = Muxer::new(layer, peer, muxer, endpoint);
        (peer, StreamMuxerBox::new(muxer))
    }
}

impl<T> Transport for Layered<T>
where
    T: Transport<Output = Connected> + Unpin,
    T::Dial: Send + 'static,
    T::ListenerUpgrade: Send + 'static,
    T::Error: 'static,
{
    type Output = Connected;
    type Error = T::Error;
    type ListenerUpgrade = BoxFuture<'static, Result<Connected, T::Error>>;
    type Dial = BoxFuture<'static, Result<Connected, T::Error>>;

    fn listen_on(
        &mut self,
        id: ListenerId,
        addr: Multiaddr,
    ) -> Result<(), TransportError<T::Error>> {
        self.transport.listen_on(id, addr)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.transport.remove_listener(id)
    }

    fn dial(
        &mut self,
        addr: Multiaddr,
        opts: DialOpts,
    ) -> Result<Self::Dial, TransportError<T::Error>> {
        let endpoint = ConnectedPoint::Dialer {
            address: addr.clone(),
            role_override: opts.role,
            port_use: opts.port_use,
        };
        let dial = self.transport.dial(addr, opts)?;
        Ok(dial.map_ok(adopted(&self.layer, endpoint)).boxed())
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, T::Error>> {
        self.layer.poll_orphans(cx);
        let event = ready!(Pin::new(&mut self.transport).poll(cx));
        let (local_addr, send_back_addr) = match &event {
            TransportEvent::Incoming {
                local_addr,
                send_back_addr,
                ..
            } => (local_addr.clone(), send_back_addr.clone()),
            // Nothing is adopted.
            _ => (Multiaddr::empty(), Multiaddr::empty()),
        };
        let endpoint = ConnectedPoint::Listener {
            local_addr,
            send_back_addr,
        };
        let adopted = adopted(&self.layer, endpoint);
        Poll::Ready(event.map_upgrade(|upgrade| upgrade.map_ok(adopted).boxed()))
    }
}
