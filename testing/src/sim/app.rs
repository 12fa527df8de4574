//! An application on one side of a stream: writes a pattern, reads the other's, closes or drops.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures::{AsyncRead, AsyncWrite};

use crate::Random;

use super::{leg::FaultLeg, stream::Migratable};

/// The byte at a position of a side's pattern.
pub fn byte(side: usize, position: usize) -> u8 {
    let x = (position as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15 + 2 * side as u64);
    (x >> 32) as u8
}

/// When the write side is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// When all has been written.
    AtOnce,
    /// When all has been written and the other's end has been read.
    OnceEnded,
    /// When all has been written and so much has been read: both write sides stay open until then.
    OnceRead(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Clean,
    Failed,
}

/// What an application does, and what has become of it.
pub struct App {
    side: usize,
    stream: Option<Migratable<FaultLeg>>,
    pub total: usize,
    close: Close,
    /// Where the reader stops for a long time.
    pub sleeps_at: Option<usize>,
    /// Drop the stream, as it is, when so much has been read.
    drop_at: Option<usize>,
    pub written: usize,
    pub read: usize,
    pub closing: bool,
    pub closed: bool,
    pub write_failed: bool,
    pub ended: Option<Ending>,
    /// Whether our write side was closed when the end was read: no evidence then.
    pub closed_at_end: bool,
    pub dropped_early: bool,
    pub violation: Option<String>,
}

impl App {
    /// One that writes so much, and never drops its stream early.
    pub fn steady(side: usize, stream: Migratable<FaultLeg>, total: usize, close: Close) -> Self {
        let mut app = Self::new(side, stream, &mut super::random(0), close);
        app.total = total;
        app.drop_at = None;
        app
    }

    pub fn new(side: usize, stream: Migratable<FaultLeg>, rng: &mut Random, close: Close) -> Self {
        let total = rng.index(400);
        Self {
            side,
            stream: Some(stream),
            total,
            close,
            sleeps_at: None,
            drop_at: rng.percent(10).then(|| rng.index(300)),
            written: 0,
            read: 0,
            closing: false,
            closed: false,
            write_failed: false,
            ended: None,
            closed_at_end: false,
            dropped_early: false,
            violation: None,
        }
    }

    /// Whether the reader sleeps.
    pub fn sleeps(&self) -> bool {
        let there = self.sleeps_at.is_some_and(|at| self.read >= at);
        there && self.ended.is_none() && self.stream.is_some()
    }

    pub fn wake(&mut self) {
        self.sleeps_at = None;
    }

    pub fn is_done(&self) -> bool {
        self.stream.is_none()
    }

    /// Whether the writer waits for the reader.
    pub fn waits_for_reader(&self) -> bool {
        self.ended.is_none()
            && match self.close {
                Close::AtOnce => false,
                Close::OnceEnded => true,
                Close::OnceRead(much) => self.read < much,
            }
    }

    fn let_go_if_done(&mut self) {
        if self.ended.is_some() && (self.closed || self.write_failed) {
            self.stream = None;
        }
    }

    /// One step of reading. Returns whether it may be polled again at once.
    pub fn poll_reader(&mut self, cx: &mut Context<'_>, rng: &mut Random) -> bool {
        if self.ended.is_some() || self.sleeps() {
            return false;
        }
        let Some(stream) = &mut self.stream else {
            return false;
        };
        let mut buf = [0; 48];
        let wanted = 1 + rng.index(buf.len() - 1);
        match Pin::new(stream).poll_read(cx, &mut buf[..wanted]) {
            Poll::Pending => false,
            Poll::Ready(Ok(0)) => {
                self.ended = Some(Ending::Clean);
                self.closed_at_end = self.closing;
                self.let_go_if_done();
                false
            }
            Poll::Ready(Ok(n)) => {
                for got in &buf[..n] {
                    let expected = byte(1 - self.side, self.read);
                    if *got != expected {
                        let message = format!("side {} at {}: a wrong byte", self.side, self.read);
                        self.violation.get_or_insert(message);
                    }
                    self.read += 1;
                }
                // Dropping what is closed leaves a yamux writer at the other side waiting for ever, as with any
                // stream; not what is looked for here.
                if !self.closing && self.drop_at.is_some_and(|at| self.read >= at) {
                    self.dropped_early = true;
                    self.stream = None;
                    return false;
                }
                true
            }
            Poll::Ready(Err(_)) => {
                self.ended = Some(Ending::Failed);
                self.let_go_if_done();
                false
            }
        }
    }

    /// One step of writing.
    pub fn poll_writer(&mut self, cx: &mut Context<'_>, rng: &mut Random) -> bool {
        if self.closed || self.write_failed {
            return false;
        }
        let Some(stream) = &mut self.stream else {
            return false;
        };
        let stream = Pin::new(stream);
        let polled = if self.closing {
            match stream.poll_close(cx) {
                Poll::Ready(Ok(())) => {
                    self.closed = true;
                    Poll::Ready(Ok(()))
                }
                polled => polled,
            }
        } else if self.written < self.total {
            if rng.percent(10) {
                stream.poll_flush(cx)
            } else {
                let n = 1 + rng.index(40.min(self.total - self.written));
                let chunk: Vec<u8> = (self.written..self.written + n)
                    .map(|position| byte(self.side, position))
                    .collect();
                match stream.poll_write(cx, &chunk) {
                    Poll::Ready(Ok(n)) => {
                        self.written += n;
                        Poll::Ready(Ok(()))
                    }
                    Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                    Poll::Pending => Poll::Pending,
                }
            }
        } else if self.waits_for_reader() {
            // The reader wakes us.
            return false;
        } else {
            self.closing = true;
            return true;
        };
        match polled {
            Poll::Pending => false,
            Poll::Ready(Ok(())) => {
                self.let_go_if_done();
                true
            }
            Poll::Ready(Err(_)) => {
                self.write_failed = true;
                self.let_go_if_done();
                false
            }
        }
    }
}
