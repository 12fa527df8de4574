//! The pattern's digests, so that the peers' own checks are checked.

use std::{
    collections::HashMap,
    fmt::Write,
    sync::{LazyLock, Mutex, PoisonError},
};

use sha2::{Digest, Sha256};

/// Digests are kept at every multiple of this.
const STEP: u64 = 256 * 1024;

/// The digests of the first `n * STEP` bytes with a seed.
type Prefixes = HashMap<u32, Vec<Sha256>>;

static PREFIXES: LazyLock<Mutex<Prefixes>> = LazyLock::new(Mutex::default);

fn update(digest: &mut Sha256, seed: u32, from: u64, to: u64) {
    let bytes: Vec<u8> = (from..to)
        .map(|at| ((at as u32 ^ seed).wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    digest.update(&bytes);
}

/// SHA-256 of the first `length` bytes of the pattern, in hex.
pub fn sha256(seed: u32, length: u64) -> String {
    let whole = length / STEP;
    let mut digest = {
        let mut prefixes = PREFIXES.lock().unwrap_or_else(PoisonError::into_inner);
        let known = prefixes.entry(seed).or_insert_with(|| vec![Sha256::new()]);
        while (known.len() as u64) <= whole {
            let from = (known.len() as u64 - 1) * STEP;
            let mut next = known[known.len() - 1].clone();
            update(&mut next, seed, from, from + STEP);
            known.push(next);
        }
        known[whole as usize].clone()
    };
    update(&mut digest, seed, whole * STEP, length);
    digest
        .finalize()
        .iter()
        .fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
}
