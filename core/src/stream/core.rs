//! The state under a stream's lock: the machine, its legs, and the carrying out of its outputs.

use std::{io::IoSlice, sync::Arc, time::Duration};

use web_time::Instant;

use super::{
    Io,
    leg::Leg,
    moving::Moving,
    note::{Completed, Later, Note, Status},
    read_ahead::Budget,
    read_ahead::Freed,
    read_ahead::ReadAhead,
    replay::{Replay, Room},
};
use crate::key::ConnectionKey;
use crate::{
    machine::{
        Abort, Facts, Failure, Input, Machine, Output, ReadFrom, Refused, Side, Slot, Speech,
        StreamId, Timer,
    },
    protocol::codec::{self, Ack, Request, Resume, Resumed, Switched},
};

/// Legs that only have to say a last word. One that does not fit is dropped without it.
const MAX_FAREWELLS: usize = 4;

/// The remote is told when so many bytes more have been read, or a little later.
const SAY_AFTER: u64 = 64 * 1024;

/// The most that is written at once while nothing is kept yet.
const FIRST_WRITE: usize = 256 * 1024;

/// A remote that says nothing for longer after a switch, has nothing to say.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The work to be done once the lock is released.
pub(super) struct After<L> {
    pub(super) wake: bool,
    pub(super) notify: bool,
    /// Budget that others may wait for.
    pub(super) freed: Option<Freed>,
    pub(super) legs: Vec<Box<Leg<L>>>,
}

#[derive(Debug)]
pub(super) struct Core<L> {
    pub(super) machine: Machine,
    pub(super) current: Option<Box<Leg<L>>>,
    moving: Option<Box<Moving<L>>>,
    pub(super) read_ahead: ReadAhead,
    /// The ID in its label.
    pub(super) origin: StreamId,
    room: Arc<Room>,
    /// The bytes that have not arrived, while there are any.
    replay: Option<Box<Replay>>,
    /// The next byte that is to be written again.
    again: u64,
    /// Our process, and the remote's, if it is known: for a resume.
    names: (u64, Option<u64>),
    /// Bytes that have been read since that was said last.
    unsaid: u64,
    /// Marks of what is to be done later.
    later: [bool; 2],
    /// The armed timer.
    pub(super) timer: Option<Timer>,
    /// The number of times that timers have been armed.
    pub(super) armed: u32,
    /// True if closing was reported as done to the application.
    pub(super) close_reported: bool,
    /// The remote has still to agree to what the application takes for agreed.
    pub(super) unanswered: bool,
    /// The application dropped the stream: what comes in is discarded.
    pub(super) dropped: bool,
    pub(super) driving: bool,
    /// No connection to the remote is left.
    alone: bool,
    /// True if there is something to be read on the old leg, and no room for it.
    pub(super) stalled: bool,
    /// An end has been read, and what it is worth was not known when it was asked last.
    pub(super) unsettled: bool,
    connection: Option<ConnectionKey>,
    notes: Vec<Note>,
    done_with: Vec<Box<Leg<L>>>,
    wake: bool,
    delivered: bool,
    /// Something may have to be done after the lock is released, which reads and writes alone never cause.
    touched: bool,
}

impl<L: Io> Core<L> {
    pub(super) fn new(machine: Machine, leg: Leg<L>, budget: Budget) -> Self {
        Self {
            origin: machine.id(),
            machine,
            connection: Some(leg.connection()),
            current: Some(Box::new(leg)),
            moving: None,
            room: budget.room.clone(),
            read_ahead: ReadAhead::new(budget),
            replay: None,
            again: 0,
            names: (0, None),
            unsaid: 0,
            later: [false; 2],
            timer: None,
            armed: 0,
            close_reported: false,
            unanswered: false,
            dropped: false,
            driving: false,
            alone: false,
            stalled: false,
            unsettled: false,
            notes: Vec::new(),
            done_with: Vec::new(),
            wake: false,
            delivered: false,
            touched: true,
        }
    }

    pub(super) fn leg(&mut self, slot: Slot) -> Option<&mut Leg<L>> {
        match slot {
            Slot::Current => self.current.as_deref_mut(),
            _ => self.moving.as_mut()?.place(slot)?.as_deref_mut(),
        }
    }

    fn take_leg(&mut self, slot: Slot) -> Option<Box<Leg<L>>> {
        match slot {
            Slot::Current => self.current.take(),
            _ => self.moving.as_mut()?.place(slot)?.take(),
        }
    }

    fn put(&mut self, slot: Slot, leg: Option<Box<Leg<L>>>) {
        let place = match slot {
            Slot::Current => Some(&mut self.current),
            _ => self.moving().place(slot),
        };
        let replaced = place.and_then(|place| std::mem::replace(place, leg));
        self.done_with.extend(replaced);
    }

    pub(super) fn put_leg(&mut self, slot: Slot, leg: Leg<L>) {
        if slot == Slot::Theirs {
            let since = leg.arrived().unwrap_or_else(Instant::now);
            let moving = self.moving();
            let number = moving.theirs_came.map_or(0, |(number, _)| number);
            moving.theirs_came = Some((number.wrapping_add(1), since));
        }
        self.put(slot, Some(Box::new(leg)));
        // Somebody has to poll it, though the machine may have nothing to say about it.
        self.wake = true;
        self.touched = true;
    }

    /// The number of the remote's last attempt, and when it came.
    fn theirs_came(&self) -> Option<(u32, Instant)> {
        self.moving.as_ref()?.theirs_came
    }

    /// The remote's attempt that is held, by its number, and when it came.
    pub(super) fn held(&self) -> Option<(u32, Instant)> {
        self.machine.holds_theirs().then(|| self.theirs_came())?
    }

    fn moving(&mut self) -> &mut Moving<L> {
        self.moving.get_or_insert_default()
    }

    /// Legs that only have to say a last word.
    pub(super) fn farewells(&mut self) -> Option<&mut Vec<Box<Leg<L>>>> {
        let farewells = &mut self.moving.as_mut()?.farewells;
        (!farewells.is_empty()).then_some(farewells)
    }

    fn connection_of(&mut self, slot: Slot) -> Option<ConnectionKey> {
        self.leg(slot).map(|leg| leg.connection())
    }

    /// Gives the machine an input and carries out what it says.
    pub(super) fn handle(&mut self, input: Input) {
        self.touched = true;
        let leg = self.moving.as_ref().and_then(|moving| moving.foremost());
        let span = leg.map_or_else(tracing::Span::none, Leg::span);
        let _entered = span.enter();
        tracing::trace!(id = self.machine.id().0, ?input);
        let reads_old_leg = |machine: &Machine| {
            machine.is_migrating() && machine.read_from() == ReadFrom::Leg(Slot::Current)
        };
        let before = reads_old_leg(&self.machine);
        self.machine.handle(input);
        // Whether that is because of the switch is only known when the migration is, and then it may be
        // over at once.
        if before && !reads_old_leg(&self.machine) {
            self.moving().paused_at = Some(Instant::now());
        }
        self.carry_out_all();
    }

    /// Counts bytes that have been read from where the machine says.
    #[inline]
    pub(super) fn has_read(&mut self, n: usize) {
        self.machine.read(n as u64);
        if self.machine.keeps() {
            self.acknowledge(n as u64);
        }
        if self.machine.has_read_all() {
            self.handle(Input::ReadAll);
        }
    }

    fn carry_out_all(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            tracing::trace!(id = self.machine.id().0, ?output);
            self.carry_out(output);
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::SendMigrate { id, from, verify } => {
                let migrate = Request::Migrate { id, from, verify };
                self.queue(Slot::Ours, &codec::frame(&migrate));
            }
            Output::Ask(question) => {
                if let Some((_, since)) = self.theirs_came()
                    && let Some(to) = self.connection_of(Slot::Theirs)
                {
                    self.notes.push(Note::Ask {
                        to,
                        question,
                        since,
                    });
                }
            }
            Output::Accept { verify } => {
                let mut leg = self.take_leg(Slot::Theirs);
                if let Some(leg) = &mut leg {
                    leg.answered();
                    self.moving().accepted_on = Some(leg.connection());
                }
                self.put(Slot::New, leg);
                let ack = Ack {
                    deny: false,
                    verify,
                };
                self.queue(Slot::New, &codec::frame(&ack));
            }
            Output::Deny => {
                let ack = Ack {
                    deny: true,
                    verify: false,
                };
                self.queue(Slot::Theirs, &codec::frame(&ack));
                let leg = self.take_leg(Slot::Theirs);
                self.say_farewell(leg);
            }
            Output::Cancel => {
                // A `Migrate` that is still queued was never heard of.
                let leg = self.take_leg(Slot::Ours);
                match leg {
                    Some(mut leg) if !leg.has_queued() => {
                        leg.queue(&codec::frame(&Switched::Cancelled));
                        self.say_farewell(Some(leg));
                    }
                    leg => self.done_with.extend(leg),
                }
            }
            Output::Drop(slot) => {
                let leg = self.take_leg(slot);
                self.done_with.extend(leg);
            }
            Output::Agreed { initiator, .. } => {
                if initiator {
                    let leg = self.take_leg(Slot::Ours);
                    self.put(Slot::New, leg);
                }
                let moving = self.moving();
                moving.agreed_at = Some(Instant::now());
                moving.initiated = initiator;
                let ends = (
                    self.connection_of(Slot::Current),
                    self.connection_of(Slot::New),
                );
                // Who agrees to the next migration has completed this one.
                self.confirm();
                if let (Some(from), Some(to)) = ends {
                    self.notes.push(Note::Agreed {
                        from,
                        to,
                        initiator: Side::of(initiator),
                    });
                }
            }
            Output::SendSwitched(sent) => {
                self.queue(Slot::New, &codec::frame(&Switched::Sent(sent)));
                self.connection = self.connection_of(Slot::New);
            }
            Output::Close(slot) => {
                if let Some(leg) = self.leg(slot) {
                    leg.close();
                }
            }
            Output::Complete { initiator } => self.complete(initiator),
            Output::Failed(failure) => self.failed(failure, Side::Local),
            Output::TheirsFailed(failure) => self.failed(failure, Side::Remote),
            Output::Arm(timer) => {
                self.timer = Some(timer);
                self.armed = self.armed.wrapping_add(1);
            }
            Output::Disarm => self.timer = None,
            Output::Probe(slot) => {
                if let Some(connection) = self.connection_of(slot) {
                    self.notes.push(Note::Probe { connection });
                }
            }
            Output::Say => self.notes.push(Note::Say),
            Output::Suspend => self.suspend(),
            Output::SendResume { id, generation } => {
                let (epoch, remote) = self.names;
                let resume = Resume {
                    epoch,
                    remote,
                    origin: self.origin,
                    generation,
                    facts: self.facts(),
                };
                self.queue(Slot::Ours, &codec::frame(&Request::Resume { id, resume }));
            }
            Output::Resume { slot, from } => self.go_on(slot, from),
            Output::Abort(abort) => {
                self.forget_legs();
                self.forget_farewells();
                self.notes.push(Note::Over(Err(abort)));
            }
            Output::Leave => {
                if let Some(leg) = self.current.take_if(|leg| leg.is_unflushed()) {
                    self.see_off(leg);
                }
                self.forget_legs();
                self.notes.push(Note::Over(Err(Abort::Dropped)));
            }
            Output::Finish => {
                // A last word, such as a deny, is still said.
                if let Some(moving) = &mut self.moving {
                    moving.lingering.extend(moving.unconfirmed.take());
                }
                // What was written may be on its way for long after its close, and the connection is not to
                // be idle meanwhile.
                if self.dropped
                    && let Some(leg) = self.take_leg(Slot::Current)
                {
                    match leg.is_lost() || leg.is_answered() {
                        true => self.done_with.push(leg),
                        false => self.moving().lingering.push(leg),
                    }
                }
                self.forget_legs();
                self.notes.push(Note::Over(Ok(())));
            }
        }
        // Whoever waits may be waiting for another leg, or for nothing, now.
        self.wake = true;
    }

    fn queue(&mut self, slot: Slot, message: &[u8]) {
        if let Some(leg) = self.leg(slot) {
            leg.queue(message);
            leg.flush_soon();
        }
    }

    /// The leg says what is queued and closes: a bare drop could overtake the message.
    fn say_farewell(&mut self, leg: Option<Box<Leg<L>>>) {
        if let Some(mut leg) = leg {
            leg.close();
            self.see_off(leg);
        }
    }

    /// The leg says what is queued, and is dropped.
    fn see_off(&mut self, leg: Box<Leg<L>>) {
        let farewells = &mut self.moving().farewells;
        if farewells.len() < MAX_FAREWELLS {
            farewells.push(leg);
        } else {
            self.done_with.push(leg);
        }
    }

    fn failed(&mut self, failure: Failure, initiator: Side) {
        if !self.machine.is_migrating()
            && let Some(moving) = &mut self.moving
        {
            // The old leg goes on, or its end was the stream's.
            moving.paused_at = None;
        }
        let to = self.moving.as_ref().and_then(|moving| moving.accepted_on);
        self.notes.push(Note::Failed {
            failure,
            initiator,
            to: to.filter(|_| !initiator.is_local()),
        });
    }

    fn complete(&mut self, initiator: bool) {
        let Some(mut new) = self.take_leg(Slot::New) else {
            return;
        };
        new.clear_span();
        let to = new.connection();
        self.connection = Some(to);
        let (confirmed, new_leg) = (new.has_heard(), new.counts());
        let Some(old) = self.current.replace(new) else {
            return;
        };
        let agreed_at = self.moving().agreed_at;
        self.notes.push(Note::Completed(Completed {
            from: old.connection(),
            to,
            initiator: Side::of(initiator),
            old_leg: old.counts(),
            new_leg,
            confirmed,
            agreed_at: agreed_at.unwrap_or_else(Instant::now),
        }));
        if old.is_lost() || initiator && confirmed {
            self.done_with.push(old);
        } else if initiator {
            self.moving().unconfirmed = Some(old);
        } else {
            self.moving().lingering.push(old);
        }
    }

    /// The first byte after a switch may have been read.
    fn resume(&mut self) {
        let slot = match self.machine.read_from() {
            ReadFrom::Leg(slot) => slot,
            ReadFrom::Hold => return,
            // It never will be.
            ReadFrom::Ended | ReadFrom::Aborted(_) => {
                self.moving.iter_mut().for_each(|it| it.paused_at = None);
                return;
            }
        };
        let heard = |leg: &mut Leg<L>| (leg.counts().1 > 0).then_some(leg.connection());
        if let Some(connection) = self.leg(slot).and_then(heard)
            && let Some(moving) = &mut self.moving
            && let Some(paused_at) = moving.paused_at.take()
        {
            self.notes.push(Note::Resumed {
                connection,
                initiator: Side::of(moving.initiated),
                gap: paused_at.elapsed(),
            });
        }
    }

    /// The remote has read our end of the old leg.
    fn confirm(&mut self) {
        let moving = self.moving.as_mut();
        if let Some(old) = moving.and_then(|moving| moving.unconfirmed.take()) {
            let from = old.connection();
            self.notes.push(Note::Confirmed { from });
            self.done_with.push(old);
        }
    }

    fn forget_legs(&mut self) {
        let theirs = self.take_leg(Slot::Theirs);
        self.done_with.extend(theirs);
        self.forget_own_legs();
    }

    /// All but that of a request of the remote's.
    fn forget_own_legs(&mut self) {
        for slot in [Slot::Current, Slot::Ours, Slot::New] {
            let leg = self.take_leg(slot);
            self.done_with.extend(leg);
        }
        if let Some(moving) = &mut self.moving {
            self.done_with.extend(moving.unconfirmed.take());
        }
    }

    pub(super) fn forget_farewells(&mut self) {
        if let Some(moving) = &mut self.moving {
            self.done_with.append(&mut moving.farewells);
            self.touched = true;
        }
    }

    pub(super) fn note(&mut self, note: Note) {
        self.notes.push(note);
        self.touched = true;
    }

    /// Something has to be done after the lock is released.
    pub(super) fn touch(&mut self) {
        self.touched = true;
    }

    pub(super) fn done_with(&mut self, leg: Box<Leg<L>>) {
        self.done_with.push(leg);
        self.touched = true;
    }

    /// Ends the stream, and gives back its only leg.
    pub(super) fn dissolve(&mut self) -> Option<Box<Leg<L>>> {
        if self.current.as_deref().is_none_or(Leg::is_unflushed) || !self.machine.dissolve() {
            return None;
        }
        let leg = self.current.take();
        self.carry_out_all();
        self.touched = true;
        leg
    }

    pub(super) fn may_start(&self) -> Result<(), Refused> {
        self.machine.may_start()
    }

    // ---- Without a leg -----------------------------------------------------------------------------

    fn suspend(&mut self) {
        self.forget_own_legs();
        self.connection = None;
        (self.stalled, self.unsettled) = (false, false);
        if let Some(replay) = &mut self.replay {
            replay.stop_sliding();
        }
        if let Some(moving) = &mut self.moving {
            moving.paused_at = None;
        }
        self.notes.push(Note::Suspended);
    }

    pub(super) fn ask_to_resume(
        &mut self,
        leg: Leg<L>,
        id: StreamId,
        names: (u64, Option<u64>),
    ) -> bool {
        let wanted = self.machine.wants_leg();
        if wanted {
            self.names = names;
            self.put_leg(Slot::Ours, leg);
            self.handle(Input::Start { id });
        } else {
            self.done_with(Box::new(leg));
        }
        wanted
    }

    pub(super) fn first_is_theirs(&mut self) {
        let leg = self.take_leg(Slot::Current);
        self.put(Slot::Theirs, leg);
    }

    fn go_on(&mut self, slot: Slot, from: u64) {
        let Some(mut leg) = self.take_leg(slot) else {
            return;
        };
        if slot == Slot::Theirs {
            leg.answered();
            let facts = self.facts();
            leg.queue(&codec::frame(&Resumed::Facts(self.origin, facts)));
            leg.flush_soon();
        }
        leg.clear_span();
        let connection = leg.connection();
        self.connection = Some(connection);
        self.alone = false;
        self.put(Slot::Current, Some(leg));
        self.again = from;
        let again = self.machine.counts().0.saturating_sub(from);
        self.notes.push(Note::GoesOn { connection, again });
    }

    /// The application closes its write side, and waits for the remote to have all of it.
    pub(super) fn close_write(&mut self) {
        self.handle(Input::CloseWrite);
        if self.machine.awaits_arrival() {
            self.note(Note::Waits);
        }
    }

    /// Takes the remote's word, which may make room.
    pub(super) fn said(&mut self, input: Input) {
        let done = self.machine.is_done_with();
        self.handle(input);
        self.wake |= self.machine.is_done_with() != done;
        let acknowledged = self.machine.acknowledged();
        if let Some(replay) = &mut self.replay {
            let before = replay.start();
            replay.acknowledge(acknowledged);
            self.wake |= replay.start() > before;
            if replay.is_empty() {
                self.replay = None;
            }
        }
        self.keep_or_not();
    }

    pub(super) fn speaks(&mut self, speech: Speech) {
        self.handle(Input::Speaks(speech));
        self.keep_or_not();
    }

    fn keep_or_not(&mut self) {
        if !self.machine.keeps() && self.replay.take().is_some() {
            self.wake = true;
        }
    }

    /// Our word on the stream, which is about to be said.
    pub(super) fn facts(&mut self) -> Facts {
        self.unsaid = 0;
        self.machine.facts()
    }

    /// Arranges for it to be said, now or soon, that so many more bytes have been read.
    fn acknowledge(&mut self, n: u64) {
        self.unsaid += n;
        if self.unsaid >= SAY_AFTER {
            self.unsaid = 0;
            self.note(Note::Say);
        } else {
            self.later(Later::Say);
        }
    }

    fn later(&mut self, what: Later) {
        if !std::mem::replace(&mut self.later[what as usize], true) {
            self.note(Note::Later(what));
        }
    }

    /// That time has come. Returns whether there is anything to be said.
    pub(super) fn is_due(&mut self, what: Later) -> bool {
        self.later[what as usize] = false;
        match what {
            Later::Say => self.unsaid > 0,
            Later::Slide => {
                if self.is_stuck() {
                    self.slide();
                } else if self.replay.as_ref().is_some_and(|replay| replay.is_full()) {
                    self.later(Later::Slide);
                }
                false
            }
        }
    }

    /// The bytes that may be written: all, if nothing is kept of them.
    #[inline]
    pub(super) fn space(&mut self) -> usize {
        match (&mut self.replay, self.machine.keeps()) {
            (_, false) => usize::MAX,
            (None, true) if self.machine.waits_for_leg() => {
                self.room.per_stream.min(FIRST_WRITE).min(self.room.left())
            }
            (None, true) => self.room.per_stream.min(FIRST_WRITE),
            (Some(_), true) => self.space_left(),
        }
    }

    fn space_left(&mut self) -> usize {
        let on_leg = !self.machine.waits_for_leg();
        let space = self
            .replay
            .as_mut()
            .map_or(0, |replay| replay.space(on_leg));
        if space == 0 && on_leg {
            self.later(Later::Slide);
        }
        space
    }

    /// Keeps the first `n` bytes, which have been written, or will be.
    pub(super) fn keep(&mut self, bufs: &[IoSlice<'_>], mut n: usize) {
        let sent = self.machine.counts().0;
        let on_leg = !self.machine.waits_for_leg();
        if self.replay.is_none() && n > 0 {
            self.note(Note::Waits);
        }
        let replay = self
            .replay
            .get_or_insert_with(|| Box::new(Replay::new(self.room.clone(), sent)));
        for buf in bufs {
            let now = n.min(buf.len());
            replay.push(&buf[..now], on_leg);
            n -= now;
        }
        self.machine.slid_to(replay.start());
    }

    pub(super) fn is_stuck(&self) -> bool {
        let stuck = self.replay.as_ref().is_some_and(|it| it.is_stuck());
        stuck && self.machine.may_slide()
    }

    /// The writer has waited, and the remote has answered meanwhile; still nothing has arrived: the oldest make room.
    fn slide(&mut self) {
        if let Some(replay) = &mut self.replay {
            replay.slide();
            self.wake = true;
            self.touched = true;
        }
    }

    pub(super) fn is_resumable(&self) -> bool {
        self.machine.resumes() && !self.machine.has_slid()
    }

    /// The bytes that are to be written again, or a part of them.
    pub(super) fn next_to_replay(&mut self) -> Option<(Option<&[u8]>, &mut Leg<L>)> {
        let leg = self.current.as_deref_mut()?;
        let all = self.machine.counts().0 == self.again;
        let bytes = match &self.replay {
            Some(replay) => replay.from(self.again),
            None => all.then_some(&[][..]),
        };
        Some((bytes, leg))
    }

    pub(super) fn replayed(&mut self, n: usize) {
        self.again += n as u64;
    }

    /// All is written again. What waited for that, may go to the leg now.
    pub(super) fn replayed_all(&mut self) {
        self.handle(Input::Replayed);
        self.wake = true;
    }

    // ---- Losses ------------------------------------------------------------------------------------

    pub(super) fn connection_lost(&mut self, connection: ConnectionKey) {
        if self.machine.resumes() {
            for slot in [Slot::Ours, Slot::Theirs, Slot::New, Slot::Current] {
                if self.connection_of(slot) == Some(connection) {
                    self.handle(Input::Lost(slot));
                }
            }
        }
        // These carry nothing of the application's that could still be read.
        for slot in [Slot::Ours, Slot::Theirs] {
            if self.connection_of(slot) == Some(connection) {
                self.handle(Input::ReadFailed(slot));
            }
        }
        for slot in [Slot::Current, Slot::New] {
            if let Some(leg) = self.leg(slot)
                && leg.connection() == connection
            {
                leg.set_lost();
            }
        }
        // Nor does a new leg to which our reader has not come; without it there is no going on.
        let reads_new = ReadFrom::Leg(Slot::New);
        if self.connection_of(Slot::New) == Some(connection)
            && ![reads_new, ReadFrom::Ended].contains(&self.machine.read_from())
        {
            self.handle(Input::ReadFailed(Slot::New));
        }
        if let Some(moving) = &mut self.moving {
            for leg in &mut moving.farewells {
                if leg.connection() == connection {
                    leg.set_lost();
                }
            }
            let lingering = &mut moving.lingering;
            let lost = lingering.extract_if(.., |leg| leg.connection() == connection);
            self.done_with.extend(lost);
            let unconfirmed = &mut moving.unconfirmed;
            let lost = unconfirmed.take_if(|leg| leg.connection() == connection);
            self.done_with.extend(lost);
        }
        self.wake = true;
        self.touched = true;
    }

    /// The last connection to the remote is gone: nothing explains an end any more.
    pub(super) fn left_alone(&mut self) {
        self.alone = true;
        self.give_up_explaining();
    }

    pub(super) fn give_up_explaining(&mut self) {
        if self.alone && self.machine.awaits_word() {
            self.handle(Input::ReadFailed(match self.machine.is_agreed() {
                true => Slot::New,
                false => Slot::Current,
            }));
        }
    }

    pub(super) fn probed(&mut self, connection: ConnectionKey, answered: bool) {
        if answered {
            return self.handle(Input::ProbeAnswered);
        }
        for slot in [Slot::Current, Slot::New] {
            if self.connection_of(slot) == Some(connection) {
                // What has come on it is still to be read, when there is room.
                let unread = slot == Slot::Current && self.stalled && self.machine.is_agreed();
                return self.handle(match unread {
                    true => Input::WriteFailed(slot),
                    false => Input::ProbeFailed(slot),
                });
            }
        }
    }

    /// The armed timer has fired. Time in which only our own reader can help does not count.
    pub(super) fn timed_out(&mut self) {
        if !(self.stalled && self.machine.waits_for_reader()) {
            self.handle(Input::Timeout);
        }
    }

    /// The application does not want the stream any more.
    pub(super) fn let_go(&mut self) {
        if std::mem::replace(&mut self.dropped, true) {
            return;
        }
        self.read_ahead.discard();
        self.touch();
        let closed = self.close_reported;
        // A yamux leg that is dropped after our close says nothing, and the remote may write.
        let slot = self.machine.closes();
        let leg = self.leg(slot);
        let told = leg.is_some_and(|leg| leg.kind().may_tell_of_drops());
        let answered = !self.unanswered || !told;
        self.handle(Input::Dropped { closed, answered });
    }

    pub(super) fn has_background_work(&self) -> bool {
        self.machine.has_background_work()
            || self
                .moving
                .as_ref()
                .is_some_and(|moving| !moving.farewells.is_empty())
            || self.current.as_deref().is_some_and(Leg::is_unflushed)
    }

    pub(super) fn claim_drive(&mut self) -> bool {
        let claim = !self.driving && self.has_background_work();
        self.driving |= claim;
        claim
    }

    pub(super) fn take_notes(&mut self) -> Vec<Note> {
        self.delivered = false;
        std::mem::take(&mut self.notes)
    }

    pub(super) fn take_lingering(&mut self) -> Vec<Box<Leg<L>>> {
        let lingering = match &mut self.moving {
            Some(moving) => std::mem::take(&mut moving.lingering),
            None => Vec::new(),
        };
        self.stop_moving();
        lingering
    }

    pub(super) fn status(&self) -> Status {
        let (sent, received) = self.machine.counts();
        Status {
            id: self.machine.id(),
            connection: self.connection,
            sent,
            received,
            migrating: self.machine.is_migrating(),
            in_doubt: self.machine.is_in_doubt(),
            peer_verifies: self.machine.peer_verifies(),
            resumable: self.is_resumable(),
            unarrived: self.machine.awaits_arrival(),
            asked: self.machine.is_asking(),
            ended: self.machine.has_ended(),
            unanswered: self.unanswered,
        }
    }

    #[inline]
    pub(super) fn take_after(&mut self) -> Option<After<L>> {
        if !self.touched && self.moving.is_none() {
            return None;
        }
        self.tidy_up()
    }

    /// A test's old leg that has ended.
    #[cfg(test)]
    pub(super) fn pause(&mut self, since: Instant) {
        self.moving().paused_at = Some(since);
    }

    #[cfg(test)]
    pub(super) fn is_moving(&self) -> bool {
        self.moving.is_some()
    }

    fn stop_moving(&mut self) {
        let migrating = self.machine.is_migrating();
        self.moving.take_if(|moving| !migrating && moving.is_over());
    }

    fn tidy_up(&mut self) -> Option<After<L>> {
        self.touched = false;
        if let Some(moving) = &mut self.moving {
            let long = |since: &mut Instant| since.elapsed() > LONGEST_PAUSE;
            moving.paused_at.take_if(long);
            let unconfirmed = moving.unconfirmed.is_some();
            if unconfirmed && self.current.as_deref().is_some_and(Leg::has_heard) {
                self.confirm();
            }
            self.resume();
        }
        self.stop_moving();
        let news = !self.notes.is_empty() || !self.driving && self.has_background_work();
        let notify = news && !self.delivered;
        let freed = self.read_ahead.take_freed();
        if !self.wake && !notify && freed.is_none() && self.done_with.is_empty() {
            return None;
        }
        self.delivered |= notify;
        Some(After {
            wake: std::mem::take(&mut self.wake),
            notify,
            freed,
            legs: std::mem::take(&mut self.done_with),
        })
    }
}
