//! What both sides of a stream, and whoever watches them, know of it while it lives.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::content::Content;

/// The two sides of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    Opener,
    Accepter,
}

impl Side {
    pub const BOTH: [Self; 2] = [Self::Opener, Self::Accepter];

    pub fn other(self) -> Self {
        match self {
            Self::Opener => Self::Accepter,
            Self::Accepter => Self::Opener,
        }
    }
}

/// One direction.
#[derive(Debug)]
pub struct Flow {
    pub content: Content,
    /// What the stream has been asked to write: no reader can have more.
    pub offered: AtomicU64,
    /// What it has taken.
    pub written: AtomicU64,
    /// Whether it has been asked to close.
    pub closing: AtomicBool,
    pub read: AtomicU64,
}

impl Flow {
    fn new(content: Content) -> Self {
        Self {
            content,
            offered: AtomicU64::new(0),
            written: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            read: AtomicU64::new(0),
        }
    }
}

/// A stream.
#[derive(Debug)]
pub struct Flows {
    pub number: u64,
    pub seed: u64,
    /// Whether it is one of many that were opened at once.
    pub of_burst: bool,
    /// What the opener writes, and what the accepter writes.
    flows: [Flow; 2],
    start: Instant,
    /// When something last went on, in milliseconds since the start.
    progress: AtomicU64,
    /// Whether it has been given up.
    stop: watch::Sender<bool>,
}

impl Flows {
    pub fn new(seed: u64, number: u64, of_burst: bool) -> Self {
        Self {
            number,
            seed,
            of_burst,
            flows: [
                Flow::new(Content::of_opener(seed, number)),
                Flow::new(Content::of_accepter(seed, number)),
            ],
            start: Instant::now(),
            progress: AtomicU64::new(0),
            stop: watch::Sender::new(false),
        }
    }

    /// What this side writes.
    pub fn written_by(&self, side: Side) -> &Flow {
        match side {
            Side::Opener => &self.flows[0],
            Side::Accepter => &self.flows[1],
        }
    }

    pub fn progressed(&self) {
        let now = self.start.elapsed().as_millis();
        self.progress
            .store(u64::try_from(now).unwrap_or(u64::MAX), SeqCst);
    }

    /// How long nothing has gone on.
    pub fn still(&self) -> Duration {
        let last = Duration::from_millis(self.progress.load(SeqCst));
        self.start.elapsed().saturating_sub(last)
    }

    pub fn give_up(&self) {
        self.stop.send_replace(true);
    }

    pub fn is_given_up(&self) -> bool {
        *self.stop.borrow()
    }

    pub async fn given_up(&self) {
        let mut stop = self.stop.subscribe();
        // The sender is ours, and so cannot be gone.
        let _ = stop.wait_for(|stop| *stop).await;
    }
}
