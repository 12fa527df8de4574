//! What is explored.

use crate::{
    leg::{Kind, Write},
    machine::{Abort, Input, Slot, Speech, rules::Rule},
    world::{Cut, World},
};

/// When a leg's write side is closed after it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closes {
    /// In the same step.
    AtOnce,
    /// Later; the FIN goes out then.
    Later,
    /// The FIN goes out at once, and is reported later.
    Reported,
}

/// When an accepting ack is written after it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acks {
    /// In the same step.
    AtOnce,
    /// Later.
    Later,
}

/// One rule of `docs/rules.md` that is not obeyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutant {
    Machine(Rule),
    /// Only A's machine.
    OfA(Rule),
    /// 1: prune only after something was read on the new leg.
    PruneUnheard,
    /// 5: deny for a stream that ended cleanly.
    DenyEnded,
    /// 8: no move onto a relayed connection that was left.
    Return,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Config {
    /// The connections' kinds; the stream begins on the first.
    pub(crate) connections: Kinds,
    pub(crate) verify: [bool; 2],
    /// Who knows from the start whether the other verifies.
    pub(crate) known: [bool; 2],
    /// Whether they give their word; A opened the stream.
    pub(crate) speech: [Speech; 2],
    /// What they are saying is lost with any connection, and said again on another.
    pub(crate) words_lost: bool,
    /// B does not remember that it has denied.
    pub(crate) forgetful: bool,
    pub(crate) writes: [u8; 2],
    pub(crate) closes: [bool; 2],
    pub(crate) starts: [u8; 2],
    pub(crate) losses: u8,
    /// The last connections are not there at first, and may be dialed.
    pub(crate) dialed: u8,
    /// Connections that one side gives up though they are fine.
    pub(crate) alarms: u8,
    /// Legs that end by themselves, though their connections are fine.
    pub(crate) breaks: u8,
    /// A writer keeps no more than its last byte.
    pub(crate) slides: bool,
    /// No more resumes than these.
    pub(crate) resumes: u64,
    /// Losses are silent: only probes find them.
    pub(crate) silent: bool,
    /// Timers that fire early.
    pub(crate) timeouts: u8,
    pub(crate) denies: u8,
    pub(crate) not_nows: u8,
    /// Verdicts may come after another `Migrate` has taken the place of what they are about; and what is
    /// held may be given up, which counts as a verdict of "not now".
    pub(crate) late: bool,
    /// Applications that drop the stream.
    pub(crate) drops: u8,
    /// They do so before the remote has agreed to the protocol.
    pub(crate) unanswered: bool,
    /// The first connection is relayed: who may closes it.
    pub(crate) prune: bool,
    pub(crate) closing: Closes,
    pub(crate) acks: Acks,
    /// A reset or a loss may overtake what is queued.
    pub(crate) overtake: bool,
    /// A drop's STOP_SENDING may come after its FIN: the empty write is fooled.
    pub(crate) late_stop: bool,
    pub(crate) without: Option<Mutant>,
}

/// The connections of a stream that moves once.
pub(crate) type Kinds = &'static [Kind];

pub(crate) const QQ: &[Kind] = &[Kind::Quic, Kind::Quic];
pub(crate) const YY: &[Kind] = &[Kind::Yamux, Kind::Yamux];
pub(crate) const YQ: &[Kind] = &[Kind::Yamux, Kind::Quic];
pub(crate) const QY: &[Kind] = &[Kind::Quic, Kind::Yamux];
pub(crate) const RR: &[Kind] = &[Kind::Reset, Kind::Reset];
pub(crate) const QQQ: &[Kind] = &[Kind::Quic, Kind::Quic, Kind::Quic];
pub(crate) const YYY: &[Kind] = &[Kind::Yamux, Kind::Yamux, Kind::Yamux];
pub(crate) const YQQ: &[Kind] = &[Kind::Yamux, Kind::Quic, Kind::Quic];

impl Config {
    /// A byte each way, both may close and both may start once; nothing fails.
    pub(crate) const BASE: Self = Self {
        connections: QQ,
        verify: [true, true],
        known: [true, true],
        speech: [Speech::No, Speech::No],
        words_lost: false,
        forgetful: false,
        writes: [1, 1],
        closes: [true, true],
        starts: [1, 1],
        losses: 0,
        dialed: 0,
        alarms: 0,
        breaks: 0,
        slides: false,
        resumes: 0,
        silent: false,
        timeouts: 0,
        denies: 0,
        not_nows: 0,
        late: false,
        drops: 0,
        unanswered: false,
        prune: false,
        closing: Closes::AtOnce,
        acks: Acks::AtOnce,
        overtake: true,
        late_stop: false,
        without: None,
    };

    /// Whether they say and believe facts, sooner or later.
    pub(crate) fn speak(&self) -> bool {
        self.speech[1] != Speech::No
    }

    /// Whether streams outlive their legs.
    pub(crate) fn resume(&self) -> bool {
        self.speech[1] == Speech::Resumes
    }

    /// The clean ends that nothing on today's wire can tell from true ones.
    pub(crate) fn exception(
        &self,
        world: &World,
        side: usize,
        input: Input,
    ) -> Option<&'static str> {
        if self.speak() {
            return None;
        }
        let slot = match input {
            Input::End(slot, _) => slot,
            _ => Slot::Current,
        };
        let machine = &world.peers[side].machine;
        let other = &world.peers[1 - side].machine;
        // It may have been completed by this very input.
        let leg = world
            .leg_in(side, slot)
            .or(world.leg_in(side, Slot::Current))?;
        let leg = &world.legs[leg];
        let seat = &leg.seats[side];
        let silenced = seat.write != Write::Open && !seat.failed;
        if world.peers[side].doubt && slot == Slot::Current {
            return None;
        }
        let failed = matches!(other.over(), Some(Err(_))) || self.losses > world.budgets.losses;
        if leg.kind == Kind::Yamux && silenced && failed {
            return Some("the end of a last yamux leg, our write side closed");
        }
        let all = other.counts().0 == machine.counts().1;
        match other.over() {
            Some(Err(Abort::Dropped)) if leg.kind == Kind::Quic && all => {
                return Some("a QUIC stream whose application dropped it, every byte read");
            }
            // Between two that verify, the empty write tells after a migration.
            Some(Err(_))
                if leg.kind == Kind::Quic && all && (silenced || self.verify != [true, true]) =>
            {
                return Some("a QUIC stream that the other side aborted, every byte read");
            }
            _ => {}
        }
        let cut = world.peers[side].cut;
        if failed && (cut == Cut::Earlier || cut == Cut::Current && slot == Slot::New) {
            return Some("an unverified yamux old leg's cut, taken for the switch");
        }
        None
    }
}
