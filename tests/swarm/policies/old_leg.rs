//! The initiator keeps its old leg until the responder has read it, so that no idle timeout closes the
//! connection under what is still on its way.

use std::{net::SocketAddr, time::Duration};

use futures::AsyncWriteExt;
use libp2p::{Multiaddr, multiaddr::Protocol};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::*;

/// Long enough for a busy machine to open a stream before it has passed.
const IDLE: Duration = Duration::from_secs(1);

/// Forwards, except while it is paused: then what comes waits.
async fn proxy(target: SocketAddr, paused: watch::Receiver<bool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (inbound, _) = listener.accept().await.unwrap();
        let outbound = TcpStream::connect(target).await.unwrap();
        let (a, b) = (inbound.into_split(), outbound.into_split());
        for (mut from, mut to) in [(a.0, b.1), (b.0, a.1)] {
            let mut paused = paused.clone();
            tokio::spawn(async move {
                let mut buf = vec![0; 16 * 1024];
                loop {
                    let n = from.read(&mut buf).await.unwrap_or(0);
                    if paused.wait_for(|paused| !paused).await.is_err() {
                        return;
                    }
                    if n == 0 || to.write_all(&buf[..n]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// The responder's count is waited for, and so is its end, though it had closed its side before.
#[tokio::test]
async fn nothing_is_cut_by_the_idle_timeout() {
    nothing_is_cut(true).await;
}

/// The responder has closed its side and does not count, so the initiator is done as soon as it has
/// switched: nothing but its own care keeps the old connection alive.
#[tokio::test]
async fn nothing_is_cut_when_nothing_is_waited_for() {
    nothing_is_cut(false).await;
}

async fn nothing_is_cut(verify: bool) {
    let node = || {
        Node::with(Setup {
            config: eager()
                .with_verify(verify)
                .with_old_leg_linger(Duration::from_millis(10)),
            idle: IDLE,
            ..Default::default()
        })
    };
    let mut net = Net::with(node(), node());
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let (pause, paused) = watch::channel(false);
    let address = net.listener.listen("/ip4/127.0.0.1/tcp/0").await;
    let port = address.iter().find_map(|part| match part {
        Protocol::Tcp(port) => Some(port),
        _ => None,
    });
    let target = SocketAddr::from(([127, 0, 0, 1], port.unwrap()));
    let port = proxy(target, paused).await.port();
    let address: Multiaddr = format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap();
    let old = net.dialer.dial(&net.listener, address).await;
    let mut streams = open_many(&mut net, &mut incoming, old.here, 1).await;
    let (mut ours, mut theirs) = streams.remove(0);
    write(&mut theirs, 2, 0, 1000).await;
    theirs.close().await.unwrap();
    read(&mut ours, 2, 0, 1000).await;
    read_end(&mut ours).await;

    pause.send(true).unwrap();
    write(&mut ours, 1, 0, 50_000).await;
    let new = net.connect(Kind::Quic).await;
    let (mut control, key) = (net.dialer.control.clone(), ours.key());
    let mut migration = Box::pin(within("the migration", control.migrate(key, new.here)));
    if verify {
        assert!(futures::poll!(&mut migration).is_pending());
        net.dialer
            .event("the agreement", |event| match event {
                Event::MigrationAgreed { .. } => Some(()),
                _ => None,
            })
            .await;
    } else {
        assert_eq!((&mut migration).await, Ok(()));
    }
    write(&mut ours, 1, 50_000, 60_000).await;
    ours.close().await.unwrap();
    // Time has to pass: that nothing happens is what is tested.
    tokio::time::sleep(2 * IDLE).await;
    for (node, id) in [(&net.dialer, old.here), (&net.listener, old.there)] {
        let events = node.events();
        let closed = events.iter().any(
            |event| matches!(event, Event::ConnectionClosed { connection, .. } if *connection == id),
        );
        assert!(!closed, "closed under what is on its way");
    }
    assert!(
        count(&net.listener, is_completion) == 0,
        "the pause is none"
    );
    pause.send(false).unwrap();
    within("the rest", async {
        assert_eq!(read_to_end(&mut theirs, 1, 0).await, 60_000);
    })
    .await;
    if verify {
        assert_eq!(migration.await, Ok(()));
    }
    moved(&net.listener, theirs.key(), new.there).await;
    // Then, nobody keeps it.
    closed(&net.dialer, old.here).await;
    closed(&net.listener, old.there).await;
}
