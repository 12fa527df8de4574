//! What one side of a stream is going to do with it.

use std::time::Duration;

use testing::Random;

use crate::{flow::Side, node};

/// At most so much is written in one direction.
const MOST_BYTES: u64 = 2 << 20;
const MOST_PIECE: u64 = 300 << 10;
/// What is read at a time, at most.
const BUFFER: u64 = 64 << 10;
/// As long as it takes to open all streams of a burst.
const BURST: Duration = Duration::from_millis(1500);

/// What becomes of a stream, beside what each of its sides has in mind. Both sides know it by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scene {
    Ordinary,
    /// This side says what it has to say, closes, and lets go; the other does not read for longer than any
    /// timeout, and then reads it all.
    LeftAlone(Side),
    /// It is one of many that are opened at once, and there are all of them for a while.
    OfBurst,
}

impl Scene {
    pub fn of(seed: u64, number: u64, takes_time: bool) -> Self {
        let mut random = Random::of(seed, number.wrapping_mul(8).wrapping_add(4));
        match random.below(1000) {
            _ if !takes_time => Self::Ordinary,
            0..20 => Self::LeftAlone(Side::Opener),
            20..40 => Self::LeftAlone(Side::Accepter),
            _ => Self::Ordinary,
        }
    }
}

#[derive(Debug, Clone)]
pub struct Plan {
    /// How much it writes before it closes.
    pub bytes: u64,
    /// How much at a time, at most.
    pub piece: u64,
    /// How much is read at a time, at most.
    pub buffer: u64,
    /// In how many of a thousand cases it flushes, yields or pauses after a piece.
    pub flushes: u64,
    pub yields: u64,
    pub pauses: u64,
    /// In how many of a thousand cases it pauses after it has read something.
    pub read_pauses: u64,
    /// Whether it writes nothing before it has read the remote's end, as a server would.
    pub answers: bool,
    /// Whether it closes only when it has read the remote's end.
    pub closes_last: bool,
    /// How long it sleeps before it reads anything.
    pub sleeps: Option<Duration>,
    pub ends: Ends,
}

/// How a side lets go of its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// It has closed, and has read the remote's end.
    InOrder,
    /// It closes, and drops the stream without reading the rest: the crate has to see to what was written.
    Leaving,
    /// It drops the stream when it has written so much, without closing.
    DropsWriting(u64),
    /// It drops the stream when it has read so much.
    DropsReading(u64),
}

impl Plan {
    pub fn new(random: &mut Random, side: Side, scene: Scene) -> Self {
        let plan = Self::ordinary(random, side == Side::Opener);
        let least = if side == Side::Opener {
            crate::content::HEADER
        } else {
            0
        };
        match scene {
            Scene::Ordinary => plan,
            Scene::OfBurst => Self {
                bytes: least + random.size(2_000),
                buffer: 4 << 10,
                pauses: 0,
                read_pauses: 0,
                answers: false,
                closes_last: false,
                sleeps: Some(BURST),
                ends: Ends::InOrder,
                ..plan
            },
            Scene::LeftAlone(leaving) if leaving == side => Self {
                answers: false,
                ends: Ends::Leaving,
                ..plan
            },
            // It writes to nobody who has left.
            Scene::LeftAlone(_) => Self {
                bytes: least,
                answers: false,
                closes_last: true,
                sleeps: Some(node::LONGER_THAN_ANY_TIMEOUT),
                ends: Ends::InOrder,
                ..plan
            },
        }
    }

    fn ordinary(random: &mut Random, opener: bool) -> Self {
        let least = if opener { crate::content::HEADER } else { 0 };
        // Some say nothing at all.
        let bytes = match random.chance(100) {
            true => least,
            false => random.size(MOST_BYTES).max(least),
        };
        let ends = match random.below(1000) {
            0..20 => Ends::DropsWriting(random.below(bytes + 1)),
            20..40 => Ends::DropsReading(random.size(MOST_BYTES)),
            40..60 => Ends::Leaving,
            _ => Ends::InOrder,
        };
        Self {
            bytes,
            piece: random.size(MOST_PIECE).max(1 + bytes / 200),
            buffer: BUFFER,
            flushes: random.below(500),
            yields: random.below(500),
            pauses: 50 + random.below(800),
            read_pauses: if random.chance(200) { 500 } else { 20 },
            answers: !opener && random.chance(200),
            closes_last: false,
            sleeps: None,
            ends,
        }
    }

    /// How long a pause is: most are short, and none is so long that a migration would be given up.
    pub fn pause(random: &mut Random) -> Duration {
        match random.chance(3) {
            true => Duration::from_millis(random.below(1500)),
            false => Duration::from_micros(random.size(30_000)),
        }
    }
}
