//! Moves a live libp2p stream from one connection to another.

#![forbid(unsafe_code)]
#![warn(missing_docs, unreachable_pub)]
#![allow(dead_code)]

mod machine;
mod protocol;

pub use protocol::PROTOCOL_NAME;
