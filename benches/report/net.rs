//! Two real swarms on loopback, each with migratable and with plain streams, so that both kinds can be
//! measured on the same connection.

use std::{
    option,
    time::{Duration, Instant},
};

use futures::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, StreamExt,
    stream::{self, Flatten, Iter},
};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, SwarmBuilder, identify,
    multiaddr::Protocol,
    noise,
    swarm::{
        NetworkBehaviour, SwarmEvent,
        behaviour::toggle::Toggle,
        dial_opts::{DialOpts, PeerCondition},
    },
    tcp, yamux,
};
use libp2p_core::upgrade::Version;
use libp2p_stream_migration::{
    Behaviour, Config, Control, Event, IncomingStreams, Side, Stay, Stream,
};
use libp2p_stream_migration::{ConnectionKey, ConnectionName as _};
use testing::{Background, Log};

use crate::path::Path;

pub const OURS: StreamProtocol = StreamProtocol::new("/bench/ours");
/// As long as the other.
pub const PLAIN: StreamProtocol = StreamProtocol::new("/bench/them");

/// Nothing here takes as long as this.
const HANG: Duration = Duration::from_secs(120);

/// What both kinds of stream are.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Io for T {}

#[derive(NetworkBehaviour)]
struct Both {
    migration: Toggle<Behaviour>,
    plain: libp2p_stream::Behaviour,
    identify: Toggle<identify::Behaviour>,
}

/// How a node is made.
#[derive(Debug, Clone)]
pub struct Setup {
    pub config: Config,
    pub migration: bool,
    pub identify: bool,
    /// Whether the swarm negotiates with `V1Lazy`.
    pub lazy: bool,
    /// Per connection.
    pub quic_streams: u32,
    pub yamux_streams: usize,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            config: Config::default(),
            migration: true,
            identify: false,
            lazy: false,
            quic_streams: 256,
            yamux_streams: 512,
        }
    }
}

/// What has happened at a node.
#[derive(Debug, Default)]
struct Seen {
    listening: Vec<Multiaddr>,
    connected: Vec<ConnectionKey>,
    identified: usize,
    /// Kept only while somebody wants them.
    events: Option<Vec<(Instant, Event)>>,
    started: usize,
    completed: usize,
    most: usize,
}

pub struct Node {
    pub id: PeerId,
    pub control: Control,
    pub plain: libp2p_stream::Control,
    seen: Log<Seen>,
    swarm: Background<Both>,
}

impl Node {
    pub fn new(setup: &Setup) -> Self {
        let keypair = libp2p::identity::Keypair::generate_ed25519();
        let id = keypair.public().to_peer_id();
        let migration = Behaviour::with_policy(id, setup.config.clone(), Stay);
        let plain = libp2p_stream::Behaviour::new();
        let (control, plain_control) = (migration.new_control(), plain.new_control());
        let muxer = || {
            let mut config = yamux::Config::default();
            config.set_max_num_streams(setup.yamux_streams);
            config
        };
        let swarm = SwarmBuilder::with_existing_identity(keypair)
            .with_tokio()
            .with_tcp(
                tcp::Config::default().nodelay(true),
                noise::Config::new,
                muxer,
            )
            .expect("TCP")
            .with_quic_config(|mut config| {
                config.max_concurrent_stream_limit = setup.quic_streams;
                config
            })
            .with_behaviour(|keypair| Both {
                migration: setup.migration.then_some(migration).into(),
                plain,
                identify: setup
                    .identify
                    .then(|| {
                        let config = identify::Config::new("/bench".to_owned(), keypair.public());
                        identify::Behaviour::new(config)
                    })
                    .into(),
            })
            .expect("a behaviour")
            .with_swarm_config(|config| {
                let config = config.with_idle_connection_timeout(10 * HANG);
                match setup.lazy {
                    true => config.with_substream_upgrade_protocol_override(Version::V1Lazy),
                    false => config,
                }
            })
            .build();
        let seen = Log::<Seen>::default();
        let ours = seen.clone();
        let swarm = Background::run(swarm, move |_, event| ours.write(|seen| seen.see(event)));
        Self {
            id,
            control,
            plain: plain_control,
            seen,
            swarm,
        }
    }

    /// Looks every millisecond, and not whenever there is something: nobody is woken by what is timed.
    async fn wait<T>(&self, find: impl Fn(&Seen) -> Option<T>) -> T {
        until(|| find(&self.seen.read())).await
    }

    async fn listen(&self, kind: Kind) -> Multiaddr {
        let wanted = |address: &&Multiaddr| {
            address
                .iter()
                .any(|part| matches!(part, Protocol::Udp(_)) == (kind == Kind::Quic))
                && address.iter().any(|part| match kind {
                    Kind::Tcp => matches!(part, Protocol::Tcp(_)),
                    Kind::Quic => part == Protocol::QuicV1,
                })
        };
        if let Some(address) = self.seen.read().listening.iter().find(wanted) {
            return address.clone();
        }
        let any = match kind {
            Kind::Tcp => "/ip4/127.0.0.1/tcp/0",
            Kind::Quic => "/ip4/127.0.0.1/udp/0/quic-v1",
        };
        let any = any.parse().expect("an address");
        self.swarm.tell(|swarm| {
            swarm.listen_on(any).expect("an address to listen on");
        });
        self.wait(|seen| seen.listening.iter().find(wanted).cloned())
            .await
    }

    /// Remembers events from now on.
    pub fn remember(&self) {
        self.seen.read().events = Some(Vec::new());
    }

    /// Waits for an event since then, and says when it was.
    pub async fn event<T>(&self, find: impl Fn(&Event) -> Option<T>) -> (Instant, T) {
        self.wait(|seen| {
            let mut events = seen.events.iter().flatten();
            events.find_map(|(at, event)| Some((*at, find(event)?)))
        })
        .await
    }

    /// How many migrations of ours ran at once at most, since the last call.
    pub fn take_most(&self) -> usize {
        std::mem::take(&mut self.seen.read().most)
    }
}

/// Looks every millisecond. For nothing that is being timed.
pub async fn until<T>(mut find: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(start.elapsed() < HANG, "hangs");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

impl Seen {
    fn see(&mut self, event: SwarmEvent<BothEvent>) {
        match event {
            SwarmEvent::NewListenAddr { address, .. } => self.listening.push(address),
            SwarmEvent::ConnectionEstablished { connection_id, .. } => {
                self.connected.push(connection_id.key());
            }
            SwarmEvent::Behaviour(BothEvent::Identify(identify::Event::Received { .. })) => {
                self.identified += 1;
            }
            SwarmEvent::Behaviour(BothEvent::Migration(event)) => self.migration(event),
            _ => {}
        }
    }

    fn migration(&mut self, event: Event) {
        match &event {
            Event::MigrationStarted { .. } => self.started += 1,
            Event::MigrationCompleted {
                initiator: Side::Local,
                ..
            }
            | Event::MigrationFailed {
                initiator: Side::Local,
                ..
            } => self.completed += 1,
            _ => {}
        }
        self.most = self.most.max(self.started.saturating_sub(self.completed));
        if let Some(events) = &mut self.events {
            events.push((Instant::now(), event));
        }
    }
}

/// What a connection runs over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Tcp,
    Quic,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp+noise+yamux",
            Self::Quic => "quic-v1",
        }
    }
}

/// Streams that a listener accepts; none without the behaviour.
pub type Incoming = Flatten<Iter<option::IntoIter<IncomingStreams>>>;

/// A dialer, a listener, and what the listener accepts.
pub struct Net {
    pub dialer: Node,
    pub listener: Node,
    pub incoming: Incoming,
    pub plain_incoming: libp2p_stream::IncomingStreams,
}

impl Net {
    pub fn new(setup: &Setup) -> Self {
        Self::with(setup, setup)
    }

    pub fn with(dialer: &Setup, listener: &Setup) -> Self {
        let accepts = listener.migration;
        let (dialer, mut listener) = (Node::new(dialer), Node::new(listener));
        let incoming = match listener.control.accept(OURS) {
            Err(_) if !accepts => None,
            incoming => Some(incoming.expect("registered once")),
        };
        let incoming = stream::iter(incoming).flatten();
        let plain_incoming = listener.plain.accept(PLAIN).expect("registered once");
        Self {
            dialer,
            listener,
            incoming,
            plain_incoming,
        }
    }

    pub async fn connect(&self, kind: Kind) -> ConnectionKey {
        let address = self.listener.listen(kind).await;
        self.dial(address).await
    }

    /// A connection on a path with this delay each way.
    pub async fn connect_by(&self, kind: Kind, path: &Path) -> ConnectionKey {
        let address = self.listener.listen(kind).await;
        self.dial(path.lead_to(&address)).await
    }

    async fn dial(&self, address: Multiaddr) -> ConnectionKey {
        let before = self.listener.seen.read().connected.len();
        let opts = DialOpts::peer_id(self.listener.id)
            .condition(PeerCondition::Always)
            .addresses(vec![address])
            .build();
        let id = opts.connection_id().key();
        self.dialer
            .swarm
            .tell(|swarm| swarm.dial(opts).expect("an address to dial"));
        self.dialer
            .wait(|seen| seen.connected.contains(&id).then_some(()))
            .await;
        self.listener
            .wait(|seen| (seen.connected.len() > before).then_some(()))
            .await;
        id
    }

    /// Waits until Identify has told each side of the other, so often.
    pub async fn identified(&self, times: usize) {
        for node in [&self.dialer, &self.listener] {
            node.wait(|seen| (seen.identified >= times).then_some(()))
                .await;
        }
        // The handlers hear of it after the behaviours.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    /// A migratable stream on this connection.
    pub async fn ours(&mut self, connection: ConnectionKey) -> (Stream, Stream) {
        let peer = self.listener.id;
        let open = self.dialer.control.open_stream_on(peer, connection, OURS);
        let (opened, accepted) = futures::join!(open, self.incoming.next());
        let (_, accepted) = accepted.expect("the listener runs");
        (opened.expect("a stream"), accepted)
    }

    /// A plain stream on any connection.
    pub async fn plain(&mut self) -> (libp2p::Stream, libp2p::Stream) {
        let open = self.dialer.plain.open_stream(self.listener.id, PLAIN);
        let (opened, accepted) = futures::join!(open, self.plain_incoming.next());
        let (_, accepted) = accepted.expect("the listener runs");
        (opened.expect("a stream"), accepted)
    }
}

/// Writes so many bytes in pieces of this size, and flushes.
pub async fn write(io: &mut (impl AsyncWrite + Unpin), bytes: usize, piece: usize) {
    let buf = vec![0x5a; piece];
    let mut left = bytes;
    while left > 0 {
        let n = left.min(piece);
        io.write_all(&buf[..n]).await.expect("writing");
        left -= n;
    }
    io.flush().await.expect("flushing");
}

/// Reads so many bytes.
pub async fn read(io: &mut (impl AsyncRead + Unpin), bytes: usize) {
    let mut buf = vec![0; 64 * 1024];
    let mut left = bytes;
    while left > 0 {
        let wanted = left.min(buf.len());
        let n = io.read(&mut buf[..wanted]).await.expect("reading");
        assert_ne!(n, 0, "{left} bytes are missing");
        left -= n;
    }
}
