//! The policy: what it sees, what it is asked, and what it wants.

use std::time::Duration;

use futures::channel::oneshot;
use libp2p_identity::PeerId;
use web_time::Instant;

use super::{Due, Hub, queue::Origin, record::Record, settings::Initiate, timers::TimerKey};
use crate::{
    error::{DrainError, MigrateError},
    event::Event,
    key::{ConnectionKey, StreamKey},
    machine::{Question, Verdict as Answer},
    policy::{self, Action, Change, Placement, Policy, Stay, Verdict},
    stream::Io,
    table::Table,
    view::{ConnectionInfo, Mobility, PeerView, StreamInfo, Streams},
};

impl<L: Io> Streams for Table<L, Record> {
    fn one(&self, key: StreamKey) -> Option<StreamInfo> {
        let entry = self.get(key)?;
        let status = entry.shared.status();
        let record = &entry.record;
        let waiting = record.outgoing().filter(|outgoing| outgoing.is_waiting());
        Some(StreamInfo {
            key,
            id: status.id,
            peer: entry.peer(),
            protocol: record.protocol.clone(),
            opener: record.opener,
            connection: status.connection,
            sent: status.sent,
            received: status.received,
            migrating: status.migrating || record.outgoing().is_some(),
            left_relay: record.left_relay,
            moved_off_by_remote: record.moved_off_by_remote().to_vec(),
            barred: record.barred(),
            waiting_for: waiting.map(|outgoing| outgoing.to),
            mobility: record.mobility,
            started: record.started,
        })
    }

    fn of_peer(&self, peer: PeerId) -> Vec<StreamInfo> {
        let keys = Table::of_peer(self, peer);
        keys.into_iter().filter_map(|key| self.one(key)).collect()
    }
}

/// The state of the wait for the designated peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Patience {
    #[default]
    NotNeeded,
    Waiting(TimerKey),
    Over,
}

impl Patience {
    pub(super) fn timer(self) -> TimerKey {
        match self {
            Self::Waiting(timer) => timer,
            Self::NotNeeded | Self::Over => None,
        }
    }
}

/// The waits after failed attempts of the policy's.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    /// Failures since the last success, wherever they were to go: of two targets that take turns, each
    /// waits longer than the other did before.
    failures: u32,
    /// The connections to which attempts were to go that have failed. Another place is another
    /// matter.
    waiting: Vec<(ConnectionKey, TimerKey)>,
}

impl Backoff {
    /// The first delay; it doubles with each failure.
    const FIRST: Duration = Duration::from_secs(1);
    const LAST: Duration = Duration::from_secs(64);

    /// The time to wait after one more failure.
    pub(super) fn failed(&mut self) -> Duration {
        let doublings = self.failures.min(16);
        self.failures = self.failures.saturating_add(1);
        (Self::FIRST * 2_u32.pow(doublings)).min(Self::LAST)
    }

    /// Bars a connection until this is due. Returns what was to be due before.
    pub(super) fn wait(&mut self, to: ConnectionKey, timer: TimerKey) -> TimerKey {
        let before = self.over(to);
        self.waiting.push((to, timer));
        before
    }

    /// The connections to which attempts have to wait.
    pub(super) fn waits(&self) -> impl Iterator<Item = ConnectionKey> {
        self.waiting.iter().map(|(to, _)| *to)
    }

    fn over(&mut self, to: ConnectionKey) -> TimerKey {
        let waiting = &mut self.waiting;
        let at = waiting.iter().position(|(waiting, _)| *waiting == to)?;
        waiting.swap_remove(at).1
    }

    pub(super) fn timers(&self) -> impl Iterator<Item = TimerKey> {
        self.waiting.iter().map(|(_, timer)| *timer)
    }
}

/// The answer that a verdict is; `None` if somebody outside is to give it.
fn answer_of(verdict: Verdict) -> Option<Answer> {
    match verdict {
        Verdict::Accept => Some(Answer::Accept),
        Verdict::Deny => Some(Answer::Deny),
        Verdict::NotNow => Some(Answer::NotNow),
        Verdict::Ask => None,
    }
}

impl<L: Io + Send + 'static> Hub<L> {
    pub(super) fn view<'a>(&'a self, peer: PeerId) -> PeerView<'a> {
        PeerView {
            local: self.local,
            peer,
            designated: self.table.designated(peer),
            connections: self.connections.of(peer),
            streams: &self.table,
        }
    }

    /// Asks the policy something. It is out of its place meanwhile, which nobody can see.
    fn ask<R>(
        &mut self,
        peer: PeerId,
        question: impl FnOnce(&mut dyn Policy, &PeerView<'_>) -> R,
    ) -> R {
        let mut policy = std::mem::replace(&mut self.policy, Box::new(Stay));
        let answer = question(&mut *policy, &self.view(peer));
        self.policy = policy;
        answer
    }

    // ---- Changes -----------------------------------------------------------------------------------

    /// Tells the policy, and does as it says.
    pub(super) fn tell(&mut self, peer: PeerId, change: &Change) {
        for action in self.ask(peer, |policy, view| policy.changed(change, view)) {
            match action {
                Action::Move(key, to) => {
                    // Not told: who answers that with the same wish again would never come to an end.
                    if let Err(error) = self.may_go_there(key, to, true) {
                        tracing::debug!(%peer, %key, %to, %error, "a policy's move is not made");
                    }
                    self.wanted(key, to, Origin::Action);
                }
                Action::Close(connection) => self.close_when_free(peer, connection),
                Action::CallIn(delay) => self.call_in(peer, delay),
                Action::Replace => self.place_all(peer),
            }
        }
    }

    fn call_in(&mut self, peer: PeerId, delay: Duration) {
        // What is that far off never comes.
        let Some(at) = Instant::now().checked_add(delay) else {
            return;
        };
        let earlier = self.calls.get(&peer).is_none_or(|(call, _)| at < *call);
        if earlier && !self.connections.of(peer).is_empty() {
            let timer = self.due.add(delay, Due::Call(peer));
            if let Some((_, later)) = self.calls.insert(peer, (at, timer)) {
                self.due.cancel(later);
            }
        }
    }

    // ---- Placing -----------------------------------------------------------------------------------

    pub(super) fn place_all(&mut self, peer: PeerId) {
        for key in self.table.of_peer(peer) {
            self.place(key);
        }
    }

    /// The place where the policy wants the stream to be, if that is elsewhere and it may go there.
    fn destination(&mut self, key: StreamKey) -> Option<ConnectionKey> {
        let stream = self.table.one(key)?;
        let placement = match stream.mobility {
            Mobility::PinnedTo(to) => Placement::On(to),
            _ => self.ask(stream.peer, |policy, view| {
                policy::place(policy, &stream, view)
            }),
        };
        match placement {
            Placement::Indifferent | Placement::Here => None,
            Placement::On(to) => self.may_go(&stream, to).then_some(to),
            Placement::AskAgain(delay) => {
                let timer = self.due.add(delay, Due::Ask(key));
                if let Some(entry) = self.table.get_mut(key) {
                    // The earliest counts: who is asked again for other reasons need not say it less.
                    let asking = &mut entry.record.moves().asking_again;
                    let later = match (*asking, timer) {
                        (Some(before), Some(now)) if before < now => timer,
                        (Some(_), None) => None,
                        _ => std::mem::replace(asking, timer),
                    };
                    self.due.cancel(later);
                }
                None
            }
        }
    }

    /// The connection that a stream is on.
    pub(super) fn here(&self, stream: &StreamInfo) -> Option<&ConnectionInfo> {
        self.connections.get(stream.peer, stream.connection?)
    }

    fn may_go(&self, stream: &StreamInfo, to: ConnectionKey) -> bool {
        let here = self.here(stream);
        let target = self.connections.get(stream.peer, to);
        target.is_some_and(|to| policy::may_go(stream, here, to))
    }

    /// Asks the policy where the stream should be, and has it moved there.
    pub fn place(&mut self, key: StreamKey) {
        if self.table.get(key).is_none_or(|entry| {
            entry.is_stranded() || entry.record.is_committed() || entry.shared.may_start().is_err()
        }) {
            return;
        }
        match self.destination(key) {
            Some(to) => self.wanted(key, to, Origin::Place),
            None => {
                self.unwanted(key);
                self.aim_no_more(key);
            }
        }
    }

    /// True if the policy still wants the stream to go there.
    pub(super) fn still_wanted(&mut self, key: StreamKey, to: ConnectionKey) -> bool {
        let Some(stream) = self.table.one(key) else {
            return false;
        };
        if !self.may_go(&stream, to) {
            return false;
        }
        stream.mobility == Mobility::PinnedTo(to)
            || self.ask(stream.peer, |policy, view| {
                policy::is_wanted(policy, &stream, to, view)
            })
    }

    /// The policy wants the stream to go there: starts that if nothing speaks against it.
    fn wanted(&mut self, key: StreamKey, to: ConnectionKey, origin: Origin) {
        let Some(stream) = self.table.one(key) else {
            return;
        };
        if !self.may_go(&stream, to) {
            return;
        }
        let wait = match self.settings.initiate {
            _ if matches!(origin, Origin::Action) => None,
            _ if matches!(stream.mobility, Mobility::PinnedTo(_)) => None,
            Initiate::Either => None,
            Initiate::Designated { .. } if self.table.is_designated(stream.peer) => None,
            Initiate::Designated { patience } => Some(patience),
        };
        let Some(entry) = self.table.get_mut(key) else {
            return;
        };
        let waits = entry.record.outgoing().is_some_and(|it| it.to == to);
        if entry.record.is_committed() || waits {
            return;
        }
        let moves = entry.record.moves();
        match (wait, moves.patience) {
            (None, _) | (Some(_), Patience::Over) => self.begin(key, to, origin),
            (Some(_), Patience::Waiting(_)) => self.aim(key, to),
            (Some(patience), Patience::NotNeeded) => {
                let timer = self.due.add(patience, Due::Patience(key));
                if let Some(entry) = self.table.get_mut(key) {
                    entry.record.moves().patience = Patience::Waiting(timer);
                }
                self.aim(key, to);
            }
        }
    }

    /// Keeps the connection to which the stream is to go from being idle, until it is our turn.
    fn aim(&mut self, key: StreamKey, to: ConnectionKey) {
        let alive = self.keep_alive(to);
        if let Some(entry) = self.table.get_mut(key) {
            entry.record.moves().target = Some((to, alive));
        }
    }

    /// The stream is on its way, or is not to go anywhere.
    fn aim_no_more(&mut self, key: StreamKey) {
        if let Some(entry) = self.table.get_mut(key)
            && let Some((to, alive)) = entry.record.take_target()
        {
            let peer = entry.peer();
            drop(alive);
            self.released(peer, to);
        }
    }

    /// The time to wait for the designated peer is over.
    pub(super) fn patience_over(&mut self, key: StreamKey) {
        if let Some(entry) = self.table.get_mut(key) {
            entry.record.moves().patience = Patience::Over;
            self.place(key);
            self.aim_no_more(key);
        }
    }

    /// The time to wait after a failure is over.
    pub(super) fn backed_off(&mut self, key: StreamKey, to: ConnectionKey) {
        if let Some(entry) = self.table.get_mut(key) {
            entry.record.moves().backoff.over(to);
            self.place(key);
        }
    }

    // ---- The remote's wishes -----------------------------------------------------------------------

    /// Answers the remote, or has somebody outside answer.
    pub(super) fn verdict(
        &mut self,
        key: StreamKey,
        to: ConnectionKey,
        question: Question,
        since: Instant,
    ) {
        match answer_of(self.decide(key, to)) {
            Some(answer) => drop(self.answer(key, to, question, answer)),
            None => self.ask_outside(key, to, question, since),
        }
    }

    /// Answers. Returns whether the remote's attempt was still there.
    fn answer(
        &mut self,
        key: StreamKey,
        to: ConnectionKey,
        question: Question,
        answer: Answer,
    ) -> bool {
        let Some(entry) = self.table.get(key) else {
            return false;
        };
        let peer = entry.peer();
        let in_time = entry.shared.verdict(question, answer);
        if in_time && answer == Answer::Deny {
            self.ended(to);
        }
        if in_time && answer != Answer::Accept {
            self.event(Event::MigrationDeclined {
                peer,
                key,
                to,
                for_good: answer == Answer::Deny,
            });
            // The question kept it from being moved.
            self.place(key);
        }
        in_time
    }

    fn decide(&mut self, key: StreamKey, to: ConnectionKey) -> Verdict {
        let Some(stream) = self.table.one(key) else {
            return Verdict::NotNow;
        };
        let Some(target) = self.connections.get(stream.peer, to).cloned() else {
            return Verdict::NotNow;
        };
        if !stream.mobility.allows(&target) {
            let here = self.here(&stream);
            let relayed = here.is_none_or(|here| here.relayed);
            return match stream.mobility {
                // Whoever said so may say something else now.
                Mobility::PinnedTo(there) if self.connections.get(stream.peer, there).is_none() => {
                    Verdict::NotNow
                }
                // A denial would bar its way off this relay, too.
                Mobility::NeverRelayed if relayed => Verdict::NotNow,
                _ => Verdict::Deny,
            };
        }
        if target.draining || target.closing || target.suspected {
            return Verdict::NotNow;
        }
        self.ask(stream.peer, |policy, view| {
            policy.verdict(&stream, &target, view)
        })
    }

    fn ask_outside(
        &mut self,
        key: StreamKey,
        to: ConnectionKey,
        question: Question,
        since: Instant,
    ) {
        let Some(entry) = self.table.get_mut(key) else {
            return;
        };
        let peer = entry.peer();
        // Who has asked waits since then.
        let left = self.settings.answer_timeout.saturating_sub(since.elapsed());
        let timer = self.due.add(left, Due::Unanswered(key));
        let asked = (to, question, timer);
        if let Some((.., before)) = entry.record.moves().asked_about.replace(asked) {
            self.due.cancel(before);
        }
        self.event(Event::MigrationRequested { peer, key, to });
    }

    /// Somebody outside has answered.
    pub fn answered(
        &mut self,
        key: StreamKey,
        to: ConnectionKey,
        verdict: Verdict,
    ) -> Result<(), MigrateError> {
        let entry = self.table.get_mut(key);
        let entry = entry.ok_or(MigrateError::UnknownStream(key))?;
        let answer = answer_of(verdict).ok_or(MigrateError::NotAsked)?;
        let about = &mut entry.record.moves().asked_about;
        let (_, question, timer) = about
            .take_if(|(about, ..)| *about == to)
            .ok_or(MigrateError::NotAsked)?;
        self.due.cancel(timer);
        let in_time = self.answer(key, to, question, answer);
        self.heard_from(key);
        match in_time {
            true => Ok(()),
            false => Err(MigrateError::NotAsked),
        }
    }

    /// Nobody outside has answered in time.
    pub(super) fn unanswered(&mut self, key: StreamKey) {
        if let Some(entry) = self.table.get_mut(key)
            && let Some((to, question, _)) = entry.record.moves().asked_about.take()
        {
            self.answer(key, to, question, Answer::NotNow);
            self.heard_from(key);
            // The question kept it from being moved.
            self.place(key);
        }
    }

    // ---- The application's wishes ------------------------------------------------------------------

    pub fn set_mobility(&mut self, key: StreamKey, mobility: Mobility) -> Result<(), MigrateError> {
        let entry = self.table.get_mut(key);
        let entry = entry.ok_or(MigrateError::UnknownStream(key))?;
        entry.record.mobility = mobility;
        entry.record.mobility_said = true;
        let peer = entry.peer();
        self.tell(peer, &Change::StreamChanged(key));
        self.place(key);
        Ok(())
    }

    pub fn drain(
        &mut self,
        peer: PeerId,
        connection: ConnectionKey,
        reply: oneshot::Sender<Result<(), DrainError>>,
    ) {
        let Some(info) = self.connections.get_mut(peer, connection) else {
            let _ = reply.send(Err(DrainError::UnknownConnection(connection)));
            return;
        };
        let begun = !std::mem::replace(&mut info.draining, true);
        let free = info.streams == 0;
        if let Some(record) = self.connections.record_mut(connection) {
            let drains = &mut record.pruning.drains;
            // Whoever has given up does not wait.
            drains.retain(|reply| !reply.is_canceled());
            drains.push(reply);
        }
        if begun {
            self.connection_changed(peer, connection);
        }
        if free {
            self.drained(connection);
        }
    }

    /// Stops the emptying of a connection: it is a place for streams again.
    pub fn undrain(&mut self, peer: PeerId, connection: ConnectionKey) -> Result<(), DrainError> {
        let info = self.connections.get_mut(peer, connection);
        let info = info.ok_or(DrainError::UnknownConnection(connection))?;
        let begun = std::mem::take(&mut info.draining);
        if let Some(record) = self.connections.record_mut(connection) {
            record.pruning.unwanted = false;
            for reply in std::mem::take(&mut record.pruning.drains) {
                let _ = reply.send(Err(DrainError::Undrained(connection)));
            }
        }
        if begun {
            self.connection_changed(peer, connection);
            self.room_changed(peer);
        }
        Ok(())
    }

    /// Tells where the stream is after its next move, whoever makes it; or why there will be none.
    pub fn await_move(
        &mut self,
        key: StreamKey,
        reply: oneshot::Sender<Result<ConnectionKey, MigrateError>>,
    ) {
        let Some(entry) = self.table.get_mut(key) else {
            let _ = reply.send(Err(MigrateError::UnknownStream(key)));
            return;
        };
        let watchers = &mut entry.record.moves().watchers;
        // Whoever has given up does not wait.
        watchers.retain(|watcher| !watcher.is_canceled());
        watchers.push(reply);
    }

    /// The connection is free.
    pub(super) fn drained(&mut self, connection: ConnectionKey) {
        if let Some(record) = self.connections.record_mut(connection) {
            for reply in std::mem::take(&mut record.pruning.drains) {
                let _ = reply.send(Ok(()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two targets that fail in turns: each waits, and the next wait is longer than the last, wherever that
    /// was to go (docs/field.md, C7).
    #[test]
    fn two_targets_do_not_alternate_at_network_speed() {
        let mut backoff = Backoff::default();
        let targets = [1, 2].map(ConnectionKey::new);
        let mut last = Duration::ZERO;
        for turn in 0..6 {
            let to = targets[turn % 2];
            let delay = backoff.failed();
            assert!(delay > last);
            last = delay;
            backoff.wait(to, None);
            assert!(backoff.waits().any(|waiting| waiting == to));
        }
        assert_eq!(backoff.waits().count(), 2);
        backoff.over(targets[0]);
        assert_eq!(backoff.waits().collect::<Vec<_>>(), [targets[1]]);
    }
}
