//! Paths that go silent: nothing errors, nothing arrives. A proxy between two nodes stops forwarding.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{AsyncReadExt, AsyncWriteExt, join};
use libp2p::{Multiaddr, multiaddr::Protocol};
use libp2p_stream_migration::{Config, Event, Stream};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
};

use crate::harness::*;

/// How long no progress is put up with.
const PATIENCE: Duration = Duration::from_millis(500);

/// Forwards until told to be silent.
#[derive(Clone, Default)]
struct Proxy(Arc<AtomicBool>);

impl Proxy {
    fn silence(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn is_silent(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    async fn tcp(&self, target: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let proxy = self.clone();
        tokio::spawn(async move {
            while let Ok((inbound, _)) = listener.accept().await {
                let outbound = TcpStream::connect(target).await.unwrap();
                let (a, b) = (inbound.into_split(), outbound.into_split());
                for (mut from, mut to) in [(a.0, b.1), (b.0, a.1)] {
                    let proxy = proxy.clone();
                    tokio::spawn(async move {
                        let mut buf = vec![0; 16 * 1024];
                        loop {
                            let n = from.read(&mut buf).await.unwrap_or(0);
                            if proxy.is_silent() {
                                // Holds the sockets open, as a path does that has gone silent.
                                std::future::pending::<()>().await;
                            }
                            if n == 0 || to.write_all(&buf[..n]).await.is_err() {
                                return;
                            }
                        }
                    });
                }
            }
        });
        address
    }

    async fn udp(&self, target: SocketAddr) -> SocketAddr {
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let back = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let address = front.local_addr().unwrap();
        let client = Arc::new(std::sync::Mutex::new(None));
        for inwards in [true, false] {
            let (proxy, front, back, client) =
                (self.clone(), front.clone(), back.clone(), client.clone());
            tokio::spawn(async move {
                let mut buf = vec![0; 65_536];
                let (from, to) = if inwards {
                    (front, back)
                } else {
                    (back, front)
                };
                loop {
                    let Ok((n, source)) = from.recv_from(&mut buf).await else {
                        continue;
                    };
                    let target = if inwards {
                        *client.lock().unwrap() = Some(source);
                        Some(target)
                    } else {
                        *client.lock().unwrap()
                    };
                    if let (false, Some(target)) = (proxy.is_silent(), target) {
                        let _ = to.send_to(&buf[..n], target).await;
                    }
                }
            });
        }
        address
    }

    /// A connection through this proxy.
    async fn connect(&self, net: &Net, kind: Kind) -> Pair {
        let listen = match kind {
            Kind::Tcp => "/ip4/127.0.0.1/tcp/0",
            _ => "/ip4/127.0.0.1/udp/0/quic-v1",
        };
        let address = net.listener.listen(listen).await;
        let port = address.iter().find_map(|part| match part {
            Protocol::Tcp(port) | Protocol::Udp(port) => Some(port),
            _ => None,
        });
        let target = SocketAddr::from(([127, 0, 0, 1], port.unwrap()));
        let address: Multiaddr = match kind {
            Kind::Tcp => format!("/ip4/127.0.0.1/tcp/{}", self.tcp(target).await.port()),
            _ => format!(
                "/ip4/127.0.0.1/udp/{}/quic-v1",
                self.udp(target).await.port()
            ),
        }
        .parse()
        .unwrap();
        net.dialer.dial(&net.listener, address).await
    }
}

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
        assert_eq!(ours.connection(), first.here);
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
