//! Connections that are lost, and streams that are let go of: an error, never a short stream that looks
//! complete.

use std::io;

use futures::{AsyncReadExt, AsyncWriteExt, join};
use libp2p_stream_migration::{Abort, Event, MigrateError, Stream};

use crate::harness::*;

async fn ended(node: &Node) -> Result<(), Abort> {
    node.event("the end", |event| match event {
        Event::StreamEnded { result, .. } => Some(*result),
        _ => None,
    })
    .await
}

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
            assert!(ended(node).await.is_err());
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

/// Dropped before it is closed, a stream is aborted. QUIC's drop is a FIN; see the README's limitations.
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
        assert_eq!(ended(&net.dialer).await, Err(Abort::Dropped));
        assert_eq!(ended(&net.listener).await, Err(Abort::Unproven));
        assert!(net.dialer.control.streams(peer).await.is_empty());
    }
}
