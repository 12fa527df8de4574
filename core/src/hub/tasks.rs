//! Tasks that run in the background for the hub, and are polled by it.

use futures::{future::BoxFuture, stream::FuturesUnordered};
use libp2p_identity::PeerId;

use super::requests::EarlyGone;
use crate::{
    key::ConnectionKey,
    stream::{Drive, Io},
};

pub(super) struct Tasks<L: Io> {
    /// Streams that are moved on while their applications poll nothing.
    pub(super) drives: FuturesUnordered<Drive<L>>,
    /// `Migrate`s that wait for their label, looked after.
    pub(super) early: FuturesUnordered<BoxFuture<'static, EarlyGone>>,
    /// Denials of migrations of streams that have ended, being written.
    pub(super) denials: FuturesUnordered<BoxFuture<'static, ()>>,
    /// Last legs of streams that were closed and dropped; what comes out is where there was one.
    pub(super) kept: FuturesUnordered<BoxFuture<'static, (PeerId, ConnectionKey)>>,
}

impl<L: Io> Default for Tasks<L> {
    fn default() -> Self {
        Self {
            drives: FuturesUnordered::new(),
            early: FuturesUnordered::new(),
            denials: FuturesUnordered::new(),
            kept: FuturesUnordered::new(),
        }
    }
}

impl<L: Io> Tasks<L> {
    /// True if nothing runs that bytes or permits depend on.
    #[cfg(any(test, stream_migration_mutants))]
    pub fn is_empty(&self) -> bool {
        self.drives.is_empty() && self.denials.is_empty() && self.kept.is_empty()
    }
}
