//! A swarm that runs in the background, and what there is to know of its connections and streams.

use std::{collections::HashMap, error::Error, time::Duration};

use futures::{StreamExt, channel::oneshot};
use indicatif::HumanBytes;
use libp2p::{
    Multiaddr, PeerId, Swarm, SwarmBuilder, TransportError, dcutr, identify,
    multiaddr::Protocol,
    noise, ping, relay,
    swarm::{
        DialError, NetworkBehaviour, SwarmEvent,
        behaviour::toggle::Toggle,
        dial_opts::{DialOpts, PeerCondition},
    },
    tcp, yamux,
};
use libp2p_stream_migration::{self as stream_migration, Control, Stream};
use libp2p_stream_migration::{ConnectionKey, ConnectionName as _};
use tokio::sync::{mpsc, watch};

use crate::{chain, route::State};

/// Nothing on the way to a node that listens takes longer than this, unless it never comes.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long the behaviour may take to tell of a migration when its stream has ended.
const TELLING: Duration = Duration::from_secs(2);

#[derive(NetworkBehaviour)]
struct Behaviour {
    streams: Toggle<stream_migration::Behaviour>,
    relay: Toggle<relay::Behaviour>,
    client: relay::client::Behaviour,
    dcutr: Toggle<dcutr::Behaviour>,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
}

/// What a node is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Relay,
    /// Behind a relay; with or without hole punching.
    Peer {
        dcutr: bool,
    },
}

enum Command {
    Listen(Multiaddr, oneshot::Sender<Result<Multiaddr, String>>),
    Dial(DialOpts, oneshot::Sender<Result<(), String>>),
}

/// A node; its swarm stops when it is dropped.
pub struct Node {
    pub id: PeerId,
    pub control: Control,
    state: watch::Receiver<State>,
    commands: mpsc::Sender<Command>,
}

impl Node {
    pub async fn start(role: Role) -> Result<Self, Box<dyn Error>> {
        let mut control = None;
        let swarm = SwarmBuilder::with_new_identity()
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
            .with_relay_client(noise::Config::new, yamux::Config::default)?
            .with_behaviour(|keypair, client| {
                let id = keypair.public().to_peer_id();
                let config = stream_migration::Config::default();
                // The default policy: off the relay as soon as there is a direct connection.
                let streams = stream_migration::Behaviour::new(id, config);
                control = Some(streams.new_control());
                // Its limits lifted; what a relay with limits asks of a sender is `--over-relay`.
                let unlimited = relay::Config {
                    max_circuit_bytes: u64::MAX,
                    max_circuit_duration: Duration::from_secs(24 * 3600),
                    ..Default::default()
                };
                Behaviour {
                    streams: (role != Role::Relay).then_some(streams).into(),
                    relay: (role == Role::Relay)
                        .then(|| relay::Behaviour::new(id, unlimited))
                        .into(),
                    client,
                    dcutr: (role == Role::Peer { dcutr: true })
                        .then(|| dcutr::Behaviour::new(id))
                        .into(),
                    identify: identify::Behaviour::new(identify::Config::new(
                        "/file-transfer-example/1.0.0".to_owned(),
                        keypair.public(),
                    )),
                    ping: ping::Behaviour::default(),
                }
            })?
            .with_swarm_config(|config| {
                config.with_idle_connection_timeout(Duration::from_secs(60))
            })
            .build();
        let id = *swarm.local_peer_id();
        let (commands, receiver) = mpsc::channel(16);
        let (sender, state) = watch::channel(State::default());
        tokio::spawn(run(swarm, receiver, sender, role == Role::Relay));
        Ok(Self {
            id,
            control: control.ok_or("the behaviour was not made")?,
            state,
            commands,
        })
    }

    /// What is known now.
    pub fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.borrow())
    }

    /// Waits until something is known.
    pub async fn wait(&self, mut known: impl FnMut(&State) -> bool) -> Result<(), String> {
        let mut state = self.state.clone();
        let waiting = state.wait_for(|state| known(state)).await;
        waiting
            .map(drop)
            .map_err(|_| "the node has stopped".to_owned())
    }

    /// Listens, and tells the first address that comes of it, with our ID.
    pub async fn listen(&self, address: Multiaddr) -> Result<Multiaddr, String> {
        let listening = self
            .ask(|reply| Command::Listen(address.clone(), reply))
            .await
            .map_err(|error| format!("cannot listen on {address}: {error}"))?;
        // A relay tells all its addresses; the one that we came by is the one to pass on.
        let circuit = address.iter().any(|part| part == Protocol::P2pCircuit);
        let listening = if circuit { address } else { listening };
        Ok(listening.clone().with_p2p(self.id).unwrap_or(listening))
    }

    /// Makes one more connection.
    pub async fn dial(&self, peer: PeerId, address: Multiaddr) -> Result<ConnectionKey, String> {
        let opts = DialOpts::peer_id(peer)
            .condition(PeerCondition::Always)
            .addresses(vec![address.clone()])
            .build();
        let id = opts.connection_id().key();
        self.ask(|reply| Command::Dial(opts, reply))
            .await
            .map_err(|error| format!("cannot reach {address}: {error}; is it running?"))?;
        Ok(id)
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, String>>) -> Command,
    ) -> Result<T, String> {
        let (reply, answer) = oneshot::channel();
        // A node that has stopped drops the reply as well.
        let _ = self.commands.send(command(reply)).await;
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(answer) => answer.unwrap_or_else(|_| Err("the node has stopped".to_owned())),
            Err(_) => Err(format!("nothing came of it within {PATIENCE:?}")),
        }
    }

    /// How many of the stream's bytes went which way, when it is through. `count` picks a direction
    /// from what was written and read; `total` is the stream's.
    pub async fn way(
        &self,
        stream: &Stream,
        total: u64,
        count: impl Fn((u64, u64)) -> u64,
    ) -> String {
        let key = stream.key();
        // What has been agreed is complete by now, and has only to be told.
        let told = self.wait(|state| {
            let route = state.route(key);
            route.is_none_or(|route| route.before.iter().all(|(_, bytes)| bytes.is_some()))
        });
        let _ = tokio::time::timeout(TELLING, told).await;
        self.look(|state| {
            let Some(route) = state.route(key) else {
                let path = stream.connection().map(|it| state.path(it));
                let path = path.unwrap_or_default();
                return format!("{} {path}", HumanBytes(total));
            };
            let mut left = total;
            let mut way = String::new();
            for (path, bytes) in &route.before {
                let bytes = bytes.map_or(0, &count);
                left = left.saturating_sub(bytes);
                way += &format!("{} {path}, then ", HumanBytes(bytes));
            }
            format!("{way}{} {}", HumanBytes(left), route.now)
        })
    }

    /// Connects to a relay, and waits until Identify has told us as what it sees us, without which
    /// no hole can be punched.
    pub async fn behind(&self, relay: PeerId, address: Multiaddr) -> Result<(), String> {
        self.dial(relay, address).await?;
        let seen = self.wait(|state| state.seen_by.contains(&relay));
        match tokio::time::timeout(PATIENCE, seen).await {
            Ok(seen) => seen,
            Err(_) => Err(format!("the relay {relay} does not speak Identify")),
        }
    }
}

/// What a dial has failed of in the end. All that is above it repeats it, with the address.
fn root(error: &DialError) -> String {
    let mut root: &dyn Error = match error {
        DialError::Transport(errors) => match errors.first() {
            Some((_, TransportError::Other(error))) => error,
            _ => error,
        },
        _ => error,
    };
    while let Some(cause) = root.source() {
        root = cause;
    }
    root.to_string()
}

async fn run(
    mut swarm: Swarm<Behaviour>,
    mut commands: mpsc::Receiver<Command>,
    state: watch::Sender<State>,
    relay: bool,
) {
    let mut listens = HashMap::new();
    let mut dials = HashMap::new();
    loop {
        let event = tokio::select! {
            command = commands.recv() => {
                match command {
                    Some(Command::Listen(address, reply)) => match swarm.listen_on(address) {
                        Ok(id) => drop(listens.insert(id, reply)),
                        Err(error) => drop(reply.send(Err(chain(&error)))),
                    },
                    Some(Command::Dial(opts, reply)) => {
                        let id = opts.connection_id().key();
                        match swarm.dial(opts) {
                            Ok(()) => drop(dials.insert(id, reply)),
                            Err(error) => drop(reply.send(Err(root(&error)))),
                        }
                    }
                    None => return,
                }
                continue;
            }
            event = swarm.select_next_some() => event,
        };
        match event {
            SwarmEvent::NewListenAddr {
                listener_id,
                address,
            } => {
                if relay {
                    // Reservations tell clients where the relay can be reached.
                    swarm.add_external_address(address.clone());
                }
                if let Some(reply) = listens.remove(&listener_id) {
                    let _ = reply.send(Ok(address));
                }
            }
            SwarmEvent::ListenerClosed {
                listener_id,
                addresses,
                reason,
            } => {
                let why = reason.map_or_else(|error| chain(&error), |()| "closed".to_owned());
                match listens.remove(&listener_id) {
                    Some(reply) => drop(reply.send(Err(why))),
                    None => state.send_modify(|state| {
                        state.lost = Some(format!("no longer listening on {addresses:?}: {why}"));
                    }),
                }
            }
            SwarmEvent::ConnectionEstablished { connection_id, .. } => {
                if let Some(reply) = dials.remove(&connection_id.key()) {
                    let _ = reply.send(Ok(()));
                }
            }
            SwarmEvent::OutgoingConnectionError {
                connection_id,
                error,
                ..
            } => {
                if let Some(reply) = dials.remove(&connection_id.key()) {
                    let _ = reply.send(Err(root(&error)));
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                peer_id,
                ..
            })) => state.send_modify(|state| {
                state.seen_by.insert(peer_id);
            }),
            SwarmEvent::Behaviour(BehaviourEvent::Streams(event)) => {
                state.send_modify(|state| state.note(event));
            }
            event => tracing::debug!(?event),
        }
    }
}
