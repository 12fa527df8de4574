//! Invariants between the hub's books, which hold whenever its `poll` has nothing more to do.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use libp2p_identity::PeerId;

use super::{Due, Hub};
use crate::{key::ConnectionKey, stream::Io};

impl<L: Io + Send + 'static> Hub<L> {
    /// The connections, and their peers.
    pub fn there(&self) -> BTreeMap<ConnectionKey, PeerId> {
        let all = self.connections.all();
        all.map(|info| (info.key, info.peer)).collect()
    }

    /// Panics unless all books agree with each other.
    pub fn check(&self) {
        self.connections.check();
        let there = self.there();
        // Every leg is counted on its connection, and nothing else is.
        let mut legs: HashMap<ConnectionKey, usize> = HashMap::new();
        let mut waiting: BTreeMap<ConnectionKey, BTreeSet<(u64, u64)>> = BTreeMap::new();
        let mut holders: HashMap<PeerId, usize> = HashMap::new();
        for (key, entry) in self.table.iter() {
            let record = &entry.record;
            for connection in record.legs.all() {
                *legs.entry(connection).or_default() += 1;
            }
            let outgoing = record.outgoing();
            let opening = outgoing.filter(|it| it.holds_a_permit());
            let to = opening.map(|it| it.to).or(record.resuming_on());
            assert_eq!(record.legs.opening, to, "{key:?}");
            if opening.is_some() {
                *holders.entry(entry.peer()).or_default() += 1;
            }
            if let Some((outgoing, number)) = outgoing.and_then(|it| Some((it, it.number()?))) {
                waiting
                    .entry(outgoing.to)
                    .or_default()
                    .insert((number, key.0));
            }
            if let Some(outgoing) = outgoing
                && (outgoing.is_waiting() || outgoing.is_opening_on(outgoing.to))
            {
                assert!(
                    there.contains_key(&outgoing.to),
                    "{key:?} goes to a dead one"
                );
            }
        }
        for info in self.connections.all() {
            let counted = legs.get(&info.key).copied().unwrap_or_default();
            assert_eq!(info.streams, counted, "on {}", info.key);
            if let Some(record) = self.connections.record(info.key) {
                let lives = |key| self.table.get(key).is_some();
                record.pruning.check(info, lives);
            }
        }
        self.check_queue(&waiting, &holders);
        let peers: BTreeSet<_> = there.values().copied().collect();
        assert!(self.calls.keys().all(|peer| peers.contains(peer)));
        self.table.check(&peers);
        self.check_words();
        self.check_suspended();
        // Nothing is due for what is over.
        for due in self.due.iter() {
            match due {
                Due::Ask(key)
                | Due::Retry(key, _)
                | Due::Patience(key)
                | Due::Unanswered(key)
                | Due::LegOverdue(key)
                | Due::ResumeOver(key)
                | Due::ResumeAgain(key) => assert!(self.table.get(*key).is_some(), "{due:?}"),
                Due::Call(peer) => assert!(self.calls.contains_key(peer)),
                Due::ProbeLate(_, connection, _)
                | Due::ProbeOver(_, connection, _)
                | Due::ProbeAgain(_, connection)
                | Due::QuarantineOver(_, connection)
                | Due::Proven(_, connection)
                | Due::LookAfter(_, connection)
                | Due::Beat(_, connection)
                | Due::Mute(_, connection) => {
                    assert!(there.contains_key(connection), "{due:?}");
                }
                Due::Redial(peer) => assert!(self.has_suspended(*peer)),
                Due::Early(..) | Due::Linger(..) | Due::Say(_) | Due::Slide(_) => {}
            }
        }
        assert!(self.changed.is_empty() && self.told.is_empty());
        assert!(self.outputs.is_empty(), "{:?}", self.outputs);
    }

    /// Panics if anything is kept, though nobody is there.
    pub fn check_empty(&self) {
        self.check();
        assert_eq!(self.connections.all().count(), 0);
        assert!(self.table.is_empty() && self.queue.is_empty());
        assert!(self.calls.is_empty() && self.tasks.is_empty());
    }

    /// True if nobody is there, and nothing runs that bytes depend on.
    pub fn is_idle(&self) -> bool {
        self.there().is_empty() && self.tasks.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Context;

    use futures::io::Cursor;
    use libp2p_core::{ConnectedPoint, Endpoint, transport::PortUse};

    use super::*;
    use crate::{
        hub::Settings,
        key::StreamKey,
        policy::{Placement, Policy, Stay},
        view::{ConnectionInfo, Mobility, PeerView, StreamInfo},
    };

    /// A policy that is never content: it wants a stream here, and as soon as it waits for that, there.
    struct Fickle([ConnectionKey; 2]);

    impl Policy for Fickle {
        fn place(&mut self, stream: &StreamInfo, _: &PeerView<'_>) -> Placement {
            let [here, there] = self.0;
            Placement::On(if stream.waiting_for == Some(here) {
                there
            } else {
                here
            })
        }
    }

    fn connection(peer: PeerId, number: u64) -> ConnectionInfo {
        let endpoint = ConnectedPoint::Dialer {
            address: "/ip4/127.0.0.1/udp/1/quic-v1".parse().unwrap(),
            role_override: Endpoint::Dialer,
            port_use: PortUse::Reuse,
        };
        ConnectionInfo::new(ConnectionKey::new(number), peer, &endpoint)
    }

    /// Both connections that a policy wants a stream on in turns are full. A poll never came to an end.
    #[test]
    fn a_fickle_policy_lets_others_have_a_turn() {
        let (local, peer) = (PeerId::random(), PeerId::random());
        let settings = Settings {
            max_streams_per_connection: 2,
            initiate: crate::hub::Initiate::Either,
            ..Settings::default()
        };
        let [a, b, c] = [1, 2, 3].map(ConnectionKey::new);
        let mut hub = Hub::new(local, settings, Box::new(Fickle([a, b])));
        for number in 1..=3 {
            hub.connected(connection(peer, number));
        }
        for (on, mobility) in [
            (a, Mobility::Pinned),
            (a, Mobility::Pinned),
            (b, Mobility::Pinned),
            (b, Mobility::Pinned),
            (c, Mobility::Free),
        ] {
            let stream = hub.label(peer, on, Cursor::new(Vec::new()), mobility, None);
            hub.place(stream.unwrap().key());
        }
        let waker = futures::task::noop_waker();
        let mut cx = Context::from_waker(&waker);
        for _ in 0..3 {
            hub.begin_round();
            let polls = (0..1000).take_while(|_| hub.poll(&mut cx).is_ready());
            assert!(polls.count() < 1000, "it goes on and on");
            hub.check();
        }
    }

    fn hub_and_peer() -> (Hub<Cursor<Vec<u8>>>, PeerId, ConnectionKey) {
        let (local, peer) = (PeerId::random(), PeerId::random());
        let mut hub = Hub::new(local, Settings::default(), Box::new(Stay));
        hub.connected(connection(peer, 1));
        (hub, peer, ConnectionKey::new(1))
    }

    /// A connection that is lost in the middle of a move left 160 bytes behind, each time.
    #[test]
    fn what_is_gone_is_not_brought_back() {
        let (mut hub, peer, connection) = hub_and_peer();
        hub.disconnected(peer, connection, true);
        let key = StreamKey::new(1);
        hub.left(key, connection, true, false);
        hub.confirmed(peer, key, connection);
        hub.arrived(connection);
        hub.ended(connection);
        hub.close_when_free(peer, connection);
        hub.heard(peer, connection);
        hub.suspect(peer, connection);
        hub.connections.check();
        assert!(hub.there().is_empty());
    }

    /// Policies ask at every comparison, which hashed both IDs each time.
    #[test]
    fn the_hash_rule_is_known_to_whoever_compares() {
        let (hub, peer, _) = hub_and_peer();
        assert!(hub.view(peer).designated.is_some());
    }
}
