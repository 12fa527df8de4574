#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![warn(unreachable_pub)]

mod accept;
mod behaviour;
mod config;
mod connection;
mod conversation;
mod handler;
mod inbox;
mod layer;
#[cfg(feature = "metrics")]
pub mod metrics;
mod negotiate;
mod offer;
mod open_error;
mod request;
#[cfg(feature = "stack")]
mod stack;
mod stream;
mod substream;

// The storey below, which knows no swarm.
use libp2p_stream_migration_core::{
    error, event, hub, key, links, machine, permits, policy, protocol, pulse, shrink,
    stream as migratable, view,
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
    behaviour::{Behaviour, Control, NameInUse},
    config::{Config, PROTOCOL_NAME},
    connection::ConnectionName,
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

pub mod transport {
    //! Below the swarm: streams of *unmodified* behaviours move, by one line at the transport.
    //!
    //! A [`Layer`] wraps the transport of a swarm. Each connection that the swarm gets is a virtual one, and its
    //! streams are on whatever *link*, a physical connection to the peer, is best: when there is a direct one beside
    //! the relayed one, they go over, and their behaviours notice nothing. No other line of the swarm changes.
    //!
    //! ```
    //! use libp2p::{Swarm, Transport, core::upgrade::Version, identity::Keypair, noise, ping, tcp, yamux};
    //! use libp2p_stream_migration::{Config, transport};
    //!
    //! # #[tokio::main(flavor = "current_thread")]
    //! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    //! let key = Keypair::generate_ed25519();
    //! let local = key.public().to_peer_id();
    //! let tcp = tcp::tokio::Transport::default()
    //!     .upgrade(Version::V1Lazy)
    //!     .authenticate(noise::Config::new(&key)?)
    //!     .multiplex(yamux::Config::default())
    //!     .boxed();
    //!
    //! // This is the line.
    //! let (layer, _migration) = transport::new(local, Config::default());
    //! let transport = layer.wrap(tcp).boxed();
    //!
    //! let swarm_config = libp2p::swarm::Config::with_tokio_executor();
    //! let swarm = Swarm::new(transport, ping::Behaviour::default(), local, swarm_config);
    //! # drop(swarm);
    //! # Ok(())
    //! # }
    //! ```
    //!
    //! `SwarmBuilder` has a place for a transport that is whole already; what is wrapped is not to be given to it
    //! otherwise, too:
    //!
    //! ```no_run
    //! use libp2p::{SwarmBuilder, Transport, core::upgrade::Version, noise, ping, tcp, yamux};
    //! use libp2p_stream_migration::{Config, transport};
    //!
    //! # fn main() -> Result<(), Box<dyn std::error::Error>> {
    //! let swarm = SwarmBuilder::with_new_identity()
    //!     .with_tokio()
    //!     .with_other_transport(|key| {
    //!         let tcp = tcp::tokio::Transport::default()
    //!             .upgrade(Version::V1Lazy)
    //!             .authenticate(noise::Config::new(key)?)
    //!             .multiplex(yamux::Config::default())
    //!             .boxed();
    //!         let (layer, _migration) =
    //!             transport::new(key.public().to_peer_id(), Config::default());
    //!         Ok(layer.wrap(tcp))
    //!     })?
    //!     .with_behaviour(|_| ping::Behaviour::default())?
    //!     .build();
    //! # drop(swarm);
    //! # Ok(())
    //! # }
    //! ```
    //!
    //! What goes over the wire is in `docs/protocol.md`, *Below the swarm*. To peers without a layer it is invisible,
    //! but for one refused proposal on each relayed connection.
    //!
    //! **Where a connection really runs, the swarm does not say.** After the streams have left a relayed link, that is
    //! closed, and the connection that came with it lives on: its address still *says* "relayed". Ask
    //! [`Control::connections`](crate::Control::connections), or heed
    //! [`Event::ConnectionRehomed`](crate::Event::ConnectionRehomed).

    #[cfg(feature = "stack")]
    pub use crate::stack::{Stack, StackError, stack, stack_with_policy};
    pub use crate::{
        behaviour::{layered as new, layered_with_policy as with_policy},
        layer::{Layer, Layered},
    };
}
