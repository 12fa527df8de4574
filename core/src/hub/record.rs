//! The record that the hub keeps with each stream of the table.

use futures::channel::oneshot;
use web_time::Instant;

use super::{
    placing::{Backoff, Patience},
    prune::Legs,
    queue::OutboundMigration,
    rate::Rate,
    resume::Legless,
    timers::TimerKey,
    word::With,
};
use crate::{
    error::MigrateError,
    key::ConnectionKey,
    machine::{Question, Side},
    permits::{Permit, WeakPermits},
    view::{Mobility, ProtocolName},
};

#[derive(Debug)]
pub(super) struct Record {
    pub(super) opener: Side,
    pub(super) started: Instant,
    pub(super) protocol: Option<ProtocolName>,
    pub(super) mobility: Mobility,
    /// The application has said so of this stream; the protocol's setting does not count any more.
    pub(super) mobility_said: bool,
    pub(super) left_relay: bool,
    pub(super) legs: Legs,
    pub(super) with: With,
    /// While it has no leg.
    pub(super) legless: Option<Box<Legless>>,
    /// The moves, once it was moved, or was to be.
    moves: Option<Box<MoveState>>,
}

/// The state of a stream that was moved, or was to be.
#[derive(Debug, Default)]
pub(super) struct MoveState {
    /// The attempt of ours that is under way, from the wish to the end.
    pub(super) outgoing: Option<OutboundMigration>,
    /// Connections off which the remote has moved it, as long as they are there.
    pub(super) moved_off_by_remote: Vec<ConnectionKey>,
    /// Connections that it has left because they did not answer, while it does not return to them.
    pub(super) quarantined: Vec<ConnectionKey>,
    /// The deadline for the leg of our attempt to be open.
    pub(super) leg_overdue: TimerKey,
    pub(super) backoff: Backoff,
    pub(super) patience: Patience,
    /// The connection that it is to go to once that is over: kept from being idle meanwhile.
    pub(super) target: Option<(ConnectionKey, Option<Permit>)>,
    /// The time at which the policy is to be asked again.
    pub(super) asking_again: TimerKey,
    /// The remote's last question that was passed on to somebody outside, while it is not answered: where
    /// the stream is to go, and when that has been answered.
    pub(super) asked_about: Option<(ConnectionKey, Question, TimerKey)>,
    /// The round in which it was last asked again, while it waits.
    pub(super) asked_in: u64,
    /// The callers that wait for its next move.
    pub(super) watchers: Vec<oneshot::Sender<Result<ConnectionKey, MigrateError>>>,
    /// Since when a writer that waits for room has not heard whether anybody is there.
    pub(super) stuck: Option<Instant>,
    /// The rate of the remote's `Migrate`s.
    pub(super) rate: Rate,
}

impl MoveState {
    fn timers(&self) -> impl Iterator<Item = TimerKey> {
        let asked = self.asked_about.and_then(|(.., timer)| timer);
        let one = [
            self.asking_again,
            self.patience.timer(),
            asked,
            self.leg_overdue,
        ];
        one.into_iter().chain(self.backoff.timers())
    }
}

impl Record {
    pub(super) fn new(opener: Side, mobility: Mobility, legs: Legs, with: With) -> Self {
        Self {
            opener,
            started: Instant::now(),
            protocol: None,
            mobility,
            mobility_said: false,
            left_relay: false,
            legs,
            with,
            legless: None,
            moves: None,
        }
    }

    /// The connection on which it asks, without a leg, to go on.
    pub(super) fn resuming_on(&self) -> Option<ConnectionKey> {
        self.legless.as_ref()?.attempt()
    }

    pub(super) fn moves(&mut self) -> &mut MoveState {
        self.moves.get_or_insert_default()
    }

    /// The timers that are due for it.
    pub(super) fn timers(&self) -> Vec<TimerKey> {
        let moves = self.moves.iter().flat_map(|moves| moves.timers());
        let legless = self.legless.iter().flat_map(|legless| legless.timers());
        moves.chain(legless).collect()
    }

    pub(super) fn moved_off_by_remote(&self) -> &[ConnectionKey] {
        self.moves
            .as_ref()
            .map_or(&[], |it| &it.moved_off_by_remote)
    }

    /// The connections that it is not to go to for now.
    pub(super) fn barred(&self) -> Vec<ConnectionKey> {
        let Some(moves) = &self.moves else {
            return Vec::new();
        };
        let quarantined = moves.quarantined.iter().copied();
        quarantined.chain(moves.backoff.waits()).collect()
    }

    pub(super) fn end_quarantine(&mut self, connection: ConnectionKey) {
        if let Some(moves) = &mut self.moves {
            moves.quarantined.retain(|id| *id != connection);
        }
    }

    /// Keeps the connection alive, if the stream is to go there.
    pub(super) fn keep_alive(&mut self, connection: ConnectionKey, permits: &WeakPermits) {
        let Some(moves) = &mut self.moves else { return };
        if let Some((to, alive)) = &mut moves.target
            && *to == connection
        {
            *alive = permits.acquire();
        }
        if let Some(outgoing) = &mut moves.outgoing
            && outgoing.to == connection
        {
            outgoing.alive = permits.acquire();
        }
    }

    pub(super) fn take_target(&mut self) -> Option<(ConnectionKey, Option<Permit>)> {
        self.moves.as_mut()?.target.take()
    }

    pub(super) fn outgoing(&self) -> Option<&OutboundMigration> {
        self.moves.as_ref()?.outgoing.as_ref()
    }

    pub(super) fn outgoing_mut(&mut self) -> Option<&mut OutboundMigration> {
        self.moves.as_mut()?.outgoing.as_mut()
    }

    /// Takes those who wait for the stream's next move.
    pub(super) fn take_watchers(
        &mut self,
    ) -> Vec<oneshot::Sender<Result<ConnectionKey, MigrateError>>> {
        let moves = self.moves.as_mut();
        moves.map_or_else(Vec::new, |moves| std::mem::take(&mut moves.watchers))
    }

    pub(super) fn take_outgoing(&mut self) -> Option<OutboundMigration> {
        self.moves.as_mut()?.outgoing.take()
    }

    /// An attempt of ours is under way, or wanted by somebody whose mind the policy cannot change.
    pub(super) fn is_committed(&self) -> bool {
        self.outgoing().is_some_and(|it| !it.may_change())
    }
}
