//! The wire: messages and their exact encoding, stream IDs and roles.
//!
//! Knows the machine's types and the generated protobuf code; knows nothing of swarms or policies.

pub mod codec;
mod generated;
pub mod roles;

/// The protocol's name (*Stream Migration Protocol ID*).
pub const PROTOCOL_NAME: &str = "/libp2p/stream-migration";

/// The name of the protocol on control substreams (*Control*).
pub const CONTROL_NAME: &str = "/libp2p/stream-migration/control/1.0.0";
