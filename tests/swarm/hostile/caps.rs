//! Every limit: what fits it works, what goes beyond it is refused, and nobody else is.

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p_stream_migration::{Config, Event, Limit, OpenStreamError, Violation};

use super::*;

async fn limited(config: Config) -> Siege {
    Siege::with(config, Kind::Tcp, Kind::Quic).await
}

/// Labels beyond [`Config::with_max_streams_per_peer`].
#[tokio::test]
async fn label_flood() {
    let config = Config::default().with_max_streams_per_peer(BYSTANDERS.len() + 2);
    let mut siege = limited(config).await;
    let (mut first, mut its) = siege.scene.labelled(0).await;
    let (_second, ended) = siege.scene.labelled(2).await;
    for number in 1..=20 {
        let connection = [siege.scene.old.here, siege.scene.new.here][number % 2];
        let id = 2 + 2 * number as u64;
        let mut leg = siege.scene.first(connection, &label(id)).await;
        is_dropped(&mut leg).await;
        siege.refused(Limit::StreamsPerPeer, number).await;
    }
    // The limit is ours as well.
    let (peer, there) = (siege.scene.raw_id(), siege.scene.old.there);
    let control = &mut siege.scene.net.listener.control;
    let opened = within("it", control.open_stream_on(peer, there, PROTOCOL)).await;
    assert!(matches!(opened, Err(OpenStreamError::TooManyStreams(_))));
    still_works(&mut first, &mut its).await;
    siege.unharmed().await;
    // There is room again.
    let key = ended.key();
    drop(ended);
    siege.ended(key).await.unwrap_err();
    let (mut next, mut its) = siege.scene.labelled(2).await;
    still_works(&mut next, &mut its).await;
}

/// `Migrate`s without labels beyond [`Config::with_max_unanswered_per_peer`], on both connections.
#[tokio::test]
async fn migrate_flood() {
    let config = Config::default().with_max_unanswered_per_peer(2);
    let mut siege = limited(config).await;
    let connections = [siege.scene.old.here, siege.scene.new.here];
    flood(&mut siege, &connections, 2, Limit::UnansweredPerPeer).await;
}

/// The same on one connection, beyond [`Config::with_max_unanswered_per_connection`]; the other has
/// its own places.
#[tokio::test]
async fn migrate_flood_on_one_connection() {
    let config = Config::default().with_max_unanswered_per_connection(2);
    let mut siege = limited(config).await;
    let new = siege.scene.new.here;
    let message = migrate(3000, 2000);
    let mut elsewhere = siege.scene.first(siege.scene.old.here, &message).await;
    flood(&mut siege, &[new], 2, Limit::UnansweredPerConnection).await;
    let (_old, _ours) = siege.scene.labelled(2000).await;
    hear(&mut elsewhere, ACCEPT).await;
}

async fn flood(siege: &mut Siege, connections: &[ConnectionKey], places: usize, limit: Limit) {
    const FLOOD: usize = 12;
    let mut legs = Vec::new();
    for number in 0..FLOOD {
        let message = migrate(1000 + 2 * number as u64, 2 * number as u64);
        let connection = connections[number % connections.len()];
        legs.push(siege.scene.first(connection, &message).await);
    }
    siege.refused(limit, FLOOD - places).await;
    siege.unharmed().await;
    // Those that fit are as good as any.
    let mut accepted = 0;
    for (number, new) in legs.iter_mut().enumerate() {
        let (mut old, mut ours) = siege.scene.labelled(2 * number as u64).await;
        let mut ack = [0; 3];
        if within("an answer", new.read_exact(&mut ack)).await.is_err() {
            still_works(&mut old, &mut ours).await;
            continue;
        }
        assert_eq!(ack, ACCEPT);
        accepted += 1;
        old.close().await.unwrap();
        say(new, b"moved").await;
        hear(&mut ours, b"moved").await;
    }
    assert_eq!(accepted, places);
    siege.unharmed().await;
}

/// `Migrate`s that wait for another migration of their stream to end have places among the others, and
/// give them back.
#[tokio::test]
async fn held_behind_a_migration() {
    const STREAMS: usize = 4;
    let config = Config::default().with_max_unanswered_per_peer(STREAMS - 1);
    let mut siege = limited(config).await;
    let (mut streams, mut held) = (Vec::new(), Vec::new());
    for number in 0..STREAMS as u64 {
        let (old, ours) = siege.scene.labelled(4 * number).await;
        let new = siege
            .scene
            .agreed(1000 + 4 * number, 4 * number, false)
            .await;
        streams.push((old, new, ours));
    }
    // All are migrating: the second `Migrate` of each is held.
    for number in 0..STREAMS as u64 {
        let message = migrate(1002 + 4 * number, 1000 + 4 * number);
        held.push(siege.scene.first(siege.scene.new.here, &message).await);
        if number + 1 == STREAMS as u64 {
            siege.refused(Limit::UnansweredPerPeer, 1).await;
        }
    }
    let mut answered = 0;
    for ((mut old, mut new, ours), mut leg) in streams.into_iter().zip(held) {
        old.close().await.unwrap();
        say(&mut new, b"").await;
        siege.completed(ours.key(), 1).await;
        let mut ack = [0; 3];
        if within("an answer", leg.read_exact(&mut ack)).await.is_ok() {
            assert_eq!(ack, ACCEPT);
            answered += 1;
        }
    }
    assert_eq!(answered, STREAMS - 1);
    // There is room again.
    let (_old, _ours) = siege.scene.labelled(2000).await;
    siege.scene.agreed(3000, 2000, false).await;
    siege.refused(Limit::UnansweredPerPeer, 1).await;
    siege.unharmed().await;
}

/// Substreams without a first message beyond [`Config::with_max_inbound_requests`].
#[tokio::test]
async fn silent_substreams() {
    let mut siege = limited(Config::default().with_max_inbound_requests(3)).await;
    let (here, elsewhere) = (siege.scene.old.here, siege.scene.new.here);
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(siege.scene.prefix(here).await);
    }
    for number in 1..=20 {
        let mut leg = siege.scene.prefix(here).await;
        is_dropped(&mut leg).await;
        siege.refused(Limit::InboundRequests, number).await;
    }
    // Another protocol on the same connection, and this one on another.
    let peer = siege.scene.net.listener.id;
    let control = &mut siege.scene.net.dialer.control;
    let mut plain = within("it", control.open_stream_on(peer, here, PROTOCOL))
        .await
        .unwrap();
    let incoming = &mut siege.scene.incoming;
    let mut ours = within("a plain stream", incoming.next()).await.unwrap().1;
    assert!(!ours.is_migratable());
    say(&mut plain, b"plain").await;
    hear(&mut ours, b"plain").await;
    let (mut raw, mut ours) = siege.scene.labelled_on(elsewhere, 0).await;
    still_works(&mut raw, &mut ours).await;
    siege.unharmed().await;
    // Those that fit have their turn, and make room.
    for (number, mut leg) in silent.into_iter().enumerate() {
        say(&mut leg, &label(2 + 4 * number as u64)).await;
        let (mut raw, mut ours) = siege.scene.inner(leg).await;
        still_works(&mut raw, &mut ours).await;
        let (mut raw, mut ours) = siege.scene.labelled(4 + 4 * number as u64).await;
        still_works(&mut raw, &mut ours).await;
    }
    siege.refused(Limit::InboundRequests, 20).await;
}

/// Streams that nobody accepts beyond [`Config::with_accept_backlog`].
#[tokio::test]
async fn accept_backlog() {
    const BACKLOG: usize = 2;
    const FLOOD: usize = 8;
    let mut siege = limited(Config::default().with_accept_backlog(BACKLOG)).await;
    let mut legs = Vec::new();
    for number in 0..FLOOD as u64 {
        let message = [&label(2 * number), INNER].concat();
        let mut leg = siege.scene.first(siege.scene.old.here, &message).await;
        hear(&mut leg, INNER).await;
        legs.push(leg);
    }
    siege.refused(Limit::AcceptBacklog, FLOOD - BACKLOG).await;
    for _ in 0..BACKLOG {
        let incoming = &mut siege.scene.incoming;
        let mut ours = within("it", incoming.next()).await.unwrap().1;
        let leg = &mut legs[ours.id().unwrap().0 as usize / 2];
        say(leg, b"accepted").await;
        hear(&mut ours, b"accepted").await;
        say(&mut ours, b"accepted").await;
        hear(leg, b"accepted").await;
    }
    let raw = siege.scene.raw_id();
    let dropped = |event: &Event| match event {
        Event::StreamEnded { peer, result, .. } => *peer == raw && result.is_err(),
        _ => false,
    };
    let listener = &siege.scene.net.listener;
    // The refused, and those that were accepted and dropped above.
    listener.count("the others' ends", FLOOD, dropped).await;
    let (mut raw, mut ours) = siege.scene.labelled(100).await;
    still_works(&mut raw, &mut ours).await;
    siege.unharmed().await;
}

/// `Migrate`s of one stream beyond [`Config::with_max_migration_rate`]. The limit itself is tested
/// beside it, where time stands still.
#[tokio::test]
async fn migration_rate() {
    let mut siege = limited(Config::default().with_max_migration_rate(2)).await;
    let (mut first, mut ours) = siege.scene.labelled(0).await;
    let mut second = siege.scene.agreed(2, 0, false).await;
    first.close().await.unwrap();
    siege.completed(ours.key(), 1).await;
    let mut old = siege.scene.agreed(4, 2, false).await;
    second.close().await.unwrap();
    siege.completed(ours.key(), 2).await;
    // As many in a second as there will be in a few.
    let mut legs = Vec::new();
    for _ in 0..16 {
        legs.push(siege.scene.prefix(siege.scene.old.here).await);
    }
    for (number, leg) in legs.iter_mut().enumerate() {
        say(leg, &migrate(100 + 2 * number as u64, 4)).await;
    }
    let raw = siege.scene.raw_id();
    let refused = |event: &Event| match event {
        Event::Refused { peer, limit, .. } => *peer == raw && *limit == Limit::MigrationRate,
        _ => false,
    };
    let listener = &siege.scene.net.listener;
    listener.count("a refusal", 1, refused).await;
    still_works(&mut old, &mut ours).await;
    // Each stream has its own.
    let (_old, other) = siege.scene.labelled(2).await;
    siege.scene.agreed(50, 2, false).await;
    drop(other);
    siege.unharmed().await;
}

/// A message of 256 bytes is one; of 257, none.
#[tokio::test]
async fn message_size() {
    let mut siege = Siege::new().await;
    // Field 15 fills it up.
    let sized = |size: usize| {
        let label = inside(0x0a, &field(8, 0));
        let mut body = [&label, &[0x7a, 0, 0][..]].concat();
        let filler = size - body.len();
        let at = label.len() + 1;
        body[at..].copy_from_slice(&[0x80 | (filler % 128) as u8, (filler / 128) as u8]);
        body.resize(size, 0);
        assert_eq!(body.len(), size);
        frame(&body)
    };
    let mut leg = siege.scene.first(siege.scene.old.here, &sized(257)).await;
    is_dropped(&mut leg).await;
    siege.violations(Violation::Message, 1).await;
    let leg = siege.scene.first(siege.scene.old.here, &sized(256)).await;
    let (mut raw, mut ours) = siege.scene.inner(leg).await;
    still_works(&mut raw, &mut ours).await;
    siege.violations(Violation::Message, 1).await;
    siege.unharmed().await;
}

/// A remote that fills the old leg of a migration, of whose bytes the application reads none: the
/// migration waits, at [`Config::with_read_ahead_per_stream`].
#[tokio::test]
async fn read_ahead() {
    const BYTES: u64 = 200_000;
    let mut siege = limited(Config::default().with_read_ahead_per_stream(1024)).await;
    let (mut old, mut ours) = siege.scene.labelled(0).await;
    let mut new = siege.scene.agreed(2, 0, false).await;
    let inner = INNER.len() as u64;
    write(&mut old, 3, 0, BYTES).await;
    old.close().await.unwrap();
    say(&mut new, b"moved").await;
    // It reads as far as it may.
    siege.unharmed().await;
    assert!(ours.bytes_in() <= inner + 1024, "{}", ours.bytes_in());
    read(&mut ours, 3, 0, BYTES).await;
    hear(&mut ours, b"moved").await;
    siege.completed(ours.key(), 1).await;
    siege.nothing_reported();
    siege.unharmed().await;
}

/// The same for all streams of a peer together: [`Config::with_read_ahead_per_peer`].
#[tokio::test]
async fn read_ahead_of_a_peer() {
    const BYTES: u64 = 50_000;
    const CAP: u64 = 3_000;
    let mut siege = limited(Config::default().with_read_ahead_per_peer(CAP as usize)).await;
    let mut streams = Vec::new();
    for number in 0..3 {
        let (mut old, ours) = siege.scene.labelled(4 * number).await;
        let new = siege.scene.agreed(4 * number + 2, 4 * number, false).await;
        write(&mut old, number, 0, BYTES).await;
        old.close().await.unwrap();
        streams.push((new, ours));
    }
    siege.unharmed().await;
    let inner = INNER.len() as u64;
    let ahead: u64 = streams
        .iter()
        .map(|(_, ours)| ours.bytes_in() - inner)
        .sum();
    assert!(ahead <= CAP, "{ahead}");
    for (number, (mut new, mut ours)) in streams.into_iter().enumerate() {
        say(&mut new, b"moved").await;
        read(&mut ours, number as u64, 0, BYTES).await;
        hear(&mut ours, b"moved").await;
        siege.completed(ours.key(), 1).await;
    }
    siege.nothing_reported();
    siege.unharmed().await;
}
