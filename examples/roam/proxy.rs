//! Paths on loopback: proxies that are cut, silenced and mended.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream, UdpSocket,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    time::Instant,
};

/// Pieces that are on their way through a TCP proxy in one direction.
const UNDER_WAY: usize = 64;

/// The bytes of a piece, at most.
const PIECE: usize = 16 * 1024;

/// The state of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Open,
    /// Connections are open, and nothing passes. A datagram is lost; what is written to TCP waits.
    Silent,
    /// TCP connections are closed, and new ones, too. A datagram is lost.
    Cut,
}

/// What puts all proxies of a path into a state at once. Clones share it.
#[derive(Debug, Clone)]
pub struct Switch(Arc<watch::Sender<State>>);

impl Switch {
    pub fn new(state: State) -> Self {
        Self(Arc::new(watch::Sender::new(state)))
    }

    pub fn set(&self, state: State) {
        self.0.send_replace(state);
    }

    pub fn state(&self) -> State {
        *self.0.borrow()
    }

    async fn until(&self, wanted: impl FnMut(&State) -> bool) {
        // We hold the sender, so that it is not gone.
        let _ = self.0.subscribe().wait_for(wanted).await;
    }

    async fn until_cut(&self) {
        self.until(|state| *state == State::Cut).await;
    }
}

/// What stands for an address. The target may move.
#[derive(Debug)]
pub struct Proxy {
    pub port: u16,
    target: watch::Sender<SocketAddr>,
}

impl Proxy {
    /// What comes from now on goes there.
    pub fn aim(&self, target: SocketAddr) {
        self.target.send_replace(target);
    }

    /// A proxy of TCP connections that delays each byte.
    pub async fn tcp(switch: Switch, target: SocketAddr, delay: Duration) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let sender = watch::Sender::new(target);
        let target = sender.subscribe();
        tokio::spawn(async move {
            loop {
                let Ok((inbound, _)) = listener.accept().await else {
                    // Out of sockets, say. Others end.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                };
                let (switch, target) = (switch.clone(), target.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = switch.until_cut() => {}
                        _ = connection(&switch, inbound, target, delay) => {}
                    }
                });
            }
        });
        Ok(Self {
            port,
            target: sender,
        })
    }

    /// A proxy of datagrams for one client.
    pub async fn udp(switch: Switch, target: SocketAddr) -> io::Result<Self> {
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await?);
        let back = Arc::new(UdpSocket::bind("127.0.0.1:0").await?);
        let port = front.local_addr()?.port();
        let sender = watch::Sender::new(target);
        // The client's address, which shows in what it sends.
        let client = Arc::new(Mutex::new(None));
        for inwards in [true, false] {
            let (switch, client, target) = (switch.clone(), client.clone(), sender.subscribe());
            let (from, to) = match inwards {
                true => (front.clone(), back.clone()),
                false => (back.clone(), front.clone()),
            };
            tokio::spawn(async move {
                let mut buf = vec![0; 65_536];
                loop {
                    // An error is about a datagram that was sent before.
                    let Ok((n, source)) = from.recv_from(&mut buf).await else {
                        continue;
                    };
                    let target = {
                        let mut client = client.lock().unwrap_or_else(PoisonError::into_inner);
                        match inwards {
                            true => {
                                *client = Some(source);
                                Some(*target.borrow())
                            }
                            false => *client,
                        }
                    };
                    if let (State::Open, Some(target)) = (switch.state(), target) {
                        let _ = to.send_to(&buf[..n], target).await;
                    }
                }
            });
        }
        Ok(Self {
            port,
            target: sender,
        })
    }
}

async fn connection(
    switch: &Switch,
    inbound: TcpStream,
    target: watch::Receiver<SocketAddr>,
    delay: Duration,
) -> io::Result<()> {
    switch.until(|state| *state != State::Silent).await;
    let target = *target.borrow();
    let outbound = TcpStream::connect(target).await?;
    inbound.set_nodelay(true)?;
    outbound.set_nodelay(true)?;
    let (a, b) = (inbound.into_split(), outbound.into_split());
    let ways = async { tokio::join!(way(switch, a.0, b.1, delay), way(switch, b.0, a.1, delay)) };
    let (there, back) = ways.await;
    there.and(back)
}

/// One direction, until it ends.
async fn way(
    switch: &Switch,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    delay: Duration,
) -> io::Result<()> {
    let (sender, mut pieces) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    let reading = async move {
        let mut buf = vec![0; PIECE];
        loop {
            let n = from.read(&mut buf).await?;
            let piece = (Instant::now() + delay, buf[..n].to_vec());
            if n == 0 || sender.send(piece).await.is_err() {
                return io::Result::Ok(());
            }
        }
    };
    let writing = async move {
        while let Some((at, piece)) = pieces.recv().await {
            tokio::time::sleep_until(at).await;
            switch.until(|state| *state != State::Silent).await;
            to.write_all(&piece).await?;
        }
        to.shutdown().await
    };
    tokio::try_join!(reading, writing).map(drop)
}
