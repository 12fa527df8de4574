//! A substream as this crate has it.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll},
};

use futures::{AsyncRead, AsyncWrite, future::Either};
use libp2p_core::muxing::SubstreamBox;
use libp2p_swarm::Stream;

use crate::{
    permits::{Permit, Permits},
    pulse::Pulse,
};

/// A substream of a connection. If the prefix is agreed on it, its handler keeps the connection alive as
/// long as it is there, and the swarm does not count it: so the swarm's count is that of all others, and
/// says whether anybody else uses the connection (*Pruning*).
pub(crate) struct Substream {
    /// The swarm's, of one of its connections, or a link's, below the swarm.
    io: Either<Stream, SubstreamBox>,
    _held: Option<Permit>,
    /// Beats whenever anything is read, as long as the connection's handler is there.
    pulse: Pulse,
}

impl Substream {
    /// A substream that is, or will be, a leg.
    pub(crate) fn leg(mut io: Stream, legs: &Permits, pulse: &Pulse) -> Self {
        io.ignore_for_keep_alive();
        Self {
            io: Either::Left(io),
            _held: Some(legs.acquire()),
            pulse: pulse.clone(),
        }
    }

    /// A substream that is the application's own.
    pub(crate) fn plain(io: Stream) -> Self {
        Self {
            io: Either::Left(io),
            _held: None,
            pulse: Pulse::default(),
        }
    }

    /// A leg below the swarm.
    pub(crate) fn link(io: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        Self {
            io: Either::Right(SubstreamBox::new(io)),
            _held: None,
            pulse: Pulse::default(),
        }
    }

    /// The swarm's stream, of a plain one.
    pub(crate) fn into_plain(self) -> Option<Stream> {
        match self.io {
            Either::Left(io) => Some(io),
            Either::Right(_) => None,
        }
    }
}

impl fmt::Debug for Substream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Substream").finish_non_exhaustive()
    }
}

/// Reads and writes that are those of a type's `io`; a method may see what every read brings.
macro_rules! by_its_io {
    ($type:ty $(, $seen:ident)?) => {
        impl AsyncRead for $type {
            #[inline]
            fn poll_read(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut [u8],
            ) -> Poll<io::Result<usize>> {
                let polled = Pin::new(&mut self.io).poll_read(cx, buf);
                $(self.$seen(&polled);)?
                polled
            }

            #[inline]
            fn poll_read_vectored(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &mut [io::IoSliceMut<'_>],
            ) -> Poll<io::Result<usize>> {
                let polled = Pin::new(&mut self.io).poll_read_vectored(cx, bufs);
                $(self.$seen(&polled);)?
                polled
            }
        }

        impl AsyncWrite for $type {
            #[inline]
            fn poll_write(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &[u8],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.io).poll_write(cx, buf)
            }

            #[inline]
            fn poll_write_vectored(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
            }

            #[inline]
            fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.io).poll_flush(cx)
            }

            #[inline]
            fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.io).poll_close(cx)
            }
        }
    };
}
pub(crate) use by_its_io;

impl Substream {
    fn read(&self, polled: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(1..)) = polled {
            self.pulse.beat();
        }
    }
}

by_its_io!(Substream, read);
