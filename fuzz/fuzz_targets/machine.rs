#![no_main]

#[path = "../bodies/mod.rs"]
#[allow(dead_code)]
mod bodies;
#[path = "../../src/machine/mod.rs"]
#[allow(dead_code, unused_imports)]
mod machine;
#[path = "../../src/protocol/mod.rs"]
#[allow(dead_code)]
mod protocol;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::machine(data));
