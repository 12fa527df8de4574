//! What is no message, what is hardly one, and what never becomes one.

use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p_stream_migration::{Abort, Config, Event, Stream, Violation};

use super::*;

/// What is no `Label` and no `Migrate` costs its own leg.
#[tokio::test]
async fn first_messages_that_are_none() {
    let oversized = [&[0x81, 2][..], &[0x7a; 257]].concat();
    let messages: &[&[u8]] = &[
        // Lengths: one too long, more than 16 bits, more than any integer, not minimal.
        &oversized,
        &[0x80, 0x80, 4, 0x0a],
        &[0xff; 12],
        &[0x84, 0, 0x0a, 2, 8, 0],
        // An ack before a `Migrate`, in all its forms, and a count.
        ACCEPT,
        ACCEPT_VERIFY,
        BARE_ACCEPT,
        &[4, 0x1a, 2, 8, 1],
        &[2, 8, 1],
        // Required fields are missing, or of another type.
        &[2, 0x0a, 0],
        &[4, 0x12, 2, 8, 1],
        &[4, 0x12, 2, 16, 1],
        &[5, 0x0a, 3, 0x0a, 1, 0],
        // Lengths within, of a known and of an unknown field, that go beyond the message.
        &[4, 0x0a, 0x7f, 8, 0],
        &[6, 0x0a, 2, 8, 0, 0x7a, 0x7f],
        // A number that does not end; wire types that do not exist.
        &[4, 0x0a, 2, 8, 0x80],
        &[1, 0x0f],
        &[3, 0x0b, 0x0c, 0],
    ];
    let mut siege = Siege::new().await;
    for (number, message) in messages.iter().enumerate() {
        let connection = [siege.scene.old.here, siege.scene.new.here][number % 2];
        let mut leg = siege.scene.first(connection, message).await;
        is_dropped(&mut leg).await;
        siege.violations(Violation::Message, number + 1).await;
    }
    siege.unharmed().await;
}

/// The end in the middle of a message is a lost leg, not a violation.
#[tokio::test]
async fn truncated_first_messages() {
    let mut siege = Siege::new().await;
    for whole in [
        label(1),
        migrate(3, 1),
        [&[0x80, 2], &[0; 255][..]].concat(),
    ] {
        for length in [0, 1, 2, whole.len() - 1] {
            let mut leg = siege
                .scene
                .first(siege.scene.old.here, &whole[..length])
                .await;
            leg.close().await.unwrap();
            is_dropped(&mut leg).await;
        }
    }
    siege.nothing_reported();
    siege.unharmed().await;
}

/// Every message, the negotiation and the data one byte at a time.
#[tokio::test]
async fn byte_by_byte() {
    async fn drip(io: &mut Stream, bytes: &[u8]) {
        for byte in bytes {
            say(io, &[*byte]).await;
        }
    }
    for verify in [false, true] {
        let mut siege = Siege::new().await;
        let mut old = siege.scene.prefix(siege.scene.old.here).await;
        drip(&mut old, &label(0)).await;
        drip(&mut old, INNER).await;
        hear(&mut old, INNER).await;
        let incoming = &mut siege.scene.incoming;
        let mut ours = within("the stream", incoming.next()).await.unwrap().1;
        drip(&mut old, b"first ").await;
        let mut new = siege.scene.prefix(siege.scene.new.here).await;
        let message = if verify { migrate_verify } else { migrate };
        drip(&mut new, &message(2, 0)).await;
        hear(&mut new, if verify { ACCEPT_VERIFY } else { ACCEPT }).await;
        if verify {
            drip(&mut new, &switched(INNER.len() as u64 + 6)).await;
        }
        drip(&mut new, b"second").await;
        drip(&mut old, b"last ").await;
        if verify {
            // More than was counted: the count is what ends the old leg.
            old.close().await.unwrap();
            let mut rest = Vec::new();
            assert!(within("it", ours.read_to_end(&mut rest)).await.is_err());
            assert_eq!(siege.ended(ours.key()).await, Err(Abort::Violation));
            siege.violations(Violation::Message, 1).await;
        } else {
            old.close().await.unwrap();
            hear(&mut ours, b"first last second").await;
            siege.completed(ours.key(), 1).await;
            siege.nothing_reported();
        }
        siege.unharmed().await;
    }
}

/// Fields that we do not know are skipped, in every message and of every type.
#[tokio::test]
async fn unknown_fields() {
    // Fields 15 (varint), 14 (8 bytes), 13 (bytes), 12 (4 bytes), 2000 (varint).
    let unknown = [
        &[0x78, 0xff, 1, 0x71, 1, 2, 3, 4, 5, 6, 7, 8][..],
        &[0x6a, 2, 8, 1, 0x65, 1, 2, 3, 4, 0x80, 0x7d, 5],
    ]
    .concat();
    let among = |tag, fields: &[Vec<u8>]| {
        let fields = fields.iter().flat_map(|f| [&unknown[..], f].concat());
        let body = [&unknown[..], &fields.collect::<Vec<u8>>()[..], &unknown].concat();
        frame(&[&unknown, &inside(tag, &body)[..], &unknown].concat())
    };
    let mut siege = Siege::new().await;
    let message = among(0x0a, &[field(8, 0)]);
    let leg = siege.scene.first(siege.scene.old.here, &message).await;
    let (mut old, mut ours) = siege.scene.inner(leg).await;
    let message = among(0x12, &[field(8, 2), field(16, 0), vec![0xc0, 0x3e, 1]]);
    let mut new = siege.scene.first(siege.scene.new.here, &message).await;
    hear(&mut new, ACCEPT_VERIFY).await;
    let sent = field(8, INNER.len() as u64);
    say(&mut new, &frame(&[&unknown[..], &sent, &unknown].concat())).await;
    old.close().await.unwrap();
    hear(&mut new, &switched(INNER.len() as u64)).await;
    say(&mut new, b"there").await;
    hear(&mut ours, b"there").await;

    // Both forms of the answer.
    for (id, bare) in [(4, false), (6, true)] {
        let (mut old, mut ours) = siege.scene.labelled(id).await;
        let (migration, mut new) = siege.scene.asked(&ours).await;
        let ack = if bare {
            frame(&unknown)
        } else {
            among(0x1a, &[])
        };
        say(&mut new, &ack).await;
        is_dropped(&mut old).await;
        old.close().await.unwrap();
        assert_eq!(within("it", migration).await.unwrap(), Ok(()));
        say(&mut new, b"there").await;
        hear(&mut ours, b"there").await;
    }
    siege.nothing_reported();
    siege.unharmed().await;
}

/// A label without its negotiation, and less than a label.
#[tokio::test]
async fn prefix_never_completed() {
    let config = Config::default().with_negotiation_timeout(Duration::from_millis(300));
    let mut siege = Siege::with(config, Kind::Tcp, Kind::Quic).await;
    let connection = siege.scene.old.here;
    let mut nothing = siege.scene.prefix(connection).await;
    let mut half = siege.scene.first(connection, &label(2)[..3]).await;
    let mut labelled = siege.scene.first(connection, &label(4)).await;
    let mut offering = siege
        .scene
        .first(connection, &[&label(6), &INNER[..25]].concat())
        .await;
    for leg in [&mut nothing, &mut half] {
        is_dropped(leg).await;
    }
    // Ours says which negotiation it speaks before it gives up.
    for leg in [&mut labelled, &mut offering] {
        let mut rest = Vec::new();
        let _ = within("the drop", leg.read_to_end(&mut rest)).await;
    }
    let raw = siege.scene.raw_id();
    let dropped = |event: &Event| {
        matches!(event, Event::StreamEnded { peer, result: Err(Abort::Dropped), .. }
            if *peer == raw)
    };
    let listener = &siege.scene.net.listener;
    listener.count("both aborted", 2, dropped).await;
    siege.nothing_reported();
    siege.unharmed().await;
}
