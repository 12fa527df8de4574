//! What a look into the table and a question to the policy cost, with few streams and with many.

use std::{
    hint::black_box,
    ops::{Deref, DerefMut},
    time::Instant,
};

use libp2p::{Multiaddr, PeerId};
use libp2p_core::{ConnectedPoint, Endpoint, transport::PortUse};

use crate::{
    ConnectionInfo, Effort, PeerView, Policy, StreamInfo,
    key::{ConnectionKey, StreamKey},
    machine::StreamId,
    pipe::{End, shared},
    policy::{self, Chain},
    stats::{Goal, Pair, Report, Row},
    stream::{Leg, LegKind},
    table::{Caps, Table},
    view::Streams,
};

const SECTION: &str = "table";
const FEW: usize = 10;
/// Caches miss more often among many; nothing else may cost more.
const GOAL: Goal = Goal::AtMost(10.0);

/// The table, each of its streams with when it began.
struct StreamTable(Table<End, Instant>);

impl Deref for StreamTable {
    type Target = Table<End, Instant>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for StreamTable {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

type Operation = fn(&mut World);

/// A table with so many streams of one peer, half of them on either of two connections.
struct World {
    table: StreamTable,
    policy: Chain,
    local: PeerId,
    peer: PeerId,
    connections: [ConnectionInfo; 2],
    streams: usize,
    /// Where to look next.
    at: usize,
}

impl World {
    fn new(streams: usize) -> Self {
        let (local, peer) = (PeerId::random(), PeerId::random());
        let connections = [
            "/ip4/127.0.0.1/udp/1/quic-v1".to_owned(),
            format!("/ip4/127.0.0.1/tcp/1/p2p/{local}/p2p-circuit/p2p/{peer}"),
        ];
        let mut ids = 0..;
        let connections = connections.map(|address| {
            let address: Multiaddr = address.parse().expect("an address");
            let endpoint = ConnectedPoint::Dialer {
                address,
                role_override: Endpoint::Dialer,
                port_use: PortUse::Reuse,
            };
            let id = ConnectionKey::new(ids.next().expect("there are more"));
            ConnectionInfo::new(id, peer, &endpoint)
        });
        let caps = Caps {
            streams_per_peer: 1 << 20,
            unanswered_per_peer: 256,
            ended_ids_per_peer: 1024,
            ended_id_memory: std::time::Duration::from_secs(60),
            read_ahead_per_stream: 1 << 20,
            read_ahead_per_peer: 1 << 26,
        };
        let mut world = Self {
            table: StreamTable(Table::new(local, caps, Some(0), 0)),
            policy: Chain::default(),
            local,
            peer,
            connections,
            streams,
            at: 0,
        };
        for _ in 0..streams {
            world.open();
        }
        world
    }

    fn open(&mut self) -> StreamKey {
        let key = self.table.next_key();
        let id = self.table.allocate(self.peer);
        self.table.admits(self.peer, id).expect("it is new");
        let (leg, _) = End::with_window(0);
        let connection = self.connections[usize::from(id.0 % 4 > 1)].key;
        let budget = self.table.budget(self.peer);
        let shared = shared(key, id, Leg::new(leg, connection, LegKind::Quic), budget);
        self.table.insert(self.peer, shared, Instant::now());
        key
    }

    /// Any of the streams that were there from the beginning.
    fn any(&mut self) -> usize {
        self.at = (self.at + 7919) % self.streams;
        self.at
    }

    fn by_id(&mut self) {
        let parity = u64::from(self.local.to_bytes() > self.peer.to_bytes());
        let id = StreamId((self.any() as u64) << 1 | parity);
        black_box(self.table.find(self.peer, id));
    }

    fn by_key(&mut self) {
        let key = StreamKey::new(1 + self.any() as u64);
        black_box(self.table.get(key).is_some());
    }

    fn ask(&mut self) {
        let key = StreamKey::new(1 + self.any() as u64);
        let Some(stream) = self.table.one(key) else {
            return;
        };
        let view = PeerView::new(self.local, self.peer, &self.connections, &self.table);
        let policy: &mut dyn Policy = &mut self.policy;
        black_box(policy::place(policy, &stream, &view));
    }

    fn come_and_go(&mut self) {
        let key = self.open();
        self.table.refresh(key);
        black_box(self.table.remove(key, true).is_some());
    }

    /// Nanoseconds for one.
    fn time(&mut self, what: Operation, times: u32) -> f64 {
        let start = Instant::now();
        (0..times).for_each(|_| what(self));
        start.elapsed().as_nanos() as f64 / f64::from(times)
    }
}

/// As the behaviour makes it.
impl Streams for StreamTable {
    fn one(&self, key: StreamKey) -> Option<StreamInfo> {
        let entry = self.get(key)?;
        let status = entry.shared.status();
        let mut info = StreamInfo::new(key, entry.peer(), status.connection?);
        info.id = status.id;
        info.sent = status.sent;
        info.received = status.received;
        info.migrating = status.migrating;
        info.started = entry.record;
        Some(info)
    }

    fn of_peer(&self, peer: PeerId) -> Vec<StreamInfo> {
        let keys = self.0.of_peer(peer).into_iter();
        keys.filter_map(|key| self.one(key)).collect()
    }
}

pub fn run(effort: Effort, report: &mut Report) {
    let times = if effort.quick { 1000 } else { 50_000 };
    let mut few = World::new(FEW);
    for streams in [1000, 100_000] {
        let mut many = World::new(streams);
        let operations: [(&str, Operation); 4] = [
            ("look up an ID", World::by_id),
            ("look up a key", World::by_key),
            ("ask the policy about a stream", World::ask),
            ("a stream comes and goes", World::come_and_go),
        ];
        for (name, operation) in operations {
            let mut pairs: Vec<Pair> = Vec::new();
            for turn in 0..=effort.pairs {
                let pair = (many.time(operation, times), few.time(operation, times));
                if turn > 0 {
                    pairs.push(pair);
                }
            }
            let name = format!("{name}: {streams} streams against {FEW}: ns");
            report.add(Row::ratio(SECTION, name, &pairs, GOAL));
        }
    }
}
