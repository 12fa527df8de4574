#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![warn(unreachable_pub)]

mod accept;
mod behaviour;
mod config;
mod control;
mod event;
mod handler;
mod machine;
#[cfg(feature = "metrics")]
pub mod metrics;
mod negotiate;
mod offer;
mod policy;
mod protocol;
mod spare;
mod stream;
mod substream;
mod table;
mod view;

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
    config::{Config, Initiate},
    control::{Control, DrainError, MigrateError, OpenStreamError},
    event::{Abort, Event, Failure, Limit, Violation},
    machine::StreamId,
    negotiate::Stream,
    policy::{
        Action, Chain, Change, Drain, MergeDuplicates, Outside, Placement, Policy, PreferDirect,
        PreferTransport, Stay, Verdict,
    },
    protocol::{PROTOCOL_NAME, roles::designated_peer},
    stream::{LegKind, StreamKey},
    view::{ConnectionInfo, Mobility, Obstacle, Opener, PeerView, StreamInfo, Transport},
};
