#![no_main]

#[path = "../bodies/mod.rs"]
#[allow(dead_code)]
mod bodies;

use libp2p_stream_migration_core::{machine, protocol};

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::machine(data));
