//! Reading ahead of an application that does not read, so that a migration can complete; bounded per
//! stream and per peer.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use super::{Connection, Io, leg::Leg};

const CHUNK: usize = 16 * 1024;

/// The bounds, in bytes.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    per_stream: usize,
    /// What all the peer's streams may still take.
    peer: Arc<AtomicUsize>,
}

impl Budget {
    /// A new peer's budget.
    pub(crate) fn new(per_stream: usize, per_peer: usize) -> Self {
        Self {
            per_stream,
            peer: Arc::new(AtomicUsize::new(per_peer)),
        }
    }

    /// Takes up to `wanted` bytes of the peer's budget.
    fn take(&self, wanted: usize) -> usize {
        let mut taken = 0;
        let _ = self
            .peer
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                taken = wanted.min(left);
                Some(left - taken)
            });
        taken
    }

    fn give_back(&self, n: usize) {
        self.peer.fetch_add(n, Ordering::Relaxed);
    }
}

/// Bytes read from the old leg and not yet asked for.
#[derive(Debug)]
pub(super) struct Ahead {
    bytes: VecDeque<u8>,
    budget: Budget,
}

impl Ahead {
    pub(super) fn new(budget: Budget) -> Self {
        Self {
            bytes: VecDeque::new(),
            budget,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether the stream's own bound is reached, so that only the application can help.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= self.budget.per_stream || self.budget.peer.load(Ordering::Relaxed) == 0
    }

    /// Moves bytes to the application.
    pub(super) fn read(&mut self, buf: &mut [u8]) -> usize {
        let n = io::Read::read(&mut self.bytes, buf).unwrap_or(0);
        self.budget.give_back(n);
        if self.bytes.is_empty() {
            self.bytes = VecDeque::new();
        }
        n
    }

    /// Forgets what nobody will ask for.
    pub(super) fn discard(&mut self) {
        self.budget.give_back(self.bytes.len());
        self.bytes = VecDeque::new();
    }

    /// Reads a chunk from the leg. `None` if a bound is reached.
    pub(super) fn poll_fill<L: Io, C: Connection>(
        &mut self,
        leg: &mut Leg<L, C>,
        cx: &mut Context<'_>,
    ) -> Option<Poll<io::Result<usize>>> {
        let room = self.budget.per_stream.saturating_sub(self.bytes.len());
        let taken = self.budget.take(room.min(CHUNK));
        if taken == 0 {
            return None;
        }
        let mut chunk = [0; CHUNK];
        let polled = leg.poll_read(cx, &mut chunk[..taken]);
        let kept = match &polled {
            Poll::Ready(Ok(n)) => *n,
            _ => 0,
        };
        self.bytes.extend(&chunk[..kept]);
        self.budget.give_back(taken - kept);
        Some(polled)
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes.len());
    }
}
