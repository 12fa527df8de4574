//! Who is woken when a leg can make progress.
//!
//! A leg keeps only the last waker per direction. Application tasks and the driver poll the same
//! legs, and legs come and go; so each direction of every leg is only ever given one waker of ours,
//! which stays the same for the stream's life and wakes everyone who has registered with it.

use std::{
    sync::Arc,
    task::{Context, Waker},
};

use futures::task::{ArcWake, AtomicWaker};

/// Who waits.
#[derive(Debug, Clone, Copy)]
pub(super) enum Party {
    Reader,
    Writer,
    Driver,
}

#[derive(Debug, Default)]
struct Parties([AtomicWaker; 3]);

impl Parties {
    fn slot(&self, party: Party) -> &AtomicWaker {
        &self.0[party as usize]
    }
}

impl ArcWake for Parties {
    fn wake_by_ref(parties: &Arc<Self>) {
        for waker in &parties.0 {
            waker.wake();
        }
    }
}

/// The two wakers of a stream's legs and those behind them.
#[derive(Debug)]
pub(super) struct Wakers {
    reading: Arc<Parties>,
    writing: Arc<Parties>,
    read: Waker,
    write: Waker,
}

impl Wakers {
    pub(super) fn new() -> Self {
        let reading = Arc::new(Parties::default());
        let writing = Arc::new(Parties::default());
        Self {
            read: futures::task::waker(reading.clone()),
            write: futures::task::waker(writing.clone()),
            reading,
            writing,
        }
    }

    /// The contexts for polling legs: for reading, for writing.
    pub(super) fn contexts(&self) -> (Context<'_>, Context<'_>) {
        (
            Context::from_waker(&self.read),
            Context::from_waker(&self.write),
        )
    }

    /// Registers for its own direction only: what a read or a write needs in the steady state.
    pub(super) fn register(&self, party: Party, cx: &Context<'_>) {
        match party {
            Party::Reader => self.reading.slot(party).register(cx.waker()),
            Party::Writer => self.writing.slot(party).register(cx.waker()),
            Party::Driver => self.register_both(party, cx),
        }
    }

    /// Registers for both directions: a migration moves on by either.
    pub(super) fn register_both(&self, party: Party, cx: &Context<'_>) {
        self.reading.slot(party).register(cx.waker());
        self.writing.slot(party).register(cx.waker());
    }

    pub(super) fn forget(&self, party: Party) {
        drop(self.reading.slot(party).take());
        drop(self.writing.slot(party).take());
    }

    pub(super) fn wake_all(&self) {
        ArcWake::wake_by_ref(&self.reading);
        ArcWake::wake_by_ref(&self.writing);
    }
}
