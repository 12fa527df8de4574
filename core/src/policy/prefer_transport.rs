//! An order of transports.

use std::cmp::Ordering;

use super::Policy;
use crate::view::{ConnectionInfo, PeerView, Transport};

/// Connections over a transport that comes earlier in the order are better; those that are not in it
/// come last, and are equal. Says nothing of a connection whose transport is not known
/// ([`Transport::Unknown`]), nor of a relayed one, whose two peers each know their own way to the relay
/// and not the other's: put it after [`PreferDirect`](super::PreferDirect) in a [`Chain`](super::Chain).
#[derive(Debug, Clone)]
pub struct PreferTransport(Vec<Transport>);

impl PreferTransport {
    /// The best first.
    #[must_use]
    pub fn new(order: impl IntoIterator<Item = Transport>) -> Self {
        Self(order.into_iter().collect())
    }

    fn rank(&self, transport: Transport) -> usize {
        let found = self.0.iter().position(|listed| *listed == transport);
        found.unwrap_or(self.0.len())
    }
}

impl Default for PreferTransport {
    /// QUIC, then TCP, then WebSocket.
    fn default() -> Self {
        Self::new([Transport::Quic, Transport::Tcp, Transport::WebSocket])
    }
}

impl Policy for PreferTransport {
    fn compare(&self, a: &ConnectionInfo, b: &ConnectionInfo, _: &PeerView<'_>) -> Ordering {
        // Only what both peers know may order two connections. One who knows less moves nothing, and goes
        // along with the other.
        let unknown = [a, b]
            .iter()
            .any(|info| info.transport == Transport::Unknown);
        if a.relayed || b.relayed || unknown {
            return Ordering::Equal;
        }
        self.rank(a.transport).cmp(&self.rank(b.transport))
    }
}
