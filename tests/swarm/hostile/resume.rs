//! Requests that a stream go on, by a peer that may not ask, or not so.

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p_stream_migration::{Abort, Config, Event, Limit, Stream, Violation};

use super::{
    facts::{CONTROL, EPOCH, done, facts, gone, received, spoken_label, total},
    *,
};

const INNER_READ: u64 = INNER.len() as u64;

/// Who asks what.
#[derive(Clone)]
struct Ask {
    id: u64,
    epoch: [u8; 8],
    remote: Option<[u8; 8]>,
    generation: u64,
    origin: u64,
    facts: Vec<Vec<u8>>,
}

impl Ask {
    /// That this stream, of which nothing has been read, go on.
    fn new(origin: u64, generation: u64) -> Self {
        Self {
            id: 1000 + 2 * (100 * origin + generation),
            epoch: EPOCH,
            remote: None,
            generation,
            origin,
            facts: vec![received(INNER_READ)],
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let facts = [field(0x08, self.origin), self.facts.concat()].concat();
        let remote = self.remote.map(|remote| [&[0x11][..], &remote].concat());
        let resume = [
            [&[0x09][..], &self.epoch].concat(),
            remote.unwrap_or_default(),
            field(0x18, self.generation),
            inside(0x22, &facts),
        ];
        migrate(self.id, &resume.concat())
    }
}

fn migrate(id: u64, resume: &[u8]) -> Vec<u8> {
    let resume = [&[0xca, 0x3e][..], &frame(resume)].concat();
    let body = [field(0x08, id), field(0x10, 0), resume].concat();
    frame(&inside(0x12, &body))
}

/// The answer that it goes on, with what has been read here.
fn goes_on(origin: u64, read: u64) -> Vec<u8> {
    let facts = [field(0x08, origin), received(read)].concat();
    frame(&inside(0x1a, &[&[0xca, 0x3e][..], &frame(&facts)].concat()))
}

/// The answer that nothing is held of it.
fn is_gone(origin: u64) -> Vec<u8> {
    let facts = [field(0x08, origin), gone()].concat();
    let body = [field(0x08, 1), vec![0xca, 0x3e], frame(&facts)].concat();
    frame(&inside(0x1a, &body))
}

/// The raw peer resumes, and has said so.
async fn siege() -> (Siege, Stream) {
    let config = Config::default()
        .with_resume(true)
        .with_max_migration_rate(1000);
    let mut siege = Siege::with(config, Kind::Tcp, Kind::Quic).await;
    let (peer, on) = (siege.scene.net.listener.id, siege.scene.old.here);
    let opened = siege
        .scene
        .net
        .dialer
        .control
        .open_stream_on(peer, on, CONTROL);
    let mut control = within("a control substream", opened).await.unwrap();
    let body = [&[0x09][..], &EPOCH, &field(0x10, 1), &field(0x20, 1)].concat();
    say(&mut control, &frame(&inside(0x0a, &body))).await;
    (siege, control)
}

/// An ID that is the raw peer's to give.
fn id(siege: &Siege, number: u64) -> u64 {
    let odd = siege.scene.raw_id() > siege.scene.net.listener.id;
    2 * number + u64::from(odd)
}

/// A stream of the raw peer's on the old connection, whose opener resumes.
async fn stream(siege: &mut Siege, id: u64) -> (impl Io + use<>, Stream) {
    let on = siege.scene.old.here;
    let leg = siege.scene.first(on, &spoken_label(id)).await;
    let (raw, ours) = siege.scene.inner(leg).await;
    within("the hello", async {
        while !ours.is_resumable() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    (raw, ours)
}

async fn ask(siege: &mut Siege, ask: &Ask) -> Stream {
    let on = siege.scene.new.here;
    siege.scene.first(on, &ask.bytes()).await
}

/// Streams that there are not, of another process, for another, or ours: nothing is held of them, and that is said.
#[tokio::test]
async fn what_is_not_theirs() {
    let (mut siege, _control) = siege().await;
    let first = id(&siege, 0);
    let (mut raw, mut ours) = stream(&mut siege, first).await;
    let one = Ask::new(first, 1);
    let asks = [
        Ask::new(first + 50, 1),
        // What we open ourselves has the other parity.
        Ask::new(first + 51, 1),
        Ask {
            facts: vec![],
            ..Ask::new(first + 52, 1)
        },
        Ask {
            epoch: [8; 8],
            ..one.clone()
        },
        Ask {
            remote: Some([9; 8]),
            ..one.clone()
        },
    ];
    for it in asks {
        let mut leg = ask(&mut siege, &it).await;
        hear(&mut leg, &is_gone(it.origin)).await;
        is_dropped(&mut leg).await;
    }
    still_works(&mut raw, &mut ours).await;
    siege.nothing_reported();
    siege.unharmed().await;
}

/// The stream goes on where it is asked to, and from the byte on that is asked for; an attempt that is not newer than
/// the last is dropped, whatever it says.
#[tokio::test]
async fn attempts_that_are_older() {
    let (mut siege, _control) = siege().await;
    let first = id(&siege, 0);
    let (raw, mut ours) = stream(&mut siege, first).await;
    say(&mut ours, b"said before").await;
    let mut leg = ask(&mut siege, &Ask::new(first, 5)).await;
    hear(&mut leg, &goes_on(first, INNER_READ)).await;
    hear(&mut leg, b"said before").await;
    drop(raw);
    for generation in [0, 4, 5] {
        let late = Ask {
            id: 2 * (20 + generation) + first,
            ..Ask::new(first, generation)
        };
        let mut late = ask(&mut siege, &late).await;
        is_dropped(&mut late).await;
    }
    still_works(&mut leg, &mut ours).await;
    let read = INNER_READ + b"from raw".len() as u64;
    let mut newer = Ask::new(first, 6);
    newer.facts = vec![received(INNER_READ + b"said beforefrom ours".len() as u64)];
    let mut next = ask(&mut siege, &newer).await;
    hear(&mut next, &goes_on(first, read)).await;
    is_dropped(&mut leg).await;
    still_works(&mut next, &mut ours).await;
    // None is newer than the last that there can be.
    let last = Ask {
        id: 2 * 77 + first,
        generation: u64::MAX,
        facts: vec![received(
            INNER_READ + b"said beforefrom oursfrom ours".len() as u64,
        )],
        ..Ask::new(first, 7)
    };
    let mut end = ask(&mut siege, &last).await;
    hear(&mut end, &goes_on(first, read + b"from raw".len() as u64)).await;
    still_works(&mut end, &mut ours).await;
    siege.scene.net.dialer.close(siege.scene.new.here);
    let word = within("the loss", async {
        while ours.connection().is_some() {
            tokio::task::yield_now().await;
        }
        ours.write_all(b"kept").await
    });
    word.await.unwrap();
    siege.nothing_reported();
    let closed = siege.scene.new;
    siege.unharmed_but(&[closed]).await;
}

/// What a peer cannot have read, or cannot know: that stream is over.
#[tokio::test]
async fn what_cannot_be_true() {
    let (mut siege, _control) = siege().await;
    let lies = [
        vec![received(1 << 40)],
        vec![done()],
        vec![received(INNER_READ), done()],
        vec![received(INNER_READ), total(INNER_READ - 1)],
    ];
    for (number, lie) in lies.into_iter().enumerate() {
        let of = id(&siege, number as u64);
        let (_raw, mut ours) = stream(&mut siege, of).await;
        let it = Ask {
            facts: lie,
            ..Ask::new(of, 1)
        };
        let mut leg = ask(&mut siege, &it).await;
        is_dropped(&mut leg).await;
        assert!(within("a reset", ours.read(&mut [0])).await.is_err());
        assert_eq!(siege.ended(ours.key()).await, Err(Abort::Violation));
        siege.violations(Violation::Message, number + 1).await;
    }
    siege.unharmed().await;
}

/// Requests that are none.
#[tokio::test]
async fn what_is_no_request() {
    let (mut siege, _control) = siege().await;
    let (mut raw, mut ours) = stream(&mut siege, 0).await;
    let epoch = [&[0x09][..], &EPOCH].concat();
    let facts = inside(0x22, &field(0x08, 0));
    let bodies = [
        // No process, no attempt, no facts; facts of no stream; what runs over its end.
        [field(0x18, 1), facts.clone()].concat(),
        [epoch.clone(), facts.clone()].concat(),
        [epoch.clone(), field(0x18, 1)].concat(),
        [epoch.clone(), field(0x18, 1), inside(0x22, &received(1))].concat(),
        [epoch, field(0x18, 1), vec![0x22, 100, 0x08, 0]].concat(),
    ];
    for (number, body) in bodies.into_iter().enumerate() {
        let on = siege.scene.new.here;
        let mut leg = siege.scene.first(on, &migrate(10, &body)).await;
        is_dropped(&mut leg).await;
        siege.violations(Violation::Message, number + 1).await;
    }
    still_works(&mut raw, &mut ours).await;
    siege.unharmed().await;
}

/// More requests than anybody would make, whose answers nobody reads, and words about streams that have lost nothing:
/// what is refused is counted, and nobody else notices.
#[tokio::test]
async fn floods() {
    let (mut siege, mut control) = siege().await;
    let first = id(&siege, 0);
    let (mut raw, mut ours) = stream(&mut siege, first).await;
    let mut legs = Vec::new();
    for number in 0..200 {
        legs.push(ask(&mut siege, &Ask::new(first + 500 + 2 * number, 1)).await);
        let lost = field(0x28, number);
        say(&mut control, &facts(first, &[received(0), lost])).await;
    }
    drop(legs);
    still_works(&mut raw, &mut ours).await;
    let listener = &siege.scene.net.listener;
    let bad = |event: &Event| match event {
        Event::Violation { .. } | Event::StreamSuspended { .. } => true,
        Event::Refused { limit, .. } => !matches!(
            limit,
            Limit::UnansweredPerPeer | Limit::UnansweredPerConnection
        ),
        _ => false,
    };
    let events = listener.events();
    assert!(
        !events.iter().any(bad),
        "{:?}",
        events.iter().find(|it| bad(it))
    );
    siege.unharmed().await;
}
