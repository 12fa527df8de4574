//! The system's allocator, and a counter that hears of every block.

use std::alloc::{GlobalAlloc, Layout, System};

/// What hears of blocks. It must not allocate.
pub trait Counter: Sync {
    fn taken(&self, size: usize);

    fn given_back(&self, size: usize) {
        let _ = size;
    }

    fn resized(&self, from: usize, to: usize) {
        self.given_back(from);
        self.taken(to);
    }
}

/// An allocator to be `#[global_allocator]`.
pub struct Counting<C>(pub C);

// SAFETY: everything is the system allocator's doing; what is counted changes nothing.
#[expect(unsafe_code, reason = "an allocator is unsafe to implement")]
unsafe impl<C: Counter> GlobalAlloc for Counting<C> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.taken(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        self.0.given_back(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.0.taken(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.0.resized(layout.size(), size);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(block, layout, size) }
    }
}
