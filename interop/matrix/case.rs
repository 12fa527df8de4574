//! What a case is, and what it is called.

use std::{fmt, path::PathBuf};

/// An implementation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Impl {
    Rust,
    Go,
    Js,
}

impl Impl {
    pub const ALL: [Self; 3] = [Self::Rust, Self::Go, Self::Js];

    pub fn name(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Go => "go",
            Self::Js => "js",
        }
    }
}

/// One of the two peers. Who dials and who listens has nothing to do with who opens or moves a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
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

/// What carries a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    TcpNoise,
    TcpTls,
    Quic,
    Ws,
    /// Through a relay of this implementation.
    Relayed(Impl),
}

impl Transport {
    pub const ALL: [Self; 6] = [
        Self::TcpNoise,
        Self::TcpTls,
        Self::Quic,
        Self::Ws,
        Self::Relayed(Impl::Go),
        Self::Relayed(Impl::Rust),
    ];

    pub fn is_relayed(self) -> bool {
        matches!(self, Self::Relayed(_))
    }

    /// What is listened on for it, unless it goes through a relay.
    pub fn listen(self) -> Option<&'static str> {
        match self {
            Self::TcpNoise | Self::TcpTls => Some("/ip4/127.0.0.1/tcp/0"),
            Self::Quic => Some("/ip4/127.0.0.1/udp/0/quic-v1"),
            Self::Ws => Some("/ip4/127.0.0.1/tcp/0/ws"),
            Self::Relayed(_) => None,
        }
    }

    /// The security that makes it what it is, if it can be one or the other.
    pub fn security(self) -> Option<&'static str> {
        match self {
            Self::TcpNoise => Some("noise"),
            Self::TcpTls => Some("tls"),
            _ => None,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TcpNoise => f.write_str("tcp-noise"),
            Self::TcpTls => f.write_str("tcp-tls"),
            Self::Quic => f.write_str("quic"),
            Self::Ws => f.write_str("ws"),
            Self::Relayed(relay) => write!(f, "relay-{}", relay.name()),
        }
    }
}

/// When, seen from the answer to `Migrate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    Before,
    After,
}

/// Who of the two that have a part in a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Initiator,
    Responder,
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// Bytes flow both ways all the time.
    Load,
    /// No byte flows while the stream moves; then the old connection is closed.
    Idle,
    /// This side has closed its write side, and the other has read the end, before the stream moves.
    HalfBefore(Side),
    /// This side closes its write side while the stream moves.
    HalfDuring(Side),
    /// Under load, the two taking turns.
    FourMoves,
    Deny,
    /// Dropped unanswered at first, then accepted.
    Retry,
    /// Both start at once; the hash rule names this side.
    Simultaneous(Side),
    /// This one aborts the stream, before or after the ack.
    Reset(Role, When),
    /// This side has never heard of the protocol.
    Fallback(Side),
    /// The responder writes the earlier revision's form of the ack; to accept.
    BareAccept,
    BareDeny,
    /// The initiator is like the Go proof of concept.
    Nested,
    /// Without the verified switch here, or (`None`) on both sides.
    Unverified(Option<Side>),
    /// This side closes the relayed connection as soon as there is a direct one.
    RelayedCloses(Side),
    /// Below the swarm, on both sides.
    Layered,
    /// Below the swarm on this side; the other knows streams that move, or nothing of it all.
    LayeredBeside(Side, Knows),
    /// Below the swarm in Rust; the other counts what it sees of it.
    LayeredCount,
}

/// What a peer without a layer knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Knows {
    Streams,
    Nothing,
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, detail) = match self {
            Self::Load => ("load", ""),
            Self::Idle => ("idle", ""),
            Self::HalfBefore(side) => ("half-closed-before-by-", side.name()),
            Self::HalfDuring(side) => ("half-closed-during-by-", side.name()),
            Self::FourMoves => ("four-moves", ""),
            Self::Deny => ("deny", ""),
            Self::Retry => ("retry", ""),
            Self::Simultaneous(side) => ("simultaneous-designated-", side.name()),
            Self::Reset(Role::Initiator, When::Before) => ("reset-by-initiator-before-ack", ""),
            Self::Reset(Role::Initiator, When::After) => ("reset-by-initiator-after-ack", ""),
            Self::Reset(Role::Responder, When::Before) => ("reset-by-responder-before-ack", ""),
            Self::Reset(Role::Responder, When::After) => ("reset-by-responder-after-ack", ""),
            Self::Fallback(side) => ("fallback-at-", side.name()),
            Self::BareAccept => ("bare-accept", ""),
            Self::BareDeny => ("bare-deny", ""),
            Self::Nested => ("nested", ""),
            Self::Unverified(Some(side)) => ("unverified-at-", side.name()),
            Self::Unverified(None) => ("unverified-at-", "both"),
            Self::RelayedCloses(side) => ("relayed-closed-by-", side.name()),
            Self::Layered => ("layered", ""),
            Self::LayeredBeside(side, Knows::Streams) => ("layered-only-", side.name()),
            Self::LayeredCount => ("layered/plain/count", ""),
            Self::LayeredBeside(side, Knows::Nothing) => ("layered-beside-plain-", side.name()),
        };
        write!(f, "{name}{detail}")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    pub dialer: Impl,
    pub listener: Impl,
    pub scenario: Scenario,
    pub old: Transport,
    pub new: Transport,
    pub opener: Side,
    pub mover: Side,
}

impl Case {
    pub fn peer(&self, side: Side) -> Impl {
        match side {
            Side::Dialer => self.dialer,
            Side::Listener => self.listener,
        }
    }

    pub fn pair(&self) -> String {
        format!("{}-{}", self.dialer.name(), self.listener.name())
    }

    /// Whether it needs a peer of this implementation, be it as a relay.
    pub fn needs(&self, which: Impl) -> bool {
        let relay = Transport::Relayed(which);
        [self.dialer, self.listener].contains(&which) || [self.old, self.new].contains(&relay)
    }

    /// Where its logs go, below the directory for logs.
    pub fn folder(&self) -> PathBuf {
        PathBuf::from(self.to_string())
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{}/{}_to_{}/{}-opens/{}-moves",
            self.pair(),
            self.scenario,
            self.old,
            self.new,
            self.opener.name(),
            self.mover.name(),
        )
    }
}
