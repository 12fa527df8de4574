//! Paths that delay and count: a proxy in user space between the two nodes of a connection. Threads that
//! sleep: they are late by tenths of a millisecond, and wait for no task of ours.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, multiaddr::Protocol};

/// Packets and pieces in flight.
const IN_FLIGHT: usize = 64 * 1024;
/// How often a thread looks whether the path is still wanted.
const LOOK: Duration = Duration::from_secs(1);

/// A path for one connection that takes so long each way. Gone when it is dropped.
#[derive(Debug, Default)]
pub struct Path {
    each_way: Duration,
    bytes: Arc<AtomicU64>,
}

/// When it is due, and what.
type InFlight = (Instant, Vec<u8>);

impl Path {
    pub fn new(each_way: Duration) -> Self {
        Self {
            each_way,
            bytes: Arc::default(),
        }
    }

    /// What has crossed it, both ways, without the headers of TCP or UDP.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The address at which this path to `address` begins.
    pub fn lead_to(&self, address: &Multiaddr) -> Multiaddr {
        let rest = address.iter().skip(2);
        let ip = Protocol::Ip4([127, 0, 0, 1].into());
        let hop = match address.iter().nth(1) {
            Some(Protocol::Tcp(port)) => Protocol::Tcp(self.tcp(local(port)).expect("TCP")),
            Some(Protocol::Udp(port)) => Protocol::Udp(self.udp(local(port)).expect("UDP")),
            other => panic!("no path to {other:?}"),
        };
        [ip, hop].into_iter().chain(rest).collect()
    }

    /// What is sent here is due at the other end after the delay.
    fn line(&self) -> (Line, mpsc::Receiver<InFlight>) {
        let (sender, receiver) = mpsc::sync_channel(IN_FLIGHT);
        let line = Line {
            each_way: self.each_way,
            bytes: Arc::downgrade(&self.bytes),
            sender,
        };
        (line, receiver)
    }

    fn tcp(&self, target: SocketAddr) -> io::Result<u16> {
        let listener = TcpListener::bind(local(0))?;
        let port = listener.local_addr()?.port();
        let lines = [self.line(), self.line()];
        thread::spawn(move || -> io::Result<()> {
            let (near, _) = listener.accept()?;
            let far = TcpStream::connect(target)?;
            let ways = [
                (near.try_clone()?, far.try_clone()?),
                (far.try_clone()?, near.try_clone()?),
            ];
            for ((mut from, mut to), (line, arrivals)) in ways.into_iter().zip(lines) {
                to.set_nodelay(true)?;
                thread::spawn(move || {
                    let mut buf = vec![0; 64 * 1024];
                    while let Ok(n @ 1..) = from.read(&mut buf)
                        && line.send(&buf[..n])
                    {}
                });
                thread::spawn(move || {
                    while let Some(bytes) = arrival(&arrivals)
                        && to.write_all(&bytes).is_ok()
                    {}
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
            Ok(())
        });
        Ok(port)
    }

    fn udp(&self, target: SocketAddr) -> io::Result<u16> {
        let (near, far) = (UdpSocket::bind(local(0))?, UdpSocket::bind(local(0))?);
        let port = near.local_addr()?.port();
        let client = Arc::new(Mutex::new(None));
        for (outward, from, to) in [
            (true, near.try_clone()?, far.try_clone()?),
            (false, far, near),
        ] {
            from.set_read_timeout(Some(LOOK))?;
            let (line, arrivals) = self.line();
            let known = client.clone();
            thread::spawn(move || {
                let mut buf = vec![0; 64 * 1024];
                loop {
                    match from.recv_from(&mut buf) {
                        Ok((n, source)) => {
                            if outward {
                                *known.lock().unwrap_or_else(PoisonError::into_inner) =
                                    Some(source);
                            }
                            if !line.send(&buf[..n]) {
                                return;
                            }
                        }
                        // Refused: an earlier packet was, no matter. Otherwise it was time to look.
                        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                        Err(_) if line.is_wanted() => {}
                        Err(_) => return,
                    }
                }
            });
            let client = client.clone();
            thread::spawn(move || {
                while let Some(packet) = arrival(&arrivals) {
                    let client = *client.lock().unwrap_or_else(PoisonError::into_inner);
                    let whom = if outward { Some(target) } else { client };
                    if let Some(whom) = whom {
                        let _ = to.send_to(&packet, whom);
                    }
                }
            });
        }
        Ok(port)
    }
}

/// One direction's near end.
struct Line {
    each_way: Duration,
    bytes: Weak<AtomicU64>,
    sender: mpsc::SyncSender<InFlight>,
}

impl Line {
    /// Whether it was sent: whether the path is still there.
    fn send(&self, bytes: &[u8]) -> bool {
        let Some(count) = self.bytes.upgrade() else {
            return false;
        };
        count.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let due = Instant::now() + self.each_way;
        self.sender.send((due, bytes.to_vec())).is_ok()
    }

    fn is_wanted(&self) -> bool {
        self.bytes.strong_count() > 0
    }
}

fn arrival(line: &mpsc::Receiver<InFlight>) -> Option<Vec<u8>> {
    let (due, bytes) = line.recv().ok()?;
    thread::sleep(due.saturating_duration_since(Instant::now()));
    Some(bytes)
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}
