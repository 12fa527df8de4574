//! Bytes that are in use, and how often more was asked for.

use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicU64, Ordering::Relaxed};

/// Counts for [`testing::alloc::Counting`].
pub struct Heap;

/// Off where times are measured: two cores that count together slow each other down.
static ON: AtomicBool = AtomicBool::new(false);
static LIVE: AtomicIsize = AtomicIsize::new(0);
static PEAK: AtomicIsize = AtomicIsize::new(0);
static CALLS: AtomicU64 = AtomicU64::new(0);

fn grown(by: isize) {
    if ON.load(Relaxed) {
        let live = LIVE.fetch_add(by, Relaxed) + by;
        if by > 0 {
            PEAK.fetch_max(live, Relaxed);
            CALLS.fetch_add(1, Relaxed);
        }
    }
}

fn signed(size: usize) -> isize {
    isize::try_from(size).unwrap_or(isize::MAX)
}

impl testing::alloc::Counter for Heap {
    fn taken(&self, size: usize) {
        grown(signed(size));
    }

    fn given_back(&self, size: usize) {
        grown(-signed(size));
    }

    fn resized(&self, from: usize, to: usize) {
        grown(signed(to) - signed(from));
    }
}

/// Counts while it lives.
pub struct Counter(());

impl Counter {
    pub fn start() -> Self {
        ON.store(true, Relaxed);
        Self(())
    }

    /// Bytes that are allocated now; only differences mean anything.
    pub fn live(&self) -> f64 {
        LIVE.load(Relaxed) as f64
    }

    /// How often more memory was asked for.
    pub fn calls(&self) -> u64 {
        CALLS.load(Relaxed)
    }

    /// Starts a new search for the peak.
    pub fn reset_peak(&self) {
        PEAK.store(LIVE.load(Relaxed), Relaxed);
    }

    pub fn peak(&self) -> f64 {
        PEAK.load(Relaxed) as f64
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        ON.store(false, Relaxed);
    }
}
