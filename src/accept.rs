//! Inbound streams on their way to the application.

use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use libp2p_identity::PeerId;
use libp2p_swarm::StreamProtocol;
use web_time::Instant;

use crate::{shrink, stream::Stream};

/// The protocol is already registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the protocol is already registered")]
pub struct AlreadyRegistered;

/// Why inbound streams of a protocol cannot be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptError {
    /// Somebody accepts them already, or it is the migration protocol's own name.
    #[error(transparent)]
    AlreadyRegistered(#[from] AlreadyRegistered),
    /// The behaviour is gone, and there will be none.
    #[error("the behaviour is gone")]
    BehaviourGone,
}

type Incoming = (PeerId, Stream);

/// Inbound streams of one protocol, each with its peer; the stream knows its connection. Ends when the
/// behaviour is gone, which it is with its swarm.
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
        let mut waiting = self.queue.lock();
        match waiting.streams.pop_front() {
            Some((_, incoming)) => Poll::Ready(Some(incoming)),
            None if waiting.ended => Poll::Ready(None),
            None => {
                shrink::queue(&mut waiting.streams);
                waiting.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for IncomingStreams {
    fn drop(&mut self) {
        self.acceptors.unregister(&self.protocol);
        let waiting = std::mem::take(&mut *self.queue.lock());
        drop(waiting);
    }
}

/// Inbound streams of one protocol that nobody has taken yet.
#[derive(Debug, Clone, Default)]
pub(crate) struct Queue(
    /// Protects the streams that wait, and the task that waits for them. Held for a push or a pop.
    Arc<Mutex<Waiting>>,
);

#[derive(Debug, Default)]
struct Waiting {
    /// Each with when it has waited long enough, if ever; the oldest first, which is the first to be.
    streams: VecDeque<(Option<Instant>, Incoming)>,
    waker: Option<Waker>,
    /// Somebody will call [`Queue::take_late`].
    watched: bool,
    /// No more will come.
    ended: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        lock(&self.0)
    }

    /// Takes out what has waited long enough; returns also in how long this is to be called again.
    pub(crate) fn take_late(&self) -> (Vec<Incoming>, Option<Duration>) {
        let now = Instant::now();
        let mut waiting = self.lock();
        let streams = &waiting.streams;
        let late = |until: &Option<Instant>| until.is_some_and(|until| until <= now);
        let count = streams.partition_point(|(until, _)| late(until));
        let late = waiting.streams.drain(..count).map(|(_, it)| it).collect();
        let next = waiting.streams.front().and_then(|(until, _)| *until);
        waiting.watched = next.is_some();
        (late, next.map(|next| next - now))
    }
}

/// Nobody wants it, or there is no room for it.
#[derive(Debug)]
pub(crate) struct NotDelivered;

/// The protocols that are accepted, shared by controls, handlers and the behaviour.
#[derive(Debug)]
pub(crate) struct Acceptors {
    prefixes: Arc<[StreamProtocol]>,
    /// The prefixes, and that of control substreams, if they are accepted.
    own: Arc<[StreamProtocol]>,
    backlog: usize,
    /// Protects the registrations; nothing else is done under it.
    registered: Mutex<Registered>,
}

#[derive(Debug)]
struct Registered {
    queues: HashMap<StreamProtocol, Queue>,
    /// The behaviour is gone.
    closed: bool,
    /// The prefixes and all of them, ready to be handed to the swarm at every poll.
    list: Arc<[StreamProtocol]>,
}

impl Acceptors {
    pub(crate) fn new(
        prefix: StreamProtocol,
        control: Option<StreamProtocol>,
        backlog: usize,
    ) -> Arc<Self> {
        let mut prefixes = vec![prefix];
        // The proof of concept in Go writes the name so.
        let alias = format!("{}/", prefixes[0]);
        prefixes.extend(StreamProtocol::try_from_owned(alias));
        let own: Arc<[_]> = prefixes.iter().cloned().chain(control).collect();
        Arc::new(Self {
            backlog,
            registered: Mutex::new(Registered {
                queues: HashMap::new(),
                closed: false,
                list: own.clone(),
            }),
            own,
            prefixes: prefixes.into(),
        })
    }

    pub(crate) fn register(
        this: &Arc<Self>,
        protocol: StreamProtocol,
    ) -> Result<IncomingStreams, AcceptError> {
        let mut registered = lock(&this.registered);
        if registered.closed {
            return Err(AcceptError::BehaviourGone);
        }
        if this.own.contains(&protocol) || registered.queues.contains_key(&protocol) {
            return Err(AlreadyRegistered.into());
        }
        let queue = Queue::default();
        registered.queues.insert(protocol.clone(), queue.clone());
        registered.relist(&this.own);
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
        registered.relist(&self.own);
    }

    /// Our own and the application's protocols, as they may be asked for on a connection.
    pub(crate) fn protocols(&self) -> Arc<[StreamProtocol]> {
        lock(&self.registered).list.clone()
    }

    /// The prefixes and the application's protocols, as they may be asked for after a label.
    pub(crate) fn inner(&self) -> impl Iterator<Item = StreamProtocol> + Clone {
        let control = self.own.get(self.prefixes.len()).cloned();
        let protocols = self.protocols();
        let all = (0..protocols.len()).map(move |at| protocols[at].clone());
        all.filter(move |it| Some(it) != control.as_ref())
    }

    /// Closes the queues: nothing will be accepted any more.
    pub(crate) fn close(&self) {
        let queues: Vec<_> = {
            let mut registered = lock(&self.registered);
            registered.closed = true;
            registered.queues.values().cloned().collect()
        };
        for queue in queues {
            let waker = {
                let mut waiting = queue.lock();
                waiting.ended = true;
                waiting.waker.take()
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// The migration protocol's name, in both spellings.
    pub(crate) fn prefixes(&self) -> &Arc<[StreamProtocol]> {
        &self.prefixes
    }

    /// True if this is the migration protocol's name, in either spelling.
    pub(crate) fn is_prefix(&self, protocol: &StreamProtocol) -> bool {
        self.prefixes.contains(protocol)
    }

    fn queue(&self, protocol: &StreamProtocol) -> Option<Queue> {
        lock(&self.registered).queues.get(protocol).cloned()
    }

    /// Puts a stream where the application can take it. If nobody wants it, or there is no room for it,
    /// it is dropped. Who is given the queue has to call [`Queue::take_late`] after the timeout.
    pub(crate) fn deliver(
        &self,
        incoming: Incoming,
        timeout: Duration,
    ) -> Result<Option<Queue>, NotDelivered> {
        let queue = self.queue(incoming.1.protocol()).ok_or(NotDelivered)?;
        let mut waiting = queue.lock();
        if waiting.streams.len() >= self.backlog {
            return Err(NotDelivered);
        }
        let until = Instant::now().checked_add(timeout);
        waiting.streams.push_back((until, incoming));
        let unwatched = until.is_some() && !std::mem::replace(&mut waiting.watched, true);
        let waker = waiting.waker.take();
        drop(waiting);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(unwatched.then_some(queue))
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
