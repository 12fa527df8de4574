//! The metrics of real nodes, after this and that has happened to their streams.

mod dashboard;
mod exposition;
mod promql;

use std::{collections::BTreeMap, time::Duration};

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::StreamProtocol;
use libp2p_stream_migration::{
    Config, ConnectionInfo, Event, Initiate, PROTOCOL_NAME, PeerView, Policy, PreferDirect, Side,
    Stream, StreamInfo, Verdict, metrics::Metrics,
};
use prometheus_client::{encoding::text, registry::Registry};
use testing::*;

use exposition::Exposition;

const PREFIX: &str = "libp2p_stream_migration_";

/// What multistream-select writes each way for [`PROTOCOL`]: stream bytes like any other.
const INNER: f64 = 33.0;

/// A node's metrics.
struct Meter {
    registry: Registry,
    metrics: Metrics,
    recorded: usize,
}

impl Meter {
    fn new() -> Self {
        let mut registry = Registry::with_prefix("libp2p");
        let metrics = Metrics::new(&mut registry);
        Self {
            registry,
            metrics,
            recorded: 0,
        }
    }

    /// What they are after all that has happened at the node, to which this meter belongs.
    fn read(&mut self, node: &Node) -> Exposition {
        let events = node.events();
        for event in &events[self.recorded..] {
            self.metrics.record(event);
        }
        self.recorded = events.len();
        let mut text = String::new();
        text::encode(&mut text, &self.registry).unwrap();
        Exposition::parse(&text)
    }
}

/// A metric, all the labels of one of its series, and that one's value.
type Series<'a> = (&'a str, &'a [(&'a str, &'a str)], f64);

/// Asserts the values of all series of these metrics: those that are named, and 0 for all others.
fn assert_all(scrape: &Exposition, expected: &[Series<'_>]) {
    let mut seen = 0;
    for sample in &scrape.samples {
        let Some(name) = sample.name.strip_prefix(PREFIX) else {
            panic!("{} is none of ours", sample.name);
        };
        if !expected.iter().any(|(expected, ..)| *expected == name) {
            continue;
        }
        let mut named = expected.iter().filter(|(expected, labels, _)| {
            *expected == name && sample.labels.len() == labels.len() && sample.has(labels)
        });
        let value = named.next().map(|(.., value)| *value);
        seen += usize::from(value.is_some());
        assert_eq!(sample.value, value.unwrap_or(0.0), "{sample:?}");
    }
    assert_eq!(seen, expected.len(), "of {expected:?}");
}

const LOCAL: &[(&str, &str)] = &[("initiator", "local")];
const REMOTE: &[(&str, &str)] = &[("initiator", "remote")];
const BY_US: &[(&str, &str)] = &[("opener", "local")];
const BY_THEM: &[(&str, &str)] = &[("opener", "remote")];
const SENT: &[(&str, &str)] = &[("direction", "sent")];
const RECEIVED: &[(&str, &str)] = &[("direction", "received")];

fn outcome<'a>(outcome: &'a str, initiator: &'a str) -> [(&'a str, &'a str); 2] {
    [("outcome", outcome), ("initiator", initiator)]
}

fn connection<'a>(relayed: &'a str, transport: &'a str) -> [(&'a str, &'a str); 2] {
    [("relayed", relayed), ("transport", transport)]
}

fn is_end(event: &Event) -> bool {
    matches!(event, Event::StreamEnded { .. })
}

/// So many bytes each way, which all arrive.
async fn talk(ours: &mut Stream, theirs: &mut Stream, from: u64, to: u64) {
    write(ours, 1, from, to).await;
    write(theirs, 2, from, to).await;
    read(theirs, 1, from, to).await;
    read(ours, 2, from, to).await;
}

/// Both sides close in order and let go.
async fn close(mut ours: Stream, mut theirs: Stream) {
    ours.close().await.unwrap();
    theirs.close().await.unwrap();
    read_end(&mut ours).await;
    read_end(&mut theirs).await;
}

/// Moves nothing, and lets the remote move only streams that it has opened.
struct DenyOurs;

impl Policy for DenyOurs {
    fn verdict(&mut self, stream: &StreamInfo, _: &ConnectionInfo, _: &PeerView<'_>) -> Verdict {
        match stream.opener {
            Side::Local => Verdict::Deny,
            Side::Remote => Verdict::Accept,
        }
    }
}

/// All series are there before anything has happened, and nothing else is.
#[test]
fn at_zero() {
    let metrics = Meter::new();
    let mut text = String::new();
    text::encode(&mut text, &metrics.registry).unwrap();
    let scrape = Exposition::parse(&text);
    assert!(scrape.samples.iter().all(|sample| sample.value == 0.0));
    for labels in [
        outcome("completed", "local"),
        outcome("completed", "remote"),
        outcome("denied", "local"),
        outcome("cancelled", "remote"),
    ] {
        scrape.sum("migrations_total", &labels);
    }
    for metric in scrape.metrics.keys() {
        let of_it = |name: &str| name.starts_with(metric.as_str());
        assert!(scrape.samples.iter().any(|it| of_it(&it.name)), "{metric}");
    }
}

/// The table in the documentation has the names and labels that there are.
#[test]
fn the_docs_name_what_exists() {
    let source = include_str!("../../src/metrics.rs");
    let rows = source.lines().filter_map(|line| {
        let cells: Vec<_> = line.strip_prefix("//! | `")?.split('|').collect();
        let [name, labels, ..] = cells[..] else {
            panic!("no row: {line}");
        };
        let name = name.trim().trim_end_matches('`');
        let labels = labels.split('`').skip(1).step_by(2).map(str::to_owned);
        Some((format!("{PREFIX}{name}"), labels.collect()))
    });
    let mut text = String::new();
    text::encode(&mut text, &Meter::new().registry).unwrap();
    assert_eq!(
        rows.collect::<BTreeMap<_, _>>(),
        Exposition::parse(&text).metrics
    );
}

/// A stream that moves there and back, one that the remote denies to move, one that is dropped.
#[tokio::test]
async fn two_nodes() {
    let denying = Node::with(Setup::default().policy(DenyOurs));
    let mut net = Net::with(Node::new(), denying);
    let (mut here, mut there) = (Meter::new(), Meter::new());
    let tcp = net.connect(Kind::Tcp).await;
    let quic = net.connect(Kind::Quic).await;
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let peer = net.listener.id;
    let (mut ours, mut theirs) = open(&mut net.dialer, peer, &mut incoming, tcp.here).await;
    for scrape in [here.read(&net.dialer), there.read(&net.listener)] {
        assert_all(
            &scrape,
            &[
                ("connections", &connection("false", "tcp"), 1.0),
                ("connections", &connection("false", "quic"), 1.0),
            ],
        );
    }
    assert_all(&here.read(&net.dialer), &[("streams", BY_US, 1.0)]);
    assert_all(&there.read(&net.listener), &[("streams", BY_THEM, 1.0)]);

    // There by the dialer, and back by the listener.
    talk(&mut ours, &mut theirs, 0, 1000).await;
    let (key, to) = (ours.key(), quic.here);
    let moved = net.dialer.control.migrate(key, to);
    within("the migration", moved).await.unwrap();
    let completed = |event: &Event| matches!(event, Event::MigrationCompleted { .. });
    net.listener.count("completed", 1, completed).await;
    talk(&mut ours, &mut theirs, 1000, 3000).await;
    let (key, to) = (theirs.key(), tcp.there);
    let moved = net.listener.control.migrate(key, to);
    within("the migration", moved).await.unwrap();
    net.dialer.count("completed", 2, completed).await;
    talk(&mut ours, &mut theirs, 3000, 4000).await;

    // Denied, which is not the listener's failure.
    let mut back = net.dialer.control.accept(PROTOCOL).unwrap();
    let peer = net.dialer.id;
    let (denied, denier) = {
        let (denier, denied) = open(&mut net.listener, peer, &mut back, tcp.there).await;
        let moved = net.dialer.control.migrate(denied.key(), quic.here);
        within("the denial", moved).await.unwrap_err();
        (denied, denier)
    };
    close(ours, theirs).await;
    close(denied, denier).await;

    // Dropped before it is closed.
    let peer = net.listener.id;
    let (ours, mut theirs) = open(&mut net.dialer, peer, &mut incoming, quic.here).await;
    drop(ours);
    let read = within("its end", theirs.read(&mut [0])).await;
    drop(theirs);
    for node in [&net.dialer, &net.listener] {
        node.count("three ends", 3, is_end).await;
        let resumed = |event: &Event| matches!(event, Event::Resumed { .. });
        node.count("two gaps", 2, resumed).await;
    }
    // On QUIC a drop reads as an end, and then it is the listener that has not closed.
    assert_eq!(read.unwrap(), 0);

    let both = 4000.0 + INNER;
    for (meter, node, denied) in [
        (&mut here, &net.dialer, 1.0),
        (&mut there, &net.listener, 0.0),
    ] {
        let scrape = meter.read(node);
        assert_all(
            &scrape,
            &[
                ("migrations_total", &outcome("completed", "local"), 1.0),
                ("migrations_total", &outcome("completed", "remote"), 1.0),
                ("migrations_total", &outcome("denied", "local"), denied),
                ("declined_total", &[("for_good", "true")], 1.0 - denied),
                ("declined_total", &[("for_good", "false")], 0.0),
                ("migrations_started_total", &[], 1.0 + denied),
                ("migration_agreement_seconds_count", &[], 1.0),
                ("migration_duration_seconds_count", LOCAL, 1.0),
                ("migration_duration_seconds_count", REMOTE, 1.0),
                ("migration_gap_seconds_count", LOCAL, 1.0),
                ("migration_gap_seconds_count", REMOTE, 1.0),
                // The first old leg's and the second's.
                ("migrated_bytes_total", SENT, 1000.0 + INNER + 2000.0),
                ("migrated_bytes_total", RECEIVED, 1000.0 + INNER + 2000.0),
                ("aborts_total", &[("cause", "dropped")], 1.0),
                // The first stream, the others' negotiation.
                ("stream_bytes_total", SENT, both + 2.0 * INNER),
                ("stream_bytes_total", RECEIVED, both + 2.0 * INNER),
                ("connections", &connection("false", "tcp"), 1.0),
                ("connections", &connection("false", "quic"), 1.0),
            ],
        );
        for metric in ["streams", "plain_streams_total", "refused_total"] {
            assert_eq!(scrape.sum(metric, &[]), 0.0);
        }
        assert_eq!(scrape.sum("violations_total", &[]), 0.0);
        assert_eq!(scrape.sum("connections_pruned_total", &[]), 0.0);
        for histogram in ["agreement", "duration", "gap"] {
            let of_it = |what: &str| format!("migration_{histogram}_seconds_{what}");
            let all = scrape.sum(&of_it("bucket"), &[("le", "+Inf")]);
            assert_eq!(all, scrape.sum(&of_it("count"), &[]));
        }
        // As the event says, and it took some time.
        let took = node.events().into_iter().filter_map(|event| match event {
            Event::MigrationCompleted { took, .. } => Some(took.as_secs_f64()),
            _ => None,
        });
        let (told, took) = (
            scrape.sum("migration_duration_seconds_sum", &[]),
            took.sum::<f64>(),
        );
        assert!(took > 0.0 && (told - took).abs() < 1e-9, "{told} {took}");
    }

    for pair in [tcp, quic] {
        net.dialer.close(pair.here);
    }
    for (meter, node) in [(&mut here, &net.dialer), (&mut there, &net.listener)] {
        let closed = |event: &Event| matches!(event, Event::ConnectionClosed { .. });
        node.count("two closed connections", 2, closed).await;
        let scrape = meter.read(node);
        assert_eq!(scrape.sum("connections", &[]), 0.0);
        assert_eq!(scrape.sum("streams", &[]), 0.0);
    }
}

/// A stream leaves a relayed connection by itself, and the dialer closes that.
#[tokio::test]
async fn a_relayed_connection() {
    let config = Config::default()
        .with_prune_grace(Some(Duration::from_millis(10)))
        .with_old_leg_linger(Duration::from_millis(100))
        .with_initiate(Initiate::Either);
    let dialer = Node::with(
        Setup {
            config,
            ..Default::default()
        }
        .policy(PreferDirect),
    );
    let mut net = Net::with(dialer, Node::new());
    let (mut here, mut there) = (Meter::new(), Meter::new());
    let relayed = net.connect(Kind::Relayed).await;
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let peer = net.listener.id;
    let (mut ours, mut theirs) = open(&mut net.dialer, peer, &mut incoming, relayed.here).await;
    for (meter, node) in [(&mut here, &net.dialer), (&mut there, &net.listener)] {
        assert_all(
            &meter.read(node),
            &[
                ("connections", &connection("true", "tcp"), 1.0),
                // To the relay.
                ("connections", &connection("false", "tcp"), 1.0),
            ],
        );
    }
    net.connect(Kind::Quic).await;
    let closed = |event: &Event| matches!(event, Event::ConnectionClosed { .. });
    for node in [&net.dialer, &net.listener] {
        node.count("the relayed connection's end", 1, closed).await;
    }
    talk(&mut ours, &mut theirs, 0, 1000).await;
    close(ours, theirs).await;
    for (meter, node, we) in [
        (&mut here, &net.dialer, 1.0),
        (&mut there, &net.listener, 0.0),
    ] {
        node.count("the end", 1, is_end).await;
        assert_all(
            &meter.read(node),
            &[
                ("connections", &connection("false", "tcp"), 1.0),
                ("connections", &connection("false", "quic"), 1.0),
                ("connections_pruned_total", &[], we),
                ("migrations_started_total", &[], we),
                ("migrations_total", &outcome("completed", "local"), we),
                (
                    "migrations_total",
                    &outcome("completed", "remote"),
                    1.0 - we,
                ),
                ("migration_duration_seconds_count", LOCAL, we),
                ("migration_duration_seconds_count", REMOTE, 1.0 - we),
                ("stream_bytes_total", SENT, 1000.0 + INNER),
                ("stream_bytes_total", RECEIVED, 1000.0 + INNER),
                ("aborts_total", &[("cause", "dropped")], 0.0),
            ],
        );
    }
}

/// A stream of an unmodified behaviour leaves a relayed link, below the swarm: it counts as any other does, and so do
/// the links, by the connections that they came with.
#[tokio::test]
async fn below_the_swarm() {
    let setup = |config| Setup {
        layer: true,
        plain: true,
        config,
        ..Default::default()
    };
    let config = Config::default()
        .with_prune_grace(Some(Duration::from_millis(10)))
        .with_old_leg_linger(Duration::from_millis(100))
        .with_initiate(Initiate::Either);
    let dialer = Node::with(setup(config).policy(PreferDirect));
    let mut net = Net::with(dialer, Node::with(setup(Config::default())));
    net.connect(Kind::Relayed).await;
    let mut incoming = net.listener.accept_plain(PROTOCOL);
    let (mut ours, mut theirs) = net.open_plain(&mut incoming, PROTOCOL).await;
    net.connect(Kind::Quic).await;
    let completed = |event: &Event| matches!(event, Event::MigrationCompleted { .. });
    let pruned = |event: &Event| matches!(event, Event::ConnectionPruned { .. });
    net.dialer
        .count("the end of the relayed link", 1, pruned)
        .await;
    net.listener.count("the move", 1, completed).await;
    write(&mut ours, 1, 0, 1000).await;
    read(&mut theirs, 1, 0, 1000).await;
    ours.close().await.unwrap();
    theirs.close().await.unwrap();
    read_end(&mut ours).await;
    read_end(&mut theirs).await;
    drop((ours, theirs));
    for (node, we) in [(&net.dialer, 1.0), (&net.listener, 0.0)] {
        node.count("the end", 1, is_end).await;
        let (sent, received) = (1000.0 * we + INNER, 1000.0 * (1.0 - we) + INNER);
        assert_all(
            &Meter::new().read(node),
            &[
                ("connections_pruned_total", &[], we),
                ("migrations_started_total", &[], we),
                ("migrations_total", &outcome("completed", "local"), we),
                (
                    "migrations_total",
                    &outcome("completed", "remote"),
                    1.0 - we,
                ),
                ("migration_duration_seconds_count", LOCAL, we),
                ("migration_duration_seconds_count", REMOTE, 1.0 - we),
                ("stream_bytes_total", SENT, sent),
                ("stream_bytes_total", RECEIVED, received),
                ("aborts_total", &[("cause", "dropped")], 0.0),
                // As the swarm has it.
                ("connections", &connection("true", "tcp"), 1.0),
                ("connections", &connection("false", "quic"), 1.0),
                ("connections", &connection("false", "tcp"), 1.0),
            ],
        );
    }
}

/// A remote that speaks the protocol by hand: what it was refused, what it did wrong, and an attempt
/// of ours for which it takes no leg.
#[tokio::test]
async fn a_bad_remote() {
    // Field 1, `label`: this ID.
    let label = |id: u8| [4, 0x0a, 2, 8, id];
    let config = Config::default().with_max_streams_per_peer(2);
    let ours = Node::with(Setup {
        config,
        ..Default::default()
    });
    // Its behaviour goes by another name, and so the protocol's is for it one like any other.
    let raw = Node::with(Setup {
        config: Config::default().with_protocol_name(StreamProtocol::new("/raw")),
        ..Default::default()
    });
    let mut net = Net::with(raw, ours);
    let (mut here, mut there) = (Meter::new(), Meter::new());
    let tcp = net.connect(Kind::Tcp).await;
    let quic = net.connect(Kind::Quic).await;
    let peer = net.listener.id;
    let mut legs = Vec::new();
    let mut control = net.dialer.control.clone();
    let mut say = async |bytes: &[u8]| {
        let leg = control.open_stream_on(peer, tcp.here, PROTOCOL_NAME);
        let mut leg = within("a leg", leg).await.unwrap();
        leg.write_all(bytes).await.unwrap();
        leg.flush().await.unwrap();
        legs.push(leg);
    };
    let started = |event: &Event| matches!(event, Event::StreamStarted { .. });
    let refused = |event: &Event| matches!(event, Event::Refused { .. });
    let violation = |event: &Event| matches!(event, Event::Violation { .. });
    say(&label(0)).await;
    net.listener.count("a stream", 1, started).await;
    say(&label(0)).await;
    net.listener.count("the ID in use", 1, violation).await;
    say(&label(2)).await;
    net.listener.count("another stream", 2, started).await;
    for (number, id) in [(1, 4), (2, 6), (3, 8)] {
        say(&label(id)).await;
        net.listener.count("a refusal", number, refused).await;
    }
    // A field that runs past its message.
    say(&[2, 0x0a, 9]).await;
    net.listener
        .count("a malformed message", 2, violation)
        .await;

    let streams = net.listener.control.streams(net.dialer.id).await;
    let moved = net.listener.control.migrate(streams[0].key, quic.there);
    within("the failure", moved).await.unwrap_err();
    let failed = |event: &Event| matches!(event, Event::MigrationFailed { .. });
    net.listener.count("the failure", 1, failed).await;

    let scrape = there.read(&net.listener);
    assert_all(
        &scrape,
        &[
            ("streams", BY_THEM, 2.0),
            ("refused_total", &[("limit", "streams_per_peer")], 3.0),
            ("violations_total", &[("what", "message")], 1.0),
            ("violations_total", &[("what", "id_in_use")], 1.0),
            ("migrations_started_total", &[], 1.0),
            ("migrations_total", &outcome("leg_lost", "local"), 1.0),
            ("migration_agreement_seconds_count", &[], 0.0),
        ],
    );
    // The raw peer's own view: whatever does not speak `/raw` is plain.
    assert_all(
        &here.read(&net.dialer),
        &[("plain_streams_total", BY_US, 7.0)],
    );

    // All that it leaves behind is told of.
    drop((net.dialer, control, legs));
    net.listener.count("their ends", 2, is_end).await;
    let closed = |event: &Event| matches!(event, Event::ConnectionClosed { .. });
    net.listener.count("closed connections", 2, closed).await;
    let scrape = there.read(&net.listener);
    assert_eq!(scrape.sum("streams", &[]), 0.0);
    assert_eq!(scrape.sum("connections", &[]), 0.0);
    assert_eq!(scrape.sum("aborts_total", &[]), 2.0);
}
