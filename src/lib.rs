#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![warn(missing_docs, unreachable_pub)]

mod behaviour;
mod config;
mod control;
mod event;
mod handler;
mod machine;
mod negotiate;
mod policy;
mod protocol;
mod stream;
mod table;

pub use crate::{
    behaviour::Behaviour,
    config::{Config, Initiate},
    control::{AlreadyRegistered, Control, IncomingStreams, MigrateError, OpenStreamError},
    event::{
        Abort, ConnectionInfo, Event, Failure, Limit, Opener, StreamId, StreamInfo, Transport,
        Violation,
    },
    negotiate::Stream,
    policy::{Placement, Policy, PreferDirect, Stay, Verdict},
    protocol::PROTOCOL_NAME,
    stream::StreamKey,
};
