//! Permits for what there may be so many of, each given back when it is dropped.
#![warn(missing_docs)]

use std::sync::{Arc, Weak};

/// A pool of permits, told apart from others by identity. The limit is said at each acquisition.
#[derive(Debug, Default)]
pub struct Permits(Arc<()>);

/// A permit, given back when it is dropped.
#[derive(Debug)]
pub struct Permit(#[allow(dead_code, reason = "held")] Arc<()>);

impl Permits {
    /// Takes one of so many, if one is left.
    pub fn try_acquire(&self, limit: usize) -> Option<Permit> {
        (self.taken() < limit).then(|| self.acquire())
    }

    /// Takes one, however many are taken.
    pub fn acquire(&self) -> Permit {
        Permit(self.0.clone())
    }

    /// Counts the permits that are taken.
    pub fn taken(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }

    /// The pool for somebody who takes permits and does not keep it alive.
    pub fn downgrade(&self) -> WeakPermits {
        WeakPermits(Arc::downgrade(&self.0))
    }
}

/// A pool that may be gone.
#[derive(Debug, Clone, Default)]
pub struct WeakPermits(Weak<()>);

impl WeakPermits {
    /// Takes a permit, if the pool is still there.
    pub fn acquire(&self) -> Option<Permit> {
        self.0.upgrade().map(Permit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_is_given_back() {
        let permits = Permits::default();
        let first = permits.try_acquire(2);
        let second = permits.try_acquire(2);
        assert!(first.is_some() && second.is_some());
        assert!(permits.try_acquire(2).is_none());
        let beyond = permits.acquire();
        assert_eq!(permits.taken(), 3);
        drop((first, beyond));
        assert_eq!(permits.taken(), 1);
        assert!(permits.try_acquire(2).is_some());
        assert!(permits.try_acquire(0).is_none());
    }

    #[test]
    fn a_pool_that_is_gone_gives_nothing() {
        let permits = Permits::default();
        let weak = permits.downgrade();
        let held = weak.acquire();
        assert_eq!((held.is_some(), permits.taken()), (true, 1));
        drop(held);
        drop(permits);
        assert!(weak.acquire().is_none());
    }
}
