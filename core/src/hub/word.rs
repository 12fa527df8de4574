//! The words of two peers on their streams, beside the legs (*Facts*): on which connections they are said, which stream
//! one is about, and who is told that nothing is left of one.
//!
//! Each side has a control substream on each connection, on which only it writes. It is asked for with the first
//! stream that is labelled there, and where the remote is known to speak.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use libp2p_identity::PeerId;
use web_time::Instant;

use super::{Due, Hub, Output, timers::TimerKey};
use crate::{
    event::Violation,
    key::{ConnectionKey, StreamKey},
    machine::{Facts, Speech, StreamId},
    protocol::codec::Hello,
    stream::{Io, Later},
    table::Found,
};

/// Words of one peer on streams whose labels have not come.
const MAX_EARLY: usize = 4096;

/// The time until it is said how much has been read.
const SAY_LATER: Duration = Duration::from_millis(100);

/// The time for which a writer waits for what it wrote to arrive, before it is asked whether anybody is there; and
/// after the answer, before the oldest make room.
const SLIDE_LATER: Duration = Duration::from_millis(500);

/// Connections on which it is said that a stream has lost its legs.
const SAID_ON: usize = 4;

/// Control substreams of ours that are opened again on one connection.
const MAX_REOPENED: u8 = 8;

/// A connection's control substreams.
#[derive(Debug, Default)]
pub(super) struct Talk {
    ours: Ours,
    /// The process at the other end, which says and believes facts.
    remote: Option<u64>,
    /// True if it goes on with streams that have lost their legs, as we do.
    resumes: bool,
    /// True if it closes the connection on purpose.
    bye: bool,
    /// The deadline for the remote to have said so.
    timer: TimerKey,
    reopened: u8,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Ours {
    #[default]
    Unasked,
    Open,
    /// Refused, or unanswered, or lost too often.
    Mute,
}

impl Talk {
    /// The process at the other end, if it is known.
    pub(super) fn remote(&self) -> Option<u64> {
        self.remote
    }

    /// That process, and its speech.
    fn speaker(&self) -> Option<(u64, Speech)> {
        Some((self.remote?, speech(self.resumes)))
    }

    /// The process to which something can be said there.
    pub(super) fn listener(&self) -> Option<u64> {
        self.remote.filter(|_| self.ours == Ours::Open)
    }
}

/// The speech of a remote that speaks.
fn speech(resumes: bool) -> Speech {
    match resumes {
        true => Speech::Resumes,
        false => Speech::Yes,
    }
}

/// With whom a stream is spoken of.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum With {
    #[default]
    Nobody,
    /// The remote has been asked on this connection.
    Asked(ConnectionKey),
    /// This process.
    Process(u64),
}

/// Words that wait for the labels of their streams, which they have overtaken.
#[derive(Debug, Default)]
pub(super) struct Early(HashMap<PeerId, BTreeMap<StreamId, (Instant, Facts)>>);

impl<L: Io + Send + 'static> Hub<L> {
    // ---- Who speaks --------------------------------------------------------------------------------

    /// Our process, if we say and believe facts.
    pub(super) fn epoch(&self) -> Option<u64> {
        self.settings.facts.then_some(self.epoch)
    }

    /// The first word on each of our control substreams, if we say any.
    pub fn hello(&self) -> Option<Hello> {
        let hello = |epoch| Hello {
            epoch,
            connection: None,
            facts: true,
            resume: self.settings.resume,
        };
        self.epoch().map(hello)
    }

    pub(super) fn listener(&self, connection: ConnectionKey) -> Option<u64> {
        self.connections.record(connection)?.talk.listener()
    }

    /// True if both go on with streams that have lost their legs there.
    pub(super) fn resumes_there(&self, connection: ConnectionKey) -> bool {
        let record = self.connections.record(connection);
        record.is_some_and(|record| record.talk.resumes && record.talk.listener().is_some())
    }

    pub(super) fn said_bye(&self, connection: ConnectionKey) -> bool {
        let record = self.connections.record(connection);
        record.is_some_and(|record| record.talk.bye)
    }

    /// The remote's speech, for a stream that we open there; it is asked if nothing is known.
    pub(super) fn speech_on(&mut self, peer: PeerId, connection: ConnectionKey) -> (Speech, With) {
        let Some(record) = self.connections.record(connection) else {
            return (Speech::No, With::Nobody);
        };
        match (record.talk.speaker(), record.talk.ours) {
            _ if !self.settings.facts => (Speech::No, With::Nobody),
            (Some((epoch, speech)), _) => (speech, With::Process(epoch)),
            (None, Ours::Mute) => (Speech::No, With::Asked(connection)),
            (None, _) => {
                self.converse(peer, connection);
                (Speech::Asked, With::Asked(connection))
            }
        }
    }

    /// The opener of a stream says that it speaks.
    pub(super) fn speech_of(
        &mut self,
        peer: PeerId,
        connection: ConnectionKey,
        epoch: Option<u64>,
    ) -> (Speech, With) {
        match epoch.filter(|_| self.settings.facts) {
            Some(epoch) => {
                self.converse(peer, connection);
                // Its hello here may come later.
                let keys = self.connections.keys(peer);
                let resumes = keys.iter().any(|key| self.process_resumes(*key, epoch));
                (speech(resumes), With::Process(epoch))
            }
            None => (Speech::No, With::Nobody),
        }
    }

    /// True if this process is there, and resumes.
    fn process_resumes(&self, connection: ConnectionKey, epoch: u64) -> bool {
        let record = self.connections.record(connection);
        record.is_some_and(|it| it.talk.speaker() == Some((epoch, Speech::Resumes)))
    }

    /// Our control substream is to be opened, if it is not.
    fn converse(&mut self, peer: PeerId, connection: ConnectionKey) {
        let answer_timeout = self.settings.answer_timeout;
        if let Some(record) = self.connections.record_mut(connection)
            && record.talk.ours == Ours::Unasked
        {
            record.talk.ours = Ours::Open;
            if record.talk.remote.is_none() {
                record.talk.timer = self.due.add(answer_timeout, Due::Mute(peer, connection));
            }
            self.output(Output::Converse(peer, connection));
        }
    }

    /// The remote has said hello on its control substream, perhaps anew.
    pub fn greeted(&mut self, peer: PeerId, connection: ConnectionKey, hello: Hello) {
        let Some(record) = self.connections.record_mut(connection) else {
            return;
        };
        if !self.settings.facts || !hello.facts {
            return self.mute(peer, connection);
        }
        if record
            .talk
            .remote
            .is_some_and(|before| before != hello.epoch)
        {
            return self.violated(peer, Some(connection), Violation::Message);
        }
        record.talk.remote = Some(hello.epoch);
        record.talk.resumes = self.settings.resume && hello.resume;
        let resumes = record.talk.resumes;
        let timer = record.talk.timer.take();
        self.due.cancel(timer);
        for connection in self.connections.keys(peer) {
            self.converse(peer, connection);
        }
        let speech = speech(resumes);
        self.learn(peer, connection, Some((hello.epoch, speech)));
        self.may_resume(peer, hello.epoch, speech);
        if resumes {
            self.begin_beating(peer, connection);
        }
        // What could be said to nobody until now.
        self.say_all(peer);
    }

    /// Our control substream is refused, or gone, or has brought no answer.
    pub fn mute(&mut self, peer: PeerId, connection: ConnectionKey) {
        let Some(record) = self.connections.record_mut(connection) else {
            return;
        };
        let timer = record.talk.timer.take();
        let known = record.talk.remote.is_some() && record.talk.reopened < MAX_REOPENED;
        record.talk.ours = match known {
            true => Ours::Unasked,
            false => Ours::Mute,
        };
        record.talk.reopened += u8::from(known);
        self.due.cancel(timer);
        if known {
            self.converse(peer, connection);
            // What was on its way is said again.
            self.say_all(peer);
        } else {
            // A path may be silent.
            self.learn_from_others(peer, connection);
        }
    }

    /// The answer for the streams that have asked there whether the remote speaks. It may yet say so late.
    fn learn(&mut self, peer: PeerId, connection: ConnectionKey, told: Option<(u64, Speech)>) {
        for key in self.table.of_peer(peer) {
            if let Some(entry) = self.table.get_mut(key)
                && entry.record.with == With::Asked(connection)
            {
                if let Some((epoch, _)) = told {
                    entry.record.with = With::Process(epoch);
                }
                entry
                    .shared
                    .speaks(told.map_or(Speech::No, |(_, speech)| speech));
            }
        }
    }

    /// A connection is there: the peer may be known to speak.
    pub(super) fn greet(&mut self, peer: PeerId, connection: ConnectionKey) {
        let keys = self.connections.keys(peer);
        let talk = |key: &ConnectionKey| self.connections.record(*key)?.talk.remote;
        if keys.iter().any(|key| talk(key).is_some()) || self.has_suspended(peer) {
            self.converse(peer, connection);
        }
    }

    /// A connection is gone, and with it what was on its way.
    pub(super) fn hung_up(&mut self, peer: PeerId, talk: &Talk) {
        self.due.cancel(talk.timer);
        let keys = self.connections.keys(peer);
        if keys.is_empty() {
            self.early.0.remove(&peer);
        } else if talk.listener().is_some() {
            self.say_all(peer);
        }
    }

    /// Uses what is known of the remote elsewhere, for the streams that have asked on a connection that is gone.
    pub(super) fn learn_from_others(&mut self, peer: PeerId, connection: ConnectionKey) {
        let keys = self.connections.keys(peer);
        let told = |key: &ConnectionKey| self.connections.record(*key)?.talk.speaker();
        let other = keys.iter().find_map(told);
        self.learn(peer, connection, other);
    }

    // ---- What is said ------------------------------------------------------------------------------

    /// Says what there is to be said of a stream, where its bytes go, or elsewhere.
    pub(super) fn say(&mut self, key: StreamKey) {
        let Some(entry) = self.table.get(key) else {
            return;
        };
        let With::Process(epoch) = entry.record.with else {
            return;
        };
        let (peer, facts) = (entry.peer(), entry.shared.facts());
        if facts == Facts::default() && !entry.shared.awaits_word() {
            return;
        }
        let there = entry.shared.status().connection;
        let origin = entry.origin();
        let hears = |key: &ConnectionKey| self.listener(*key) == Some(epoch);
        if let Some(there) = there.filter(hears) {
            return self.output(Output::Say(peer, there, origin, facts));
        }
        let all = self.connections.of(peer).iter().rev();
        let mut others: Vec<_> = all.filter(|info| hears(&info.key)).collect();
        // Those that answer first. Without a leg it is said on several: one may be silent.
        others.sort_by_key(|info| info.suspected);
        let number = if facts.lost.is_some() { SAID_ON } else { 1 };
        let others: Vec<_> = others.iter().take(number).map(|info| info.key).collect();
        for connection in others {
            self.output(Output::Say(peer, connection, origin, facts));
        }
    }

    fn say_all(&mut self, peer: PeerId) {
        for key in self.table.of_peer(peer) {
            self.say(key);
        }
    }

    /// Something of the stream is to be done a little later.
    pub(super) fn later(&mut self, key: StreamKey, what: Later) {
        match what {
            Later::Say => self.due.add(SAY_LATER, Due::Say(key)),
            Later::Slide => self.due.add(SLIDE_LATER, Due::Slide(key)),
        };
    }

    pub(super) fn is_later(&mut self, key: StreamKey, what: Later) {
        if what == Later::Slide && self.may_be_lost(key) {
            return self.later(key, what);
        }
        let Some(entry) = self.table.get(key) else {
            return;
        };
        if entry.shared.is_later(what) {
            self.say(key);
        }
    }

    /// A writer waits for what it wrote to arrive. Is the reader slow, or is nobody there? Nothing is let go of before
    /// the remote has answered since.
    fn may_be_lost(&mut self, key: StreamKey) -> bool {
        let Some(entry) = self.table.get_mut(key) else {
            return false;
        };
        let (peer, connection) = (entry.peer(), entry.shared.status().connection);
        let (true, Some(connection)) = (entry.shared.is_stuck(), connection) else {
            entry.record.moves().stuck = None;
            return false;
        };
        let asked = *entry.record.moves().stuck.get_or_insert_with(Instant::now);
        let answered = self.last_said(connection) > Some(asked);
        if answered && let Some(entry) = self.table.get_mut(key) {
            entry.record.moves().stuck = None;
        } else {
            self.probe(peer, connection, None);
        }
        !answered
    }

    /// The remote closes the connection on purpose.
    pub fn told_bye(&mut self, connection: ConnectionKey) {
        if let Some(record) = self.connections.record_mut(connection) {
            record.talk.bye = true;
        }
    }

    /// The remote's word on streams.
    pub fn told(
        &mut self,
        peer: PeerId,
        connection: ConnectionKey,
        facts: impl IntoIterator<Item = (StreamId, Facts)>,
    ) {
        let record = self.connections.record(connection);
        let Some(epoch) = record.and_then(|record| record.talk.remote) else {
            return;
        };
        for (origin, facts) in facts {
            match self.table.find_origin(peer, origin) {
                Found::Live(key) => self.told_of(key, connection, epoch, facts),
                _ if facts.gone => {}
                // Whoever opened a stream knows of it, and so does who has had all of it.
                Found::Ended | Found::Aborted => self.forgotten(peer, connection, origin),
                Found::Unknown if facts.done || self.table.is_ours(peer, origin) => {
                    self.forgotten(peer, connection, origin);
                }
                Found::Unknown => self.keep(peer, origin, facts),
            }
        }
    }

    fn told_of(&mut self, key: StreamKey, connection: ConnectionKey, epoch: u64, facts: Facts) {
        let resumes = self.process_resumes(connection, epoch);
        let Some(entry) = self.table.get_mut(key) else {
            return;
        };
        match entry.record.with {
            With::Nobody => return,
            With::Process(with) if with != epoch => return,
            With::Process(_) => {}
            // The answer came elsewhere.
            With::Asked(_) => {
                entry.record.with = With::Process(epoch);
                entry.shared.speaks(speech(resumes));
            }
        }
        entry.shared.said(facts);
        self.may_need_no_leg(key);
    }

    /// Says that nothing is held of a stream.
    fn forgotten(&mut self, peer: PeerId, connection: ConnectionKey, origin: StreamId) {
        self.output(Output::Say(peer, connection, origin, Facts::GONE));
    }

    /// Keeps a word until its stream's label comes, for a while.
    fn keep(&mut self, peer: PeerId, origin: StreamId, facts: Facts) {
        let timeout = self.settings.answer_timeout;
        let early = self.early.0.entry(peer).or_default();
        if early.len() >= MAX_EARLY {
            early.retain(|_, (since, _)| since.elapsed() < timeout);
        }
        if early.len() < MAX_EARLY || early.contains_key(&origin) {
            early.insert(origin, (Instant::now(), facts));
        }
    }

    /// The label has come.
    pub(super) fn take_word(
        &mut self,
        peer: PeerId,
        connection: ConnectionKey,
        key: StreamKey,
        origin: StreamId,
    ) {
        let Some(early) = self.early.0.get_mut(&peer) else {
            return;
        };
        let word = early.remove(&origin);
        if early.is_empty() {
            self.early.0.remove(&peer);
        }
        let with = self.table.get(key).map(|entry| entry.record.with);
        if let (Some((_, facts)), Some(With::Process(epoch))) = (word, with) {
            self.told_of(key, connection, epoch, facts);
        }
    }

    #[cfg(any(test, stream_migration_mutants))]
    pub(super) fn check_words(&self) {
        for peer in self.early.0.keys() {
            assert!(!self.connections.of(*peer).is_empty());
        }
    }
}
