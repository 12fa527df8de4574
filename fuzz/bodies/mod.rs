//! What is fuzzed: each function takes arbitrary bytes and panics if something does not hold.
//!
//! The fuzz targets call these, and so does `tests/fuzz_bodies.rs` of the crate, with random bytes
//! and with `fuzz/corpus`. The modules are private to the crate, so that both include their source.
//!
//! ```text
//! mkdir scratch
//! cargo +nightly fuzz run codec scratch fuzz/corpus/codec -- -max_total_time=60
//! ```
//!
//! libFuzzer writes what it finds to the first directory, so that the committed corpus stays small.

mod acceptor;
mod codec;
mod machine;
mod pair;
mod reference;

#[allow(unused_imports)] // A fuzz target uses one of them.
pub(crate) use self::{
    acceptor::{acceptor, read_all},
    codec::codec,
    machine::machine,
    pair::pair,
};

/// Bytes that are used up; where they end, zeros follow.
struct Source<'a>(&'a [u8]);

impl<'a> Source<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or(0)
    }

    fn bit(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// Mostly small; now and then, eight bytes.
    fn number(&mut self) -> u64 {
        match self.byte() {
            0xff => u64::from_le_bytes(std::array::from_fn(|_| self.byte())),
            small => u64::from(small),
        }
    }

    fn rest(self) -> &'a [u8] {
        self.0
    }
}
