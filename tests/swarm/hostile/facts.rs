//! Words about streams, on a control substream, that are not true.

use futures::AsyncReadExt;
use libp2p::StreamProtocol;
use libp2p_stream_migration::{Abort, Config, Violation};

use super::*;

pub(super) const CONTROL: StreamProtocol =
    StreamProtocol::new("/libp2p/stream-migration/control/1.0.0");
pub(super) const EPOCH: [u8; 8] = [7; 8];

fn hello() -> Vec<u8> {
    let body = [&[0x09][..], &EPOCH, &field(0x20, 1)].concat();
    frame(&inside(0x0a, &body))
}

/// The word on a stream, made of fields.
pub(super) fn facts(origin: u64, fields: &[Vec<u8>]) -> Vec<u8> {
    let body = [field(0x08, origin), fields.concat()].concat();
    frame(&inside(0x12, &body))
}

pub(super) fn spoken_label(id: u64) -> Vec<u8> {
    let body = [&field(0x08, id)[..], &[0xc9, 0x3e], &EPOCH].concat();
    frame(&inside(0x0a, &body))
}

pub(super) fn received(n: u64) -> Vec<u8> {
    field(0x10, n)
}

pub(super) fn done() -> Vec<u8> {
    field(0x18, 1)
}

pub(super) fn total(n: u64) -> Vec<u8> {
    field(0x20, n)
}

pub(super) fn gone() -> Vec<u8> {
    field(0x30, 1)
}

/// The raw peer has said hello; its control substream.
async fn siege() -> (Siege, Stream) {
    let config = Config::default().with_facts(true);
    let mut siege = Siege::with(config, Kind::Tcp, Kind::Quic).await;
    let control = control(&mut siege).await;
    (siege, control)
}

async fn control(siege: &mut Siege) -> Stream {
    let (peer, on) = (siege.scene.net.listener.id, siege.scene.old.here);
    let raw = &mut siege.scene.net.dialer.control;
    let opened = raw.open_stream_on(peer, on, CONTROL);
    let mut control = within("a control substream", opened).await.unwrap();
    say(&mut control, &hello()).await;
    control
}

/// A stream of the raw peer's whose ends are for it to tell.
async fn spoken(siege: &mut Siege, id: u64) -> (impl Io + use<>, Stream) {
    let leg = siege
        .scene
        .first(siege.scene.old.here, &spoken_label(id))
        .await;
    siege.scene.inner(leg).await
}

/// What a peer cannot have read, or cannot know, or has said otherwise before: that stream is over.
#[tokio::test]
async fn what_cannot_be_true() {
    let (mut siege, mut control) = siege().await;
    let lies: &[&[Vec<u8>]] = &[
        &[received(1 << 40)],
        &[done()],
        &[received(INNER.len() as u64), done()],
        &[total(INNER.len() as u64 - 1)],
        &[total(1 << 40), total(1 << 41)],
    ];
    for (number, lie) in lies.iter().enumerate() {
        let id = 2 * number as u64;
        let (_raw, mut ours) = spoken(&mut siege, id).await;
        match number {
            // Of two words one is a lie, whichever.
            4 => {
                say(&mut control, &facts(id, &lie[..1])).await;
                say(&mut control, &facts(id, &lie[1..])).await;
            }
            _ => say(&mut control, &facts(id, lie)).await,
        }
        assert!(within("a reset", ours.read(&mut [0])).await.is_err());
        assert_eq!(siege.ended(ours.key()).await, Err(Abort::Violation));
        siege.violations(Violation::Message, number + 1).await;
    }
    siege.unharmed().await;
}

/// Words about streams that there are not, have been, or are another's, in floods: nothing comes of them.
#[tokio::test]
async fn what_nobody_has_asked_for() {
    let (mut siege, mut control) = siege().await;
    let (mut raw, mut ours) = spoken(&mut siege, 0).await;
    for origin in 0..5000 {
        let word = match origin % 3 {
            0 => facts(1000 + origin, &[total(origin)]),
            1 => facts(1000 + origin, &[gone()]),
            _ => facts(BYSTANDERS[origin as usize % 2], &[gone()]),
        };
        say(&mut control, &word).await;
    }
    // Those have been taken for what they are when this one is.
    still_works(&mut raw, &mut ours).await;
    let sent = INNER.len() as u64 + 8;
    say(&mut control, &facts(0, &[total(sent)])).await;
    assert_eq!(within("the end", ours.read(&mut [0])).await.unwrap(), 0);
    siege.nothing_reported();
    siege.unharmed().await;
}

/// What is no message, says hello twice, or not at all: that control substream is over, and another may take its
/// place. Whoever names another process is not believed.
#[tokio::test]
async fn what_is_no_word() {
    let (mut siege, mut first) = siege().await;
    let (_raw, mut ours) = spoken(&mut siege, 0).await;
    say(&mut first, &hello()).await;
    is_dropped(&mut first).await;
    siege.violations(Violation::Message, 1).await;
    for (number, garbage) in [&[0xff; 12][..], &frame(&[0x12, 1, 0x08])]
        .into_iter()
        .enumerate()
    {
        let mut next = control(&mut siege).await;
        say(&mut next, garbage).await;
        is_dropped(&mut next).await;
        siege.violations(Violation::Message, 2 + number).await;
    }
    let mut last = control(&mut siege).await;
    say(&mut last, &facts(0, &[gone()])).await;
    assert!(within("a reset", ours.read(&mut [0])).await.is_err());
    assert_eq!(siege.ended(ours.key()).await, Err(Abort::Gone));
    siege.unharmed().await;
}
