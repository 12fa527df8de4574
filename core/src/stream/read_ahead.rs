//! Reading ahead of an application that does not read, so that a migration can complete; bounded per
//! stream and per peer.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use super::{Io, leg::Leg, replay::Room};

/// The least and the most that is allocated at a time.
const FIRST_CHUNK: usize = 1024;
const CHUNK: usize = 16 * 1024;

/// Streams that are woken when something is given back. Those that find nothing wait again, and the next
/// to give back wakes the next of them.
const WOKEN_AT_ONCE: usize = 64;

/// The bounds, in bytes.
#[derive(Debug, Clone)]
pub struct Budget {
    per_stream: usize,
    peer: Arc<Pool>,
    /// For what is written, and kept until it has arrived.
    pub(super) room: Arc<Room>,
}

/// The room that all of a peer's streams may still take.
#[derive(Debug)]
struct Pool {
    left: AtomicUsize,
    /// Streams that have found nothing left; each is in it at most once. Protects the list alone.
    waiting: Mutex<VecDeque<Waker>>,
}

impl Pool {
    /// Takes up to `wanted` bytes. If there is nothing left, `waker` is woken when there is.
    fn take(&self, wanted: usize, waker: &Waker) -> usize {
        let taken = self.try_take(wanted);
        if taken > 0 {
            return taken;
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if !waiting.iter().any(|waiting| waiting.will_wake(waker)) {
            waiting.push_back(waker.clone());
        }
        drop(waiting);
        // Who gave back before it could see us, has given back by now.
        self.try_take(wanted)
    }

    fn try_take(&self, wanted: usize) -> usize {
        let mut taken = 0;
        let _ = self
            .left
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| {
                taken = wanted.min(left);
                Some(left - taken)
            });
        taken
    }

    fn give_back(&self, n: usize) {
        self.left.fetch_add(n, Ordering::AcqRel);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let first = waiting.len().min(WOKEN_AT_ONCE);
        let woken: Vec<_> = waiting.drain(..first).collect();
        if waiting.is_empty() {
            *waiting = VecDeque::new();
        }
        drop(waiting);
        woken.into_iter().for_each(Waker::wake);
    }
}

/// Bytes of a peer's budget that are given back when this is dropped, which wakes others: not under a lock.
#[derive(Debug)]
pub(super) struct Freed {
    bytes: usize,
    pool: Arc<Pool>,
}

impl Drop for Freed {
    fn drop(&mut self) {
        self.pool.give_back(self.bytes);
    }
}

impl Budget {
    /// A new peer's budget.
    pub fn new(per_stream: usize, per_peer: usize) -> Self {
        Self {
            per_stream,
            peer: Arc::new(Pool {
                left: AtomicUsize::new(per_peer),
                waiting: Mutex::default(),
            }),
            room: Arc::default(),
        }
    }

    /// With this room for what is kept.
    #[must_use]
    pub fn with_room(mut self, room: Arc<Room>) -> Self {
        self.room = room;
        self
    }
}

#[derive(Debug)]
struct Chunk {
    /// The buffer, as large as what was taken of the budget for it.
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

/// Bytes read from the old leg and not yet asked for.
#[derive(Debug)]
pub(super) struct ReadAhead {
    chunks: VecDeque<Chunk>,
    /// The chunks' sizes together.
    held: usize,
    /// Bytes of the peer's budget that are to be given back.
    freed: usize,
    budget: Budget,
}

impl ReadAhead {
    pub(super) fn new(budget: Budget) -> Self {
        Self {
            chunks: VecDeque::new(),
            held: 0,
            freed: 0,
            budget,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Moves bytes to the application.
    pub(super) fn read(&mut self, buf: &mut [u8]) -> usize {
        let mut n = 0;
        while n < buf.len()
            && let Some(chunk) = self.chunks.front_mut()
        {
            let some = (buf.len() - n).min(chunk.end - chunk.start);
            buf[n..n + some].copy_from_slice(&chunk.bytes[chunk.start..chunk.start + some]);
            chunk.start += some;
            n += some;
            if chunk.start == chunk.end {
                let size = chunk.bytes.len();
                self.chunks.pop_front();
                self.held -= size;
                self.freed += size;
            }
        }
        if self.chunks.is_empty() {
            self.chunks = VecDeque::new();
        }
        n
    }

    /// Forgets what nobody will ask for.
    pub(super) fn discard(&mut self) {
        self.freed += std::mem::take(&mut self.held);
        self.chunks = VecDeque::new();
    }

    /// The part of the peer's budget that is not needed any more.
    pub(super) fn take_freed(&mut self) -> Option<Freed> {
        let bytes = std::mem::take(&mut self.freed);
        (bytes > 0).then(|| Freed {
            bytes,
            pool: self.budget.peer.clone(),
        })
    }

    /// Reads from the leg. `None` if there is something to be read and no room for it; at the peer's bound,
    /// with the waker registered for when there is room. An end needs none.
    pub(super) fn poll_fill<L: Io>(
        &mut self,
        leg: &mut Leg<L>,
        cx: &mut Context<'_>,
    ) -> Option<Poll<io::Result<usize>>> {
        match leg.poll_peek(cx) {
            Poll::Pending => return Some(Poll::Pending),
            Poll::Ready(Err(error)) => return Some(Poll::Ready(Err(error))),
            Poll::Ready(Ok(false)) => return Some(Poll::Ready(Ok(0))),
            Poll::Ready(Ok(true)) => {}
        }
        let chunk = self.free_chunk(cx.waker())?;
        let polled = leg.poll_read(cx, &mut chunk.bytes[chunk.end..]);
        if let Poll::Ready(Ok(n)) = polled {
            chunk.end += n;
        }
        Some(polled)
    }

    /// The last chunk, if there is room in it, or a new one.
    fn free_chunk(&mut self, waker: &Waker) -> Option<&mut Chunk> {
        let has_room = |chunk: &Chunk| chunk.end < chunk.bytes.len();
        if !self.chunks.back().is_some_and(has_room) {
            let room = self.budget.per_stream.saturating_sub(self.held);
            let wanted = room.min(self.held.clamp(FIRST_CHUNK, CHUNK));
            // What is to be given back by us will be, and may be all there is.
            let own = wanted.min(self.freed);
            self.freed -= own;
            let size = match own {
                0 if wanted > 0 => self.budget.peer.take(wanted, waker),
                own => own,
            };
            if size == 0 {
                return None;
            }
            self.held += size;
            self.chunks.push_back(Chunk {
                bytes: vec![0; size].into(),
                start: 0,
                end: 0,
            });
        }
        self.chunks.back_mut()
    }

    #[cfg(test)]
    fn capacity(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.bytes.len()).sum()
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        self.discard();
        drop(self.take_freed());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::task::{ArcWake, noop_waker_ref};

    use super::{
        super::{fake::Fake, kind::LegKind},
        *,
    };

    fn leg(left: usize, piece: usize, ends: bool) -> Leg<Fake> {
        let fake = Fake {
            left,
            piece,
            ends,
            ..Fake::default()
        };
        Leg::new(fake, crate::key::ConnectionKey::new(0), LegKind::Yamux)
    }

    /// Fills it until nothing more comes, or there is no room. Returns which.
    fn fill(ahead: &mut ReadAhead, leg: &mut Leg<Fake>, waker: &Waker) -> bool {
        let mut cx = Context::from_waker(waker);
        loop {
            match ahead.poll_fill(leg, &mut cx) {
                None => return false,
                Some(Poll::Ready(Ok(0)) | Poll::Pending) => return true,
                Some(polled) => assert!(matches!(polled, Poll::Ready(Ok(_)))),
            }
        }
    }

    struct Count(AtomicUsize);

    impl ArcWake for Count {
        fn wake_by_ref(this: &Arc<Self>) {
            this.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn what_is_held_is_what_is_counted() {
        for piece in [1, 1000, usize::MAX] {
            let budget = Budget::new(100_000, 1_000_000);
            let left = || budget.peer.left.load(Ordering::Relaxed);
            let mut ahead = ReadAhead::new(budget.clone());
            let mut leg = leg(150_000, piece, true);
            assert!(!fill(&mut ahead, &mut leg, noop_waker_ref()));
            assert_eq!((ahead.capacity(), left()), (100_000, 900_000));
            let mut buf = vec![0; 100_000];
            assert_eq!(ahead.read(&mut buf[..99_999]), 99_999);
            drop(ahead.take_freed());
            // One byte is left, in one chunk.
            assert!(ahead.capacity() <= CHUNK);
            assert_eq!(left(), 1_000_000 - ahead.capacity());
            assert_eq!(ahead.read(&mut buf[99_999..]), 1);
            let expected = (0..100_000).map(|at: usize| (150_000 - at) as u8);
            assert!(expected.eq(buf.iter().copied()));
            assert!(ahead.is_empty());
            drop(ahead);
            assert_eq!(left(), 1_000_000);
        }
    }

    /// A byte of each of many streams is not the whole budget.
    #[test]
    fn little_takes_little() {
        let budget = Budget::new(1 << 20, 1 << 20);
        let mut streams: Vec<_> = (0..1000).map(|_| ReadAhead::new(budget.clone())).collect();
        for ahead in &mut streams {
            assert!(fill(ahead, &mut leg(1, 1, false), noop_waker_ref()));
        }
    }

    #[test]
    fn an_end_needs_no_room() {
        let mut ahead = ReadAhead::new(Budget::new(0, 0));
        assert!(fill(&mut ahead, &mut leg(0, 1, true), noop_waker_ref()));
        assert!(!fill(&mut ahead, &mut leg(1, 1, true), noop_waker_ref()));
    }

    /// A party that finds nothing left is woken when there is, and only then.
    #[test]
    fn who_waits_is_woken() {
        let budget = Budget::new(1 << 20, 4096);
        let mut greedy = ReadAhead::new(budget.clone());
        assert!(!fill(
            &mut greedy,
            &mut leg(5000, 4096, true),
            noop_waker_ref()
        ));
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = futures::task::waker(count.clone());
        let mut modest = ReadAhead::new(budget);
        let mut leg = leg(100, 100, true);
        // Twice, and in the list once.
        assert!(!fill(&mut modest, &mut leg, &waker));
        assert!(!fill(&mut modest, &mut leg, &waker));
        greedy.read(&mut [0; 4096]);
        assert_eq!(count.0.load(Ordering::Relaxed), 0);
        drop(greedy.take_freed());
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(fill(&mut modest, &mut leg, &waker));
    }
}
