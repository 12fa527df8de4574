//! Inbound streams on their way to the application.

use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use libp2p_identity::PeerId;
use libp2p_swarm::{ConnectionId, StreamProtocol};

use crate::{negotiate::Stream, stream::StreamKey};

/// The protocol is already registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the protocol is already registered")]
pub struct AlreadyRegistered;

type Incoming = (PeerId, ConnectionId, Stream);

/// Inbound streams of one protocol: the peer, the connection on which it came, the stream. Never ends.
///
/// Streams that are not taken in time are refused: see
/// [`Config::with_accept_timeout`](crate::Config::with_accept_timeout).
#[derive(Debug)]
#[must_use = "streams do nothing unless polled"]
pub struct IncomingStreams {
    protocol: StreamProtocol,
    queue: Queue,
    acceptors: Arc<Acceptors>,
}

impl futures::Stream for IncomingStreams {
    type Item = Incoming;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Incoming>> {
        let mut waiting = lock(&self.queue);
        match waiting.streams.pop_front() {
            Some(incoming) => Poll::Ready(Some(incoming)),
            None => {
                waiting.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for IncomingStreams {
    fn drop(&mut self) {
        self.acceptors.unregister(&self.protocol);
        let waiting = std::mem::take(&mut *lock(&self.queue));
        drop(waiting);
    }
}

/// Protects the streams that wait, and the task that waits for them. Held for a push or a pop.
type Queue = Arc<Mutex<Waiting>>;

#[derive(Debug, Default)]
struct Waiting {
    streams: VecDeque<Incoming>,
    waker: Option<Waker>,
}

/// The protocols that are accepted, shared by controls, handlers and the behaviour.
#[derive(Debug)]
pub(crate) struct Acceptors {
    prefixes: Vec<StreamProtocol>,
    backlog: usize,
    /// Protects the registrations; nothing else is done under it.
    registered: Mutex<Registered>,
}

#[derive(Debug)]
struct Registered {
    queues: HashMap<StreamProtocol, Queue>,
    /// The prefixes and all of them, ready to be handed to the swarm at every poll.
    list: Arc<[StreamProtocol]>,
}

impl Acceptors {
    pub(crate) fn new(prefix: StreamProtocol, backlog: usize) -> Arc<Self> {
        let mut prefixes = vec![prefix];
        // The proof of concept in Go writes the name so.
        let alias = format!("{}/", prefixes[0]);
        prefixes.extend(StreamProtocol::try_from_owned(alias));
        Arc::new(Self {
            backlog,
            registered: Mutex::new(Registered {
                queues: HashMap::new(),
                list: prefixes.clone().into(),
            }),
            prefixes,
        })
    }

    pub(crate) fn register(
        this: &Arc<Self>,
        protocol: StreamProtocol,
    ) -> Result<IncomingStreams, AlreadyRegistered> {
        let mut registered = lock(&this.registered);
        if this.is_prefix(&protocol) || registered.queues.contains_key(&protocol) {
            return Err(AlreadyRegistered);
        }
        let queue = Queue::default();
        registered.queues.insert(protocol.clone(), queue.clone());
        registered.relist(&this.prefixes);
        drop(registered);
        Ok(IncomingStreams {
            protocol,
            queue,
            acceptors: this.clone(),
        })
    }

    fn unregister(&self, protocol: &StreamProtocol) {
        let mut registered = lock(&self.registered);
        registered.queues.remove(protocol);
        registered.relist(&self.prefixes);
    }

    /// The prefixes and the application's protocols, as they may be asked for on a connection, and after
    /// a label.
    pub(crate) fn protocols(&self) -> Arc<[StreamProtocol]> {
        lock(&self.registered).list.clone()
    }

    /// Whether this is the migration protocol's name, in either spelling.
    pub(crate) fn is_prefix(&self, protocol: &StreamProtocol) -> bool {
        self.prefixes.contains(protocol)
    }

    fn queue(&self, protocol: &StreamProtocol) -> Option<Queue> {
        lock(&self.registered).queues.get(protocol).cloned()
    }

    /// Puts a stream where the application can take it. Returns whether somebody wants it and has room
    /// for it; if not, it is dropped.
    pub(crate) fn deliver(&self, peer: PeerId, connection: ConnectionId, stream: Stream) -> bool {
        let Some(queue) = self.queue(stream.protocol()) else {
            return false;
        };
        let mut waiting = lock(&queue);
        if waiting.streams.len() >= self.backlog {
            drop(waiting);
            return false;
        }
        waiting.streams.push_back((peer, connection, stream));
        let waker = waiting.waker.take();
        drop(waiting);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Takes a stream back if it still waits.
    pub(crate) fn take_back(&self, protocol: &StreamProtocol, key: StreamKey) -> Option<Incoming> {
        let queue = self.queue(protocol)?;
        let mut waiting = lock(&queue);
        // It is among the oldest.
        let mut streams = waiting.streams.iter();
        let at = streams.position(|(_, _, stream)| stream.key() == key)?;
        waiting.streams.remove(at)
    }
}

impl Registered {
    fn relist(&mut self, prefixes: &[StreamProtocol]) {
        let mut protocols: Vec<_> = self.queues.keys().cloned().collect();
        protocols.sort_unstable_by(|a, b| a.as_ref().cmp(b.as_ref()));
        self.list = prefixes.iter().cloned().chain(protocols).collect();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
