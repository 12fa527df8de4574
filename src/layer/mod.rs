//! Below the swarm: a transport whose connections are virtual, and whose streams move from link to link
//! (docs/protocol.md, *Below the swarm*).
//!
//! A swarm's connection is a [`muxer::Muxer`], its substreams are [`substream::Virtual`]; a physical connection is a
//! [`link::Link`]. All that there is of one peer is in a [`peer::Peer`], under one lock, and whoever polls one of its
//! connections drives all its links and their hub.

mod io;
mod link;
mod muxer;
mod outbox;
mod peek;
mod peer;
mod policy;
mod substream;
mod transport;
mod wakers;

pub use self::transport::{Layer, Layered};
pub(crate) use self::{
    outbox::{Labelled, Told},
    peer::{NotOpened, Opening},
    policy::SharedPolicy,
    transport::Shared,
};
