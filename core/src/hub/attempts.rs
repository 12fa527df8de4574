//! Migrations of ours, from the wish to the leg; and what the streams say of all of them.

use futures::future::select;
use libp2p_identity::PeerId;
use web_time::Instant;

use super::{
    Due, Hub,
    prune::Legs,
    queue::{Origin, OutboundMigration},
    record::Record,
};
use crate::{
    error::MigrateError,
    event::{Abort, Event, Failure, Side, Violation},
    key::{ConnectionKey, StreamKey},
    policy::{self, Change},
    stream::{Io, Leg, Note, after},
    view::Streams,
};

type Entry<L> = crate::table::Entry<L, Record>;

impl<L: Io + Send + 'static> Hub<L> {
    // ---- Our attempts ------------------------------------------------------------------------------

    /// Starts a migration when its turn comes, or says why not.
    pub(super) fn begin(&mut self, key: StreamKey, to: ConnectionKey, origin: Origin) {
        let outgoing = OutboundMigration::new(to, origin);
        let entry = self.table.get(key);
        let may = match entry.is_some_and(|entry| entry.record.is_committed()) {
            true => Err(MigrateError::AlreadyMigrating),
            false => self.may_go_there(key, to, false),
        };
        match may {
            Ok(()) => self.enqueue(key, outgoing),
            Err(error) => outgoing.resolve(Err(error)),
        }
    }

    /// True if a migration to this connection may be started, now that it is its turn; a policy's
    /// is bound by more than the application's.
    pub(super) fn may_go_there(
        &self,
        key: StreamKey,
        to: ConnectionKey,
        by_policy: bool,
    ) -> Result<(), MigrateError> {
        let entry = self.table.get(key);
        // An ID of before may stand for another stream, or for none, by now.
        let entry = entry.filter(|entry| !entry.is_stranded());
        let entry = entry.ok_or(MigrateError::UnknownStream(key))?;
        let record = &entry.record;
        entry.shared.may_start()?;
        let target = self.connections.get(entry.peer(), to);
        let target = target.filter(|target| !target.closing);
        let target = target.ok_or(MigrateError::UnknownConnection(to))?;
        if entry.shared.status().connection == Some(to) && !self.settings.restless {
            return Err(MigrateError::AlreadyThere(to));
        }
        if target.draining {
            return Err(MigrateError::Draining(to));
        }
        if !record.mobility.allows(target) {
            return Err(MigrateError::NotAllowed(record.mobility));
        }
        let overruled = || {
            let Some(stream) = self.table.one(key) else {
                return true;
            };
            let here = self.here(&stream);
            !policy::may_go(&stream, here, target)
        };
        if by_policy && overruled() {
            return Err(MigrateError::NotAllowed(record.mobility));
        }
        Ok(())
    }

    pub fn leg_opened(&mut self, key: StreamKey, connection: ConnectionKey, stream: L) {
        let Some(stream) = self.leg_to_resume(key, connection, stream) else {
            return;
        };
        let Some((entry, outgoing)) = self.opening(key, connection) else {
            return;
        };
        let peer = entry.peer();
        let (by_policy, placement) = (!outgoing.is_from_outside(), outgoing.is_placement());
        // Much may have happened while our substream was being opened.
        if let Err(error) = self.may_go_there(key, connection, by_policy) {
            return self.outgoing_failed(key, error);
        }
        if placement && !self.still_wanted(key, connection) {
            return self.outgoing_given_up(key, Failure::Cancelled, MigrateError::Failed);
        }
        let Some(mut leg) = self.leg(peer, connection, stream) else {
            let error = MigrateError::UnknownConnection(connection);
            return self.outgoing_failed(key, error);
        };
        let id = self.table.allocate(peer);
        let Some(entry) = self.table.get_mut(key) else {
            return;
        };
        leg.set_span(span(self.local, entry, connection, true));
        match entry.shared.start(leg, id) {
            Ok(()) => {
                if let Some(outgoing) = entry.record.outgoing_mut() {
                    outgoing.requested();
                }
                self.table.refresh(key);
                self.drive(key);
            }
            Err((refused, _leg)) => self.outgoing_failed(key, refused.into()),
        }
    }

    /// An attempt has had its time to get a leg.
    pub(super) fn leg_overdue(&mut self, key: StreamKey) {
        let Some(entry) = self.table.get(key) else {
            return;
        };
        let (peer, outgoing) = (entry.peer(), entry.record.outgoing());
        if let Some(to) = outgoing
            .filter(|it| it.is_opening_on(it.to))
            .map(|it| it.to)
        {
            self.suspect(peer, to);
            self.leg_failed(key, to, "no answer in time".to_owned());
        }
    }

    /// The stream, if a leg is being opened for it on this connection. An attempt that came to nothing may
    /// have left one that comes late.
    fn opening(
        &self,
        key: StreamKey,
        connection: ConnectionKey,
    ) -> Option<(&Entry<L>, &OutboundMigration)> {
        let entry = self.table.get(key)?;
        let outgoing = entry.record.outgoing()?;
        let opening = outgoing.is_opening_on(connection);
        opening.then_some((entry, outgoing))
    }

    /// The leg could not be opened.
    pub fn leg_failed(&mut self, key: StreamKey, connection: ConnectionKey, error: String) {
        if self.is_resuming_on(key, connection) {
            self.resume_failed(key);
        } else if self.opening(key, connection).is_some() {
            self.outgoing_failed(key, MigrateError::NoLeg(error));
        }
    }

    /// The connection that a migration is to go to is gone before `Migrate` was sent there. After that, the
    /// stream tells.
    pub(super) fn target_lost(&mut self, key: StreamKey, connection: ConnectionKey) {
        let waiting = self.table.get(key).is_some_and(|entry| {
            let outgoing = entry.record.outgoing();
            outgoing.is_some_and(|it| it.is_waiting() && it.to == connection)
        });
        if waiting || self.opening(key, connection).is_some() {
            self.outgoing_failed(key, MigrateError::UnknownConnection(connection));
        }
    }

    /// An attempt of ours failed before `Migrate` was sent.
    pub(super) fn outgoing_failed(&mut self, key: StreamKey, error: MigrateError) {
        let reason = match error {
            // The remote's attempt came first.
            MigrateError::AlreadyMigrating | MigrateError::AlreadyThere(_) => Failure::Yielded,
            MigrateError::Denied => Failure::Denied,
            // It may not go there any more.
            MigrateError::NotAllowed(_) | MigrateError::Draining(_) | MigrateError::Ended => {
                Failure::Cancelled
            }
            _ => Failure::LegLost,
        };
        self.outgoing_given_up(key, reason, |_| error);
    }

    fn outgoing_given_up(
        &mut self,
        key: StreamKey,
        reason: Failure,
        error: impl FnOnce(Failure) -> MigrateError,
    ) {
        let error = error(reason);
        let Some(entry) = self.table.get_mut(key) else {
            return;
        };
        let peer = entry.peer();
        let Some(outgoing) = entry.record.take_outgoing() else {
            return;
        };
        if outgoing.is_waiting() {
            self.leave_line(&outgoing);
            return outgoing.resolve(Err(error));
        }
        let (to, placement) = (outgoing.to, outgoing.is_placement());
        tracing::debug!(%peer, %key, %error, "migration not started");
        outgoing.resolve(Err(error));
        self.attempt_failed(key, to, reason, Side::Local, placement);
    }

    /// Tells that an attempt has come to nothing. A policy's placement is tried again later.
    fn attempt_failed(
        &mut self,
        key: StreamKey,
        to: ConnectionKey,
        reason: Failure,
        initiator: Side,
        placement: bool,
    ) {
        let Some(entry) = self.table.get_mut(key) else {
            return;
        };
        let peer = entry.peer();
        let again = !matches!(
            reason,
            Failure::Denied | Failure::Yielded | Failure::Cancelled
        );
        let backoff = &mut entry.record.moves().backoff;
        let retry_in = (placement && again).then(|| backoff.failed());
        if initiator.is_local() {
            self.change_legs(key, |legs| legs.opening = None);
        }
        self.event(Event::MigrationFailed {
            peer,
            key,
            to,
            reason,
            initiator,
            retry_in,
        });
        if let Some(delay) = retry_in {
            let timer = self.due.add(delay, Due::Retry(key, to));
            if let Some(entry) = self.table.get_mut(key) {
                let before = entry.record.moves().backoff.wait(to, timer);
                self.due.cancel(before);
            }
        }
        self.tell(peer, &Change::MigrationFailed(key, reason));
        self.place(key);
        self.take_turns(peer);
    }

    // ---- What the streams say ----------------------------------------------------------------------

    pub fn heard_from(&mut self, key: StreamKey) {
        // First, while the table has it: a stream that is over may have a last word to say.
        self.drive(key);
        loop {
            let Some(entry) = self.table.get(key) else {
                return;
            };
            let notes = entry.shared.take_notes();
            let peer = entry.peer();
            for leg in entry.shared.take_lingering() {
                self.linger(peer, leg);
            }
            if notes.is_empty() {
                break;
            }
            self.table.refresh(key);
            let mut before = None;
            for note in notes {
                // A message that was well-formed and still wrong, such as a count: only its
                // consequence is noted.
                if note == Note::Over(Err(Abort::Violation)) && before != Some(Note::Violation) {
                    self.note(key, Note::Violation);
                }
                before = Some(note);
                self.note(key, note);
            }
            self.admit_early(peer, key);
        }
        self.drive(key);
        if let Some(peer) = self.table.get(key).map(|entry| entry.peer()) {
            self.take_turns(peer);
        }
    }

    fn note(&mut self, key: StreamKey, note: Note) {
        let Some(entry) = self.table.get_mut(key) else {
            return;
        };
        let peer = entry.peer();
        match note {
            Note::Ask {
                to,
                question,
                since,
            } => self.verdict(key, to, question, since),
            Note::Probe { connection } => self.probe(peer, connection, Some(key)),
            Note::Say => self.say(key),
            Note::Later(what) => self.later(key, what),
            Note::Waits => {
                if let Some(connection) = entry.shared.status().connection {
                    self.awaits_there(peer, connection);
                }
            }
            Note::Suspended => self.suspended(key),
            Note::GoesOn { connection, again } => self.goes_on(key, connection, again),
            Note::Violation => self.violated(peer, None, Violation::Message),
            Note::Agreed {
                from,
                to,
                initiator,
            } => {
                let verifies = initiator.is_local() && entry.shared.status().peer_verifies;
                if initiator.is_local()
                    && let Some(outgoing) = entry.record.outgoing_mut()
                {
                    outgoing.agreed();
                }
                if verifies {
                    self.table.set_verifies(peer);
                }
                self.left_suspected(peer, key, from);
                self.change_legs(key, |legs| {
                    legs.current = Some(from);
                    legs.new = Some(to);
                    legs.opening = legs.opening.filter(|_| !initiator.is_local());
                });
                self.event(Event::MigrationAgreed {
                    peer,
                    key,
                    from,
                    to,
                    initiator,
                });
            }
            Note::Failed {
                failure,
                initiator,
                to,
            } => self.failed(key, failure, initiator, to),
            Note::Completed(completed) => {
                if completed.initiator.is_local()
                    && let Some(outgoing) = entry.record.take_outgoing()
                {
                    outgoing.resolve(Ok(()));
                }
                let moves = entry.record.moves();
                let backoff = std::mem::take(&mut moves.backoff);
                let patience = std::mem::take(&mut moves.patience);
                moves.target = None;
                for watcher in std::mem::take(&mut moves.watchers) {
                    let _ = watcher.send(Ok(completed.to));
                }
                for timer in backoff.timers().chain([patience.timer()]) {
                    self.due.cancel(timer);
                }
                let from = self.connections.get(peer, completed.from);
                let to = self.connections.get(peer, completed.to);
                let left_relay =
                    from.is_some_and(|from| from.relayed) && to.is_none_or(|to| !to.relayed);
                let there = |id: &ConnectionKey| self.connections.get(peer, *id).is_some();
                if let Some(entry) = self.table.get_mut(key) {
                    entry.record.left_relay |= left_relay;
                    if !completed.initiator.is_local() {
                        let left = &mut entry.record.moves().moved_off_by_remote;
                        left.retain(|id| *id != completed.from && there(id));
                        left.push(completed.from);
                    }
                }
                self.left(
                    key,
                    completed.from,
                    completed.initiator.is_local(),
                    completed.confirmed,
                );
                self.change_legs(key, |legs| {
                    legs.current = Some(completed.to);
                    legs.new = None;
                });
                self.event(Event::MigrationCompleted {
                    peer,
                    key,
                    from: completed.from,
                    to: completed.to,
                    initiator: completed.initiator,
                    took: completed.agreed_at.elapsed(),
                    old_leg_sent: completed.old_leg.0,
                    old_leg_received: completed.old_leg.1,
                    new_leg_sent: completed.new_leg.0,
                    new_leg_received: completed.new_leg.1,
                });
                self.awaits_there(peer, completed.to);
                self.consider_pruning(peer, completed.from);
                self.tell(peer, &Change::Migrated(key));
                self.place(key);
            }
            Note::Confirmed { from } => self.confirmed(peer, key, from),
            Note::Resumed {
                connection,
                initiator,
                gap,
            } => self.event(Event::Resumed {
                peer,
                key,
                connection,
                initiator,
                gap,
            }),
            Note::Over(result) => self.over(key, result),
        }
    }

    /// A stream leaves a connection, which it does not return to for a while if that does not answer.
    fn left_suspected(&mut self, peer: PeerId, key: StreamKey, from: ConnectionKey) {
        let info = self.connections.get(peer, from);
        if info.is_some_and(|info| info.suspected)
            && let Some(entry) = self.table.get_mut(key)
        {
            let there = |id: &ConnectionKey| self.connections.get(peer, *id).is_some();
            let quarantined = &mut entry.record.moves().quarantined;
            quarantined.retain(|id| *id != from && there(id));
            quarantined.push(from);
        }
    }

    /// Changes where the stream's legs are.
    pub(super) fn change_legs(&mut self, key: StreamKey, change: impl FnOnce(&mut Legs)) {
        let Some(entry) = self.table.get_mut(key) else {
            return;
        };
        let (peer, from) = (entry.peer(), entry.record.legs);
        change(&mut entry.record.legs);
        let to = entry.record.legs;
        self.set_legs(peer, from, to);
    }

    fn failed(
        &mut self,
        key: StreamKey,
        failure: Failure,
        initiator: Side,
        accepted_on: Option<ConnectionKey>,
    ) {
        if initiator.is_local() && self.resume_failed(key) {
            return;
        }
        let Some(entry) = self.table.get_mut(key) else {
            return;
        };
        let legs = entry.record.legs;
        let migrating = entry.shared.status().migrating;
        let (mut to, mut placement) = (accepted_on.or(legs.new), false);
        if initiator.is_local() {
            to = legs.opening.or(legs.new.filter(|_| !migrating));
            if let Some(outgoing) = entry.record.take_outgoing() {
                to = Some(outgoing.to);
                placement = outgoing.is_placement();
                outgoing.resolve(Err(match failure {
                    Failure::Denied => MigrateError::Denied,
                    failure => MigrateError::Failed(failure),
                }));
            }
            if let Some(connection) = legs.opening {
                // That it is taken back may be on its way there, and matters to the remote.
                self.ended(connection);
            }
        }
        if !initiator.is_local() || !migrating {
            self.change_legs(key, |legs| legs.new = None);
        }
        // Where it is, of an attempt of which nothing else is known.
        if let Some(to) = to.or(legs.current) {
            self.attempt_failed(key, to, failure, initiator, placement);
        }
    }

    fn over(&mut self, key: StreamKey, result: Result<(), Abort>) {
        let Some(mut entry) = self.table.remove(key, result.is_ok()) else {
            return;
        };
        let peer = entry.peer();
        for timer in entry.record.timers() {
            self.due.cancel(timer);
        }
        if let Some(legless) = entry.record.legless.take() {
            self.forget_legless(peer, key, &legless);
        }
        // What an application has thrown away is of no use to anybody.
        let matters = !matches!(result, Err(Abort::Dropped | Abort::Violation));
        self.forget_unconfirmed(peer, key, matters);
        if matters {
            for connection in entry.record.legs.all() {
                self.ended(connection);
            }
        }
        self.set_legs(peer, entry.record.legs, Legs::NONE);
        let error = match result {
            Ok(()) => MigrateError::Ended,
            Err(abort) => MigrateError::Aborted(abort),
        };
        if let Some(outgoing) = entry.record.take_outgoing() {
            self.leave_line(&outgoing);
            outgoing.resolve(Err(error.clone()));
        }
        for watcher in entry.record.take_watchers() {
            let _ = watcher.send(Err(error.clone()));
        }
        if let Some((to, alive)) = entry.record.take_target() {
            drop(alive);
            self.released(peer, to);
        }
        let status = entry.shared.status();
        self.event(Event::StreamEnded {
            peer,
            key,
            result,
            sent: status.sent,
            received: status.received,
        });
        self.tell(peer, &Change::StreamEnded(key));
        self.take_turns(peer);
    }

    // ---- Old legs ----------------------------------------------------------------------------------

    /// *Pruning*: the responder keeps its old leg for a while, so that the connection is not idle. The last
    /// one is enough for that, and a muxer has room for so many. Likewise whoever has closed a stream and
    /// let go of it: its last leg is read until the remote's end tells that it is not needed any more.
    fn linger(&mut self, peer: PeerId, leg: Leg<L>) {
        let connection = leg.connection();
        let linger = self.settings.old_leg_linger;
        let Some(record) = self.connections.record_mut(connection) else {
            return;
        };
        let pruning = &mut record.pruning;
        if leg.is_open()
            && let Some(permit) = pruning
                .kept
                .try_acquire(self.settings.max_streams_per_connection)
        {
            let gone = pruning.gone();
            self.tasks.kept.push(Box::pin(async move {
                let ends = select(gone, after(linger));
                select(Box::pin(leg.discard()), ends).await;
                drop(permit);
                (peer, connection)
            }));
            return;
        }
        let until = Instant::now().checked_add(linger);
        // Nothing is kept of a connection that is gone.
        if pruning.lingering.replace((Box::new(leg), until)).is_none() {
            self.due.add(linger, Due::Linger(peer, connection));
        }
    }

    pub(super) fn lingered(&mut self, peer: PeerId, connection: ConnectionKey) {
        let Some(record) = self.connections.record_mut(connection) else {
            return;
        };
        let Some((_, Some(until))) = &record.pruning.lingering else {
            return;
        };
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            record.pruning.lingering = None;
            self.released(peer, connection);
        } else {
            self.due.add(left, Due::Linger(peer, connection));
        }
    }

    pub(super) fn probed(&mut self, key: StreamKey, connection: ConnectionKey, answered: bool) {
        if let Some(entry) = self.table.get(key) {
            entry.shared.probed(connection, answered);
        }
        self.heard_from(key);
    }
}

/// The span of a migration, in logs.
pub(super) fn span<L: Io>(
    local: PeerId,
    entry: &Entry<L>,
    to: ConnectionKey,
    initiator: bool,
) -> tracing::Span {
    let (peer, stream) = (entry.peer(), entry.shared.key());
    let from = entry.shared.status().connection;
    let from = from.map(tracing::field::display);
    tracing::debug_span!("migration", %local, %peer, %stream, from, %to, initiator)
}
