//! Several policies as one.

use std::{cmp::Ordering, fmt};

use super::{Action, Change, Drain, MergeDuplicates, Placement, Policy, PreferDirect, Verdict};
use crate::view::{ConnectionInfo, PeerView, StreamInfo};

/// Policies in order: each is asked only where those before it see no difference.
///
/// The default is the behaviour's: [`Drain`], [`PreferDirect`], [`MergeDuplicates`].
pub struct Chain(Vec<Box<dyn Policy>>);

impl Chain {
    /// A chain of one.
    #[must_use]
    pub fn new(first: impl Policy) -> Self {
        Self(vec![Box::new(first)])
    }

    /// Adds another policy after the others.
    #[must_use]
    pub fn then(mut self, next: impl Policy) -> Self {
        self.0.push(Box::new(next));
        self
    }
}

impl Default for Chain {
    fn default() -> Self {
        Self::new(Drain).then(PreferDirect).then(MergeDuplicates)
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chain of {}", self.0.len())
    }
}

impl Policy for Chain {
    /// The first that sees a difference decides.
    fn compare(&self, a: &ConnectionInfo, b: &ConnectionInfo, peer: &PeerView<'_>) -> Ordering {
        let mut orders = self.0.iter().map(|policy| policy.compare(a, b, peer));
        orders
            .find(|order| order.is_ne())
            .unwrap_or(Ordering::Equal)
    }

    /// The first that is not indifferent decides.
    fn place(&mut self, stream: &StreamInfo, peer: &PeerView<'_>) -> Placement {
        let mut places = self.0.iter_mut().map(|policy| policy.place(stream, peer));
        let decided = places.find(|place| *place != Placement::Indifferent);
        decided.unwrap_or(Placement::Indifferent)
    }

    /// The first that does not accept decides.
    fn verdict(
        &mut self,
        stream: &StreamInfo,
        to: &ConnectionInfo,
        peer: &PeerView<'_>,
    ) -> Verdict {
        let mut verdicts = self
            .0
            .iter_mut()
            .map(|policy| policy.verdict(stream, to, peer));
        let decided = verdicts.find(|verdict| *verdict != Verdict::Accept);
        decided.unwrap_or(Verdict::Accept)
    }

    /// The wishes of each policy, in order.
    fn changed(&mut self, change: &Change, peer: &PeerView<'_>) -> Vec<Action> {
        let all = self.0.iter_mut();
        all.flat_map(|policy| policy.changed(change, peer))
            .collect()
    }
}
