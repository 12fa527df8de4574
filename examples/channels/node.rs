//! A node with four channels, of which it neither knows nor says over which connection they go.

use std::{
    collections::{HashMap, HashSet},
    error::Error,
    time::Duration,
};

use futures::{StreamExt, channel::oneshot};
use libp2p::{
    Multiaddr, PeerId, Swarm, SwarmBuilder, noise,
    swarm::{
        SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
    },
    tcp, yamux,
};
use libp2p_stream_migration::{
    Behaviour, Chain, Config, Control, Drain, Event, IncomingStreams, PreferTransport, StreamKey,
    Transport,
};
use tokio::sync::{mpsc, watch};

use crate::channel::{Channel, ChannelError, PROTOCOL, Spec};

/// Numbers as Tendermint's reactors have them.
pub const CHANNELS: [Spec; 4] = [
    Spec {
        name: "consensus",
        id: 0x22,
        max_message: 4 << 10,
    },
    Spec {
        name: "mempool",
        id: 0x30,
        max_message: 64 << 10,
    },
    Spec {
        name: "evidence",
        id: 0x38,
        max_message: 16 << 10,
    },
    Spec {
        name: "blocksync",
        id: 0x40,
        max_message: 256 << 10,
    },
];

/// Nothing here takes longer, unless it never comes.
const PATIENCE: Duration = Duration::from_secs(15);

/// How a stream has moved.
#[derive(Debug, Clone, Copy)]
pub struct Moved {
    pub from: Option<Transport>,
    pub to: Option<Transport>,
    pub took: Duration,
    /// Bytes written before it, the handshake included.
    pub sent: u64,
}

#[derive(Debug, Default)]
struct State {
    transports: HashMap<libp2p_stream_migration::ConnectionKey, Transport>,
    /// What is written on these goes the new way.
    agreed: HashSet<StreamKey>,
    /// Each stream's first move, and how many there were.
    moved: HashMap<StreamKey, (Moved, usize)>,
}

enum Command {
    Listen(Multiaddr, oneshot::Sender<Result<Multiaddr, String>>),
    Dial(DialOpts, oneshot::Sender<Result<(), String>>),
}

/// A node; its swarm stops when it is dropped.
pub struct Node {
    pub id: PeerId,
    pub control: Control,
    pub specs: [Spec; 4],
    incoming: IncomingStreams,
    state: watch::Receiver<State>,
    commands: mpsc::Sender<Command>,
}

impl Node {
    /// A node whose channels accept messages as large as these say.
    pub fn start(specs: [Spec; 4]) -> Result<Self, Box<dyn Error>> {
        let swarm = SwarmBuilder::with_new_identity()
            .with_tokio()
            .with_tcp(
                tcp::Config::default().nodelay(true),
                noise::Config::new,
                yamux::Config::default,
            )?
            .with_quic()
            .with_behaviour(|keypair| {
                let id = keypair.public().to_peer_id();
                // From TCP to QUIC as soon as there is both: all that this node has to say of it.
                let policy = Chain::new(Drain).then(PreferTransport::default());
                Behaviour::with_policy(id, Config::default(), policy)
            })?
            .with_swarm_config(|config| config.with_idle_connection_timeout(PATIENCE))
            .build();
        let mut control = swarm.behaviour().new_control();
        let incoming = control.accept(PROTOCOL)?;
        let id = *swarm.local_peer_id();
        let (commands, receiver) = mpsc::channel(4);
        let (sender, state) = watch::channel(State::default());
        tokio::spawn(run(swarm, receiver, sender));
        Ok(Self {
            id,
            control,
            specs,
            incoming,
            state,
            commands,
        })
    }

    pub async fn listen(&self, address: &str) -> Result<Multiaddr, String> {
        let parsed = address
            .parse()
            .map_err(|error| format!("{address}: {error}"))?;
        self.ask(|reply| Command::Listen(parsed, reply)).await
    }

    /// Makes one more connection.
    pub async fn dial(&self, peer: PeerId, address: Multiaddr) -> Result<(), String> {
        let opts = DialOpts::peer_id(peer)
            .condition(PeerCondition::Always)
            .addresses(vec![address])
            .build();
        self.ask(|reply| Command::Dial(opts, reply)).await
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

    /// Opens all channels to a peer.
    pub async fn open_all(&mut self, peer: PeerId) -> Result<Vec<Channel>, ChannelError> {
        let mut channels = Vec::new();
        for spec in self.specs {
            channels.push(Channel::open(&mut self.control, peer, spec).await?);
        }
        Ok(channels)
    }

    /// Accepts all channels.
    pub async fn accept_all(&mut self) -> Result<Vec<Channel>, ChannelError> {
        let mut channels = Vec::new();
        while channels.len() < self.specs.len() {
            let taken: Vec<u32> = channels.iter().map(|it: &Channel| it.spec.id).collect();
            channels.push(self.accept(&taken).await?);
        }
        channels.sort_by_key(|channel| channel.spec.id);
        Ok(channels)
    }

    /// Accepts one that is not open yet.
    pub async fn accept(&mut self, taken: &[u32]) -> Result<Channel, ChannelError> {
        let (_, stream) = self.incoming.next().await.ok_or(ChannelError::Ended)?;
        Channel::accept(stream, &self.specs, taken).await
    }

    /// Resolves when what is written on this stream of ours goes the new way. What the remote wrote
    /// before may still have to be read: the move is complete when its reader has done so.
    pub fn agreed(&self, stream: StreamKey) -> impl Future<Output = bool> + use<> {
        let mut state = self.state.clone();
        async move {
            state
                .wait_for(|state| state.agreed.contains(&stream))
                .await
                .is_ok()
        }
    }

    /// Waits until this stream's move is complete. Tells how it went, and how many there were.
    pub async fn moved(&self, stream: StreamKey) -> Option<(Moved, usize)> {
        let mut state = self.state.clone();
        let moved = state
            .wait_for(|state| state.moved.contains_key(&stream))
            .await;
        moved.ok()?.moved.get(&stream).copied()
    }
}

async fn run(
    mut swarm: Swarm<Behaviour>,
    mut commands: mpsc::Receiver<Command>,
    state: watch::Sender<State>,
) {
    let mut listens = HashMap::new();
    let mut dials = HashMap::new();
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Listen(address, reply)) => match swarm.listen_on(address) {
                    Ok(id) => drop(listens.insert(id, reply)),
                    Err(error) => drop(reply.send(Err(error.to_string()))),
                },
                Some(Command::Dial(opts, reply)) => {
                    let id = opts.connection_id();
                    match swarm.dial(opts) {
                        Ok(()) => drop(dials.insert(id, reply)),
                        Err(error) => drop(reply.send(Err(error.to_string()))),
                    }
                }
                None => return,
            },
            event = swarm.select_next_some() => match event {
                SwarmEvent::NewListenAddr { listener_id, address } => {
                    if let Some(reply) = listens.remove(&listener_id) {
                        let _ = reply.send(Ok(address));
                    }
                }
                SwarmEvent::ConnectionEstablished { connection_id, .. } => {
                    if let Some(reply) = dials.remove(&connection_id) {
                        let _ = reply.send(Ok(()));
                    }
                }
                SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                    if let Some(reply) = dials.remove(&connection_id) {
                        let _ = reply.send(Err(error.to_string()));
                    }
                }
                SwarmEvent::Behaviour(event) => state.send_modify(|state| note(state, event)),
                event => tracing::debug!(?event),
            },
        }
    }
}

fn note(state: &mut State, event: Event) {
    match event {
        Event::ConnectionEstablished(info) => {
            state.transports.insert(info.key, info.transport);
        }
        Event::ConnectionClosed { connection, .. } => {
            state.transports.remove(&connection);
        }
        Event::MigrationAgreed { key, .. } => {
            state.agreed.insert(key);
        }
        Event::MigrationCompleted {
            key,
            from,
            to,
            took,
            old_leg_sent: sent,
            ..
        } => {
            let transport = |connection| state.transports.get(&connection).copied();
            let moved = Moved {
                from: transport(from),
                to: transport(to),
                took,
                sent,
            };
            state.moved.entry(key).or_insert((moved, 0)).1 += 1;
        }
        event => tracing::debug!(?event),
    }
}
