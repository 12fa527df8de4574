//! Two nodes with a layer, streams between them by `Control` and by an unmodified behaviour, and links to move them
//! to.

use futures::{AsyncRead, AsyncWrite, AsyncWriteExt, StreamExt, join};
use libp2p::StreamProtocol;
use libp2p_stream_migration::*;
use testing::*;

/// Of libp2p-stream, which knows nothing of migration.
pub const PLAIN: StreamProtocol = StreamProtocol::new("/plain/1.0.0");

pub const NOWHERE: ConnectionKey = ConnectionKey::new(u64::MAX);
pub const NOBODY: StreamKey = StreamKey::new(u64::MAX);

/// Streams may go from any link to any other, at once.
pub fn config() -> Config {
    Config::default()
        .with_initiate(Initiate::Either)
        .with_layer_always(true)
}

/// A node of which no stream moves by itself.
pub fn setup(config: Config) -> Setup {
    Setup {
        layer: true,
        plain: true,
        config,
        ..Default::default()
    }
}

/// A connection's names, the dialer's first.
pub fn ends(pair: Pair) -> [ConnectionKey; 2] {
    [pair.here, pair.there]
}

pub async fn moved(node: &Node, stream: StreamKey, onto: ConnectionKey) {
    node.event("the move", |event| match event {
        Event::MigrationCompleted { key, to, .. } if *key == stream && *to == onto => Some(()),
        _ => None,
    })
    .await;
}

pub fn count(node: &Node, is: impl Fn(&Event) -> bool) -> usize {
    node.events().iter().filter(|event| is(event)).count()
}

/// A stream from dialer to listener, and what the two call it.
pub struct Flow<S> {
    pub ours: S,
    pub theirs: S,
    pub keys: [StreamKey; 2],
    at: u64,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Flow<S> {
    fn new(ours: S, theirs: S, keys: [StreamKey; 2]) -> Self {
        Self {
            ours,
            theirs,
            keys,
            at: 0,
        }
    }

    /// Bytes go both ways, wherever it is.
    pub async fn works(&mut self) {
        let (from, to) = (self.at, self.at + 1000);
        self.at = to;
        within("the bytes", async {
            write(&mut self.ours, 1, from, to).await;
            read(&mut self.theirs, 1, from, to).await;
            write(&mut self.theirs, 2, from, to).await;
            read(&mut self.ours, 2, from, to).await;
        })
        .await;
    }

    /// Both sides close in order, and let go.
    pub async fn close(mut self) {
        within("the end", async {
            self.ours.close().await.unwrap();
            self.theirs.close().await.unwrap();
            read_end(&mut self.ours).await;
            read_end(&mut self.theirs).await;
        })
        .await;
    }
}

/// Two nodes with a layer.
pub struct Stage {
    pub net: Net,
    pub incoming: IncomingStreams,
}

impl Stage {
    pub fn new(dialer: Setup, listener: Setup) -> Self {
        let mut net = Net::with(Node::with(dialer), Node::with(listener));
        let incoming = net.listener.control.accept(PROTOCOL).unwrap();
        Self { net, incoming }
    }

    pub fn nodes(&self) -> [&Node; 2] {
        [&self.net.dialer, &self.net.listener]
    }

    /// The controls of both, to be used beside the nodes.
    pub fn controls(&self) -> [Control; 2] {
        self.nodes().map(|node| node.control.clone())
    }

    /// One more connection, and both know that there is a layer at the other end of it.
    pub async fn connect(&mut self, kind: Kind) -> Pair {
        let pair = self.net.connect(kind).await;
        self.open_on(pair).await;
        pair
    }

    pub async fn open_on(&mut self, pair: Pair) -> Flow<Stream> {
        let (peer, incoming) = (self.net.listener.id, &mut self.incoming);
        let (ours, theirs) = open(&mut self.net.dialer, peer, incoming, pair.here).await;
        let keys = [ours.key(), theirs.key()];
        Flow::new(ours, theirs, keys)
    }

    /// A stream wherever it is best.
    pub async fn open(&mut self) -> Flow<Stream> {
        let peer = self.net.listener.id;
        let opened = self.net.dialer.control.open_stream(peer, PROTOCOL);
        let both = async { join!(opened, self.incoming.next()) };
        let (ours, theirs) = within("opening", both).await;
        let (ours, (_, theirs)) = (ours.unwrap(), theirs.unwrap());
        let keys = [ours.key(), theirs.key()];
        Flow::new(ours, theirs, keys)
    }

    /// A stream of the unmodified behaviour, on a connection that the swarm picks; the only one of its protocol.
    pub async fn open_plain(&mut self, protocol: StreamProtocol) -> Flow<libp2p::Stream> {
        let mut incoming = self.net.listener.accept_plain(protocol.clone());
        let (ours, theirs) = self.net.open_plain(&mut incoming, protocol.clone()).await;
        let mut keys = [NOBODY; 2];
        for (control, key) in self.controls().iter_mut().zip(&mut keys) {
            let streams = control.all_streams().await;
            let named = |it: &&StreamInfo| it.protocol.as_ref().is_some_and(|it| *it == protocol);
            *key = streams.iter().find(named).unwrap().key;
        }
        Flow::new(ours, theirs, keys)
    }

    /// Where the dialer's stream is.
    pub async fn place(&mut self, key: StreamKey) -> Option<ConnectionKey> {
        let streams = self.net.dialer.control.all_streams().await;
        streams.iter().find(|it| it.key == key)?.connection
    }
}

/// On TCP a stream of `Control`'s and one of the unmodified behaviour, and a QUIC link beside it.
pub struct Scene {
    pub stage: Stage,
    pub tcp: Pair,
    pub quic: Pair,
    pub own: Flow<Stream>,
    pub plain: Flow<libp2p::Stream>,
}

impl Scene {
    pub async fn new(dialer: Setup, listener: Setup) -> Self {
        let mut stage = Stage::new(dialer, listener);
        let tcp = stage.connect(Kind::Tcp).await;
        let plain = stage.open_plain(PLAIN).await;
        let own = stage.open_on(tcp).await;
        let quic = stage.connect(Kind::Quic).await;
        Self {
            stage,
            tcp,
            quic,
            own,
            plain,
        }
    }

    pub fn keys(&self) -> [[StreamKey; 2]; 2] {
        [self.own.keys, self.plain.keys]
    }

    pub async fn works(&mut self) {
        self.own.works().await;
        self.plain.works().await;
    }
}
