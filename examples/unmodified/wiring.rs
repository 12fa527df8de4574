//! The transport of a node: what `SwarmBuilder` would build, by hand, since the layer goes around
//! the whole of it, the relay client's included.

use std::{io, time::Duration};

use futures::{AsyncRead, AsyncWrite};
use libp2p::{
    PeerId, Transport,
    core::{
        muxing::StreamMuxerBox,
        transport::{Boxed, timeout::TransportTimeout},
        upgrade::Version,
    },
    dns,
    identity::Keypair,
    noise, quic, relay, tcp, websocket, yamux,
};
use libp2p_stream_migration::{self as stream_migration, Config};

use crate::paths::Counted;

/// As `SwarmBuilder` has it.
const CONNECTING: Duration = Duration::from_secs(10);
/// What has ended on the relayed link arrives in less than this on loopback; and the sooner the
/// link is closed, the sooner there is something to see.
const LINGER: Duration = Duration::from_secs(1);

type Output = (PeerId, StreamMuxerBox);

/// The transport for the swarm, and the layer's behaviour if there is one: another field of the
/// swarm's behaviour, which tells what moves.
pub fn layered(
    transport: Counted,
    local: PeerId,
    without: bool,
) -> (Boxed<Output>, Option<stream_migration::Behaviour>) {
    if without {
        return (transport.boxed(), None);
    }
    let config = Config::default().with_old_leg_linger(LINGER);
    let (layer, migration) = stream_migration::transport::new(local, config);
    (layer.wrap(transport).boxed(), Some(migration))
}

/// Relaying, WebSocket, TCP and QUIC.
pub fn base(keypair: &Keypair, relayed: relay::client::Transport) -> io::Result<Boxed<Output>> {
    let noise = noise::Config::new(keypair).map_err(io::Error::other)?;
    let tcp = || tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
    let websocket = websocket::Config::new(dns::tokio::Transport::system(tcp())?);
    let quic = quic::tokio::Transport::new(quic::Config::new(keypair));
    let quic = quic.map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let direct = upgraded(tcp(), &noise)
        .or_transport(quic)
        .map(|either, _| either.into_inner());
    let direct = dns::tokio::Transport::system(direct)?;
    // Each takes the addresses that it knows, so the more special go first.
    let all = upgraded(relayed, &noise)
        .or_transport(upgraded(websocket, &noise))
        .map(|either, _| either.into_inner())
        .or_transport(direct)
        .map(|either, _| either.into_inner());
    Ok(TransportTimeout::new(all, CONNECTING).boxed())
}

/// Authenticated and muxed.
fn upgraded<T>(transport: T, noise: &noise::Config) -> Boxed<Output>
where
    T: Transport + Send + Unpin + 'static,
    T::Output: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T::Error: Send + Sync + 'static,
    T::Dial: Send + 'static,
    T::ListenerUpgrade: Send + 'static,
{
    let upgraded = transport.upgrade(Version::V1Lazy);
    let authenticated = upgraded.authenticate(noise.clone());
    authenticated.multiplex(yamux::Config::default()).boxed()
}
