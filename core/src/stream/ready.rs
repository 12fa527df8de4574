//! The way in which streams, which live in the application's tasks, make themselves heard by the
//! table's owner.

use std::{
    sync::{Mutex, PoisonError},
    task::Context,
};

use crate::key::StreamKey;
use futures::task::AtomicWaker;

/// The keys of streams that have something to say. A stream is in it at most once, so it is bounded by
/// the number of streams.
#[derive(Debug, Default)]
pub struct ReadyQueue {
    /// Protects the list alone; nothing else is done under it.
    keys: Mutex<Vec<StreamKey>>,
    waker: AtomicWaker,
}

impl ReadyQueue {
    pub(super) fn deliver(&self, key: StreamKey) {
        self.keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(key);
        self.waker.wake();
    }

    /// Takes all keys, and registers to be woken at the next one.
    pub fn collect(&self, cx: &Context<'_>) -> Vec<StreamKey> {
        self.waker.register(cx.waker());
        std::mem::take(&mut *self.keys.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
