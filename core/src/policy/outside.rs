//! No policy of our own.

use super::{Placement, Policy, Verdict};
use crate::view::{ConnectionInfo, PeerView, StreamInfo};

/// Moves nothing, not even off a connection that does not answer; accepts what the remote moves.
/// `Control::migrate` is all there is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stay;

impl Policy for Stay {
    fn place(&mut self, _: &StreamInfo, _: &PeerView<'_>) -> Placement {
        Placement::Here
    }
}

/// Moves nothing, and leaves the answers to the remote to somebody outside, who follows the
/// [`Event`](crate::event::Event)s and uses a `Control`: see [`Verdict::Ask`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Outside;

impl Policy for Outside {
    fn place(&mut self, _: &StreamInfo, _: &PeerView<'_>) -> Placement {
        Placement::Here
    }

    fn verdict(&mut self, _: &StreamInfo, _: &ConnectionInfo, _: &PeerView<'_>) -> Verdict {
        Verdict::Ask
    }
}
