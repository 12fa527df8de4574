//! A layer as peers see it that have none: every byte of their substreams, beside what they see of a
//! node without it.

use std::{
    mem,
    pin::{Pin, pin},
    sync::{Arc, Mutex},
};

use futures::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, FutureExt, Stream, StreamExt,
    future::{Either, poll_fn, select},
    join,
    stream::BoxStream,
};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Transport as _,
    core::{
        Endpoint,
        muxing::{StreamMuxer as _, StreamMuxerBox},
        transport::{DialOpts, PortUse},
        upgrade::Version,
    },
    identity::Keypair,
    noise, tcp, yamux,
};
use libp2p_stream_migration::{Config, ConnectionKey};
use libp2p_stream_migration_core::protocol::codec::{self, Control};
use testing::*;

/// A protocol of `Control`'s; the other is one of libp2p-stream.
const MOVES: StreamProtocol = StreamProtocol::new("/moves/1.0.0");

/// A protocol's line, as the dialer sends it after its header, in one flight.
const PROPOSAL: &[u8] = b"\x13/multistream/1.0.0\n\x27/libp2p/stream-migration/control/1.0.0\n";

const REFUSAL: &[u8] = b"\x13/multistream/1.0.0\n\x03na\n";

const IDENTIFY: &[u8] = b"\x13/multistream/1.0.0\n\x0f/ipfs/id/1.0.0\n";

/// A node with the layer, or the same without it, and a peer that has none.
#[derive(Debug, Clone, Copy)]
struct Case {
    /// The connections between them.
    kinds: &'static [Kind],
    /// The peer dials.
    peer_dials: bool,
    /// The peer has our behaviour.
    peer_moves: bool,
    /// The node has our behaviour.
    moves: bool,
    /// The node negotiates lazily.
    lazy: bool,
    /// The layer says hello on every connection.
    always: bool,
}

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

type Incoming = BoxStream<'static, Box<dyn Io>>;

fn boxed<T: Io + 'static>(incoming: impl Stream<Item = (PeerId, T)> + Send + 'static) -> Incoming {
    let streams = incoming.map(|(_, stream)| -> Box<dyn Io> { Box::new(stream) });
    streams.boxed()
}

/// A node of the two.
struct End {
    /// It has our behaviour.
    moves: bool,
    plain: Incoming,
    moving: Incoming,
}

impl End {
    fn new(node: &mut Node, moves: bool) -> Self {
        Self {
            moves,
            plain: boxed(node.accept_plain(PROTOCOL)),
            moving: match moves {
                true => boxed(node.control.accept(MOVES).unwrap()),
                false => boxed(node.accept_plain(MOVES)),
            },
        }
    }

    /// Asks something in a stream of libp2p-stream's, on whatever connection, and from each in one of
    /// `Control`'s, which moves to the next if it can.
    async fn asks(&self, node: &mut Node, other: PeerId, keys: &[ConnectionKey], end: &mut End) {
        ask(open(node, other, PROTOCOL).await, &mut end.plain).await;
        for (from, to) in keys.iter().zip(keys.iter().cycle().skip(1)) {
            if !self.moves {
                ask(open(node, other, MOVES).await, &mut end.moving).await;
                continue;
            }
            let opened = node.control.open_stream_on(other, *from, MOVES);
            let stream = within("opening", opened).await.unwrap();
            if stream.is_migratable() && from != to {
                let moved = node.control.migrate(stream.key(), *to);
                within("the move", moved).await.unwrap();
            }
            ask(Box::new(stream), &mut end.moving).await;
        }
    }
}

async fn open(node: &mut Node, other: PeerId, protocol: StreamProtocol) -> Box<dyn Io> {
    let plain = node.plain.as_mut().unwrap();
    let opened = plain.open_stream(other, protocol);
    Box::new(within("opening", opened).await.unwrap())
}

fn word() -> Vec<u8> {
    (0..3000_u32).map(|i| (i * i) as u8).collect()
}

/// Says something, and hears it.
async fn ask(mut stream: Box<dyn Io>, incoming: &mut Incoming) {
    let word = word();
    let asks = async {
        stream.write_all(&word).await.unwrap();
        stream.close().await.unwrap();
        let mut echo = Vec::new();
        stream.read_to_end(&mut echo).await.unwrap();
        assert_eq!(echo, word);
    };
    let answers = async {
        let mut stream = incoming.next().await.unwrap();
        let mut word = Vec::new();
        stream.read_to_end(&mut word).await.unwrap();
        stream.write_all(&word).await.unwrap();
        stream.close().await.unwrap();
    };
    within("the echo", async { join!(asks, answers) }).await;
}

impl Case {
    /// The connections on which the layer says hello.
    fn greeted(&self) -> usize {
        let greeted = |kind: &&Kind| self.always || **kind == Kind::Relayed;
        self.kinds.iter().filter(greeted).count()
    }

    /// The substreams that the peer sees, to the end of all connections.
    async fn seen(&self, layer: bool) -> Vec<Substream> {
        let counts = Counts::default();
        // IDs of streams go by those of the peers.
        let keypair = |secret| Keypair::ed25519_from_bytes([secret; 32]).unwrap();
        let setup = |migration, secret| Setup {
            keypair: keypair(secret),
            migration,
            plain: true,
            identify: true,
            config: Config::default()
                .with_first_id(0)
                .with_layer_always(self.always),
            ..Default::default()
        };
        let mut peer = Node::with(Setup {
            counts: Some(counts.clone()),
            ..setup(self.peer_moves, 1)
        });
        let mut node = Node::with(Setup {
            layer,
            lazy: self.lazy,
            ..setup(self.moves, 2)
        });
        let mut ends = [
            End::new(&mut node, self.moves),
            End::new(&mut peer, self.peer_moves),
        ];
        let id = node.id;
        let mut net = match self.peer_dials {
            true => Net::with(peer, node),
            false => Net::with(node, peer),
        };
        // identify tells all addresses on each connection.
        let mut addresses = Vec::new();
        for kind in self.kinds {
            addresses.push(net.address(*kind).await);
        }
        let mut pairs = Vec::new();
        for address in addresses {
            pairs.push(net.dialer.dial(&net.listener, address).await);
        }
        let here = pairs.iter().map(|pair| pair.here).collect::<Vec<_>>();
        let there = pairs.iter().map(|pair| pair.there).collect::<Vec<_>>();
        let Net {
            dialer, listener, ..
        } = &mut net;
        let (node, peer, keys) = match self.peer_dials {
            true => (listener, dialer, [there, here]),
            false => (dialer, listener, [here, there]),
        };
        for (one, other) in [(&*node, &*peer), (&*peer, &*node)] {
            let told = |seen: &&Seen| matches!(seen, Seen::Identified(id) if *id == other.id);
            let all = |log: &[Seen]| log.iter().filter(told).count() == pairs.len();
            one.until("what identify says", all).await;
        }
        let [ours, theirs] = &mut ends;
        ours.asks(node, peer.id, &keys[0], theirs).await;
        theirs.asks(peer, node.id, &keys[1], ours).await;
        if layer {
            let refused = |all: &Vec<Substream>| {
                let refused = all.iter().filter(|it| it.written == REFUSAL);
                (refused.count() >= self.greeted()).then_some(())
            };
            within("the refusals", counts.until(refused)).await;
        }
        node.disconnect(peer.id);
        for key in &keys[1] {
            let closed = |seen: &Seen| matches!(seen, Seen::Closed(it) if it == key).then_some(());
            peer.wait("the end", closed).await;
        }
        let over = |all: &Vec<Substream>| {
            let mut all = all.iter().filter(|it| it.peer == id);
            all.all(|it| it.over).then_some(())
        };
        within("the last substream's end", counts.until(over)).await;
        let all = mem::take(&mut *counts.read());
        all.into_iter().filter(|it| it.peer == id).collect()
    }

    /// Compares what the peer sees with the layer, and without it.
    async fn differs_by_the_refusals(self) {
        println!("{self:?}");
        let (without, with) = join!(self.seen(false), self.seen(true));
        let (hellos, others) = with.into_iter().partition::<Vec<_>, _>(is_hello);
        assert!(!without.iter().any(is_hello));
        let [others, without] = [others, without].map(comparable);
        assert!(
            others == without,
            "with: {others:#?}\nwithout: {without:#?}"
        );
        assert_eq!(hellos.len(), self.greeted());
        for hello in hellos {
            assert!(hello.inbound && (hello.relayed || self.always));
            assert_eq!(hello.written, REFUSAL);
            let said = &hello.read[PROPOSAL.len()..];
            let control: Control = codec::read(&mut &*said).now_or_never().unwrap().unwrap();
            assert!(control.hello.is_some() && control.closed.is_empty());
            assert_eq!(said, codec::frame(&control), "one message, and no more");
        }
    }
}

fn is_hello(substream: &Substream) -> bool {
    substream.read.starts_with(PROPOSAL)
}

/// What is the same each time, as text. identify's message names ports, and the time: its length is
/// compared.
fn comparable(substreams: Vec<Substream>) -> Vec<String> {
    let word = word();
    let text = |bytes: &[u8]| -> String {
        let at = bytes.windows(word.len()).position(|it| it == word);
        match at {
            Some(at) => {
                let [before, after] = [&bytes[..at], &bytes[at + word.len()..]];
                format!("{} WORD {}", before.escape_ascii(), after.escape_ascii())
            }
            None if bytes.starts_with(IDENTIFY) => format!("identify, {} bytes", bytes.len()),
            None => bytes.escape_ascii().to_string(),
        }
    };
    let all = substreams.into_iter().map(|it| {
        let [read, written] = [&it.read, &it.written].map(|it| text(it));
        format!("inbound: {}, read: {read}, written: {written}", it.inbound)
    });
    let mut all: Vec<_> = all.collect();
    all.sort();
    all
}

async fn each(kinds: &'static [Kind], peer_moves: bool) {
    for peer_dials in [false, true] {
        for (moves, lazy) in [(false, false), (true, false), (true, true)] {
            let case = Case {
                kinds,
                peer_dials,
                peer_moves,
                moves,
                lazy,
                always: false,
            };
            case.differs_by_the_refusals().await;
        }
    }
}

/// "My peers are upgraded one by one." Who has nothing of ours sees nothing of it on a direct
/// connection.
#[tokio::test]
async fn a_plain_peer_over_tcp() {
    each(&[Kind::Tcp], false).await;
}

#[tokio::test]
async fn a_plain_peer_over_quic() {
    each(&[Kind::Quic], false).await;
}

#[tokio::test]
async fn a_plain_peer_over_a_relay() {
    each(&[Kind::Relayed], false).await;
}

/// A direct connection beside a relayed one is no occasion, nor is it the other way round.
#[tokio::test]
async fn a_plain_peer_over_all_of_them() {
    each(
        &[Kind::Relayed, Kind::Tcp, Kind::Quic, Kind::Relayed],
        false,
    )
    .await;
}

/// One who is asked on every connection refuses on every one.
#[tokio::test]
async fn a_plain_peer_that_is_always_asked() {
    let case = Case {
        // QUIC's reset may take along what is still to be read.
        kinds: &[Kind::Relayed, Kind::Tcp],
        peer_dials: false,
        peer_moves: false,
        moves: true,
        lazy: false,
        always: true,
    };
    case.differs_by_the_refusals().await;
}

/// "My peers know streams that move, and no layer."
#[tokio::test]
async fn a_peer_with_the_behaviour_alone() {
    for kinds in [&[Kind::Tcp], &[Kind::Quic], &[Kind::Relayed]] {
        each(kinds, true).await;
    }
}

#[tokio::test]
async fn a_peer_with_the_behaviour_alone_over_all_of_them() {
    each(&[Kind::Tcp, Kind::Relayed, Kind::Quic, Kind::Relayed], true).await;
}

/// A thing that a peer does on a substream, by hand.
#[derive(Debug, Clone, Copy)]
enum Step {
    Say(&'static [u8]),
    /// Reads so many bytes, before anything else is said.
    Hear(usize),
}

use Step::{Hear, Say};

const HEADER: &[u8] = b"\x13/multistream/1.0.0\n";
const TEST: &[u8] = b"\x0c/test/1.0.0\n";
const NOBODY: &[u8] = b"\x0e/nobody/1.0.0\n";

/// Beginnings of substreams as others write them, well or badly. Each is then closed.
const BEGINNINGS: &[&[Step]] = &[
    &[Say(HEADER), Say(TEST), Say(b"word")],
    &[Say(HEADER), Hear(20), Say(TEST), Hear(13), Say(b"word")],
    &[
        Say(HEADER),
        Hear(20),
        Say(NOBODY),
        Hear(4),
        Say(TEST),
        Say(b"word"),
    ],
    &[
        Say(HEADER),
        Say(NOBODY),
        Hear(24),
        Say(TEST),
        Hear(13),
        Say(b"word"),
    ],
    &[
        Say(b"\x13/multi"),
        Say(b"stream/1.0.0\n\x0c/te"),
        Say(b"st/1.0.0\nword"),
    ],
    &[
        Say(HEADER),
        Hear(20),
        Say(b"\x0c"),
        Say(b"/test/1.0.0"),
        Say(b"\nword"),
    ],
    &[Say(HEADER), Say(b"\x03ls\n")],
    &[
        Say(HEADER),
        Say(b"\x03ls\n"),
        Hear(24),
        Say(TEST),
        Say(b"word"),
    ],
    &[Say(HEADER), Hear(20)],
    &[Say(HEADER), Say(HEADER), Say(TEST)],
    &[Say(HEADER), Say(b"\x0b/test/1.0.0"), Say(b"word")],
    &[Say(HEADER), Say(b"\0"), Say(TEST)],
    &[Say(HEADER), Say(b"\xff\x7f/too long"), Say(TEST)],
    &[Say(HEADER), Say(b"\x80\x80\x80\x01"), Say(TEST)],
    &[Say(b"\x13/multistream/2.0.0\n"), Say(TEST)],
    &[Say(b"GET / HTTP/1.1\r\n\r\n")],
    &[Say(b"\0\0\0\0")],
];

/// Those that end before their first proposal does: a layer may drop them, where a swarm says its
/// header first.
const CUT_SHORT: &[&[Step]] = &[
    &[Say(b"\x13/multi")],
    &[Say(HEADER)],
    &[Say(HEADER), Say(b"\x0c/te")],
];

/// A connection by hand: a muxer that is polled.
struct Hand(Arc<Mutex<StreamMuxerBox>>);

impl Hand {
    async fn dial(address: Multiaddr) -> Self {
        let noise = noise::Config::new(&Keypair::generate_ed25519()).unwrap();
        let mut transport = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
            .upgrade(Version::V1Lazy)
            .authenticate(noise)
            .multiplex(yamux::Config::default())
            .boxed();
        let opts = DialOpts {
            role: Endpoint::Dialer,
            port_use: PortUse::New,
        };
        let dial = transport.dial(address, opts).unwrap();
        let (_, muxer) = within("the dial", dial).await.unwrap();
        Self(Arc::new(Mutex::new(muxer)))
    }

    /// What is heard on a substream that begins so.
    async fn hears(&self, beginning: &[Step]) -> Vec<u8> {
        let opened = poll_fn(|cx| Pin::new(&mut *self.0.lock().unwrap()).poll_outbound(cx));
        let talk = async {
            let mut io = opened.await.unwrap();
            let mut heard = Vec::new();
            for step in beginning {
                match step {
                    Say(bytes) => {
                        io.write_all(bytes).await.unwrap();
                        io.flush().await.unwrap();
                    }
                    Hear(bytes) => {
                        let at = heard.len();
                        heard.resize(at + bytes, 0);
                        io.read_exact(&mut heard[at..]).await.unwrap();
                    }
                }
            }
            io.close().await.unwrap();
            let _ = io.read_to_end(&mut heard).await;
            heard
        };
        let polls = poll_fn(|cx| Pin::new(&mut *self.0.lock().unwrap()).poll(cx));
        let (talk, polls) = (pin!(talk), pin!(polls));
        match within("the substream's end", select(talk, polls)).await {
            Either::Left((heard, _)) => heard,
            Either::Right((ended, _)) => panic!("the connection's end: {ended:?}"),
        }
    }
}

/// What a peer by hand hears of a node, for each beginning.
async fn heard(layer: bool, beginnings: &[&[Step]]) -> Vec<String> {
    let mut node = Node::with(Setup {
        layer,
        migration: false,
        plain: true,
        ..Default::default()
    });
    let mut incoming = node.accept_plain(PROTOCOL);
    tokio::spawn(async move {
        while let Some((_, mut stream)) = incoming.next().await {
            let mut word = Vec::new();
            stream.read_to_end(&mut word).await.unwrap();
            stream.write_all(&word).await.unwrap();
            stream.close().await.unwrap();
        }
    });
    let hand = Hand::dial(node.listen("/ip4/127.0.0.1/tcp/0").await).await;
    let mut all = Vec::new();
    for beginning in beginnings {
        all.push(hand.hears(beginning).await.escape_ascii().to_string());
    }
    all
}

/// "My peers are no swarms of rust-libp2p." However a substream begins, the answer is the same.
#[tokio::test]
async fn beginnings_by_hand() {
    assert_eq!(
        heard(true, BEGINNINGS).await,
        heard(false, BEGINNINGS).await
    );
    let [with, without] = [heard(true, CUT_SHORT).await, heard(false, CUT_SHORT).await];
    for (with, without) in with.iter().zip(&without) {
        assert!(without.starts_with(with), "{with} is more than {without}");
    }
}
