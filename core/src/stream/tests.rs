//! What the lock is not held around, and what a stream does not keep.

use std::{
    pin::Pin,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Waker},
    time::Duration,
};

use futures::AsyncWrite;
use web_time::Instant;

use crate::machine::Speech;

use super::{
    core::LONGEST_PAUSE,
    fake::{Fake, OnDrop},
    *,
};

fn leg(connection: u64, fake: Fake) -> Leg<Fake> {
    Leg::new(fake, ConnectionKey::new(connection), LegKind::Yamux)
}

fn stream(first: Leg<Fake>) -> Arc<Shared<Fake>> {
    let setup = Setup {
        designated: true,
        verify: true,
        peer_verifies: true,
        speech: Speech::No,
        opener: true,
        keeps: false,
    };
    let budget = Budget::new(1 << 10, 1 << 10);
    Shared::new(
        StreamKey(1),
        StreamId(0),
        setup,
        first,
        None,
        budget,
        Arc::default(),
    )
}

/// Whoever hears that a substream is gone may ask about its stream at once, however the leg was lost (docs/field.md,
/// C11).
#[test]
fn legs_are_dropped_after_the_lock() {
    type Way = Box<dyn Fn(&Shared<Fake>)>;
    let hears = |input: Input| -> Way { Box::new(move |it| it.with(|core| core.handle(input))) };
    let loses = |connection| -> Way {
        Box::new(move |it| it.connection_lost(ConnectionKey::new(connection)))
    };
    let replaces: Way =
        Box::new(|it| it.with(|core| core.put_leg(Slot::Ours, leg(2, Fake::default()))));
    let dropped = Input::Dropped {
        closed: false,
        answered: true,
    };
    // Whoever lets go of it while it moves lets it move first.
    let leaves: Way = Box::new(move |it| {
        it.with(|core| {
            core.handle(dropped);
            core.handle(Input::Timeout);
        });
    });
    let ways = [
        // An attempt fails: in time, with its connection or its leg, or because another is made of it.
        (hears(Input::Timeout), 1),
        (loses(1), 1),
        (hears(Input::ReadFailed(Slot::Ours)), 1),
        (replaces, 1),
        // The stream's end takes all of them.
        (hears(Input::Unexpected(Slot::Current)), 2),
        (loses(0), 0),
        (leaves, 2),
    ];
    for (number, (way, least)) in ways.into_iter().enumerate() {
        let shared: Arc<OnceLock<Weak<Shared<Fake>>>> = Arc::default();
        let dropped = Arc::new(AtomicUsize::new(0));
        let watched = |connection| {
            let (shared, dropped) = (shared.clone(), dropped.clone());
            let on_drop = move || {
                let it = shared.get().and_then(Weak::upgrade);
                if let Some(it) = it {
                    assert!(it.core.try_lock().is_ok(), "way {number}: under the lock");
                    dropped.fetch_add(1, Ordering::Relaxed);
                }
            };
            let fake = Fake {
                _on_drop: OnDrop(Some(Box::new(on_drop))),
                ..Fake::default()
            };
            leg(connection, fake)
        };
        let it = stream(watched(0));
        let _ = shared.set(Arc::downgrade(&it));
        assert!(it.start(watched(1), StreamId(2)).is_ok());
        way(&it);
        let dropped = dropped.load(Ordering::Relaxed);
        assert!(dropped >= least, "way {number}: {dropped} legs dropped");
    }
}

/// A side that reads nothing after a migration does not go on paying for it at every poll, and does not tell of a
/// pause that was its reader's (docs/field.md, C11).
#[test]
fn who_reads_nothing_is_not_moving_for_ever() {
    for (ago, moving) in [(Duration::ZERO, true), (2 * LONGEST_PAUSE, false)] {
        let it = stream(leg(0, Fake::default()));
        let since = Instant::now().checked_sub(ago).expect("up for that long");
        it.with(|core| core.pause(since));
        assert_eq!(it.lock().is_moving(), moving);
        assert_eq!(it.take_notes(), []);
    }
}

/// A writer that has asked to close and then flushes is not told that all has gone out (docs/field.md, C13).
#[test]
fn a_flush_beside_a_pending_close_waits() {
    let stuck = Fake {
        stuck: true,
        ..Fake::default()
    };
    for (fake, waits) in [(stuck, true), (Fake::default(), false)] {
        let mut half = Migratable::new(stream(leg(0, fake)));
        let mut cx = Context::from_waker(Waker::noop());
        let mut half = Pin::new(&mut half);
        assert!(half.as_mut().poll_write(&mut cx, b"word").is_ready());
        assert_eq!(half.as_mut().poll_close(&mut cx).is_pending(), waits);
        assert_eq!(half.as_mut().poll_flush(&mut cx).is_pending(), waits);
    }
}
