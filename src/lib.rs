#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![warn(unreachable_pub)]

mod accept;
mod behaviour;
mod config;
mod connection;
mod control;
mod handler;
#[cfg(feature = "metrics")]
pub mod metrics;
mod negotiate;
mod offer;
mod open_error;
mod request;
mod stream;
mod substream;

// The storey below, which knows no swarm.
use libp2p_stream_migration_core::{
    error, event, hub, key, machine, permits, policy, protocol, shrink, stream as migratable, view,
};

#[cfg(doc)]
#[doc = include_str!("../docs/guarantees.md")]
pub mod guarantees {}
#[cfg(any(doc, doctest))]
#[doc = include_str!("../docs/policies.md")]
pub mod policies {}
/// The programs in that page compile.
#[cfg(doctest)]
#[doc = include_str!("../docs/examples.md")]
mod examples {}

pub use crate::{
    accept::{AcceptError, AlreadyRegistered, IncomingStreams},
    behaviour::{Behaviour, NameInUse},
    config::{Config, PROTOCOL_NAME},
    connection::ConnectionName,
    control::Control,
    error::{DrainError, MigrateError},
    event::{Abort, Event, Failure, Limit, Side, Violation},
    hub::Initiate,
    key::{ConnectionKey, StreamKey},
    machine::StreamId,
    migratable::LegKind,
    open_error::OpenStreamError,
    policy::{
        Action, Chain, Change, Drain, MergeDuplicates, Outside, Placement, Policy, PreferDirect,
        PreferTransport, Stay, Verdict,
    },
    protocol::roles::designated_peer,
    stream::Stream,
    view::{
        ConnectionInfo, Mobility, Obstacle, PeerView, ProtocolName, StreamInfo, Streams, Transport,
    },
};
