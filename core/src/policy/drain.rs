//! Off a connection that is to be emptied.

use std::cmp::Ordering;

use super::Policy;
use crate::view::{ConnectionInfo, PeerView};

/// Any connection is better than one that `Control::drain` has named. In a
/// [`Chain`](super::Chain), put it first. A stream for which there is no other place stays.
#[derive(Debug, Clone, Copy, Default)]
pub struct Drain;

impl Policy for Drain {
    fn compare(&self, a: &ConnectionInfo, b: &ConnectionInfo, _: &PeerView<'_>) -> Ordering {
        a.draining.cmp(&b.draining)
    }
}
