//! Time, as the simulation wants it: a sleep ends when it is told to.

use std::{
    cell::RefCell,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    task::{Context, Poll, Waker},
    time::Duration,
};

use super::stream::drive::Sleep;

#[derive(Debug, Default)]
struct State {
    fired: bool,
    waker: Option<Waker>,
}

type Sleeper = (Duration, Weak<Mutex<State>>);

thread_local! {
    static ASLEEP: RefCell<Vec<Sleeper>> = const { RefCell::new(Vec::new()) };
}

/// A sleep that ends when [`wake_one`] picks it, or [`wake`] its length.
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
        if state.fired {
            return Poll::Ready(());
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Ends one of this thread's sleeps. Returns whether there was one.
pub fn wake_one(choice: usize) -> bool {
    let picked = ASLEEP.with_borrow_mut(|asleep| {
        asleep.retain(|(_, state)| state.strong_count() > 0);
        (!asleep.is_empty()).then(|| asleep.swap_remove(choice % asleep.len()))
    });
    let picked = picked.and_then(|(_, state)| state.upgrade());
    picked.as_deref().map(end).is_some()
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
    states.iter().for_each(|state| end(state));
    states.len()
}

fn end(state: &Mutex<State>) {
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    state.fired = true;
    let waker = state.waker.take();
    drop(state);
    waker.into_iter().for_each(Waker::wake);
}

/// Forgets all, between two cases.
pub fn forget_all() {
    ASLEEP.with_borrow_mut(Vec::clear);
}
