//! What is due later, by one timer.

use std::{
    collections::BTreeMap,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::FutureExt;
use futures_timer::Delay;
use web_time::Instant;

use crate::stream::after;

/// Things and when they are due. There may be many, of which most come to nothing.
pub(super) struct Timers<T> {
    /// In the order of time; those of the same time in the order of their arrival.
    due: BTreeMap<(Instant, u64), T>,
    next_number: u64,
    /// Runs until the earliest, as it was when it was set.
    delay: Option<(Instant, Delay)>,
}

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Self {
            due: BTreeMap::new(),
            next_number: 0,
            delay: None,
        }
    }
}

impl<T> Timers<T> {
    pub(super) fn add(&mut self, delay: Duration, what: T) {
        self.next_number += 1;
        // What is that far off is never due.
        if let Some(at) = Instant::now().checked_add(delay) {
            self.due.insert((at, self.next_number), what);
        }
    }

    /// What is due next, once it is.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<T> {
        loop {
            let Some(first) = self.due.first_entry() else {
                self.delay = None;
                return Poll::Pending;
            };
            let (at, _) = *first.key();
            let now = Instant::now();
            if at <= now {
                return Poll::Ready(first.remove());
            }
            match &mut self.delay {
                Some((set, delay)) if *set == at => {
                    ready!(delay.poll_unpin(cx));
                    self.delay = None;
                }
                _ => self.delay = Some((at, after(at - now))),
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
            futures::executor::block_on(poll_fn(|cx| timers.poll_next(cx)))
        });
        assert_eq!(due.take(4).collect::<String>(), "abcd");
        assert!(started.elapsed() >= Duration::from_millis(29));
        let waker = futures::task::noop_waker();
        let mut cx = Context::from_waker(&waker);
        assert!(timers.poll_next(&mut cx).is_pending());
    }

    /// One that comes later and is due earlier.
    #[test]
    fn overtaking() {
        let mut timers = Timers::default();
        let waker = futures::task::noop_waker();
        let mut cx = Context::from_waker(&waker);
        timers.add(Duration::from_secs(3600), 'b');
        assert!(timers.poll_next(&mut cx).is_pending());
        timers.add(Duration::from_millis(1), 'a');
        let due = futures::executor::block_on(poll_fn(|cx| timers.poll_next(cx)));
        assert_eq!(due, 'a');
    }
}
