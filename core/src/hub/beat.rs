//! *Heartbeats*: paths that go silent without a word are left in well under a second, if another one answers.
//!
//! Nothing is sent on a connection on which nobody waits. Who has written what has not arrived waits; so does, more
//! slowly, who reads. A connection on which nothing has been read for longer than a round trip should take is asked,
//! and so are the others; it is given up if one of those has answered and it still has not after the same time again.

use std::time::Duration;

use libp2p_identity::PeerId;
use web_time::Instant;

use super::{Due, Hub, Output, timers::TimerKey};
use crate::{key::ConnectionKey, pulse::Pulse, stream::Io};

/// The least time without a sign of life after which a connection is asked.
const LEAST: Duration = Duration::from_millis(250);

/// The time that an answer takes beside the round trip.
const SLACK: Duration = Duration::from_millis(100);

/// The round trip that is assumed as long as none was measured.
const UNKNOWN: Duration = Duration::from_secs(1);

/// The most between two questions to a connection that answers them, though what was written does not arrive: its
/// reader is slow.
const LONGEST: Duration = Duration::from_secs(2);

/// The interval at which a connection is looked at on which only readers wait.
const SLOW: Duration = Duration::from_secs(5);

/// A connection that has brought something lately is missed sooner.
const LATELY: Duration = Duration::from_secs(60);

/// A timer that is so late says that we have slept, not the remote.
const ASLEEP: Duration = Duration::from_millis(500);

/// The pings that a new connection begins with, one after the other: the first is answered by a peer that is busy
/// with its handshake.
const FIRST_PINGS: u32 = 8;

/// Other connections that are asked.
const STANDBYS: usize = 3;

/// The knowledge of how a connection answers.
#[derive(Debug, Default)]
pub(super) struct Beat {
    pulse: Pulse,
    timer: TimerKey,
    /// True if somebody waits for what he has written.
    fast: bool,
    /// The last sign of life that was seen.
    heard: Option<Instant>,
    /// The beginning of the wait.
    since: Option<Instant>,
    /// The question that is unanswered.
    asked: Option<Instant>,
    /// Questions that were answered in a row, and nothing else came.
    answered: u32,
    /// The last sign of life may be nothing but an answer.
    ponged: bool,
    /// The pings under way, the last ones.
    ping: Option<(u64, Instant)>,
    /// The smoothed round trip, and its variation.
    trip: Option<(Duration, Duration)>,
    /// Answers so far.
    answers: u32,
    /// The last dial for want of another connection.
    dialed: Option<Instant>,
}

impl Beat {
    pub(super) fn timer(&self) -> TimerKey {
        self.timer
    }

    fn time_to_answer(&self) -> Duration {
        let (trip, variation) = self.trip.unwrap_or((UNKNOWN, Duration::ZERO));
        LEAST.max(trip + 4 * variation + SLACK)
    }

    fn sample(&mut self, trip: Duration) {
        // What was away for a while has not become slow; what has, is believed step by step.
        let trip = match self.trip {
            Some(_) => trip.min(self.time_to_answer()),
            None => trip,
        };
        self.trip = Some(match self.trip {
            None => (trip, trip / 2),
            Some((before, variation)) => {
                let off = before.abs_diff(trip);
                ((before * 7 + trip) / 8, (variation * 3 + off) / 4)
            }
        });
    }

    /// Nobody waits there any more.
    fn calm_down(&mut self) {
        (self.fast, self.since, self.asked) = (false, None, None);
    }

    /// Looks whether anything has been read. Returns the last time that there was.
    fn look(&mut self) -> Option<Instant> {
        if self.pulse.take() {
            self.heard = Some(Instant::now());
            self.asked = None;
            if !std::mem::take(&mut self.ponged) {
                self.answered = 0;
            }
        }
        self.heard
    }
}

impl<L: Io + Send + 'static> Hub<L> {
    fn beat_of(&mut self, connection: ConnectionKey) -> Option<&mut Beat> {
        Some(&mut self.connections.record_mut(connection)?.beat)
    }

    /// The time for a request to be answered there.
    pub(super) fn time_to_ask(&mut self, connection: ConnectionKey) -> Duration {
        let trip = self.beat_of(connection).and_then(|beat| beat.trip);
        trip.map_or(UNKNOWN, |(trip, _)| UNKNOWN.max(4 * trip))
    }

    /// The connection's sign of life.
    pub fn set_pulse(&mut self, connection: ConnectionKey, pulse: Pulse) {
        if let Some(beat) = self.beat_of(connection) {
            beat.pulse = pulse;
        }
    }

    /// Both resume there: it is looked after from now on.
    pub(super) fn begin_beating(&mut self, peer: PeerId, connection: ConnectionKey) {
        self.ping(peer, connection);
        if self
            .beat_of(connection)
            .is_some_and(|beat| beat.timer.is_none())
        {
            // Somebody may have been waiting before it was known who is there.
            self.beat_later(peer, connection, LEAST);
        }
    }

    fn beat_later(&mut self, peer: PeerId, connection: ConnectionKey, delay: Duration) {
        let timer = self.due.add(delay, Due::Beat(peer, connection));
        if let Some(beat) = self.beat_of(connection) {
            let before = std::mem::replace(&mut beat.timer, timer);
            self.due.cancel(before);
        }
    }

    /// Somebody waits there for what he has written.
    pub(super) fn awaits_there(&mut self, peer: PeerId, connection: ConnectionKey) {
        let resumes = self.resumes_there(connection);
        if let Some(beat) = self.beat_of(connection)
            && resumes
            && !std::mem::replace(&mut beat.fast, true)
        {
            beat.since = Some(Instant::now());
            beat.answered = 0;
            let delay = beat.time_to_answer();
            self.beat_later(peer, connection, delay);
        }
    }

    fn ping(&mut self, peer: PeerId, connection: ConnectionKey) {
        let number = self.next_probe;
        self.next_probe += 1;
        if let Some(beat) = self.beat_of(connection) {
            beat.ping = Some((number, Instant::now()));
            self.output(Output::Ping(peer, connection, number));
        }
    }

    /// The remote has answered a ping of ours.
    pub fn ponged(&mut self, peer: PeerId, connection: ConnectionKey, number: u64) {
        let Some(beat) = self.beat_of(connection) else {
            return;
        };
        if let Some((_, at)) = beat.ping.take_if(|(ping, _)| *ping == number) {
            beat.sample(at.elapsed());
            beat.answers = beat.answers.saturating_add(1);
            let again = beat.answers < FIRST_PINGS;
            if beat.asked.is_some() {
                beat.answered = beat.answered.saturating_add(1);
                beat.ponged = true;
            }
            // Who answers is well.
            self.heard(peer, connection);
            if again {
                self.ping(peer, connection);
            }
        }
    }

    /// Looks after a connection.
    pub(super) fn beat(&mut self, peer: PeerId, connection: ConnectionKey) {
        let now = Instant::now();
        let late = match self.beat_of(connection) {
            Some(beat) => {
                let due = beat.timer.take().map_or(now, |(due, _)| due);
                now.saturating_duration_since(due)
            }
            None => return,
        };
        let writes = self.is_waited_on(peer, connection);
        let Some(beat) = self.beat_of(connection) else {
            return;
        };
        let heard = beat.look();
        if late > ASLEEP {
            beat.since = Some(now);
            beat.asked = None;
        }
        let quiet = |beat: &Beat| {
            let from = heard.max(beat.since).unwrap_or(now);
            now.saturating_duration_since(from)
        };
        if !writes && !self.is_missed(peer, connection, heard) {
            self.beat_of(connection)
                .into_iter()
                .for_each(Beat::calm_down);
            return self.beat_later(peer, connection, SLOW);
        }
        let Some(beat) = self.beat_of(connection) else {
            return;
        };
        beat.fast = true;
        beat.since.get_or_insert(now);
        let time = beat.time_to_answer();
        // A slow reader is not asked at this pace for ever.
        let patience = time * 2_u32.pow(beat.answered.min(4));
        let patience = patience.min(LONGEST).max(time);
        let next = match beat.asked {
            // Who reads has waited already.
            None if !writes || quiet(beat) >= patience => {
                beat.asked = Some(now);
                self.ask_all(peer, connection);
                time
            }
            // A sign of life counts from when it is seen.
            None => patience.saturating_sub(quiet(beat)).min(time / 2),
            Some(asked) => {
                let waited = now.saturating_duration_since(asked);
                let trips = 3 * beat.trip.map_or(UNKNOWN, |(trip, _)| trip);
                if waited >= time.max(trips) {
                    return self.no_answer(peer, connection, asked, !writes);
                }
                time.max(trips).saturating_sub(waited)
            }
        };
        self.beat_later(peer, connection, next);
    }

    /// Asks whether anybody is there, here and on the other connections.
    fn ask_all(&mut self, peer: PeerId, connection: ConnectionKey) {
        self.ping(peer, connection);
        let others = self.connections.of(peer).iter().rev();
        let others = others.filter(|info| info.key != connection && !info.suspected);
        let others: Vec<_> = others.map(|info| info.key).take(STANDBYS).collect();
        for other in others {
            if self.listener(other).is_some() {
                // What came before is no answer.
                self.beat_of(other).map(Beat::look);
                self.ping(peer, other);
            }
        }
    }

    /// Does what follows when the time to answer is over.
    fn no_answer(&mut self, peer: PeerId, connection: ConnectionKey, asked: Instant, reader: bool) {
        let mut others = self.connections.keys(peer);
        others.retain(|other| *other != connection);
        let answered = others.into_iter().any(|other| {
            let heard = self.beat_of(other).and_then(Beat::look);
            heard > Some(asked)
        });
        if answered {
            self.beat_of(connection)
                .into_iter()
                .for_each(Beat::calm_down);
            self.suspect(peer, connection);
            self.left_behind(peer, connection);
            return self.beat_later(peer, connection, SLOW);
        }
        // A reader has waited already.
        let patience = match reader {
            true => Duration::ZERO,
            false => self.settings.suspect_after,
        };
        let (mut time, mut dial) = (LEAST, false);
        if let Some(beat) = self.beat_of(connection) {
            time = beat.time_to_answer();
            let since = beat.since.unwrap_or(asked);
            let again = beat.dialed.is_none_or(|at| at.elapsed() >= LONGEST);
            dial = since.elapsed() >= patience && again;
            if dial {
                beat.dialed = Some(Instant::now());
            }
        }
        if dial {
            self.suspect(peer, connection);
            self.output(Output::Dial(peer));
        }
        self.ask_all(peer, connection);
        self.beat_later(peer, connection, time);
    }

    /// Gives up what is on a connection that does not answer beside one that does.
    fn left_behind(&mut self, peer: PeerId, connection: ConnectionKey) {
        tracing::debug!(%peer, %connection, "a silent connection is left");
        for key in self.table.of_peer(peer) {
            if let Some(entry) = self.table.get(key)
                && entry.shared.status().resumable
                && !self.is_stuck_here(peer, key)
            {
                entry.shared.connection_lost(connection);
                self.heard_from(key);
            }
        }
    }

    /// True if somebody waits there for what he has written, or for an answer to it.
    fn is_waited_on(&self, peer: PeerId, connection: ConnectionKey) -> bool {
        self.table.of_peer(peer).into_iter().any(|key| {
            let Some(entry) = self.table.get(key) else {
                return false;
            };
            let status = entry.shared.status();
            let asked = entry.record.resuming_on() == Some(connection);
            let there = entry.record.legs.all().any(|leg| leg == connection);
            asked || there && status.unarrived
        })
    }

    /// True if somebody reads there, and nothing has come for long.
    fn is_missed(&self, peer: PeerId, connection: ConnectionKey, heard: Option<Instant>) -> bool {
        let Some(patience) = self.settings.reader_probe else {
            return false;
        };
        let info = self.connections.get(peer, connection);
        let Some(from) = heard.or(info.map(|info| info.established)) else {
            return false;
        };
        let patience = match heard.is_some_and(|heard| heard.elapsed() < LATELY) {
            true => patience.min(SLOW),
            false => patience,
        };
        from.elapsed() >= patience
            && self.table.of_peer(peer).into_iter().any(|key| {
                let entry = self.table.get(key);
                entry.is_some_and(|it| {
                    let status = it.shared.status();
                    let reads = status.resumable && !status.ended;
                    status.connection == Some(connection) && reads && it.shared.is_read()
                })
            })
    }

    /// The network of this machine has changed: whatever is silent is to be found out now, and who waits for a
    /// connection dials.
    pub fn network_changed(&mut self) {
        for peer in self.connections.peers() {
            for connection in self.connections.keys(peer) {
                if self.resumes_there(connection)
                    && let Some(beat) = self.beat_of(connection)
                {
                    beat.look();
                    let now = Instant::now();
                    (beat.fast, beat.since, beat.asked) = (true, Some(now), Some(now));
                    let time = beat.time_to_answer();
                    self.ping(peer, connection);
                    self.beat_later(peer, connection, time);
                }
            }
        }
        for peer in self.suspended_peers() {
            self.dial_anew(peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Slow and fast paths, and those that change, are given their time.
    #[test]
    fn the_time_to_answer_follows_the_path() {
        let mut beat = Beat::default();
        assert_eq!(beat.time_to_answer(), UNKNOWN + SLACK);
        for _ in 0..50 {
            beat.sample(Duration::from_millis(1));
        }
        assert_eq!(beat.time_to_answer(), LEAST);
        for _ in 0..50 {
            beat.sample(Duration::from_millis(400));
        }
        let steady = beat.time_to_answer();
        assert!(steady >= Duration::from_millis(490) && steady < Duration::from_millis(600));
        // An answer that comes when a path is back says nothing of how long one takes.
        beat.sample(Duration::from_secs(100));
        assert!(beat.time_to_answer() < 2 * steady);
        for n in 0..50 {
            beat.sample(Duration::from_millis(200 + 400 * (n % 2)));
        }
        assert!(beat.time_to_answer() > Duration::from_secs(1));
    }
}
