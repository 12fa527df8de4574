//! Time, as a script wants it: a sleep ends when the script says so, and is known by its length.

use std::{
    cell::RefCell,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    task::{Context, Poll, Waker},
    time::Duration,
};

use crate::stream::drive::Sleep;

#[derive(Debug, Default)]
struct State {
    over: bool,
    waker: Option<Waker>,
}

type Sleeper = (Duration, Weak<Mutex<State>>);

thread_local! {
    static ASLEEP: RefCell<Vec<Sleeper>> = const { RefCell::new(Vec::new()) };
}

/// A sleep that ends when [`wake`] says so.
#[derive(Debug)]
pub struct Nap(Arc<Mutex<State>>);

impl Sleep for Nap {
    fn new(duration: Duration) -> Self {
        let state = Arc::default();
        ASLEEP.with_borrow_mut(|asleep| asleep.push((duration, Arc::downgrade(&state))));
        Self(state)
    }
}

impl Future for Nap {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.over {
            return Poll::Ready(());
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Ends this thread's sleeps of this length. Returns how many there were.
pub fn wake(duration: Duration) -> usize {
    let mut states = Vec::new();
    ASLEEP.with_borrow_mut(|asleep| {
        asleep.retain(|(length, state)| {
            if *length == duration {
                states.extend(state.upgrade());
            }
            *length != duration && state.strong_count() > 0
        });
    });
    for state in &states {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.over = true;
        let waker = state.waker.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }
    states.len()
}
