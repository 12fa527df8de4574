//! One policy for the streams above and below the swarm.

use std::{
    cmp::Ordering,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{Action, Change, ConnectionInfo, PeerView, Placement, Policy, StreamInfo, Verdict};

#[derive(Clone)]
pub(crate) struct SharedPolicy(
    /// Protects the policy, while it is asked. It must not block.
    Arc<Mutex<Box<dyn Policy>>>,
);

impl SharedPolicy {
    pub(crate) fn new(policy: impl Policy) -> Self {
        Self(Arc::new(Mutex::new(Box::new(policy))))
    }

    fn lock(&self) -> MutexGuard<'_, Box<dyn Policy>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Policy for SharedPolicy {
    fn compare(&self, a: &ConnectionInfo, b: &ConnectionInfo, peer: &PeerView<'_>) -> Ordering {
        self.lock().compare(a, b, peer)
    }

    fn place(&mut self, stream: &StreamInfo, peer: &PeerView<'_>) -> Placement {
        self.lock().place(stream, peer)
    }

    fn verdict(
        &mut self,
        stream: &StreamInfo,
        to: &ConnectionInfo,
        peer: &PeerView<'_>,
    ) -> Verdict {
        self.lock().verdict(stream, to, peer)
    }

    fn changed(&mut self, change: &Change, peer: &PeerView<'_>) -> Vec<Action> {
        self.lock().changed(change, peer)
    }
}
