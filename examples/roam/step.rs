//! One event, and how the stream went on after it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    path::Path,
    world::{View, World},
};

/// The bytes that the receiver has to have read on the new path.
const FLOW: u64 = 64 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Cut,
    Silence,
    Mend,
    AllGone,
    RelayRestart,
    BothMoved,
    ReceiverMoved,
}

impl Event {
    /// For programs.
    fn name(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::Silence => "silence",
            Self::Mend => "mend",
            Self::AllGone => "all_gone",
            Self::RelayRestart => "relay_restart",
            Self::BothMoved => "both_moved",
            Self::ReceiverMoved => "receiver_moved",
        }
    }

    /// For people.
    pub fn words(self, path: Option<Path>) -> String {
        let words = match self {
            Self::Cut => "cut",
            Self::Silence => "silenced",
            Self::Mend => "mended",
            Self::AllGone => return "no path for 10 s".to_owned(),
            Self::RelayRestart => return "restarted the relay".to_owned(),
            Self::BothMoved => return "moved both sides".to_owned(),
            Self::ReceiverMoved => return "moved the receiver, and told nobody".to_owned(),
        };
        path.map_or(words.to_owned(), |path| format!("{words} {path}"))
    }
}

/// An event that has come, and after which the stream is to go on.
pub struct Step {
    event: Event,
    path: Option<Path>,
    /// The paths on which it may go on.
    on: Vec<Path>,
    pub since: Instant,
    migrations: u64,
    resumes: u64,
    again: u64,
    /// The bytes that had been read when it was first seen on one of these.
    flow: Option<u64>,
    pause: Duration,
}

/// How it went on.
pub struct Outcome {
    pub event: Event,
    pub path: Option<Path>,
    pub to: String,
    pub pause: Duration,
    migrations: u64,
    resumes: u64,
    again: u64,
}

impl Step {
    /// The receiver has begun a new measurement.
    pub fn new(world: &World, event: Event, path: Option<Path>, on: &[Path]) -> Self {
        Self {
            event,
            path,
            on: on.to_vec(),
            since: Instant::now(),
            migrations: world.sender.migrations,
            resumes: world.sender.resumes,
            again: world.sender.again,
            flow: None,
            pause: Duration::ZERO,
        }
    }

    /// What has been read until now does not count.
    pub fn now(&mut self, world: &World) {
        self.flow = Some(world.receiver.bytes);
    }

    /// It may go on there, too.
    pub fn also_on(&mut self, path: Path) {
        self.on.push(path);
    }

    pub fn what(&self) -> String {
        let on: Vec<_> = self.on.iter().map(|path| path.name()).collect();
        format!(
            "going on over {} after '{}'",
            on.join(" or "),
            self.event.words(self.path)
        )
    }

    /// True once bytes flow on one of the paths that are to be, and both sides know it.
    pub fn has_gone_on(&mut self, world: &World) -> bool {
        let there =
            |view: &View| !view.suspended && self.on.iter().any(|path| path.name() == view.path);
        if !there(&world.sender) || !there(&world.receiver) {
            self.flow = None;
            return false;
        }
        let bytes = world.receiver.bytes;
        let flows = bytes >= *self.flow.get_or_insert(bytes) + FLOW;
        if flows {
            self.pause = world.receiver.pause;
        }
        flows
    }

    /// What has come of it, once both sides have reported since.
    pub fn outcome(&self, world: &World) -> Outcome {
        Outcome {
            event: self.event,
            path: self.path,
            to: world.receiver.path.clone(),
            pause: self.pause,
            migrations: world.sender.migrations - self.migrations,
            resumes: world.sender.resumes - self.resumes,
            again: world.sender.again - self.again,
        }
    }
}

impl Outcome {
    pub fn json(&self) -> Value {
        json!({
            "event": self.event.name(),
            "path": self.path.map(Path::name),
            "pause_ms": millis(self.pause),
            "again": self.again,
            "migrations": self.migrations,
            "resumes": self.resumes,
            "to": self.to,
        })
    }

    pub fn line(&self) -> String {
        let again = indicatif::HumanBytes(self.again);
        format!(
            "{}: went on over {} after {:.3} s, {again} again",
            self.event.words(self.path),
            self.to,
            self.pause.as_secs_f64(),
        )
    }
}

pub fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e4).round() / 10.0
}
