//! Wakers of those who wait for a leg to make progress.
//!
//! A leg keeps only the last waker per direction. Application tasks and the driver poll the same
//! legs, and legs come and go; so each direction of every leg is only ever given one waker of ours,
//! which stays the same for the stream's life and wakes everyone who waits for that direction.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU32, Ordering},
    },
    task::{Context, Waker},
};

use futures::task::{ArcWake, AtomicWaker};

/// The party that waits.
#[derive(Debug, Clone, Copy)]
pub(super) enum Party {
    Reader,
    Writer,
    Driver,
}

#[derive(Debug, Default)]
struct Parties {
    wakers: [AtomicWaker; 3],
    /// The number of times that anybody was to be woken.
    wakes: AtomicU32,
    reading: Waiting,
    writing: Waiting,
}

/// The parties that wait for one direction, a bit each.
#[derive(Debug, Default)]
struct Waiting(AtomicU8);

impl Waiting {
    fn add(&self, party: Party) {
        let bit = 1 << party as u8;
        // Mostly it is there: nothing was woken since. A bit that is seen here though it has just been
        // taken out belongs to somebody who wakes after that; had it woken before, the waker's own
        // registration, which comes first, would have synchronised with it.
        if self.0.load(Ordering::SeqCst) & bit == 0 {
            self.0.fetch_or(bit, Ordering::SeqCst);
        }
    }
}

impl Parties {
    fn register(&self, party: Party, cx: &Context<'_>) {
        self.wakers[party as usize].register(cx.waker());
    }

    /// Wakes who waits for this.
    fn wake(&self, waiting: &Waiting) {
        // Counted first: who is not among the parties yet will see the count.
        self.wakes.fetch_add(1, Ordering::SeqCst);
        self.wake_each(waiting.0.swap(0, Ordering::SeqCst));
    }

    fn wake_all(&self) {
        self.wakes.fetch_add(1, Ordering::SeqCst);
        self.wake_each(u8::MAX);
    }

    fn wake_each(&self, parties: u8) {
        for (party, waker) in self.wakers.iter().enumerate() {
            if parties & (1 << party) != 0 {
                waker.wake();
            }
        }
    }
}

/// A leg can be read.
struct Readable(Arc<Parties>);

impl ArcWake for Readable {
    fn wake_by_ref(this: &Arc<Self>) {
        this.0.wake(&this.0.reading);
    }
}

/// A leg can be written.
struct Writable(Arc<Parties>);

impl ArcWake for Writable {
    fn wake_by_ref(this: &Arc<Self>) {
        this.0.wake(&this.0.writing);
    }
}

/// The two wakers of a stream's legs and those behind them.
#[derive(Debug)]
pub(super) struct Wakers {
    parties: Arc<Parties>,
    readable: Waker,
    writable: Waker,
}

impl Wakers {
    pub(super) fn new() -> Self {
        let parties = Arc::new(Parties::default());
        Self {
            readable: futures::task::waker(Arc::new(Readable(parties.clone()))),
            writable: futures::task::waker(Arc::new(Writable(parties.clone()))),
            parties,
        }
    }

    /// The contexts for polling legs: for reading, for writing.
    pub(super) fn contexts(&self) -> (Context<'_>, Context<'_>) {
        (
            Context::from_waker(&self.readable),
            Context::from_waker(&self.writable),
        )
    }

    /// True if a reader has been registered since the last wake.
    pub(super) fn is_reading(&self) -> bool {
        let reader = 1 << Party::Reader as u8;
        self.parties.reading.0.load(Ordering::SeqCst) & reader != 0
    }

    /// The number of times that anybody was to be woken. Who has polled a leg without being
    /// registered, registers, and then finds this as it was before the poll, has missed nothing.
    pub(super) fn wakes(&self) -> u32 {
        self.parties.wakes.load(Ordering::SeqCst)
    }

    /// Registers for its own direction only: what a read or a write needs in the steady state.
    pub(super) fn register(&self, party: Party, cx: &Context<'_>) {
        self.parties.register(party, cx);
        match party {
            Party::Reader => self.parties.reading.add(party),
            Party::Writer => self.parties.writing.add(party),
            Party::Driver => self.add_both(party),
        }
    }

    /// Registers for both directions: a migration moves on by either.
    pub(super) fn register_both(&self, party: Party, cx: &Context<'_>) {
        self.parties.register(party, cx);
        self.add_both(party);
    }

    fn add_both(&self, party: Party) {
        self.parties.reading.add(party);
        self.parties.writing.add(party);
    }

    pub(super) fn forget(&self, party: Party) {
        drop(self.parties.wakers[party as usize].take());
    }

    pub(super) fn wake_all(&self) {
        self.parties.wake_all();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        sync::atomic::{AtomicU32, AtomicUsize},
        task::Poll,
        thread,
    };

    use futures::executor::block_on;

    use super::*;

    #[derive(Default)]
    struct Counter(AtomicUsize);

    impl ArcWake for Counter {
        fn wake_by_ref(this: &Arc<Self>) {
            this.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Counter {
        fn wakes(&self) -> usize {
            self.0.swap(0, Ordering::Relaxed)
        }
    }

    #[test]
    fn each_hears_of_what_it_waits_for() {
        let wakers = Wakers::new();
        let counters = [(); 3].map(|()| Arc::<Counter>::default());
        let tasks = counters.clone().map(futures::task::waker);
        let register = || {
            for (party, task) in [Party::Reader, Party::Writer, Party::Driver]
                .into_iter()
                .zip(&tasks)
            {
                wakers.register(party, &Context::from_waker(task));
            }
        };
        let wakes = || counters.each_ref().map(|counter| counter.wakes());
        let (read, write) = wakers.contexts();
        register();
        read.waker().wake_by_ref();
        read.waker().wake_by_ref();
        assert_eq!(wakes(), [1, 0, 1]);
        register();
        write.waker().wake_by_ref();
        assert_eq!(wakes(), [0, 1, 1]);
        register();
        wakers.register_both(Party::Reader, &Context::from_waker(&tasks[0]));
        write.waker().wake_by_ref();
        assert_eq!(wakes(), [1, 1, 1]);
        register();
        wakers.forget(Party::Driver);
        wakers.wake_all();
        assert_eq!(wakes(), [1, 1, 0]);
    }

    /// Two threads that wake, for one direction each; a party that waits for both misses nothing, whether it
    /// registers before it looks or after. It is polled for other reasons, too.
    #[test]
    fn nothing_is_missed() {
        for first in [true, false] {
            missing(first);
        }
    }

    fn missing(register_first: bool) {
        const ROUNDS: u32 = 20_000;
        let wakers = Wakers::new();
        let said = [AtomicU32::new(0), AtomicU32::new(0)];
        let heard = [AtomicU32::new(0), AtomicU32::new(0)];
        let (read, write) = wakers.contexts();
        let look = || {
            for (said, heard) in said.iter().zip(&heard) {
                heard.store(said.load(Ordering::Acquire), Ordering::Release);
            }
            let over = |heard: &AtomicU32| heard.load(Ordering::Relaxed) == ROUNDS;
            match heard.iter().all(over) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        };
        thread::scope(|scope| {
            for (index, waker) in [read.waker(), write.waker()].into_iter().enumerate() {
                let (said, heard) = (&said[index], &heard[index]);
                scope.spawn(move || {
                    for round in 1..=ROUNDS {
                        said.store(round, Ordering::Release);
                        waker.wake_by_ref();
                        while heard.load(Ordering::Acquire) != round {
                            thread::yield_now();
                        }
                    }
                });
            }
            block_on(poll_fn(|cx| {
                if register_first {
                    wakers.register_both(Party::Reader, cx);
                    return look();
                }
                let wakes = wakers.wakes();
                if look().is_ready() {
                    return Poll::Ready(());
                }
                // Long enough for the others to get in between.
                (0..100).for_each(|_| std::hint::spin_loop());
                wakers.register_both(Party::Reader, cx);
                match wakers.wakes() == wakes {
                    true => Poll::Pending,
                    false => look(),
                }
            }));
        });
    }
}
