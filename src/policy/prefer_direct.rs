//! Off the relay as soon as there is a direct connection.

use super::{Placement, Policy};
use crate::event::{ConnectionInfo, StreamInfo};

/// Moves streams from relayed connections to the oldest direct one; leaves streams on direct
/// connections where they are.
#[derive(Debug, Clone, Copy, Default)]
pub struct PreferDirect;

impl Policy for PreferDirect {
    fn place(&mut self, stream: &StreamInfo, connections: &[&ConnectionInfo]) -> Placement {
        let here = connections.iter().find(|c| c.id == stream.connection);
        if here.is_none_or(|here| !here.relayed) {
            return Placement::Here;
        }
        connections
            .iter()
            .filter(|connection| !connection.relayed)
            .min_by_key(|connection| connection.established)
            .map_or(Placement::Here, |direct| Placement::On(direct.id))
    }
}
