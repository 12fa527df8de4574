//! A swarm that runs in the background, and passes on what the behaviour tells.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm, SwarmBuilder,
    identity::Keypair,
    noise,
    swarm::{
        SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
    },
    tcp, yamux,
};
use libp2p_stream_migration::{
    self as stream_migration, ConnectionInfo, Control, Event, Side, StreamInfo,
};
use libp2p_stream_migration::{ConnectionKey, ConnectionName as _};
use tokio::sync::{mpsc, oneshot};

use crate::Fallible;

/// What takes longer than this on loopback never comes.
const PATIENCE: Duration = Duration::from_secs(30);

type Dial = (DialOpts, oneshot::Sender<()>);

pub struct Node {
    pub id: PeerId,
    pub control: Control,
    pub tcp: Multiaddr,
    pub quic: Multiaddr,
    dials: mpsc::Sender<Dial>,
}

impl Node {
    /// A node with this behaviour, and its events.
    pub async fn start(
        behaviour: impl FnOnce(PeerId) -> stream_migration::Behaviour,
    ) -> Fallible<(Self, mpsc::Receiver<Event>)> {
        let keypair = Keypair::generate_ed25519();
        let id = keypair.public().to_peer_id();
        let behaviour = behaviour(id);
        let control = behaviour.new_control();
        let mut swarm = SwarmBuilder::with_existing_identity(keypair)
            .with_tokio()
            .with_tcp(
                tcp::Config::default().nodelay(true),
                noise::Config::new,
                yamux::Config::default,
            )?
            .with_quic()
            .with_behaviour(|_| behaviour)?
            .with_swarm_config(|config| {
                config.with_idle_connection_timeout(Duration::from_secs(60))
            })
            .build();
        let tcp = listen(&mut swarm, "/ip4/127.0.0.1/tcp/0").await?;
        let quic = listen(&mut swarm, "/ip4/127.0.0.1/udp/0/quic-v1").await?;
        let (dials, dialing) = mpsc::channel(1);
        let (tell, events) = mpsc::channel(64);
        tokio::spawn(run(swarm, dialing, tell));
        let node = Self {
            id,
            control,
            tcp,
            quic,
            dials,
        };
        Ok((node, events))
    }

    /// Makes one more connection.
    pub async fn dial(&self, peer: PeerId, address: &Multiaddr) -> Fallible<ConnectionKey> {
        let opts = DialOpts::peer_id(peer)
            .condition(PeerCondition::Always)
            .addresses(vec![address.clone()])
            .build();
        let id = opts.connection_id().key();
        let (done, established) = oneshot::channel();
        self.dials.send((opts, done)).await?;
        established.await?;
        Ok(id)
    }

    /// Waits until connections to the peer, and streams, are as they should be.
    pub async fn until(
        &self,
        peer: PeerId,
        done: impl Fn(&[ConnectionInfo], &[StreamInfo]) -> bool,
    ) -> Fallible<()> {
        let mut control = self.control.clone();
        let wait = async {
            while !done(
                &control.connections(peer).await,
                &control.streams(peer).await,
            ) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        Ok(tokio::time::timeout(PATIENCE, wait).await?)
    }
}

async fn listen(
    swarm: &mut Swarm<stream_migration::Behaviour>,
    address: &str,
) -> Fallible<Multiaddr> {
    swarm.listen_on(address.parse()?)?;
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            return Ok(address);
        }
    }
}

async fn run(
    mut swarm: Swarm<stream_migration::Behaviour>,
    mut dialing: mpsc::Receiver<Dial>,
    tell: mpsc::Sender<Event>,
) {
    let mut dialed = HashMap::new();
    // Whoever follows the events asks us things meanwhile, so that it must not be waited for.
    let mut untold = VecDeque::new();
    loop {
        tokio::select! {
            Ok(place) = tell.reserve(), if !untold.is_empty() => {
                if let Some(event) = untold.pop_front() {
                    place.send(event);
                }
            }
            dial = dialing.recv() => {
                let Some((opts, done)) = dial else { return };
                dialed.insert(opts.connection_id().key(), done);
                if let Err(error) = swarm.dial(opts) {
                    eprintln!("not dialed: {error}");
                }
            }
            event = swarm.select_next_some() => match event {
                SwarmEvent::Behaviour(event) => untold.push_back(event),
                SwarmEvent::ConnectionEstablished { connection_id, .. } => {
                    if let Some(done) = dialed.remove(&connection_id.key()) {
                        let _ = done.send(());
                    }
                }
                SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                    eprintln!("not connected: {error}");
                    dialed.remove(&connection_id.key());
                }
                _ => {}
            },
        }
    }
}

/// Says what moves. Returns whether a migration of this node's is complete.
pub fn say(name: &str, event: &Event) -> bool {
    match event {
        Event::MigrationCompleted {
            key,
            from,
            to,
            initiator: Side::Local,
            took,
            old_leg_sent,
            ..
        } => {
            println!(
                "{name}: stream {key} moved from connection {from} to {to} in {took:.1?}, \
                 after {old_leg_sent} bytes"
            );
            true
        }
        Event::MigrationFailed { key, reason, .. } => {
            println!("{name}: stream {key} not moved: {reason:?}");
            false
        }
        Event::ConnectionPruned { connection, .. } => {
            println!("{name}: connection {connection} is free, and closed");
            false
        }
        _ => false,
    }
}
