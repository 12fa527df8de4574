//! Bytes that are in use, and blocks of each size.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use testing::alloc::Counter;

/// Counts for [`testing::alloc::Counting`].
pub struct Blocks;

/// Sizes up to this are told apart; what is larger counts as this.
const LARGEST: usize = 16 << 10;
const STEP: usize = 8;
pub const PLACES: usize = LARGEST / STEP + 1;

/// Wraps around in between, as what one thread takes may be counted after another has given it back.
static LIVE: AtomicUsize = AtomicUsize::new(0);
/// Wraps likewise.
static BLOCKS: [AtomicUsize; PLACES] = [const { AtomicUsize::new(0) }; PLACES];

/// Bytes that are allocated now.
pub fn live() -> u64 {
    LIVE.load(Relaxed) as u64
}

/// How many blocks there are of each size, in steps.
pub fn blocks(numbers: &mut [usize]) {
    for (number, blocks) in numbers.iter_mut().zip(&BLOCKS) {
        *number = blocks.load(Relaxed);
    }
}

/// Bytes in blocks of up to this size, and the number of larger ones.
pub fn parts(size: usize) -> (u64, usize) {
    let mut parts = (0_u64, 0_usize);
    for (place, blocks) in BLOCKS.iter().enumerate() {
        let blocks = blocks.load(Relaxed);
        match size_at(place) <= size {
            true => {
                parts.0 = parts
                    .0
                    .wrapping_add(blocks.wrapping_mul(size_at(place)) as u64)
            }
            false => parts.1 = parts.1.wrapping_add(blocks),
        }
    }
    parts
}

/// The size of the blocks that are counted at this place.
pub fn size_at(place: usize) -> usize {
    place * STEP
}

fn place_of(size: usize) -> &'static AtomicUsize {
    &BLOCKS[size.div_ceil(STEP).min(LARGEST / STEP)]
}

impl Counter for Blocks {
    fn taken(&self, size: usize) {
        LIVE.fetch_add(size, Relaxed);
        place_of(size).fetch_add(1, Relaxed);
    }

    fn given_back(&self, size: usize) {
        LIVE.fetch_sub(size, Relaxed);
        place_of(size).fetch_sub(1, Relaxed);
    }
}
