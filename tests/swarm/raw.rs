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
    let mut new = scene.prefix(scene.new.here).await;
    new.write_all(&migrate(2, 0)).await.unwrap();
    new.flush().await.unwrap();
    // Proof that it has been read: what comes after it on the same connection has been answered.
    let mut probe = scene.prefix(scene.new.here).await;
    probe.write_all(&label(4)).await.unwrap();
    let (_probe, _ours) = scene.inner(probe).await;

    old.write_all(&label(0)).await.unwrap();
    let (mut old, mut ours) = scene.inner(old).await;
    let mut ack = [0; 3];
    within("the ack", new.read_exact(&mut ack)).await.unwrap();
    assert_eq!(ack, ACCEPT);
    old.write_all(b"old").await.unwrap();
    old.close().await.unwrap();
    new.write_all(b"new").await.unwrap();
    new.flush().await.unwrap();
    let mut buf = [0; 6];
    within("both", ours.read_exact(&mut buf)).await.unwrap();
    assert_eq!(&buf, b"oldnew");
    assert_eq!(old.read(&mut buf).await.unwrap(), 0);
}

/// It never comes: the `Migrate` is dropped unanswered.
#[tokio::test]
async fn migrate_without_label() {
    let mut scene = Scene::new().await;
    let mut new = scene.prefix(scene.new.here).await;
    new.write_all(&migrate(2, 0)).await.unwrap();
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
        let mut new = scene.prefix(scene.new.here).await;
        new.write_all(&migrate(2, 0)).await.unwrap();
        let mut ack = [0; 3];
        within("the ack", new.read_exact(&mut ack)).await.unwrap();
        assert_eq!(ack, ACCEPT);
        new.write_all(b"second").await.unwrap();
        new.flush().await.unwrap();
        // Ours writes to the old leg until it has read our end there.
        ours.write_all(b"before").await.unwrap();
        ours.flush().await.unwrap();
        let mut buf = [0; 6];
        within("before", old.read_exact(&mut buf)).await.unwrap();
        assert_eq!(&buf, b"before");
        old.write_all(b"first ").await.unwrap();
        old.close().await.unwrap();
        let mut buf = [0; 12];
        within("both", ours.read_exact(&mut buf)).await.unwrap();
        assert_eq!(&buf, b"first second");
        ours.write_all(b"after").await.unwrap();
        ours.close().await.unwrap();
        assert_eq!(within("the end", old.read(&mut buf)).await.unwrap(), 0);
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
            let mut buf = [0; 4];
            within("last", ours.read_exact(&mut buf)).await.unwrap();
            assert_eq!(&buf, b"last");
            let held = futures::poll!(ours.read(&mut buf));
            assert!(held.is_pending(), "{held:?}");
            new.write_all(ack).await.unwrap();
            new.write_all(b"next").await.unwrap();
            new.flush().await.unwrap();
            within("next", ours.read_exact(&mut buf)).await.unwrap();
            assert_eq!(&buf, b"next");
            assert_eq!(within("its end", old.read(&mut buf)).await.unwrap(), 0);
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
    ours.write_all(b"still").await.unwrap();
    ours.flush().await.unwrap();
    let mut buf = [0; 5];
    within("still", old.read_exact(&mut buf)).await.unwrap();
    assert_eq!(&buf, b"still");
    drop(silent);

    let again = control.migrate(ours.key(), scene.new.there);
    let remote = async {
        let (mut new, _) = scene.migrate_leg().await;
        new.write_all(ACCEPT).await.unwrap();
        new.flush().await.unwrap();
        assert_eq!(within("its end", old.read(&mut buf)).await.unwrap(), 0);
        old.close().await.unwrap();
        new
    };
    let (migrated, mut new) = within("the migration", async { join!(again, remote) }).await;
    assert_eq!(migrated, Ok(()));
    new.write_all(b"moved").await.unwrap();
    new.flush().await.unwrap();
    let mut buf = [0; 5];
    within("moved", ours.read_exact(&mut buf)).await.unwrap();
    assert_eq!(&buf, b"moved");
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
    let mut new = scene.prefix(scene.new.here).await;
    new.write_all(&migrate(2, 0)).await.unwrap();
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
        let mut second = scene.prefix(scene.new.here).await;
        second.write_all(&message).await.unwrap();
        let read = within("the drop", second.read(&mut [0])).await;
        assert!(matches!(read, Ok(0) | Err(_)));
    }
    let raw = scene.raw_id();
    let reported = |event: &Event| matches!(event, Event::Violation { peer, what: Violation::IdInUse, .. } if *peer == raw);
    scene
        .net
        .listener
        .count("two violations", 2, reported)
        .await;
    old.write_all(b"unharmed").await.unwrap();
    old.flush().await.unwrap();
    let mut buf = [0; 8];
    within("unharmed", ours.read_exact(&mut buf)).await.unwrap();
    assert_eq!(&buf, b"unharmed");
}
