//! A relay with its default limits: 128 KiB in both directions together, 2 minutes.

use std::io;

use futures::{AsyncReadExt, AsyncWriteExt, join};
use libp2p_stream_migration::{Event, PreferDirect};
use testing::*;

fn limited() -> Net {
    let node = || Node::with(Setup::default().policy(PreferDirect));
    let mut net = Net::with(node(), node());
    net.limits = true;
    net
}

/// A stream that moves before the limit is reached survives it.
#[tokio::test]
async fn a_stream_that_moves_outlives_the_limit() {
    for direct in [Kind::Tcp, Kind::Quic] {
        let mut net = limited();
        let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
        let relayed = net.connect(Kind::Relayed).await;
        let peer = net.listener.id;
        let (mut ours, mut theirs) = open(&mut net.dialer, peer, &mut incoming, relayed.here).await;
        write(&mut ours, 1, 0, 30_000).await;
        write(&mut theirs, 2, 0, 30_000).await;
        net.connect(direct).await;
        // What is written before would still go through the relay.
        for node in [&net.dialer, &net.listener] {
            node.event("completion", |event| match event {
                Event::MigrationCompleted { .. } => Some(()),
                _ => None,
            })
            .await;
        }
        within("far more than the limit", async {
            let (mut here, mut there) = (ours.split(), theirs.split());
            join!(
                write(&mut here.1, 1, 30_000, 1_000_000),
                write(&mut there.1, 2, 30_000, 1_000_000),
                read(&mut here.0, 2, 0, 1_000_000),
                read(&mut there.0, 1, 0, 1_000_000),
            );
        })
        .await;
    }
}

/// One that cannot move ends in an error on both sides, as long as both write sides are open: both
/// directions' evidence is at hand then.
#[tokio::test]
async fn a_stream_that_stays_ends_in_an_error() {
    let mut net = limited();
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let relayed = net.connect(Kind::Relayed).await;
    let peer = net.listener.id;
    let (mut ours, mut theirs) = open(&mut net.dialer, peer, &mut incoming, relayed.here).await;
    let flood = async {
        let chunk = [7; 16 * 1024];
        while ours.write_all(&chunk).await.is_ok() {}
        // Our own reads fail as well.
        ours.read(&mut [0]).await.unwrap_err()
    };
    let drain = async {
        let mut buf = [0; 16 * 1024];
        loop {
            match theirs.read(&mut buf).await {
                Ok(0) => panic!("the limit reads as a clean end"),
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    };
    let (here, there) = within("both errors", async { join!(flood, drain) }).await;
    assert_eq!(here.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(there.kind(), io::ErrorKind::ConnectionReset);
}
