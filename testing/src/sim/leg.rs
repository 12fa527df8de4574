//! Legs that split, delay, cut and lie, the way `yamux` and QUIC do.
//!
//! A write is in flight until the simulation lets it arrive, in pieces of any size. A connection that is
//! killed loses what is in flight, but for a prefix.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use futures::{AsyncRead, AsyncWrite};

use super::stream::LegKind;

/// How a leg ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Resets and losses read as a clean end; the empty write tells, while it can be used.
    Yamux,
    /// Losses are errors; a drop is a FIN and a refusal to read on.
    Quic,
}

impl From<Kind> for LegKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Yamux => Self::Yamux,
            Kind::Quic => Self::Quic,
        }
    }
}

/// What crosses a leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item {
    Byte(u8),
    Fin,
    Reset,
}

/// One direction of one leg.
#[derive(Debug, Default)]
struct Pipe {
    in_flight: VecDeque<Item>,
    arrived: VecDeque<u8>,
    fin: bool,
    reset: bool,
    /// The writer has closed or dropped its side.
    closed: bool,
    /// The reader has dropped its side, and the writer knows.
    stopped: bool,
    lost: bool,
    /// Closing takes time.
    stalled: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// Bytes that fit between a writer and its reader.
const WINDOW: usize = 64;

impl Pipe {
    fn used(&self) -> usize {
        self.in_flight.len() + self.arrived.len()
    }

    fn wake(&mut self) -> [Option<Waker>; 2] {
        [self.reader.take(), self.writer.take()]
    }
}

/// One leg, both directions.
#[derive(Debug)]
pub struct Wire {
    kind: Kind,
    /// Protects both directions; wakers are woken after it is released.
    pipes: Mutex<[Pipe; 2]>,
}

impl Wire {
    /// A new leg: its two ends, and a handle for the simulation.
    pub fn new(kind: Kind) -> (FaultLeg, FaultLeg, Arc<Self>) {
        let wire = Arc::new(Self {
            kind,
            pipes: Mutex::default(),
        });
        let end = |side| FaultLeg {
            wire: wire.clone(),
            side,
        };
        (end(0), end(1), wire)
    }

    fn lock(&self) -> MutexGuard<'_, [Pipe; 2]> {
        self.pipes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much is in flight, in all.
    pub fn in_flight(&self) -> usize {
        self.lock().iter().map(|pipe| pipe.in_flight.len()).sum()
    }

    /// What is in flight in one direction, in order.
    // Only scripts look (`tests/traces`).
    pub fn peek(&self, side: usize) -> Vec<Item> {
        self.lock()[side].in_flight.iter().copied().collect()
    }

    /// Lets closing in one direction take time, or no longer.
    // As above.
    pub fn stall(&self, side: usize, stalled: bool) {
        let mut pipes = self.lock();
        pipes[side].stalled = stalled;
        let wakers = pipes[side].wake();
        drop(pipes);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    /// Lets up to `n` things arrive in one direction; a reset may overtake what is before it. Returns how
    /// many arrived.
    pub fn deliver(&self, side: usize, n: usize, overtake: bool) -> usize {
        let mut pipes = self.lock();
        let pipe = &mut pipes[side];
        if overtake && pipe.in_flight.contains(&Item::Reset) {
            pipe.in_flight.retain(|item| *item == Item::Reset);
        }
        let n = n.min(pipe.in_flight.len());
        for _ in 0..n {
            match pipe.in_flight.pop_front() {
                Some(Item::Byte(byte)) => pipe.arrived.push_back(byte),
                Some(Item::Fin) => pipe.fin = true,
                Some(Item::Reset) => pipe.reset = true,
                None => break,
            }
        }
        // A yamux reset ends the stream for the other direction as well.
        let reset = pipes[side].reset;
        pipes[1 - side].stopped |= reset;
        let [one, other] = &mut *pipes;
        let wakers = [one.wake(), other.wake()];
        drop(pipes);
        wakers.into_iter().flatten().flatten().for_each(Waker::wake);
        n
    }

    /// The connection is lost. What is in flight is gone; nobody is told but by polling, and by yamux not
    /// even then, if it is the side that closed.
    pub fn kill(&self) {
        let mut pipes = self.lock();
        let mut wakers = Vec::new();
        for pipe in &mut *pipes {
            pipe.lost = true;
            pipe.in_flight.clear();
            wakers.extend(pipe.wake());
        }
        drop(pipes);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

/// One end of a leg.
#[derive(Debug)]
pub struct FaultLeg {
    wire: Arc<Wire>,
    side: usize,
}

impl AsyncRead for FaultLeg {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut pipes = self.wire.lock();
        let pipe = &mut pipes[1 - self.side];
        if !pipe.arrived.is_empty() {
            let n = io::Read::read(&mut pipe.arrived, buf)?;
            let writer = pipe.writer.take();
            drop(pipes);
            writer.into_iter().for_each(Waker::wake);
            return Poll::Ready(Ok(n));
        }
        match self.wire.kind {
            Kind::Yamux if pipe.fin || pipe.reset || pipe.lost => Poll::Ready(Ok(0)),
            Kind::Quic if pipe.fin => Poll::Ready(Ok(0)),
            Kind::Quic if pipe.lost => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
            _ => {
                pipe.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for FaultLeg {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let kind = self.wire.kind;
        let mut pipes = self.wire.lock();
        let pipe = &mut pipes[self.side];
        let refused = match kind {
            Kind::Yamux if pipe.closed || pipe.lost || pipe.stopped => {
                Some(io::ErrorKind::WriteZero)
            }
            Kind::Quic if pipe.lost => Some(io::ErrorKind::NotConnected),
            Kind::Quic if pipe.stopped => Some(io::ErrorKind::ConnectionReset),
            Kind::Quic if pipe.closed => Some(io::ErrorKind::BrokenPipe),
            _ => None,
        };
        if let Some(kind) = refused {
            return Poll::Ready(Err(kind.into()));
        }
        let room = WINDOW.saturating_sub(pipe.used());
        if room == 0 {
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let n = room.min(buf.len());
        pipe.in_flight
            .extend(buf[..n].iter().copied().map(Item::Byte));
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pipes = self.wire.lock();
        let pipe = &mut pipes[self.side];
        if pipe.stalled {
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if !pipe.closed {
            pipe.closed = true;
            if !pipe.lost {
                pipe.in_flight.push_back(Item::Fin);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for FaultLeg {
    fn drop(&mut self) {
        let mut pipes = self.wire.lock();
        let remote_done = pipes[1 - self.side].fin;
        let pipe = &mut pipes[self.side];
        let open = !pipe.closed && !pipe.lost;
        pipe.closed = true;
        if open {
            // yamux resets, unless the remote has closed; QUIC finishes.
            let reset = self.wire.kind == Kind::Yamux && !remote_done;
            pipe.in_flight
                .push_back(if reset { Item::Reset } else { Item::Fin });
        }
        let incoming = &mut pipes[1 - self.side];
        if self.wire.kind == Kind::Quic {
            incoming.stopped = true;
        }
        // Nobody will read what is on its way here.
        incoming.arrived.clear();
        let wakers = incoming.wake();
        drop(pipes);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}
