//! The stream that the application holds: a migratable one, one whose protocol the remote has still to agree to,
//! or a plain one, if the remote knows nothing of migration.

use std::{
    fmt,
    future::poll_fn,
    io::{self, IoSlice, IoSliceMut},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures::{AsyncRead, AsyncWrite};
use libp2p_identity::PeerId;
use libp2p_swarm::StreamProtocol;

use crate::{
    key::{ConnectionKey, StreamKey},
    machine::{Side, StreamId},
    migratable::{Migratable, Shared, Status},
    offer::{Pending, Poller, Settled},
    substream::Substream,
};

pub(crate) type SwarmShared = Shared<Substream>;
pub(crate) type SwarmMigratable = Migratable<Substream>;

/// A stream that moves from one connection to another without its application noticing.
///
/// Reads and writes are those of any libp2p stream, with these points:
///
/// - **Errors.** A stream that lost a leg with bytes in flight, or whose end cannot be told from a loss,
///   fails with [`io::ErrorKind::ConnectionReset`]; it never ends early and looks complete, but for the
///   cases that the guarantees (`docs/guarantees.md`) name as what cannot be known.
/// - **Drop.** Dropped before `poll_close` has returned, the stream is aborted, unless both directions
///   have ended; what was flushed arrives all the same, as a migration that is under way is finished
///   first, within the progress timeout. Dropped after it, it is detached: what was written is
///   delivered, a migration that is under way is finished in the background, and what still comes in
///   is discarded.
/// - **Flush** waits for the connection that carries what was written last, never for a migration.
/// - **Cancel safety.** All of it is polled; nothing is lost by not polling again.
/// - **Tasks.** One task may read while another writes. Two tasks that both read, or both write, are one
///   too many: only the last to poll is woken, as with any `AsyncRead`.
pub struct Stream {
    io: Inner,
    key: StreamKey,
    /// Shared by all the peer's streams.
    peer: Arc<PeerId>,
    protocol: StreamProtocol,
    opener: Side,
    /// The offer has come to nothing, or a lazily negotiated substream has failed, which panics when it is
    /// used again; so it is not.
    broken: Option<io::ErrorKind>,
}

/// The inside of a [`Stream`].
pub(crate) enum Inner {
    /// The protocol is agreed; what negotiated it is gone.
    Migratable {
        io: SwarmMigratable,
        shared: Arc<SwarmShared>,
    },
    /// The remote has still to answer, or has refused and is asked for a plain stream.
    Offered {
        pending: Arc<Pending>,
        shared: Arc<SwarmShared>,
    },
    Plain {
        // Rare among streams that mostly migrate, and large.
        io: Box<libp2p_swarm::Stream>,
        connection: ConnectionKey,
        sent: u64,
        received: u64,
        /// True if it was closed for writing while it was offered.
        closed: bool,
    },
}

impl Stream {
    pub(crate) fn plain(
        io: libp2p_swarm::Stream,
        key: StreamKey,
        peer: Arc<PeerId>,
        connection: ConnectionKey,
        protocol: StreamProtocol,
        opener: Side,
    ) -> Self {
        let io = Inner::Plain {
            io: Box::new(io),
            connection,
            sent: 0,
            received: 0,
            closed: false,
        };
        Self::new(key, io, peer, protocol, opener)
    }

    pub(crate) fn new(
        key: StreamKey,
        io: Inner,
        peer: Arc<PeerId>,
        protocol: StreamProtocol,
        opener: Side,
    ) -> Self {
        Self {
            key,
            io,
            peer,
            protocol,
            opener,
            broken: None,
        }
    }

    /// The offer that the behaviour has to go on with, though the application polls nothing.
    pub(crate) fn pending(&self) -> Option<Arc<Pending>> {
        match &self.io {
            Inner::Offered { pending, .. } => Some(pending.clone()),
            Inner::Migratable { .. } | Inner::Plain { .. } => None,
        }
    }

    /// The stream's name in this behaviour, which never changes.
    pub fn key(&self) -> StreamKey {
        self.key
    }

    /// The stream's present ID on the wire, which each migration changes. `None` for a plain stream.
    pub fn id(&self) -> Option<StreamId> {
        self.status().map(|status| status.id)
    }

    /// The stream's state, if it is migratable.
    fn status(&self) -> Option<Status> {
        match &self.io {
            Inner::Migratable { shared, .. } => Some(shared.status()),
            Inner::Offered {
                pending, shared, ..
            } => match pending.plain_sent() {
                None => Some(shared.status()),
                Some(_) => None,
            },
            Inner::Plain { .. } => None,
        }
    }

    /// The remote.
    pub fn peer(&self) -> PeerId {
        *self.peer
    }

    /// The negotiated protocol.
    pub fn protocol(&self) -> &StreamProtocol {
        &self.protocol
    }

    /// The connection that carries what is written now; `None` while the stream is between two.
    pub fn connection(&self) -> Option<ConnectionKey> {
        match &self.io {
            Inner::Migratable { shared, .. } | Inner::Offered { shared, .. } => {
                shared.status().connection
            }
            Inner::Plain { connection, .. } => Some(*connection),
        }
    }

    /// The side that opened the stream.
    pub fn opener(&self) -> Side {
        self.opener
    }

    /// True if the stream can be moved: if the remote speaks the migration protocol, and serves
    /// this protocol inside it. A peer that Identify says supports both may still turn out to serve
    /// this one on plain streams only; then the stream becomes a plain one when the remote's answer
    /// comes.
    pub fn is_migratable(&self) -> bool {
        self.status().is_some()
    }

    /// True if the stream would outlive the loss of its connection now
    /// ([`Config::with_resume`](crate::Config::with_resume)): both peers resume, and everything is kept that has not
    /// arrived.
    pub fn is_resumable(&self) -> bool {
        self.status().is_some_and(|status| status.resumable)
    }

    /// Closes the stream for writing, and waits until the remote has said that everything is in its memory
    /// ([`Config::with_facts`](crate::Config::with_facts)); closing by itself, as on any stream, waits until it has left
    /// ours. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::Unsupported`] if the remote says no such thing; otherwise as `poll_close`, and
    /// [`io::ErrorKind::ConnectionReset`] if the stream ends before.
    pub async fn delivered(&mut self) -> io::Result<()> {
        poll_fn(|cx| {
            ready!(Pin::new(&mut *self).poll_close(cx))?;
            match &self.io {
                Inner::Migratable { io, .. } => io.poll_delivered(cx),
                Inner::Offered { .. } | Inner::Plain { .. } => {
                    Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
                }
            }
        })
        .await
    }

    /// Bytes written so far over all legs, the negotiation of the protocol included; of a plain stream,
    /// without it.
    pub fn bytes_out(&self) -> u64 {
        match &self.io {
            Inner::Migratable { shared, .. } => shared.status().sent,
            Inner::Offered {
                pending, shared, ..
            } => pending.plain_sent().unwrap_or_else(|| shared.status().sent),
            Inner::Plain { sent, .. } => *sent,
        }
    }

    /// Bytes read so far over all legs, the negotiation of the protocol and what was read ahead included; of
    /// a plain stream, without it.
    pub fn bytes_in(&self) -> u64 {
        match &self.io {
            Inner::Plain { received, .. } => *received,
            _ => self.status().map_or(0, |status| status.received),
        }
    }

    fn usable(&self) -> io::Result<()> {
        self.broken.map_or(Ok(()), |kind| Err(kind.into()))
    }

    /// Ready at once, but for an offer that is not settled.
    #[inline]
    fn poll_settle(&mut self, side: Poller, cx: &Context<'_>) -> Poll<io::Result<()>> {
        match &self.io {
            Inner::Offered { .. } => self.poll_offered(side, cx),
            Inner::Migratable { .. } | Inner::Plain { .. } => Poll::Ready(Ok(())),
        }
    }

    #[cold]
    fn poll_offered(&mut self, side: Poller, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let Inner::Offered { pending, shared } = &self.io else {
            return Poll::Ready(Ok(()));
        };
        self.io = match ready!(pending.poll_settled(side, cx)) {
            Settled::Agreed(io) => Inner::Migratable {
                io: *io,
                shared: shared.clone(),
            },
            Settled::Plain {
                io,
                connection,
                sent,
                closed,
            } => Inner::Plain {
                io,
                connection,
                sent,
                received: 0,
                closed,
            },
            Settled::Failed(error) => {
                self.broken = Some(error.kind());
                return Poll::Ready(Err(error));
            }
        };
        Poll::Ready(Ok(()))
    }

    fn after_read(&mut self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match (&polled, &mut self.io) {
            (Poll::Ready(Err(error)), _) => self.broken = Some(error.kind()),
            (Poll::Ready(Ok(n)), Inner::Plain { received, .. }) => *received += *n as u64,
            _ => {}
        }
        polled
    }

    fn after_write(&mut self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let (Poll::Ready(Ok(n)), Inner::Plain { sent, .. }) = (&polled, &mut self.io) {
            *sent += *n as u64;
        }
        polled
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Inner::Offered { pending, .. } = &self.io {
            pending.let_go();
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("key", &self.key)
            .field("id", &self.id())
            .field("peer", &self.peer)
            .field("protocol", &self.protocol)
            .field("connection", &self.connection())
            .finish_non_exhaustive()
    }
}

macro_rules! delegate {
    ($self:expr, $side:ident, $cx:ident, $io:ident => $poll:expr, $pending:ident => $offered:expr) => {{
        $self.usable()?;
        if let Poll::Ready(Err(error)) = $self.poll_settle(Poller::$side, $cx) {
            return Poll::Ready(Err(error));
        }
        match &mut $self.io {
            Inner::Migratable { io, .. } => {
                let $io = Pin::new(io);
                $poll
            }
            Inner::Plain { io, .. } => {
                let $io = Pin::new(&mut **io);
                $poll
            }
            Inner::Offered {
                pending: $pending, ..
            } => $offered,
        }
    }};
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let polled = delegate!(self, Reader, cx,
            io => io.poll_read(cx, buf), _offer => Poll::Pending);
        self.after_read(polled)
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = delegate!(self, Reader, cx,
            io => io.poll_read_vectored(cx, bufs), _offer => Poll::Pending);
        self.after_read(polled)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = delegate!(self, Writer, cx,
            io => io.poll_write(cx, buf), offer => offer.poll_write(cx, buf));
        self.after_write(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = delegate!(self, Writer, cx,
        io => io.poll_write_vectored(cx, bufs),
        offer => {
            let first = bufs.iter().find(|buf| !buf.is_empty());
            offer.poll_write(cx, first.map_or(&[], |buf| buf))
        });
        self.after_write(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, Writer, cx, io => io.poll_flush(cx), offer => offer.poll_flush(cx))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if matches!(self.io, Inner::Plain { closed: true, .. }) {
            return Poll::Ready(Ok(()));
        }
        delegate!(self, Writer, cx, io => io.poll_close(cx), offer => offer.poll_close(cx))
    }
}
