//! quickcheck with what rust-libp2p's tests have beside it, in a crate that is not published.

use std::ops::{Add, Range, Rem, Sub};

pub use quickcheck::*;

/// Numbers within bounds; of unsigned types, no others are asked for.
pub trait GenRange {
    fn gen_range<T>(&mut self, range: Range<T>) -> T
    where
        T: Arbitrary + Copy + Add<Output = T> + Sub<Output = T> + Rem<Output = T>;
}

impl GenRange for Gen {
    fn gen_range<T>(&mut self, range: Range<T>) -> T
    where
        T: Arbitrary + Copy + Add<Output = T> + Sub<Output = T> + Rem<Output = T>,
    {
        range.start + T::arbitrary(self) % (range.end - range.start)
    }
}

/// Slices in another order.
pub trait SliceRandom {
    fn shuffle<T>(&mut self, slice: &mut [T]);
    fn choose_multiple<'a, T>(
        &mut self,
        slice: &'a [T],
        amount: usize,
    ) -> impl Iterator<Item = &'a T> + use<'a, T, Self>;
}

impl SliceRandom for Gen {
    fn shuffle<T>(&mut self, slice: &mut [T]) {
        let mut keyed: Vec<_> = (0..slice.len()).map(|at| (u64::arbitrary(self), at)).collect();
        keyed.sort_unstable();
        // Who is swapped away from a place is looked for where it went.
        for at in 0..keyed.len() {
            let mut from = keyed[at].1;
            while from < at {
                from = keyed[from].1;
            }
            slice.swap(at, from);
        }
    }

    fn choose_multiple<'a, T>(
        &mut self,
        slice: &'a [T],
        amount: usize,
    ) -> impl Iterator<Item = &'a T> + use<'a, T> {
        let mut all: Vec<&T> = slice.iter().collect();
        self.shuffle(&mut all);
        all.into_iter().take(amount)
    }
}
