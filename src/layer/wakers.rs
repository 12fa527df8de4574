//! Whoever polls one of a peer's connections drives all its links: so whatever happens on one of these wakes
//! all who poll.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Waker,
};

use futures::task::ArcWake;

/// The waker of a peer's links, hub and timers.
#[derive(Debug, Default)]
pub(crate) struct PeerWaker {
    /// Something has happened, and nobody has driven the links since.
    woken: AtomicBool,
    /// Protects the tasks that poll, by what they poll. Held for a look-up; no task is woken under it.
    tasks: Mutex<Vec<(Task, Waker)>>,
}

/// A task that polls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    /// The connection of this number.
    Connection(u64),
    /// The transport, which goes on when there is no connection left.
    Transport,
}

impl PeerWaker {
    fn tasks(&self) -> MutexGuard<'_, Vec<(Task, Waker)>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes this task from now on, and its task alone.
    pub(super) fn register(&self, task: Task, waker: &Waker) {
        let mut tasks = self.tasks();
        match tasks.iter_mut().find(|(registered, _)| *registered == task) {
            Some((_, registered)) => registered.clone_from(waker),
            None => tasks.push((task, waker.clone())),
        }
    }

    pub(super) fn forget(&self, task: Task) {
        let mut tasks = self.tasks();
        let of = |(registered, _): &(Task, Waker)| *registered == task;
        let forgotten: Vec<_> = tasks.extract_if(.., |it| of(it)).collect();
        drop(tasks);
        drop(forgotten);
    }

    /// True if there is something to be driven, which the caller has to do.
    pub(super) fn take(&self) -> bool {
        self.woken.swap(false, Ordering::SeqCst)
    }

    /// Something has happened: whoever polls has to drive.
    pub(crate) fn rouse(&self) {
        // Who has been woken, and has not looked yet, need not be woken again.
        if !self.woken.swap(true, Ordering::SeqCst) {
            self.wake_tasks();
        }
    }

    /// Wakes whoever polls, though there may be nothing to be driven.
    pub(super) fn wake_tasks(&self) {
        let tasks = self.tasks().clone();
        for (_, waker) in tasks {
            waker.wake();
        }
    }
}

impl ArcWake for PeerWaker {
    fn wake_by_ref(waker: &Arc<Self>) {
        waker.rouse();
    }
}
