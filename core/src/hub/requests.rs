//! Requests of the remote: its `Migrate`s find their stream, wait for one, or are refused.

use futures::{FutureExt, future::select};
use libp2p_identity::PeerId;
use web_time::Instant;

use super::{Due, Hub, attempts::span, timers::TimerKey};
use crate::{
    event::{Limit, Violation},
    key::{ConnectionKey, StreamKey},
    machine::StreamId,
    permits::Permit,
    stream::{Io, Leg, after},
    table::{Early, Found, Gone},
};

/// A `Migrate` need not be kept any more.
pub(super) struct EarlyGone {
    peer: PeerId,
    connection: ConnectionKey,
    number: u64,
    timer: TimerKey,
    gone: Gone,
}

impl<L: Io + Send + 'static> Hub<L> {
    pub(super) fn migrate_requested(&mut self, peer: PeerId, mut early: Early<L>) {
        let connection = early.leg.connection();
        match self.permits(peer, connection) {
            Ok(permits) => early.leg.hold(permits),
            Err(limit) => {
                drop(early);
                return self.refused(peer, Some(connection), limit);
            }
        }
        self.migrate_admitted(peer, early);
    }

    /// Permits for one more unanswered `Migrate`, the peer's and the connection's.
    pub(super) fn permits(
        &mut self,
        peer: PeerId,
        connection: ConnectionKey,
    ) -> Result<Vec<Permit>, Limit> {
        let limit = self.settings.max_unanswered_per_connection;
        let record = self.connections.record(connection);
        let on_connection = record.and_then(|it| it.pruning.unanswered.try_acquire(limit));
        let of_peer = self.table.permit(peer);
        Ok(vec![
            on_connection.ok_or(Limit::UnansweredPerConnection)?,
            of_peer.ok_or(Limit::UnansweredPerPeer)?,
        ])
    }

    /// The stream may have taken an ID from which a `Migrate` has come that overtook the one before it.
    pub(super) fn admit_early(&mut self, peer: PeerId, key: StreamKey) {
        let Some(entry) = self.table.get(key) else {
            return;
        };
        let mut ids = entry.shared.ids();
        ids.retain(|id| entry.shared.may_move_from(*id));
        for id in ids {
            self.admit_from(peer, id);
        }
    }

    /// *Overtaking*: takes up what came before this ID was a stream's.
    pub(super) fn admit_from(&mut self, peer: PeerId, id: StreamId) {
        for early in self.table.take_early(peer, id) {
            self.migrate_admitted(peer, early);
        }
    }

    /// A `Migrate` that has its permits.
    fn migrate_admitted(&mut self, peer: PeerId, early: Early<L>) {
        let (id, from, verify) = (early.id, early.from, early.verify);
        let connection = early.leg.connection();
        if self.settings.resume
            && let Some(epoch) = self.listener(connection)
        {
            self.table.seen(peer).insert(epoch, id);
        }
        if matches!(self.table.find(peer, id), Found::Live(_)) {
            drop(early);
            return self.violated(peer, Some(connection), Violation::IdInUse);
        }
        match self.table.find(peer, from) {
            // An ID that it may yet take: looked at again when it has.
            Found::Live(key)
                if self
                    .table
                    .get(key)
                    .is_some_and(|entry| !entry.shared.may_move_from(from)) =>
            {
                self.hold_early(peer, early);
            }
            Found::Live(key) => {
                let mut leg = early.leg;
                let Some(entry) = self.table.get_mut(key) else {
                    return;
                };
                let per_second = self.settings.max_migration_rate;
                if !entry.record.moves().rate.allows(per_second, Instant::now()) {
                    drop(leg);
                    return self.refused(peer, Some(connection), Limit::MigrationRate);
                }
                leg.set_span(span(self.local, entry, connection, false));
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
            // A deny proves that nothing was switched (rule 5).
            Found::Ended => self.deny(early.leg),
            // Here a deny would make the remote believe in an end that may be our abort.
            Found::Aborted => drop(early),
            Found::Unknown => self.hold_early(peer, early),
        }
    }

    fn hold_early(&mut self, peer: PeerId, early: Early<L>) {
        let connection = early.leg.connection();
        let (number, gone) = self.table.hold(peer, early);
        let timeout = self.settings.answer_timeout;
        let timer = self.due.add(timeout, Due::Early(peer, number));
        self.tasks
            .early
            .push(Box::pin(gone.map(move |gone| EarlyGone {
                peer,
                connection,
                number,
                timer,
                gone,
            })));
    }

    /// Frees its place for another.
    pub(super) fn early_gone(&mut self, early: EarlyGone) {
        self.due.cancel(early.timer);
        drop(self.table.expire_early(early.peer, early.number));
        if early.gone == Gone::Violation {
            self.violated(early.peer, Some(early.connection), Violation::Message);
        }
    }

    fn deny(&mut self, leg: Leg<L>) {
        self.ended(leg.connection());
        // Their number is bounded by the permits that their legs hold.
        let timeout = after(self.settings.answer_timeout);
        self.tasks.denials.push(Box::pin(async move {
            let _ = select(Box::pin(leg.deny()), timeout).await;
        }));
    }
}
