//! Peers that speak the layer's wire by hand, well or badly.

use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::{PeerId, StreamProtocol};
use libp2p_stream_migration::{Config, Event, Limit, Violation};
use libp2p_stream_migration_core::{
    machine::StreamId,
    protocol::codec::{self, Control, Hello, Request},
};
use multistream_select::{Version, dialer_select_proto};
use testing::*;

const CONTROL: StreamProtocol = StreamProtocol::new("/libp2p/stream-migration/control/1.0.0");
const LINK: StreamProtocol = StreamProtocol::new("/libp2p/stream-migration/link/1.0.0");
const PING: &str = "/ipfs/ping/1.0.0";

/// A layered node, and a peer whose words are a test's.
struct Raw {
    net: Net,
    /// The number of our connection, by the layered node's hello.
    route: u64,
    ours: libp2p::Stream,
    theirs: libp2p::Stream,
}

impl Raw {
    async fn open(&mut self, protocol: StreamProtocol) -> libp2p::Stream {
        open(&mut self.net.dialer, self.net.listener.id, protocol).await
    }

    async fn say(&mut self, control: &Control) {
        self.ours.write_all(&codec::frame(control)).await.unwrap();
        self.ours.flush().await.unwrap();
    }

    async fn hear(&mut self) -> Control {
        within("a message", codec::read(&mut self.theirs))
            .await
            .unwrap()
    }

    /// A stream for a connection, on which nothing has been negotiated.
    async fn label(&mut self, id: u64, route: Option<u64>) -> libp2p::Stream {
        let mut stream = self.open(LINK).await;
        let id = StreamId(id);
        let label = codec::frame(&Request::Label {
            id,
            control: None,
            route,
        });
        stream.write_all(&label).await.unwrap();
        stream.flush().await.unwrap();
        stream
    }

    /// The layered node serves as ever.
    async fn pings(&mut self) {
        let stream = self.label(1 << 20, Some(self.route)).await;
        ping(stream).await;
    }
}

async fn open(node: &mut Node, peer: PeerId, protocol: StreamProtocol) -> libp2p::Stream {
    let plain = node.plain.as_mut().unwrap();
    within("opening", plain.open_stream(peer, protocol))
        .await
        .unwrap()
}

async fn ping(stream: libp2p::Stream) {
    let dial = dialer_select_proto(stream, [PING], Version::V1);
    let (_, mut stream) = within("the negotiation", dial).await.unwrap();
    stream.write_all(&[7; 32]).await.unwrap();
    stream.flush().await.unwrap();
    let mut echo = [0; 32];
    within("the echo", stream.read_exact(&mut echo))
        .await
        .unwrap();
    assert_eq!(echo, [7; 32]);
}

fn hello(connection: u64) -> Control {
    Control {
        hello: Some(Hello {
            epoch: 4711,
            connection: Some(connection),
            resume: false,
            facts: false,
        }),
        ..Control::default()
    }
}

/// A peer by hand, connected to a node with a layer, and the two have said hello.
async fn raw() -> Raw {
    // With ping at both ends: whoever hears that the other has none serves none.
    let raw = Node::with(Setup {
        migration: false,
        plain: true,
        dcutr: true,
        ..Default::default()
    });
    let layered = Node::with(Setup {
        layer: true,
        plain: true,
        dcutr: true,
        config: Config::default().with_old_leg_linger(Duration::from_secs(2)),
        ..Default::default()
    });
    let mut net = Net::with(raw, layered);
    let mut controls = net.dialer.accept_plain(CONTROL);
    net.connect(Kind::Tcp).await;
    let peer = net.listener.id;
    let mut ours = open(&mut net.dialer, peer, CONTROL).await;
    ours.write_all(&codec::frame(&hello(99))).await.unwrap();
    ours.flush().await.unwrap();
    // Whoever is greeted says hello, too.
    let (_, mut theirs) = within("their control", controls.next()).await.unwrap();
    let said: Control = within("their hello", codec::read(&mut theirs))
        .await
        .unwrap();
    let route = said.hello.unwrap().connection.unwrap();
    assert!(said.closed.is_empty());
    Raw {
        net,
        route,
        ours,
        theirs,
    }
}

async fn violated(node: &Node) {
    node.event("the violation", |event| match event {
        Event::Violation {
            what: Violation::Message,
            ..
        } => Some(()),
        _ => None,
    })
    .await;
}

/// What the text says, by hand: a stream that names a connection gets to it.
#[tokio::test]
async fn a_routed_stream_by_hand() {
    raw().await.pings().await;
}

/// A stream for a connection that is not there is dropped, and its opener told that it is closed.
#[tokio::test]
async fn an_unknown_route_is_closed() {
    let mut raw = raw().await;
    let mut stream = raw.label(8, Some(12345)).await;
    assert_eq!(raw.hear().await.closed, [12345]);
    let read = within("the end", stream.read(&mut [0; 1])).await;
    assert!(matches!(read, Ok(0) | Err(_)));
    raw.pings().await;
}

/// Said twice, said never, or something else in its place: the substream goes, and nothing else.
#[tokio::test]
async fn a_second_hello_is_a_violation() {
    let mut raw = raw().await;
    raw.say(&hello(99)).await;
    violated(&raw.net.listener).await;
    raw.pings().await;
}

#[tokio::test]
async fn a_huge_message_is_a_violation() {
    let mut raw = raw().await;
    let length = [0x81, 0x20];
    raw.ours.write_all(&length).await.unwrap();
    raw.ours.flush().await.unwrap();
    violated(&raw.net.listener).await;
    raw.pings().await;
}

#[tokio::test]
async fn garbage_for_a_first_message_is_a_violation() {
    let mut raw = raw().await;
    let mut stream = raw.open(LINK).await;
    stream.write_all(&[3, 0xff, 0xff, 0xff]).await.unwrap();
    stream.flush().await.unwrap();
    violated(&raw.net.listener).await;
    raw.pings().await;
}

/// Connections that are not theirs, or of nobody: nothing comes of a word about them.
#[tokio::test]
async fn a_close_for_what_is_not_theirs_is_ignored() {
    let mut raw = raw().await;
    let closed = Control {
        closed: vec![0, 1, raw.route, u64::MAX],
        ..Control::default()
    };
    raw.say(&closed).await;
    raw.pings().await;
    assert!(
        !raw.net
            .listener
            .read(|seen| matches!(seen, Seen::Closed(_)))
    );
}

/// Their own connection's number: its counterpart is closed.
#[tokio::test]
async fn a_close_closes_the_counterpart() {
    let mut raw = raw().await;
    let closed = Control {
        closed: vec![99],
        ..Control::default()
    };
    raw.say(&closed).await;
    raw.net
        .listener
        .wait("the connection's end", |seen| match seen {
            Seen::Closed(_) => Some(()),
            _ => None,
        })
        .await;
}

/// A flood of labels for streams that never say what they want is bounded, and the rest goes on.
#[tokio::test]
async fn a_flood_of_labels_is_bounded() {
    let mut raw = raw().await;
    let mut held = Vec::new();
    let route = Some(raw.route);
    for number in 0..400 {
        held.push(raw.label(2 * number, route).await);
    }
    raw.net
        .listener
        .event("a refusal", |event| match event {
            Event::Refused {
                limit: Limit::AcceptBacklog,
                ..
            } => Some(()),
            _ => None,
        })
        .await;
    drop(held);
    raw.pings().await;
}

/// A stream that belongs to no connection, and that nobody accepts: refused, and nothing is left of it.
#[tokio::test]
async fn a_stream_of_no_connection_that_nobody_accepts() {
    let mut raw = raw().await;
    let stream = raw.label(8, None).await;
    let dial = dialer_select_proto(stream, ["/nobody/1.0.0"], Version::V1);
    assert!(within("the refusal", dial).await.is_err());
    raw.pings().await;
}

/// Streams that never say what they are take the room of a link's, and nobody else's, and not for long.
#[tokio::test]
async fn peeks_that_never_finish_are_bounded() {
    let mut raw = raw().await;
    let mut held = Vec::new();
    for _ in 0..128 {
        held.push(raw.open(LINK).await);
    }
    // There is no room until theirs is over; another peer, and another link, have their own.
    let mut other = Node::with(Setup {
        plain: true,
        dcutr: true,
        ..Default::default()
    });
    let address = raw.net.listener.listen("/ip4/127.0.0.1/tcp/0").await;
    other.dial(&raw.net.listener, address).await;
    let ping_protocol = StreamProtocol::new(PING);
    let peer = raw.net.listener.id;
    drop(open(&mut other, peer, ping_protocol).await);
    raw.pings().await;
    for mut stream in held {
        let read = within("the end", stream.read(&mut [0; 1])).await;
        assert!(matches!(read, Ok(0) | Err(_)));
    }
}
