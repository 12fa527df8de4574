//! State that a stream has only while it moves, in a box that it does without for most of its life.

use web_time::Instant;

use super::{Io, leg::Leg};
use crate::{key::ConnectionKey, machine::Slot};

/// Legs beside the current one, and what is to be told about a migration.
#[derive(Debug)]
pub(super) struct Moving<L> {
    ours: Option<Box<Leg<L>>>,
    theirs: Option<Box<Leg<L>>>,
    new: Option<Box<Leg<L>>>,
    /// Legs that only have to say a last word.
    pub(super) farewells: Vec<Box<Leg<L>>>,
    /// The old leg of a migration of ours, until something is read on the new leg: the remote may still
    /// be reading it, and a connection without streams may be closed by an idle timeout.
    pub(super) unconfirmed: Option<Box<Leg<L>>>,
    /// Old legs of migrations that are not ours, for the table's owner.
    pub(super) lingering: Vec<Box<Leg<L>>>,
    /// The connection of the remote's attempt that was accepted last.
    pub(super) accepted_on: Option<ConnectionKey>,
    /// The number of the remote's last attempt, and when it came.
    pub(super) theirs_came: Option<(u32, Instant)>,
    pub(super) agreed_at: Option<Instant>,
    /// True if the migration that is agreed, or was the last to be, is ours.
    pub(super) initiated: bool,
    /// The time at which the old leg's end was read, while nothing has been read on the new leg.
    pub(super) paused_at: Option<Instant>,
}

impl<L> Default for Moving<L> {
    fn default() -> Self {
        Self {
            ours: None,
            theirs: None,
            new: None,
            farewells: Vec::new(),
            unconfirmed: None,
            lingering: Vec::new(),
            accepted_on: None,
            theirs_came: None,
            agreed_at: None,
            initiated: false,
            paused_at: None,
        }
    }
}

impl<L: Io> Moving<L> {
    /// The place in which a leg beside the current one is kept.
    pub(super) fn place(&mut self, slot: Slot) -> Option<&mut Option<Box<Leg<L>>>> {
        match slot {
            Slot::Current => None,
            Slot::Ours => Some(&mut self.ours),
            Slot::Theirs => Some(&mut self.theirs),
            Slot::New => Some(&mut self.new),
        }
    }

    /// The leg of the migration that has come furthest.
    pub(super) fn foremost(&self) -> Option<&Leg<L>> {
        let leg = self.new.as_ref().or(self.ours.as_ref());
        leg.or(self.theirs.as_ref()).map(Box::as_ref)
    }

    /// True if there is nothing left that anybody will ask for.
    pub(super) fn is_over(&self) -> bool {
        self.foremost().is_none()
            && self.farewells.is_empty()
            && self.unconfirmed.is_none()
            && self.lingering.is_empty()
            && self.paused_at.is_none()
    }
}
