//! A swarm that runs in the background and keeps a log of what happened to it.

use std::{
    collections::{HashMap, VecDeque},
    error::Error,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::{
    StreamExt,
    channel::{mpsc, oneshot},
};
use libp2p::{
    Multiaddr, PeerId, Swarm, SwarmBuilder,
    core::transport::ListenerId,
    dcutr, identify,
    identity::Keypair,
    multiaddr::Protocol,
    noise, ping, relay,
    swarm::{
        NetworkBehaviour, SwarmEvent,
        behaviour::toggle::Toggle,
        dial_opts::{DialOpts, PeerCondition},
    },
    tcp, yamux,
};
use libp2p_stream_migration::{
    self as stream_migration, Chain, PeerView, Placement, Policy, StreamInfo,
};
use libp2p_stream_migration::{ConnectionKey, ConnectionName as _};
use tokio::sync::Notify;

use crate::{chain, transfer::PROTOCOL};

#[derive(NetworkBehaviour)]
struct Behaviour {
    streams: Toggle<stream_migration::Behaviour>,
    relay: Toggle<relay::Behaviour>,
    client: relay::client::Behaviour,
    dcutr: Toggle<dcutr::Behaviour>,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
}

/// Not before a stream has carried something both ways: hole punching can be quicker than the first
/// byte, and there would be nothing to see.
struct AfterAWhile;

/// How much, in bytes.
const A_WHILE: u64 = 2 << 20;

/// What happened longest ago is forgotten beyond this; nobody waits for anything as old.
const LOG: usize = 4096;

/// Nothing on the way to a listening node takes longer than this, unless it never comes.
const PATIENCE: Duration = Duration::from_secs(15);
/// For what has ended on a connection to arrive.
const LINGER: Duration = Duration::from_secs(5);

impl Policy for AfterAWhile {
    fn place(&mut self, stream: &StreamInfo, _: &PeerView<'_>) -> Placement {
        // Other streams, such as an echo that is idle for long, move at once.
        let transfer = stream.protocol.as_ref().is_none_or(|it| *it == PROTOCOL);
        if transfer && stream.sent.min(stream.received) < A_WHILE {
            return Placement::AskAgain(Duration::from_millis(5));
        }
        Placement::Indifferent
    }
}

/// What a node is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Relay,
    /// Behind the relay; with or without hole punching.
    Peer {
        dcutr: bool,
    },
}

/// Something that happened, in order.
#[derive(Debug, Clone)]
pub enum Happened {
    Listening(Multiaddr),
    /// A listener, such as a reservation with a relay, is over; and why.
    ListenerClosed(Vec<Multiaddr>, String),
    Connected(ConnectionKey, Multiaddr),
    Closed(ConnectionKey),
    /// The other side of Identify knows us now.
    Known(PeerId),
    DialFailed(ConnectionKey, String),
    Stream(stream_migration::Event),
}

enum Command {
    Listen(Multiaddr, oneshot::Sender<Result<Multiaddr, String>>),
    Dial(DialOpts),
}

#[derive(Default)]
struct Log {
    /// Protects the list alone.
    happened: Mutex<VecDeque<(Instant, Happened)>>,
    news: Notify,
}

/// A node; its swarm stops when it is dropped.
pub struct Node {
    pub id: PeerId,
    pub control: stream_migration::Control,
    log: Arc<Log>,
    commands: mpsc::UnboundedSender<Command>,
}

impl Node {
    pub async fn start(keypair: Keypair, role: Role) -> Result<Self, Box<dyn Error>> {
        let id = keypair.public().to_peer_id();
        // Who looks on need not wait longer for the relayed connection's end: paths are fast here, and
        // what has ended on it (Identify, hole punching) has arrived by then.
        let config = stream_migration::Config::default().with_old_leg_linger(LINGER);
        let policy = Chain::new(AfterAWhile).then(Chain::default());
        let streams = stream_migration::Behaviour::with_policy(id, config, policy);
        let control = streams.new_control();
        let swarm = SwarmBuilder::with_existing_identity(keypair)
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
            .with_behaviour(|keypair, client| Behaviour {
                streams: (role != Role::Relay).then_some(streams).into(),
                relay: (role == Role::Relay)
                    .then(|| {
                        // Its limits lifted: what is shown here is the move, not the limit.
                        let config = relay::Config {
                            max_circuit_bytes: u64::MAX,
                            max_circuit_duration: Duration::from_secs(24 * 3600),
                            ..Default::default()
                        };
                        relay::Behaviour::new(id, config)
                    })
                    .into(),
                client,
                dcutr: (role == Role::Peer { dcutr: true })
                    .then(|| dcutr::Behaviour::new(id))
                    .into(),
                identify: identify::Behaviour::new(identify::Config::new(
                    "/relay-to-direct/1.0.0".to_owned(),
                    keypair.public(),
                )),
                ping: ping::Behaviour::default(),
            })?
            .with_swarm_config(|config| {
                config.with_idle_connection_timeout(Duration::from_secs(3600))
            })
            .build();
        let (commands, receiver) = mpsc::unbounded();
        let log = Arc::new(Log::default());
        tokio::spawn(run(swarm, receiver, log.clone(), role == Role::Relay));
        Ok(Self {
            id,
            control,
            log,
            commands,
        })
    }

    /// Waits until something has happened, now or before, of which `find` makes something.
    pub async fn wait<T>(&self, mut find: impl FnMut(Instant, &Happened) -> Option<T>) -> T {
        loop {
            let mut news = std::pin::pin!(self.log.news.notified());
            news.as_mut().enable();
            let found = self.happened(|happened| {
                happened
                    .iter()
                    .find_map(|(at, happened)| find(*at, happened))
            });
            if let Some(found) = found {
                return found;
            }
            news.await;
        }
    }

    /// Looks at everything that has happened until now.
    pub fn happened<T>(&self, look: impl FnOnce(&VecDeque<(Instant, Happened)>) -> T) -> T {
        let happened = self.log.happened.lock();
        look(&happened.unwrap_or_else(PoisonError::into_inner))
    }

    /// Listens, and tells the first address that comes of it, with our ID.
    pub async fn listen(&self, address: Multiaddr) -> Result<Multiaddr, String> {
        let (reply, answer) = oneshot::channel();
        let _ = self
            .commands
            .unbounded_send(Command::Listen(address.clone(), reply));
        let listening = match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err("the node has stopped".to_owned()),
            Err(_) => Err(format!("nothing came of it within {PATIENCE:?}")),
        }
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
            .addresses(vec![address])
            .build();
        let id = opts.connection_id().key();
        let _ = self.commands.unbounded_send(Command::Dial(opts));
        self.wait(|_, happened| match happened {
            Happened::Connected(connected, _) if *connected == id => Some(Ok(id)),
            Happened::DialFailed(failed, error) if *failed == id => Some(Err(error.clone())),
            _ => None,
        })
        .await
    }

    /// Waits until Identify has gone both ways with this peer, after which both know as what they
    /// are seen, and hole punching can begin.
    pub async fn known_to(&self, peer: PeerId) {
        let known = self.wait(|_, happened| match happened {
            Happened::Known(by) if *by == peer => Some(()),
            _ => None,
        });
        if tokio::time::timeout(PATIENCE, known).await.is_err() {
            eprintln!("{peer} does not say as what it sees us: hole punching will hardly succeed");
        }
    }
}

async fn run(
    mut swarm: Swarm<Behaviour>,
    mut commands: mpsc::UnboundedReceiver<Command>,
    log: Arc<Log>,
    relay: bool,
) {
    let mut pending: HashMap<ListenerId, oneshot::Sender<_>> = HashMap::new();
    loop {
        let happened = tokio::select! {
            command = commands.next() => {
                match command {
                    Some(Command::Listen(address, reply)) => match swarm.listen_on(address) {
                        Ok(id) => {
                            pending.insert(id, reply);
                        }
                        Err(error) => {
                            let _ = reply.send(Err(error.to_string()));
                        }
                    },
                    Some(Command::Dial(opts)) => {
                        let id = opts.connection_id().key();
                        if let Err(error) = swarm.dial(opts) {
                            push(&log, Happened::DialFailed(id, error.to_string()));
                        }
                    }
                    None => return,
                }
                continue;
            }
            event = swarm.select_next_some() => match event {
                SwarmEvent::NewListenAddr { listener_id, address } => {
                    if let Some(reply) = pending.remove(&listener_id) {
                        let _ = reply.send(Ok(address.clone()));
                    }
                    if relay {
                        // Reservations tell clients where the relay can be reached.
                        swarm.add_external_address(address.clone());
                    }
                    Happened::Listening(address)
                }
                SwarmEvent::ListenerClosed { listener_id, addresses, reason } => {
                    let why = match reason {
                        Ok(()) => "closed".to_owned(),
                        Err(error) => chain(&error),
                    };
                    if let Some(reply) = pending.remove(&listener_id) {
                        let _ = reply.send(Err(why));
                        continue;
                    }
                    Happened::ListenerClosed(addresses, why)
                }
                SwarmEvent::ConnectionEstablished { connection_id, endpoint, .. } => {
                    let address = match &endpoint {
                        libp2p::core::ConnectedPoint::Dialer { address, .. } => address,
                        libp2p::core::ConnectedPoint::Listener { local_addr, .. } => local_addr,
                    };
                    Happened::Connected(connection_id.key(), address.clone())
                }
                SwarmEvent::ConnectionClosed { connection_id, .. } => {
                    Happened::Closed(connection_id.key())
                }
                SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                    Happened::DialFailed(connection_id.key(), error.to_string())
                }
                SwarmEvent::Behaviour(BehaviourEvent::Identify(event)) => match event {
                    identify::Event::Received { peer_id, .. } => Happened::Known(peer_id),
                    _ => continue,
                },
                SwarmEvent::Behaviour(BehaviourEvent::Streams(event)) => Happened::Stream(event),
                event => {
                    tracing::debug!(?event);
                    continue;
                }
            },
        };
        push(&log, happened);
    }
}

fn push(log: &Log, happened: Happened) {
    let mut list = log.happened.lock().unwrap_or_else(PoisonError::into_inner);
    if list.len() == LOG {
        list.pop_front();
    }
    list.push_back((Instant::now(), happened));
    drop(list);
    log.news.notify_waiters();
}
