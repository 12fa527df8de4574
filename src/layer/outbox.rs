//! News from the layer for the behaviour of its swarm, if that has one.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use libp2p_identity::PeerId;

use crate::{Event, key::ConnectionKey, shrink, stream::SwarmShared};

/// Events that wait for a behaviour that is not polled; then the oldest go.
const MAX_EVENTS: usize = 16_384;

/// A stream of the remote's that belongs to no connection.
pub(crate) struct Labelled {
    pub(crate) peer: PeerId,
    pub(crate) connection: ConnectionKey,
    pub(crate) shared: Arc<SwarmShared>,
}

/// A thing that is told.
pub(crate) enum Told {
    Event(Event),
    Labelled(Labelled),
    /// A link to this peer may have room for what waits to be opened.
    Room(PeerId),
}

#[derive(Default)]
pub(crate) struct Outbox {
    /// Protects what is to be told. Held for a push or a pop; the behaviour's task is woken after it.
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    attached: bool,
    told: VecDeque<Told>,
    /// Peers of which it is to be told, after all else, that there may be room.
    room: BTreeSet<PeerId>,
    waker: Option<Waker>,
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is a behaviour that listens, or none any more.
    pub(crate) fn attach(&self, attached: bool) {
        let mut inner = self.lock();
        inner.attached = attached;
        let told = std::mem::take(&mut inner.told);
        inner.room.clear();
        drop(inner);
        drop(told);
    }

    /// Tells it, if anybody listens; returns what nobody has taken.
    fn push(&self, told: Told) -> Option<Told> {
        let mut inner = self.lock();
        if !inner.attached {
            return Some(told);
        }
        let dropped = match inner.told.len() >= MAX_EVENTS {
            true => inner.told.pop_front(),
            false => None,
        };
        inner.told.push_back(told);
        let waker = inner.waker.take();
        drop(inner);
        drop(dropped);
        waker.into_iter().for_each(Waker::wake);
        None
    }

    /// Tells an event, but what the swarm tells of its connections itself.
    pub(super) fn tell(&self, event: Event) {
        let twin = matches!(
            event,
            Event::ConnectionEstablished(_) | Event::ConnectionClosed { .. }
        );
        if !twin {
            drop(self.push(Told::Event(event)));
        }
    }

    /// Tells that a link to this peer may have room.
    pub(super) fn room(&self, peer: PeerId) {
        let mut inner = self.lock();
        let waker = match inner.attached && inner.room.insert(peer) {
            true => inner.waker.take(),
            false => None,
        };
        drop(inner);
        waker.into_iter().for_each(Waker::wake);
    }

    /// Hands over a stream, or gives it back.
    pub(super) fn labelled(&self, labelled: Labelled) -> Result<(), Labelled> {
        match self.push(Told::Labelled(labelled)) {
            Some(Told::Labelled(labelled)) => Err(labelled),
            _ => Ok(()),
        }
    }

    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<Told> {
        let mut inner = self.lock();
        let room = |inner: &mut Inner| inner.room.pop_first().map(Told::Room);
        match inner.told.pop_front().or_else(|| room(&mut inner)) {
            Some(told) => Poll::Ready(told),
            None => {
                shrink::queue(&mut inner.told);
                inner.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}
