//! The policy: moves nothing, and answers as it was told to. All that the peer has to do with the
//! [`Policy`] trait is in this file.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use libp2p_stream_migration::{ConnectionInfo, PeerView, Policy, StreamInfo, StreamKey, Verdict};

/// What to say to the remote's `Migrate`s to come; after that, they are accepted.
#[derive(Debug, Clone, Default)]
pub struct Verdicts(Arc<Mutex<VecDeque<Verdict>>>);

impl Verdicts {
    pub fn set(&self, next: Vec<Verdict>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = next.into();
    }

    fn next(&self) -> Verdict {
        let mut verdicts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        verdicts.pop_front().unwrap_or(Verdict::Accept)
    }
}

/// Tells of the remote's `Migrate`s, and answers them.
pub struct Scripted<F> {
    pub verdicts: Verdicts,
    /// Called when one has been matched to a stream.
    pub received: F,
}

impl<F: FnMut(StreamKey) + Send + 'static> Policy for Scripted<F> {
    fn verdict(&mut self, stream: &StreamInfo, _: &ConnectionInfo, _: &PeerView<'_>) -> Verdict {
        (self.received)(stream.key);
        self.verdicts.next()
    }
}
