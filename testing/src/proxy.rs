//! Paths that are not as good as loopback: a proxy between two nodes that goes silent, or that is slow.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use libp2p::{Multiaddr, multiaddr::Protocol};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::watch,
    time::Instant,
};

use crate::{Kind, Net, Pair};

/// The state of a path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// Its sockets are open, and all that comes is dropped.
    Silent,
    /// Its sockets are closed, and so is each new one.
    Cut,
}

/// A proxy that forwards until it is told to be silent, or is cut. Clones share its state.
#[derive(Clone)]
pub struct Proxy {
    state: Arc<watch::Sender<State>>,
    /// Bytes per second in each direction of each connection; TCP only.
    rate: Option<u32>,
}

impl Default for Proxy {
    fn default() -> Self {
        Self {
            state: Arc::new(watch::Sender::new(State::Open)),
            rate: None,
        }
    }
}

impl Proxy {
    /// A path of so many bytes per second in each direction, over TCP.
    pub fn throttled(bytes_per_second: u32) -> Self {
        Self {
            rate: Some(bytes_per_second),
            ..Self::default()
        }
    }

    pub fn silence(&self) {
        self.state.send_replace(State::Silent);
    }

    /// Cuts the path: over TCP both sides notice, over UDP neither.
    pub fn cut(&self) {
        self.state.send_replace(State::Cut);
    }

    /// What comes from now on is forwarded. What was silent before stays silent over TCP.
    pub fn mend(&self) {
        self.state.send_replace(State::Open);
    }

    fn state(&self) -> State {
        *self.state.borrow()
    }

    async fn until_cut(&self) {
        let mut state = self.state.subscribe();
        let _ = state.wait_for(|state| *state == State::Cut).await;
    }

    async fn tcp(&self, target: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let proxy = self.clone();
        tokio::spawn(async move {
            while let Ok((inbound, _)) = listener.accept().await {
                // Nobody may be there.
                let Ok(outbound) = TcpStream::connect(target).await else {
                    continue;
                };
                let (a, b) = (inbound.into_split(), outbound.into_split());
                for (from, to) in [(a.0, b.1), (b.0, a.1)] {
                    let proxy = proxy.clone();
                    tokio::spawn(async move {
                        tokio::select! {
                            () = proxy.until_cut() => {}
                            () = proxy.clone().forward(from, to) => {}
                        }
                    });
                }
            }
        });
        address
    }

    async fn forward(
        self,
        mut from: impl AsyncReadExt + Unpin,
        mut to: impl AsyncWriteExt + Unpin,
    ) {
        // Small pieces when slow, so that a rate is a rate.
        let mut buf = vec![0; if self.rate.is_some() { 1024 } else { 16 * 1024 }];
        let mut free_at = Instant::now();
        loop {
            let n = from.read(&mut buf).await.unwrap_or(0);
            if self.state() == State::Silent {
                // Holds the sockets open, as a path does that has gone silent.
                std::future::pending::<()>().await;
            }
            if let Some(rate) = self.rate {
                let takes = Duration::from_secs(1) * u32::try_from(n).unwrap() / rate;
                free_at = free_at.max(Instant::now()) + takes;
                tokio::time::sleep_until(free_at).await;
            }
            if n == 0 || to.write_all(&buf[..n]).await.is_err() {
                return;
            }
        }
    }

    async fn udp(&self, target: SocketAddr) -> SocketAddr {
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let back = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let address = front.local_addr().unwrap();
        let client = Arc::new(Mutex::new(None));
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
                    if let (State::Open, Some(target)) = (proxy.state(), target) {
                        let _ = to.send_to(&buf[..n], target).await;
                    }
                }
            });
        }
        address
    }

    /// The address under which this proxy stands for a TCP address.
    pub async fn front(&self, target: &Multiaddr) -> Multiaddr {
        let port = target.iter().find_map(|part| match part {
            Protocol::Tcp(port) => Some(port),
            _ => None,
        });
        let target = SocketAddr::from(([127, 0, 0, 1], port.unwrap()));
        let front = self.tcp(target).await.port();
        format!("/ip4/127.0.0.1/tcp/{front}").parse().unwrap()
    }

    /// A connection through this proxy.
    pub async fn connect(&self, net: &Net, kind: Kind) -> Pair {
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
