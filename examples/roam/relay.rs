//! The relay's process: an ordinary relay, whose limits are lifted.

use std::{error::Error, time::Duration};

use futures::StreamExt;
use libp2p::{
    SwarmBuilder, noise, ping, relay,
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use serde_json::json;

use crate::{
    peer::{IDLE, keypair},
    process::{orders, report},
};

#[derive(NetworkBehaviour)]
struct Behaviour {
    relay: relay::Behaviour,
    ping: ping::Behaviour,
}

pub async fn run(seed: u64) -> Result<(), Box<dyn Error>> {
    let mut swarm = SwarmBuilder::with_existing_identity(keypair(seed)?)
        .with_tokio()
        .with_tcp(
            tcp::Config::default().nodelay(true),
            noise::Config::new,
            yamux::Config::default,
        )?
        .with_behaviour(|keypair| {
            let config = relay::Config {
                max_circuit_bytes: u64::MAX,
                max_circuit_duration: Duration::from_secs(24 * 3600),
                max_circuits_per_peer: 64,
                reservation_rate_limiters: Vec::new(),
                circuit_src_rate_limiters: Vec::new(),
                ..Default::default()
            };
            Behaviour {
                relay: relay::Behaviour::new(keypair.public().to_peer_id(), config),
                ping: ping::Behaviour::default(),
            }
        })?
        .with_swarm_config(|config| config.with_idle_connection_timeout(IDLE))
        .build();
    let id = *swarm.local_peer_id();
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse()?)?;
    let mut orders = orders();
    loop {
        tokio::select! {
            event = swarm.select_next_some() => match event {
                SwarmEvent::NewListenAddr { address, .. } => {
                    // Reservations tell clients where the relay can be reached.
                    swarm.add_external_address(address.clone());
                    report(&json!({ "peer": id.to_string(), "listening": address.to_string() }))?;
                }
                event => tracing::debug!(?event),
            },
            order = orders.recv() => if order.is_none() {
                return Ok(());
            }
        }
    }
}
