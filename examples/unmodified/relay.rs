//! The relay: an ordinary node that knows nothing of the layer.

use std::{error::Error, time::Duration};

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm, SwarmBuilder, identify,
    identity::Keypair,
    noise, ping, relay,
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use tokio::{sync::oneshot, task::JoinHandle};

#[derive(NetworkBehaviour)]
struct Behaviour {
    relay: relay::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
}

pub struct Relay {
    pub id: PeerId,
    pub address: Multiaddr,
    stop: oneshot::Sender<()>,
    running: JoinHandle<()>,
}

impl Relay {
    pub async fn start(keypair: Keypair, listen: Multiaddr) -> Result<Self, Box<dyn Error>> {
        let mut swarm = SwarmBuilder::with_existing_identity(keypair)
            .with_tokio()
            .with_tcp(
                tcp::Config::default().nodelay(true),
                noise::Config::new,
                yamux::Config::default,
            )?
            .with_quic()
            .with_dns()?
            .with_websocket(noise::Config::new, yamux::Config::default)
            .await?
            .with_behaviour(|keypair| {
                // Its limits lifted: what is shown here is the move, not the limit.
                let config = relay::Config {
                    max_circuit_bytes: u64::MAX,
                    max_circuit_duration: Duration::from_secs(3600),
                    ..Default::default()
                };
                let key = keypair.public();
                Behaviour {
                    relay: relay::Behaviour::new(key.to_peer_id(), config),
                    identify: identify::Behaviour::new(identify::Config::new(
                        "/unmodified/1.0.0".to_owned(),
                        key,
                    )),
                    ping: ping::Behaviour::default(),
                }
            })?
            .with_swarm_config(|it| it.with_idle_connection_timeout(Duration::from_secs(3600)))
            .build();
        let id = *swarm.local_peer_id();
        swarm.listen_on(listen)?;
        let address = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                break address;
            }
        };
        // Reservations tell clients where the relay can be reached.
        swarm.add_external_address(address.clone());
        let (stop, stopped) = oneshot::channel();
        Ok(Self {
            id,
            address: address.with_p2p(id).unwrap_or_else(|address| address),
            stop,
            running: tokio::spawn(run(swarm, stopped)),
        })
    }

    /// Closes all connections, with what is relayed over them.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.running.await;
    }
}

async fn run(mut swarm: Swarm<Behaviour>, mut stopped: oneshot::Receiver<()>) {
    loop {
        tokio::select! {
            _ = swarm.select_next_some() => {}
            _ = &mut stopped => break,
        }
    }
    let peers: Vec<PeerId> = swarm.connected_peers().copied().collect();
    for peer in peers {
        // It fails for a peer that has gone meanwhile.
        let _ = swarm.disconnect_peer_id(peer);
    }
    while swarm.connected_peers().next().is_some() {
        swarm.select_next_some().await;
    }
}
