//! The default policy, or nothing but what is asked for by hand; and a remote that is sometimes refused.

use std::{
    cmp::Ordering,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::SeqCst},
    },
    time::Duration,
};

use libp2p_stream_migration::ConnectionKey;
use libp2p_stream_migration::{
    Action, Chain, Change, ConnectionInfo, Drain, PeerView, Placement, Policy, StreamInfo, Verdict,
};

use testing::Random;

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
    /// The default policy, with answers in between that nobody in his right mind would give.
    Strange,
}

impl Mover {
    pub const ALL: [Self; 4] = [Self::Hand, Self::Strange, Self::Default, Self::Both];

    pub fn of_round(round: usize) -> Self {
        Self::ALL[round % Self::ALL.len()]
    }

    pub fn by_hand(self) -> bool {
        matches!(self, Self::Hand | Self::Both)
    }

    /// Whether paths go silent. They take time, as do the streams that sleep in these rounds.
    pub fn has_silences(self) -> bool {
        matches!(self, Self::Strange | Self::Both)
    }

    pub fn has_restarts(self) -> bool {
        self == Self::Default
    }

    /// Whether many streams are opened at once.
    pub fn has_bursts(self) -> bool {
        self == Self::Hand
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

    /// Whether some streams are left alone for long, which makes a round as long.
    pub fn takes_time(&self) -> bool {
        self.is_strange() || self.0.load(SeqCst) == Mover::Both as u8
    }

    fn is_by_hand(&self) -> bool {
        self.0.load(SeqCst) == Mover::Hand as u8
    }

    fn is_strange(&self) -> bool {
        self.0.load(SeqCst) == Mover::Strange as u8
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

/// A connection that there is not.
fn nowhere() -> ConnectionKey {
    ConnectionKey::new(u64::MAX)
}

impl ByTurns {
    /// Some streams are asked about for ever, others are sent where they cannot go.
    fn strange_place(&self, stream: &StreamInfo, peer: &PeerView<'_>) -> Option<Placement> {
        let mut random = Random::of(7, stream.id.0);
        match random.below(20) {
            0 => Some(Placement::AskAgain(Duration::ZERO)),
            1 => Some(Placement::AskAgain(Duration::MAX)),
            2 => Some(Placement::On(nowhere())),
            3 => stream.connection.map(Placement::On),
            // Another one each time that the stream has moved.
            4 => random
                .one_of(peer.connections())
                .map(|info| Placement::On(info.key)),
            _ => None,
        }
    }

    /// Whoever is called wants to be called again at once.
    fn strange_action(&mut self, change: &Change, peer: &PeerView<'_>) -> Option<Action> {
        match (change, self.random.below(50)) {
            (Change::Called, _) => Some(Action::CallIn(Duration::ZERO)),
            (_, 0) => Some(Action::CallIn(Duration::ZERO)),
            (_, 1) => Some(Action::CallIn(Duration::MAX)),
            (_, 2) => Some(Action::Close(nowhere())),
            (_, 3) => Some(Action::Replace),
            (Change::StreamStarted(key), 4) => Some(Action::Move(*key, nowhere())),
            // It is over.
            (Change::StreamEnded(key), 5..25) => {
                let to = peer.connections().first()?;
                Some(Action::Move(*key, to.key))
            }
            _ => None,
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
        let strangely = self
            .mode
            .is_strange()
            .then(|| self.strange_place(stream, peer));
        strangely
            .flatten()
            .unwrap_or_else(|| self.mover().place(stream, peer))
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
        let mut actions = self.mover().changed(change, peer);
        if self.mode.is_strange() {
            actions.extend(self.strange_action(change, peer));
        }
        actions
    }
}
