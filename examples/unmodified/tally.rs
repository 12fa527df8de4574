//! What both sides have seen so far. Everybody writes into one book, and whoever waits for
//! something waits for what is written there.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

/// What is counted, a row of the table each. Only what somebody asks for is here: that a relay and
/// hole punching work is seen by the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Gossipsub,
    /// The one large response.
    Response,
    /// Small requests with their small responses.
    Requests,
    Kad,
    Identify,
    Ping,
    /// A stream of `libp2p-stream`.
    Stream,
}

impl Protocol {
    pub const ALL: [Self; 7] = [
        Self::Gossipsub,
        Self::Response,
        Self::Requests,
        Self::Kad,
        Self::Identify,
        Self::Ping,
        Self::Stream,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Gossipsub => "gossipsub",
            Self::Response => "response",
            Self::Requests => "requests",
            Self::Kad => "kad",
            Self::Identify => "identify",
            Self::Ping => "ping",
            Self::Stream => "stream",
        }
    }

    /// What is sent, received, lost and doubled.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Gossipsub | Self::Identify => "messages",
            Self::Response | Self::Stream => "bytes",
            Self::Requests | Self::Kad => "answers",
            Self::Ping => "pongs",
        }
    }
}

/// The two that talk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Dialer,
    Listener,
}

impl Side {
    pub const BOTH: [Self; 2] = [Self::Dialer, Self::Listener];

    pub fn other(self) -> Self {
        match self {
            Self::Dialer => Self::Listener,
            Self::Listener => Self::Dialer,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Dialer => "dialer",
            Self::Listener => "listener",
        }
    }
}

/// One protocol at one side. Questions are counted with their answers, at the side that asks.
#[derive(Debug, Clone, Default)]
pub struct Line {
    pub sent: u64,
    pub received: u64,
    pub doubled: u64,
    /// Of what was sent: what is known not to come any more.
    pub given_up: u64,
    pub errors: Vec<String>,
    pub longest_gap: Duration,
    last: Option<Instant>,
}

impl Line {
    pub fn received(&mut self, number: u64) {
        let now = Instant::now();
        let gap = self.last.replace(now).map(|last| now - last);
        self.longest_gap = self.longest_gap.max(gap.unwrap_or_default());
        self.received += number;
    }

    pub fn error(&mut self, error: impl ToString) {
        self.errors.push(error.to_string());
    }

    /// Something that was asked for will not come.
    pub fn failed(&mut self, error: impl ToString) {
        self.given_up += 1;
        self.error(error);
    }

    /// Nothing more comes of the only transfer in this line.
    pub fn ended(&mut self, error: Option<String>) {
        self.given_up = self.sent.saturating_sub(self.received);
        self.errors.extend(error);
    }
}

/// Links below the swarm: how many there have been, and how many are gone.
#[derive(Debug, Clone, Copy, Default)]
pub struct Links {
    pub opened: u32,
    pub closed: u32,
}

impl Links {
    pub fn all_closed(self) -> bool {
        self.opened > 0 && self.opened == self.closed
    }
}

/// What one side has seen.
#[derive(Debug, Default)]
pub struct Seen {
    lines: [Line; Protocol::ALL.len()],
    pub relayed: Links,
    pub direct: Links,
    /// The other side's gossipsub has told what it subscribes to.
    pub subscribed: bool,
    /// Nothing more is published or asked.
    pub load_over: bool,
    pub migrations: u32,
    /// What the layer has refused, and anything else that is nobody's error.
    pub complaints: Vec<String>,
    /// Connections to the other side that the swarm has seen closed, and why.
    pub closed: Vec<String>,
}

impl Seen {
    pub fn line(&self, protocol: Protocol) -> &Line {
        &self.lines[protocol as usize]
    }
}

#[derive(Debug, Default)]
pub struct Tally {
    sides: [Seen; 2],
}

impl Tally {
    pub fn side(&self, side: Side) -> &Seen {
        &self.sides[side as usize]
    }

    pub fn both(&self, holds: impl Fn(&Seen) -> bool) -> bool {
        self.sides.iter().all(holds)
    }

    /// A number of both sides together.
    pub fn sum(&self, protocol: Protocol, number: impl Fn(&Line) -> u64) -> u64 {
        self.sides
            .iter()
            .map(|side| number(side.line(protocol)))
            .sum()
    }

    pub fn lost(&self, protocol: Protocol) -> u64 {
        let sent = self.sum(protocol, |line| line.sent);
        sent.saturating_sub(self.sum(protocol, |line| line.received))
    }

    /// What may still come.
    pub fn outstanding(&self, protocol: Protocol) -> u64 {
        let given_up = self.sum(protocol, |line| line.given_up);
        self.lost(protocol).saturating_sub(given_up)
    }
}

/// The book as one side writes it.
#[derive(Clone)]
pub struct Book {
    pub side: Side,
    tally: Arc<watch::Sender<Tally>>,
}

impl Book {
    /// The dialer's and the listener's.
    pub fn pair() -> (Self, Self) {
        let tally = Arc::new(watch::Sender::new(Tally::default()));
        let book = |side| Self {
            side,
            tally: tally.clone(),
        };
        (book(Side::Dialer), book(Side::Listener))
    }

    pub fn note(&self, note: impl FnOnce(&mut Seen)) {
        self.tally
            .send_modify(|tally| note(&mut tally.sides[self.side as usize]));
    }

    pub fn line(&self, protocol: Protocol, note: impl FnOnce(&mut Line)) {
        self.note(|seen| note(&mut seen.lines[protocol as usize]));
    }

    pub fn read<T>(&self, read: impl FnOnce(&Tally) -> T) -> T {
        read(&self.tally.borrow())
    }

    /// Waits until this holds.
    pub async fn until(&self, holds: impl FnMut(&Tally) -> bool) {
        let mut tally = self.tally.subscribe();
        // It fails only when there is no sender any more, and we hold one.
        let _ = tally.wait_for(holds).await;
    }
}
