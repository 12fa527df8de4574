//! Off the relay as soon as there is a direct connection.

use std::cmp::Ordering;

use super::Policy;
use crate::view::{ConnectionInfo, PeerView};

/// Direct connections are better than relayed ones; direct ones are equal, and so are relayed ones.
#[derive(Debug, Clone, Copy, Default)]
pub struct PreferDirect;

impl Policy for PreferDirect {
    fn compare(&self, a: &ConnectionInfo, b: &ConnectionInfo, _: &PeerView<'_>) -> Ordering {
        a.relayed.cmp(&b.relayed)
    }
}
