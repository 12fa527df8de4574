//! One migration as it shows in logs: a span on either side, with the state's changes in it; and
//! nothing of what the stream carries.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
};

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::PeerId;
use libp2p_stream_migration::{Action, Change, Config, Event, Mobility, PeerView, Policy, Stream};
use testing::*;
use tracing::{
    Level, Subscriber,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{
    Layer, filter::LevelFilter, layer::Context, prelude::*, registry::LookupSpan,
};

const OURS: &str = "libp2p_stream_migration";

/// What nothing else writes.
const PAYLOAD: &str = "the-secret-that-this-stream-carries";

#[derive(Debug, Clone, Default)]
struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

impl Fields {
    fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }
}

#[derive(Debug, Clone)]
struct Span {
    id: u64,
    name: &'static str,
    fields: Fields,
}

/// A line of a log.
#[derive(Debug)]
struct Line {
    level: Level,
    target: String,
    fields: Fields,
    /// The innermost first.
    spans: Vec<u64>,
}

#[derive(Debug, Default)]
struct Logs {
    spans: Vec<Span>,
    lines: Vec<Line>,
}

/// Keeps all that is logged.
#[derive(Clone, Default)]
struct Capture(Arc<Mutex<Logs>>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Capture {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, _: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if attributes.metadata().target().starts_with(OURS) {
            self.0.lock().unwrap().spans.push(Span {
                id: id.into_u64(),
                name: attributes.metadata().name(),
                fields,
            });
        }
    }

    fn on_event(&self, event: &tracing::Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let spans = context.event_scope(event).into_iter().flatten();
        let spans = spans.map(|span| span.id().into_u64()).collect();
        self.0.lock().unwrap().lines.push(Line {
            level: *event.metadata().level(),
            target: event.metadata().target().to_owned(),
            fields,
            spans,
        });
    }
}

async fn say(from: &mut Stream, to: &mut Stream) {
    from.write_all(PAYLOAD.as_bytes()).await.unwrap();
    from.flush().await.unwrap();
    let mut buf = [0; PAYLOAD.len()];
    within("the payload", to.read_exact(&mut buf))
        .await
        .unwrap();
    assert_eq!(buf, PAYLOAD.as_bytes());
}

/// The payload to and fro.
async fn talk(ours: &mut Stream, theirs: &mut Stream) {
    say(ours, theirs).await;
    say(theirs, ours).await;
}

/// What is logged by two nodes between which a stream moves.
struct Story {
    /// Here and there: the peer, and the two connections.
    sides: [(PeerId, Pair); 2],
    keys: [String; 2],
}

async fn story() -> Story {
    let mut net = Net::new();
    let tcp = net.connect(Kind::Tcp).await;
    let quic = net.connect(Kind::Quic).await;
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let peer = net.listener.id;
    let (mut ours, mut theirs) = open(&mut net.dialer, peer, &mut incoming, tcp.here).await;
    talk(&mut ours, &mut theirs).await;
    let keys = [ours.key().to_string(), theirs.key().to_string()];
    let moved = net.dialer.control.migrate(ours.key(), quic.here);
    within("the migration", moved).await.unwrap();
    let completed = |event: &Event| matches!(event, Event::MigrationCompleted { .. });
    for node in [&net.dialer, &net.listener] {
        node.count("completed", 1, completed).await;
    }
    talk(&mut ours, &mut theirs).await;
    ours.close().await.unwrap();
    theirs.close().await.unwrap();
    read_end(&mut ours).await;
    read_end(&mut theirs).await;
    drop((ours, theirs));
    let ended = |event: &Event| matches!(event, Event::StreamEnded { .. });
    for node in [&net.dialer, &net.listener] {
        node.count("the end", 1, ended).await;
    }
    let from_and_to = |from, to| Pair {
        here: from,
        there: to,
    };
    Story {
        sides: [
            (net.dialer.id, from_and_to(tcp.here, quic.here)),
            (net.listener.id, from_and_to(tcp.there, quic.there)),
        ],
        keys,
    }
}

/// Runs the story with everything up to this level captured, of all crates.
fn logged(level: LevelFilter) -> (Story, Logs) {
    captured(level, story())
}

fn captured<T>(level: LevelFilter, story: impl Future<Output = T>) -> (T, Logs) {
    let capture = Capture::default();
    let subscriber = tracing_subscriber::registry().with(capture.clone().with_filter(level));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    // Of crates that use `log`, too.
    let captures = subscriber.set_default();
    let story = runtime.block_on(story);
    drop(captures);
    drop(runtime);
    let logs = std::mem::take(&mut *capture.0.lock().unwrap());
    (story, logs)
}

/// The payload, as text, in hexadecimal and as a list of numbers; a part of it is enough.
fn is_revealing(text: &str) -> bool {
    let part = &PAYLOAD.as_bytes()[4..16];
    let hex: String = part.iter().map(|byte| format!("{byte:02x}")).collect();
    let list = format!("{part:?}");
    let list = list.trim_matches(['[', ']']);
    let text_of_it = std::str::from_utf8(part).unwrap();
    [text_of_it, &hex, &hex.to_uppercase(), list]
        .iter()
        .any(|form| text.contains(form))
}

fn assert_nothing_revealed(logs: &Logs) {
    let spans = logs.spans.iter().map(|span| ("a span", &span.fields));
    let lines = logs.lines.iter();
    let lines = lines.map(|line| (line.target.as_str(), &line.fields));
    for (target, fields) in spans.chain(lines) {
        let revealed = fields.0.values().any(|value| is_revealing(value));
        assert!(!revealed, "{target}: {fields:?}");
    }
}

#[test]
fn at_debug_one_migration_can_be_followed() {
    let (story, logs) = logged(LevelFilter::DEBUG);
    assert!(logs.lines.iter().all(|line| line.level <= Level::DEBUG));
    let ids = [story.sides[0].0, story.sides[1].0];
    for (side, (local, connections)) in story.sides.iter().enumerate() {
        let local = local.to_string();
        let spans = logs.spans.iter();
        let mut spans = spans.filter(|it| it.fields.get("local") == local);
        let span = spans.next().expect("a span");
        assert_eq!(spans.next().map(|span| span.name), None);
        assert_eq!(span.name, "migration");
        let fields: Vec<_> = span.fields.0.iter().map(|(k, v)| (*k, v.clone())).collect();
        assert_eq!(
            fields,
            [
                ("from", connections.here.to_string()),
                ("initiator", (side == 0).to_string()),
                ("local", local.clone()),
                ("peer", ids[1 - side].to_string()),
                ("stream", story.keys[side].clone()),
                ("to", connections.there.to_string()),
            ]
        );

        let inside = logs
            .lines
            .iter()
            .filter(|line| line.spans.first() == Some(&span.id));
        let changes = inside.map(|line| {
            assert!(line.target.starts_with(OURS), "{line:?}");
            assert_eq!(line.level, Level::DEBUG);
            assert_eq!(line.fields.get("message"), "stream migration state");
            (line.fields.get("from"), line.fields.get("to"))
        });
        let middle = ["requested", "answering"][side];
        assert_eq!(
            changes.collect::<Vec<_>>(),
            [("stable", middle), (middle, "agreed"), ("agreed", "stable")]
        );

        // What the application is told is logged too.
        let told = logs.lines.iter().filter_map(|line| {
            let event = line.fields.get("event");
            let ours = line.fields.get("local") == local && event.starts_with("Migration");
            ours.then(|| event.split(' ').next().unwrap())
        });
        let events = ["MigrationStarted", "MigrationAgreed", "MigrationCompleted"];
        // Only the initiator starts it.
        assert_eq!(told.collect::<Vec<_>>(), events[side..]);
    }
    assert_eq!(logs.spans.len(), 2);
    assert_nothing_revealed(&logs);
}

#[test]
fn not_even_trace_shows_data() {
    let (_, logs) = logged(LevelFilter::TRACE);
    let ours = |line: &&Line| line.level == Level::TRACE && line.target.starts_with(OURS);
    assert!(logs.lines.iter().filter(ours).count() > 0);
    assert_nothing_revealed(&logs);
}

/// A policy that wants a pinned stream moved as soon as it has agreed on its protocol.
struct AgainstTheRules;

impl Policy for AgainstTheRules {
    fn changed(&mut self, change: &Change, peer: &PeerView<'_>) -> Vec<Action> {
        let Change::StreamChanged(key) = change else {
            return Vec::new();
        };
        let here = peer.stream(*key).and_then(|stream| stream.connection);
        let mut others = peer.connections().iter();
        let other = others.find(|info| Some(info.key) != here);
        other
            .map(|info| Action::Move(*key, info.key))
            .into_iter()
            .collect()
    }
}

/// "My policy says `Move`, and nothing happens. Why?"
///
/// C13
#[test]
fn a_move_that_may_not_be_made_is_logged() {
    let story = async {
        let setup = Setup {
            config: Config::default().with_mobility(PROTOCOL, Mobility::Pinned),
            ..Default::default()
        };
        let mut net = Net::with(Node::with(setup.policy(AgainstTheRules)), Node::new());
        let tcp = net.connect(Kind::Tcp).await;
        net.connect(Kind::Quic).await;
        let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
        let peer = net.listener.id;
        let (ours, _theirs) = open(&mut net.dialer, peer, &mut incoming, tcp.here).await;
        ours.key().to_string()
    };
    let (key, logs) = captured(LevelFilter::DEBUG, story);
    let said = logs.lines.iter().filter(|line| {
        line.fields.get("message") == "a policy's move is not made" && line.fields.get("key") == key
    });
    let said: Vec<_> = said.collect();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].target.starts_with(OURS));
    let why = said[0].fields.get("error");
    assert!(why.contains("Pinned"), "{why}");
}

#[test]
fn what_is_revealing() {
    assert!(is_revealing(PAYLOAD));
    assert!(is_revealing(&format!("{:?}", PAYLOAD.as_bytes())));
    assert!(!is_revealing("the"));
}
