//! Labels, and all the values that they can have.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};

use crate::{Abort, Failure, Limit, Side, Transport, Violation};

pub(super) fn side(side: Side) -> &'static str {
    match side {
        Side::Local => "local",
        Side::Remote => "remote",
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OpenerLabels {
    pub(super) opener: &'static str,
}

impl From<Side> for OpenerLabels {
    fn from(opener: Side) -> Self {
        Self {
            opener: side(opener),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct InitiatorLabels {
    pub(super) initiator: &'static str,
}

impl From<Side> for InitiatorLabels {
    fn from(initiator: Side) -> Self {
        Self {
            initiator: side(initiator),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OutcomeLabels {
    pub(super) outcome: Outcome,
    pub(super) initiator: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct DirectionLabels {
    pub(super) direction: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct AbortLabels {
    pub(super) cause: Label<Abort>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ForGoodLabels {
    pub(super) for_good: Flag,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct LimitLabels {
    pub(super) limit: Label<Limit>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ViolationLabels {
    pub(super) what: Label<Violation>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ConnectionLabels {
    pub(super) relayed: Flag,
    pub(super) transport: Label<Transport>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Flag(pub(super) bool);

impl From<bool> for Flag {
    fn from(flag: bool) -> Self {
        Self(flag)
    }
}

impl EncodeLabelValue for Flag {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        (if self.0 { "true" } else { "false" }).encode(encoder)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Outcome {
    Completed,
    Failed(Failure),
}

impl Outcome {
    /// The outcomes of our attempts, or of the remote's.
    pub(super) fn possible(initiator: Side) -> impl Iterator<Item = Self> {
        let failures = Label::<Failure>::ALL.iter().map(|label| label.0);
        // We know of a remote's attempt only once we have accepted it, and only a remote's is taken
        // back for us to see.
        let failures = failures.filter(move |failure| match failure {
            Failure::Denied | Failure::Yielded => initiator.is_local(),
            Failure::Cancelled => !initiator.is_local(),
            _ => true,
        });
        std::iter::once(Self::Completed).chain(failures.map(Self::Failed))
    }
}

impl EncodeLabelValue for Outcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        match self {
            Self::Completed => "completed".encode(encoder),
            Self::Failed(failure) => Label(*failure).encode(encoder),
        }
    }
}

/// A label's value is the variant's name, as Prometheus writes names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Label<T>(pub(super) T);

macro_rules! labels {
    ($($type:ident { $($variant:ident => $name:literal,)* })*) => {
        $(
            impl Label<$type> {
                pub(super) const ALL: &[Self] = &[$(Self($type::$variant),)*];
            }

            impl EncodeLabelValue for Label<$type> {
                fn encode(
                    &self,
                    encoder: &mut LabelValueEncoder<'_>,
                ) -> Result<(), std::fmt::Error> {
                    let name = match self.0 {
                        $($type::$variant => $name,)*
                        // One that the list above lacks.
                        _ => "other",
                    };
                    name.encode(encoder)
                }
            }
        )*
    };
}

labels! {
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
