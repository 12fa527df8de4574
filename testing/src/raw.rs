//! A remote that speaks the protocol by hand, byte by byte, over real connections.

use std::time::Duration;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, StreamExt, join};
use libp2p::{PeerId, StreamProtocol};
use libp2p_stream_migration::{
    Config, ConnectionKey, IncomingStreams, MigrateError, PROTOCOL_NAME, Stream,
};
use multistream_select::{Negotiated, Version};
use tokio::task::JoinHandle;

use crate::{Kind, Net, Node, PROTOCOL, Pair, Setup, within};

pub const ACCEPT: &[u8] = &[2, 0x1a, 0];
pub const ACCEPT_VERIFY: &[u8] = &[5, 0x1a, 3, 0xc0, 0x3e, 1];
pub const BARE_ACCEPT: &[u8] = &[0];

/// A field: its number and wire type, and a number.
pub fn field(tag: u8, value: u64) -> Vec<u8> {
    let mut buffer = unsigned_varint::encode::u64_buffer();
    [&[tag], unsigned_varint::encode::u64(value, &mut buffer)].concat()
}

pub fn frame(body: &[u8]) -> Vec<u8> {
    let mut buffer = unsigned_varint::encode::usize_buffer();
    [
        unsigned_varint::encode::usize(body.len(), &mut buffer),
        body,
    ]
    .concat()
}

/// A message within a message.
pub fn inside(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag], &frame(body)[..]].concat()
}

pub fn label(id: u64) -> Vec<u8> {
    frame(&inside(0x0a, &field(8, id)))
}

pub fn migrate(id: u64, from: u64) -> Vec<u8> {
    frame(&inside(0x12, &[field(8, id), field(16, from)].concat()))
}

pub fn migrate_verify(id: u64, from: u64) -> Vec<u8> {
    let body = [field(8, id), field(16, from), vec![0xc0, 0x3e, 1]].concat();
    frame(&inside(0x12, &body))
}

pub fn switched(sent: u64) -> Vec<u8> {
    frame(&field(8, sent))
}

/// Writes this, and on its way with it.
pub async fn say(io: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) {
    io.write_all(bytes).await.unwrap();
    io.flush().await.unwrap();
}

/// What is said next is this.
pub async fn hear(io: &mut (impl AsyncRead + Unpin), bytes: &[u8]) {
    let mut buf = vec![0; bytes.len()];
    within("bytes", io.read_exact(&mut buf)).await.unwrap();
    assert_eq!(buf, bytes);
}

/// The leg has been dropped, or ended, without another word.
pub async fn is_dropped(io: &mut (impl AsyncRead + Unpin)) {
    let read = within("the drop", io.read(&mut [0])).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
}

/// The raw peer's node: its behaviour goes by another name, so that the protocol's real name is for it
/// a protocol like any other.
pub fn raw_node() -> Node {
    Node::with(Setup {
        config: Config::default().with_protocol_name(StreamProtocol::new("/raw")),
        ..Default::default()
    })
}

/// A substream of a raw peer on this connection, the prefix agreed.
pub async fn prefix(raw: &mut Node, peer: PeerId, connection: ConnectionKey) -> Stream {
    let opened = raw.control.open_stream_on(peer, connection, PROTOCOL_NAME);
    let stream = within("the prefix", opened).await.unwrap();
    assert!(!stream.is_migratable());
    stream
}

/// Ours listens; the raw peer dials.
pub struct Scene {
    pub net: Net,
    pub old: Pair,
    pub new: Pair,
    pub raw_incoming: IncomingStreams,
    pub incoming: IncomingStreams,
}

impl Scene {
    pub async fn new() -> Self {
        let config = Config::default().with_answer_timeout(Duration::from_millis(400));
        Self::with(config, Kind::Tcp, Kind::Quic).await
    }

    pub async fn with(config: Config, old: Kind, new: Kind) -> Self {
        let ours = Setup {
            // What the raw peer reads by hand is then short.
            config: config.with_first_id(0),
            ..Default::default()
        };
        let mut net = Net::with(raw_node(), Node::with(ours));
        let raw_incoming = net.dialer.control.accept(PROTOCOL_NAME).unwrap();
        let incoming = net.listener.control.accept(PROTOCOL).unwrap();
        let old = net.connect(old).await;
        let new = net.connect(new).await;
        Self {
            net,
            old,
            new,
            raw_incoming,
            incoming,
        }
    }

    pub fn raw_id(&self) -> PeerId {
        self.net.dialer.id
    }

    /// A substream of the raw peer on this connection, the prefix agreed.
    pub async fn prefix(&mut self, connection: ConnectionKey) -> Stream {
        prefix(&mut self.net.dialer, self.net.listener.id, connection).await
    }

    /// A stream that the raw peer has opened and labelled: its side by hand, and ours.
    pub async fn labelled(&mut self, id: u64) -> (Negotiated<Stream>, Stream) {
        self.labelled_on(self.old.here, id).await
    }

    pub async fn labelled_on(
        &mut self,
        connection: ConnectionKey,
        id: u64,
    ) -> (Negotiated<Stream>, Stream) {
        let leg = self.first(connection, &label(id)).await;
        self.inner(leg).await
    }

    pub async fn inner(&mut self, leg: Stream) -> (Negotiated<Stream>, Stream) {
        let offer = multistream_select::dialer_select_proto(leg, [PROTOCOL], Version::V1);
        let (raw, ours) = within("the inner negotiation", async {
            join!(offer, self.incoming.next())
        })
        .await;
        (raw.unwrap().1, ours.unwrap().1)
    }

    /// The next leg that ours opens for a migration, its message read.
    pub async fn migrate_leg(&mut self) -> (Stream, Vec<u8>) {
        let (_, mut leg) = within("a leg", self.raw_incoming.next()).await.unwrap();
        assert_eq!(leg.connection(), Some(self.new.here));
        let mut length = [0];
        leg.read_exact(&mut length).await.unwrap();
        let mut message = vec![0; length[0].into()];
        leg.read_exact(&mut message).await.unwrap();
        (leg, message)
    }

    /// Another substream of the raw peer, with these bytes as the first on it.
    pub async fn first(&mut self, connection: ConnectionKey, bytes: &[u8]) -> Stream {
        let mut leg = self.prefix(connection).await;
        say(&mut leg, bytes).await;
        leg
    }

    /// The raw peer asks to move its stream, and reads the ack.
    pub async fn agreed(&mut self, id: u64, from: u64, verify: bool) -> Stream {
        let (message, ack) = if verify {
            (migrate_verify(id, from), ACCEPT_VERIFY)
        } else {
            (migrate(id, from), ACCEPT)
        };
        let mut new = self.first(self.new.here, &message).await;
        hear(&mut new, ack).await;
        new
    }

    /// Ours asks to move its stream: what comes of it, and the leg with the `Migrate` read.
    pub async fn asked(&mut self, ours: &Stream) -> (JoinHandle<Result<(), MigrateError>>, Stream) {
        let mut control = self.net.listener.control.clone();
        let (key, to) = (ours.key(), self.new.there);
        let migration = tokio::spawn(async move { control.migrate(key, to).await });
        let (leg, message) = self.migrate_leg().await;
        assert_eq!(message[0], 0x12);
        (migration, leg)
    }
}
