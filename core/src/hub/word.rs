//! The words of two peers on their streams, beside the legs (*Facts*): on which connections they are said, which stream
//! one is about, and who is told that nothing is left of one.
//!
//! Each side has a control substream on each connection, on which only it writes. It is asked for with the first
//! stream that is labelled there, and where the remote is known to speak.

use std::collections::{BTreeMap, HashMap};

use libp2p_identity::PeerId;
use web_time::Instant;

use super::{Due, Hub, Output, timers::TimerKey};
use crate::{
    event::Violation,
    key::{ConnectionKey, StreamKey},
    machine::{Facts, Speech, StreamId},
    protocol::codec::Hello,
    stream::Io,
    table::Found,
};

/// Words of one peer on streams whose labels have not come.
const MAX_EARLY: usize = 1024;

/// Control substreams of ours that are opened again on one connection.
const MAX_REOPENED: u8 = 8;

/// A connection's control substreams.
#[derive(Debug, Default)]
pub(super) struct Talk {
    ours: Ours,
    /// The process at the other end, which says and believes facts.
    remote: Option<u64>,
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
    /// The process to which something can be said there.
    fn listener(&self) -> Option<u64> {
        self.remote.filter(|_| self.ours == Ours::Open)
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
    pub fn epoch(&self) -> Option<u64> {
        self.settings.facts.then_some(self.epoch)
    }

    /// The remote's speech, for a stream that we open there; it is asked if nothing is known.
    pub(super) fn speech_on(&mut self, peer: PeerId, connection: ConnectionKey) -> (Speech, With) {
        let Some(record) = self.connections.record(connection) else {
            return (Speech::No, With::Nobody);
        };
        match (record.talk.remote, record.talk.ours) {
            _ if !self.settings.facts => (Speech::No, With::Nobody),
            (Some(epoch), _) => (Speech::Yes, With::Process(epoch)),
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
                (Speech::Yes, With::Process(epoch))
            }
            None => (Speech::No, With::Nobody),
        }
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
        let timer = record.talk.timer.take();
        self.due.cancel(timer);
        for connection in self.connections.keys(peer) {
            self.converse(peer, connection);
        }
        self.learn(peer, connection, Some(hello.epoch));
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
            self.learn(peer, connection, None);
        }
    }

    /// The answer for the streams that have asked there whether the remote speaks. It may yet say so late.
    fn learn(&mut self, peer: PeerId, connection: ConnectionKey, epoch: Option<u64>) {
        for key in self.table.of_peer(peer) {
            if let Some(entry) = self.table.get_mut(key)
                && entry.record.with == With::Asked(connection)
            {
                if let Some(epoch) = epoch {
                    entry.record.with = With::Process(epoch);
                }
                entry.shared.speaks(epoch.is_some());
            }
        }
    }

    /// A connection is there: the peer may be known to speak.
    pub(super) fn greet(&mut self, peer: PeerId, connection: ConnectionKey) {
        let keys = self.connections.keys(peer);
        let talk = |key: &ConnectionKey| self.connections.record(*key)?.talk.remote;
        if keys.iter().any(|key| talk(key).is_some()) {
            self.converse(peer, connection);
        }
    }

    /// A connection is gone, and with it what was on its way.
    pub(super) fn hung_up(&mut self, peer: PeerId, connection: ConnectionKey, talk: &Talk) {
        self.due.cancel(talk.timer);
        let keys = self.connections.keys(peer);
        let other = keys
            .iter()
            .find_map(|key| self.connections.record(*key)?.talk.remote);
        self.learn(peer, connection, other);
        if keys.is_empty() {
            self.early.0.remove(&peer);
        } else if talk.listener().is_some() {
            self.say_all(peer);
        }
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
        let hears = |key: &ConnectionKey| {
            let record = self.connections.record(*key);
            record.is_some_and(|record| record.talk.listener() == Some(epoch))
        };
        let other = || self.connections.keys(peer).into_iter().rev().find(hears);
        if let Some(connection) = there.filter(hears).or_else(other) {
            let origin = entry.origin();
            self.output(Output::Say(peer, connection, origin, facts));
        }
    }

    fn say_all(&mut self, peer: PeerId) {
        for key in self.table.of_peer(peer) {
            self.say(key);
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
                Found::Live(key) => self.told_of(key, epoch, facts),
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

    fn told_of(&mut self, key: StreamKey, epoch: u64, facts: Facts) {
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
                entry.shared.speaks(true);
            }
        }
        entry.shared.said(facts);
    }

    /// Says that nothing is held of a stream.
    fn forgotten(&mut self, peer: PeerId, connection: ConnectionKey, origin: StreamId) {
        let gone = Facts {
            gone: true,
            ..Facts::default()
        };
        self.output(Output::Say(peer, connection, origin, gone));
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
    pub(super) fn take_word(&mut self, peer: PeerId, key: StreamKey, origin: StreamId) {
        let Some(early) = self.early.0.get_mut(&peer) else {
            return;
        };
        let word = early.remove(&origin);
        if early.is_empty() {
            self.early.0.remove(&peer);
        }
        let with = self.table.get(key).map(|entry| entry.record.with);
        if let (Some((_, facts)), Some(With::Process(epoch))) = (word, with) {
            self.told_of(key, epoch, facts);
        }
    }

    #[cfg(any(test, stream_migration_mutants))]
    pub(super) fn check_words(&self) {
        for peer in self.early.0.keys() {
            assert!(!self.connections.of(*peer).is_empty());
        }
    }
}
