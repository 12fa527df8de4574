//! Labels, and all the values that they can have.

use crate::{Abort, Failure, Limit, Side, Transport, Violation};

/// So many labels, each with its value.
pub(super) type Labels<const N: usize> = [(&'static str, &'static str); N];

/// A type whose values are those of a label.
pub(super) trait Named: Copy + 'static {
    const ALL: &[Self];

    fn name(self) -> &'static str;

    /// All that a label of this name can be.
    fn all(label: &'static str) -> impl Iterator<Item = Labels<1>> {
        Self::ALL.iter().map(move |value| [(label, value.name())])
    }
}

impl Named for bool {
    const ALL: &[Self] = &[false, true];

    fn name(self) -> &'static str {
        if self { "true" } else { "false" }
    }
}

impl Named for Side {
    const ALL: &[Self] = &[Self::Local, Self::Remote];

    fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Remote => "remote",
        }
    }
}

#[derive(Clone, Copy)]
pub(super) enum Direction {
    Sent,
    Received,
}

impl Named for Direction {
    const ALL: &[Self] = &[Self::Sent, Self::Received];

    fn name(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Received => "received",
        }
    }
}

pub(super) fn outcome(outcome: &'static str, initiator: Side) -> Labels<2> {
    [("outcome", outcome), ("initiator", initiator.name())]
}

/// The outcomes of our attempts, and of the remote's.
pub(super) fn outcomes() -> impl Iterator<Item = Labels<2>> {
    Side::ALL.iter().flat_map(|&initiator| {
        // We know of a remote's attempt only once we have accepted it, and only a remote's is taken
        // back for us to see.
        let failures = Failure::ALL.iter().filter(move |failure| match failure {
            Failure::Denied | Failure::Yielded => initiator.is_local(),
            Failure::Cancelled => !initiator.is_local(),
            _ => true,
        });
        let names = failures.map(|failure| failure.name());
        let names = std::iter::once(COMPLETED).chain(names);
        names.map(move |name| outcome(name, initiator))
    })
}

/// The outcome that is no failure.
pub(super) const COMPLETED: &str = "completed";

pub(super) fn connection(relayed: bool, transport: Transport) -> Labels<2> {
    [("relayed", relayed.name()), ("transport", transport.name())]
}

pub(super) fn connections() -> impl Iterator<Item = Labels<2>> {
    let transports = Transport::ALL.iter();
    transports.flat_map(|&transport| [false, true].map(|relayed| connection(relayed, transport)))
}

/// The variants' names, as Prometheus writes names.
macro_rules! named {
    ($($type:ident { $($variant:ident => $name:literal,)* })*) => {
        $(
            impl Named for $type {
                const ALL: &[Self] = &[$(Self::$variant,)*];

                fn name(self) -> &'static str {
                    match self {
                        $(Self::$variant => $name,)*
                        // One that the list above lacks.
                        _ => "other",
                    }
                }
            }
        )*
    };
}

named! {
    Failure {
        Denied => "denied",
        LegLost => "leg_lost",
        TimedOut => "timed_out",
        Yielded => "yielded",
        Cancelled => "cancelled",
    }
    Abort {
        Dropped => "dropped",
        LegLost => "leg_lost",
        Unproven => "unproven",
        Cut => "cut",
        Violation => "violation",
        TimedOut => "timed_out",
    }
    Limit {
        StreamsPerPeer => "streams_per_peer",
        UnansweredPerPeer => "unanswered_per_peer",
        UnansweredPerConnection => "unanswered_per_connection",
        MigrationRate => "migration_rate",
        InboundRequests => "inbound_requests",
        AcceptBacklog => "accept_backlog",
        AcceptTimeout => "accept_timeout",
    }
    Violation {
        Message => "message",
        IdInUse => "id_in_use",
    }
    Transport {
        Tcp => "tcp",
        Quic => "quic",
        WebSocket => "websocket",
        WebTransport => "webtransport",
        WebRtc => "webrtc",
        Memory => "memory",
        Unknown => "unknown",
    }
}
