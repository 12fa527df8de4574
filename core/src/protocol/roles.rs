//! Roles of two peers: parity of IDs (*Stream IDs*) and the designated peer (*Who moves the
//! stream*).

use libp2p_identity::PeerId;
use sha2::{Digest, Sha256};

use crate::machine::StreamId;

/// The bound below which the counter begins, if chance decides.
const FIRST: u64 = 1 << 40;
/// The number at which the counter begins anew, at 0.
const WRAP: u64 = 1 << 62;

/// Allocates the IDs of the streams and legs that we label. One for all peers, so that IDs stay unique
/// when a peer comes back that has not let go of its streams of before.
#[derive(Debug)]
pub struct IdAllocator {
    counter: u64,
}

impl IdAllocator {
    /// Counts from this number on, or from one that nobody knows: a process that was restarted with its
    /// key must not meet the IDs of its former life, which its peers may still hold.
    pub fn new(first: Option<u64>) -> Self {
        // Without a source of randomness there would be no keys either.
        let first = first.unwrap_or_else(|| getrandom::u64().unwrap_or_default() % FIRST);
        Self {
            counter: first % WRAP,
        }
    }

    /// The next ID of this parity for which `in_use` is false. There is one: nobody has 2^62 in use.
    pub fn next(&mut self, parity: Parity, in_use: impl Fn(StreamId) -> bool) -> StreamId {
        loop {
            let id = StreamId(self.counter << 1 | u64::from(parity.0));
            self.counter = (self.counter + 1) % WRAP;
            if !in_use(id) {
                return id;
            }
        }
    }
}

/// The lowest bit of the IDs that we allocate: set if ours is the higher peer ID.
#[derive(Debug, Clone, Copy)]
pub struct Parity(bool);

impl Parity {
    pub fn of(local: &PeerId, remote: &PeerId) -> Self {
        Self(bytes(local) > bytes(remote))
    }

    /// True if an ID has this parity.
    pub fn has(self, id: StreamId) -> bool {
        id.0 & 1 == u64::from(self.0)
    }
}

/// The one of two peers that the hash rule names (*Who moves the stream*), whoever asks.
#[must_use]
pub fn designated_peer(a: PeerId, b: PeerId) -> PeerId {
    if is_designated(&a, &b) { a } else { b }
}

/// True if the hash rule names the local peer.
pub fn is_designated(local: &PeerId, remote: &PeerId) -> bool {
    let (local, remote) = (bytes(local), bytes(remote));
    let (lower, higher) = if local < remote {
        (&local, &remote)
    } else {
        (&remote, &local)
    };
    names_lower(lower, higher) == (local < remote)
}

/// SHA-256 over both, lower first; an even hash names the lower.
fn names_lower(lower: &[u8], higher: &[u8]) -> bool {
    let hash = Sha256::new()
        .chain_update(lower)
        .chain_update(higher)
        .finalize();
    hash[31] & 1 == 0
}

/// Peer IDs compare as their multihash bytes.
fn bytes(peer: &PeerId) -> Vec<u8> {
    peer.to_bytes()
}

/// Draws the name of a process, or of a hub in it.
pub fn new_epoch() -> u64 {
    // Without a source of randomness there would be no keys either.
    getrandom::u64().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_hash_rule_with_the_specs_example() {
        // The specification says that SHA-256("AB") ends in `c`, which is true of "AB\n".
        let hash = Sha256::digest(b"AB");
        assert_eq!(hash[31], 0x53);
        assert!(!names_lower(b"A", b"B"));
        assert_eq!(Sha256::digest(b"AB\n")[31] & 0xf, 0xc);
    }

    #[test]
    fn exactly_one_of_two_peers_is_designated() {
        let (mut lower, mut higher) = (0, 0);
        for _ in 0..64 {
            let (a, b) = (PeerId::random(), PeerId::random());
            assert_ne!(is_designated(&a, &b), is_designated(&b, &a));
            if is_designated(&a, &b) == (a.to_bytes() < b.to_bytes()) {
                lower += 1;
            } else {
                higher += 1;
            }
        }
        assert!(lower > 0 && higher > 0);
    }

    #[test]
    fn ids_have_our_parity_and_skip_those_in_use() {
        let (a, b) = (PeerId::random(), PeerId::random());
        let (lower, higher) = if a.to_bytes() < b.to_bytes() {
            (a, b)
        } else {
            (b, a)
        };
        let even = Parity::of(&lower, &higher);
        let odd = Parity::of(&higher, &lower);
        let mut ids = IdAllocator::new(Some(0));
        assert_eq!(ids.next(even, |_| false), StreamId(0));
        assert_eq!(ids.next(even, |_| false), StreamId(2));
        assert_eq!(ids.next(odd, |_| false), StreamId(5));
        assert_eq!(ids.next(even, |id| id.0 < 12), StreamId(12));
        let mut ids = IdAllocator::new(Some(u64::MAX));
        assert_eq!(ids.next(odd, |_| false), StreamId((1 << 63) - 1));
        assert_eq!(ids.next(odd, |id| id.0 < 4), StreamId(5));
    }

    #[test]
    fn ids_begin_anywhere_below_the_first_limit() {
        let firsts: HashSet<_> = (0..8).map(|_| IdAllocator::new(None).counter).collect();
        assert!(firsts.iter().all(|first| *first < FIRST));
        assert!(firsts.len() > 1, "{firsts:?}");
    }
}
