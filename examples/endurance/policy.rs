//! The default policy, or nothing but what is asked for by hand; and a remote that is sometimes refused.

use std::{
    cmp::Ordering,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::SeqCst},
    },
};

use libp2p_stream_migration::{
    Action, Chain, Change, ConnectionInfo, Drain, PeerView, Placement, Policy, StreamInfo, Verdict,
};

use crate::random::Random;

/// Who moves streams in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Mover {
    /// This program, by `Control::migrate`; the policy only empties what is drained.
    Hand,
    /// The behaviour's default policy.
    Default,
    /// Both.
    Both,
}

impl Mover {
    pub fn of_round(round: usize) -> Self {
        [Self::Hand, Self::Both, Self::Default][round % 3]
    }

    pub fn by_hand(self) -> bool {
        self != Self::Default
    }
}

/// Changed only while there is no stream.
#[derive(Debug, Clone)]
pub struct Mode(Arc<AtomicU8>);

impl Mode {
    pub fn new(mover: Mover) -> Self {
        Self(Arc::new(AtomicU8::new(mover as u8)))
    }

    pub fn set(&self, mover: Mover) {
        self.0.store(mover as u8, SeqCst);
    }

    fn is_by_hand(&self) -> bool {
        self.0.load(SeqCst) == Mover::Hand as u8
    }
}

pub struct ByTurns {
    mode: Mode,
    hand: Drain,
    default: Chain,
    random: Random,
}

impl ByTurns {
    pub fn new(mode: Mode, random: Random) -> Self {
        Self {
            mode,
            hand: Drain,
            default: Chain::default(),
            random,
        }
    }

    fn mover(&mut self) -> &mut dyn Policy {
        match self.mode.is_by_hand() {
            true => &mut self.hand,
            false => &mut self.default,
        }
    }
}

impl Policy for ByTurns {
    fn compare(&self, a: &ConnectionInfo, b: &ConnectionInfo, peer: &PeerView<'_>) -> Ordering {
        match self.mode.is_by_hand() {
            true => self.hand.compare(a, b, peer),
            false => self.default.compare(a, b, peer),
        }
    }

    fn place(&mut self, stream: &StreamInfo, peer: &PeerView<'_>) -> Placement {
        self.mover().place(stream, peer)
    }

    fn verdict(
        &mut self,
        stream: &StreamInfo,
        to: &ConnectionInfo,
        peer: &PeerView<'_>,
    ) -> Verdict {
        match self.random.below(200) {
            0 => Verdict::Deny,
            1 | 2 => Verdict::NotNow,
            _ => self.mover().verdict(stream, to, peer),
        }
    }

    fn changed(&mut self, change: &Change, peer: &PeerView<'_>) -> Vec<Action> {
        self.mover().changed(change, peer)
    }
}
