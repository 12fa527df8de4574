//! A stream over one leg, or two while it is being migrated.
//!
//! [`Shared`] holds the machine and the legs under one lock; [`Migratable`] is the half that the
//! application reads and writes, [`Drive`] the one that moves the stream on while the application
//! polls nothing. Both see the same legs, so every leg is polled with wakers that wake both
//! (`wakers`).
//!
//! Generic over the leg (`AsyncRead + AsyncWrite + Unpin`). Knows the
//! machine and the protocol; knows nothing of swarms or policies.

mod core;
pub mod drive;
#[cfg(test)]
mod fake;
mod half;
mod kind;
mod leg;
mod moving;
mod note;
mod pump;
mod read_ahead;
mod ready;
mod replay;
#[cfg(test)]
mod tests;
mod wakers;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{AsyncRead, AsyncWrite};

pub use self::kind::LegKind;
use self::{core::Core, wakers::Wakers};
pub use self::{
    drive::{Drive, LONGEST, Timeouts, after},
    half::Migratable,
    leg::Leg,
    note::{Later, Note, Status},
    read_ahead::Budget,
    ready::ReadyQueue,
    replay::Room,
};
use crate::{
    key::{ConnectionKey, StreamKey},
    machine::{
        Abort, Facts, Input, Machine, Question, Refused, Setup, Slot, Speech, StreamId, Verdict,
    },
    protocol::codec::{self, Request},
};

/// The requirements of a leg.
pub trait Io: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Io for T {}

/// A leg that came after the stream's end, and how that was.
pub type TooLate<L> = (Leg<L>, Result<(), Abort>);

/// A stream as the table, the driver and the application share it.
pub struct Shared<L> {
    key: StreamKey,
    /// Protects the machine, the legs and what was read ahead. Held around polls of the legs, because
    /// application and driver share them; never held while a leg is dropped, a waker of ours is woken
    /// or another lock is taken. The application's polls take the stream by `&mut`, so nobody but the
    /// driver, which runs only while there is something to be done, ever holds them up.
    core: Mutex<Core<L>>,
    wakers: Wakers,
    ready: Arc<ReadyQueue>,
}

impl<L: Io> Shared<L> {
    /// A stream on its first leg. The opener's leg still has to carry the label.
    pub fn new(
        key: StreamKey,
        id: StreamId,
        setup: Setup,
        mut leg: Leg<L>,
        label: Option<Request>,
        budget: Budget,
        ready: Arc<ReadyQueue>,
    ) -> Arc<Self> {
        if let Some(label) = label {
            leg.queue(&codec::frame(&label));
        }
        Arc::new(Self {
            key,
            core: Mutex::new(Core::new(Machine::new(id, setup), leg, budget)),
            wakers: Wakers::new(),
            ready,
        })
    }

    /// Starts a migration onto `leg`, which has just been negotiated.
    pub fn start(&self, leg: Leg<L>, id: StreamId) -> Result<(), (Refused, Leg<L>)> {
        self.with(|core| match core.may_start() {
            Ok(()) => {
                core.put_leg(Slot::Ours, leg);
                core.handle(Input::Start { id });
                Ok(())
            }
            Err(refused) => Err((refused, leg)),
        })
    }

    /// Hands over a leg on which the remote's `Migrate` was read. If the stream is over, gives it back and
    /// says how that was: a `Migrate` for one that ended cleanly has to be denied (*Overtaking*).
    pub fn migrate(
        &self,
        leg: Leg<L>,
        id: StreamId,
        from: StreamId,
        verify: bool,
    ) -> Result<(), TooLate<L>> {
        self.with(|core| {
            if let Some(over) = core.machine.over() {
                return Err((leg, over));
            }
            if core.machine.replaces_theirs(from) {
                core.put_leg(Slot::Theirs, leg);
                core.handle(Input::Migrate { id, from, verify });
            } else {
                core.done_with(Box::new(leg));
            }
            Ok(())
        })
    }

    /// Does as if the application let go of the stream, which it still holds: aborts it, or if it was closed,
    /// finishes it in the background. Reads and writes fail from now on.
    pub fn let_go(&self) {
        self.with(Core::let_go);
        self.wakers.wake_all();
    }

    /// Ends the stream and gives back its only leg, if that is all it has.
    pub fn dissolve(&self) -> Option<Leg<L>> {
        self.with(Core::dissolve).map(|leg| *leg)
    }

    /// The application uses the stream as if the remote had agreed to its protocol, or it has agreed.
    pub fn set_unanswered(&self, unanswered: bool) {
        self.lock().unanswered = unanswered;
    }

    /// True if a `Migrate` from this ID is about the stream as it is, or is about to be.
    pub fn may_move_from(&self, from: StreamId) -> bool {
        self.lock().machine.may_move_from(from)
    }

    /// The policy's answer to [`Note::Ask`]. Returns whether it came in time: the remote may have given that
    /// attempt up, and begun another.
    pub fn verdict(&self, question: Question, verdict: Verdict) -> bool {
        self.with(|core| {
            let in_time = core.machine.has_asked(question);
            core.handle(Input::Verdict(question, verdict));
            in_time
        })
    }

    /// The result of [`Note::Probe`].
    pub fn probed(&self, connection: ConnectionKey, answered: bool) {
        self.with(|core| core.probed(connection, answered));
        self.wakers.wake_all();
    }

    /// The swarm says that this connection is closed. What is buffered on its legs can still be read,
    /// but nothing is waited for any more (yamux would let us wait for ever).
    pub fn connection_lost(&self, connection: ConnectionKey) {
        self.with(|core| core.connection_lost(connection));
        self.wakers.wake_all();
    }

    /// Our word on the stream, to be said.
    pub fn facts(&self) -> Facts {
        self.lock().facts()
    }

    /// True if an end was read that the remote's word is awaited on.
    pub fn awaits_word(&self) -> bool {
        self.lock().machine.awaits_word()
    }

    /// The answer on whether the remote gives its word.
    pub fn speaks(&self, speech: Speech) {
        self.with(|core| core.speaks(speech));
    }

    /// The remote's word on the stream.
    pub fn said(&self, facts: Facts) {
        self.with(|core| core.said(Input::Said(facts)));
    }

    // ---- Without a leg -----------------------------------------------------------------------------

    /// True if the stream has no leg.
    pub fn is_legless(&self) -> bool {
        self.lock().machine.is_legless()
    }

    /// True if the stream has no leg, and it is for us to get one.
    pub fn wants_leg(&self) -> bool {
        self.lock().machine.wants_leg()
    }

    /// Asks on `leg`, which has just been negotiated, that the stream go on there; our process, and the remote's, if
    /// it is known. Returns whether it has been asked.
    pub fn ask_to_resume(&self, leg: Leg<L>, id: StreamId, names: (u64, Option<u64>)) -> bool {
        self.with(|core| core.ask_to_resume(leg, id, names))
    }

    /// The attempt has had its time.
    pub fn resume_over(&self) {
        self.with(|core| core.handle(Input::ReadFailed(Slot::Ours)));
    }

    /// Hands over a leg on which the opener asks that the stream go on there.
    pub fn resume(&self, leg: Leg<L>, id: StreamId, generation: u64, facts: Facts) {
        self.with(|core| {
            if core.machine.admits(generation) {
                core.put_leg(Slot::Theirs, leg);
                core.said(Input::Resume {
                    id,
                    generation,
                    facts,
                });
            } else {
                core.done_with(Box::new(leg));
            }
        });
    }

    /// The opener asks that the stream go on, on the leg on which it begins here: its label was lost.
    pub fn resume_first(&self, id: StreamId, generation: u64, facts: Facts) {
        self.with(|core| {
            core.first_is_theirs();
            core.said(Input::Resume {
                id,
                generation,
                facts,
            });
        });
    }

    /// No leg will come.
    pub fn give_up(&self) {
        self.with(|core| {
            if core.machine.is_legless() {
                core.handle(Input::Timeout);
            }
        });
    }

    /// True if a reader waits.
    pub fn is_read(&self) -> bool {
        self.wakers.is_reading()
    }

    /// True if a writer waits for what it wrote to arrive, and nothing does.
    pub fn is_stuck(&self) -> bool {
        self.lock().is_stuck()
    }

    /// The time for this has come. Returns whether there is something to be said.
    pub fn is_later(&self, what: Later) -> bool {
        self.with(|core| core.is_due(what))
    }

    /// No connection to the remote is left.
    pub fn left_alone(&self) {
        self.with(Core::left_alone);
        self.wakers.wake_all();
    }

    /// The IDs that the stream answers to.
    pub fn ids(&self) -> Vec<StreamId> {
        self.lock().machine.ids().collect()
    }

    /// The notes of the stream since the last call.
    pub fn take_notes(&self) -> Vec<Note> {
        self.lock().take_notes()
    }

    /// The old leg of a migration that we did not initiate, to be kept for a while (*Pruning*).
    pub fn take_lingering(&self) -> Vec<Leg<L>> {
        let legs = self.lock().take_lingering();
        legs.into_iter().map(|leg| *leg).collect()
    }

    /// True if a [`Drive`] is needed and none is running; if so, the caller has to run one.
    pub fn claim_drive(&self) -> bool {
        self.lock().claim_drive()
    }

    /// The state of the stream.
    pub fn status(&self) -> Status {
        self.lock().status()
    }

    /// The permission to start a migration now, or why there is none.
    pub fn may_start(&self) -> Result<(), Refused> {
        self.lock().may_start()
    }

    pub fn key(&self) -> StreamKey {
        self.key
    }

    fn lock(&self) -> MutexGuard<'_, Core<L>> {
        // Nothing that panics leaves the machine between two states: a leg's panic is as good as its
        // error, which the next poll finds.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `f` under the lock, and after it what must not happen under it.
    fn with<R>(&self, f: impl FnOnce(&mut Core<L>) -> R) -> R {
        let mut core = self.lock();
        let result = f(&mut core);
        let after = core.take_after();
        drop(core);
        if let Some(after) = after {
            if after.wake {
                self.wakers.wake_all();
            }
            drop(after.freed);
            // Who hears that a connection has been left looks whether it is idle.
            drop(after.legs);
            if after.notify {
                self.ready.deliver(self.key);
            }
        }
        result
    }
}
