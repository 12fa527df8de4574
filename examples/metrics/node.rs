//! A node that runs in the background: its events go into its metrics, and nowhere else.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm, SwarmBuilder, noise,
    swarm::{
        SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
    },
    tcp, yamux,
};
use libp2p_stream_migration::ConnectionKey;
use libp2p_stream_migration::{
    self as stream_migration, Config, Control, Stay, Transport, metrics::Metrics,
};
use prometheus_client::registry::Registry;

use crate::{Fallible, scrape::Scrape};

/// What takes longer than this on loopback never comes.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Node {
    pub id: PeerId,
    pub control: Control,
    /// Of TCP and of QUIC, with the peer's ID.
    pub addresses: Vec<Multiaddr>,
    pub registry: Arc<Registry>,
}

impl Node {
    /// A node that dials these addresses, each of them.
    pub async fn start(dial: &[Multiaddr]) -> Fallible<Self> {
        // The prefix that users of libp2p-metrics give theirs.
        let mut registry = Registry::with_prefix("libp2p");
        let metrics = Metrics::new(&mut registry);
        let mut swarm = SwarmBuilder::with_new_identity()
            .with_tokio()
            .with_tcp(
                tcp::Config::default().nodelay(true),
                noise::Config::new,
                yamux::Config::default,
            )?
            .with_quic()
            .with_behaviour(|keypair| {
                // Old legs are kept for the sake of connections that are about to be idle. These
                // are not, and streams that never rest would fill them.
                let config = Config::default().with_old_leg_linger(Duration::from_secs(1));
                let id = keypair.public().to_peer_id();
                // Nothing moves but by hand.
                stream_migration::Behaviour::with_policy(id, config, Stay)
            })?
            .with_swarm_config(|config| {
                config.with_idle_connection_timeout(Duration::from_secs(60))
            })
            .build();
        let id = *swarm.local_peer_id();
        let control = swarm.behaviour().new_control();
        let mut addresses = Vec::new();
        for address in ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"] {
            swarm.listen_on(address.parse()?)?;
            let address = loop {
                if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                    break address;
                }
            };
            addresses.push(address.with_p2p(id).map_err(|_| "an address of ours")?);
        }
        for address in dial {
            let opts: DialOpts = address.clone().into();
            let peer = opts.get_peer_id().ok_or("an address without a peer ID")?;
            swarm.dial(
                DialOpts::peer_id(peer)
                    .condition(PeerCondition::Always)
                    .addresses(vec![address.clone()])
                    .build(),
            )?;
        }
        tokio::spawn(run(swarm, metrics));
        Ok(Self {
            id,
            control,
            addresses,
            registry: Arc::new(registry),
        })
    }

    /// The TCP and the QUIC connection to this peer, as soon as they are there.
    pub async fn connections(&self, peer: PeerId) -> Fallible<[ConnectionKey; 2]> {
        let mut control = self.control.clone();
        until("two connections", async || {
            let connections = control.connections(peer).await;
            let over = |transport| {
                let mut infos = connections.iter();
                Some(infos.find(|info| info.transport == transport)?.key)
            };
            Ok(over(Transport::Tcp).zip(over(Transport::Quic)))
        })
        .await
        .map(|(tcp, quic)| [tcp, quic])
    }

    /// A stream's end is the last that is told of it.
    pub async fn until_no_stream_is_left(&self) -> Fallible<()> {
        until("the streams' ends", async || {
            Ok((self.scrape()?.sum("streams", &[]) == 0.0).then_some(()))
        })
        .await
    }

    pub fn scrape(&self) -> Fallible<Scrape> {
        Scrape::of(&self.registry)
    }
}

async fn until<T>(
    what: &str,
    mut attempt: impl AsyncFnMut() -> Fallible<Option<T>>,
) -> Fallible<T> {
    let wait = async {
        loop {
            if let Some(found) = attempt().await? {
                return Ok(found);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    waited.map_err(|_| format!("waited in vain for {what}"))?
}

/// All that it takes.
async fn run(mut swarm: Swarm<stream_migration::Behaviour>, metrics: Metrics) {
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::Behaviour(event) => metrics.record(&event),
            SwarmEvent::OutgoingConnectionError { error, .. } => {
                eprintln!("not connected: {error}");
            }
            _ => {}
        }
    }
}
