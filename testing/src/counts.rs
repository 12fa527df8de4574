//! Substreams of a node, as its muxers see them: every byte of each.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::{AsyncRead, AsyncWrite};
use libp2p::{
    PeerId,
    core::muxing::{StreamMuxer, StreamMuxerBox, StreamMuxerEvent, SubstreamBox},
};

use crate::Log;

/// A substream, and what has gone over it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Substream {
    pub peer: PeerId,
    /// Its connection is.
    pub relayed: bool,
    /// The remote has opened it.
    pub inbound: bool,
    pub read: Vec<u8>,
    pub written: Vec<u8>,
    /// The node has let go of it.
    pub over: bool,
}

/// The substreams of a node, of all its connections. Clones share them.
pub type Counts = Log<Vec<Substream>>;

/// A connection, of which all is counted.
pub(crate) struct Counted {
    pub(crate) muxer: StreamMuxerBox,
    pub(crate) peer: PeerId,
    pub(crate) relayed: bool,
    pub(crate) counts: Counts,
}

impl Counted {
    fn count(&self, io: SubstreamBox, inbound: bool) -> CountedIo {
        let mut number = 0;
        self.counts.write(|all| {
            number = all.len();
            all.push(Substream {
                peer: self.peer,
                relayed: self.relayed,
                inbound,
                read: Vec::new(),
                written: Vec::new(),
                over: false,
            });
        });
        CountedIo {
            io,
            number,
            counts: self.counts.clone(),
        }
    }
}

impl StreamMuxer for Counted {
    type Substream = CountedIo;
    type Error = io::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<CountedIo>> {
        let io = ready!(Pin::new(&mut self.muxer).poll_inbound(cx))?;
        Poll::Ready(Ok(self.count(io, true)))
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<CountedIo>> {
        let io = ready!(Pin::new(&mut self.muxer).poll_outbound(cx))?;
        Poll::Ready(Ok(self.count(io, false)))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.muxer).poll_close(cx)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
        Pin::new(&mut self.muxer).poll(cx)
    }
}

/// A substream, of which all is counted.
pub(crate) struct CountedIo {
    io: SubstreamBox,
    number: usize,
    counts: Counts,
}

impl CountedIo {
    fn change(&self, change: impl FnOnce(&mut Substream)) {
        self.counts.write(|all| change(&mut all[self.number]));
    }
}

impl Drop for CountedIo {
    fn drop(&mut self) {
        self.change(|it| it.over = true);
    }
}

impl AsyncRead for CountedIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let n = ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        self.change(|it| it.read.extend_from_slice(&buf[..n]));
        Poll::Ready(Ok(n))
    }
}

impl AsyncWrite for CountedIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let n = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
        self.change(|it| it.written.extend_from_slice(&buf[..n]));
        Poll::Ready(Ok(n))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_close(cx)
    }
}
