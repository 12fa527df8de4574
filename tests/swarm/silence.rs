//! Paths that go silent: nothing errors, nothing arrives. A proxy between two nodes stops forwarding.

use std::time::{Duration, Instant};

use futures::{AsyncReadExt, AsyncWriteExt, join};
use libp2p_stream_migration::{Config, Event, Stream};
use testing::*;

/// How long no progress is put up with.
const PATIENCE: Duration = Duration::from_millis(500);

fn impatient() -> Net {
    let node = || {
        Node::with(Setup {
            config: Config::default()
                .with_progress_timeout(PATIENCE)
                .with_answer_timeout(PATIENCE)
                .with_read_ahead_per_stream(4096),
            ..Default::default()
        })
    };
    Net::with(node(), node())
}

/// Reads until the end or an error; whatever comes is right.
async fn drain(stream: &mut Stream, seed: u64) -> (u64, std::io::Result<()>) {
    let mut buf = [0; 4096];
    let mut at = 0;
    loop {
        match stream.read(&mut buf).await {
            Ok(0) => return (at, Ok(())),
            Ok(n) => {
                for got in &buf[..n] {
                    assert_eq!(*got, byte(seed, at));
                    at += 1;
                }
            }
            Err(error) => return (at, Err(error)),
        }
    }
}

/// The old path goes silent before the migration: it is agreed over the new one, and then nothing more
/// comes from the old. Both sides get an error in time, because bytes may be missing.
#[tokio::test]
async fn the_old_path_goes_silent() {
    for (old, new) in [(Kind::Tcp, Kind::Quic), (Kind::Quic, Kind::Tcp)] {
        let mut net = impatient();
        let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
        let proxy = Proxy::default();
        let first = proxy.connect(&net, old).await;
        let second = net.connect(new).await;
        let peer = net.listener.id;
        let (mut ours, mut theirs) = open(&mut net.dialer, peer, &mut incoming, first.here).await;
        write(&mut ours, 1, 0, 1000).await;
        read(&mut theirs, 1, 0, 1000).await;
        proxy.silence();
        let start = Instant::now();
        write(&mut ours, 1, 1000, 2000).await;
        let key = ours.key();
        let (migration, ours, theirs) = within("the migration", async {
            join!(
                net.dialer.control.migrate(key, second.here),
                drain(&mut ours, 2),
                drain(&mut theirs, 1),
            )
        })
        .await;
        // 2 × the patience for each side, one after the other, and room for a slow machine; QUIC itself
        // would take 10 s, and TCP minutes.
        assert!(start.elapsed() < 12 * PATIENCE, "{:?}", start.elapsed());
        assert!(migration.is_err(), "{migration:?}");
        assert!(ours.1.is_err() && theirs.1.is_err(), "{ours:?} {theirs:?}");
    }
}

/// The new path goes silent before the migration: no answer, and the stream goes on where it is.
#[tokio::test]
async fn the_new_path_goes_silent() {
    for (old, new) in [(Kind::Tcp, Kind::Quic), (Kind::Quic, Kind::Tcp)] {
        let mut net = impatient();
        let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
        let proxy = Proxy::default();
        let first = net.connect(old).await;
        let second = proxy.connect(&net, new).await;
        let peer = net.listener.id;
        let (mut ours, mut theirs) = open(&mut net.dialer, peer, &mut incoming, first.here).await;
        proxy.silence();
        let migration = net.dialer.control.migrate(ours.key(), second.here);
        assert!(within("the timeout", migration).await.is_err());
        write(&mut ours, 1, 0, 1000).await;
        read(&mut theirs, 1, 0, 1000).await;
        assert_eq!(ours.connection(), Some(first.here));
    }
}

/// A reader that is only slow, past the bound of reading ahead, is waited for much longer than the
/// patience with a silent path.
#[tokio::test]
async fn a_slow_reader_is_not_killed() {
    let mut net = impatient();
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let first = net.connect(Kind::Tcp).await;
    let second = net.connect(Kind::Quic).await;
    let peer = net.listener.id;
    let (mut ours, mut theirs) = open(&mut net.dialer, peer, &mut incoming, first.here).await;
    write(&mut ours, 1, 0, 100_000).await;
    let key = ours.key();
    let slow = async {
        net.listener
            .event("the agreement", |event| match event {
                Event::MigrationAgreed { .. } => Some(()),
                _ => None,
            })
            .await;
        // Time has to pass: that it does is what is tested.
        tokio::time::sleep(6 * PATIENCE).await;
        read(&mut theirs, 1, 0, 100_000).await;
    };
    let (migration, ()) = within("the migration", async {
        join!(net.dialer.control.migrate(key, second.here), slow)
    })
    .await;
    migration.unwrap();
    ours.close().await.unwrap();
    read_end(&mut theirs).await;
}
