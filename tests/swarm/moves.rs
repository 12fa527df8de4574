//! One stream under load both ways, between any two kinds of connection.

use std::sync::atomic::{AtomicBool, Ordering};

use futures::{AsyncReadExt, AsyncWriteExt, join};
use libp2p_stream_migration::{Event, Stream};
use testing::*;

/// What is written each way at least.
const LEAST: u64 = 512 * 1024;

/// Writes and reads both ways at once until told to stop; returns what was written and read.
async fn load(stream: Stream, out: u64, r#in: u64, stop: &AtomicBool) -> (u64, u64) {
    let (mut reader, mut writer) = stream.split();
    join!(
        async {
            let written = write_until(&mut writer, out, LEAST, stop).await;
            writer.close().await.unwrap();
            written
        },
        read_to_end(&mut reader, r#in, 0),
    )
}

async fn moves_under_load(old: Kind, new: Kind) {
    let mut net = Net::new();
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let first = net.connect(old).await;
    let second = net.connect(new).await;
    let peer = net.listener.id;
    let (ours, theirs) = open(&mut net.dialer, peer, &mut incoming, first.here).await;
    assert!(ours.is_migratable() && theirs.is_migratable());
    assert_eq!(
        (ours.connection(), theirs.connection()),
        (Some(first.here), Some(first.there))
    );
    let key = ours.key();

    let stop = AtomicBool::new(false);
    let (ours, theirs, ()) = within("the transfer", async {
        join!(load(ours, 1, 2, &stop), load(theirs, 2, 1, &stop), async {
            net.dialer.control.migrate(key, second.here).await.unwrap();
            stop.store(true, Ordering::Relaxed);
        },)
    })
    .await;
    assert_eq!((ours.0, ours.1), (theirs.1, theirs.0));

    let (from, to) = net
        .dialer
        .event("completion at the dialer", |event| match event {
            Event::MigrationCompleted { from, to, .. } => Some((*from, *to)),
            _ => None,
        })
        .await;
    assert_eq!((from, to), (first.here, second.here));
    let (from, to) = net
        .listener
        .event("completion at the listener", |event| match event {
            Event::MigrationCompleted { from, to, .. } => Some((*from, *to)),
            _ => None,
        })
        .await;
    assert_eq!((from, to), (first.there, second.there));
    for node in [&net.dialer, &net.listener] {
        node.event("the end", |event| match event {
            Event::StreamEnded { result, .. } => Some(*result),
            _ => None,
        })
        .await
        .unwrap();
    }
    assert!(net.dialer.control.streams(peer).await.is_empty());
    assert!(net.listener.control.streams(net.dialer.id).await.is_empty());
}

macro_rules! pairs {
    ($($name:ident: $old:ident => $new:ident;)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                moves_under_load(Kind::$old, Kind::$new).await;
            }
        )*
    };
}

pairs! {
    tcp_to_tcp: Tcp => Tcp;
    tcp_to_quic: Tcp => Quic;
    tcp_to_relayed: Tcp => Relayed;
    quic_to_tcp: Quic => Tcp;
    quic_to_quic: Quic => Quic;
    quic_to_relayed: Quic => Relayed;
    relayed_to_tcp: Relayed => Tcp;
    relayed_to_quic: Relayed => Quic;
    relayed_to_relayed: Relayed => Relayed;
}
