//! A node is upgraded step by step: this behaviour serves some of its protocols, something else the rest.

use std::{pin::Pin, task::Poll};

use futures::{AsyncReadExt, AsyncWrite, AsyncWriteExt, StreamExt, future::poll_fn, join};
use libp2p::{PeerId, StreamProtocol};
use libp2p_stream_migration::{
    Config, Event, IncomingStreams, OpenStreamError, PROTOCOL_NAME, Stream,
};
use testing::*;

/// A node with this behaviour and libp2p-stream, which serves [`PROTOCOL`].
fn both(identify: bool, lazy: bool) -> (Node, libp2p_stream::IncomingStreams) {
    let mut node = Node::with(Setup {
        plain: true,
        identify,
        lazy,
        ..Default::default()
    });
    let incoming = node.accept_plain(PROTOCOL);
    (node, incoming)
}

fn ours(identify: bool, lazy: bool) -> Node {
    Node::with(Setup {
        identify,
        lazy,
        ..Default::default()
    })
}

async fn identified(node: &Node) {
    let identified = |seen: &Seen| matches!(seen, Seen::Identified(_)).then_some(());
    node.wait("identify", identified).await;
}

/// All labelled streams of the node are over, in order.
async fn books_balance(node: &mut Node, peer: PeerId) {
    within("the table is empty", async {
        while !node.control.streams(peer).await.is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let events = node.events();
    let started = |event: &&Event| matches!(event, Event::StreamStarted { .. });
    let ended = |event: &&Event| matches!(event, Event::StreamEnded { .. });
    let started = events.iter().filter(started).count();
    assert_eq!(started, events.iter().filter(ended).count());
}

fn labelled(node: &Node) -> usize {
    let started = |event: &&Event| matches!(event, Event::StreamStarted { .. });
    node.events().iter().filter(started).count()
}

const WAYS: [(bool, bool); 4] = [(false, false), (true, false), (false, true), (true, true)];

/// A node has this behaviour and libp2p-stream, and another node opens a protocol that libp2p-stream
/// serves there: it is a plain stream, at the first time and at the second, which is not labelled first.
/// B3 · interfold 1403
#[tokio::test]
async fn a_protocol_that_another_behaviour_serves() {
    for kind in KINDS {
        for (identify, lazy) in WAYS {
            let (there, mut incoming) = both(identify, lazy);
            let mut net = Net::with(ours(identify, lazy), there);
            let pair = net.connect(kind).await;
            let peer = net.listener.id;
            if identify {
                identified(&net.dialer).await;
            }
            let mut labels = Vec::new();
            for _ in 0..2 {
                let opened = net.dialer.control.open_stream(peer, PROTOCOL);
                let mut ours = within("the stream", opened).await.unwrap();
                let request = async {
                    write(&mut ours, 1, 0, 1000).await;
                    ours.close().await.unwrap();
                    read(&mut ours, 2, 0, 3000).await;
                    read_end(&mut ours).await;
                };
                let response = async {
                    let (_, mut theirs) = incoming.next().await.unwrap();
                    assert_eq!(read_to_end(&mut theirs, 1, 0).await, 1000);
                    write(&mut theirs, 2, 0, 3000).await;
                    theirs.close().await.unwrap();
                };
                let what = format!("{kind:?}, identify: {identify}, lazy: {lazy}");
                within(&what, async { join!(request, response) }).await;
                assert!(!ours.is_migratable());
                assert_eq!((ours.id(), ours.connection()), (None, Some(pair.here)));
                assert_eq!((ours.bytes_out(), ours.bytes_in()), (1000, 3000));
                labels.push(labelled(&net.dialer));
            }
            assert_eq!(labels, [1, 1]);
            books_balance(&mut net.dialer, peer).await;
            let back = net.dialer.id;
            books_balance(&mut net.listener, back).await;
        }
    }
}

/// A protocol that nobody serves is refused as that, whatever the peer consists of.
/// B3 · go-libp2p PR 168
#[tokio::test]
async fn a_protocol_that_nobody_serves() {
    for (identify, lazy) in WAYS {
        let mut nodes = vec![both(identify, lazy).0, ours(identify, lazy)];
        for (plain, identify) in [(true, identify), (false, false)] {
            nodes.push(Node::with(Setup {
                migration: false,
                plain,
                identify,
                lazy,
                ..Default::default()
            }));
        }
        for there in nodes {
            let mut net = Net::with(ours(identify, lazy), there);
            net.connect(Kind::Tcp).await;
            let peer = net.listener.id;
            let unknown = StreamProtocol::new("/unknown");
            for _ in 0..2 {
                let opened = net.dialer.control.open_stream(peer, unknown.clone());
                let error = within("the refusal", opened).await.map(drop);
                assert!(
                    matches!(&error, Err(OpenStreamError::UnsupportedProtocol(p)) if *p == unknown),
                    "identify: {identify}, lazy: {lazy}: {error:?}"
                );
            }
            books_balance(&mut net.dialer, peer).await;
        }
    }
}

/// A message is written, the stream closed and dropped at once, or never touched again: it arrives, though
/// the remote serves the protocol by something else and its refusal comes later.
/// B3 · polkadot-sdk PR 2771
#[tokio::test]
async fn said_and_gone() {
    for kind in [Kind::Tcp, Kind::Quic] {
        for lazy in [false, true] {
            for keep in [false, true] {
                let (there, mut incoming) = both(true, lazy);
                let mut net = Net::with(ours(true, lazy), there);
                net.connect(kind).await;
                let peer = net.listener.id;
                identified(&net.dialer).await;
                let opened = net.dialer.control.open_stream(peer, PROTOCOL);
                let mut ours = within("the stream", opened).await.unwrap();
                write(&mut ours, 1, 0, 1000).await;
                within("closing", ours.close()).await.unwrap();
                let kept = keep.then_some(ours);
                let (_, mut theirs) = within("the message", incoming.next()).await.unwrap();
                let end = within("the end", read_to_end(&mut theirs, 1, 0)).await;
                assert_eq!(end, 1000);
                drop(kept);
                books_balance(&mut net.dialer, peer).await;
            }
        }
    }
}

/// A remote that speaks the protocol by hand, and refuses what Identify says that it serves when it is
/// told to.
struct Refuser {
    net: Net,
    inside: IncomingStreams,
    plain: IncomingStreams,
    pair: Pair,
}

impl Refuser {
    async fn new(kind: Kind) -> Self {
        let refuser = Node::with(Setup {
            config: Config::default().with_protocol_name(StreamProtocol::new("/raw")),
            identify: true,
            ..Default::default()
        });
        let mut net = Net::with(ours(true, false), refuser);
        let inside = net.listener.control.accept(PROTOCOL_NAME).unwrap();
        let plain = net.listener.control.accept(PROTOCOL).unwrap();
        let pair = net.connect(kind).await;
        identified(&net.dialer).await;
        Self {
            net,
            inside,
            plain,
            pair,
        }
    }

    async fn open(&mut self) -> Stream {
        let peer = self.net.listener.id;
        let opened = self.net.dialer.control.open_stream(peer, PROTOCOL);
        within("the stream", opened).await.unwrap()
    }

    /// The labelled stream there, its label and the offer read.
    async fn labelled(&mut self) -> Stream {
        let (_, mut leg) = within("a leg", self.inside.next()).await.unwrap();
        // The label, then the header and the name of the protocol.
        for _ in 0..3 {
            let mut length = [0];
            leg.read_exact(&mut length).await.unwrap();
            let mut line = vec![0; length[0].into()];
            leg.read_exact(&mut line).await.unwrap();
        }
        leg
    }

    async fn refuse(leg: &mut Stream) {
        leg.write_all(b"\x13/multistream/1.0.0\n\x03na\n")
            .await
            .unwrap();
        leg.flush().await.unwrap();
    }

    async fn reopened(&mut self) -> Stream {
        within("the plain stream", self.plain.next())
            .await
            .unwrap()
            .1
    }
}

/// What is written before the remote has answered is kept up to 64 KiB; then the writer waits for the
/// answer, as at a full window. All of it arrives on the plain stream.
/// B3
#[tokio::test]
async fn a_long_message_waits_for_the_answer() {
    for kind in [Kind::Tcp, Kind::Quic] {
        let mut refuser = Refuser::new(kind).await;
        let mut ours = refuser.open().await;
        assert!(ours.is_migratable());
        let mut kept = 0;
        let all = vec![7; 200_000];
        poll_fn(|cx| {
            while let Poll::Ready(n) = Pin::new(&mut ours).poll_write(cx, &all[kept..]) {
                kept += n.unwrap();
                assert!(kept < all.len(), "nothing holds the writer up");
            }
            Poll::Ready(())
        })
        .await;
        assert!(kept <= 64 << 10, "{kept}");
        let mut leg = refuser.labelled().await;
        Refuser::refuse(&mut leg).await;
        let mut theirs = refuser.reopened().await;
        let writing = async {
            ours.write_all(&all[kept..]).await.unwrap();
            ours.close().await.unwrap();
            assert!(!ours.is_migratable());
            assert_eq!(ours.bytes_out(), all.len() as u64);
        };
        let mut read = Vec::new();
        within("the message", async {
            join!(writing, theirs.read_to_end(&mut read)).1.unwrap()
        })
        .await;
        assert_eq!(read, all);
        drop(leg);
    }
}

/// The remote's refusal finds the application at any moment: nothing written, written and not flushed,
/// half-closed, reading, both; and it goes on as if the stream had been a plain one from the beginning.
/// B3
#[tokio::test]
async fn the_refusal_finds_the_application_anywhere() {
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Moment {
        Fresh,
        Written,
        Flushed,
        Closed,
    }
    for kind in [Kind::Tcp, Kind::Quic] {
        for moment in [
            Moment::Fresh,
            Moment::Written,
            Moment::Flushed,
            Moment::Closed,
        ] {
            // Whether a read waits for the refusal, and whether the remote lets go of the stream with it.
            for (reading, drops) in [(false, false), (true, false), (false, true), (true, true)] {
                let what = format!("{kind:?}, {moment:?}, reading: {reading}, drops: {drops}");
                let mut refuser = Refuser::new(kind).await;
                let ours = refuser.open().await;
                let mut leg = refuser.labelled().await;
                let (mut reader, mut writer) = ours.split();
                if moment != Moment::Fresh {
                    writer.write_all(b"request").await.unwrap();
                }
                if moment == Moment::Flushed {
                    writer.flush().await.unwrap();
                }
                if moment == Moment::Closed {
                    writer.close().await.unwrap();
                }
                let mut response = Vec::new();
                let answer = async {
                    let read = reader.read_to_end(&mut response);
                    let refused = async {
                        Refuser::refuse(&mut leg).await;
                        if drops {
                            drop(leg);
                        }
                    };
                    match reading {
                        true => join!(refused, read).1.unwrap(),
                        false => {
                            refused.await;
                            0
                        }
                    };
                };
                let rest = async {
                    if moment == Moment::Fresh {
                        writer.write_all(b"request").await.unwrap();
                    }
                    if moment != Moment::Closed {
                        writer.close().await.unwrap();
                    }
                };
                let there = async {
                    let mut theirs = refuser.reopened().await;
                    let mut request = Vec::new();
                    theirs.read_to_end(&mut request).await.unwrap();
                    assert_eq!(request, b"request");
                    theirs.write_all(b"response").await.unwrap();
                    theirs.close().await.unwrap();
                };
                within(&what, async { join!(answer, rest, there) }).await;
                if !reading {
                    within(&what, reader.read_to_end(&mut response))
                        .await
                        .unwrap();
                }
                assert_eq!(response, b"response", "{what}");
                let ours = reader.reunite(writer).unwrap();
                assert_eq!((ours.bytes_out(), ours.bytes_in()), (7, 8), "{what}");
                assert!(!ours.is_migratable());
                drop(ours);
                let peer = refuser.net.listener.id;
                books_balance(&mut refuser.net.dialer, peer).await;
            }
        }
    }
}

/// A stream is dropped without being closed while its protocol is being refused: nothing more is opened
/// for it, and nothing stays behind.
/// B3
#[tokio::test]
async fn let_go_of_while_it_is_refused() {
    let mut refuser = Refuser::new(Kind::Tcp).await;
    let peer = refuser.net.listener.id;
    for _ in 0..2 {
        let mut ours = refuser.open().await;
        ours.write_all(b"request").await.unwrap();
        let leg = refuser.labelled().await;
        drop(ours);
        books_balance(&mut refuser.net.dialer, peer).await;
        drop(leg);
    }
    assert_eq!(labelled(&refuser.net.dialer), 2);
    // The connection goes while the answer is waited for: an error, and no clean end.
    let mut ours = refuser.open().await;
    ours.write_all(b"request").await.unwrap();
    let _leg = refuser.labelled().await;
    refuser.net.dialer.close(refuser.pair.here);
    let read = within("an error", ours.read(&mut [0])).await;
    assert!(read.is_err(), "{read:?}");
}

/// The remote has ceased to serve a protocol since Identify has told of it: it is refused behind the label,
/// and then without; reads and writes say so, and the stream does not end as if it had been served.
/// B3
#[tokio::test]
async fn refused_here_and_there() {
    for closed in [false, true] {
        let mut refuser = Refuser::new(Kind::Tcp).await;
        let peer = refuser.net.listener.id;
        let mut ours = refuser.open().await;
        ours.write_all(b"request").await.unwrap();
        if closed {
            ours.close().await.unwrap();
        }
        let mut leg = refuser.labelled().await;
        drop(refuser.plain);
        Refuser::refuse(&mut leg).await;
        let mut buf = [0];
        let error = within("an error", ours.read(&mut buf)).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::Unsupported, "{error}");
        for _ in 0..2 {
            assert!(within("an error", ours.read(&mut buf)).await.is_err());
            assert!(within("an error", ours.write(&buf)).await.is_err());
            assert!(within("an error", ours.close()).await.is_err());
        }
        books_balance(&mut refuser.net.dialer, peer).await;
    }
}

/// The remote lets go of a stream before it has answered: that is no refusal of the protocol. What has
/// waited for the answer is tried once more, and then is an error that says so.
/// B2
#[tokio::test]
async fn an_end_before_the_answer_is_no_refusal() {
    for kind in [Kind::Tcp, Kind::Quic] {
        let mut refuser = Refuser::new(kind).await;
        let peer = refuser.net.listener.id;
        let protocol = StreamProtocol::new("/unknown-to-identify");
        let (refused, ()) = within("the opening", async {
            let opened = refuser.net.dialer.control.open_stream(peer, protocol);
            let drops = async {
                for _ in 0..2 {
                    let (_, leg) = refuser.inside.next().await.unwrap();
                    drop(leg);
                }
            };
            join!(opened, drops)
        })
        .await;
        assert!(
            matches!(refused, Err(OpenStreamError::Io(_))),
            "{refused:?}"
        );
        // What was not waited for: an error of the first read.
        let mut ours = refuser.open().await;
        drop(refuser.labelled().await);
        let read = within("an error", ours.read(&mut [0])).await;
        assert!(read.is_err(), "{read:?}");
        books_balance(&mut refuser.net.dialer, peer).await;
    }
}

/// The remote answers before it has read the request, closes and lets go, while the request is still being
/// written: the answer can be read, as on a plain stream.
/// A4
#[tokio::test]
async fn the_answer_comes_before_the_request_is_written() {
    for kind in [Kind::Tcp, Kind::Quic] {
        let mut refuser = Refuser::new(kind).await;
        let mut ours = refuser.open().await;
        let mut leg = refuser.labelled().await;
        leg.write_all(b"\x13/multistream/1.0.0\n\x0c/test/1.0.0\ntoo long")
            .await
            .unwrap();
        leg.flush().await.unwrap();
        if kind == Kind::Quic {
            // There, a drop alone would end it too; on yamux, it would say nothing after a close.
            leg.close().await.unwrap();
        }
        drop(leg);
        within("the writer hears of it", async {
            let request = vec![0; 16 * 1024];
            while ours.write(&request).await.is_ok() {}
        })
        .await;
        let mut answer = [0; 8];
        within("the answer", ours.read_exact(&mut answer))
            .await
            .unwrap();
        assert_eq!(&answer, b"too long");
    }
}

/// What a node consists of, while a network is being upgraded.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Has {
    /// This behaviour, which serves [`PROTOCOL`].
    Ours,
    /// This behaviour, which serves [`PROTOCOL`], and libp2p-stream, which serves [`BESIDE`].
    OursAndBeside,
    /// This behaviour, which serves nothing, and libp2p-stream, which serves [`PROTOCOL`].
    OursBesideIt,
    /// libp2p-stream, which serves [`PROTOCOL`].
    Plain,
    /// This behaviour, which serves nothing.
    Prefix,
    Nothing,
}

const ALL: [Has; 6] = [
    Has::Ours,
    Has::OursAndBeside,
    Has::OursBesideIt,
    Has::Plain,
    Has::Prefix,
    Has::Nothing,
];

const BESIDE: StreamProtocol = StreamProtocol::new("/beside/1.0.0");

impl Has {
    fn ours(self) -> bool {
        !matches!(self, Self::Plain | Self::Nothing)
    }

    fn plain(self) -> bool {
        matches!(self, Self::OursAndBeside | Self::OursBesideIt | Self::Plain)
    }

    /// Whether it serves the protocol, and if so, whether by this behaviour.
    fn serves(self, protocol: &StreamProtocol) -> Option<bool> {
        match (self, *protocol == PROTOCOL) {
            (Self::Ours | Self::OursAndBeside, true) => Some(true),
            (Self::OursBesideIt | Self::Plain, true) | (Self::OursAndBeside, false) => Some(false),
            _ => None,
        }
    }

    /// A node that answers what it is sent, 1000 bytes, on every stream.
    async fn node(self, identify: bool, lazy: bool) -> (Node, libp2p::Multiaddr) {
        let mut node = Node::with(Setup {
            migration: self.ours(),
            plain: self.plain(),
            identify,
            lazy,
            ..Default::default()
        });
        for protocol in [PROTOCOL, BESIDE] {
            match self.serves(&protocol) {
                Some(true) => {
                    let incoming = node.control.accept(protocol).unwrap();
                    tokio::spawn(incoming.for_each_concurrent(None, |(_, stream)| echo(stream)));
                }
                Some(false) => {
                    let incoming = node.accept_plain(protocol);
                    tokio::spawn(incoming.for_each_concurrent(None, |(_, stream)| echo(stream)));
                }
                None => {}
            }
        }
        let address = node.listen("/ip4/127.0.0.1/tcp/0").await;
        (node, address)
    }
}

async fn echo(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin) {
    read(&mut stream, 1, 0, 1000).await;
    read_end(&mut stream).await;
    write(&mut stream, 2, 0, 1000).await;
    stream.close().await.unwrap();
}

async fn ask(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin) {
    write(&mut stream, 1, 0, 1000).await;
    stream.close().await.unwrap();
    read(&mut stream, 2, 0, 1000).await;
    read_end(&mut stream).await;
}

/// A network is upgraded node by node: whatever two nodes consist of, a protocol that the one serves can be
/// opened by the other, and one that it does not serve is refused as that.
/// B3 · rust-libp2p PR 5027
#[tokio::test]
async fn every_node_opens_every_protocol_of_every_other() {
    for (identify, lazy) in WAYS {
        let mut listeners = Vec::new();
        for has in ALL {
            listeners.push((has, has.node(identify, lazy).await));
        }
        for opener in ALL {
            for (acceptor, (there, address)) in &listeners {
                let (mut node, _) = opener.node(identify, lazy).await;
                node.dial(there, address.clone()).await;
                if identify {
                    identified(&node).await;
                }
                for protocol in [PROTOCOL, BESIDE] {
                    let what = format!(
                        "{opener:?} opens {protocol} to {acceptor:?}, identify: {identify}, lazy: {lazy}"
                    );
                    let serves = acceptor.serves(&protocol);
                    // At first, and with what has been learned.
                    for _ in 0..2 {
                        if opener.ours() {
                            let opened = node.control.open_stream(there.id, protocol.clone());
                            match within(&what, opened).await {
                                Ok(stream) => {
                                    assert!(serves.is_some(), "{what}");
                                    within(&what, ask(stream)).await;
                                }
                                Err(OpenStreamError::UnsupportedProtocol(_)) => {
                                    assert!(serves.is_none(), "{what}");
                                }
                                Err(error) => panic!("{what}: {error:?}"),
                            }
                        } else if opener.plain() && serves.is_some() {
                            let plain = node.plain.as_mut().unwrap();
                            let opened = plain.open_stream(there.id, protocol.clone());
                            within(&what, ask(within(&what, opened).await.unwrap())).await;
                        }
                    }
                }
                if opener.ours() {
                    books_balance(&mut node, there.id).await;
                }
            }
        }
    }
}
