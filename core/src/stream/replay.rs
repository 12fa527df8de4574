//! The bytes that were written and have not arrived, as far as the remote has said: kept, to be written again on another leg
//! (*Resume*).

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicIsize, Ordering},
    },
};

/// The most that is allocated at a time.
const CHUNK: usize = 16 * 1024;

/// The bound of a stream that has not met it. It grows with the path: a writer that meets it while acknowledgements
/// come waits for them, and not for the leg.
const FIRST_BOUND: usize = 256 * 1024;

/// The bounds, in bytes.
#[derive(Debug, Default)]
pub struct Room {
    /// The most that is kept of one stream.
    pub per_stream: usize,
    /// The room that all streams together may still take; less than none if several have taken the last at once.
    left: AtomicIsize,
}

impl Room {
    pub fn new(per_stream: usize, overall: usize) -> Self {
        Self {
            per_stream,
            left: AtomicIsize::new(isize::try_from(overall).unwrap_or(isize::MAX)),
        }
    }

    fn take(&self, n: usize) {
        self.left.fetch_sub(n.cast_signed(), Ordering::AcqRel);
    }

    fn give_back(&self, n: usize) {
        self.left.fetch_add(n.cast_signed(), Ordering::AcqRel);
    }

    /// The room that is left.
    pub(super) fn left(&self) -> usize {
        usize::try_from(self.left.load(Ordering::Acquire)).unwrap_or(0)
    }
}

/// The bytes from `start` on.
#[derive(Debug)]
pub(super) struct Replay {
    room: Arc<Room>,
    start: u64,
    chunks: VecDeque<Vec<u8>>,
    /// Bytes of the first chunk that have arrived.
    skip: usize,
    len: usize,
    bound: usize,
    /// The count that had arrived when the bound was met last.
    met: Option<u64>,
    /// The writer has waited for long enough: the oldest make room.
    slides: bool,
}

impl Replay {
    pub(super) fn new(room: Arc<Room>, start: u64) -> Self {
        Self {
            bound: FIRST_BOUND.min(room.per_stream),
            room,
            start,
            chunks: VecDeque::new(),
            skip: 0,
            len: 0,
            met: None,
            slides: false,
        }
    }

    /// The first byte that is kept.
    pub(super) fn start(&self) -> u64 {
        self.start
    }

    fn end(&self) -> u64 {
        self.start + self.len as u64
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes that may be written now, on the leg, or, if that has to wait for it, only kept. None if the writer
    /// has to wait for acknowledgements.
    pub(super) fn space(&mut self, on_leg: bool) -> usize {
        if !on_leg {
            return self.bound.saturating_sub(self.len).min(self.room.left());
        }
        if self.slides {
            return CHUNK;
        }
        if self.len >= self.bound && self.met.is_some_and(|met| met < self.start) {
            // They come, and too slowly for this bound.
            self.bound = self.bound.saturating_mul(2).min(self.room.per_stream);
            self.met = None;
        }
        if self.len >= self.bound {
            self.met.get_or_insert(self.start);
        }
        self.bound.saturating_sub(self.len)
    }

    /// True if the writer waits for acknowledgements.
    pub(super) fn is_full(&self) -> bool {
        self.len >= self.bound && !self.slides
    }

    /// True if nothing has arrived since the writer met the bound.
    pub(super) fn is_stuck(&self) -> bool {
        self.len >= self.bound && self.met == Some(self.start)
    }

    /// From now on the oldest make room for the newest.
    pub(super) fn slide(&mut self) {
        self.slides = true;
    }

    /// The writer waits again: nothing that is kept is on a leg.
    pub(super) fn stop_sliding(&mut self) {
        self.slides = false;
        self.met = None;
    }

    /// Keeps what has been written, on the leg or only here.
    pub(super) fn push(&mut self, mut bytes: &[u8], on_leg: bool) {
        if on_leg && self.room.left() < bytes.len() {
            // Waiting for what other streams' readers hold would tie them together.
            return self.give_up(bytes.len());
        }
        while !bytes.is_empty() {
            if self
                .chunks
                .back()
                .is_none_or(|last| last.len() == last.capacity())
            {
                // Small writes do not make small pieces for ever.
                let double = self.chunks.back().map_or(0, |last| 2 * last.len());
                let size = bytes.len().max(double).clamp(64, CHUNK);
                self.chunks.push_back(Vec::with_capacity(size));
            }
            let Some(last) = self.chunks.back_mut() else {
                return;
            };
            let n = bytes.len().min(last.capacity() - last.len());
            let (now, rest) = bytes.split_at(n);
            self.room.take(n);
            last.extend_from_slice(now);
            self.len += n;
            bytes = rest;
        }
        while on_leg && self.slides && self.len > self.bound {
            self.drop_front(self.len - self.bound);
        }
    }

    /// Keeps nothing, and not this many that come after it.
    fn give_up(&mut self, more: usize) {
        self.forget_to(self.end());
        self.chunks = VecDeque::new();
        self.skip = 0;
        self.start += more as u64;
    }

    /// The remote has got this many.
    pub(super) fn acknowledge(&mut self, received: u64) {
        self.forget_to(received.min(self.end()));
        if self.slides && self.len <= self.bound / 2 {
            self.slides = false;
            self.met = None;
        }
    }

    fn forget_to(&mut self, count: u64) {
        while self.start < count && self.len > 0 {
            let n = usize::try_from(count - self.start).unwrap_or(usize::MAX);
            self.drop_front(n.min(self.len));
        }
    }

    /// Forgets so many at the front, or as many as the first chunk has.
    fn drop_front(&mut self, n: usize) {
        let Some(first) = self.chunks.front() else {
            return;
        };
        let n = n.min(first.len() - self.skip);
        self.skip += n;
        self.start += n as u64;
        self.len -= n;
        self.room.give_back(n);
        if self.skip == first.len() {
            self.chunks.pop_front();
            self.skip = 0;
        }
    }

    /// The bytes from this count on, or a part of them; `None` if they are not kept any more.
    pub(super) fn from(&self, count: u64) -> Option<&[u8]> {
        let mut at = usize::try_from(count.checked_sub(self.start)?).unwrap_or(usize::MAX);
        let mut skip = self.skip;
        for chunk in &self.chunks {
            let chunk = &chunk[skip..];
            skip = 0;
            if at < chunk.len() {
                return Some(&chunk[at..]);
            }
            at -= chunk.len();
        }
        Some(&[])
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        self.room.give_back(self.len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replay(per_stream: usize, overall: usize) -> (Arc<Room>, Replay) {
        let room = Arc::new(Room::new(per_stream, overall));
        (room.clone(), Replay::new(room, 0))
    }

    fn all(replay: &Replay, mut from: u64) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let next = replay.from(from).unwrap();
            if next.is_empty() {
                return all;
            }
            all.extend_from_slice(next);
            from += next.len() as u64;
        }
    }

    /// Whatever was written in whatever pieces, and acknowledged at whatever count, the rest is as it was.
    #[test]
    fn what_has_not_arrived_is_there() {
        let (room, mut replay) = replay(1 << 20, 1 << 20);
        let mut written = Vec::new();
        let mut arrived = 0;
        for round in 0..200_usize {
            let piece: Vec<u8> = (0..round * 37 % 5000).map(|i| (i * round) as u8).collect();
            replay.push(&piece, true);
            written.extend(piece);
            arrived = (arrived + round * 29 % 4000).min(written.len());
            replay.acknowledge(arrived as u64);
            assert_eq!(replay.start(), arrived as u64);
            assert_eq!(all(&replay, arrived as u64), &written[arrived..]);
            let middle = (arrived + written.len()) / 2;
            assert_eq!(all(&replay, middle as u64), &written[middle..]);
            assert_eq!(room.left(), (1 << 20) - (written.len() - arrived));
        }
        drop(replay);
        assert_eq!(room.left(), 1 << 20);
    }

    /// The bound is met, and grows only while acknowledgements come.
    #[test]
    fn the_bound_grows_with_the_path() {
        let (_, mut replay) = replay(1 << 20, 1 << 30);
        replay.push(&vec![0; FIRST_BOUND], true);
        assert_eq!(replay.space(true), 0);
        assert!(replay.is_stuck());
        replay.acknowledge(1000);
        assert!(!replay.is_stuck());
        assert_eq!(replay.space(true), 1000);
        replay.push(&[0; 1000], true);
        assert_eq!(replay.space(true), FIRST_BOUND);
        replay.push(&vec![0; FIRST_BOUND], true);
        assert_eq!(replay.space(true), 0);
    }

    /// A writer that has waited goes on, and what is too old is not kept.
    #[test]
    fn the_oldest_make_room() {
        let (room, mut replay) = replay(FIRST_BOUND, 1 << 30);
        replay.push(&vec![1; FIRST_BOUND], true);
        assert_eq!(replay.space(true), 0);
        replay.slide();
        assert!(replay.space(true) > 0);
        replay.push(&[2; 5000], true);
        assert_eq!(replay.start(), 5000);
        assert_eq!(room.left(), (1 << 30) - FIRST_BOUND);
        assert_eq!(all(&replay, FIRST_BOUND as u64), [2; 5000]);
        replay.acknowledge(FIRST_BOUND as u64);
        assert!(replay.space(true) < FIRST_BOUND);
        assert_eq!(replay.from(0), None);
    }

    /// No room for all together: this one keeps nothing, and does not wait for others.
    #[test]
    fn a_shared_bound_is_not_waited_for() {
        let (room, mut replay) = replay(1 << 20, 10_000);
        replay.push(&[1; 9000], true);
        replay.push(&[2; 2000], true);
        assert_eq!((replay.start(), room.left()), (11_000, 10_000));
        replay.push(&[3; 100], true);
        assert_eq!(all(&replay, 11_000), [3; 100]);
    }

    /// Bytes that no leg has had are never let go of, however long it waits, and whoever else takes the room.
    #[test]
    fn what_is_on_no_leg_stays() {
        let (room, mut replay) = replay(FIRST_BOUND, 300_000);
        replay.push(&vec![1; FIRST_BOUND - 10], false);
        replay.slide();
        assert_eq!(replay.space(false), 10);
        room.take(200_000);
        assert_eq!(replay.space(false), 0);
        replay.push(&[2; 20], false);
        assert_eq!((replay.start(), replay.len), (0, FIRST_BOUND + 10));
        room.give_back(200_000);
    }
}
