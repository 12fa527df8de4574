//! The bytes on each path, counted below the layer: by a transport around those that make the
//! links, with the layer or without.

use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use futures::{AsyncRead, AsyncWrite, FutureExt, TryFutureExt, future::BoxFuture};
use libp2p::{
    Multiaddr, PeerId,
    core::{
        muxing::{StreamMuxer, StreamMuxerBox, StreamMuxerEvent, SubstreamBox},
        transport::{Boxed, DialOpts, ListenerId, Transport, TransportError, TransportEvent},
    },
    multiaddr::Protocol as Part,
};

use crate::{
    course::{Course, Stage},
    heads::{self, Head},
    tally::{Book, Links, Protocol, Seen},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    Relayed,
    Direct,
}

impl Path {
    fn links(self, seen: &mut Seen) -> &mut Links {
        match self {
            Self::Relayed => &mut seen.relayed,
            Self::Direct => &mut seen.direct,
        }
    }
}

pub fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Part::P2pCircuit)
}

/// All substreams with the other side that there have been, on whatever link.
#[derive(Clone)]
pub struct Paths {
    pub peer: PeerId,
    pub book: Book,
    substreams: Arc<Mutex<Vec<Arc<Count>>>>,
}

/// What one protocol has written.
#[derive(Debug, Clone, Copy, Default)]
pub struct Written {
    pub relayed: u64,
    pub direct: u64,
    /// Attempts to move a stream: of two that cross both count, and one that is denied does.
    pub moves: u64,
}

impl Paths {
    pub fn new(peer: PeerId, book: Book) -> Self {
        Self {
            peer,
            book,
            substreams: Arc::default(),
        }
    }

    /// By protocol; under `None` what else there is: the layer's own, relaying, hole punching.
    pub fn written(&self) -> BTreeMap<Option<Protocol>, Written> {
        let mut written = BTreeMap::<_, Written>::new();
        let substreams = lock(&self.substreams).clone();
        let heads: Vec<Head> = substreams
            .iter()
            .map(|it| heads::read(&lock(&it.head)))
            .collect();
        let protocols = heads::protocols(&heads);
        for (count, (head, protocol)) in substreams.iter().zip(heads.iter().zip(protocols)) {
            let row = written.entry(protocol).or_default();
            let bytes = count.written.load(Ordering::Relaxed);
            match count.path {
                Path::Relayed => row.relayed += bytes,
                Path::Direct => row.direct += bytes,
            }
            // Both sides see each, and each is moved by one of them.
            row.moves += u64::from(count.ours && matches!(head, Head::Moved { .. }));
        }
        written
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The transport around. It also keeps direct dials waiting until it is time for them: on loopback
/// a hole is punched before the first byte has been relayed, and there would be nothing to see.
pub struct Counted {
    inner: Boxed<(PeerId, StreamMuxerBox)>,
    paths: Paths,
    course: Course,
}

impl Counted {
    pub fn new(inner: Boxed<(PeerId, StreamMuxerBox)>, paths: Paths, course: Course) -> Self {
        Self {
            inner,
            paths,
            course,
        }
    }
}

type Upgrade = BoxFuture<'static, io::Result<(PeerId, StreamMuxerBox)>>;

impl Transport for Counted {
    type Output = (PeerId, StreamMuxerBox);
    type Error = io::Error;
    type ListenerUpgrade = Upgrade;
    type Dial = Upgrade;

    fn listen_on(
        &mut self,
        id: ListenerId,
        address: Multiaddr,
    ) -> Result<(), TransportError<io::Error>> {
        self.inner.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        opts: DialOpts,
    ) -> Result<Upgrade, TransportError<io::Error>> {
        let to_the_other = address.iter().last() == Some(Part::P2p(self.paths.peer));
        let relayed = is_relayed(&address);
        let dial = counted(self.inner.dial(address, opts)?, relayed, &self.paths);
        if relayed || !to_the_other {
            return Ok(dial);
        }
        let course = self.course.clone();
        Ok(async move {
            course.reached(Stage::Direct).await;
            dial.await
        }
        .boxed())
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Upgrade, io::Error>> {
        let event = ready!(Pin::new(&mut self.inner).poll(cx));
        let relayed = match &event {
            TransportEvent::Incoming { local_addr, .. } => is_relayed(local_addr),
            _ => false,
        };
        Poll::Ready(event.map_upgrade(|upgrade| counted(upgrade, relayed, &self.paths)))
    }
}

/// The link that comes of this, if it is one to the other side.
fn counted(
    link: impl Future<Output = io::Result<(PeerId, StreamMuxerBox)>> + Send + 'static,
    relayed: bool,
    paths: &Paths,
) -> Upgrade {
    let paths = paths.clone();
    let path = if relayed { Path::Relayed } else { Path::Direct };
    link.map_ok(move |(peer, inner)| {
        if peer != paths.peer {
            return (peer, inner);
        }
        paths.book.note(|seen| path.links(seen).opened += 1);
        (peer, StreamMuxerBox::new(Link { inner, path, paths }))
    })
    .boxed()
}

struct Link {
    inner: StreamMuxerBox,
    path: Path,
    paths: Paths,
}

impl Link {
    fn substream(&self, inner: SubstreamBox, ours: bool) -> Substream {
        let count = Arc::new(Count {
            path: self.path,
            ours,
            written: AtomicU64::new(0),
            head: Mutex::default(),
        });
        lock(&self.paths.substreams).push(count.clone());
        Substream { inner, count }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let path = self.path;
        self.paths.book.note(|seen| path.links(seen).closed += 1);
    }
}

impl StreamMuxer for Link {
    type Substream = Substream;
    type Error = io::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Substream>> {
        let inner = ready!(Pin::new(&mut self.inner).poll_inbound(cx))?;
        Poll::Ready(Ok(self.substream(inner, false)))
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Substream>> {
        let inner = ready!(Pin::new(&mut self.inner).poll_outbound(cx))?;
        Poll::Ready(Ok(self.substream(inner, true)))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}

struct Count {
    path: Path,
    /// We have opened it.
    ours: bool,
    written: AtomicU64,
    /// The first bytes of whoever has opened it: they tell its protocol.
    head: Mutex<Vec<u8>>,
}

impl Count {
    fn saw(&self, bytes: &[u8], of_ours: bool) {
        if of_ours == self.ours {
            let mut head = lock(&self.head);
            let room = heads::LENGTH - head.len();
            head.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
    }
}

struct Substream {
    inner: SubstreamBox,
    count: Arc<Count>,
}

impl AsyncRead for Substream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let n = ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        self.count.saw(&buf[..n], false);
        Poll::Ready(Ok(n))
    }
}

impl AsyncWrite for Substream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let n = ready!(Pin::new(&mut self.inner).poll_write(cx, buf))?;
        self.count.saw(&buf[..n], true);
        self.count.written.fetch_add(n as u64, Ordering::Relaxed);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}
