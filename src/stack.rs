//! The usual transports, wrapped.

use std::io;

use libp2p_core::{Transport, muxing::StreamMuxerBox, transport::Boxed, upgrade::Version};
use libp2p_identity::{Keypair, PeerId};

use crate::{Behaviour, Chain, Config, Policy, behaviour::layered_with_policy};

/// A transport of TCP, QUIC and WebSocket, with DNS and a relay client, under which streams move; and the
/// behaviours that belong to it.
#[non_exhaustive]
pub struct Stack {
    /// The transport, for [`Swarm::new`](libp2p_swarm::Swarm::new).
    pub transport: Boxed<(PeerId, StreamMuxerBox)>,
    /// The client of relays, which the transport dials and listens through: it has to be in the swarm.
    pub relay_client: libp2p_relay::client::Behaviour,
    /// The migration's behaviour, which may be left out of the swarm.
    pub migration: Behaviour,
    /// The local peer.
    pub local_peer_id: PeerId,
}

/// More than both sides open before each has heard of the other's, by the default of
/// [`Config::with_muxer_limit`]: what is more ends the connection. libp2p-yamux has 512 by default.
const MAX_YAMUX_STREAMS: usize = 1024;

/// Why there is no transport.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StackError {
    /// The key does not do for Noise.
    #[error("the key does not do for Noise")]
    Noise(#[from] libp2p_noise::Error),
    /// The system's configuration of DNS cannot be read.
    #[error("the system's configuration of DNS cannot be read")]
    Dns(#[from] io::Error),
}

/// The usual stack (feature `stack`): TCP and WebSocket with Noise and yamux, QUIC, DNS by the system's
/// configuration, a relay client; all on tokio and with their defaults, but that a yamux connection carries 1,024
/// streams; wrapped by a [`Layer`](crate::transport::Layer) with the default policy.
///
/// Whoever wants others builds them by hand, and [wraps](crate::transport::Layer::wrap) them.
///
/// # Errors
///
/// See [`StackError`].
pub fn stack(key: &Keypair, config: Config) -> Result<Stack, StackError> {
    stack_with_policy(key, config, Chain::default())
}

/// As [`stack`], with another policy.
///
/// # Errors
///
/// See [`StackError`].
pub fn stack_with_policy(
    key: &Keypair,
    config: Config,
    policy: impl Policy,
) -> Result<Stack, StackError> {
    let local_peer_id = key.public().to_peer_id();
    let noise = libp2p_noise::Config::new(key)?;
    let yamux = || {
        let mut config = libp2p_yamux::Config::default();
        config.set_max_num_streams(MAX_YAMUX_STREAMS);
        config
    };
    let tcp = || {
        let config = libp2p_tcp::Config::default().nodelay(true);
        libp2p_tcp::tokio::Transport::new(config)
    };
    let dns = libp2p_dns::tokio::Transport::system(tcp())?;
    let websocket = libp2p_websocket::Config::new(dns)
        .upgrade(Version::V1Lazy)
        .authenticate(noise.clone())
        .multiplex(yamux())
        .boxed();
    let tcp = tcp()
        .upgrade(Version::V1Lazy)
        .authenticate(noise.clone())
        .multiplex(yamux())
        .boxed();
    let quic = libp2p_quic::tokio::Transport::new(libp2p_quic::Config::new(key))
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
        .boxed();
    let direct = quic
        .or_transport(tcp)
        .map(|either, _| either.into_inner())
        .boxed();
    let direct = libp2p_dns::tokio::Transport::system(direct)?.boxed();
    let (relayed, relay_client) = libp2p_relay::client::new(local_peer_id);
    let relayed = relayed
        .upgrade(Version::V1Lazy)
        .authenticate(noise)
        .multiplex(yamux())
        .boxed();
    // The last is the one that takes whatever it is given, and says late what it cannot dial.
    let all = relayed
        .or_transport(websocket)
        .map(|either, _| either.into_inner())
        .or_transport(direct)
        .map(|either, _| either.into_inner())
        .boxed();
    let (layer, migration) = layered_with_policy(local_peer_id, config, policy);
    Ok(Stack {
        transport: layer.wrap(all).boxed(),
        relay_client,
        migration,
        local_peer_id,
    })
}
