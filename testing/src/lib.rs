//! Harnesses of tests, benches and tools, each written once: swarms that run in the background and keep
//! a log, connections of all kinds between them, paths that are slow or silent, a remote that speaks by
//! hand, a simulated world, programs as processes, muxers and an allocator that count, and a checked byte
//! pattern.
//!
//! Examples that people copy stand by themselves and use nothing of this.

#![allow(
    missing_docs,
    reason = "read beside the tests that use it; not published"
)]

pub mod alloc;
mod background;
mod counts;
mod net;
mod node;
mod pattern;
pub mod process;
mod proxy;
mod random;
pub mod raw;
pub mod sim;

use std::{future::Future, time::Duration};

pub use background::{Background, Log, swarm};
pub use counts::{Counts, Substream};
pub use net::{KINDS, Kind, Net, open};
pub use node::{Node, PROTOCOL, Pair, Seen, Setup, Transports, topic};
pub use pattern::{byte, read, read_end, read_to_end, write, write_until};
pub use proxy::Proxy;
pub use random::{Random, mix};

/// Patience of everything here. Nothing takes long; what takes longer than this hangs.
pub const HANG: Duration = Duration::from_secs(60);

/// A future that must not hang.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(HANG, future).await {
        Ok(result) => result,
        Err(_) => panic!("hangs: {what}"),
    }
}
