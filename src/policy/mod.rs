//! Who decides what moves: the trait, and one file per shipped policy.
//!
//! A policy sees read-only views and answers with places; it never touches a stream.

mod prefer_direct;

use std::time::Duration;

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
    /// Where the stream should be, given the connections to its peer.
    fn place(&mut self, stream: &StreamInfo, connections: &[&ConnectionInfo]) -> Placement;

    /// What to say to the remote, which asks to move the stream onto this connection. Default: accept.
    fn verdict(&mut self, stream: &StreamInfo, to: &ConnectionInfo) -> Verdict {
        let _ = (stream, to);
        Verdict::Accept
    }
}

/// Where a stream should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// Where it is.
    Here,
    /// On this connection. Naming the one on which it is, or one that is not there, leaves it.
    On(ConnectionId),
    /// Where it is for now; ask again after this time.
    AskAgain(Duration),
}

/// Moves nothing; accepts what the remote moves.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stay;

impl Policy for Stay {
    fn place(&mut self, _: &StreamInfo, _: &[&ConnectionInfo]) -> Placement {
        Placement::Here
    }
}
