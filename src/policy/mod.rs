//! Who decides what moves: the trait, and one file per shipped policy.
//!
//! A policy sees read-only views and answers with places; it never touches a stream.

mod prefer_direct;

use libp2p_swarm::ConnectionId;

pub use self::prefer_direct::PreferDirect;
use crate::event::{ConnectionInfo, StreamInfo};
pub use crate::machine::Verdict;

/// Decides where streams should be.
///
/// The behaviour asks when a connection appears, when a stream starts, and when a migration has ended;
/// it starts what is asked for when it is our turn ([`Initiate`](crate::Initiate)), one migration of a
/// stream at a time, and asks again, with increasing delays, after one that failed.
pub trait Policy: Send + 'static {
    /// The connection on which the stream should be; `None`, or the one on which it is, leaves it there.
    fn place(
        &mut self,
        stream: &StreamInfo,
        connections: &[&ConnectionInfo],
    ) -> Option<ConnectionId>;

    /// What to say to the remote, which asks to move the stream onto this connection. Default: accept.
    fn verdict(&mut self, stream: &StreamInfo, to: &ConnectionInfo) -> Verdict {
        let _ = (stream, to);
        Verdict::Accept
    }
}

/// Moves nothing; accepts what the remote moves.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stay;

impl Policy for Stay {
    fn place(&mut self, _: &StreamInfo, _: &[&ConnectionInfo]) -> Option<ConnectionId> {
        None
    }
}
