//! The pulse of a connection: whether anything has been read from the remote on it, seen without asking anybody.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// A sign of life, shared by whoever reads on the connection and whoever looks after it.
#[derive(Debug, Clone, Default)]
pub struct Pulse(Arc<AtomicBool>);

impl Pulse {
    /// Something has been read.
    #[inline]
    pub fn beat(&self) {
        // Mostly it is set: a load does not take the line from others.
        if !self.0.load(Ordering::Relaxed) {
            self.0.store(true, Ordering::Release);
        }
    }

    /// True if something has been read since the last call.
    pub fn take(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }
}
