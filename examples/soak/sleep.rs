//! Time, as the simulation wants it: a sleep ends when it is told to.

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
    fired: bool,
    waker: Option<Waker>,
}

thread_local! {
    static ASLEEP: RefCell<Vec<Weak<Mutex<State>>>> = const { RefCell::new(Vec::new()) };
}

/// A sleep that ends when [`wake_one`] picks it.
#[derive(Debug)]
pub struct Nap(Arc<Mutex<State>>);

impl Sleep for Nap {
    fn new(_: Duration) -> Self {
        let state = Arc::default();
        ASLEEP.with_borrow_mut(|asleep| asleep.push(Arc::downgrade(&state)));
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
        asleep.retain(|state| state.strong_count() > 0);
        (!asleep.is_empty()).then(|| asleep.swap_remove(choice % asleep.len()))
    });
    let Some(state) = picked.and_then(|state| state.upgrade()) else {
        return false;
    };
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    state.fired = true;
    let waker = state.waker.take();
    drop(state);
    waker.into_iter().for_each(Waker::wake);
    true
}

/// Forgets all, between two cases.
pub fn forget_all() {
    ASLEEP.with_borrow_mut(Vec::clear);
}
