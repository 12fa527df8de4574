//! The wire: messages and their exact encoding, stream IDs and roles.
//!
//! Knows the machine's types and the generated protobuf code; knows nothing of swarms or policies.

pub(crate) mod codec;
mod generated;
pub(crate) mod roles;

use libp2p_swarm::StreamProtocol;

/// The protocol's name: `/libp2p/stream-migration` (*Stream Migration Protocol ID*).
pub const PROTOCOL_NAME: StreamProtocol = StreamProtocol::new("/libp2p/stream-migration");
