//! Words from handlers to the behaviour that do not go through the swarm: a connection's task polls nothing while it
//! waits to hand over an event, and while it waits nothing is answered (*Heartbeats*).

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Waker},
};

use libp2p_identity::PeerId;

use crate::{key::ConnectionKey, protocol::codec::Control};

/// Words of one connection that wait to be heard. While there are so many, no more are read.
const MAX_WAITING: usize = 16;

/// Words that are to be heard, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Inbox(
    /// Protects the words; nothing else is done under it.
    Arc<Mutex<Words>>,
);

#[derive(Debug, Default)]
struct Words {
    waiting: VecDeque<(PeerId, ConnectionKey, Control)>,
    of_connection: HashMap<ConnectionKey, usize>,
    /// Handlers that wait for room.
    full: Vec<Waker>,
    /// The behaviour's.
    waker: Option<Waker>,
}

/// One connection's way in.
#[derive(Debug)]
pub(crate) struct Slit {
    inbox: Inbox,
    peer: PeerId,
    connection: ConnectionKey,
}

impl Inbox {
    pub(crate) fn slit(&self, peer: PeerId, connection: ConnectionKey) -> Slit {
        Slit {
            inbox: self.clone(),
            peer,
            connection,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Words> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The words since the last call.
    pub(crate) fn take(&self) -> VecDeque<(PeerId, ConnectionKey, Control)> {
        let mut words = self.lock();
        if words.waiting.is_empty() {
            return VecDeque::new();
        }
        words.of_connection = HashMap::new();
        let (waiting, full) = (
            std::mem::take(&mut words.waiting),
            std::mem::take(&mut words.full),
        );
        drop(words);
        full.into_iter().for_each(Waker::wake);
        waiting
    }

    /// Wakes the behaviour's task when something is said.
    pub(crate) fn register(&self, cx: &Context<'_>) {
        self.lock().waker = Some(cx.waker().clone());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().waiting.is_empty()
    }
}

impl Slit {
    /// True if something may be put through; if not, the task is woken when it may.
    pub(crate) fn has_room(&self, cx: &Context<'_>) -> bool {
        let mut words = self.inbox.lock();
        let waiting = words.of_connection.get(&self.connection);
        let room = waiting.is_none_or(|waiting| *waiting < MAX_WAITING);
        if !room && !words.full.iter().any(|it| it.will_wake(cx.waker())) {
            words.full.push(cx.waker().clone());
        }
        room
    }

    pub(crate) fn put(&self, control: Control) {
        let mut words = self.inbox.lock();
        words
            .waiting
            .push_back((self.peer, self.connection, control));
        *words.of_connection.entry(self.connection).or_default() += 1;
        let waker = words.waker.take();
        drop(words);
        waker.into_iter().for_each(Waker::wake);
    }
}
