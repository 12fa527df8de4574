//! Substreams of links: counted, negotiated lazily, or with what has been read of them already before them.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use futures::{
    AsyncRead, AsyncWrite,
    task::{ArcWake, AtomicWaker},
};
use libp2p_core::muxing::SubstreamBox;
use multistream_select::{DialerSelectFuture, Negotiated, Version, dialer_select_proto};

use super::wakers::PeerWaker;
use crate::substream::by_its_io;

/// The number of substreams on a link, of all kinds, of either side.
#[derive(Debug)]
pub(super) struct Load {
    all: AtomicUsize,
    /// Substreams that are no legs, and the peeks that may become one.
    plain: AtomicUsize,
    /// Somebody waits for room.
    awaited: AtomicBool,
    waker: Arc<PeerWaker>,
}

impl Load {
    pub(super) fn new(waker: Arc<PeerWaker>) -> Arc<Self> {
        Arc::new(Self {
            all: AtomicUsize::new(0),
            plain: AtomicUsize::new(0),
            awaited: AtomicBool::new(false),
            waker,
        })
    }

    /// True if there is room for one more; else whoever polls the peer's connections is woken when there is.
    pub(super) fn has_room(&self, limit: usize) -> bool {
        if self.all.load(Ordering::SeqCst) < limit {
            return true;
        }
        self.awaited.store(true, Ordering::SeqCst);
        self.all.load(Ordering::SeqCst) < limit
    }

    pub(super) fn plain(&self) -> usize {
        self.plain.load(Ordering::SeqCst)
    }

    /// Takes a place.
    pub(super) fn place(self: &Arc<Self>) -> Place {
        self.all.fetch_add(1, Ordering::SeqCst);
        self.plain.fetch_add(1, Ordering::SeqCst);
        Place {
            load: self.clone(),
            plain: true,
        }
    }
}

/// A place on a link, which is given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    load: Arc<Load>,
    plain: bool,
}

impl Place {
    fn leg(&mut self) {
        if std::mem::take(&mut self.plain) {
            self.load.plain.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let was_last =
            std::mem::take(&mut self.plain) && self.load.plain.fetch_sub(1, Ordering::SeqCst) == 1;
        self.load.all.fetch_sub(1, Ordering::SeqCst);
        // A link of which nothing is left may be closed.
        if self.load.awaited.swap(false, Ordering::SeqCst) || was_last {
            self.load.waker.rouse();
        }
    }
}

/// A substream of a link.
#[derive(Debug)]
pub(super) struct Physical {
    io: SubstreamBox,
    place: Place,
}

impl Physical {
    pub(super) fn new(io: SubstreamBox, place: Place) -> Self {
        Self { io, place }
    }

    /// Counts it no longer as plain: it is a leg, which the hub counts.
    pub(super) fn leg(mut self) -> Self {
        self.place.leg();
        self
    }

    /// Proposes the protocol; nothing is written before the first write or flush, and nobody waits for the
    /// answer but the first reader.
    pub(super) fn propose(self, protocol: &'static str) -> Lazy {
        Lazy {
            select: Some(dialer_select_proto(self, vec![protocol], Version::V1Lazy)),
            io: None,
            answered: false,
            parties: Arc::default(),
        }
    }
}

by_its_io!(Physical);

/// A reader and a writer of one substream: whichever is woken, both are.
#[derive(Debug, Default)]
struct Parties {
    reader: AtomicWaker,
    writer: AtomicWaker,
}

impl ArcWake for Parties {
    fn wake_by_ref(parties: &Arc<Self>) {
        parties.reader.wake();
        parties.writer.wake();
    }
}

/// A substream whose protocol is proposed with the first bytes.
///
/// As long as the answer is out, a read of multistream-select's also writes, and would take the writer's place
/// with the muxer: so meanwhile each is polled for both. After an error it would panic, and is not asked again.
pub(super) struct Lazy {
    select: Option<DialerSelectFuture<Physical, std::vec::IntoIter<&'static str>>>,
    io: Option<Negotiated<Physical>>,
    /// The remote has agreed.
    answered: bool,
    parties: Arc<Parties>,
}

enum Party {
    Reader,
    Writer,
}

impl Lazy {
    fn poll_by<T>(
        &mut self,
        party: Party,
        cx: &mut Context<'_>,
        f: impl FnOnce(Pin<&mut Negotiated<Physical>>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if self.answered
            && let Some(io) = &mut self.io
        {
            return f(Pin::new(io), cx);
        }
        match party {
            Party::Reader => self.parties.reader.register(cx.waker()),
            Party::Writer => self.parties.writer.register(cx.waker()),
        }
        let waker = futures::task::waker(self.parties.clone());
        let cx = &mut Context::from_waker(&waker);
        if let Some(select) = &mut self.select {
            // One proposal alone is taken for agreed without a byte.
            let selected = ready!(Pin::new(select).poll(cx));
            self.select = None;
            self.io = selected.ok().map(|(_, io)| io);
        }
        let Some(io) = &mut self.io else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let polled = ready!(f(Pin::new(io), cx));
        match (party, &polled) {
            (Party::Reader, Ok(_)) => {
                self.answered = true;
                // Whoever has registered for both would wait for what only one is woken for.
                self.parties.writer.wake();
            }
            (Party::Reader, Err(_)) => self.io = None,
            (Party::Writer, _) => {}
        }
        Poll::Ready(polled)
    }
}

impl AsyncRead for Lazy {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_by(Party::Reader, cx, |io, cx| io.poll_read(cx, buf))
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [io::IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_by(Party::Reader, cx, |io, cx| io.poll_read_vectored(cx, bufs))
    }
}

impl AsyncWrite for Lazy {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_by(Party::Writer, cx, |io, cx| io.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_by(Party::Writer, cx, |io, cx| io.poll_write_vectored(cx, bufs))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_by(Party::Writer, cx, |io, cx| io.poll_flush(cx))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_by(Party::Writer, cx, |io, cx| io.poll_close(cx))
    }
}

/// A substream with what has been read of it already before it, and without what has been written already.
#[derive(Debug)]
pub(super) struct Replayed {
    pub(super) io: Physical,
    pub(super) before: Vec<u8>,
    /// The bytes that were written already, and are swallowed when they are written again.
    pub(super) said: usize,
}

impl AsyncRead for Replayed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if self.before.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let n = buf.len().min(self.before.len());
        buf[..n].copy_from_slice(&self.before[..n]);
        self.before.drain(..n);
        if self.before.is_empty() {
            self.before = Vec::new();
        }
        Poll::Ready(Ok(n))
    }
}

impl AsyncWrite for Replayed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.said == 0 || buf.is_empty() {
            return Pin::new(&mut self.io).poll_write(cx, buf);
        }
        let n = buf.len().min(self.said);
        self.said -= n;
        Poll::Ready(Ok(n))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_close(cx)
    }
}
