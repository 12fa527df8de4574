//! What is known, and the judgement of what is over.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use libp2p::PeerId;
use libp2p_stream_migration::{self as stream_migration, Event, StreamKey};

use crate::{
    counts::Counts,
    flow::{Flows, Side},
    history::History,
    judge::{Case, Facts},
    links::{End, Links},
    side::Outcome,
};

/// A stream that has nothing to fear stands still for no longer than this.
const WATCHDOG: Duration = Duration::from_secs(60);
/// One whose remote may be gone, or of which nobody tells anything any more, is not waited for.
const HARMED: Duration = Duration::from_secs(5);
/// One that was on a path which went silent has gone on elsewhere by then, or has failed.
const SILENT: Duration = Duration::from_secs(30);
/// A stream that was left is over by then.
const TELLING: Duration = Duration::from_secs(45);

/// A stream that is not over.
pub struct Record {
    pub flows: Arc<Flows>,
    /// As its two nodes' behaviours call it.
    pub keys: [Option<(usize, StreamKey)>; 2],
    /// Nobody may move it.
    pub pinned: bool,
    pub outcomes: [Option<Outcome>; 2],
}

#[derive(Default)]
pub struct Known {
    pub links: Links,
    pub counts: Counts,
    /// Ends are proven: none may be guessed.
    pub proven: bool,
    pub next: u64,
    /// Questions of the neighbours that are neither answered nor failed.
    pub unanswered: u64,
    dials_failed: HashSet<End>,
    pub records: HashMap<u64, Record>,
    /// Of all streams since the last rest, but for those that are judged.
    pub histories: HashMap<(usize, StreamKey), History>,
}

impl Known {
    pub fn live(&self) -> usize {
        self.records.len()
    }

    /// Gives back the memory that it does not need.
    pub fn rest(&mut self) {
        self.histories.retain(|_, history| !history.is_over());
        if !self.histories.is_empty() {
            let started = self.histories.len();
            self.violation(&format!("{started} streams have started and never ended"));
            self.histories.clear();
        }
        self.links.forget_all();
        self.dials_failed = HashSet::new();
        self.records.shrink_to_fit();
        self.histories.shrink_to_fit();
    }

    pub fn violation(&mut self, what: &str) {
        self.counts.violations += 1;
        if self.counts.violations <= 50 {
            println!("VIOLATION: {what}");
        }
    }

    pub fn dial_failed(&mut self, end: End, why: &str) {
        self.dials_failed.insert(end);
        self.counts.other(format!("not dialed: {why}"));
    }

    pub fn has_failed(&self, end: End) -> bool {
        self.dials_failed.contains(&end)
    }

    /// A node is gone, and tells nothing any more.
    pub fn gone(&mut self, node: usize, peer: PeerId) {
        self.links.gone(node, peer);
        for (_, history) in self.histories.iter_mut().filter(|((on, _), _)| *on == node) {
            history.gone = true;
        }
        let numbers: Vec<_> = self.records.keys().copied().collect();
        for number in numbers {
            self.settle(number);
        }
    }

    /// A stream is not to be moved any more.
    pub fn pin(&mut self, number: u64) {
        if let Some(record) = self.records.get_mut(&number) {
            record.pinned = true;
        }
    }

    /// The accepter has read so much before it knew whose it is.
    pub fn header_read(&self, number: u64, bytes: u64) {
        if let Some(record) = self.records.get(&number) {
            record
                .flows
                .written_by(Side::Opener)
                .read
                .store(bytes, SeqCst);
        }
    }

    /// The other side of a stream.
    pub fn other_end(&self, node: usize, key: StreamKey) -> Option<StreamKey> {
        let end = Some((node, key));
        let record = self
            .records
            .values()
            .find(|record| record.keys.contains(&end))?;
        let other = record
            .keys
            .iter()
            .flatten()
            .find(|other| Some(**other) != end)?;
        Some(other.1)
    }

    pub fn tell(&mut self, node: usize, event: &Event) {
        match event {
            Event::ConnectionEstablished(info) => self.links.established(node, info),
            Event::ConnectionClosed { connection, .. } => self.links.closed((node, *connection)),
            Event::ConnectionPruned { .. } => self.counts.other("connections pruned"),
            Event::Refused { limit, .. } => {
                self.counts.other(format!("refused by a limit: {limit:?}"));
            }
            Event::Violation { what, .. } => {
                self.violation(&format!(
                    "node {node} says that its remote broke the protocol: {what:?}"
                ));
            }
            Event::PlainStream { .. } => self.violation("a stream that cannot migrate"),
            Event::StreamStarted {
                key, connection, ..
            } => {
                let history = self.histories.entry((node, *key)).or_default();
                history.enter(*connection);
            }
            Event::MigrationStarted { key, .. }
            | Event::MigrationAgreed { key, .. }
            | Event::MigrationCompleted { key, .. }
            | Event::MigrationFailed { key, .. }
            | Event::StreamSuspended { key, .. }
            | Event::StreamResumed { key, .. }
            | Event::StreamEnded { key, .. } => {
                self.count(event);
                let Some(history) = self.histories.get_mut(&(node, *key)) else {
                    return;
                };
                history.tell(event);
                if history.ended.is_none() {
                    return;
                }
                let theirs = |record: &&Record| record.keys.contains(&Some((node, *key)));
                let number = self.records.values().find(theirs);
                if let Some(number) = number.map(|record| record.flows.number) {
                    self.settle(number);
                }
            }
            _ => {}
        }
    }

    fn count(&mut self, event: &Event) {
        match event {
            Event::MigrationCompleted {
                initiator: stream_migration::Side::Local,
                ..
            } => self.counts.completed += 1,
            Event::MigrationFailed {
                initiator: stream_migration::Side::Local,
                reason,
                ..
            } => {
                self.counts.failed += 1;
                self.counts.other(format!("attempt failed: {reason:?}"));
            }
            Event::StreamSuspended { .. } => self.counts.other("streams suspended"),
            Event::StreamResumed { .. } => self.counts.other("streams resumed"),
            _ => {}
        }
    }

    fn has_ended(&self, key: Option<(usize, StreamKey)>) -> bool {
        let history = key.and_then(|key| self.histories.get(&key));
        history.is_some_and(History::is_over)
    }

    /// Judges it if it is over.
    pub fn settle(&mut self, number: u64) {
        let Some(record) = self.records.get(&number) else {
            return;
        };
        let over = record.outcomes.iter().all(Option::is_some);
        if over && record.keys.iter().all(|key| self.has_ended(*key)) {
            self.judge(number);
        }
    }

    fn case(&self, record: &Record) -> Case {
        let histories = record
            .keys
            .map(|key| Some((key?.0, self.histories.get(&key?)?)));
        let any = |is: &dyn Fn(usize, &History) -> bool| {
            let mut known = histories.iter().flatten();
            known.any(|(node, history)| is(*node, history))
        };
        let links = &self.links;
        let sides = Side::BOTH.map(|side| {
            let (outcome, history) = (&record.outcomes[side as usize], histories[side as usize]);
            let flow = record.flows.written_by(side);
            Facts {
                outcome: outcome.clone(),
                ended: history.and_then(|(_, history)| history.ended),
                in_doubt: history.is_some_and(|(_, history)| history.in_doubt),
                migrated: history.map_or(0, |(_, history)| history.migrated),
                quic: history
                    .zip(outcome.as_ref())
                    .is_some_and(|((node, _), outcome)| {
                        let on_quic = |last| links.is_quic((node, last));
                        outcome.last.is_some_and(on_quic)
                    }),
                written: flow.written.load(SeqCst),
                closing: flow.closing.load(SeqCst),
            }
        });
        Case {
            sides,
            chaos: any(&|node, history| history.was_on(|id| links.chaos_at((node, id))))
                // It stays on its connection, and ends with it.
                || record.pinned && any(&|node, history| {
                    history.was_on(|id| links.closed_at((node, id)))
                }),
            silent: any(&|node, history| history.was_on_since(|id| links.silent_at((node, id)))),
            pinned: record.pinned,
            opened_on_closing: any(&|node, history| {
                history.began_on(|id| links.closed_at((node, id)))
            }),
            given_up: record.flows.is_given_up(),
            proven: self.proven,
        }
    }

    fn judge(&mut self, number: u64) {
        let Some(record) = self.records.remove(&number) else {
            return;
        };
        let case = self.case(&record);
        let judgement = case.judge();
        if case.waits_for_a_silent_path() {
            self.counts.other(match case.is_whole() {
                true => "on a silent path: whole all the same",
                false => "on a silent path: failed",
            });
        }
        self.counts.ended += 1;
        self.counts.harmed += u64::from(judgement.harmed);
        for exception in judgement.exceptions {
            *self.counts.exceptions.entry(exception).or_default() += 1;
        }
        if !judgement.violations.is_empty() {
            let (seed, what) = (record.flows.seed, judgement.violations.join("; "));
            let keys = record.keys;
            self.violation(&format!(
                "seed {seed}, stream {number}, {keys:?}: {what}\n    {case:?}"
            ));
        }
        for key in record.keys.into_iter().flatten() {
            self.histories.remove(&key);
        }
    }

    /// How long it may stand still.
    fn patience(&self, record: &Record) -> Duration {
        let case = self.case(record);
        match (case.judge().harmed, case.waits_for_a_silent_path()) {
            (_, true) => SILENT,
            (true, _) => HARMED,
            (false, _) => WATCHDOG,
        }
    }

    pub fn look(&mut self) {
        let mut late = Vec::new();
        for record in self.records.values() {
            let (flows, still) = (&record.flows, record.flows.still());
            let finished = record
                .outcomes
                .iter()
                .zip(&record.keys)
                .all(|(outcome, key)| outcome.is_some() || key.is_none());
            if finished {
                // Either the remote has never heard of it, or a behaviour has still to tell of its end.
                let nobody = record.keys[1].is_none() && self.has_ended(record.keys[0]);
                if record.outcomes[0].is_some() && (nobody && still > HARMED || still > TELLING) {
                    late.push(flows.number);
                }
            } else if still > HARMED && still > self.patience(record) {
                flows.give_up();
            }
        }
        for number in late {
            self.judge(number);
        }
    }
}
