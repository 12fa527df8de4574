//! A node whose streams resume: the sender's and the receiver's.

use std::{
    collections::{HashMap, HashSet},
    error::Error,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder,
    core::transport::ListenerId,
    identity::Keypair,
    multiaddr::Protocol,
    noise, ping, relay,
    swarm::{
        ConnectionId, NetworkBehaviour, SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
    },
    tcp, yamux,
};
use libp2p_stream_migration::{
    self as stream_migration, Chain, Config, ConnectionInfo, ConnectionKey, ConnectionName as _,
    Control, Event, PreferTransport, StreamKey,
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    chain,
    path::Path,
    process::{Order, report},
};

pub const PROTOCOL: StreamProtocol = StreamProtocol::new("/roam/1.0.0");

/// A connection that carries nothing is kept, to be there when it is needed.
pub const IDLE: Duration = Duration::from_secs(24 * 3600);

/// The interval at which a path that is missing is dialed, and a reservation is asked for.
const AGAIN: Duration = Duration::from_secs(1);

/// The interval of reports to the conductor.
const LOOK: Duration = Duration::from_millis(50);

#[derive(NetworkBehaviour)]
struct Behaviour {
    streams: stream_migration::Behaviour,
    client: relay::client::Behaviour,
    ping: ping::Behaviour,
}

/// The key of this number: for trials only.
pub fn keypair(seed: u64) -> Result<Keypair, Box<dyn Error>> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    Ok(Keypair::ed25519_from_bytes(bytes)?)
}

fn config() -> Config {
    Config::default()
        .with_resume(true)
        // The default is 30 s; a person with a finger on a key takes longer.
        .with_resume_timeout(Duration::from_secs(300))
        // A relayed connection without streams is one that waits for the others to go.
        .with_prune_grace(None)
}

/// An application's own part of a node.
pub trait App {
    fn order(&self, order: Order);

    /// What it has to say to the conductor, beside what all nodes say.
    fn report(&self) -> Value;
}

/// A node, to be run.
pub struct Peer {
    swarm: Swarm<Behaviour>,
    pub id: PeerId,
    pub control: Control,
    view: View,
}

/// What the node knows of its paths and of the stream.
#[derive(Default)]
struct View {
    /// Peers on the way. A connection to them is not a path.
    relays: HashSet<PeerId>,
    connections: HashMap<ConnectionKey, Seen>,
    stream: Option<StreamKey>,
    on: Option<ConnectionKey>,
    /// The time since which the stream has had no connection.
    suspended: Option<Instant>,
    migrations: u64,
    resumes: u64,
    again: u64,
}

struct Seen {
    path: Path,
    suspected: bool,
    open: bool,
}

impl View {
    fn look_at(&mut self, info: &ConnectionInfo) {
        if self.relays.contains(&info.peer) {
            return;
        }
        let seen = Seen {
            path: Path::of(info),
            suspected: info.suspected,
            open: true,
        };
        self.connections.insert(info.key, seen);
    }

    fn note(&mut self, event: &Event) {
        match event {
            Event::ConnectionEstablished(info) | Event::ConnectionChanged(info) => {
                self.look_at(info);
            }
            Event::ConnectionClosed { connection, .. } => {
                if let Some(seen) = self.connections.get_mut(connection) {
                    seen.open = false;
                }
            }
            Event::StreamStarted {
                key, connection, ..
            } => (self.stream, self.on) = (Some(*key), Some(*connection)),
            Event::StreamSuspended { .. } => self.suspended = Some(Instant::now()),
            Event::StreamResumed {
                connection, again, ..
            } => {
                self.suspended = None;
                self.on = Some(*connection);
                self.resumes += 1;
                self.again += again;
            }
            Event::Resumed { connection, .. } => self.on = Some(*connection),
            Event::MigrationCompleted { to, .. } => {
                self.on = Some(*to);
                self.migrations += 1;
            }
            _ => {}
        }
    }

    fn path(&self, connection: Option<ConnectionKey>) -> Option<&'static str> {
        let seen = self.connections.get(&connection?)?;
        Some(seen.path.name())
    }

    fn report(&self) -> Value {
        let up = |path: &Path| {
            let mut seen = self.connections.values();
            seen.any(|it| it.path == *path && it.open && !it.suspected)
        };
        let up = Path::ALL.into_iter().filter(up).map(Path::name);
        json!({
            "path": self.path(self.on),
            "up": up.collect::<Vec<_>>(),
            "suspended": self.suspended.is_some(),
            "migrations": self.migrations,
            "resumes": self.resumes,
            "again": self.again,
        })
    }

    /// An event in words, for whoever looks for the reason of something.
    fn tell(&self, event: &Event) -> String {
        let way = |it: &ConnectionKey| format!("{it} {}", self.path(Some(*it)).unwrap_or("?"));
        match event {
            Event::ConnectionEstablished(info) => {
                let by = if info.dialer { "dialed" } else { "accepted" };
                format!("{by} {}, {}", way(&info.key), info.address)
            }
            Event::ConnectionChanged(info) => format!(
                "{} is {}suspected, {}proven",
                way(&info.key),
                if info.suspected { "" } else { "not " },
                if info.proven { "" } else { "not " },
            ),
            Event::ConnectionClosed { connection, .. } => format!("{} closed", way(connection)),
            Event::StreamResumed {
                connection,
                again,
                took,
                ..
            } => format!("resumed on {}, {again} again, {took:?}", way(connection)),
            Event::MigrationStarted { to, .. } => format!("migration to {} started", way(to)),
            Event::MigrationAgreed { to, .. } => format!("migration to {} agreed", way(to)),
            Event::MigrationCompleted { to, took, .. } => {
                format!("migration to {} complete, {took:?}", way(to))
            }
            Event::MigrationFailed { to, reason, .. } => {
                format!("migration to {} failed: {reason:?}", way(to))
            }
            event => format!("{event:?}"),
        }
    }
}

/// A path that the application wants.
struct Wanted {
    address: Multiaddr,
    dialing: Option<ConnectionId>,
    there: Vec<ConnectionId>,
}

impl Peer {
    pub fn new() -> Result<Self, Box<dyn Error>> {
        let mut control = None;
        let swarm = SwarmBuilder::with_new_identity()
            .with_tokio()
            .with_tcp(
                tcp::Config::default().nodelay(true),
                noise::Config::new,
                yamux::Config::default,
            )?
            .with_quic()
            .with_relay_client(noise::Config::new, yamux::Config::default)?
            .with_behaviour(|keypair, client| {
                let id = keypair.public().to_peer_id();
                // Wi-Fi before cellular before the relay.
                let policy = Chain::default().then(PreferTransport::default());
                let streams = stream_migration::Behaviour::with_policy(id, config(), policy);
                control = Some(streams.new_control());
                // No Identify: it would tell of addresses beside the proxies.
                Behaviour {
                    streams,
                    client,
                    ping: ping::Behaviour::default(),
                }
            })?
            .with_swarm_config(|config| config.with_idle_connection_timeout(IDLE))
            .build();
        Ok(Self {
            id: *swarm.local_peer_id(),
            control: control.ok_or("the behaviour was not made")?,
            swarm,
            view: View::default(),
        })
    }

    pub fn listen(&mut self, address: &str) -> Result<(), Box<dyn Error>> {
        self.swarm.listen_on(address.parse()?)?;
        Ok(())
    }

    /// Runs until there are no more orders.
    pub async fn run(
        mut self,
        app: Arc<impl App>,
        mut orders: mpsc::UnboundedReceiver<Order>,
    ) -> Result<(), Box<dyn Error>> {
        let mut wanted: HashMap<Path, Wanted> = HashMap::new();
        let mut known: Vec<Multiaddr> = Vec::new();
        let mut relay: Option<(Multiaddr, Option<ListenerId>)> = None;
        let mut again = tokio::time::interval(AGAIN);
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    None => return Ok(()),
                    Some(Order::Dial(path, address)) => {
                        self.view.relays.extend(relay_of(&address));
                        let new = Wanted { address, dialing: None, there: Vec::new() };
                        wanted.insert(path, new);
                        again.reset_immediately();
                    }
                    Some(Order::Reserve(address)) => {
                        self.view.relays.extend(peer_of(&address));
                        relay = Some((address, None));
                        again.reset_immediately();
                    }
                    Some(Order::Knows(address)) => {
                        known.push(address);
                        self.make_known(&known);
                    }
                    Some(order) => app.order(order),
                },
                _ = again.tick() => {
                    for want in wanted.values_mut() {
                        if want.there.is_empty() && want.dialing.is_none() {
                            self.dial(want);
                        }
                    }
                    if let Some((address, listener @ None)) = &mut relay {
                        let circuit = address.clone().with(Protocol::P2pCircuit);
                        *listener = self.swarm.listen_on(circuit).ok();
                    }
                }
                _ = look.tick() => {
                    let mut said = self.view.report();
                    if let (Value::Object(said), Value::Object(more)) = (&mut said, app.report()) {
                        said.extend(more);
                    }
                    report(&said)?;
                }
                event = self.swarm.select_next_some() => match event {
                    SwarmEvent::Behaviour(BehaviourEvent::Streams(event)) => {
                        self.view.note(&event);
                        tell(&self.view.tell(&event))?;
                        if let Event::ConnectionEstablished(_) = event {
                            self.make_known(&known);
                        }
                    }
                    SwarmEvent::NewListenAddr { address, .. } => {
                        let said = address.to_string();
                        let is_circuit = address.iter().any(|it| it == Protocol::P2pCircuit);
                        let what = if is_circuit { "reserved" } else { "listening" };
                        report(&json!({ "peer": self.id.to_string(), what: said }))?;
                    }
                    SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                        if let Some((_, listener)) = &mut relay
                            && *listener == Some(listener_id)
                        {
                            *listener = None;
                            let why = reason.err().map(|error| chain(&error));
                            tell(&format!("reservation over: {}", why.unwrap_or_default()))?;
                        }
                    }
                    SwarmEvent::ConnectionEstablished { connection_id, endpoint, .. } => {
                        let to = endpoint.get_remote_address();
                        for want in wanted.values_mut() {
                            if want.dialing == Some(connection_id) {
                                want.dialing = None;
                            }
                            if endpoint.is_dialer() && *to == want.address {
                                want.there.push(connection_id);
                            }
                        }
                    }
                    SwarmEvent::ConnectionClosed { connection_id, cause, .. } => {
                        for want in wanted.values_mut() {
                            want.there.retain(|it| *it != connection_id);
                        }
                        let why = cause.map(|error| chain(&error)).unwrap_or_default();
                        tell(&format!("{} lost: {why}", connection_id.key()))?;
                    }
                    SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                        for want in wanted.values_mut() {
                            want.dialing.take_if(|it| *it == connection_id);
                        }
                        tell(&format!("dial {} failed: {}", connection_id.key(), chain(&error)))?;
                    }
                    event => tracing::debug!(?event),
                },
            }
        }
    }

    /// Makes one more connection.
    fn dial(&mut self, want: &mut Wanted) {
        let Some(peer) = peer_of(&want.address) else {
            return;
        };
        let opts = DialOpts::peer_id(peer)
            .condition(PeerCondition::Always)
            .addresses(vec![want.address.clone()])
            .build();
        let id = opts.connection_id();
        if self.swarm.dial(opts).is_ok() {
            want.dialing = Some(id);
        }
    }

    /// Where a peer may be reached is remembered as long as there is something to reach it for.
    fn make_known(&mut self, known: &[Multiaddr]) {
        for address in known {
            if let Some(peer) = peer_of(address) {
                self.swarm.add_peer_address(peer, address.clone());
            }
        }
    }
}

fn tell(text: &str) -> io::Result<()> {
    report(&json!({ "said": text }))
}

/// The relay that an address leads through.
fn relay_of(address: &Multiaddr) -> Option<PeerId> {
    let to_relay = address.iter().take_while(|it| *it != Protocol::P2pCircuit);
    let to_relay: Multiaddr = to_relay.collect();
    peer_of(&to_relay).filter(|_| to_relay != *address)
}

/// The peer that an address ends in.
fn peer_of(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}
