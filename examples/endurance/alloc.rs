//! The system's allocator, which counts the bytes that are in use, and the blocks of each size.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

pub struct Counting;

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

/// The size of the blocks that are counted at this place.
pub fn size_at(place: usize) -> usize {
    place * STEP
}

fn place_of(size: usize) -> &'static AtomicUsize {
    &BLOCKS[size.div_ceil(STEP).min(LARGEST / STEP)]
}

fn taken(size: usize) {
    LIVE.fetch_add(size, Relaxed);
    place_of(size).fetch_add(1, Relaxed);
}

fn given_back(size: usize) {
    LIVE.fetch_sub(size, Relaxed);
    place_of(size).fetch_sub(1, Relaxed);
}

// SAFETY: everything is the system allocator's doing; what is counted changes nothing.
#[expect(unsafe_code, reason = "an allocator is unsafe to implement")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        taken(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        given_back(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        taken(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        given_back(layout.size());
        taken(size);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(block, layout, size) }
    }
}
