//! Kinds of connection: what an end, an abort and a loss look like on each (docs/legs.md), and that no
//! stream is lost between them.

mod transports;

use std::io;

use futures::{
    AsyncReadExt, AsyncWriteExt,
    io::{ReadHalf, WriteHalf},
    join,
};
use libp2p::{Multiaddr, multiaddr::Protocol};
use libp2p_stream_migration::{
    Chain, Config, ConnectionInfo, Event, IncomingStreams, Initiate, LegKind, PreferTransport,
    Stream, Transport, designated_peer,
};
use testing::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    Tcp,
    WebSocket,
    Memory,
    RelayedTcp,
    RelayedQuic,
    Quic,
    WebRtc,
    MadeUp,
}

use Over::*;

const ALL: [Over; 8] = [
    Tcp,
    WebSocket,
    Memory,
    RelayedTcp,
    RelayedQuic,
    Quic,
    WebRtc,
    MadeUp,
];

/// Two nodes with all transports, and relays where they are used.
struct Ground {
    net: Net,
    relays: Vec<Node>,
}

fn node(setup: Setup) -> Node {
    Node::with(Setup {
        transports: Some(transports::all),
        ..setup
    })
}

impl Ground {
    fn new() -> Self {
        Self::with(Setup::default(), Setup::default())
    }

    fn with(dialer: Setup, listener: Setup) -> Self {
        Self {
            net: Net::with(node(dialer), node(listener)),
            relays: Vec::new(),
        }
    }

    async fn address(&mut self, over: Over) -> Multiaddr {
        let listener = &self.net.listener;
        match over {
            Tcp => listener.listen("/ip4/127.0.0.1/tcp/0").await,
            WebSocket => listener.listen("/ip4/127.0.0.1/tcp/0/ws").await,
            Memory => listener.listen("/memory/0").await,
            Quic => listener.listen("/ip4/127.0.0.1/udp/0/quic-v1").await,
            WebRtc => listener.listen("/ip4/127.0.0.1/udp/0/webrtc-direct").await,
            MadeUp => listener.listen("/unix/0").await,
            RelayedTcp => self.relayed("/ip4/127.0.0.1/tcp/0").await,
            RelayedQuic => self.relayed("/ip4/127.0.0.1/udp/0/quic-v1").await,
        }
    }

    async fn relayed(&mut self, hop: &str) -> Multiaddr {
        let relay = Node::with(Setup {
            migration: false,
            relay: true,
            ..Default::default()
        });
        let address = relay.listen(hop).await;
        relay.is_reachable_at(address.clone());
        let circuit = address.with(Protocol::P2pCircuit).to_string();
        self.relays.push(relay);
        self.net.listener.listen(&circuit).await
    }

    async fn connect(&mut self, over: Over) -> Pair {
        if over == WebRtc {
            // It dials from a socket that it listens on.
            self.net
                .dialer
                .listen("/ip4/127.0.0.1/udp/0/webrtc-direct")
                .await;
        }
        let address = self.address(over).await;
        self.net.dialer.dial(&self.net.listener, address).await
    }

    fn accept(&mut self) -> IncomingStreams {
        self.net.listener.control.accept(PROTOCOL).unwrap()
    }

    async fn open(&mut self, incoming: &mut IncomingStreams, on: Pair) -> (Stream, Stream) {
        let acceptor = self.net.listener.id;
        open(&mut self.net.dialer, acceptor, incoming, on.here).await
    }

    async fn infos(&mut self, pair: Pair) -> [ConnectionInfo; 2] {
        let (dialer, listener) = (self.net.dialer.id, self.net.listener.id);
        [
            self.net.dialer.connection(listener, pair.here).await,
            self.net.listener.connection(dialer, pair.there).await,
        ]
    }
}

/// What a connection is, told by its address at both its ends.
/// A10 · rust-libp2p 4600
#[tokio::test]
async fn every_connection_has_its_kind() {
    let mut ground = Ground::new();
    for over in ALL {
        let pair = ground.connect(over).await;
        let (kind, transport) = match over {
            Tcp | RelayedTcp => (LegKind::Yamux, Transport::Tcp),
            WebSocket => (LegKind::Yamux, Transport::WebSocket),
            Memory => (LegKind::Yamux, Transport::Memory),
            RelayedQuic => (LegKind::Yamux, Transport::Quic),
            Quic => (LegKind::Quic, Transport::Quic),
            WebRtc => (LegKind::WebRtc, Transport::WebRtc),
            MadeUp => (LegKind::Unknown, Transport::Unknown),
        };
        for info in ground.infos(pair).await {
            assert_eq!(
                (info.leg_kind, info.transport),
                (kind, transport),
                "{over:?}"
            );
            let relayed = matches!(over, RelayedTcp | RelayedQuic);
            assert_eq!(info.relayed, relayed, "{over:?}");
        }
    }
}

/// A request, its end, an answer of so many bytes in one piece, and its end.
async fn ask(client: &mut Stream, server: &mut Stream, answer: u64) {
    let ask = async {
        write(client, 1, 0, 100).await;
        client.close().await.unwrap();
        assert_eq!(read_to_end(client, 2, 0).await, answer, "the answer");
    };
    let reply = async {
        assert_eq!(read_to_end(server, 1, 0).await, 100, "the request");
        let bytes: Vec<u8> = (0..answer).map(|at| byte(2, at)).collect();
        server.write_all(&bytes).await.unwrap();
        server.close().await.unwrap();
    };
    within("an answer", async { join!(ask, reply) }).await;
}

/// A client asks, closes its side, and waits for the answer, which the server writes in one piece: the most
/// ordinary protocol there is, on every kind of connection.
/// A10 · rust-libp2p 4600, 4333, 5986
#[tokio::test]
async fn an_answer_arrives_whole() {
    let mut ground = Ground::new();
    let mut incoming = ground.accept();
    for over in ALL {
        let on = ground.connect(over).await;
        for answer in [1, 65_536, 200_000] {
            let (mut client, mut server) = ground.open(&mut incoming, on).await;
            assert!(client.is_migratable());
            println!("{over:?} {answer}");
            ask(&mut client, &mut server, answer).await;
        }
    }
}

/// A server that writes its header alone, and then its body in one piece without a flush in between. On a
/// data channel the two become one packet, which is too large.
/// A10 · rust-libp2p 4333
#[tokio::test]
async fn a_header_and_a_body_are_not_one_packet() {
    let mut ground = Ground::new();
    let mut incoming = ground.accept();
    for over in ALL {
        let on = ground.connect(over).await;
        let (mut client, mut server) = ground.open(&mut incoming, on).await;
        let serve = async {
            for (from, to) in [(0, 10), (10, 4_000), (4_000, 20_000), (20_000, 90_000)] {
                let bytes: Vec<u8> = (from..to).map(|at| byte(2, at)).collect();
                server.write_all(&bytes).await.unwrap();
            }
            server.close().await.unwrap();
        };
        let read = async { assert_eq!(read_to_end(&mut client, 2, 0).await, 90_000, "{over:?}") };
        within("a header and a body", async { join!(serve, read) }).await;
    }
}

/// An upload: the client says it all, closes, and lets go, and the server reads at its leisure; with a
/// protocol that was agreed, and with one that was offered lazily and whose answer nobody reads.
/// A10, A9 · rust-libp2p 5986
#[tokio::test]
async fn said_and_gone_on_every_kind() {
    const UPLOAD: u64 = 150_000;
    for lazy in [false, true] {
        let setup = || Setup {
            lazy,
            identify: lazy,
            ..Default::default()
        };
        for over in ALL {
            let mut ground = Ground::with(setup(), setup());
            let mut incoming = ground.accept();
            let on = ground.connect(over).await;
            if lazy {
                let listener = ground.net.listener.id;
                let known = |seen: &Seen| match seen {
                    Seen::Identified(peer) if *peer == listener => Some(()),
                    _ => None,
                };
                ground.net.dialer.wait("Identify", known).await;
            }
            println!("{over:?}, lazy: {lazy}");
            let (mut client, mut server) = ground.open(&mut incoming, on).await;
            let upload = async {
                write(&mut client, 1, 0, UPLOAD).await;
                client.close().await.unwrap();
                drop(client);
            };
            let read = async { assert_eq!(read_to_end(&mut server, 1, 0).await, UPLOAD) };
            within("an upload", async { join!(upload, read) }).await;
            server.close().await.unwrap();
        }
    }
}

/// An application that writes nothing on purpose, as some codecs do: on a data channel that is a message,
/// which reads as an end.
/// A10 · rust-libp2p 4600
#[tokio::test]
async fn an_empty_write_of_the_application_is_nothing() {
    let mut ground = Ground::new();
    let mut incoming = ground.accept();
    for over in ALL {
        let on = ground.connect(over).await;
        let (mut client, mut server) = ground.open(&mut incoming, on).await;
        assert_eq!(client.write(&[]).await.unwrap(), 0);
        client.flush().await.unwrap();
        ask(&mut client, &mut server, 1000).await;
    }
    assert_eq!(transports::empty_writes(ground.net.listener.id), 0);
}

/// A transport of our own, about which nobody has said anything: nothing is written on it that the
/// application did not write, and a stream there ends as without migration, before and after a move.
/// A10 · rust-libp2p 4600
#[tokio::test]
async fn nothing_is_written_on_what_is_not_known() {
    let mut ground = Ground::new();
    let mut incoming = ground.accept();
    let [tcp, unknown] = [ground.connect(Tcp).await, ground.connect(MadeUp).await];
    for on in [unknown, tcp] {
        let (mut client, mut server) = ground.open(&mut incoming, on).await;
        if on.here == tcp.here {
            let moved = ground
                .net
                .dialer
                .control
                .migrate(client.key(), unknown.here);
            within("a move", moved).await.unwrap();
        }
        ask(&mut client, &mut server, 100_000).await;
    }
    for node in [&ground.net.dialer, &ground.net.listener] {
        assert_eq!(transports::empty_writes(node.id), 0);
    }
}

/// The same, with an application that knows that yamux is at work: ends are proven as on TCP.
/// A10 · rust-libp2p 4600
#[tokio::test]
async fn the_application_knows_its_own_transport() {
    let config = || {
        Config::default().with_leg_kind(|endpoint, told| {
            let unix = |part| matches!(part, Protocol::Unix(_));
            match endpoint.get_remote_address().iter().any(unix) {
                true => LegKind::Yamux,
                false => told,
            }
        })
    };
    let setup = || Setup {
        config: config(),
        ..Default::default()
    };
    let mut ground = Ground::with(setup(), setup());
    let mut incoming = ground.accept();
    let on = ground.connect(MadeUp).await;
    for info in ground.infos(on).await {
        assert_eq!(info.leg_kind, LegKind::Yamux);
    }
    let (mut client, mut server) = ground.open(&mut incoming, on).await;
    ask(&mut client, &mut server, 1000).await;
    // The server's side was open when it read the end of the request.
    assert!(transports::empty_writes(ground.net.dialer.id) > 0);
    drop(server);
    let (mut client, server) = ground.open(&mut incoming, on).await;
    drop(server);
    let read = within("an abort", client.read(&mut [0])).await;
    assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

/// A stream goes from TCP to another kind of connection and back, while both sides write, and then both
/// end it; and one that began there comes over.
/// A10 · rust-libp2p 4600
#[tokio::test]
async fn moves_between_all_kinds_are_exact() {
    const EACH: u64 = 300_000;
    let mut ground = Ground::new();
    let mut incoming = ground.accept();
    let tcp = ground.connect(Tcp).await;
    for over in ALL.into_iter().filter(|over| *over != Tcp) {
        println!("{over:?}");
        let other = ground.connect(over).await;
        for (first, second) in [(tcp, other), (other, tcp)] {
            let (client, server) = ground.open(&mut incoming, first).await;
            let key = client.key();
            let (client, server) = (client.split(), server.split());
            let side = |(mut r, mut w): (ReadHalf<Stream>, WriteHalf<Stream>), out, back| async move {
                let writes = async {
                    write(&mut w, out, 0, EACH).await;
                    w.close().await.unwrap();
                };
                let reads = async { assert_eq!(read_to_end(&mut r, back, 0).await, EACH) };
                join!(writes, reads);
            };
            let moves = async {
                let mut control = ground.net.dialer.control.clone();
                for to in [second, first] {
                    // It may have ended before.
                    let _ = control.migrate(key, to.here).await;
                }
            };
            let all = async { join!(side(client, 1, 2), side(server, 2, 1), moves) };
            within("two moves", all).await;
        }
        ground.net.dialer.close(other.here);
    }
}

/// What the remote does to a stream on which it has said something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It closes it.
    Closed,
    /// It drops it without having closed it.
    Dropped,
    /// It closes the connection.
    Lost,
}

/// What is read then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    End,
    Error,
}

/// How a stream ends for a reader that has, or has not, closed its own side before.
async fn shown(ground: &mut Ground, over: Over, fate: Fate, closed: bool) -> Shown {
    let mut incoming = ground.accept();
    let on = ground.connect(over).await;
    let (mut client, mut server) = ground.open(&mut incoming, on).await;
    write(&mut server, 2, 0, 100).await;
    write(&mut client, 1, 0, 100).await;
    read(&mut client, 2, 0, 100).await;
    read(&mut server, 1, 0, 100).await;
    if closed {
        client.close().await.unwrap();
        read_end(&mut server).await;
    }
    match fate {
        Fate::Closed => server.close().await.unwrap(),
        Fate::Dropped => drop(server),
        Fate::Lost => ground.net.listener.close(on.there),
    }
    match within("an end", client.read(&mut [0])).await {
        Ok(0) => Shown::End,
        Ok(_) => panic!("more than was written"),
        Err(error) => {
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            Shown::Error
        }
    }
}

/// What docs/legs.md says that a reader sees. A loss that is told by the swarm and by the stream at once
/// may be either.
fn expected(over: Over, fate: Fate, closed: bool) -> &'static [Shown] {
    use Shown::*;
    match (over, fate) {
        (_, Fate::Closed) => &[End],
        (Quic, Fate::Dropped) => &[End],
        (Quic, Fate::Lost) => &[Error],
        (WebRtc, Fate::Dropped) => &[Error],
        (WebRtc, Fate::Lost) => &[End, Error],
        // Underneath, it is yamux, but nobody says so.
        (MadeUp, Fate::Dropped) => &[End],
        (MadeUp, Fate::Lost) => &[End, Error],
        (_, Fate::Dropped) if closed => &[End],
        (_, Fate::Lost) if closed => &[End, Error],
        _ => &[Error],
    }
}

/// What is an end, and what looks like one: a stream is closed, dropped, or lost with its connection, to a
/// reader whose own side is open or closed.
/// A10 · rust-libp2p 4600
#[tokio::test]
async fn the_table_of_ends() {
    let mut ground = Ground::new();
    for over in ALL {
        for fate in [Fate::Closed, Fate::Dropped, Fate::Lost] {
            for closed in [false, true] {
                let shown = shown(&mut ground, over, fate, closed).await;
                let expected = expected(over, fate, closed);
                println!("{over:?} {fate:?}, own side closed {closed}: {shown:?}");
                assert!(expected.contains(&shown), "expected {expected:?}");
            }
        }
    }
}

// ---- Transports that only one side knows -----------------------------------------------------------

fn preferring_quic() -> Setup {
    Setup {
        config: Config::default().with_initiate(Initiate::Either),
        ..Setup::default().policy(PreferTransport::new([Transport::Quic, Transport::Tcp]))
    }
}

impl Ground {
    /// A connection that was dialed by a name.
    async fn connect_by_name(&mut self, over: Over) -> Pair {
        let address = transports::named(&self.address(over).await);
        self.net.dialer.dial(&self.net.listener, address).await
    }
}

/// How often streams have moved, of those that have begun.
fn moves(node: &Node) -> usize {
    let completed = |event: &Event| matches!(event, Event::MigrationCompleted { .. });
    node.events()
        .iter()
        .filter(|event| completed(event))
        .count()
}

/// A dialer that has dialed a name does not know over which transport it is connected, and says so; the
/// listener knows.
/// B9 · go-libp2p-quic-transport 123
#[tokio::test]
async fn who_dials_a_name_does_not_know_the_transport() {
    let mut ground = Ground::new();
    for (over, there) in [(Tcp, Transport::Tcp), (Quic, Transport::Quic)] {
        let pair = ground.connect_by_name(over).await;
        let [dialer, listener] = ground.infos(pair).await;
        assert_eq!(dialer.transport, Transport::Unknown);
        assert_eq!(dialer.leg_kind, LegKind::Unknown);
        assert_eq!(listener.transport, there);
    }
}

/// Both sides prefer QUIC. The dialer has reached QUIC by a name, and TCP by an address: the stream stays
/// on QUIC, though the dialer does not know that it is there.
/// B9 · go-libp2p-quic-transport 123
#[tokio::test]
async fn a_stream_does_not_leave_quic_that_was_dialed_by_a_name() {
    let mut ground = Ground::with(preferring_quic(), preferring_quic());
    let mut incoming = ground.accept();
    let quic = ground.connect_by_name(Quic).await;
    let (mut client, mut server) = ground.open(&mut incoming, quic).await;
    // The other connection, and a stream that is known to have been placed there since.
    let tcp = ground.connect(Tcp).await;
    let (mut other, mut there) = ground.open(&mut incoming, tcp).await;
    // The listener knows that QUIC is better, and the dialer goes along.
    let dialer = &ground.net.dialer;
    let moved =
        |event: &Event| matches!(event, Event::MigrationCompleted { to, .. } if *to == quic.here);
    dialer.count("the move to QUIC", 1, moved).await;
    assert_eq!(client.connection(), Some(quic.here));
    assert_eq!(other.connection(), Some(quic.here));
    ask(&mut client, &mut server, 10_000).await;
    ask(&mut other, &mut there, 10_000).await;
    assert_eq!(
        (moves(&ground.net.dialer), moves(&ground.net.listener)),
        (1, 1)
    );
}

/// The default policies, and two connections over the same transport of which the dialer has reached one
/// by a name: streams come to rest, and on one connection if the listener can tell.
/// B9 · go-libp2p 841
#[tokio::test]
async fn duplicates_by_name_come_to_rest() {
    for designated_dials in [false, true] {
        let setup = || Setup::default().policy(Chain::default());
        let [first, second] = [setup(), setup()];
        let ids = [&first, &second].map(|setup| setup.keypair.public().to_peer_id());
        let first_is = designated_peer(ids[0], ids[1]) == ids[0];
        let (dialer, listener) = match first_is == designated_dials {
            true => (first, second),
            false => (second, first),
        };
        let mut ground = Ground::with(dialer, listener);
        let mut incoming = ground.accept();
        let named = ground.connect_by_name(Tcp).await;
        let known = ground.connect(Tcp).await;
        let mut streams = Vec::new();
        for on in [named, known] {
            streams.push(ground.open(&mut incoming, on).await);
        }
        let expected = usize::from(!designated_dials);
        if expected > 0 {
            // To the listener, who is designated, both are its elder's duplicates.
            let moved = |event: &Event| matches!(event, Event::MigrationCompleted { .. });
            ground
                .net
                .listener
                .count("the merge", expected, moved)
                .await;
            let both = streams.iter().map(|(client, _)| client.connection());
            assert_eq!(both.collect::<Vec<_>>(), [Some(named.here); 2]);
        }
        for (client, server) in &mut streams {
            ask(client, server, 10_000).await;
        }
        assert_eq!(moves(&ground.net.listener), expected);
    }
}

/// A server answers, closes and lets go; the client has reached it by a name, and reads the answer and its
/// end late. On QUIC that looks like a reset to whoever takes it for yamux.
/// B9 · rust-libp2p 4600
#[tokio::test]
async fn an_answer_over_a_name_ends_well() {
    let mut ground = Ground::new();
    let mut incoming = ground.accept();
    for over in [Quic, Tcp] {
        let on = ground.connect_by_name(over).await;
        let (mut client, mut server) = ground.open(&mut incoming, on).await;
        write(&mut client, 1, 0, 100).await;
        read(&mut server, 1, 0, 100).await;
        write(&mut server, 2, 0, 1000).await;
        server.close().await.unwrap();
        drop(server);
        // The refusal to read on, if there is one, comes with the end.
        assert_eq!(
            within("the answer", read_to_end(&mut client, 2, 0)).await,
            1000
        );
    }
}

/// libp2p-yamux allows yamux 0.14.0, in which a stream that is read and written by two tasks stalls. What is
/// built here, and by whoever depends on this crate, is a later one.
/// B17 · rust-yamux 232
#[test]
fn yamux_is_one_that_works() {
    let file = |name| {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        std::fs::read_to_string(path).unwrap()
    };
    let lock = file("Cargo.lock");
    let packages = lock.split("[[package]]");
    let yamux = packages.filter(|package| package.contains("\nname = \"yamux\"\n"));
    let versions = yamux.map(|package| {
        let (_, version) = package.split_once("version = \"").unwrap();
        version.split('"').next().unwrap()
    });
    // Cargo unites all that are compatible; 0.12, which libp2p still brings, has no such fault.
    let versions: Vec<_> = versions
        .filter(|version| version.starts_with("0.14."))
        .collect();
    assert_eq!(versions.len(), 1);
    let patch: u32 = versions[0]["0.14.".len()..].parse().unwrap();
    assert!(patch >= 1, "yamux {versions:?}");
    let manifest = file("Cargo.toml");
    let floor = "[target.'cfg(any())'.dependencies]\nyamux = \"0.14.1\"";
    assert!(
        manifest.contains(floor),
        "nothing keeps 0.14.0 away from who depends on this crate"
    );
}
