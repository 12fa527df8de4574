//! A swarm that runs in the background and tells the ledger what happens.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm, SwarmBuilder, identify,
    multiaddr::Protocol,
    noise, relay,
    swarm::{
        ConnectionId, NetworkBehaviour, SwarmEvent, behaviour::toggle::Toggle, dial_opts::DialOpts,
    },
    tcp, yamux,
};
use libp2p_stream_migration::{self as stream_migration, Config, Control};
use tokio::sync::mpsc;

use crate::{Fallible, ledger::Ledger, policy::ByTurns};

/// What takes longer than this on loopback never comes.
const PATIENCE: Duration = Duration::from_secs(30);

/// What waits for an answer that will not come holds its substream, and so its connection's memory, for so
/// long. A rest is longer.
pub const TIMEOUT: Duration = Duration::from_secs(4);

/// Nothing waits for so long, but for the idle timeout of a connection that nothing uses.
pub const LONGER_THAN_ANY_TIMEOUT: Duration = TIMEOUT.saturating_mul(2);

#[derive(NetworkBehaviour)]
struct Behaviour {
    streams: Toggle<stream_migration::Behaviour>,
    relay: Toggle<relay::Behaviour>,
    client: relay::client::Behaviour,
    identify: identify::Behaviour,
}

pub enum Command {
    Dial(DialOpts),
    /// Closes a connection, whatever is on it.
    Close(ConnectionId),
    /// Closes all connections to a peer.
    Disconnect(PeerId),
}

pub struct Node {
    pub id: PeerId,
    /// Of TCP, QUIC and WebSocket, and those through a relay.
    pub addresses: Vec<Multiaddr>,
    /// `None` for a relay.
    pub control: Option<Control>,
    commands: mpsc::Sender<Command>,
    connections: Arc<AtomicUsize>,
}

/// What is remembered for a while is remembered briefly, so that a rest is soon at rest.
fn config([read_ahead, of_peer]: [usize; 2]) -> Config {
    Config::default()
        .with_ended_id_memory(Duration::from_secs(1))
        .with_old_leg_linger(Duration::from_millis(500))
        .with_accept_timeout(Duration::from_secs(2))
        .with_prune_grace(Some(Duration::from_millis(500)))
        .with_answer_timeout(TIMEOUT)
        .with_negotiation_timeout(TIMEOUT)
        .with_progress_timeout(TIMEOUT)
        .with_read_ahead_per_stream(read_ahead)
        .with_read_ahead_per_peer(of_peer)
}

impl Node {
    pub async fn relay(ledger: Arc<Ledger>) -> Fallible<Self> {
        let mut node = Starting::new(None).await?;
        node.listen("/ip4/127.0.0.1/tcp/0".parse()?).await?;
        for address in node.addresses.clone() {
            // Reservations tell clients where the relay can be reached.
            node.swarm.add_external_address(address);
        }
        Ok(node.run(usize::MAX, ledger))
    }

    /// A node with a place at a relay, of which this is the address.
    pub async fn peer(
        index: usize,
        relay: &Multiaddr,
        policy: ByTurns,
        ledger: Arc<Ledger>,
    ) -> Fallible<Self> {
        // The second has not enough for all the streams of a peer, and not even for three of them.
        let read_ahead = [
            [1 << 20, 64 << 20],
            [64 << 10, 160 << 10],
            [4 << 10, 1 << 20],
        ];
        let config = config(read_ahead[index % read_ahead.len()]);
        let mut node = Starting::new(Some((config, policy))).await?;
        for address in [
            "/ip4/127.0.0.1/tcp/0",
            "/ip4/127.0.0.1/udp/0/quic-v1",
            "/ip4/127.0.0.1/tcp/0/ws",
        ] {
            node.listen(address.parse()?).await?;
        }
        node.listen(relay.clone().with(Protocol::P2pCircuit))
            .await?;
        Ok(node.run(index, ledger))
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
    addresses: Vec<Multiaddr>,
}

impl Starting {
    async fn new(streams: Option<(Config, ByTurns)>) -> Fallible<Self> {
        let relays = streams.is_none();
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
                let identify =
                    identify::Config::new("/endurance/1.0.0".to_owned(), keypair.public())
                        // Nobody dials but this program.
                        .with_cache_size(0);
                Behaviour {
                    streams: streams
                        .map(|(config, policy)| {
                            stream_migration::Behaviour::with_policy(id, config, policy)
                        })
                        .into(),
                    relay: relays
                        .then(|| relay::Behaviour::new(id, without_limits()))
                        .into(),
                    client,
                    identify: identify::Behaviour::new(identify),
                }
            })?
            .with_swarm_config(|config| {
                config.with_idle_connection_timeout(Duration::from_secs(20))
            })
            .build();
        Ok(Self {
            swarm,
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

    fn run(self, index: usize, ledger: Arc<Ledger>) -> Node {
        let (commands, receiver) = mpsc::channel(16);
        let connections = Arc::default();
        let node = Node {
            id: *self.swarm.local_peer_id(),
            addresses: self.addresses,
            control: self
                .swarm
                .behaviour()
                .streams
                .as_ref()
                .map(stream_migration::Behaviour::new_control),
            commands,
            connections: Arc::clone(&connections),
        };
        tokio::spawn(run(self.swarm, receiver, connections, index, ledger));
        node
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
    index: usize,
    ledger: Arc<Ledger>,
) {
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Dial(opts)) => {
                    let id = opts.connection_id();
                    if let Err(error) = swarm.dial(opts) {
                        ledger.note(|known| known.dial_failed((index, id), &error.to_string()));
                    }
                }
                Some(Command::Close(id)) => {
                    swarm.close_connection(id);
                }
                Some(Command::Disconnect(peer)) => {
                    let _ = swarm.disconnect_peer_id(peer);
                }
                None => return,
            },
            event = swarm.select_next_some() => match event {
                SwarmEvent::Behaviour(BehaviourEvent::Streams(event)) => ledger.tell(index, &event),
                SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                    ledger.note(|known| {
                        known.dial_failed((index, connection_id), &error.to_string());
                    });
                }
                _ => {}
            },
        }
        let counters = swarm.network_info();
        let number = counters.connection_counters().num_connections();
        connections.store(number as usize, SeqCst);
    }
}
