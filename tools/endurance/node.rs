//! A swarm that runs in the background and tells the ledger what happens.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm, SwarmBuilder, identify,
    identity::Keypair,
    multiaddr::Protocol,
    noise, relay,
    swarm::{
        self, ConnectionError, NetworkBehaviour, SwarmEvent, behaviour::toggle::Toggle,
        dial_opts::DialOpts,
    },
    tcp, yamux,
};
use libp2p_stream_migration::{
    self as stream_migration, Config, ConnectionKey, ConnectionName as _, Control, transport,
};
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{Fallible, ledger::Ledger, neighbours, policy::ByTurns};

/// What takes longer than this on loopback never comes.
const PATIENCE: Duration = Duration::from_secs(30);

/// What waits for an answer that will not come holds its substream, and so its connection's memory, for so
/// long. A rest is longer.
pub const TIMEOUT: Duration = Duration::from_secs(4);

/// A connection that nothing uses is closed after this.
const IDLE: Duration = Duration::from_secs(20);

/// Nothing waits for so long, but for the idle timeout of a connection that nothing uses.
pub const LONGER_THAN_ANY_TIMEOUT: Duration = TIMEOUT.saturating_mul(2);

#[derive(NetworkBehaviour)]
struct Behaviour {
    streams: Toggle<stream_migration::Behaviour>,
    relay: Toggle<relay::Behaviour>,
    client: relay::client::Behaviour,
    identify: identify::Behaviour,
    neighbours: Toggle<neighbours::Behaviour>,
}

pub enum Command {
    Dial(DialOpts),
    /// Closes a connection, whatever is on it.
    Close(ConnectionKey),
    /// Closes all connections to a peer.
    Disconnect(PeerId),
    /// Asks a peer something, by a behaviour that knows of nothing.
    Request(PeerId, neighbours::Question),
}

/// Where a peer can be reached.
pub enum Place<'a> {
    /// Over all transports, and through the relay at this address.
    Everywhere(&'a Multiaddr),
    /// Over TCP and WebSocket.
    Plain,
}

pub struct Node {
    pub id: PeerId,
    pub keypair: Keypair,
    /// Its number among all that there have been.
    pub life: usize,
    /// Of TCP, QUIC and WebSocket, and those through a relay.
    pub addresses: Vec<Multiaddr>,
    /// `None` for a relay.
    pub control: Option<Control>,
    commands: mpsc::Sender<Command>,
    connections: Arc<AtomicUsize>,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// What is remembered for a while is remembered briefly, so that a rest is soon at rest.
pub fn config(life: usize) -> Config {
    // The second has not enough for all the streams of a peer, and not even for three of them.
    let bounds = [
        [1 << 20, 64 << 20],
        [64 << 10, 160 << 10],
        [4 << 10, 1 << 20],
    ];
    let [read_ahead, of_peer] = bounds[life % bounds.len()];
    Config::default()
        .with_ended_id_memory(Duration::from_secs(1))
        .with_old_leg_linger(Duration::from_millis(500))
        .with_accept_timeout(Duration::from_secs(2))
        .with_prune_grace(Some(Duration::from_millis(500)))
        .with_answer_timeout(TIMEOUT)
        .with_negotiation_timeout(TIMEOUT)
        .with_progress_timeout(TIMEOUT)
        .with_suspect_after(Duration::from_secs(2))
        .with_probe_interval(Some(Duration::from_secs(2)))
        .with_read_ahead_per_stream(read_ahead)
        .with_read_ahead_per_peer(of_peer)
}

impl Node {
    pub async fn relay(ledger: Arc<Ledger>) -> Fallible<Self> {
        let mut node = Starting::new(Keypair::generate_ed25519(), None).await?;
        node.listen("/ip4/127.0.0.1/tcp/0".parse()?).await?;
        for address in node.addresses.clone() {
            // Reservations tell clients where the relay can be reached.
            node.swarm.add_external_address(address);
        }
        Ok(node.run(usize::MAX, ledger))
    }

    /// A node that moves streams; with a key that it has had before, or with a new one.
    pub async fn peer(
        life: usize,
        keypair: Option<Keypair>,
        place: Place<'_>,
        moving: Moving,
        ledger: Arc<Ledger>,
    ) -> Fallible<Self> {
        let keypair = keypair.unwrap_or_else(Keypair::generate_ed25519);
        // Below the swarm a burst arrives all at once.
        let config = match moving.layer {
            true => {
                let config = moving.config.with_layer_always(true);
                config.with_accept_backlog(2048)
            }
            false => moving.config,
        };
        let moving = Moving { config, ..moving };
        let mut node = Starting::new(keypair, Some(moving)).await?;
        for address in ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws"] {
            node.listen(address.parse()?).await?;
        }
        if let Place::Everywhere(relay) = place {
            node.listen("/ip4/127.0.0.1/udp/0/quic-v1".parse()?).await?;
            node.listen(relay.clone().with(Protocol::P2pCircuit))
                .await?;
        }
        Ok(node.run(life, ledger))
    }

    /// Ends it as it is, without a word to its peers.
    pub async fn stop(&self) {
        let task = self
            .task
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(task) = task {
            task.abort();
            // An error: that it was aborted.
            let _ = task.await;
        }
        self.connections.store(0, SeqCst);
    }

    pub async fn command(&self, command: Command) {
        // Gone only if the program is about to end.
        let _ = self.commands.send(command).await;
    }

    /// How many connections it has.
    pub fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }
}

struct Starting {
    swarm: Swarm<Behaviour>,
    keypair: Keypair,
    addresses: Vec<Multiaddr>,
}

/// What a swarm is to have for streams that move.
pub struct Moving {
    pub config: Config,
    pub policy: ByTurns,
    /// Below the swarm.
    pub layer: bool,
}

/// The behaviours of a node; of a relay, without streams.
fn behaviours(
    keypair: &Keypair,
    client: relay::client::Behaviour,
    streams: Option<stream_migration::Behaviour>,
    layer: bool,
) -> Behaviour {
    let id = keypair.public().to_peer_id();
    let relays = streams.is_none();
    // Nobody dials but this program.
    let identify =
        identify::Config::new("/endurance/1.0.0".to_owned(), keypair.public()).with_cache_size(0);
    Behaviour {
        streams: streams.into(),
        relay: relays
            .then(|| relay::Behaviour::new(id, without_limits()))
            .into(),
        client,
        identify: identify::Behaviour::new(identify),
        neighbours: layer.then(neighbours::Behaviour::new).into(),
    }
}

async fn by_builder(keypair: &Keypair, moving: Option<Moving>) -> Fallible<Swarm<Behaviour>> {
    Ok(SwarmBuilder::with_existing_identity(keypair.clone())
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
            let streams =
                moving.map(|it| stream_migration::Behaviour::with_policy(id, it.config, it.policy));
            behaviours(keypair, client, streams, false)
        })?
        .with_swarm_config(|config| config.with_idle_connection_timeout(IDLE))
        .build())
}

fn layered(keypair: &Keypair, moving: Moving) -> Fallible<Swarm<Behaviour>> {
    let stack = transport::stack_with_policy(keypair, moving.config, moving.policy)?;
    let all = behaviours(keypair, stack.relay_client, Some(stack.migration), true);
    let config = swarm::Config::with_tokio_executor().with_idle_connection_timeout(IDLE);
    Ok(Swarm::new(
        stack.transport,
        all,
        stack.local_peer_id,
        config,
    ))
}

impl Starting {
    async fn new(keypair: Keypair, moving: Option<Moving>) -> Fallible<Self> {
        let swarm = match moving {
            Some(moving) if moving.layer => layered(&keypair, moving)?,
            moving => by_builder(&keypair, moving).await?,
        };
        Ok(Self {
            swarm,
            keypair,
            addresses: Vec::new(),
        })
    }

    async fn listen(&mut self, address: Multiaddr) -> Fallible<()> {
        let listener = self.swarm.listen_on(address.clone())?;
        let wait = async {
            loop {
                match self.swarm.select_next_some().await {
                    SwarmEvent::NewListenAddr {
                        listener_id,
                        address,
                    } if listener_id == listener => return Ok(address),
                    SwarmEvent::ListenerClosed {
                        listener_id,
                        reason,
                        ..
                    } if listener_id == listener => {
                        return Err(format!("cannot listen on {address}: {reason:?}"));
                    }
                    _ => {}
                }
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        let listening =
            waited.map_err(|_| format!("cannot listen on {address}: nothing happens"))??;
        // A circuit's address has our ID already.
        let id = *self.swarm.local_peer_id();
        self.addresses
            .push(listening.with_p2p(id).unwrap_or_else(|address| address));
        Ok(())
    }

    fn run(self, life: usize, ledger: Arc<Ledger>) -> Node {
        let (commands, receiver) = mpsc::channel(16);
        let connections = Arc::default();
        let id = *self.swarm.local_peer_id();
        let streams = self.swarm.behaviour().streams.as_ref();
        let control = streams.map(stream_migration::Behaviour::new_control);
        let counter = Arc::clone(&connections);
        let task = tokio::spawn(run(self.swarm, receiver, counter, life, ledger));
        Node {
            id,
            keypair: self.keypair,
            life,
            addresses: self.addresses,
            control,
            commands,
            connections,
            task: Mutex::new(Some(task)),
        }
    }
}

/// What is tested is not the relay.
fn without_limits() -> relay::Config {
    relay::Config {
        max_circuits: usize::MAX,
        max_circuits_per_peer: usize::MAX,
        max_circuit_bytes: u64::MAX,
        max_circuit_duration: Duration::from_secs(24 * 3600),
        reservation_rate_limiters: Vec::new(),
        circuit_src_rate_limiters: Vec::new(),
        ..Default::default()
    }
}

async fn run(
    mut swarm: Swarm<Behaviour>,
    mut commands: mpsc::Receiver<Command>,
    connections: Arc<AtomicUsize>,
    life: usize,
    ledger: Arc<Ledger>,
) {
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Dial(opts)) => {
                    let id = opts.connection_id().key();
                    if let Err(error) = swarm.dial(opts) {
                        ledger.note(|known| known.dial_failed((life, id), &error.to_string()));
                    }
                }
                Some(Command::Close(id)) => {
                    swarm.close_connection(id.id());
                }
                Some(Command::Request(peer, question)) => {
                    if let Some(neighbours) = swarm.behaviour_mut().neighbours.as_mut() {
                        neighbours.ask(peer, question);
                    }
                }
                Some(Command::Disconnect(peer)) => {
                    let _ = swarm.disconnect_peer_id(peer);
                }
                None => return,
            },
            event = swarm.select_next_some() => match event {
                SwarmEvent::Behaviour(BehaviourEvent::Streams(event)) => ledger.tell(life, &event),
                SwarmEvent::Behaviour(BehaviourEvent::Neighbours(event)) => {
                    if let Some(neighbours) = swarm.behaviour_mut().neighbours.as_mut() {
                        neighbours.hear(event, &ledger);
                    }
                }
                SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                    ledger.note(|known| {
                        known.dial_failed((life, connection_id.key()), &error.to_string());
                    });
                }
                SwarmEvent::ConnectionClosed {
                    connection_id, cause: Some(ConnectionError::IO(error)), ..
                } => {
                    let why = error.to_string();
                    ledger.note(|known| known.links.broke((life, connection_id.key()), why));
                }
                _ => {}
            },
        }
        let counters = swarm.network_info();
        let number = counters.connection_counters().num_connections();
        connections.store(number as usize, SeqCst);
    }
}
