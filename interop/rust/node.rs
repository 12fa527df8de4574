//! The swarm: made as the flags say, and run in the background.

use std::{error::Error as StdError, sync::Arc, time::Duration};

use libp2p::{
    PeerId, Swarm, SwarmBuilder, identify, noise, relay,
    swarm::{self, NetworkBehaviour, behaviour::toggle::Toggle},
    tcp, tls, yamux,
};
use libp2p_stream_migration::{self as stream_migration, transport};

use crate::{
    args::{Args, Security},
    policy::{Scripted, Verdicts},
    streams::Streams,
};

#[derive(NetworkBehaviour)]
pub struct Behaviour {
    pub streams: Toggle<stream_migration::Behaviour>,
    plain: Toggle<libp2p_stream::Behaviour>,
    relay: Toggle<relay::Behaviour>,
    client: relay::client::Behaviour,
    identify: identify::Behaviour,
}

/// Streams are opened and accepted through this.
#[derive(Clone)]
pub enum Control {
    Migration(stream_migration::Control),
    /// Of a peer that has never heard of migration.
    Plain(libp2p_stream::Control),
}

/// Connections close when they are told to.
const IDLE: Duration = Duration::from_secs(600);

/// More than the matrix ever needs, of everything.
const PLENTY: usize = 10_000;

/// A swarm as the flags say, its control, and what sets its policy's verdicts.
pub async fn make(
    args: &Args,
    streams: &Arc<Streams>,
) -> Result<(Swarm<Behaviour>, Control, Verdicts), Box<dyn StdError>> {
    let keypair = args.keypair();
    let id = keypair.public().to_peer_id();
    let verdicts = Verdicts::default();
    let (migration, plain, control);
    let mut wrapped = None;
    if args.no_migration {
        let behaviour = libp2p_stream::Behaviour::new();
        control = Control::Plain(behaviour.new_control());
        (migration, plain) = (None, Some(behaviour));
    } else {
        let (config, policy) = migrating(args, streams.clone(), verdicts.clone());
        let behaviour = if args.layer {
            let stack = transport::stack_with_policy(&keypair, config, policy)?;
            wrapped = Some((stack.transport, stack.relay_client));
            stack.migration
        } else {
            stream_migration::Behaviour::with_policy(id, config, policy)
        };
        control = Control::Migration(behaviour.new_control());
        (migration, plain) = (Some(behaviour), None);
    }
    let identify = identify::Config::new("/interop-peer/1".to_owned(), keypair.public());
    let behaviour = |client| Behaviour {
        streams: migration.into(),
        plain: plain.into(),
        relay: args.relay.then(|| unlimited_relay(id)).into(),
        client,
        identify: identify::Behaviour::new(identify),
    };
    // The one that is named first is the one that we ask for; the remote's choice is accepted. The
    // builder wants it as a literal, for each gives the transport another type.
    macro_rules! build {
        ($security:expr) => {
            SwarmBuilder::with_existing_identity(keypair)
                .with_tokio()
                .with_tcp(
                    tcp::Config::default().nodelay(true),
                    $security,
                    yamux::Config::default,
                )?
                .with_quic()
                .with_dns()?
                .with_websocket($security, yamux::Config::default)
                .await?
                .with_relay_client($security, yamux::Config::default)?
                .with_behaviour(|_, client| behaviour(client))?
                .with_swarm_config(|config| config.with_idle_connection_timeout(IDLE))
                .build()
        };
    }
    if let Some((transport, client)) = wrapped {
        let config = swarm::Config::with_tokio_executor().with_idle_connection_timeout(IDLE);
        let swarm = Swarm::new(transport, behaviour(client), id, config);
        return Ok((swarm, control, verdicts));
    }
    let swarm = match args.security {
        Security::Noise => build!((noise::Config::new, tls::Config::new)),
        Security::Tls => build!((tls::Config::new, noise::Config::new)),
    };
    Ok((swarm, control, verdicts))
}

fn migrating(
    args: &Args,
    streams: Arc<Streams>,
    verdicts: Verdicts,
) -> (stream_migration::Config, impl stream_migration::Policy) {
    let config = stream_migration::Config::default()
        .with_verify(!args.no_verify)
        .with_layer_always(!args.as_needed)
        .with_prune_grace(None);
    let policy = Scripted {
        verdicts,
        received: move |key| streams.say_received(key),
    };
    (config, policy)
}

fn unlimited_relay(id: PeerId) -> relay::Behaviour {
    let config = relay::Config {
        max_reservations: PLENTY,
        max_reservations_per_peer: PLENTY,
        reservation_rate_limiters: Vec::new(),
        max_circuits: PLENTY,
        max_circuits_per_peer: PLENTY,
        max_circuit_duration: Duration::from_secs(24 * 3600),
        max_circuit_bytes: u64::MAX,
        circuit_src_rate_limiters: Vec::new(),
        ..Default::default()
    };
    relay::Behaviour::new(id, config)
}
