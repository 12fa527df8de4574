//! A world without a swarm: the core's own stream, machine and driver over legs that split, delay, cut and
//! lie, with everything scheduled by a seed.

pub mod app;
pub mod leg;
pub mod peer;
pub mod sleep;
pub mod world;

use libp2p_stream_migration_core::{key, machine, protocol, stream};

use crate::Random;

/// The generator of a case: seeds that have been reported mean this.
fn random(seed: u64) -> Random {
    Random::new(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x9e37_79b9_7f4a_7c15)
}
