//! No policy of our own.

use super::{Policy, Verdict};
use crate::view::{ConnectionInfo, PeerView, StreamInfo};

/// Moves nothing; accepts what the remote moves. [`Control::migrate`](crate::Control::migrate) is all
/// there is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stay;

impl Policy for Stay {}

/// Moves nothing, and leaves the answers to the remote to somebody outside, who follows the
/// [`Event`](crate::Event)s and uses a [`Control`](crate::Control): see [`Verdict::Ask`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Outside;

impl Policy for Outside {
    fn verdict(&mut self, _: &StreamInfo, _: &ConnectionInfo, _: &PeerView<'_>) -> Verdict {
        Verdict::Ask
    }
}
