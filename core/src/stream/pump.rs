//! Moving a migration on: everything that is neither the application's read nor its write.

use std::{
    io,
    task::{Context, Poll},
};

use super::{Io, core::Core, note::Note};
use crate::{
    machine::{Eof, Input, Proof, ReadFrom, Slot},
    protocol::codec::{Ack, ReadError, Resumed, Switched},
};

/// Limits what is read at once that nobody will ask for.
const DISCARDED: usize = 4096;

impl<L: Io> Core<L> {
    /// Does what can be done now. Called by whoever polls the stream while it migrates, and by its
    /// driver; afterwards the legs' wakers are registered for whatever is still awaited.
    pub(super) fn pump(&mut self, read: &mut Context<'_>, write: &mut Context<'_>) {
        self.say_farewells(write);
        while self.hear_answer(read, write)
            || self.hear_remote_attempt(read)
            || self.send_messages(write)
            || self.replay(write)
            || self.hear_count(read)
            || self.watch_new_leg(read, write)
            || self.close_legs(write)
            || self.read_old_leg(read, write)
            || self.check_ended(read)
        {}
    }

    fn say_farewells(&mut self, write: &mut Context<'_>) {
        let Some(farewells) = self.farewells() else {
            return;
        };
        let said = farewells.extract_if(.., |leg| {
            let polled = match leg.is_closing() {
                true => leg.poll_close(write),
                false => leg.poll_flush(write),
            };
            polled.is_ready()
        });
        for leg in said.collect::<Vec<_>>() {
            self.done_with(leg);
        }
    }

    /// Takes what a leg said in place of a message.
    fn misheard(&mut self, slot: Slot, error: &ReadError) {
        if error.is_violation() {
            self.note(Note::Violation);
            self.handle(Input::Unexpected(slot));
        } else {
            self.read_failed(slot, error);
        }
    }

    pub(super) fn read_failed(&mut self, slot: Slot, error: &dyn std::fmt::Display) {
        self.log(slot, "reading", error);
        self.handle(Input::ReadFailed(slot));
    }

    pub(super) fn write_failed(&mut self, slot: Slot, error: &io::Error) {
        self.log(slot, "writing", error);
        self.handle(Input::WriteFailed(slot));
    }

    /// Logs what a leg says, which is lost otherwise: the application is told what it means for the
    /// stream.
    fn log(&mut self, slot: Slot, what: &'static str, error: &dyn std::fmt::Display) {
        let id = self.machine.id().0;
        let connection = self.leg(slot).map(|leg| leg.connection());
        tracing::debug!(id, ?slot, ?connection, %error, "{what} failed on a leg");
    }

    /// Reads the answer to our attempt: `Migrate` out, `AckMigrate` in.
    fn hear_answer(&mut self, read: &mut Context<'_>, write: &mut Context<'_>) -> bool {
        if !self.machine.awaits_answer() {
            return false;
        }
        let resuming = self.machine.is_legless();
        let Some(leg) = self.leg(Slot::Ours) else {
            return false;
        };
        match leg.poll_flush(write) {
            Poll::Ready(Err(error)) => self.write_failed(Slot::Ours, &error),
            _ if leg.has_queued() => return false,
            _ if resuming => return self.hear_resumed(read),
            _ => match leg.poll_message::<Ack>(read) {
                Poll::Pending => return false,
                Poll::Ready(Ok(Ack { deny, verify })) => {
                    self.handle(Input::Answered { deny, verify });
                }
                Poll::Ready(Err(error)) => self.misheard(Slot::Ours, &error),
            },
        }
        true
    }

    /// Reads the acceptor's answer: that the stream goes on, or why not.
    fn hear_resumed(&mut self, read: &mut Context<'_>) -> bool {
        let origin = self.origin;
        let Some(leg) = self.leg(Slot::Ours) else {
            return false;
        };
        match leg.poll_message::<Resumed>(read) {
            Poll::Pending => return false,
            Poll::Ready(Ok(Resumed::Facts(of, facts))) if of == origin => {
                leg.set_heard();
                self.said(Input::Resumed(facts));
            }
            Poll::Ready(Ok(Resumed::NotNow)) => self.handle(Input::ReadFailed(Slot::Ours)),
            Poll::Ready(Ok(Resumed::Facts(..))) => {
                self.note(Note::Violation);
                self.handle(Input::Unexpected(Slot::Ours));
            }
            Poll::Ready(Err(error)) => self.misheard(Slot::Ours, &error),
        }
        true
    }

    /// Writes again what the remote has not got.
    fn replay(&mut self, write: &mut Context<'_>) -> bool {
        if !self.machine.is_replaying() {
            return false;
        }
        let Some((bytes, leg)) = self.next_to_replay() else {
            return false;
        };
        let Some(bytes) = bytes else {
            // Never a gap.
            let error = io::Error::other("what is to be written again is not kept any more");
            self.write_failed(Slot::Current, &error);
            return true;
        };
        if bytes.is_empty() {
            leg.flush_soon();
            self.replayed_all();
            return true;
        }
        match leg.poll_write(write, &[io::IoSlice::new(bytes)]) {
            Poll::Pending => return false,
            Poll::Ready(Ok(n)) => self.replayed(n),
            Poll::Ready(Err(error)) => self.write_failed(Slot::Current, &error),
        }
        true
    }

    /// The remote's attempt, unanswered: nothing may come but that it is taken back.
    fn hear_remote_attempt(&mut self, read: &mut Context<'_>) -> bool {
        let Some(leg) = self.leg(Slot::Theirs) else {
            return false;
        };
        match leg.poll_message::<Switched>(read) {
            Poll::Pending => return false,
            Poll::Ready(Ok(Switched::Cancelled)) => self.handle(Input::Cancelled(Slot::Theirs)),
            Poll::Ready(Ok(Switched::Sent(_))) => {
                self.note(Note::Violation);
                self.handle(Input::Unexpected(Slot::Theirs));
            }
            Poll::Ready(Err(error)) => self.misheard(Slot::Theirs, &error),
        }
        true
    }

    /// Writes and flushes our messages. Agreed is, for a responder, having written the ack: what
    /// follows needs no flush to be true.
    fn send_messages(&mut self, write: &mut Context<'_>) -> bool {
        // A flush that fails after it comes too late: the remote may have read the ack.
        if self.machine.awaits_ack_written()
            && let Some(leg) = self.leg(Slot::New)
            && matches!(leg.poll_queued(write), Poll::Ready(Ok(())))
        {
            self.handle(Input::AnswerWritten);
            return true;
        }
        for slot in [Slot::Current, Slot::New] {
            let Some(leg) = self.leg(slot) else { continue };
            if !leg.is_unflushed() {
                continue;
            }
            if let Poll::Ready(Err(error)) = leg.poll_flush(write) {
                leg.give_up_flushing();
                self.write_failed(slot, &error);
                return true;
            }
        }
        false
    }

    fn hear_count(&mut self, read: &mut Context<'_>) -> bool {
        if !self.machine.awaits_count() {
            return false;
        }
        let Some(leg) = self.leg(Slot::New) else {
            return false;
        };
        match leg.poll_message::<Switched>(read) {
            Poll::Pending => return false,
            Poll::Ready(Ok(Switched::Sent(sent))) => {
                leg.set_heard();
                self.handle(Input::Switched(sent));
            }
            Poll::Ready(Ok(Switched::Cancelled)) => self.handle(Input::Cancelled(Slot::New)),
            Poll::Ready(Err(error)) => self.misheard(Slot::New, &error),
        }
        true
    }

    /// Nobody reads the new leg as long as there is something on the old one, and it may be reset meanwhile.
    /// What is there to be read, stays; so does an end, unless a leg whose resets look like one says that
    /// it was none.
    fn watch_new_leg(&mut self, read: &mut Context<'_>, write: &mut Context<'_>) -> bool {
        if !self.machine.is_before_new() {
            return false;
        }
        let closed = self.machine.has_closed_new();
        let Some(leg) = self.leg(Slot::New) else {
            return false;
        };
        match leg.poll_peek(read) {
            Poll::Ready(Err(error)) => self.read_failed(Slot::New, &error),
            Poll::Ready(Ok(false)) if !closed && leg.poll_is_reset(write).is_ready() => {
                let error = io::Error::from(io::ErrorKind::ConnectionReset);
                self.read_failed(Slot::New, &error);
            }
            Poll::Ready(Ok(_)) | Poll::Pending => return false,
        }
        true
    }

    fn close_legs(&mut self, write: &mut Context<'_>) -> bool {
        for slot in [Slot::Current, Slot::New] {
            let Some(leg) = self.leg(slot) else { continue };
            if !leg.is_closing() {
                continue;
            }
            match leg.poll_close(write) {
                Poll::Pending => continue,
                Poll::Ready(Ok(())) => self.handle(Input::Closed(slot)),
                Poll::Ready(Err(error)) => self.write_failed(slot, &error),
            }
            return true;
        }
        false
    }

    /// Reads the old leg to its end, for an application that does not read; and what comes for one that
    /// has let go of the stream.
    fn read_old_leg(&mut self, read: &mut Context<'_>, write: &mut Context<'_>) -> bool {
        self.stalled = false;
        if !self.machine.is_agreed() && !self.machine.discards()
            || self.machine.read_from() != ReadFrom::Leg(Slot::Current)
        {
            return false;
        }
        let Some(leg) = &mut self.current else {
            return false;
        };
        let polled = match self.dropped {
            true => leg.poll_read(read, &mut [0; DISCARDED]),
            false => match self.read_ahead.poll_fill(leg, read) {
                Some(polled) => polled,
                None => {
                    self.stalled = true;
                    return false;
                }
            },
        };
        match polled {
            Poll::Pending => return false,
            Poll::Ready(Ok(0)) => return self.poll_end(Slot::Current, write).is_ready(),
            Poll::Ready(Ok(n)) => self.has_read(n),
            Poll::Ready(Err(error)) => self.read_failed(Slot::Current, &error),
        }
        true
    }

    /// A direction that has ended must end on every later leg too, without data.
    fn check_ended(&mut self, read: &mut Context<'_>) -> bool {
        let Some(slot) = self.machine.check() else {
            return false;
        };
        let Some(leg) = self.leg(slot) else {
            return false;
        };
        match leg.poll_read(read, &mut [0]) {
            Poll::Pending => return false,
            Poll::Ready(Ok(0)) => {
                self.handle(Input::End(slot, Eof::new(Proof::Unavailable, false)));
            }
            Poll::Ready(Ok(_)) => {
                self.note(Note::Violation);
                self.handle(Input::Unexpected(slot));
            }
            Poll::Ready(Err(error)) => self.read_failed(slot, &error),
        }
        true
    }

    /// An end that waits for room to be settled goes before anything else that would take the room: a
    /// writer that is never done would take it each time, and its reader never hear that it should be.
    #[inline]
    pub(super) fn settle_end(&mut self, write: &mut Context<'_>) {
        // Meanwhile the stream may have moved, and the leg be another.
        if std::mem::take(&mut self.unsettled)
            && let ReadFrom::Leg(slot) = self.machine.read_from()
            && self.leg(slot).is_some_and(|leg| leg.has_ended())
        {
            let _ = self.poll_end(slot, write);
        }
    }

    /// An EOF was read where the application's bytes come from: find out what it is worth.
    pub(super) fn poll_end(&mut self, slot: Slot, write: &mut Context<'_>) -> Poll<()> {
        let needs_proof = self.machine.needs_proof();
        let closed = match slot {
            Slot::Current => self.machine.has_closed_current(),
            _ => self.machine.has_closed_new(),
        };
        let Some(leg) = self.leg(slot) else {
            return Poll::Ready(());
        };
        let ambiguous = leg.kind().is_ambiguous();
        let proof = if !closed && (ambiguous || needs_proof) {
            let Poll::Ready(proof) = leg.poll_empty_write(write) else {
                self.unsettled = true;
                return Poll::Pending;
            };
            proof
        } else {
            Proof::Unavailable
        };
        self.handle(Input::End(slot, Eof::new(proof, ambiguous)));
        self.give_up_explaining();
        Poll::Ready(())
    }
}
