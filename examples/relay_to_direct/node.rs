//! A swarm that runs in the background and keeps a log of what happened to it.

use std::{
    error::Error,
    fmt::Display,
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
    noise, ping, relay,
    swarm::{
        ConnectionId, NetworkBehaviour, SwarmEvent,
        behaviour::toggle::Toggle,
        dial_opts::{DialOpts, PeerCondition},
    },
    tcp, yamux,
};
use libp2p_stream_migration::{
    self as stream_migration, ConnectionInfo, Placement, Policy, PreferDirect, StreamInfo,
};
use tokio::sync::Notify;

#[derive(NetworkBehaviour)]
struct Behaviour {
    streams: Toggle<stream_migration::Behaviour>,
    relay: Toggle<relay::Behaviour>,
    client: relay::client::Behaviour,
    dcutr: Toggle<dcutr::Behaviour>,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
}

/// The default policy, but only once a stream has carried something both ways: hole punching can be
/// quicker than the first byte, and there would be nothing to see.
struct AfterAWhile;

/// How much, in bytes.
pub const A_WHILE: u64 = 1 << 20;

impl Policy for AfterAWhile {
    fn place(&mut self, stream: &StreamInfo, connections: &[&ConnectionInfo]) -> Placement {
        if stream.sent.min(stream.received) < A_WHILE {
            return Placement::AskAgain(Duration::from_millis(5));
        }
        PreferDirect.place(stream, connections)
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
    Listening(ListenerId, Multiaddr),
    NotListening(ListenerId, String),
    Connected(ConnectionId, Multiaddr),
    Closed(ConnectionId),
    /// The other side of Identify knows us now.
    Known(PeerId),
    DialFailed(ConnectionId, String),
    Stream(stream_migration::Event),
}

enum Command {
    Listen(Multiaddr, oneshot::Sender<Result<ListenerId, String>>),
    Dial(DialOpts),
}

#[derive(Default)]
struct Log {
    /// Protects the list alone.
    happened: Mutex<Vec<(Instant, Happened)>>,
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
        let config = stream_migration::Config::default();
        let streams = stream_migration::Behaviour::with_policy(id, config, AfterAWhile);
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
            let found = self
                .happened()
                .iter()
                .find_map(|(at, happened)| find(*at, happened));
            if let Some(found) = found {
                return found;
            }
            news.await;
        }
    }

    /// Everything that has happened until now.
    pub fn happened(&self) -> Vec<(Instant, Happened)> {
        self.log
            .happened
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Listens, and tells the first address that comes of it, with our ID.
    pub async fn listen(&self, address: Multiaddr) -> Result<Multiaddr, String> {
        let (reply, answer) = oneshot::channel();
        let complain = |error: &dyn Display| format!("cannot listen on {address}: {error}");
        let _ = self
            .commands
            .unbounded_send(Command::Listen(address.clone(), reply));
        let listener = answer
            .await
            .map_err(|_| complain(&"the node has stopped"))?
            .map_err(|error| complain(&error))?;
        let listening = self
            .wait(|_, happened| match happened {
                Happened::Listening(id, address) if *id == listener => Some(Ok(address.clone())),
                Happened::NotListening(id, error) if *id == listener => Some(Err(error.clone())),
                _ => None,
            })
            .await
            .map_err(|error| complain(&error))?;
        Ok(listening.clone().with_p2p(self.id).unwrap_or(listening))
    }

    /// Makes one more connection.
    pub async fn dial(&self, peer: PeerId, address: Multiaddr) -> Result<ConnectionId, String> {
        let opts = DialOpts::peer_id(peer)
            .condition(PeerCondition::Always)
            .addresses(vec![address])
            .build();
        let id = opts.connection_id();
        let _ = self.commands.unbounded_send(Command::Dial(opts));
        self.wait(|_, happened| match happened {
            Happened::Connected(connected, _) if *connected == id => Some(Ok(id)),
            Happened::DialFailed(failed, error) if *failed == id => Some(Err(error.clone())),
            _ => None,
        })
        .await
    }

    /// Waits until Identify has gone both ways with this peer, after which both know as what they are
    /// seen, and hole punching can begin.
    pub async fn known_to(&self, peer: PeerId) {
        self.wait(|_, happened| match happened {
            Happened::Known(by) if *by == peer => Some(()),
            _ => None,
        })
        .await;
    }
}

async fn run(
    mut swarm: Swarm<Behaviour>,
    mut commands: mpsc::UnboundedReceiver<Command>,
    log: Arc<Log>,
    relay: bool,
) {
    loop {
        let happened = tokio::select! {
            command = commands.next() => {
                match command {
                    Some(Command::Listen(address, reply)) => {
                        let listening = swarm.listen_on(address);
                        let _ = reply.send(listening.map_err(|error| error.to_string()));
                    }
                    Some(Command::Dial(opts)) => {
                        let id = opts.connection_id();
                        if let Err(error) = swarm.dial(opts) {
                            push(&log, Happened::DialFailed(id, error.to_string()));
                        }
                    }
                    None => return,
                }
                continue;
            }
            event = swarm.select_next_some() => match event {
                SwarmEvent::NewListenAddr { address, listener_id } => {
                    if relay {
                        // Reservations tell clients where the relay can be reached.
                        swarm.add_external_address(address.clone());
                    }
                    Happened::Listening(listener_id, address)
                }
                SwarmEvent::ConnectionEstablished { connection_id, endpoint, .. } => {
                    let address = match &endpoint {
                        libp2p::core::ConnectedPoint::Dialer { address, .. } => address,
                        libp2p::core::ConnectedPoint::Listener { local_addr, .. } => local_addr,
                    };
                    Happened::Connected(connection_id, address.clone())
                }
                SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                    let reason = reason.err().map_or("closed".to_owned(), |e| e.to_string());
                    Happened::NotListening(listener_id, reason)
                }
                SwarmEvent::ConnectionClosed { connection_id, .. } => {
                    Happened::Closed(connection_id)
                }
                SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                    Happened::DialFailed(connection_id, error.to_string())
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
    log.happened
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push((Instant::now(), happened));
    log.news.notify_waiters();
}
