//! The stream that the application holds: its protocol negotiated on top of a migratable stream, whose
//! bytes the negotiation's are, so that a migration during it is nothing special; or a plain stream, if
//! the remote knows nothing of migration.

use std::{
    fmt,
    io::{self, IoSlice, IoSliceMut},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker, ready},
};

use futures::{AsyncRead, AsyncWrite, AsyncWriteExt, task::AtomicWaker};
use libp2p_identity::PeerId;
use libp2p_swarm::{ConnectionId, StreamProtocol};
use multistream_select::{Negotiated, NegotiationError, Version};

use crate::{
    accept::Acceptors,
    machine::StreamId,
    protocol::codec::{self, Request},
    stream::{Migratable, Shared, StreamKey},
    substream::Substream,
};

type SwarmShared = Shared<Substream, ConnectionId>;

/// A stream that moves from one connection to another without its application noticing.
///
/// Reads and writes are those of any libp2p stream, with these points:
///
/// - **Errors.** A stream that lost a leg with bytes in flight, or whose end cannot be told from a loss,
///   fails with [`io::ErrorKind::ConnectionReset`]; it never ends early and looks complete, but for the
///   cases that the README lists under limitations.
/// - **Drop.** Dropped before `poll_close` has returned, the stream is aborted, unless both directions
///   have ended. Dropped after it, it is detached: what was written is delivered, a migration that is
///   under way is finished in the background, and what still comes in is discarded.
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
    /// A lazy negotiation that failed panics when it is used again; so it is not.
    broken: Option<io::ErrorKind>,
    /// Until the answer to a lazy offer has been read.
    unanswered: Option<Arc<Both>>,
}

/// A lazy negotiation flushes when it is read from, and a leg keeps only the last waker per direction:
/// the reader's would take the place of the writer's. So until the answer is there, whatever is woken
/// wakes both.
#[derive(Default)]
struct Both {
    reader: AtomicWaker,
    writer: AtomicWaker,
}

impl Wake for Both {
    fn wake(self: Arc<Self>) {
        self.reader.wake();
        self.writer.wake();
    }
}

type SwarmMigratable = Migratable<Substream, ConnectionId>;

enum Inner {
    Migratable {
        io: Agreement,
        shared: Arc<SwarmShared>,
        /// The connection as it was last known.
        first: ConnectionId,
    },
    Plain {
        // Rare among streams that mostly migrate, and large.
        io: Box<libp2p_swarm::Stream>,
        connection: ConnectionId,
        sent: u64,
        received: u64,
    },
}

/// How far the protocol is agreed on.
enum Agreement {
    /// It is; what negotiated it is gone.
    Agreed(SwarmMigratable),
    /// The remote's answer comes before its first byte.
    Offered(Box<Negotiated<SwarmMigratable>>),
}

impl Stream {
    pub(crate) fn plain(
        io: libp2p_swarm::Stream,
        key: StreamKey,
        peer: Arc<PeerId>,
        connection: ConnectionId,
        protocol: StreamProtocol,
    ) -> Self {
        Self {
            io: Inner::Plain {
                io: Box::new(io),
                connection,
                sent: 0,
                received: 0,
            },
            key,
            peer,
            protocol,
            broken: None,
            unanswered: None,
        }
    }

    fn migratable(
        io: Agreement,
        shared: Arc<SwarmShared>,
        peer: Arc<PeerId>,
        first: ConnectionId,
        protocol: StreamProtocol,
    ) -> Self {
        let offered = matches!(io, Agreement::Offered(_));
        Self {
            key: shared.key(),
            io: Inner::Migratable { io, shared, first },
            peer,
            protocol,
            broken: None,
            unanswered: offered.then(Arc::default),
        }
    }

    /// The stream's name in this behaviour, which never changes.
    pub fn key(&self) -> StreamKey {
        self.key
    }

    /// The stream's present ID on the wire, which each migration changes. `None` for a plain stream.
    pub fn id(&self) -> Option<StreamId> {
        match &self.io {
            Inner::Migratable { shared, .. } => Some(shared.status().id),
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

    /// The connection that carries what is written now.
    pub fn connection(&self) -> ConnectionId {
        match &self.io {
            Inner::Migratable { shared, first, .. } => shared.status().connection.unwrap_or(*first),
            Inner::Plain { connection, .. } => *connection,
        }
    }

    /// Whether the stream can be moved: whether the remote speaks the protocol.
    pub fn is_migratable(&self) -> bool {
        matches!(self.io, Inner::Migratable { .. })
    }

    /// Bytes written so far over all legs, the negotiation of the protocol included.
    pub fn bytes_out(&self) -> u64 {
        match &self.io {
            Inner::Migratable { shared, .. } => shared.status().sent,
            Inner::Plain { sent, .. } => *sent,
        }
    }

    /// Bytes read so far over all legs, the negotiation of the protocol and what was read ahead included.
    pub fn bytes_in(&self) -> u64 {
        match &self.io {
            Inner::Migratable { shared, .. } => shared.status().received,
            Inner::Plain { received, .. } => *received,
        }
    }

    fn usable(&self) -> io::Result<()> {
        match self.broken {
            Some(kind) => Err(kind.into()),
            None => Ok(()),
        }
    }

    fn after_read(&mut self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if polled.is_ready()
            && self.unanswered.take().is_some()
            && let Inner::Migratable { shared, .. } = &self.io
        {
            shared.set_unanswered(false);
        }
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
    ($self:expr, $side:ident, $cx:ident, $io:ident => $poll:expr) => {{
        let waker = $self.unanswered.as_ref().map(|both| {
            both.$side.register($cx.waker());
            Waker::from(both.clone())
        });
        let waker = waker.as_ref().unwrap_or($cx.waker());
        let $cx = &mut Context::from_waker(waker);
        match &mut $self.io {
            Inner::Migratable {
                io: Agreement::Agreed(io),
                ..
            } => {
                let $io = Pin::new(io);
                $poll
            }
            Inner::Migratable {
                io: Agreement::Offered(io),
                ..
            } => {
                let $io = Pin::new(&mut **io);
                $poll
            }
            Inner::Plain { io, .. } => {
                let $io = Pin::new(&mut **io);
                $poll
            }
        }
    }};
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.usable()?;
        let polled = delegate!(self, reader, cx, io => io.poll_read(cx, buf));
        self.after_read(polled)
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        self.usable()?;
        let polled = delegate!(self, reader, cx, io => io.poll_read_vectored(cx, bufs));
        self.after_read(polled)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.usable()?;
        let polled = delegate!(self, writer, cx, io => io.poll_write(cx, buf));
        self.after_write(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.usable()?;
        let polled = delegate!(self, writer, cx, io => io.poll_write_vectored(cx, bufs));
        self.after_write(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.usable()?;
        delegate!(self, writer, cx, io => io.poll_flush(cx))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.usable()?;
        ready!(delegate!(self, writer, cx, io => io.poll_close(cx)))?;
        Poll::Ready(Ok(()))
    }
}

/// Offers a protocol on a stream that we have labelled. If the remote is known to support it, its
/// answer is not waited for, and the offer travels with the label.
pub(crate) async fn dial(
    shared: Arc<SwarmShared>,
    peer: Arc<PeerId>,
    connection: ConnectionId,
    protocol: StreamProtocol,
    known: bool,
) -> Result<Stream, NegotiationError> {
    let mut io = Migratable::new(shared.clone());
    let offer = [protocol];
    let (protocol, io) = if known {
        let lazily = multistream_select::dialer_select_proto(io, offer, Version::V1Lazy);
        let (protocol, mut io) = lazily.await?;
        // A lazy offer would wait for the first write, and could be lost by a drop after it.
        io.flush().await?;
        shared.set_unanswered(true);
        (protocol, Agreement::Offered(Box::new(io)))
    } else {
        // It is answered when this returns, and nothing is left in what negotiated it.
        let (protocol, _) =
            multistream_select::dialer_select_proto(&mut io, offer, Version::V1).await?;
        (protocol, Agreement::Agreed(io))
    };
    Ok(Stream::migratable(io, shared, peer, connection, protocol))
}

/// What a stream that the remote has labelled turns out to be.
pub(crate) enum Listened {
    /// A stream.
    Stream(Stream),
    /// A leg for another: the proof of concept in Go labels it first, and then says `Migrate` after
    /// another prefix. The stream that it seemed to be is over.
    Leg(Substream, Request),
    /// Neither: what came after the other prefix was no `Migrate`.
    Violation,
}

/// Answers a remote's offer on a stream that it has labelled.
pub(crate) async fn listen(
    shared: Arc<SwarmShared>,
    peer: Arc<PeerId>,
    connection: ConnectionId,
    acceptors: Arc<Acceptors>,
) -> Result<Listened, NegotiationError> {
    let mut io = Migratable::new(shared.clone());
    let protocols = acceptors.protocols();
    let protocols = protocols.iter().cloned();
    // It is answered when this returns, and nothing is left in what negotiated it.
    let (protocol, _) = multistream_select::listener_select_proto(&mut io, protocols).await?;
    if !acceptors.is_prefix(&protocol) {
        let io = Agreement::Agreed(io);
        let stream = Stream::migratable(io, shared, peer, connection, protocol);
        return Ok(Listened::Stream(stream));
    }
    // One level and no more: what comes now is a message, and no label.
    let leg = shared.dissolve().ok_or(NegotiationError::Failed)?;
    drop(io);
    let mut leg = leg.into_io();
    match codec::read(&mut leg).await {
        Ok(request @ Request::Migrate { .. }) => Ok(Listened::Leg(leg, request)),
        Ok(Request::Label { .. }) => Ok(Listened::Violation),
        Err(error) if error.is_violation() => Ok(Listened::Violation),
        Err(_) => Err(NegotiationError::Failed),
    }
}
