//! Things that are due later, by one timer.

use std::{
    collections::BTreeMap,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::FutureExt;
use futures_timer::Delay;
use web_time::Instant;

use crate::stream::after;

/// The least that anybody waits: who asks again after no time at all would never let anybody else have a turn.
const LEAST: Duration = Duration::from_millis(1);

/// The key of a thing that is due, to be taken back when it comes to nothing. `None` is never due.
pub type TimerKey = Option<(Instant, u64)>;

/// Things and when they are due. There may be many, of which most come to nothing.
pub struct Timers<T> {
    /// Things in the order of time; those of the same time in the order of their arrival.
    due: BTreeMap<(Instant, u64), T>,
    next_number: u64,
    /// Runs until the earliest, as it was when it was set.
    delay: Option<(Instant, Delay)>,
    /// The end of what is due in this round; `None` before that is asked.
    round: Option<Instant>,
}

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Self {
            due: BTreeMap::new(),
            next_number: 0,
            delay: None,
            round: None,
        }
    }
}

impl<T> Timers<T> {
    pub fn add(&mut self, delay: Duration, what: T) -> TimerKey {
        self.next_number += 1;
        // What is that far off is never due.
        let at = Instant::now().checked_add(delay.max(LEAST))?;
        let key = (at, self.next_number);
        self.due.insert(key, what);
        Some(key)
    }

    /// Takes a thing back, which is not due any more. Nothing happens if it was.
    pub fn cancel(&mut self, key: TimerKey) {
        if let Some(key) = key {
            self.due.remove(&key);
        }
    }

    #[cfg(any(test, stream_migration_mutants))]
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.due.values()
    }

    /// Begins a round: what becomes due in the course of it waits for the next, so that it ends.
    pub fn begin_round(&mut self) {
        self.round = None;
    }

    /// The next thing that is due, once it is.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<T> {
        loop {
            let Some(first) = self.due.first_entry() else {
                self.delay = None;
                return Poll::Pending;
            };
            let (at, _) = *first.key();
            let end = *self.round.get_or_insert_with(Instant::now);
            if at <= end {
                return Poll::Ready(first.remove());
            }
            match &mut self.delay {
                Some((set, delay)) if *set == at => {
                    ready!(delay.poll_unpin(cx));
                    self.delay = None;
                    // Its round is the next.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                _ => self.delay = Some((at, after(at.saturating_duration_since(Instant::now())))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[test]
    fn in_the_order_of_time() {
        let mut timers = Timers::default();
        for (millis, what) in [(30, 'd'), (5, 'b'), (0, 'a'), (5, 'c')] {
            timers.add(Duration::from_millis(millis), what);
        }
        timers.add(Duration::MAX, 'z');
        let started = Instant::now();
        let due = std::iter::repeat_with(|| {
            futures::executor::block_on(poll_fn(|cx| {
                timers.begin_round();
                timers.poll_next(cx)
            }))
        });
        assert_eq!(due.take(4).collect::<String>(), "abcd");
        assert!(started.elapsed() >= Duration::from_millis(29));
        let waker = futures::task::noop_waker();
        let mut cx = Context::from_waker(&waker);
        assert!(timers.poll_next(&mut cx).is_pending());
    }

    /// A thing that comes later and is due earlier.
    #[test]
    fn overtaking() {
        let mut timers = Timers::default();
        let waker = futures::task::noop_waker();
        let mut cx = Context::from_waker(&waker);
        timers.add(Duration::from_secs(3600), 'b');
        assert!(timers.poll_next(&mut cx).is_pending());
        timers.add(Duration::from_millis(1), 'a');
        let due = futures::executor::block_on(poll_fn(|cx| {
            timers.begin_round();
            timers.poll_next(cx)
        }));
        assert_eq!(due, 'a');
    }

    /// Somebody who wants to be called again at once, each time, and takes long: a round ends all the same.
    #[test]
    fn a_round_ends() {
        let mut timers = Timers::default();
        let waker = futures::task::noop_waker();
        let mut cx = Context::from_waker(&waker);
        timers.add(Duration::ZERO, ());
        std::thread::sleep(2 * LEAST);
        timers.begin_round();
        assert!(timers.poll_next(&mut cx).is_ready());
        for _ in 0..100 {
            timers.add(Duration::ZERO, ());
            std::thread::sleep(2 * LEAST);
            assert!(timers.poll_next(&mut cx).is_pending());
        }
        timers.begin_round();
        assert!(timers.poll_next(&mut cx).is_ready());
    }

    #[test]
    fn what_is_taken_back_leaves_nothing() {
        let mut timers = Timers::default();
        let keys = [1, 3600, 5].map(|secs| timers.add(Duration::from_secs(secs), ()));
        assert_eq!(timers.add(Duration::MAX, ()), None);
        timers.cancel(None);
        for key in keys {
            timers.cancel(key);
        }
        assert!(timers.due.is_empty());
    }
}
