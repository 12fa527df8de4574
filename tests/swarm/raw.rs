//! A remote that speaks the protocol by hand: what must happen in an order that two honest peers show
//! only by chance.

use futures::{AsyncReadExt, AsyncWriteExt, join};
use libp2p_stream_migration::{Config, Event, Failure, MigrateError, Violation};
use testing::{raw::*, *};

/// `Migrate` on the fast connection arrives before `Label` on the slow one.
#[tokio::test]
async fn migrate_before_label() {
    let mut scene = Scene::new().await;
    let mut old = scene.prefix(scene.old.here).await;
    let mut new = scene.first(scene.new.here, &migrate(2, 0)).await;
    // Proof that it has been read: what comes after it on the same connection has been answered.
    let (_probe, _ours) = scene.labelled_on(scene.new.here, 4).await;

    old.write_all(&label(0)).await.unwrap();
    let (mut old, mut ours) = scene.inner(old).await;
    hear(&mut new, ACCEPT).await;
    old.write_all(b"old").await.unwrap();
    old.close().await.unwrap();
    say(&mut new, b"new").await;
    hear(&mut ours, b"oldnew").await;
    assert_eq!(old.read(&mut [0]).await.unwrap(), 0);
}

/// It never comes: the `Migrate` is dropped unanswered.
#[tokio::test]
async fn migrate_without_label() {
    let mut scene = Scene::new().await;
    let mut new = scene.first(scene.new.here, &migrate(2, 0)).await;
    let mut buf = [0];
    let read = within("the drop", new.read(&mut buf)).await;
    assert!(matches!(read, Ok(0) | Err(_)));
}

/// A remote that does not verify moves its stream: the ack carries nothing extra, nothing but the
/// application's bytes is on the new leg, and they are not read before the old leg's end.
#[tokio::test]
async fn new_legs_data_before_old_legs_eof() {
    for (old, new) in [
        (Kind::Tcp, Kind::Quic),
        (Kind::Quic, Kind::Tcp),
        (Kind::Relayed, Kind::Quic),
    ] {
        let mut scene = Scene::with(Config::default(), old, new).await;
        let (mut old, mut ours) = scene.labelled(0).await;
        let mut new = scene.agreed(2, 0, false).await;
        say(&mut new, b"second").await;
        // Ours writes to the old leg until it has read our end there.
        say(&mut ours, b"before").await;
        hear(&mut old, b"before").await;
        old.write_all(b"first ").await.unwrap();
        old.close().await.unwrap();
        hear(&mut ours, b"first second").await;
        ours.write_all(b"after").await.unwrap();
        ours.close().await.unwrap();
        assert_eq!(within("the end", old.read(&mut [0])).await.unwrap(), 0);
        let mut rest = Vec::new();
        within("the rest", new.read_to_end(&mut rest))
            .await
            .unwrap();
        assert_eq!(rest, b"after");
    }
}

/// The old leg's EOF arrives before the ack, in both forms that an ack may have: it is held, and is the
/// switch, not the application's end.
#[tokio::test]
async fn old_legs_eof_before_the_ack() {
    for ack in [ACCEPT, BARE_ACCEPT] {
        let mut scene = Scene::new().await;
        let (mut old, mut ours) = scene.labelled(0).await;
        let mut control = scene.net.listener.control.clone();
        let migration = control.migrate(ours.key(), scene.new.there);
        let remote = async {
            let (mut new, message) = scene.migrate_leg().await;
            // Field 2, `migrate`: our ID, from 0, and that we verify, which this remote ignores.
            assert_eq!(
                (message[0], &message[4..]),
                (0x12, &[16, 0, 0xc0, 0x3e, 1][..])
            );
            // A responder that had half-closed, and has then acknowledged: its EOF overtakes the ack.
            old.write_all(b"last").await.unwrap();
            old.close().await.unwrap();
            hear(&mut ours, b"last").await;
            let held = futures::poll!(ours.read(&mut [0]));
            assert!(held.is_pending(), "{held:?}");
            new.write_all(ack).await.unwrap();
            say(&mut new, b"next").await;
            hear(&mut ours, b"next").await;
            assert_eq!(within("its end", old.read(&mut [0])).await.unwrap(), 0);
            new
        };
        let (migrated, _new) = within("the migration", async { join!(migration, remote) }).await;
        assert_eq!(migrated, Ok(()));
    }
}

/// No answer at all: the attempt times out, the stream goes on, and may be moved later.
#[tokio::test]
async fn no_answer() {
    let mut scene = Scene::new().await;
    let (mut old, mut ours) = scene.labelled(0).await;
    let mut control = scene.net.listener.control.clone();
    let (migrated, silent) = within("the timeout", async {
        join!(
            control.migrate(ours.key(), scene.new.there),
            scene.migrate_leg()
        )
    })
    .await;
    assert_eq!(migrated, Err(MigrateError::Failed(Failure::TimedOut)));
    say(&mut ours, b"still").await;
    hear(&mut old, b"still").await;
    drop(silent);

    let again = control.migrate(ours.key(), scene.new.there);
    let remote = async {
        let (mut new, _) = scene.migrate_leg().await;
        say(&mut new, ACCEPT).await;
        assert_eq!(within("its end", old.read(&mut [0])).await.unwrap(), 0);
        old.close().await.unwrap();
        new
    };
    let (migrated, mut new) = within("the migration", async { join!(again, remote) }).await;
    assert_eq!(migrated, Ok(()));
    say(&mut new, b"moved").await;
    hear(&mut ours, b"moved").await;
}

/// A `Migrate` for a stream that has just ended cleanly is denied: a deny proves that nothing was
/// switched.
#[tokio::test]
async fn migrate_after_the_end_is_denied() {
    let mut scene = Scene::new().await;
    let (mut old, mut ours) = scene.labelled(0).await;
    old.close().await.unwrap();
    assert_eq!(ours.read(&mut [0]).await.unwrap(), 0);
    ours.close().await.unwrap();
    drop(ours);
    let mut new = scene.first(scene.new.here, &migrate(2, 0)).await;
    let mut rest = Vec::new();
    within("the deny", new.read_to_end(&mut rest))
        .await
        .unwrap();
    assert_eq!(rest, [4, 0x1a, 2, 8, 1]);
}

/// An ID in use aborts the new leg, is reported, and harms nothing.
#[tokio::test]
async fn ids_in_use() {
    let mut scene = Scene::new().await;
    let (mut old, mut ours) = scene.labelled(0).await;
    for message in [label(0), migrate(0, 0)] {
        let mut second = scene.first(scene.new.here, &message).await;
        is_dropped(&mut second).await;
    }
    let raw = scene.raw_id();
    let reported = |event: &Event| matches!(event, Event::Violation { peer, what: Violation::IdInUse, .. } if *peer == raw);
    scene
        .net
        .listener
        .count("two violations", 2, reported)
        .await;
    say(&mut old, b"unharmed").await;
    hear(&mut ours, b"unharmed").await;
}
