//! Connections that are lost, and streams that are let go of: an error, never a short stream that looks
//! complete.

use std::{future::poll_fn, io, pin::Pin, task::Poll};

use futures::{AsyncReadExt, AsyncWrite, AsyncWriteExt, FutureExt, join};
use libp2p_stream_migration::{Abort, Event, MigrateError, Stream};
use testing::*;

async fn read_fails(stream: &mut Stream) {
    let mut buf = [0; 1024];
    let error = within("an error", async {
        loop {
            match stream.read(&mut buf).await {
                Ok(0) => panic!("a lost connection reads as a clean end"),
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    })
    .await;
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

/// Closing the only connection ends reads that are waiting, on both sides, in an error. yamux by itself
/// never wakes those of the side that closes, and gives the other a clean end.
#[tokio::test]
async fn the_only_connection_is_closed() {
    for kind in KINDS {
        let mut net = Net::new();
        let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
        let pair = net.connect(kind).await;
        let peer = net.listener.id;
        let (mut ours, mut theirs) = open(&mut net.dialer, peer, &mut incoming, pair.here).await;
        within("both errors", async {
            join!(read_fails(&mut ours), read_fails(&mut theirs), async {
                net.dialer.close(pair.here);
            })
        })
        .await;
        drop((ours, theirs));
        for (node, id) in [(&net.dialer, pair.here), (&net.listener, pair.there)] {
            assert!(node.how_it_ended().await.is_err());
            node.wait("closing", |seen| match seen {
                Seen::Closed(closed) if *closed == id => Some(()),
                _ => None,
            })
            .await;
        }
    }
}

/// Either connection is closed as soon as both sides have agreed: everything arrives, or both sides get
/// an error.
#[tokio::test]
async fn a_connection_is_closed_during_a_migration() {
    for (from, to) in [
        (Kind::Tcp, Kind::Quic),
        (Kind::Quic, Kind::Relayed),
        (Kind::Relayed, Kind::Tcp),
    ] {
        for close_old in [true, false] {
            for by_initiator in [true, false] {
                closed_during(from, to, close_old, by_initiator).await;
            }
        }
    }
}

async fn closed_during(from: Kind, to: Kind, close_old: bool, by_initiator: bool) {
    const TOTAL: u64 = 500_000;
    let mut net = Net::new();
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let old = net.connect(from).await;
    let new = net.connect(to).await;
    let peer = net.listener.id;
    let (ours, theirs) = open(&mut net.dialer, peer, &mut incoming, old.here).await;
    let mut control = net.dialer.control.clone();
    let migration = control.migrate(ours.key(), new.here);
    let closing = async {
        let node = [&net.listener, &net.dialer][usize::from(by_initiator)];
        node.event("the agreement", |event| match event {
            Event::MigrationAgreed { .. } => Some(()),
            _ => None,
        })
        .await;
        let pair = if close_old { old } else { new };
        node.close(if by_initiator { pair.here } else { pair.there });
    };
    let exchange = |stream: Stream, out, r#in| async move {
        let (mut reader, mut writer) = stream.split();
        // The write side stays open until the end has been read or the error seen.
        let (wrote, read) = join!(
            try_write(&mut writer, out, TOTAL),
            try_read(&mut reader, r#in, TOTAL)
        );
        (wrote.and(read), writer)
    };
    let (ours, theirs, _, ()) = within("the exchange", async {
        join!(
            exchange(ours, 1, 2),
            exchange(theirs, 2, 1),
            migration,
            closing
        )
    })
    .await;
    // Whoever has read and written everything may not know what became of the other; but nobody is told
    // of an end that was none, which `try_read` checks.
    let _ = (ours.0, theirs.0);
}

/// Writes all, or returns the error.
async fn try_write(io: &mut (impl AsyncWriteExt + Unpin), seed: u64, total: u64) -> io::Result<()> {
    for at in (0..total).step_by(10_000) {
        let chunk: Vec<_> = (at..at + 10_000).map(|at| byte(seed, at)).collect();
        io.write_all(&chunk).await?;
    }
    io.flush().await
}

/// Reads all, checked, or returns the error. An end before that is neither.
async fn try_read(io: &mut (impl AsyncReadExt + Unpin), seed: u64, total: u64) -> io::Result<()> {
    let mut buf = [0; 8192];
    let mut at = 0;
    while at < total {
        let n = io.read(&mut buf).await?;
        assert_ne!(n, 0, "cut short at {at} of {total}, and looks complete");
        for got in &buf[..n] {
            assert_eq!(*got, byte(seed, at), "at {at}");
            at += 1;
        }
    }
    Ok(())
}

/// The target is gone before the migration has begun.
#[tokio::test]
async fn the_target_is_gone() {
    let mut net = Net::new();
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let old = net.connect(Kind::Tcp).await;
    let new = net.connect(Kind::Quic).await;
    let peer = net.listener.id;
    let (mut ours, mut theirs) = open(&mut net.dialer, peer, &mut incoming, old.here).await;
    let key = ours.key();
    assert_eq!(
        net.dialer.control.migrate(key, old.here).await,
        Err(MigrateError::AlreadyThere(old.here))
    );
    net.dialer.close(new.here);
    let migration = net.dialer.control.migrate(key, new.here);
    let error = within("an answer", migration).await;
    assert!(
        matches!(
            error,
            Err(MigrateError::UnknownConnection(_)
                | MigrateError::NoLeg(_)
                | MigrateError::Failed(_))
        ),
        "{error:?}"
    );
    write(&mut ours, 1, 0, 1000).await;
    read(&mut theirs, 1, 0, 1000).await;
}

/// Dropped before it is closed, a stream is aborted. QUIC's drop is a FIN; see `docs/legs.md`.
#[tokio::test]
async fn a_drop_is_an_abort() {
    for kind in [Kind::Tcp, Kind::Relayed] {
        let mut net = Net::new();
        let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
        let pair = net.connect(kind).await;
        let peer = net.listener.id;
        let (mut ours, mut theirs) = open(&mut net.dialer, peer, &mut incoming, pair.here).await;
        write(&mut ours, 1, 0, 1000).await;
        drop(ours);
        read_fails(&mut theirs).await;
        drop(theirs);
        assert_eq!(net.dialer.how_it_ended().await, Err(Abort::Dropped));
        assert_eq!(net.listener.how_it_ended().await, Err(Abort::Unproven));
        assert!(net.dialer.control.streams(peer).await.is_empty());
    }
}

/// After a verified switch a drop is an abort on QUIC, too, though QUIC itself says FIN; before one it is
/// not, which is in `docs/guarantees.md`.
#[tokio::test]
async fn a_drop_on_quic() {
    for switched in [true, false] {
        let mut net = Net::new();
        let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
        let first = net
            .connect(if switched { Kind::Tcp } else { Kind::Quic })
            .await;
        let peer = net.listener.id;
        let (mut ours, mut theirs) = open(&mut net.dialer, peer, &mut incoming, first.here).await;
        if switched {
            let second = net.connect(Kind::Quic).await;
            let migration = net.dialer.control.migrate(ours.key(), second.here);
            within("the migration", migration).await.unwrap();
        }
        write(&mut ours, 1, 0, 1000).await;
        drop(ours);
        if switched {
            read_fails(&mut theirs).await;
        } else {
            assert_eq!(read_to_end(&mut theirs, 1, 0).await, 1000);
        }
    }
}

/// On QUIC, after a verified switch, an end is shown once the stream takes an empty write: while the remote
/// reads nothing and our window is full, it is not (`docs/guarantees.md`). Nothing is lost.
#[tokio::test]
async fn an_end_waits_for_room_on_quic() {
    /// Of a stream, as libp2p-quic sets it.
    const WINDOW: u64 = 10_000_000;
    let mut net = Net::new();
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let tcp = net.connect(Kind::Tcp).await;
    let quic = net.connect(Kind::Quic).await;
    let peer = net.listener.id;
    let (mut ours, mut theirs) = open(&mut net.dialer, peer, &mut incoming, tcp.here).await;
    let migration = net.dialer.control.migrate(ours.key(), quic.here);
    within("the migration", migration).await.unwrap();
    let mut written = 0;
    let full = poll_fn(|cx| {
        loop {
            let chunk: Vec<_> = (written..written + 65_536).map(|at| byte(1, at)).collect();
            match Pin::new(&mut ours).poll_write(cx, &chunk) {
                Poll::Ready(n) => written += n.unwrap() as u64,
                Poll::Pending => return Poll::Ready(()),
            }
        }
    });
    within("a full window", full).await;
    // Messages and negotiation take the rest.
    assert!((WINDOW - 1000..WINDOW).contains(&written), "{written}");
    write(&mut theirs, 2, 0, 1000).await;
    theirs.close().await.unwrap();
    read(&mut ours, 2, 0, 1000).await;
    assert!(ours.read(&mut [0]).now_or_never().is_none());
    let mut one = [0];
    let (end, ()) = within("the end", async {
        join!(ours.read(&mut one), read(&mut theirs, 1, 0, written))
    })
    .await;
    assert_eq!(end.unwrap(), 0);
    ours.close().await.unwrap();
    assert_eq!(theirs.read(&mut one).await.unwrap(), 0);
}

/// A connection is killed at a random moment of a random migration, by either side. The seed is printed;
/// `KILLS_SEED` replays one.
#[tokio::test]
async fn killed_at_random() {
    let seed = std::env::var("KILLS_SEED").ok();
    let first = seed.map_or(1, |seed| seed.parse::<u64>().unwrap());
    for seed in first..first + 24 {
        println!("seed {seed}");
        let mut state = seed;
        let mut below = move |bound: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % bound
        };
        let kinds = [KINDS[below(3) as usize], KINDS[below(3) as usize]];
        let (by_dialer, kill_old, killed_by_dialer) = (below(2) == 0, below(2) == 0, below(2) == 0);
        let (start_at, kill_at) = (below(300_000), below(300_000));
        killed(
            kinds,
            by_dialer,
            kill_old,
            killed_by_dialer,
            start_at,
            kill_at,
        )
        .await;
    }
}

async fn killed(
    kinds: [Kind; 2],
    by_dialer: bool,
    kill_old: bool,
    killed_by_dialer: bool,
    start_at: u64,
    kill_at: u64,
) {
    const TOTAL: u64 = 400_000;
    let mut net = Net::new();
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let old = net.connect(kinds[0]).await;
    let new = net.connect(kinds[1]).await;
    let peer = net.listener.id;
    let (ours, theirs) = open(&mut net.dialer, peer, &mut incoming, old.here).await;
    let keys = (ours.key(), theirs.key());
    let read = std::sync::atomic::AtomicU64::new(0);
    let reaches = |much: u64| {
        let read = &read;
        async move {
            while read.load(std::sync::atomic::Ordering::Relaxed) < much {
                tokio::task::yield_now().await;
            }
        }
    };
    let (mut here, mut there) = (ours.split(), theirs.split());
    let reading = async {
        let mut buf = [0; 8192];
        let mut at = 0;
        while at < TOTAL {
            match here.0.read(&mut buf).await {
                Ok(0) => panic!("cut short at {at}, and looks complete"),
                Ok(n) => {
                    for got in &buf[..n] {
                        assert_eq!(*got, byte(2, at), "at {at}");
                        at += 1;
                    }
                    read.store(at, std::sync::atomic::Ordering::Relaxed);
                }
                Err(_) => break,
            }
        }
        // Whoever waits for more waits no longer.
        read.store(u64::MAX, std::sync::atomic::Ordering::Relaxed);
    };
    let migrating = async {
        reaches(start_at).await;
        let _ = if by_dialer {
            net.dialer.control.clone().migrate(keys.0, new.here).await
        } else {
            net.listener
                .control
                .clone()
                .migrate(keys.1, new.there)
                .await
        };
    };
    let killing = async {
        reaches(kill_at).await;
        let pair = if kill_old { old } else { new };
        if killed_by_dialer {
            net.dialer.close(pair.here);
        } else {
            net.listener.close(pair.there);
        }
    };
    let _ = within("the exchange", async {
        join!(
            reading,
            try_write(&mut here.1, 1, TOTAL),
            try_read(&mut there.0, 1, TOTAL),
            try_write(&mut there.1, 2, TOTAL),
            migrating,
            killing,
        )
    })
    .await;
}
