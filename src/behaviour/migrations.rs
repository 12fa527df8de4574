//! Migrations: what the policy wants, what the application asks for, what the remote starts, and what
//! the streams say of it all.

use std::time::{Duration, Instant};

use futures::{channel::oneshot, future::select};
use libp2p_identity::PeerId;
use libp2p_swarm::ConnectionId;

use super::{Behaviour, Due, Extra, Legs, SwarmLeg};
use crate::{
    Event, Failure, Initiate, Limit, MigrateError, Placement, Violation,
    event::{Abort, StreamInfo},
    handler::Purpose,
    machine::{Refused, StreamId, Verdict},
    stream::{Note, Places, StreamKey},
    table::{Entry, Found},
};

/// The policy's first delay after a failed attempt; it doubles with each.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(64);

/// Our attempt that is under way.
#[derive(Debug)]
pub(super) struct Outgoing {
    to: ConnectionId,
    /// Who asked for it; `None` if the policy did.
    reply: Option<oneshot::Sender<Result<(), MigrateError>>>,
}

impl Outgoing {
    fn resolve(self, result: Result<(), MigrateError>) {
        if let Some(reply) = self.reply {
            let _ = reply.send(result);
        }
    }
}

impl From<Refused> for MigrateError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Denied => Self::Denied,
            Refused::Migrating => Self::AlreadyMigrating,
            Refused::Ended => Self::Ended,
        }
    }
}

impl Behaviour {
    // ---- What the policy wants ---------------------------------------------------------------------

    pub(super) fn stream_info(&self, key: StreamKey) -> Option<StreamInfo> {
        let entry = self.table.get(key)?;
        let status = entry.shared.status();
        let extra = &entry.extra;
        Some(StreamInfo {
            key,
            id: status.id,
            peer: entry.peer,
            protocol: extra.protocol.clone(),
            opener: extra.opener,
            connection: status.connection?,
            sent: status.sent,
            received: status.received,
            migrating: status.migrating || extra.outgoing.is_some(),
            left_relay: extra.left_relay,
            started: extra.started,
        })
    }

    pub(super) fn place_all(&mut self, peer: PeerId) {
        for key in self.table.of_peer(peer) {
            self.place(key);
        }
    }

    /// Asks the policy where the stream should be, and moves it there if it is our turn.
    pub(super) fn place(&mut self, key: StreamKey) {
        let Some(stream) = self.stream_info(key) else {
            return;
        };
        if stream.migrating {
            return;
        }
        let connections: Vec<_> = self.connections.of(stream.peer).collect();
        let to = match self.policy.place(&stream, &connections) {
            Placement::Here => return,
            Placement::On(to) => to,
            Placement::AskAgain(delay) => {
                if let Some(entry) = self.table.get_mut(key)
                    && !std::mem::replace(&mut entry.extra.waiting, true)
                {
                    self.later(delay, Due::Ask(key));
                }
                return;
            }
        };
        let Some(target) = connections.iter().find(|connection| connection.id == to) else {
            return;
        };
        // The remote may be closing a relayed connection that the stream has left (*Who starts*).
        if to == stream.connection || target.relayed && stream.left_relay {
            return;
        }
        let wait = match self.config.initiate {
            Initiate::Either => None,
            Initiate::Designated { .. } if self.table.is_designated(stream.peer) => None,
            Initiate::Designated { patience } => Some(patience),
        };
        let Some(entry) = self.table.get_mut(key) else {
            return;
        };
        if entry.extra.waiting || entry.shared.may_start().is_err() {
            return;
        }
        match wait {
            Some(patience) if !entry.extra.patience_over => {
                entry.extra.waiting = true;
                self.later(patience, Due::Place(key));
            }
            _ => self.migrate(key, to, None),
        }
    }

    // ---- Our attempts ------------------------------------------------------------------------------

    /// Starts a migration, or says why not.
    pub(super) fn migrate(
        &mut self,
        key: StreamKey,
        to: ConnectionId,
        reply: Option<oneshot::Sender<Result<(), MigrateError>>>,
    ) {
        let outgoing = Outgoing { to, reply };
        let Some(entry) = self.table.get_mut(key) else {
            return outgoing.resolve(Err(MigrateError::UnknownStream(key)));
        };
        let peer = entry.peer;
        if entry.extra.outgoing.is_some() {
            return outgoing.resolve(Err(MigrateError::AlreadyMigrating));
        }
        if let Err(refused) = entry.shared.may_start() {
            return outgoing.resolve(Err(refused.into()));
        }
        if self.connections.get(peer, to).is_none() {
            return outgoing.resolve(Err(MigrateError::UnknownConnection(to)));
        }
        if entry.shared.status().connection == Some(to) {
            return outgoing.resolve(Err(MigrateError::AlreadyThere(to)));
        }
        entry.extra.outgoing = Some(outgoing);
        self.event(Event::MigrationStarted { peer, key, to });
        self.notify(peer, to, Purpose::Leg(key));
    }

    pub(super) fn leg_opened(
        &mut self,
        key: StreamKey,
        connection: ConnectionId,
        stream: libp2p_swarm::Stream,
    ) {
        let Some(peer) = self.table.get(key).map(|entry| entry.peer) else {
            return;
        };
        let leg = self.leg(peer, connection, stream);
        let (Some(leg), Some(id)) = (leg, self.table.allocate(peer)) else {
            let error = MigrateError::UnknownConnection(connection);
            return self.outgoing_failed(key, error);
        };
        let Some(entry) = self.table.get(key) else {
            return;
        };
        match entry.shared.start(leg, id) {
            Ok(()) => {
                self.table.refresh(key);
                self.drive(key);
            }
            Err((refused, _leg)) => self.outgoing_failed(key, refused.into()),
        }
    }

    /// The connection that a migration is to go to is gone before it had a leg there.
    pub(super) fn target_lost(&mut self, key: StreamKey, connection: ConnectionId) {
        let lost = self.table.get(key).is_some_and(|entry| {
            let outgoing = entry.extra.outgoing.as_ref();
            outgoing.is_some_and(|outgoing| outgoing.to == connection)
                && !entry.shared.status().migrating
        });
        if lost {
            self.outgoing_failed(key, MigrateError::UnknownConnection(connection));
        }
    }

    /// An attempt of ours failed before `Migrate` was sent.
    pub(super) fn outgoing_failed(&mut self, key: StreamKey, error: MigrateError) {
        let Some(entry) = self.table.get_mut(key) else {
            return;
        };
        let peer = entry.peer;
        let Some(outgoing) = entry.extra.outgoing.take() else {
            return;
        };
        // The remote's attempt came first.
        let reason = if error == MigrateError::AlreadyMigrating {
            Failure::Yielded
        } else {
            Failure::LegLost
        };
        let by_policy = outgoing.reply.is_none();
        tracing::debug!(%peer, %key, %error, "migration not started");
        outgoing.resolve(Err(error));
        self.attempt_failed(key, reason, true, by_policy);
    }

    /// Tells that an attempt has come to nothing; the policy's own is tried again later.
    fn attempt_failed(
        &mut self,
        key: StreamKey,
        reason: Failure,
        initiator: bool,
        by_policy: bool,
    ) {
        let Some(entry) = self.table.get_mut(key) else {
            return;
        };
        let peer = entry.peer;
        let again = !matches!(reason, Failure::Denied | Failure::Yielded);
        let retry_in = retry(entry, by_policy, again);
        self.event(Event::MigrationFailed {
            peer,
            key,
            reason,
            initiator,
            retry_in,
        });
        if let Some(delay) = retry_in {
            self.later(delay, Due::Place(key));
        }
    }

    // ---- The remote's attempts ---------------------------------------------------------------------

    pub(super) fn migrate_requested(
        &mut self,
        peer: PeerId,
        mut leg: SwarmLeg,
        id: StreamId,
        from: StreamId,
        verify: bool,
    ) {
        let connection = leg.connection();
        match self.places(peer, connection) {
            Ok(places) => leg.hold(places),
            Err(limit) => {
                drop(leg);
                return self.event(Event::Refused {
                    peer,
                    connection,
                    limit,
                });
            }
        }
        self.migrate_admitted(peer, leg, id, from, verify);
    }

    /// A place for one more unanswered `Migrate`, of the peer's and of the connection's.
    fn places(&mut self, peer: PeerId, connection: ConnectionId) -> Result<Vec<Places>, Limit> {
        let per_connection = self.config.max_unanswered_per_connection;
        let on_connection = self.loads.place(connection, per_connection);
        let of_peer = self.table.place(peer);
        Ok(vec![
            on_connection.ok_or(Limit::UnansweredPerConnection)?,
            of_peer.ok_or(Limit::UnansweredPerPeer)?,
        ])
    }

    /// What has its places.
    pub(super) fn migrate_admitted(
        &mut self,
        peer: PeerId,
        leg: SwarmLeg,
        id: StreamId,
        from: StreamId,
        verify: bool,
    ) {
        let connection = leg.connection();
        if matches!(self.table.find(peer, id), Found::Live(_)) {
            drop(leg);
            return self.event(Event::Violation {
                peer,
                connection: Some(connection),
                what: Violation::IdInUse,
            });
        }
        match self.table.find(peer, from) {
            Found::Live(key) => {
                let Some(entry) = self.table.get_mut(key) else {
                    return;
                };
                let per_second = self.config.max_migration_rate;
                if !entry.extra.rate.allows(per_second, Instant::now()) {
                    drop(leg);
                    return self.event(Event::Refused {
                        peer,
                        connection,
                        limit: Limit::MigrationRate,
                    });
                }
                // It may be over without our having heard of it.
                match entry.shared.migrate(leg, id, from, verify) {
                    Ok(()) => {
                        self.table.refresh(key);
                        self.heard_from(key);
                    }
                    Err((leg, Ok(()))) => self.deny(leg),
                    Err((leg, Err(_))) => drop(leg),
                }
            }
            // A deny proves that nothing was switched (TRACES 5).
            Found::Ended => self.deny(leg),
            // Here a deny would make the remote believe in an end that may be our abort.
            Found::Aborted => drop(leg),
            Found::Unknown => {
                let number = self.table.hold(peer, leg, id, from, verify);
                let timeout = self.config.answer_timeout;
                self.later(timeout, Due::Early(peer, number));
            }
        }
    }

    fn deny(&mut self, leg: SwarmLeg) {
        // Their number is bounded by the places that their legs hold.
        let timeout = futures_timer::Delay::new(self.config.answer_timeout);
        self.denials.push(Box::pin(async move {
            let _ = select(Box::pin(leg.deny()), timeout).await;
        }));
    }

    fn verdict(&mut self, key: StreamKey, to: ConnectionId) {
        let verdict = match (self.stream_info(key), self.table.get(key)) {
            (Some(stream), Some(entry)) => match self.connections.get(entry.peer, to) {
                Some(to) => self.policy.verdict(&stream, to),
                None => Verdict::NotNow,
            },
            _ => Verdict::NotNow,
        };
        if let Some(entry) = self.table.get(key) {
            entry.shared.verdict(verdict);
        }
    }

    // ---- What the streams say ----------------------------------------------------------------------

    pub(super) fn heard_from(&mut self, key: StreamKey) {
        // First, while the table has it: a stream that is over may have a last word to say.
        self.drive(key);
        loop {
            let Some(entry) = self.table.get(key) else {
                return;
            };
            let notes = entry.shared.take_notes();
            for leg in entry.shared.take_lingering() {
                self.linger(leg);
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
        }
        self.drive(key);
    }

    fn note(&mut self, key: StreamKey, note: Note<ConnectionId>) {
        let Some(entry) = self.table.get_mut(key) else {
            return;
        };
        let peer = entry.peer;
        match note {
            Note::Ask { to } => self.verdict(key, to),
            Note::Probe { connection } => self.notify(peer, connection, Purpose::Probe(key)),
            Note::Violation => self.event(Event::Violation {
                peer,
                connection: None,
                what: Violation::Message,
            }),
            Note::Agreed {
                from,
                to,
                initiator,
            } => {
                let verifies = initiator && entry.shared.status().peer_verifies;
                if verifies {
                    self.table.set_verifies(peer);
                }
                self.legs_are(key, from, Some(to));
                self.event(Event::MigrationAgreed {
                    peer,
                    key,
                    from,
                    to,
                    initiator,
                });
            }
            Note::Failed { failure, ours } => self.failed(key, failure, ours),
            Note::Completed(completed) => {
                if completed.initiator
                    && let Some(outgoing) = entry.extra.outgoing.take()
                {
                    outgoing.resolve(Ok(()));
                }
                entry.extra.failures = 0;
                entry.extra.patience_over = false;
                let from = self.connections.get(peer, completed.from);
                let to = self.connections.get(peer, completed.to);
                let left_relay =
                    from.is_some_and(|from| from.relayed) && to.is_none_or(|to| !to.relayed);
                if let Some(entry) = self.table.get_mut(key) {
                    entry.extra.left_relay |= left_relay;
                }
                self.left(
                    key,
                    completed.from,
                    completed.initiator,
                    completed.confirmed,
                );
                self.legs_are(key, completed.to, None);
                self.event(Event::MigrationCompleted {
                    peer,
                    key,
                    from: completed.from,
                    to: completed.to,
                    initiator: completed.initiator,
                    took: completed.agreed_at.elapsed(),
                    old_leg_sent: completed.old_leg.0,
                    old_leg_received: completed.old_leg.1,
                });
                self.consider_pruning(peer, completed.from);
                self.place(key);
            }
            Note::Confirmed { from } => self.confirmed(peer, key, from),
            Note::Over(result) => self.over(key, result),
        }
    }

    fn legs_are(&mut self, key: StreamKey, current: ConnectionId, new: Option<ConnectionId>) {
        let Some(entry) = self.table.get_mut(key) else {
            return;
        };
        let peer = entry.peer;
        let to = Legs {
            current: Some(current),
            new,
        };
        let from = std::mem::replace(&mut entry.extra.legs, to);
        self.set_legs(peer, from, to);
    }

    fn failed(&mut self, key: StreamKey, failure: Failure, ours: bool) {
        let Some(entry) = self.table.get_mut(key) else {
            return;
        };
        let mut by_policy = false;
        if ours && let Some(outgoing) = entry.extra.outgoing.take() {
            by_policy = outgoing.reply.is_none();
            outgoing.resolve(Err(match failure {
                Failure::Denied => MigrateError::Denied,
                failure => MigrateError::Failed(failure),
            }));
        }
        if !ours && let Some(current) = entry.extra.legs.current {
            self.legs_are(key, current, None);
        }
        self.attempt_failed(key, failure, ours, by_policy);
    }

    fn over(&mut self, key: StreamKey, result: Result<(), Abort>) {
        let Some(entry) = self.table.remove(key, result.is_ok()) else {
            return;
        };
        self.set_legs(entry.peer, entry.extra.legs, Legs::NONE);
        if let Some(outgoing) = entry.extra.outgoing {
            outgoing.resolve(Err(match result {
                Ok(()) => MigrateError::Ended,
                Err(abort) => MigrateError::Aborted(abort),
            }));
        }
        let status = entry.shared.status();
        self.event(Event::StreamEnded {
            peer: entry.peer,
            key,
            result,
            sent: status.sent,
            received: status.received,
        });
    }

    // ---- Old legs ----------------------------------------------------------------------------------

    /// *Pruning*: the responder keeps its old leg for a while.
    fn linger(&mut self, leg: SwarmLeg) {
        let connection = leg.connection();
        self.next_linger += 1;
        let number = self.next_linger;
        self.lingering
            .entry(connection)
            .or_default()
            .push((number, leg));
        self.later(self.config.old_leg_linger, Due::Linger(connection, number));
    }

    pub(super) fn probed(&mut self, key: StreamKey, connection: ConnectionId, answered: bool) {
        if let Some(entry) = self.table.get(key) {
            entry.shared.probed(connection, answered);
        }
        self.heard_from(key);
    }
}

/// When the policy tries again after a failure, if it does.
fn retry(
    entry: &mut Entry<libp2p_swarm::Stream, ConnectionId, Extra>,
    by_policy: bool,
    again: bool,
) -> Option<Duration> {
    if !by_policy || !again || entry.extra.waiting {
        return None;
    }
    let doublings = entry.extra.failures.min(16);
    entry.extra.failures += 1;
    entry.extra.waiting = true;
    Some((FIRST_RETRY * 2_u32.pow(doublings)).min(LAST_RETRY))
}
