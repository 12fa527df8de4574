//! Peers written by others, byte by byte.

use std::{io::ErrorKind, time::Duration};

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p_stream_migration::{Config, Event, PROTOCOL_NAME, Stream};
use multistream_select::Negotiated;
use testing::{raw::*, *};

/// A peer's protobuf library sends a group among the fields that we do not know, as proto2 allows: it is
/// skipped, wherever it is. One that does not end is a violation, which harms that substream alone.
/// F1
#[tokio::test]
async fn a_group_is_skipped() {
    const OFFER: &[u8] = b"\x13/multistream/1.0.0\n\x0c/test/1.0.0\n";
    let mut net = Net::with(raw_node(), Node::new());
    let _incoming = net.listener.control.accept(PROTOCOL).unwrap();
    net.connect(Kind::Tcp).await;
    let peer = net.listener.id;
    let deep = [&[4 + 240][..], &[0x0a, 2, 8, 2], &[0x4b; 120], &[0x4c; 120]].concat();
    let deep = [&[0xf4, 1], &deep[1..]].concat();
    let mut legs = Vec::new();
    for label in [
        &[8, 0x4b, 8, 1, 0x4c, 0x0a, 2, 8, 0][..],
        &[8, 0x0a, 6, 0x4b, 8, 7, 0x4c, 8, 1],
        &deep,
    ] {
        let opened = net.dialer.control.open_stream(peer, PROTOCOL_NAME);
        let mut leg = within("the prefix", opened).await.unwrap();
        say(&mut leg, &[label, OFFER].concat()).await;
        let mut answer = vec![0; OFFER.len()];
        within("the answer", leg.read_exact(&mut answer))
            .await
            .unwrap();
        assert_eq!(answer, OFFER);
        legs.push(leg);
    }
    let opened = net.dialer.control.open_stream(peer, PROTOCOL_NAME);
    let mut leg = within("the prefix", opened).await.unwrap();
    leg.write_all(&[7, 0x0a, 2, 8, 9, 0x4b, 8, 1])
        .await
        .unwrap();
    leg.flush().await.unwrap();
    let violation = |event: &Event| matches!(event, Event::Violation { .. }).then_some(());
    net.listener.event("the violation", violation).await;
    assert_eq!(net.listener.control.streams(net.dialer.id).await.len(), 3);
}

/// Another implementation moves a stream twice in a row, over two connections, and the second message comes
/// first. It is not of an unknown stream for long: when the first has come, both are answered.
///
/// F2
#[tokio::test]
async fn a_migration_overtakes_the_one_before_it() {
    let config = Config::default().with_answer_timeout(Duration::from_secs(24 * 3600));
    let mut scene = Scene::with(config, Kind::Tcp, Kind::Quic).await;
    let third = scene.net.connect(Kind::Tcp).await;
    let (mut old, mut ours) = scene.labelled(0).await;
    let mut next = scene.first(third.here, &migrate(4, 2)).await;
    // Proof that it has been read: what comes after it on the same connection has been answered.
    let (_probe, _other) = scene.labelled_on(third.here, 6).await;

    let mut new = scene.agreed(2, 0, false).await;
    old.write_all(b"one").await.unwrap();
    old.close().await.unwrap();
    hear(&mut next, ACCEPT).await;
    new.write_all(b"two").await.unwrap();
    new.close().await.unwrap();
    say(&mut next, b"six").await;
    hear(&mut ours, b"onetwosix").await;
}

/// A remote without our extension moves a stream, and the new leg is reset while the old one is still open and
/// silent. The reader hears of it at once, and not when the old leg ends, which may be never.
///
/// F3
#[tokio::test]
async fn a_new_leg_is_reset_before_it_is_read() {
    for (old, new) in [(Kind::Quic, Kind::Tcp), (Kind::Tcp, Kind::Relayed)] {
        let mut scene = Scene::with(Config::default(), old, new).await;
        let (mut old, mut ours) = scene.labelled(0).await;
        drop(scene.agreed(2, 0, false).await);
        let error = within("the reset", ours.read(&mut [0])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        // Both legs go.
        let mut rest = Vec::new();
        let read = within("the old leg", old.read_to_end(&mut rest)).await;
        assert!(read.is_err() || rest.is_empty(), "{read:?}, {rest:?}");
    }
}

/// The same remote has said its last word on the new leg, with data or without, and has closed it, before it
/// has ended the old one. That is no reset, and not a byte is missing.
///
/// F3
#[tokio::test]
async fn a_new_leg_is_closed_before_it_is_read() {
    for (old, new) in [(Kind::Quic, Kind::Tcp), (Kind::Tcp, Kind::Quic)] {
        for last in [&b""[..], b"last"] {
            let mut scene = Scene::with(Config::default(), old, new).await;
            let (mut old, mut ours) = scene.labelled(0).await;
            let mut new = scene.agreed(2, 0, false).await;
            new.write_all(last).await.unwrap();
            new.close().await.unwrap();
            // Proof that it has come: what comes after it on the same connection has been answered.
            let (_probe, _other) = scene.labelled_on(scene.new.here, 4).await;
            old.write_all(b"first").await.unwrap();
            let mut first = [0; 5];
            within("first", ours.read_exact(&mut first)).await.unwrap();
            ours.write_all(b"ours").await.unwrap();
            ours.close().await.unwrap();
            let mut answer = Vec::new();
            old.close().await.unwrap();
            let mut rest = Vec::new();
            within("the rest", ours.read_to_end(&mut rest))
                .await
                .unwrap();
            assert_eq!((&first, &rest[..]), (b"first", last));
            within("the answer", old.read_to_end(&mut answer))
                .await
                .unwrap();
            within("the end", new.read_to_end(&mut answer))
                .await
                .unwrap();
            assert_eq!(answer, b"ours");
        }
    }
}

/// A peer gives up moves that we hold, for a label that does not come or behind another move: each of them
/// makes room for the next, though the answer timeout is far off.
///
/// F4
#[tokio::test]
async fn a_held_migration_that_is_given_up_holds_no_place() {
    let config = Config::default()
        .with_answer_timeout(Duration::from_secs(24 * 3600))
        .with_max_unanswered_per_peer(1);
    let mut scene = Scene::with(config, Kind::Quic, Kind::Tcp).await;
    let (mut old, mut ours) = scene.labelled(0).await;
    let mut probes = Vec::new();
    for word in [&b""[..], CANCELLED, b"", CANCELLED] {
        let mut unknown = held(&mut scene, 1000, &mut probes).await;
        say(&mut unknown, word).await;
        if !word.is_empty() {
            is_dropped(&mut unknown).await;
        }
    }
    // This one has an answer, and what comes next is held behind it.
    let mut new = held(&mut scene, 0, &mut probes).await;
    let mut ack = [0; 3];
    within("the ack", new.read_exact(&mut ack)).await.unwrap();
    let from = MIGRATED + 2 * (probes.len() as u64 - 1);
    for _ in 0..3 {
        drop(held(&mut scene, from, &mut probes).await);
    }
    old.write_all(b"one").await.unwrap();
    old.close().await.unwrap();
    new.write_all(b"two").await.unwrap();
    new.close().await.unwrap();
    let mut all = Vec::new();
    within("all", ours.read_to_end(&mut all)).await.unwrap();
    assert_eq!(all, b"onetwo");
    let violation = |event: &Event| matches!(event, Event::Violation { .. });
    assert!(!scene.net.listener.events().iter().any(violation));
}

/// A `Switched` that takes a `Migrate` back.
const CANCELLED: &[u8] = &[2, 16, 1];

/// The first ID that is moved to.
const MIGRATED: u64 = 10_000;

/// A `Migrate` from this ID that ours has kept: it is asked until there is a place for it.
async fn held(
    scene: &mut Scene,
    from: u64,
    probes: &mut Vec<(Negotiated<Stream>, Stream)>,
) -> Stream {
    let refused = |event: &&Event| matches!(event, Event::Refused { .. });
    within("a place", async {
        loop {
            let before = scene.net.listener.events().iter().filter(refused).count();
            let number = 2 * probes.len() as u64;
            let leg = scene
                .first(scene.new.here, &migrate(MIGRATED + number, from))
                .await;
            // Proof that it has been read: what comes after it on the same connection has been answered.
            probes.push(scene.labelled_on(scene.new.here, 2 + number).await);
            if scene.net.listener.events().iter().filter(refused).count() == before {
                return leg;
            }
        }
    })
    .await
}
