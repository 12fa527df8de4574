//! A remote that breaks the protocol on purpose, and streams that nothing may happen to. After each
//! attempt, what it was about is over, the right event has been seen, and no other stream, of this
//! peer or of another, has noticed.

mod caps;
mod closing;
mod facts;
mod ids;
mod messages;
mod nested;
mod resume;
mod switching;

use std::time::Duration;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, StreamExt, join};
use libp2p_stream_migration::ConnectionKey;
use libp2p_stream_migration::{Abort, Config, Event, Limit, Stream, StreamKey, Violation};
use testing::{raw::*, *};

/// What multistream-select writes each way for [`PROTOCOL`]: stream bytes like any other.
pub(crate) const INNER: &[u8] = b"\x13/multistream/1.0.0\n\x0c/test/1.0.0\n";

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

struct Bystander {
    near: Box<dyn Io>,
    ours: Stream,
    /// How far both directions are.
    at: u64,
}

pub(crate) struct Siege {
    pub(crate) scene: Scene,
    /// Of the raw peer on either connection, and of an honest one.
    bystanders: Vec<Bystander>,
    _honest: Node,
}

/// The raw peer's bystanders, on the wire; one of them has the wrong parity.
pub(crate) const BYSTANDERS: [u64; 2] = [1 << 40, (1 << 40) + 1];

impl Siege {
    pub(crate) async fn new() -> Self {
        Self::with(Config::default(), Kind::Tcp, Kind::Quic).await
    }

    pub(crate) async fn with(config: Config, old: Kind, new: Kind) -> Self {
        let mut scene = Scene::with(config, old, new).await;
        let mut bystanders = Vec::new();
        for (connection, id) in [scene.old.here, scene.new.here].into_iter().zip(BYSTANDERS) {
            let (near, ours) = scene.labelled_on(connection, id).await;
            let near = Box::new(near);
            bystanders.push(Bystander { near, ours, at: 0 });
        }
        let mut honest = Node::new();
        let address = scene.net.listener.listen("/ip4/127.0.0.1/tcp/0").await;
        let connection = honest.dial(&scene.net.listener, address).await.here;
        let peer = scene.net.listener.id;
        let (near, ours) = open(&mut honest, peer, &mut scene.incoming, connection).await;
        let near = Box::new(near);
        bystanders.push(Bystander { near, ours, at: 0 });
        let mut siege = Self {
            scene,
            bystanders,
            _honest: honest,
        };
        siege.unharmed().await;
        siege
    }

    /// A migration with counts is agreed, whoever asked.
    pub(crate) async fn verified(&mut self, ours: &Stream, ours_asks: bool) -> Stream {
        if !ours_asks {
            let id = ours.id().unwrap().0;
            return self.scene.agreed(id + 2, id, true).await;
        }
        let (_, mut new) = self.scene.asked(ours).await;
        say(&mut new, ACCEPT_VERIFY).await;
        new
    }

    /// On which connection the next probe of ours comes in.
    pub(crate) async fn probe(&mut self) -> ConnectionKey {
        let incoming = self.scene.raw_incoming.next();
        let (_, probe) = within("a probe", incoming).await.unwrap();
        probe.connection().unwrap()
    }

    pub(crate) async fn violations(&self, what: Violation, number: usize) {
        let raw = self.scene.raw_id();
        let is = |event: &Event| {
            matches!(event, Event::Violation { peer, what: seen, .. }
                if *peer == raw && *seen == what)
        };
        let listener = &self.scene.net.listener;
        listener.count("violations", number, is).await;
        let seen = listener.events();
        assert_eq!(seen.iter().filter(|event| is(event)).count(), number);
    }

    pub(crate) async fn refused(&self, what: Limit, number: usize) {
        let raw = self.scene.raw_id();
        let is = |event: &Event| match event {
            Event::Refused { peer, limit, .. } => *peer == raw && *limit == what,
            _ => false,
        };
        let listener = &self.scene.net.listener;
        listener.count("refusals", number, is).await;
        let seen = listener.events();
        assert_eq!(seen.iter().filter(|event| is(event)).count(), number);
    }

    /// Nothing was reported so far as broken or refused.
    pub(crate) fn nothing_reported(&self) {
        let mut events = self.scene.net.listener.events().into_iter();
        let bad = |event: &Event| matches!(event, Event::Violation { .. } | Event::Refused { .. });
        assert!(!events.any(|event| bad(&event)));
    }

    pub(crate) async fn ended(&self, stream: StreamKey) -> Result<(), Abort> {
        let listener = &self.scene.net.listener;
        listener
            .event("the stream's end", |event| match event {
                Event::StreamEnded { key, result, .. } if *key == stream => Some(*result),
                _ => None,
            })
            .await
    }

    pub(crate) async fn completed(&self, stream: StreamKey, number: usize) {
        let listener = &self.scene.net.listener;
        let is = |event: &Event| match event {
            Event::MigrationCompleted { key, .. } => *key == stream,
            _ => false,
        };
        listener.count("completions", number, is).await;
    }

    /// The streams that are not attacked carry bytes both ways.
    pub(crate) async fn unharmed(&mut self) {
        self.unharmed_but(&[]).await;
    }

    /// The same, after these connections of the raw peer have been closed.
    pub(crate) async fn unharmed_but(&mut self, closed: &[Pair]) {
        for bystander in &mut self.bystanders {
            let Bystander { near, ours, at } = bystander;
            let connection = ours.connection();
            if closed.iter().any(|pair| Some(pair.there) == connection) {
                continue;
            }
            let to = *at + 1000;
            let (mut theirs, mut here) = (near.split(), ours.split());
            within("a bystander", async {
                join!(
                    write(&mut theirs.1, 1, *at, to),
                    write(&mut here.1, 2, *at, to),
                    read(&mut here.0, 1, *at, to),
                    read(&mut theirs.0, 2, *at, to),
                )
            })
            .await;
            *at = to;
        }
    }
}

/// A stream that is still what it was.
pub(crate) async fn still_works(
    raw: &mut (impl AsyncRead + AsyncWrite + Unpin),
    ours: &mut Stream,
) {
    say(raw, b"from raw").await;
    hear(ours, b"from raw").await;
    say(ours, b"from ours").await;
    hear(raw, b"from ours").await;
}

/// Nothing is waited for longer than this.
pub(crate) fn patience(time: Duration) -> Config {
    Config::default()
        .with_answer_timeout(time)
        .with_progress_timeout(time)
        .with_negotiation_timeout(time)
}
