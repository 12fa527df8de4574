//! Opens that have to dial first.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    task::{Context, Poll},
    time::Duration,
};

use futures::{StreamExt, future::join_all};
use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    multiaddr::Protocol,
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
        dial_opts::{DialOpts, PeerCondition},
        dummy,
    },
};
use libp2p_stream_migration::{Behaviour, Config, Control, Event, OpenStreamError, Stay, Stream};
use testing::*;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Knows addresses, and denies connections after others have had their say.
#[derive(Default)]
struct Book {
    addresses: HashMap<PeerId, Vec<Multiaddr>>,
    /// How many of the next connections it denies.
    denies: usize,
}

impl Book {
    fn say(&mut self) -> Result<dummy::ConnectionHandler, ConnectionDenied> {
        match self.denies.checked_sub(1) {
            None => Ok(dummy::ConnectionHandler),
            Some(denies) => {
                self.denies = denies;
                Err(ConnectionDenied::new(io::Error::other(
                    "denied by the book",
                )))
            }
        }
    }
}

impl NetworkBehaviour for Book {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = std::convert::Infallible;

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let known = peer.and_then(|peer| self.addresses.get(&peer).cloned());
        Ok(known.unwrap_or_default())
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.say()
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.say()
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[derive(NetworkBehaviour)]
struct All {
    migration: Behaviour,
    book: Book,
}

/// A node that dials by the book.
struct Dialer {
    control: Control,
    swarm: Background<All>,
}

impl Dialer {
    fn new(config: Config, idle: Duration) -> Self {
        let swarm = swarm(idle, |keypair| All {
            migration: Behaviour::with_policy(keypair.public().to_peer_id(), config, Stay),
            book: Book::default(),
        });
        let control = swarm.behaviour().migration.new_control();
        let swarm = Background::run(swarm, |_, _| {});
        Self { control, swarm }
    }

    async fn knows(&self, peer: PeerId, address: &Multiaddr) {
        let address = address.clone();
        self.swarm
            .ask(move |swarm| {
                let addresses = &mut swarm.behaviour_mut().book.addresses;
                addresses.insert(peer, vec![address]);
            })
            .await;
    }

    /// Somebody else's dial.
    async fn foreign(&self, peer: PeerId, address: &Multiaddr) {
        let opts = DialOpts::peer_id(peer)
            .condition(PeerCondition::Always)
            .addresses(vec![address.clone()])
            .extend_addresses_through_behaviour()
            .build();
        // Only this address: the book is closed meanwhile.
        self.swarm
            .ask(move |swarm| {
                let book = std::mem::take(&mut swarm.behaviour_mut().book.addresses);
                swarm.dial(opts).unwrap();
                swarm.behaviour_mut().book.addresses = book;
            })
            .await;
    }

    /// A call that has reached the behaviour.
    async fn opening(&self, peer: PeerId) -> Opening {
        let mut control = self.control.clone();
        let mut opening = tokio::spawn(async move { control.open_stream(peer, PROTOCOL).await });
        // What is asked after it is answered after it.
        let asked = futures::poll!(&mut opening);
        assert!(asked.is_pending());
        tokio::task::yield_now().await;
        let _ = self.control.clone().connections(peer).await;
        opening
    }
}

type Opening = tokio::task::JoinHandle<Result<Stream, OpenStreamError>>;

/// What becomes of those who knock.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Gate {
    Shut,
    Open,
    /// They are sent away.
    Away,
}

/// A TCP address at which connections wait until they are let through, or sent away.
async fn gate(target: &Multiaddr) -> (Multiaddr, watch::Sender<Gate>, watch::Receiver<usize>) {
    let port = |address: &Multiaddr| {
        address.iter().find_map(|part| match part {
            Protocol::Tcp(port) => Some(port),
            _ => None,
        })
    };
    let target = SocketAddr::from(([127, 0, 0, 1], port(target).unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!(
        "/ip4/127.0.0.1/tcp/{}",
        listener.local_addr().unwrap().port()
    );
    let (gate, is_open) = watch::channel(Gate::Shut);
    let (knocks, count) = watch::channel(0);
    tokio::spawn(async move {
        while let Ok((mut inbound, _)) = listener.accept().await {
            knocks.send_modify(|knocks| *knocks += 1);
            let mut is_open = is_open.clone();
            tokio::spawn(async move {
                let says = is_open.wait_for(|gate| *gate != Gate::Shut).await;
                if says.is_ok_and(|gate| *gate == Gate::Open) {
                    let mut outbound = TcpStream::connect(target).await.unwrap();
                    let _ = copy_bidirectional(&mut inbound, &mut outbound).await;
                }
            });
        }
    });
    (address.parse().unwrap(), gate, count)
}

/// Somebody knocks.
async fn knock(count: &mut watch::Receiver<usize>, number: usize) {
    let knocked = count.wait_for(|knocks| *knocks >= number);
    within("a knock", knocked).await.unwrap();
}

/// Somebody listens who is no dialer's friend: an address at which nobody answers.
fn nobody() -> Multiaddr {
    "/ip4/127.0.0.1/tcp/1".parse().unwrap()
}

async fn listener() -> (Node, Multiaddr) {
    let mut node = Node::new();
    let address = node.listen("/ip4/127.0.0.1/tcp/0").await;
    let mut incoming = node.control.accept(PROTOCOL).unwrap();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Some(stream) = incoming.next().await {
            kept.push(stream);
        }
    });
    (node, address)
}

async fn opens(opening: Opening) {
    let opened = within("the stream", opening).await.unwrap();
    assert!(opened.is_ok(), "{opened:?}");
}

/// Somebody else's dial to the same peer fails while ours is under way: ours goes on, and the opens that
/// wait for it with it. All of them wait for one dial.
/// B4 · rust-libp2p 5996
#[tokio::test]
async fn another_dial_fails_while_ours_is_under_way() {
    let (node, address) = listener().await;
    let (address, gate, mut knocks) = gate(&address).await;
    let dialer = Dialer::new(Config::default(), Duration::from_secs(60));
    dialer.knows(node.id, &address).await;
    let mut openings = Vec::new();
    for _ in 0..10 {
        openings.push(dialer.opening(node.id).await);
    }
    knock(&mut knocks, 1).await;
    dialer.foreign(node.id, &nobody()).await;
    // It has failed when another that was begun after it has.
    let stranger = PeerId::random();
    dialer.knows(stranger, &nobody()).await;
    let failed = within("a failure", dialer.opening(stranger).await).await;
    assert!(matches!(failed.unwrap(), Err(OpenStreamError::Dial(_))));
    gate.send(Gate::Open).unwrap();
    for opening in openings {
        opens(opening).await;
    }
    assert_eq!(*knocks.borrow(), 1);
}

/// A stream is opened while somebody else dials the peer at an address that does not answer: when that has
/// failed, we dial ourselves.
/// B4 · rust-libp2p 4773
#[tokio::test]
async fn another_dial_was_there_first_and_fails() {
    let (node, address) = listener().await;
    let (dead, gate, mut knocks) = gate(&address).await;
    let dialer = Dialer::new(Config::default(), Duration::from_secs(60));
    dialer.knows(node.id, &address).await;
    dialer.foreign(node.id, &dead).await;
    knock(&mut knocks, 1).await;
    let opening = dialer.opening(node.id).await;
    gate.send(Gate::Away).unwrap();
    opens(opening).await;
    // Nobody waits any more: a failure that comes later is nobody's.
    let opening = dialer.opening(node.id).await;
    opens(opening).await;
}

/// The same, and the other dial neither gets through nor fails: it is not waited for longer than opening a
/// stream may take.
/// B4 · core-rs-albatross 741
#[tokio::test]
async fn another_dial_was_there_first_and_is_never_done() {
    let (node, address) = listener().await;
    let (dead, _gate, mut knocks) = gate(&address).await;
    // Time is what is tested.
    let config = Config::default().with_negotiation_timeout(Duration::from_millis(500));
    let dialer = Dialer::new(config, Duration::from_secs(60));
    dialer.knows(node.id, &address).await;
    dialer.foreign(node.id, &dead).await;
    knock(&mut knocks, 1).await;
    opens(dialer.opening(node.id).await).await;
}

/// The same, and the other dial gets through: its connection is used, and nobody dials again.
/// B4
#[tokio::test]
async fn another_dial_was_there_first_and_gets_through() {
    let (node, address) = listener().await;
    let (slow, gate, mut knocks) = gate(&address).await;
    let dialer = Dialer::new(Config::default(), Duration::from_secs(60));
    dialer.foreign(node.id, &slow).await;
    knock(&mut knocks, 1).await;
    let openings = join_all((0..10).map(|_| dialer.opening(node.id))).await;
    gate.send(Gate::Open).unwrap();
    for opening in openings {
        opens(opening).await;
    }
    assert_eq!(*knocks.borrow(), 1);
}

/// Another behaviour denies the connection that an open has waited for, at the last moment: ours, and the
/// open fails with that; somebody else's, and we dial ourselves.
/// B5 · rust-ipfs 97
#[tokio::test]
async fn the_connection_is_denied() {
    let (node, address) = listener().await;
    let dialer = Dialer::new(Config::default(), Duration::from_secs(60));
    dialer.knows(node.id, &address).await;
    dialer
        .swarm
        .ask(|swarm| swarm.behaviour_mut().book.denies = 1)
        .await;
    let denied = within("an error", dialer.opening(node.id).await)
        .await
        .unwrap();
    let Err(OpenStreamError::Dial(why)) = denied else {
        panic!("{denied:?}");
    };
    assert!(why.contains("denied"), "{why}");
    // Somebody else's.
    let (slow, gate, mut knocks) = gate(&address).await;
    dialer.foreign(node.id, &slow).await;
    knock(&mut knocks, 1).await;
    let opening = dialer.opening(node.id).await;
    dialer
        .swarm
        .ask(|swarm| swarm.behaviour_mut().book.denies = 1)
        .await;
    gate.send(Gate::Open).unwrap();
    opens(opening).await;
}

/// The swarm closes idle connections at once: a stream that has to be dialed for is open before the
/// connection counts as idle.
/// B5 · rust-libp2p PR 4967
#[tokio::test]
async fn idle_connections_are_closed_at_once() {
    for listen in ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"] {
        let mut node = Node::new();
        let address = node.listen(listen).await;
        let mut incoming = node.control.accept(PROTOCOL).unwrap();
        let mut dialer = Dialer::new(Config::default(), Duration::ZERO);
        dialer.knows(node.id, &address).await;
        for round in 0..50 {
            let opened = within("the stream", dialer.control.open_stream(node.id, PROTOCOL)).await;
            let mut ours = opened.unwrap_or_else(|error| panic!("{round} on {listen}: {error:?}"));
            let (_, mut theirs) = within("the stream there", incoming.next()).await.unwrap();
            write(&mut ours, 1, 0, 8).await;
            within("the bytes", read(&mut theirs, 1, 0, 8)).await;
            drop((ours, theirs));
            // Each round has to dial anew.
            let closed = |event: &Event| matches!(event, Event::ConnectionClosed { .. });
            node.count("the connection's end", round + 1, closed).await;
            within("the connection's end here", async {
                while !dialer.control.connections(node.id).await.is_empty() {
                    tokio::task::yield_now().await;
                }
            })
            .await;
        }
    }
}

/// The same, and the protocol is one that something else than this crate serves there: the refusal and the
/// plain stream that follows find the connection still there.
/// B5
#[tokio::test]
async fn idle_connections_are_closed_at_once_and_the_stream_is_a_plain_one() {
    for listen in ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"] {
        let mut node = Node::with(Setup {
            plain: true,
            ..Default::default()
        });
        let address = node.listen(listen).await;
        let mut incoming = node.accept_plain(PROTOCOL);
        for round in 0..20 {
            let mut dialer = Dialer::new(Config::default(), Duration::ZERO);
            dialer.knows(node.id, &address).await;
            let opened = within("the stream", dialer.control.open_stream(node.id, PROTOCOL)).await;
            let ours = opened.unwrap_or_else(|error| panic!("{round} on {listen}: {error:?}"));
            assert!(!ours.is_migratable());
            let (_, theirs) = within("the stream there", incoming.next()).await.unwrap();
            drop((ours, theirs));
        }
    }
}
