//! A path over loopback that can go silent: nothing is forwarded any more, and nothing is closed. It may
//! come back, with all that was held up.

use std::{io, net::SocketAddr};

use libp2p::{Multiaddr, multiaddr::Protocol};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

const PIECE: usize = 16 << 10;

/// What the path does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    Forwards,
    /// Forwards nothing, in neither direction.
    Silent,
    /// Forwards nothing of what the dialer sends, or nothing of what it is to receive.
    HalfSilent {
        outwards: bool,
    },
}

impl Path {
    fn lets_through(self, outwards: bool) -> bool {
        match self {
            Self::Forwards => true,
            Self::Silent => false,
            Self::HalfSilent { outwards: held } => held != outwards,
        }
    }
}

/// A path for one connection. The sockets are closed when it is dropped.
#[derive(Debug)]
pub struct Proxy(watch::Sender<Path>);

impl Proxy {
    /// A path to a listener over TCP or WebSocket, and the address at which it begins; `None` for others.
    pub async fn to(target: &Multiaddr) -> io::Result<Option<(Self, Multiaddr)>> {
        let Some(port) = port(target) else {
            return Ok(None);
        };
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let front = listener.local_addr()?.port();
        let address = target
            .iter()
            .map(|part| match part {
                Protocol::Tcp(_) => Protocol::Tcp(front),
                part => part,
            })
            .collect();
        let (path, seen) = watch::channel(Path::Forwards);
        let mut stopped = seen.clone();
        tokio::spawn(async move {
            tokio::select! {
                // An error: nobody can say anything any more.
                _ = stopped.wait_for(|_| false) => {}
                _ = carry(listener, port, seen) => {}
            }
        });
        Ok(Some((Self(path), address)))
    }

    pub fn set(&self, path: Path) {
        self.0.send_replace(path);
    }
}

/// The port of a TCP listener, if that is all there is below.
fn port(address: &Multiaddr) -> Option<u16> {
    if address.iter().any(|part| part == Protocol::P2pCircuit) {
        return None;
    }
    address.iter().find_map(|part| match part {
        Protocol::Tcp(port) => Some(port),
        _ => None,
    })
}

async fn carry(listener: TcpListener, port: u16, path: watch::Receiver<Path>) -> io::Result<()> {
    let (dialer, _) = listener.accept().await?;
    drop(listener);
    let target = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).await?;
    for socket in [&dialer, &target] {
        socket.set_nodelay(true)?;
    }
    let ((from_dialer, to_dialer), (from_target, to_target)) =
        (dialer.into_split(), target.into_split());
    tokio::join!(
        forward(from_dialer, to_target, true, path.clone()),
        forward(from_target, to_dialer, false, path),
    );
    Ok(())
}

/// Goes on until one side has closed or is gone.
async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    outwards: bool,
    mut path: watch::Receiver<Path>,
) {
    let mut buf = vec![0; PIECE];
    loop {
        if path
            .wait_for(|path| path.lets_through(outwards))
            .await
            .is_err()
        {
            return;
        }
        let read = tokio::select! {
            biased;
            _ = path.wait_for(|path| !path.lets_through(outwards)) => continue,
            read = from.read(&mut buf) => read.unwrap_or(0),
        };
        if read == 0 || to.write_all(&buf[..read]).await.is_err() {
            // The other direction may have more.
            let _ = to.shutdown().await;
            return;
        }
    }
}
