//! Streams without a leg, between two that resume (*Resume*): the opener gets them another, on a connection that is
//! there or on one that is dialed.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Bound::{Excluded, Unbounded},
    sync::Arc,
    time::Duration,
};

use futures::future::select;
use libp2p_identity::PeerId;
use web_time::Instant;

use super::{Due, Hub, Output, Purpose, prune::Legs, timers::TimerKey, word::With};
use crate::{
    error::MigrateError,
    event::{Event, Failure, Limit},
    key::{ConnectionKey, StreamKey},
    machine::{Facts, Speech, StreamId},
    permits::Permit,
    protocol::codec::{Resume, Resumed},
    stream::{Io, Leg, LegKind, Shared, after},
    table::Found,
    view::{ConnectionInfo, Mobility},
};

/// Our unanswered attempts to one peer.
const MAX_UNANSWERED: usize = 256;

/// Streams on one connection, those of the remote and of others included, beyond which a muxer may end it.
const MUXER_LIMIT: usize = 448;

/// Streams that are asked about in a row for which there is no connection.
const MAX_IN_VAIN: usize = 64;

/// The wait after an attempt that has failed while there is no other connection; it doubles, too.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(2);

/// The time between dials; it grows by half with each.
const FIRST_DIAL: Duration = Duration::from_millis(250);

/// The opener dials at once; the acceptor may be the only one that can.
const ACCEPTOR_WAITS: Duration = Duration::from_secs(1);

/// A stream without a leg.
#[derive(Debug)]
pub(super) struct Legless {
    since: Instant,
    /// Attempts that have come to nothing.
    failures: u32,
    /// The connection of the last attempt.
    tried: Option<ConnectionKey>,
    attempt: Option<Attempt>,
    /// The end of the wait after one.
    pause: TimerKey,
}

#[derive(Debug)]
struct Attempt {
    to: ConnectionKey,
    timer: TimerKey,
}

impl Legless {
    pub(super) fn timers(&self) -> [TimerKey; 2] {
        let attempt = self.attempt.as_ref().and_then(|attempt| attempt.timer);
        [attempt, self.pause]
    }

    /// The connection on which a leg is being opened, or its answer waited for.
    pub(super) fn attempt(&self) -> Option<ConnectionKey> {
        self.attempt.as_ref().map(|attempt| attempt.to)
    }
}

/// The streams without a leg of all peers.
#[derive(Debug, Default)]
pub(super) struct Suspended(HashMap<PeerId, OfPeer>);

#[derive(Debug, Default)]
struct OfPeer {
    streams: BTreeSet<StreamKey>,
    /// Those that want a leg for which nothing is under way.
    idle: BTreeSet<StreamKey>,
    unanswered: usize,
    /// Connections that are kept from being idle meanwhile.
    alive: Vec<(ConnectionKey, Permit)>,
    /// The next dial, and how many there were.
    dial: TimerKey,
    dials: u32,
}

impl<L: Io + Send + 'static> Hub<L> {
    // ---- Streams without a leg ---------------------------------------------------------------------

    /// True if streams to this peer wait for a leg.
    pub fn has_suspended(&self, peer: PeerId) -> bool {
        self.suspended.0.contains_key(&peer)
    }

    fn suspended_of(&self, peer: PeerId) -> Vec<StreamKey> {
        let of_peer = self.suspended.0.get(&peer).into_iter();
        of_peer.flat_map(|it| &it.streams).copied().collect()
    }

    /// The stream has let go of all its legs.
    pub(super) fn suspended(&mut self, key: StreamKey) {
        let Some(entry) = self.table.get_mut(key) else {
            return;
        };
        let peer = entry.peer();
        if entry.record.outgoing().is_some_and(|it| !it.is_waiting()) {
            self.outgoing_failed(key, MigrateError::Failed(Failure::LegLost));
        }
        let Some(entry) = self.table.get_mut(key) else {
            return;
        };
        let wants = entry.shared.wants_leg();
        let legs = std::mem::replace(&mut entry.record.legs, Legs::NONE);
        if entry.record.legless.is_none() {
            entry.record.legless = Some(Box::new(Legless {
                since: Instant::now(),
                failures: 0,
                tried: legs.current,
                attempt: None,
                pause: None,
            }));
        }
        self.set_legs(peer, legs, Legs::NONE);
        let of_peer = self.suspended.0.entry(peer).or_default();
        of_peer.streams.insert(key);
        if wants {
            of_peer.idle.insert(key);
        }
        if of_peer.streams.len() == 1 {
            for connection in self.connections.keys(peer) {
                self.hold_for_suspended(peer, connection);
            }
        }
        self.event(Event::StreamSuspended { peer, key });
        if self.is_stuck_here(peer, key) {
            // It may go nowhere else.
            if let Some(entry) = self.table.get(key) {
                entry.shared.give_up();
            }
            return;
        }
        if self.is_restarted(peer, key) {
            return self.is_over(key);
        }
        self.get_leg(key);
        self.seek(peer);
    }

    /// Keeps the connection from being idle while streams wait to go on there.
    pub(super) fn hold_for_suspended(&mut self, peer: PeerId, connection: ConnectionKey) {
        if self.has_suspended(peer)
            && let Some(alive) = self.keep_alive(connection)
            && let Some(of_peer) = self.suspended.0.get_mut(&peer)
        {
            of_peer.alive.push((connection, alive));
        }
    }

    /// True if the process that had the other end is gone: a younger connection is another's.
    fn is_restarted(&self, peer: PeerId, key: StreamKey) -> bool {
        let with = self.table.get(key).map(|entry| entry.record.with);
        let Some(With::Process(with)) = with else {
            return false;
        };
        let known = self.connections.of(peer).iter().filter_map(|info| {
            let epoch = self.connections.record(info.key)?.talk.remote()?;
            Some((info.established, epoch))
        });
        let youngest = known.max_by_key(|(established, _)| *established);
        youngest.is_some_and(|(_, epoch)| epoch != with)
    }

    /// The remote holds nothing of the stream any more.
    fn is_over(&mut self, key: StreamKey) {
        if let Some(entry) = self.table.get(key) {
            entry.shared.said(Facts::GONE);
            self.heard_from(key);
        }
    }

    /// True if no connection, there or to come, is one on which the stream may go on.
    pub(super) fn is_stuck_here(&self, peer: PeerId, key: StreamKey) -> bool {
        let mobility = self.table.get(key).map(|entry| entry.record.mobility);
        match mobility {
            Some(Mobility::Pinned) => true,
            Some(Mobility::PinnedTo(to)) => self.connections.get(peer, to).is_none(),
            _ => false,
        }
    }

    /// A stream without a leg may have come to its end without one.
    pub(super) fn may_need_no_leg(&mut self, key: StreamKey) {
        if let Some(entry) = self.table.get(key)
            && entry.record.legless.is_some()
            && !entry.shared.is_legless()
            && entry.shared.status().connection.is_none()
        {
            let peer = entry.peer();
            self.change_legs(key, |legs| *legs = Legs::NONE);
            self.not_suspended(peer, key);
        }
    }

    /// The stream has a leg again, or is over.
    fn not_suspended(&mut self, peer: PeerId, key: StreamKey) -> Option<Legless> {
        let legless = self.table.get_mut(key)?.record.legless.take()?;
        self.forget_legless(peer, key, &legless);
        Some(*legless)
    }

    pub(super) fn forget_legless(&mut self, peer: PeerId, key: StreamKey, legless: &Legless) {
        for timer in legless.timers() {
            self.due.cancel(timer);
        }
        if let Some(of_peer) = self.suspended.0.get_mut(&peer) {
            of_peer.streams.remove(&key);
            of_peer.idle.remove(&key);
            of_peer.unanswered -= usize::from(legless.attempt.is_some());
            if of_peer.streams.is_empty()
                && let Some(of_peer) = self.suspended.0.remove(&peer)
            {
                self.due.cancel(of_peer.dial);
                for (connection, alive) in of_peer.alive {
                    drop(alive);
                    self.released(peer, connection);
                }
            }
        }
    }

    /// The stream goes on.
    pub(super) fn goes_on(&mut self, key: StreamKey, connection: ConnectionKey, again: u64) {
        let Some(peer) = self.table.get(key).map(|entry| entry.peer()) else {
            return;
        };
        let legless = self.not_suspended(peer, key);
        self.table.refresh(key);
        self.change_legs(key, |legs| {
            *legs = Legs {
                current: Some(connection),
                ..Legs::NONE
            };
        });
        self.arrived(connection);
        self.event(Event::StreamResumed {
            peer,
            key,
            connection,
            again,
            took: legless.map_or(Duration::ZERO, |it| it.since.elapsed()),
        });
        if let Some(entry) = self.table.get_mut(key) {
            entry.record.moves().stuck = None;
        }
        self.awaits_there(peer, connection);
        self.get_legs(peer);
        self.place(key);
    }

    // ---- The opener --------------------------------------------------------------------------------

    /// Gets legs for those who want one, as many as may be asked for at once.
    pub(super) fn get_legs(&mut self, peer: PeerId) {
        let mut after = None;
        let mut in_vain = 0;
        // Some may have to wait for another kind of connection.
        while in_vain < MAX_IN_VAIN && self.has_place(peer) {
            let of_peer = self.suspended.0.get(&peer);
            let mut idle = of_peer.iter().flat_map(|it| match after {
                Some(after) => it.idle.range((Excluded(after), Unbounded)),
                None => it.idle.range(..),
            });
            let Some(key) = idle.next().copied() else {
                return;
            };
            after = Some(key);
            in_vain += usize::from(!self.get_leg(key));
        }
    }

    fn has_place(&self, peer: PeerId) -> bool {
        let of_peer = self.suspended.0.get(&peer);
        of_peer.is_some_and(|it| it.unanswered < MAX_UNANSWERED)
    }

    /// Returns whether an attempt was made.
    fn get_leg(&mut self, key: StreamKey) -> bool {
        let Some(entry) = self.table.get(key) else {
            return false;
        };
        let peer = entry.peer();
        let waits = |it: &Legless| it.attempt.is_some() || it.pause.is_some();
        if entry.record.legless.as_deref().is_none_or(waits)
            || !entry.shared.wants_leg()
            || !self.has_place(peer)
        {
            return false;
        }
        let Some(to) = self.way_back(peer, key) else {
            return false;
        };
        let time = self.time_to_ask(to);
        let Some(legless) = self.legless(key) else {
            return false;
        };
        let time = time * 2_u32.pow(legless.failures.min(4));
        let timer = self.due.add(time, Due::ResumeOver(key));
        if let Some(legless) = self.legless(key) {
            legless.attempt = Some(Attempt { to, timer });
            legless.tried = Some(to);
        }
        if let Some(of_peer) = self.suspended.0.get_mut(&peer) {
            of_peer.unanswered += 1;
            of_peer.idle.remove(&key);
        }
        self.change_legs(key, |legs| legs.opening = Some(to));
        self.output(Output::Open(peer, to, Purpose::Leg(key)));
        self.awaits_there(peer, to);
        true
    }

    /// True if it asks there to go on, or is about to.
    pub(super) fn is_resuming_on(&self, key: StreamKey, connection: ConnectionKey) -> bool {
        let entry = self.table.get(key);
        entry.is_some_and(|entry| entry.record.resuming_on() == Some(connection))
    }

    fn legless(&mut self, key: StreamKey) -> Option<&mut Legless> {
        self.table.get_mut(key)?.record.legless.as_deref_mut()
    }

    /// The connection on which the stream is to go on: to the process that has the other end; one that answers before
    /// one that may not; another than the last time; the one that was heard last.
    fn way_back(&self, peer: PeerId, key: StreamKey) -> Option<ConnectionKey> {
        let record = &self.table.get(key)?.record;
        let With::Process(epoch) = record.with else {
            return None;
        };
        let tried = record.legless.as_ref()?.tried;
        let fits = |info: &&ConnectionInfo| {
            let listens = self.listener(info.key) == Some(epoch);
            let room = info.leg_kind == LegKind::Quic || info.streams + info.opening < MUXER_LIMIT;
            listens && room && !info.closing && record.mobility.allows(info)
        };
        let rank = |info: &&ConnectionInfo| {
            let heard = self.last_heard(info.key);
            (
                !info.suspected,
                Some(info.key) != tried,
                heard,
                info.established,
            )
        };
        let all = self.connections.of(peer).iter().filter(fits);
        Some(all.max_by_key(rank)?.key)
    }

    /// A leg for the stream is open. Returns it if that is not what it is for.
    pub(super) fn leg_to_resume(
        &mut self,
        key: StreamKey,
        connection: ConnectionKey,
        io: L,
    ) -> Option<L> {
        if !self.is_resuming_on(key, connection) {
            return Some(io);
        }
        let entry = self.table.get(key)?;
        let (peer, with) = (entry.peer(), entry.record.with);
        let (With::Process(epoch), Some(leg)) = (with, self.leg(peer, connection, io)) else {
            self.resume_failed(key);
            return None;
        };
        let id = self.table.allocate(peer);
        let names = (self.epoch, Some(epoch));
        let asked = match self.table.get(key) {
            Some(entry) => entry.shared.ask_to_resume(leg, id, names),
            None => false,
        };
        if asked {
            self.table.refresh(key);
            self.drive(key);
        } else {
            self.resume_failed(key);
        }
        None
    }

    /// The attempt has had its time.
    pub(super) fn resume_over(&mut self, key: StreamKey) {
        let timer = |legless: &mut Legless| legless.attempt.as_ref().map(|it| it.timer);
        let before = self.legless(key).and_then(timer);
        let Some(entry) = self.table.get(key) else {
            return;
        };
        entry.shared.resume_over();
        // It tells that itself, if it had a leg.
        self.heard_from(key);
        if before.is_some() && self.legless(key).and_then(timer) == before {
            self.resume_failed(key);
        }
    }

    /// An attempt has come to nothing. Returns whether there was one.
    pub(super) fn resume_failed(&mut self, key: StreamKey) -> bool {
        let Some(entry) = self.table.get_mut(key) else {
            return false;
        };
        let peer = entry.peer();
        let Some(legless) = entry.record.legless.as_deref_mut() else {
            return false;
        };
        let Some(attempt) = legless.attempt.take() else {
            return false;
        };
        let failures = legless.failures;
        legless.failures = failures.saturating_add(1);
        self.due.cancel(attempt.timer);
        self.table.refresh(key);
        self.change_legs(key, |legs| legs.opening = None);
        if let Some(of_peer) = self.suspended.0.get_mut(&peer) {
            of_peer.unanswered -= 1;
            of_peer.idle.insert(key);
        }
        // Elsewhere at once, the first time; to one that says "not now", not at network speed.
        let elsewhere = self.way_back(peer, key).is_some_and(|to| to != attempt.to);
        if failures > 0 || !elsewhere {
            let pause = (FIRST_PAUSE * 2_u32.pow(failures.min(8))).min(LAST_PAUSE);
            let timer = self.due.add(pause, Due::ResumeAgain(key));
            if let Some(legless) = self.legless(key) {
                legless.pause = timer;
            }
            if let Some(of_peer) = self.suspended.0.get_mut(&peer) {
                of_peer.idle.remove(&key);
            }
        }
        self.get_legs(peer);
        self.seek(peer);
        true
    }

    pub(super) fn resume_again(&mut self, key: StreamKey) {
        if let Some(legless) = self.legless(key) {
            legless.pause = None;
        }
        if let Some(peer) = self.table.get(key).map(|entry| entry.peer())
            && let Some(of_peer) = self.suspended.0.get_mut(&peer)
        {
            of_peer.idle.insert(key);
        }
        self.get_leg(key);
    }

    // ---- The acceptor ------------------------------------------------------------------------------

    /// The opener asks that a stream go on. Returns it if its label was lost: it begins here, and its protocol has
    /// still to be negotiated.
    pub(super) fn resume_requested(
        &mut self,
        peer: PeerId,
        leg: Leg<L>,
        id: StreamId,
        resume: Resume,
    ) -> Option<Arc<Shared<L>>> {
        let connection = leg.connection();
        let gone = Resumed::Facts(resume.origin, Facts::GONE);
        let for_us = self.settings.resume && resume.remote.is_none_or(|it| it == self.epoch);
        if !for_us || self.table.is_ours(peer, resume.origin) {
            self.answer_resume(peer, leg, gone);
            return None;
        }
        if matches!(self.table.find(peer, id), Found::Live(_)) {
            self.answer_resume(peer, leg, Resumed::NotNow);
            return None;
        }
        let Found::Live(key) = self.table.find_origin(peer, resume.origin) else {
            let never_seen = self.table.seen(peer).is_new(resume.epoch, resume.origin);
            if never_seen && resume.remote.is_some() && resume.facts.received == 0 {
                return self.label_was_lost(peer, leg, id, resume);
            }
            self.answer_resume(peer, leg, gone);
            return None;
        };
        self.table.seen(peer).insert(resume.epoch, id);
        let entry = self.table.get_mut(key)?;
        if entry.record.with != With::Process(resume.epoch) {
            self.answer_resume(peer, leg, gone);
            return None;
        }
        let info = self.connections.get(peer, connection);
        let allowed = info.is_some_and(|info| entry.record.mobility.allows(info));
        let per_second = self.settings.max_migration_rate;
        if !allowed || !entry.record.moves().rate.allows(per_second, Instant::now()) {
            self.answer_resume(peer, leg, Resumed::NotNow);
            return None;
        }
        entry
            .shared
            .resume(leg, id, resume.generation, resume.facts);
        self.table.refresh(key);
        self.heard_from(key);
        None
    }

    /// The opener has begun the stream on a connection that was lost before its label came.
    fn label_was_lost(
        &mut self,
        peer: PeerId,
        leg: Leg<L>,
        id: StreamId,
        resume: Resume,
    ) -> Option<Arc<Shared<L>>> {
        let connection = leg.connection();
        let known = self.listener(connection) == Some(resume.epoch);
        if !known || self.table.admits(peer, resume.origin).is_err() {
            self.answer_resume(peer, leg, Resumed::NotNow);
            return None;
        }
        for id in [resume.origin, id] {
            self.table.seen(peer).insert(resume.epoch, id);
        }
        let speech = self.speech_of(peer, connection, Some(resume.epoch));
        let mobility = Mobility::default();
        let shared = self.start(peer, leg, resume.origin, None, speech, mobility);
        shared.resume_first(id, resume.generation, resume.facts);
        self.table.refresh(shared.key());
        self.heard_from(shared.key());
        Some(shared)
    }

    /// Answers for a stream that is not to go on there, or not at all.
    fn answer_resume(&mut self, peer: PeerId, mut leg: Leg<L>, answer: Resumed) {
        let connection = leg.connection();
        // Their number is bounded by the permits that their legs hold.
        let Ok(permits) = self.permits(peer, connection) else {
            drop(leg);
            return self.refused(peer, Some(connection), Limit::UnansweredPerPeer);
        };
        leg.hold(permits);
        self.ended(connection);
        let timeout = after(self.settings.answer_timeout);
        self.tasks.denials.push(Box::pin(async move {
            let _ = select(Box::pin(leg.answer(answer)), timeout).await;
        }));
    }

    // ---- Connections -------------------------------------------------------------------------------

    /// The remote's process there is this one.
    pub(super) fn may_resume(&mut self, peer: PeerId, epoch: u64, speech: Speech) {
        for key in self.table.of_peer(peer) {
            let Some(entry) = self.table.get(key) else {
                continue;
            };
            match entry.record.with {
                With::Process(with) if with == epoch => entry.shared.speaks(speech),
                // A process takes part in its own handshake: that one is over.
                With::Process(_) if entry.shared.is_legless() && self.is_restarted(peer, key) => {
                    self.is_over(key);
                }
                _ => {}
            }
        }
        // What was asked on a silent path is asked here.
        for key in self.suspended_of(peer) {
            let entry = self.table.get(key);
            let asked = entry.and_then(|entry| entry.record.resuming_on());
            let info = asked.and_then(|asked| self.connections.get(peer, asked));
            if info.is_some_and(|info| info.suspected) {
                self.resume_over(key);
            }
        }
        self.get_legs(peer);
    }

    /// A connection is gone. `lost` is false if it was closed on purpose, on either side.
    pub(super) fn connection_gone(&mut self, peer: PeerId, connection: ConnectionKey, lost: bool) {
        let last = self.connections.of(peer).is_empty();
        for key in self.suspended_of(peer) {
            let Some(entry) = self.table.get(key) else {
                continue;
            };
            if last && !lost {
                // Who closes the last connection does not want the streams.
                entry.shared.give_up();
                self.heard_from(key);
            } else if entry.record.resuming_on() == Some(connection) {
                // The machine's part of it knows.
                self.resume_failed(key);
            }
        }
        self.get_legs(peer);
        self.seek(peer);
    }

    /// True if there is a connection that may answer.
    fn is_somebody_there(&self, peer: PeerId) -> bool {
        let mut all = self.connections.of(peer).iter();
        all.any(|info| !info.suspected && !info.closing)
    }

    /// Dials if streams wait and there is no connection that may answer.
    pub(super) fn seek(&mut self, peer: PeerId) {
        let there = self.is_somebody_there(peer);
        let Some(of_peer) = self.suspended.0.get_mut(&peer) else {
            return;
        };
        if there || of_peer.dial.is_some() {
            return;
        }
        let keys = of_peer.streams.iter();
        let ours = keys.into_iter().any(|key| {
            let entry = self.table.get(*key);
            entry.is_some_and(|entry| entry.shared.wants_leg())
        });
        let delay = match ours {
            true => Duration::ZERO,
            false => ACCEPTOR_WAITS,
        };
        of_peer.dial = self.due.add(delay, Due::Redial(peer));
    }

    /// The next dial, unless a connection has come.
    pub(super) fn redial(&mut self, peer: PeerId) {
        let there = self.is_somebody_there(peer);
        let Some(of_peer) = self.suspended.0.get_mut(&peer) else {
            return;
        };
        of_peer.dial = None;
        if there {
            of_peer.dials = 0;
            return;
        }
        let grown = 1.5_f64.powi(i32::try_from(of_peer.dials.min(20)).unwrap_or(20));
        let next = FIRST_DIAL.mul_f64(grown).min(self.settings.redial_max);
        of_peer.dials = of_peer.dials.saturating_add(1);
        of_peer.dial = self.due.add(next, Due::Redial(peer));
        self.output(Output::Dial(peer));
    }

    pub(super) fn suspended_peers(&self) -> Vec<PeerId> {
        self.suspended.0.keys().copied().collect()
    }

    /// Dials at once, as if for the first time.
    pub(super) fn dial_anew(&mut self, peer: PeerId) {
        if let Some(of_peer) = self.suspended.0.get_mut(&peer) {
            let dial = of_peer.dial.take();
            of_peer.dials = 0;
            self.due.cancel(dial);
            self.seek(peer);
        }
    }

    /// Nobody is to dial this peer: it was denied.
    pub fn dial_denied(&mut self, peer: PeerId) {
        if let Some(of_peer) = self.suspended.0.get_mut(&peer) {
            let dial = of_peer.dial.take();
            self.due.cancel(dial);
        }
    }

    #[cfg(any(test, stream_migration_mutants))]
    pub(super) fn check_suspended(&self) {
        for (peer, of_peer) in &self.suspended.0 {
            assert!(!of_peer.streams.is_empty());
            assert!(of_peer.idle.is_subset(&of_peer.streams));
            let attempts = of_peer.streams.iter().filter(|key| {
                let entry = self.table.get(**key).expect("a stream that is there");
                assert_eq!(entry.peer(), *peer);
                let legless = entry.record.legless.as_ref().expect("one without a leg");
                legless.attempt.is_some()
            });
            assert_eq!(attempts.count(), of_peer.unanswered, "attempts to {peer}");
        }
        for (key, entry) in self.table.iter() {
            let legless = entry.record.legless.is_some();
            let known = self.suspended.0.get(&entry.peer());
            assert_eq!(legless, known.is_some_and(|it| it.streams.contains(&key)));
        }
    }
}
