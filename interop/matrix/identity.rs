//! Who the peers are: known before they say so, so that who is designated can be chosen.

use libp2p::{PeerId, identity::Keypair};
use sha2::{Digest, Sha256};

use crate::case::{Case, Scenario, Side};

/// The peer ID that `--seed` makes.
pub fn peer_id(seed: u64) -> PeerId {
    let mut secret = [0; 32];
    for part in secret.chunks_exact_mut(8) {
        part.copy_from_slice(&seed.to_be_bytes());
    }
    let keypair = Keypair::ed25519_from_bytes(secret).expect("any 32 bytes are a key");
    keypair.public().to_peer_id()
}

/// Whether the hash rule names the first of the two.
fn is_designated(one: PeerId, other: PeerId) -> bool {
    let (lower, higher) = if one.to_bytes() < other.to_bytes() {
        (one, other)
    } else {
        (other, one)
    };
    let mut hash = Sha256::new();
    hash.update(lower.to_bytes());
    hash.update(higher.to_bytes());
    let even = hash.finalize()[31] & 1 == 0;
    (lower == one) == even
}

/// The lowest bit of the IDs that `one` gives to streams to and from `other`.
pub fn parity(one: PeerId, other: PeerId) -> u64 {
    u64::from(one.to_bytes() > other.to_bytes())
}

/// The seeds of dialer and listener: others for each case, but always the same ones.
pub fn seeds(case: &Case) -> [u64; 2] {
    let digest = Sha256::digest(case.to_string());
    let first = digest
        .iter()
        .take(6)
        .fold(0, |seed, &byte| seed << 8 | u64::from(byte));
    let designated = match case.scenario {
        Scenario::Simultaneous(side) => Some(side == Side::Dialer),
        _ => None,
    };
    let dialer = peer_id(first);
    let fits = |listener: &u64| {
        let is = is_designated(dialer, peer_id(*listener));
        designated.is_none_or(|wanted| is == wanted)
    };
    let listener = (first + 1..).find(fits).expect("every second one fits");
    [first, listener]
}
