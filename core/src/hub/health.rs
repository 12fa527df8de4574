//! *Suspicion*: connections that are there and do not answer. A path may go silent without an error for
//! minutes; a connection that has not answered an open, a probe or a migration is suspected until it
//! answers, and nobody waits on it beside one that does.
//!
//! There is one probe for each connection at a time, whoever waits for it. It is a substream that the
//! remote has to agree to, or to refuse.

use std::time::Duration;

use libp2p_identity::PeerId;
use web_time::Instant;

use super::{Due, Hub, Output, Purpose, timers::TimerKey};
use crate::{
    key::{ConnectionKey, StreamKey},
    stream::Io,
    view::ConnectionInfo,
};

/// The time for which what has left a connection does not return to it once it has answered again;
/// twice as long with each suspicion.
const QUARANTINE: Duration = Duration::from_secs(10);
const MAX_DOUBLINGS: u32 = 6;

/// The interval at which a suspected connection is probed again.
const PROBE_AGAIN: Duration = Duration::from_secs(10);

/// A younger sign of life makes a probe needless.
const JUST_NOW: Duration = Duration::from_secs(1);

/// The health of a connection: what is known of how it answers.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// The time of the remote's last sign of life on it, after it was established.
    heard: Option<Instant>,
    /// The time at which it last said something, as opposed to bytes of streams, which may have come long before they
    /// were read.
    said: Option<Instant>,
    probe: Option<Probe>,
    suspicions: u32,
    timers: HealthTimers,
    /// Bytes read on it when it was last looked after.
    read: u64,
}

impl Health {
    fn was_heard_within(&self, time: Duration) -> bool {
        self.heard.is_some_and(|heard| heard.elapsed() < time)
    }
}

/// The timers of a connection.
#[derive(Debug, Default)]
struct HealthTimers {
    proven: TimerKey,
    probe_late: TimerKey,
    probe_over: TimerKey,
    probe_again: TimerKey,
    quarantine_over: TimerKey,
    /// Running as long as the connection is looked after.
    look_after: TimerKey,
}

impl HealthTimers {
    fn all(&self) -> [TimerKey; 6] {
        [
            self.proven,
            self.probe_late,
            self.probe_over,
            self.probe_again,
            self.quarantine_over,
            self.look_after,
        ]
    }
}

#[derive(Debug)]
struct Probe {
    number: u64,
    waiting: Vec<StreamKey>,
    /// Bytes read on the connection before it.
    read: u64,
}

impl<L: Io + Send + 'static> Hub<L> {
    fn health(&self, connection: ConnectionKey) -> Option<&Health> {
        Some(&self.connections.record(connection)?.health)
    }

    fn health_mut(&mut self, connection: ConnectionKey) -> Option<&mut Health> {
        Some(&mut self.connections.record_mut(connection)?.health)
    }

    /// The time of the remote's last sign of life there.
    pub(super) fn last_heard(&self, connection: ConnectionKey) -> Option<Instant> {
        self.health(connection)?.heard
    }

    /// The time at which the remote last said something there.
    pub(super) fn last_said(&self, connection: ConnectionKey) -> Option<Instant> {
        self.health(connection)?.said
    }

    /// True if the connection has just shown life, and nothing says otherwise.
    fn is_fresh(&self, connection: ConnectionKey) -> bool {
        let health = self.health(connection);
        health.is_some_and(|health| health.probe.is_none() && health.was_heard_within(JUST_NOW))
    }

    /// Waits for a new connection to have been there for long enough.
    pub(super) fn prove(&mut self, peer: PeerId, connection: ConnectionKey) {
        let due = Due::Proven(peer, connection);
        self.set_timer(connection, self.settings.proving_time, due, |it| {
            &mut it.proven
        });
    }

    /// The connection is gone. Whoever waits for it to answer need not any more.
    pub(super) fn forget_health(&mut self, connection: ConnectionKey, health: Health) {
        for timer in health.timers.all() {
            self.due.cancel(timer);
        }
        for key in health.probe.map(|probe| probe.waiting).unwrap_or_default() {
            self.probed(key, connection, false);
        }
    }

    /// Takes the probe that is under way, if it is this one.
    fn take_probe(&mut self, connection: ConnectionKey, number: Option<u64>) -> Option<Probe> {
        let health = self.health_mut(connection)?;
        let is_it = |probe: &mut Probe| number.is_none_or(|number| probe.number == number);
        let probe = health.probe.take_if(is_it)?;
        let timers = [
            std::mem::take(&mut health.timers.probe_late),
            std::mem::take(&mut health.timers.probe_over),
        ];
        for timer in timers {
            self.due.cancel(timer);
        }
        Some(probe)
    }

    fn set_timer(
        &mut self,
        connection: ConnectionKey,
        delay: Duration,
        due: Due,
        timer: impl FnOnce(&mut HealthTimers) -> &mut TimerKey,
    ) {
        let key = self.due.add(delay, due);
        if let Some(health) = self.health_mut(connection) {
            let before = std::mem::replace(timer(&mut health.timers), key);
            self.due.cancel(before);
        }
    }

    // ---- Probes ------------------------------------------------------------------------------------

    /// Sees whether anybody answers on the connection, for a stream's sake or to know.
    pub fn probe(&mut self, peer: PeerId, connection: ConnectionKey, waiting: Option<StreamKey>) {
        let health = self.health_mut(connection);
        if let Some(probe) = health.and_then(|health| health.probe.as_mut()) {
            probe.waiting.extend(waiting);
            return;
        }
        // It looks at all streams of the peer: once for a probe, not once for each that waits for it.
        let read = self.bytes_read_on(peer, connection);
        let number = self.next_probe;
        let Some(health) = self.health_mut(connection) else {
            if let Some(key) = waiting {
                self.probed(key, connection, false);
            }
            return;
        };
        let for_stream = waiting.is_some();
        health.probe = Some(Probe {
            number,
            waiting: waiting.into_iter().collect(),
            read,
        });
        self.next_probe += 1;
        let probe = Purpose::Probe { number, for_stream };
        self.output(Output::Open(peer, connection, probe));
        // The handler may not be polled any more: these do not depend on it.
        let over = self.settings.progress_timeout;
        let late = self.settings.suspect_after.min(over);
        let due = Due::ProbeLate(peer, connection, number);
        self.set_timer(connection, late, due, |it| &mut it.probe_late);
        let due = Due::ProbeOver(peer, connection, number);
        self.set_timer(connection, over, due, |it| &mut it.probe_over);
    }

    /// True if a stream must not be opened there before the remote has answered, though it is known
    /// to support the protocol and negotiation is lazy: there is another connection, and this one
    /// may be dead.
    pub fn must_prove(&self, peer: PeerId, connection: ConnectionKey) -> bool {
        self.connections.of(peer).len() > 1 && !self.is_fresh(connection)
    }

    /// Probes the connection unless it has just shown life.
    pub fn probe_if_silent(&mut self, peer: PeerId, connection: ConnectionKey) {
        if !self.is_fresh(connection) {
            self.probe(peer, connection, None);
        }
    }

    /// A probe of this number has come to an end.
    pub fn probe_over(
        &mut self,
        peer: PeerId,
        connection: ConnectionKey,
        number: u64,
        answered: bool,
    ) {
        if answered {
            return self.heard(peer, connection);
        }
        let Some(probe) = self.take_probe(connection, Some(number)) else {
            return;
        };
        // The remote may have no place for one more substream, and be well all the same.
        let alive = self.bytes_read_on(peer, connection) > probe.read;
        if alive {
            self.is_alive(peer, connection);
        } else {
            self.suspect(peer, connection);
        }
        for key in probe.waiting {
            self.probed(key, connection, alive);
        }
        if !alive && self.others_answer(peer, connection) {
            self.give_up(peer, connection);
        }
    }

    fn others_answer(&self, peer: PeerId, connection: ConnectionKey) -> bool {
        // What has just been heard was not probed again.
        let lately = self.settings.progress_timeout.max(2 * JUST_NOW);
        self.connections.of(peer).iter().any(|info| {
            let health = self.health(info.key);
            let answers = health.is_some_and(|health| health.was_heard_within(lately));
            info.key != connection && !info.suspected && answers
        })
    }

    /// Gives up a connection on which nothing has come for the progress timeout, while another one
    /// of the peer answers. Streams that have not left it meanwhile cannot be saved.
    fn give_up(&mut self, peer: PeerId, connection: ConnectionKey) {
        for key in self.table.of_peer(peer) {
            if let Some(entry) = self.table.get(key)
                && entry.shared.status().connection == Some(connection)
            {
                entry.shared.connection_lost(connection);
                self.heard_from(key);
            }
        }
    }

    /// The probe has been unanswered for long enough to look for another connection, though not for long
    /// enough to give up what is in flight.
    pub fn probe_is_late(&mut self, peer: PeerId, connection: ConnectionKey, number: u64) {
        let health = self.health(connection);
        let probe = health.and_then(|health| health.probe.as_ref());
        let Some(probe) = probe.filter(|probe| probe.number == number) else {
            return;
        };
        if self.bytes_read_on(peer, connection) > probe.read {
            return;
        }
        self.suspect(peer, connection);
        self.probe_others(peer, connection);
    }

    /// Sees whether the peer answers elsewhere, before what waits on this connection is given up: the others
    /// may be idle, and so unheard for long.
    fn probe_others(&mut self, peer: PeerId, connection: ConnectionKey) {
        let all = self.connections.of(peer);
        let carries = |info: &&ConnectionInfo| info.key == connection && info.streams > 0;
        if !all.iter().any(|info| carries(&info)) {
            return;
        }
        let others = all.iter().filter(|info| info.key != connection);
        let others = others.filter(|info| !info.suspected && !info.closing);
        for other in others.map(|info| info.key).collect::<Vec<_>>() {
            self.probe_if_silent(peer, other);
        }
    }

    // ---- Suspicion ---------------------------------------------------------------------------------

    /// Something of the remote's has come on the connection. That clears no suspicion: what we send may
    /// get lost.
    pub fn seen(&mut self, peer: PeerId, connection: ConnectionKey) {
        if let Some(health) = self.health_mut(connection) {
            health.heard = Some(Instant::now());
            health.said = health.heard;
        }
        let info = self.connections.get(peer, connection);
        if info.is_some_and(|info| info.suspected) {
            self.probe(peer, connection, None);
        }
    }

    /// A stream was handed out before the remote had agreed to its protocol, which it should have done.
    pub fn unheard(&mut self, key: StreamKey) {
        let Some(entry) = self.table.get(key) else {
            return;
        };
        let (peer, status) = (entry.peer(), entry.shared.status());
        if status.unanswered
            && let Some(connection) = status.connection
        {
            self.probe_if_silent(peer, connection);
        }
    }

    /// The connection has answered something of ours.
    pub fn heard(&mut self, peer: PeerId, connection: ConnectionKey) {
        if let Some(health) = self.health_mut(connection) {
            health.said = Some(Instant::now());
        }
        self.is_alive(peer, connection);
    }

    fn is_alive(&mut self, peer: PeerId, connection: ConnectionKey) {
        let Some(health) = self.health_mut(connection) else {
            return;
        };
        health.heard = Some(Instant::now());
        let probe = self.take_probe(connection, None);
        for key in probe.map(|probe| probe.waiting).unwrap_or_default() {
            self.probed(key, connection, true);
        }
        let Some(info) = self.connections.get_mut(peer, connection) else {
            return;
        };
        if !std::mem::take(&mut info.suspected) {
            return;
        }
        let Some(health) = self.health(connection) else {
            return;
        };
        let doublings = health.suspicions.saturating_sub(1).min(MAX_DOUBLINGS);
        let quarantine = QUARANTINE * 2_u32.pow(doublings);
        let due = Due::QuarantineOver(peer, connection);
        self.set_timer(connection, quarantine, due, |it| &mut it.quarantine_over);
        self.connection_changed(peer, connection);
        self.room_changed(peer);
    }

    pub fn quarantine_over(&mut self, peer: PeerId, connection: ConnectionKey) {
        for key in self.table.of_peer(peer) {
            if let Some(entry) = self.table.get_mut(key) {
                entry.record.end_quarantine(connection);
            }
        }
        self.place_all(peer);
    }

    /// The connection has not answered.
    pub fn suspect(&mut self, peer: PeerId, connection: ConnectionKey) {
        let Some(info) = self.connections.get_mut(peer, connection) else {
            return;
        };
        info.proven = false;
        if std::mem::replace(&mut info.suspected, true) {
            return;
        }
        if let Some(health) = self.health_mut(connection) {
            health.suspicions = health.suspicions.saturating_add(1);
            // What has left it is held off by the suspicion itself.
            let quarantine = std::mem::take(&mut health.timers.quarantine_over);
            self.due.cancel(quarantine);
        }
        self.probe_again_later(peer, connection);
        self.connection_changed(peer, connection);
        self.room_changed(peer);
        self.seek(peer);
    }

    /// A suspected connection may be well again.
    pub fn probe_again(&mut self, peer: PeerId, connection: ConnectionKey) {
        let info = self.connections.get(peer, connection);
        if info.is_some_and(|info| info.suspected) {
            self.probe(peer, connection, None);
            self.probe_again_later(peer, connection);
        }
    }

    fn probe_again_later(&mut self, peer: PeerId, connection: ConnectionKey) {
        let due = Due::ProbeAgain(peer, connection);
        self.set_timer(connection, PROBE_AGAIN, due, |it| &mut it.probe_again);
    }

    /// Old enough to be chosen among duplicates.
    pub fn proven(&mut self, peer: PeerId, connection: ConnectionKey) {
        let health = self.health(connection);
        let suspicious = health.is_none_or(|health| health.suspicions > 0);
        if let Some(info) = self.connections.get_mut(peer, connection)
            && !info.new_port
            && !suspicious
        {
            info.proven = true;
            self.connection_changed(peer, connection);
        }
    }

    // ---- Looking after connections that carry streams beside others --------------------------------

    /// A connection has come beside others: the remote may have dialed again because they are dead.
    pub fn look_after_all(&mut self, peer: PeerId, newest: ConnectionKey) {
        let connections = self.connections.of(peer);
        if connections.len() < 2 {
            return;
        }
        let direct = connections
            .iter()
            .any(|info| info.key == newest && !info.relayed);
        let all: Vec<_> = connections
            .iter()
            .map(|info| (info.key, info.relayed))
            .collect();
        for (connection, relayed) in all {
            self.look_after_later(peer, connection);
            // Streams leave a relayed one for a direct one anyway, and a probe would keep it in use.
            if connection != newest && !(relayed && direct) {
                self.probe(peer, connection, None);
            }
        }
    }

    fn look_after_later(&mut self, peer: PeerId, connection: ConnectionKey) {
        let Some(interval) = self.settings.probe_interval else {
            return;
        };
        let health = self.health(connection);
        if health.is_some_and(|health| health.timers.look_after.is_none()) {
            let due = Due::LookAfter(peer, connection);
            self.set_timer(connection, interval, due, |it| &mut it.look_after);
        }
    }

    /// Probes a connection that carries streams, has not been read from for a while, and is not the only
    /// one: who waits on it could be elsewhere.
    pub fn look_after(&mut self, peer: PeerId, connection: ConnectionKey) {
        let read = self.bytes_read_on(peer, connection);
        let Some(health) = self.health_mut(connection) else {
            return;
        };
        health.timers.look_after = None;
        let silent = std::mem::replace(&mut health.read, read) == read;
        let info = self.connections.get(peer, connection);
        let carries = info.is_some_and(|info| info.streams > 0 && !info.suspected);
        if self.connections.of(peer).len() < 2 {
            return;
        }
        if carries && silent {
            self.probe_if_silent(peer, connection);
        }
        self.look_after_later(peer, connection);
    }

    /// The bytes read of the streams whose bytes go over this connection. It grows only if the
    /// connection, or the one that they have come from, brings something.
    fn bytes_read_on(&self, peer: PeerId, connection: ConnectionKey) -> u64 {
        let streams = self.table.of_peer(peer).into_iter();
        let statuses = streams.filter_map(|key| Some(self.table.get(key)?.shared.status()));
        statuses
            .filter(|status| status.connection == Some(connection))
            .map(|status| status.received)
            .sum()
    }
}
