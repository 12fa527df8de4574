//! The driver: moves a stream on while its application polls nothing.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_timer::Delay;
use web_time::Instant;

use super::{Io, Shared, wakers::Party};
use crate::key::StreamKey;
use crate::machine::{Input, Timer};

/// The times that things may take.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// The time for an answer to `Migrate`; also for an ack, a deny or a cancellation to be
    /// written.
    pub answer: Duration,
    /// The time for anything to happen in an agreed migration, or for a dropped stream to end,
    /// before the connection that it waits for is probed.
    pub progress: Duration,
    /// The time for the remote's word on an end that nothing explains.
    pub explain: Duration,
    /// The time that a stream waits for another leg.
    pub resume: Duration,
}

impl Timeouts {
    fn of(&self, timer: Timer) -> Duration {
        match timer {
            Timer::Answer => self.answer,
            Timer::Explain => self.explain,
            Timer::Resume => self.resume,
            Timer::Progress => self.progress,
        }
    }
}

/// A source of time: a real clock's delays, or a simulation's.
pub trait Sleep: Future<Output = ()> + Unpin {
    fn new(duration: Duration) -> Self;
}

impl Sleep for Delay {
    fn new(duration: Duration) -> Self {
        after(duration)
    }
}

/// The longest time: what is further off comes then; a clock need not be able to say when.
pub const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Nor is anything due at once: what is armed again whenever it fires would spin.
const LEAST: Duration = Duration::from_millis(1);

/// A delay of any duration that somebody may have configured. Every delay of the crate is made here: a
/// timer's own arithmetic panics where a clock ends.
pub fn after(duration: Duration) -> Delay {
    Delay::new(duration.clamp(LEAST, LONGEST))
}

/// A future that is done when nothing is left to be done in the background. It must be run once per
/// successful [`Shared::claim_drive`].
pub struct Drive<L: Io, S = Delay> {
    shared: Arc<Shared<L>>,
    timeouts: Timeouts,
    /// The armed timer, by its number.
    timer: Option<(u32, S)>,
    /// The timer of the remote's attempt that is held, by its number.
    hold: Option<(u32, S)>,
    farewell: Option<S>,
}

impl<L: Io, S: Sleep> Drive<L, S> {
    pub fn new(shared: Arc<Shared<L>>, timeouts: Timeouts) -> Self {
        Self {
            shared,
            timeouts,
            timer: None,
            hold: None,
            farewell: None,
        }
    }

    /// True if the armed timer has fired.
    fn poll_timer(&mut self, armed: (Option<Timer>, u32), cx: &mut Context<'_>) -> bool {
        let (Some(timer), number) = armed else {
            self.timer = None;
            return false;
        };
        if self
            .timer
            .as_ref()
            .is_none_or(|(armed, _)| *armed != number)
        {
            self.timer = Some((number, S::new(self.timeouts.of(timer))));
        }
        let Some((_, delay)) = &mut self.timer else {
            return false;
        };
        let fired = Pin::new(&mut *delay).poll(cx).is_ready();
        if fired {
            *delay = S::new(self.timeouts.of(timer));
            // The new one has to know whom to wake.
            let _ = Pin::new(delay).poll(cx);
        }
        fired
    }

    /// True if an attempt of the remote's has been held for long enough: what its initiator has
    /// given up must not be accepted. Its path may have gone silent, so that we do not hear of
    /// that.
    fn poll_hold(&mut self, held: Option<(u32, Instant)>, cx: &mut Context<'_>) -> bool {
        let Some((number, since)) = held else {
            self.hold = None;
            return false;
        };
        if self.hold.as_ref().is_none_or(|(held, _)| *held != number) {
            let left = self.timeouts.answer.saturating_sub(since.elapsed());
            self.hold = Some((number, S::new(left)));
        }
        let over = |(_, delay): &mut (u32, S)| Pin::new(delay).poll(cx).is_ready();
        self.hold.as_mut().is_some_and(over)
    }
}

impl<L: Io, S: Sleep> Future for Drive<L, S> {
    type Output = StreamKey;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<StreamKey> {
        let this = &mut *self;
        let shared = this.shared.clone();
        shared.wakers.register(Party::Driver, cx);
        let (mut read, mut write) = shared.wakers.contexts();
        loop {
            let (armed, held, farewells, done) = shared.with(|core| {
                core.pump(&mut read, &mut write);
                let done = !core.has_background_work();
                core.driving &= !done;
                let armed = (core.timer, core.armed);
                (armed, core.held(), core.farewells().is_some(), done)
            });
            if done {
                shared.wakers.forget(Party::Driver);
                return Poll::Ready(shared.key());
            }
            if this.poll_timer(armed, cx) {
                shared.with(|core| {
                    // Somebody else may have armed it anew, or disarmed it, in the meantime.
                    if (core.timer, core.armed) == armed {
                        core.timed_out();
                    }
                });
                continue;
            }
            if this.poll_hold(held, cx) {
                this.hold = None;
                shared.with(|core| {
                    if core.held() == held {
                        core.handle(Input::HeldTooLong);
                    }
                });
                continue;
            }
            if !farewells {
                this.farewell = None;
                return Poll::Pending;
            }
            let answer = this.timeouts.answer;
            let farewell = this.farewell.get_or_insert_with(|| S::new(answer));
            if Pin::new(farewell).poll(cx).is_pending() {
                return Poll::Pending;
            }
            this.farewell = None;
            shared.with(|core| core.forget_farewells());
        }
    }
}

impl<L: Io, S> Drop for Drive<L, S> {
    /// Dropped early, with its behaviour: whatever the stream's legs still do, they do when the
    /// application polls them.
    fn drop(&mut self) {
        self.shared.wakers.forget(Party::Driver);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::RefCell,
        task::{Waker, ready},
    };

    use super::*;
    use crate::{
        key::ConnectionKey,
        machine::{Setup, Speech, StreamId},
        stream::{Budget, Leg, LegKind, Note, fake::Fake},
    };

    thread_local! {
        /// The other thread's doing while a timer fires.
        static MEANWHILE: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
    }

    /// A timer that fires at once, while somebody else has the stream.
    struct Fires;

    impl Sleep for Fires {
        fn new(_: Duration) -> Self {
            Self
        }
    }

    impl Future for Fires {
        type Output = ();

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
            let meanwhile = MEANWHILE.take();
            ready!(meanwhile.map_or(Poll::Pending, Poll::Ready))();
            Poll::Ready(())
        }
    }

    /// A stream whose `Migrate` is unanswered, polled once by a driver whose timer fires meanwhile.
    fn polled_while(meanwhile: impl FnOnce(&Shared<Fake>) + 'static) -> Vec<Note> {
        let setup = Setup {
            designated: true,
            verify: true,
            peer_verifies: false,
            speech: Speech::No,
            opener: true,
            keeps: false,
        };
        let leg = |connection| {
            Leg::new(
                Fake::default(),
                ConnectionKey::new(connection),
                LegKind::Quic,
            )
        };
        let budget = Budget::new(1 << 10, 1 << 10);
        let key = StreamKey(1);
        let shared = Shared::new(
            key,
            StreamId(0),
            setup,
            leg(0),
            None,
            budget,
            Arc::default(),
        );
        assert!(shared.start(leg(1), StreamId(2)).is_ok());
        assert!(shared.claim_drive());
        let timeouts = Timeouts {
            answer: Duration::ZERO,
            progress: Duration::ZERO,
            explain: Duration::ZERO,
            resume: Duration::ZERO,
        };
        let mut drive = Drive::<_, Fires>::new(shared.clone(), timeouts);
        let other = shared.clone();
        MEANWHILE.set(Some(Box::new(move || meanwhile(&other))));
        let mut cx = Context::from_waker(Waker::noop());
        let _ = Pin::new(&mut drive).poll(&mut cx);
        shared.take_notes()
    }

    /// The answer came in the moment in which the time for it was over: the timer that has fired is not
    /// armed any more, and says nothing.
    #[test]
    fn a_timer_that_was_disarmed_in_the_meantime_says_nothing() {
        let notes = polled_while(|shared| shared.with(|core| core.timer = None));
        assert_eq!(notes, []);
    }

    #[test]
    fn one_that_is_armed_does() {
        let failed = |note: &Note| matches!(note, Note::Failed { .. });
        assert!(polled_while(|_| {}).iter().any(failed));
    }
}
