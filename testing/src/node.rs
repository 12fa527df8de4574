//! Real swarms on loopback that run in the background and keep a log.

use std::{collections::HashSet, time::Duration};

use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder, Transport as _,
    allow_block_list::{self, BlockedPeers},
    connection_limits::{self, ConnectionLimits},
    core::{
        muxing::StreamMuxerBox,
        transport::{Boxed, OptionalTransport},
        upgrade,
    },
    dcutr, gossipsub, identify,
    identity::Keypair,
    noise, ping, quic, relay, request_response,
    swarm::{
        self, NetworkBehaviour, SwarmEvent,
        behaviour::toggle::Toggle,
        dial_opts::{DialOpts, PeerCondition},
    },
    tcp, yamux,
};
use libp2p_stream_migration::{
    Abort, Behaviour, Config, ConnectionInfo, ConnectionKey, ConnectionName as _, Control, Event,
    Policy, Stay, transport,
};

use crate::{Background, Counts, Log, counts::Counted, within};

pub const PROTOCOL: StreamProtocol = StreamProtocol::new("/test/1.0.0");

#[derive(NetworkBehaviour)]
struct All {
    migration: Toggle<Behaviour>,
    plain: Toggle<libp2p_stream::Behaviour>,
    relay: Toggle<relay::Behaviour>,
    client: relay::client::Behaviour,
    identify: Toggle<identify::Behaviour>,
    dcutr: Toggle<dcutr::Behaviour>,
    ping: Toggle<ping::Behaviour>,
    gossip: Toggle<gossipsub::Behaviour>,
    limits: connection_limits::Behaviour,
    blocked: allow_block_list::Behaviour<BlockedPeers>,
    // It goes on to use a connection that is denied once it has made a handler.
    requests: Toggle<request_response::cbor::Behaviour<Vec<u8>, Vec<u8>>>,
}

/// What all subscribe to that gossip.
pub fn topic() -> gossipsub::IdentTopic {
    gossipsub::IdentTopic::new("test")
}

/// What happened at a node, in order.
#[derive(Debug, Clone)]
pub enum Seen {
    Connected(PeerId, ConnectionKey),
    Closed(ConnectionKey),
    /// A connection that came to nothing.
    Failed,
    Listening(Multiaddr),
    Identified(PeerId),
    Subscribed(PeerId),
    Gossip(Vec<u8>),
    Response(Vec<u8>),
    Migration(Event),
}

pub struct Node {
    pub id: PeerId,
    pub control: Control,
    pub plain: Option<libp2p_stream::Control>,
    log: Log<Vec<Seen>>,
    swarm: Background<All>,
}

/// Makes a node's transports beside TCP and QUIC.
pub type Transports = fn(&Keypair) -> Boxed<(PeerId, StreamMuxerBox)>;

/// How a node is made.
pub struct Setup {
    pub config: Config,
    pub policy: Box<dyn Policy>,
    /// With a layer below the swarm, under which its streams move; all transports are the stack's then.
    pub layer: bool,
    pub migration: bool,
    pub plain: bool,
    pub relay: bool,
    /// A relay's limits as they are by default: 128 KiB and 2 minutes per circuit.
    pub limits: bool,
    pub identify: bool,
    /// With ping, as most swarms have both.
    pub dcutr: bool,
    /// Gossip and requests.
    pub neighbours: bool,
    /// Requests that are answered with themselves.
    pub requests: bool,
    /// Connections that it has to one peer, at most.
    pub per_peer: Option<u32>,
    pub idle: Duration,
    /// Whether substreams are negotiated lazily.
    pub lazy: bool,
    /// Of one yamux connection.
    pub max_yamux_streams: usize,
    pub keypair: Keypair,
    /// What there is beside TCP and QUIC.
    pub transports: Option<Transports>,
    /// Where the substreams are counted of a node without a layer.
    pub counts: Option<Counts>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            config: Config::default(),
            policy: Box::new(Stay),
            layer: false,
            migration: true,
            plain: false,
            relay: false,
            limits: false,
            identify: false,
            dcutr: false,
            neighbours: false,
            requests: false,
            per_peer: None,
            idle: Duration::from_secs(60),
            lazy: false,
            max_yamux_streams: 512,
            keypair: Keypair::generate_ed25519(),
            transports: None,
            counts: None,
        }
    }
}

impl Setup {
    pub fn policy(mut self, policy: impl Policy) -> Self {
        self.policy = Box::new(policy);
        self
    }
}

impl Default for Node {
    fn default() -> Self {
        Self::with(Setup::default())
    }
}

impl Node {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn with(setup: Setup) -> Self {
        let id = setup.keypair.public().to_peer_id();
        let (swarm, control, plain) = match (setup.layer, setup.counts.clone()) {
            (true, _) => layered(setup),
            (false, Some(counts)) => counted(setup, counts),
            (false, None) => by_builder(setup),
        };
        let log = Log::<Vec<_>>::default();
        let ours = log.clone();
        let swarm = Background::run(swarm, move |swarm, event| {
            if let Some(seen) = see(swarm, event) {
                ours.write(|log| log.push(seen));
            }
        });
        Self {
            id,
            control,
            plain,
            log,
            swarm,
        }
    }

    /// Plain streams of this protocol that others open to the node, by libp2p-stream.
    pub fn accept_plain(&mut self, protocol: StreamProtocol) -> libp2p_stream::IncomingStreams {
        self.plain.as_mut().unwrap().accept(protocol).unwrap()
    }

    /// Waits until the log, from its beginning, holds something that `find` makes something of.
    pub async fn wait<T>(&self, what: &str, mut find: impl FnMut(&Seen) -> Option<T>) -> T {
        let found = self.log.until(|log| log.iter().find_map(&mut find));
        within(what, found).await
    }

    /// Waits until the log is so.
    pub async fn until(&self, what: &str, mut is: impl FnMut(&[Seen]) -> bool) {
        within(what, self.log.until(|log| is(log).then_some(()))).await;
    }

    /// True if the log holds something of this kind.
    pub fn read(&self, is: impl FnMut(&Seen) -> bool) -> bool {
        self.log.read().iter().any(is)
    }

    pub fn events(&self) -> Vec<Event> {
        let seen = self.log.read();
        let events = seen.iter().filter_map(|seen| match seen {
            Seen::Migration(event) => Some(event.clone()),
            _ => None,
        });
        events.collect()
    }

    /// Waits for an event.
    pub async fn event<T>(&self, what: &str, mut find: impl FnMut(&Event) -> Option<T>) -> T {
        self.wait(what, |seen| match seen {
            Seen::Migration(event) => find(event),
            _ => None,
        })
        .await
    }

    /// Waits until so many events are of this kind.
    /// How the first stream here has ended that has.
    pub async fn how_it_ended(&self) -> Result<(), Abort> {
        self.event("the end", |event| match event {
            Event::StreamEnded { result, .. } => Some(*result),
            _ => None,
        })
        .await
    }

    pub async fn count(&self, what: &str, number: usize, is: impl Fn(&Event) -> bool) {
        let is = |seen: &&Seen| matches!(seen, Seen::Migration(event) if is(event));
        let enough = |log: &Vec<Seen>| (log.iter().filter(is).count() >= number).then_some(());
        within(what, self.log.until(enough)).await;
    }

    pub fn close(&self, connection: ConnectionKey) {
        self.swarm.tell(move |swarm| {
            swarm.close_connection(connection.id());
        });
    }

    /// Closes all connections to a peer.
    pub fn disconnect(&self, peer: PeerId) {
        self.swarm.tell(move |swarm| {
            let _ = swarm.disconnect_peer_id(peer);
        });
    }

    /// Will have nothing to do with a peer, from now on.
    pub fn block(&self, peer: PeerId) {
        self.swarm.tell(move |swarm| {
            swarm.behaviour_mut().blocked.block_peer(peer);
        });
    }

    /// Takes back that it will have nothing to do with a peer.
    pub fn unblock(&self, peer: PeerId) {
        self.swarm.tell(move |swarm| {
            swarm.behaviour_mut().blocked.unblock_peer(peer);
        });
    }

    /// Forgets all that has happened so far.
    pub fn forget(&self) {
        self.log.write(|log| *log = Vec::new());
    }

    /// Says that it can be reached at this address, as a relay must.
    /// Somebody tells where the peer can be dialed.
    pub fn knows(&self, peer: PeerId, address: Multiaddr) {
        self.swarm
            .tell(move |swarm| swarm.add_peer_address(peer, address));
    }

    pub fn is_reachable_at(&self, address: Multiaddr) {
        self.swarm.tell(|swarm| swarm.add_external_address(address));
    }

    pub async fn listen(&self, address: &str) -> Multiaddr {
        let address: Multiaddr = address.parse().unwrap();
        let protocols = |address: &Multiaddr| -> Vec<_> {
            let tags = address.protocol_stack().map(str::to_owned);
            let said = |tag: &String| tag != "p2p" && tag != "certhash";
            tags.filter(said).collect()
        };
        let wanted = protocols(&address);
        self.swarm.tell(|swarm| {
            swarm.listen_on(address).unwrap();
        });
        let listening = self
            .wait("a listen address", |seen| match seen {
                Seen::Listening(address) if protocols(address) == wanted => Some(address.clone()),
                _ => None,
            })
            .await;
        listening.with_p2p(self.id).unwrap()
    }

    /// The other side's ID of a new connection is not known: it is the one that was not there before.
    fn connections(&self, peer: PeerId) -> HashSet<ConnectionKey> {
        let seen = self.log.read();
        let established = seen.iter().filter_map(|seen| match seen {
            Seen::Connected(with, id) if *with == peer => Some(*id),
            _ => None,
        });
        established.collect()
    }

    pub fn publish(&self, message: &[u8]) {
        let message = message.to_vec();
        self.swarm.tell(|swarm| {
            let gossip = swarm.behaviour_mut().gossip.as_mut().unwrap();
            gossip.publish(topic(), message).unwrap();
        });
    }

    pub fn request(&self, peer: PeerId, request: &[u8]) {
        let request = request.to_vec();
        self.swarm.tell(move |swarm| {
            let requests = swarm.behaviour_mut().requests.as_mut().unwrap();
            requests.send_request(&peer, request);
        });
    }

    /// Dials one more connection; returns its IDs here and there.
    pub async fn dial(&self, other: &Node, address: Multiaddr) -> Pair {
        self.dial_any(other, vec![address]).await
    }

    /// Dials all of these addresses at once, for one more connection.
    pub async fn dial_any(&self, other: &Node, addresses: Vec<Multiaddr>) -> Pair {
        let opts = DialOpts::peer_id(other.id)
            .condition(PeerCondition::Always)
            .addresses(addresses)
            .build();
        self.dial_with(other, opts).await
    }

    /// Dials, and does not wait for what becomes of it.
    pub fn dial_in_vain(&self, other: &Node, address: Multiaddr) {
        let opts = DialOpts::peer_id(other.id)
            .condition(PeerCondition::Always)
            .addresses(vec![address])
            .build();
        self.swarm.tell(|swarm| swarm.dial(opts).unwrap());
    }

    /// Dials one more connection as AutoNAT does, to see whether the other can be reached.
    pub async fn dial_back(&self, other: &Node, address: Multiaddr) -> Pair {
        let opts = DialOpts::peer_id(other.id)
            .condition(PeerCondition::Always)
            .addresses(vec![address])
            .allocate_new_port()
            .build();
        self.dial_with(other, opts).await
    }

    async fn dial_with(&self, other: &Node, opts: DialOpts) -> Pair {
        let before = other.connections(self.id);
        let here = opts.connection_id().key();
        self.swarm.tell(|swarm| swarm.dial(opts).unwrap());
        self.wait("the connection here", |seen| match seen {
            Seen::Connected(_, id) if *id == here => Some(()),
            _ => None,
        })
        .await;
        let there = other
            .wait("the connection there", |seen| match seen {
                Seen::Connected(peer, id) if *peer == self.id && !before.contains(id) => Some(*id),
                _ => None,
            })
            .await;
        Pair { here, there }
    }

    pub async fn connection(&mut self, peer: PeerId, id: ConnectionKey) -> ConnectionInfo {
        let connections = self.control.connections(peer).await;
        connections.into_iter().find(|c| c.key == id).unwrap()
    }
}

type Made = (Swarm<All>, Control, Option<libp2p_stream::Control>);

fn behaviours(
    setup: &Setup,
    migration: Behaviour,
    client: relay::client::Behaviour,
) -> (All, Control, Option<libp2p_stream::Control>) {
    let id = setup.keypair.public().to_peer_id();
    let keypair = &setup.keypair;
    let control = migration.new_control();
    let plain = setup.plain.then(libp2p_stream::Behaviour::new);
    let plain_control = plain.as_ref().map(libp2p_stream::Behaviour::new_control);
    let relay = setup.relay.then(|| {
        let mut config = relay::Config::default();
        if !setup.limits {
            config.max_circuit_bytes = u64::MAX;
            config.max_circuit_duration = Duration::from_secs(3600);
            // They keep a note of each circuit, and let a peer have 30 in two minutes.
            config.circuit_src_rate_limiters.clear();
        }
        relay::Behaviour::new(id, config)
    });
    let identify = || {
        let config = identify::Config::new("/test".to_owned(), keypair.public());
        identify::Behaviour::new(config)
    };
    let gossip = || {
        let authenticity = gossipsub::MessageAuthenticity::Signed(keypair.clone());
        let mut gossip = gossipsub::Behaviour::new(authenticity, Default::default()).unwrap();
        gossip.subscribe(&topic()).unwrap();
        gossip
    };
    let requests = || {
        let protocol = StreamProtocol::new("/requests/1.0.0");
        let full = request_response::ProtocolSupport::Full;
        request_response::cbor::Behaviour::new([(protocol, full)], Default::default())
    };
    let all = All {
        migration: setup.migration.then_some(migration).into(),
        plain: plain.into(),
        relay: relay.into(),
        client,
        identify: setup.identify.then(identify).into(),
        dcutr: setup.dcutr.then(|| dcutr::Behaviour::new(id)).into(),
        ping: setup.dcutr.then(ping::Behaviour::default).into(),
        gossip: setup.neighbours.then(gossip).into(),
        limits: connection_limits::Behaviour::new(
            ConnectionLimits::default().with_max_established_per_peer(setup.per_peer),
        ),
        blocked: Default::default(),
        requests: (setup.neighbours || setup.requests).then(requests).into(),
    };
    (all, control, plain_control)
}

fn swarm_config(setup: &Setup, config: swarm::Config) -> swarm::Config {
    let config = config.with_idle_connection_timeout(setup.idle);
    match setup.lazy {
        true => config.with_substream_upgrade_protocol_override(upgrade::Version::V1Lazy),
        false => config,
    }
}

/// A swarm whose transport is wrapped.
fn layered(mut setup: Setup) -> Made {
    let policy = std::mem::replace(&mut setup.policy, Box::new(Stay));
    let stack = transport::stack_with_policy(&setup.keypair, setup.config.clone(), policy).unwrap();
    let (all, control, plain) = behaviours(&setup, stack.migration, stack.relay_client);
    let config = swarm_config(&setup, swarm::Config::with_tokio_executor());
    let swarm = Swarm::new(stack.transport, all, stack.local_peer_id, config);
    (swarm, control, plain)
}

/// A swarm whose muxers are counted, over TCP, QUIC and relays.
fn counted(mut setup: Setup, counts: Counts) -> Made {
    let policy = std::mem::replace(&mut setup.policy, Box::new(Stay));
    let id = setup.keypair.public().to_peer_id();
    let noise = noise::Config::new(&setup.keypair).unwrap();
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .upgrade(upgrade::Version::V1Lazy)
        .authenticate(noise.clone())
        .multiplex(yamux::Config::default())
        .boxed();
    let quic = quic::tokio::Transport::new(quic::Config::new(&setup.keypair))
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
        .boxed();
    let (relayed, client) = relay::client::new(id);
    let relayed = relayed
        .upgrade(upgrade::Version::V1Lazy)
        .authenticate(noise)
        .multiplex(yamux::Config::default())
        .boxed();
    let direct = quic.or_transport(tcp).map(|either, _| either.into_inner());
    let transport = relayed
        .or_transport(direct)
        .map(|either, _| either.into_inner())
        .map(move |(peer, muxer), endpoint| {
            let counted = Counted {
                muxer,
                peer,
                relayed: endpoint.is_relayed(),
                counts: counts.clone(),
            };
            (peer, StreamMuxerBox::new(counted))
        })
        .boxed();
    let migration = Behaviour::with_policy(id, setup.config.clone(), policy);
    let (all, control, plain) = behaviours(&setup, migration, client);
    let config = swarm_config(&setup, swarm::Config::with_tokio_executor());
    let swarm = Swarm::new(transport, all, id, config);
    (swarm, control, plain)
}

fn by_builder(mut setup: Setup) -> Made {
    let policy = std::mem::replace(&mut setup.policy, Box::new(Stay));
    let id = setup.keypair.public().to_peer_id();
    let migration = Behaviour::with_policy(id, setup.config.clone(), policy);
    let muxer = || {
        let mut config = yamux::Config::default();
        config.set_max_num_streams(setup.max_yamux_streams);
        config
    };
    let mut controls = None;
    let swarm = SwarmBuilder::with_existing_identity(setup.keypair.clone())
        .with_tokio()
        .with_tcp(
            tcp::Config::default().nodelay(true),
            noise::Config::new,
            muxer,
        )
        .unwrap()
        .with_quic()
        .with_other_transport(|keypair| match setup.transports {
            Some(transports) => OptionalTransport::some(transports(keypair)),
            None => OptionalTransport::none(),
        })
        .unwrap()
        .with_relay_client(noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|_, client| {
            let (all, control, plain) = behaviours(&setup, migration, client);
            controls = Some((control, plain));
            all
        })
        .unwrap()
        .with_swarm_config(|config| swarm_config(&setup, config))
        .build();
    let (control, plain) = controls.unwrap();
    (swarm, control, plain)
}

/// What an event is to the log.
fn see(swarm: &mut Swarm<All>, event: SwarmEvent<AllEvent>) -> Option<Seen> {
    Some(match event {
        SwarmEvent::NewListenAddr { address, .. } => Seen::Listening(address),
        SwarmEvent::ConnectionEstablished {
            peer_id,
            connection_id,
            ..
        } => Seen::Connected(peer_id, connection_id.key()),
        SwarmEvent::OutgoingConnectionError { .. } | SwarmEvent::IncomingConnectionError { .. } => {
            Seen::Failed
        }
        SwarmEvent::ConnectionClosed { connection_id, .. } => Seen::Closed(connection_id.key()),
        SwarmEvent::Behaviour(AllEvent::Migration(event)) => Seen::Migration(event),
        SwarmEvent::Behaviour(AllEvent::Gossip(event)) => match event {
            gossipsub::Event::Message { message, .. } => Seen::Gossip(message.data),
            gossipsub::Event::Subscribed { peer_id, .. } => Seen::Subscribed(peer_id),
            _ => return None,
        },
        SwarmEvent::Behaviour(AllEvent::Requests(event)) => match event {
            request_response::Event::Message { message, .. } => match message {
                request_response::Message::Request {
                    request, channel, ..
                } => {
                    let requests = swarm.behaviour_mut().requests.as_mut().unwrap();
                    requests.send_response(channel, request).unwrap();
                    return None;
                }
                request_response::Message::Response { response, .. } => Seen::Response(response),
            },
            request_response::Event::OutboundFailure { error, .. } => {
                panic!("a request failed: {error}")
            }
            _ => return None,
        },
        SwarmEvent::Behaviour(AllEvent::Identify(identify::Event::Received {
            peer_id, ..
        })) => Seen::Identified(peer_id),
        _ => return None,
    })
}

/// One connection's IDs at its two ends.
#[derive(Debug, Clone, Copy)]
pub struct Pair {
    pub here: ConnectionKey,
    pub there: ConnectionKey,
}
