//! A leg of a test's making.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use futures::{AsyncRead, AsyncWrite};

/// A substream that brings so many bytes, and takes all that is written.
#[derive(Default)]
pub(super) struct Fake {
    /// The bytes that are still to come, counted down: each is the count when it came.
    pub(super) left: usize,
    /// The size of the largest piece in which they come.
    pub(super) piece: usize,
    /// True if the end comes after them, else nothing.
    pub(super) ends: bool,
    /// True if what is written never goes out.
    pub(super) stuck: bool,
    /// The doing of its drop.
    pub(super) _on_drop: OnDrop,
}

/// Something that is done when it is dropped.
#[derive(Default)]
pub(super) struct OnDrop(pub(super) Option<Box<dyn FnOnce() + Send>>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(|f| f());
    }
}

impl Fake {
    fn goes_out(&self) -> Poll<io::Result<()>> {
        match self.stuck {
            true => Poll::Pending,
            false => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncRead for Fake {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if self.left == 0 && !self.ends {
            return Poll::Pending;
        }
        let n = buf.len().min(self.left).min(self.piece);
        for (offset, byte) in buf[..n].iter_mut().enumerate() {
            *byte = (self.left - offset) as u8;
        }
        self.left -= n;
        Poll::Ready(Ok(n))
    }
}

impl AsyncWrite for Fake {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.goes_out()
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.goes_out()
    }
}
