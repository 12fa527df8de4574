//! Off the relay as soon as there is a direct connection.

use libp2p_swarm::ConnectionId;

use super::Policy;
use crate::event::{ConnectionInfo, StreamInfo};

/// Moves streams from relayed connections to the oldest direct one; leaves streams on direct
/// connections where they are.
#[derive(Debug, Clone, Copy, Default)]
pub struct PreferDirect;

impl Policy for PreferDirect {
    fn place(
        &mut self,
        stream: &StreamInfo,
        connections: &[&ConnectionInfo],
    ) -> Option<ConnectionId> {
        let here = connections.iter().find(|c| c.id == stream.connection)?;
        if !here.relayed {
            return None;
        }
        connections
            .iter()
            .filter(|connection| !connection.relayed)
            .min_by_key(|connection| connection.established)
            .map(|connection| connection.id)
    }
}
