//! A substream as the swarm has it: looked at until its first proposal is known, then one that moves, or a
//! plain one.

use std::{
    io::{self, IoSlice, IoSliceMut},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures::{AsyncRead, AsyncWrite, FutureExt, channel::oneshot};

use super::{
    io::{Physical, Replayed},
    peek::{NoProposal, proposal},
    peer::{ConnectionShared, Decision, Peer},
};
use crate::{
    StreamKey,
    stream::{SwarmMigratable, SwarmShared},
};

/// The bytes that are kept of a substream before it is known what becomes of it.
const MAX_HELD: usize = 4096;

/// The bytes of an inbound stream that are looked at, at most, to know its protocol.
const MAX_LOOKED_AT: usize = 1100;

/// A substream of a connection.
pub(super) struct Virtual {
    inner: Inner,
    /// Bytes that were written before it was known where to.
    held: Vec<u8>,
    connection: Option<Arc<ConnectionShared>>,
}

enum Inner {
    /// The swarm has still to propose something.
    Undecided {
        peer: Arc<Peer>,
        link: u64,
        io: Option<Physical>,
    },
    /// A plain one on another link has still to be opened.
    Own(oneshot::Receiver<Physical>),
    Plain(Physical),
    Replayed(Box<Replayed>),
    Moves(SwarmMigratable),
    /// One that the remote has opened, whose protocol is not known.
    Looked {
        io: SwarmMigratable,
        key: StreamKey,
        peer: Option<Arc<Peer>>,
        seen: Vec<u8>,
    },
    Failed(io::ErrorKind),
}

/// Polls what it is by now.
macro_rules! delegate {
    ($self:ident, $io:ident => $poll:expr) => {
        match &mut $self.inner {
            Inner::Plain(io) => {
                let $io = Pin::new(io);
                $poll
            }
            Inner::Replayed(io) => {
                let $io = Pin::new(&mut **io);
                $poll
            }
            Inner::Moves(io) | Inner::Looked { io, .. } => {
                let $io = Pin::new(io);
                $poll
            }
            Inner::Undecided { .. } | Inner::Own(_) | Inner::Failed(_) => {
                Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
            }
        }
    };
}

impl Virtual {
    fn new(inner: Inner) -> Self {
        Self {
            inner,
            held: Vec::new(),
            connection: None,
        }
    }

    /// A substream that the swarm opens on this link.
    pub(super) fn outbound(peer: &Arc<Peer>, link: u64, io: Physical, looked_at: bool) -> Self {
        Self::new(match looked_at {
            true => Inner::Undecided {
                peer: peer.clone(),
                link,
                io: Some(io),
            },
            false => Inner::Plain(io),
        })
    }

    /// An inbound substream that is none of ours.
    pub(super) fn plain(io: Replayed) -> Self {
        Self::new(Inner::Replayed(Box::new(io)))
    }

    /// A stream that the remote has labelled.
    pub(super) fn labelled(shared: Arc<SwarmShared>) -> Self {
        let key = shared.key();
        Self::new(Inner::Looked {
            io: SwarmMigratable::new(shared),
            key,
            peer: None,
            seen: Vec::new(),
        })
    }

    /// Gives it to this connection.
    pub(super) fn of(mut self, connection: &Arc<ConnectionShared>) -> Self {
        connection.begin();
        self.connection = Some(connection.clone());
        self
    }

    /// The swarm takes it, and with it what is needed to tell its protocol.
    pub(super) fn taken(mut self, of: &Arc<Peer>) -> Self {
        if let Inner::Looked { peer, .. } = &mut self.inner {
            *peer = Some(of.clone());
        }
        self
    }

    fn usable(&self) -> io::Result<()> {
        match (&self.inner, &self.connection) {
            (Inner::Failed(kind), _) => Err((*kind).into()),
            (_, Some(connection)) if connection.is_closed() => {
                Err(io::ErrorKind::NotConnected.into())
            }
            _ => Ok(()),
        }
    }

    /// True if all that there is to be decided is, and nothing is held.
    #[inline]
    fn is_settled(&self) -> bool {
        let decided = !matches!(self.inner, Inner::Undecided { .. } | Inner::Own(_));
        decided && self.held.is_empty()
    }

    /// Goes on until it is known what becomes of it, and all that was held is written.
    fn poll_decided(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match &mut self.inner {
                Inner::Undecided { peer, link, io } => {
                    let number = self.connection.as_ref().map_or(0, |it| it.number);
                    let decided =
                        peer.with(|state| state.poll_decide(number, *link, &self.held, io, cx));
                    self.inner = match ready!(decided) {
                        Ok(Decision::Labelled(shared)) => {
                            Inner::Moves(SwarmMigratable::new(shared))
                        }
                        Ok(Decision::Plain(io)) => Inner::Plain(io),
                        Ok(Decision::Own(opened)) => Inner::Own(opened),
                        Err(error) => Inner::Failed(error.kind()),
                    };
                }
                Inner::Own(opened) => {
                    self.inner = match ready!(opened.poll_unpin(cx)) {
                        Ok(io) => Inner::Plain(io),
                        Err(_) => Inner::Failed(io::ErrorKind::NotConnected),
                    };
                }
                Inner::Failed(kind) => return Poll::Ready(Err((*kind).into())),
                _ if self.held.is_empty() => return Poll::Ready(Ok(())),
                _ => {
                    let held = std::mem::take(&mut self.held);
                    let polled = delegate!(self, io => io.poll_write(cx, &held));
                    self.held = held;
                    match ready!(polled)? {
                        0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                        n => drop(self.held.drain(..n)),
                    }
                    if self.held.is_empty() {
                        self.held = Vec::new();
                    }
                }
            }
        }
    }

    /// Holds what is written before it is known what it is. `None` if it is known, or to be found out.
    fn hold(&mut self, buf: &[u8]) -> Option<usize> {
        let undecided = matches!(self.inner, Inner::Undecided { .. } | Inner::Own(_));
        let n = buf.len().min(MAX_HELD.saturating_sub(self.held.len()));
        if !undecided || n == 0 && !buf.is_empty() {
            return None;
        }
        self.held.extend_from_slice(&buf[..n]);
        Some(n)
    }

    /// Looks at what has been read of an inbound stream, until its first proposal is known.
    fn look(&mut self, read: &[u8]) {
        let Inner::Looked {
            key, peer, seen, ..
        } = &mut self.inner
        else {
            return;
        };
        seen.extend_from_slice(read);
        let known = match proposal(seen) {
            Ok(protocol) => {
                if let Some(peer) = peer {
                    peer.with(|state| state.proposed(*key, protocol));
                }
                true
            }
            Err(NoProposal::Missing(_)) => seen.len() > MAX_LOOKED_AT,
            Err(NoProposal::None) => true,
        };
        if known
            && let Inner::Looked { io, .. } =
                std::mem::replace(&mut self.inner, Inner::Failed(io::ErrorKind::NotConnected))
        {
            self.inner = Inner::Moves(io);
        }
    }
}

impl Drop for Virtual {
    fn drop(&mut self) {
        // What it has goes first: the connection may be waiting for it.
        self.inner = Inner::Failed(io::ErrorKind::NotConnected);
        if let Some(connection) = self.connection.take() {
            connection.end();
        }
    }
}

impl AsyncRead for Virtual {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.usable()?;
        if !self.is_settled() {
            ready!(self.poll_decided(cx))?;
        }
        let n = ready!(delegate!(self, io => io.poll_read(cx, buf)))?;
        self.look(&buf[..n]);
        Poll::Ready(Ok(n))
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.is_settled() && !matches!(self.inner, Inner::Looked { .. }) {
            self.usable()?;
            return delegate!(self, io => io.poll_read_vectored(cx, bufs));
        }
        match bufs.iter_mut().find(|buf| !buf.is_empty()) {
            Some(buf) => self.poll_read(cx, buf),
            None => self.poll_read(cx, &mut []),
        }
    }
}

impl AsyncWrite for Virtual {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.usable()?;
        if !self.is_settled() {
            if let Some(n) = self.hold(buf) {
                return Poll::Ready(Ok(n));
            }
            ready!(self.poll_decided(cx))?;
        }
        delegate!(self, io => io.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.is_settled() {
            self.usable()?;
            return delegate!(self, io => io.poll_write_vectored(cx, bufs));
        }
        let first = bufs.iter().find(|buf| !buf.is_empty());
        self.poll_write(cx, first.map_or(&[], |buf| buf))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.usable()?;
        if matches!(self.inner, Inner::Undecided { .. }) && self.held.is_empty() {
            // Nothing has been said that could be decided upon.
            return Poll::Ready(Ok(()));
        }
        if !self.is_settled() {
            ready!(self.poll_decided(cx))?;
        }
        delegate!(self, io => io.poll_flush(cx))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.usable()?;
        if !self.is_settled() {
            ready!(self.poll_decided(cx))?;
        }
        delegate!(self, io => io.poll_close(cx))
    }
}
