//! The byte pattern that streams carry, checked by position.

/// Byte `position` with this seed.
pub fn byte(seed: u32, position: u64) -> u8 {
    // The pattern is one of 32-bit numbers.
    let position = position as u32;
    let mixed = (position ^ seed).wrapping_mul(2_654_435_761);
    (mixed >> 24) as u8
}

/// Fills the buffer with what comes at `position`.
pub fn fill(buffer: &mut [u8], seed: u32, position: u64) {
    for (at, slot) in (position..).zip(buffer) {
        *slot = byte(seed, at);
    }
}

/// The position of the first byte that is not the pattern's.
pub fn mismatch(bytes: &[u8], seed: u32, position: u64) -> Option<u64> {
    let mut all = (position..).zip(bytes);
    all.find_map(|(at, &found)| (found != byte(seed, at)).then_some(at))
}
