//! Connections that are closed, by us or for want of use, while something is still on its way on them.

use std::time::Duration;

use futures::{AsyncRead, AsyncWrite, AsyncWriteExt};
use libp2p::{Multiaddr, StreamProtocol, identity::Keypair};
use libp2p_stream_migration::{
    Action, Change, Config, Event, Initiate, PeerView, Policy, PreferDirect, Stay, designated_peer,
};
use testing::*;

const GRACE: Duration = Duration::from_millis(100);
const LENGTH: u64 = 200 * 1024;
/// 500 kbit/s: what is written takes more than three seconds, thirty times the grace.
const RATE: u32 = 500_000 / 8;
const OTHERS: StreamProtocol = StreamProtocol::new("/others/1.0.0");

fn config() -> Config {
    Config::default().with_prune_grace(Some(GRACE))
}

fn setup(config: Config) -> Setup {
    Setup {
        config,
        plain: true,
        ..Default::default()
    }
}

/// Whose stream is on its way when the connection could be closed.
#[derive(Debug, Clone, Copy)]
enum Whose {
    /// One of ours that has stayed where it was.
    Ours,
    /// One that the remote has opened.
    Theirs,
    /// Another behaviour's, of which this crate knows nothing.
    Others,
}

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A slow connection of this kind.
async fn slow(net: &mut Net, kind: Kind) -> Pair {
    let proxy = Proxy::throttled(RATE);
    if kind != Kind::Relayed {
        return proxy.connect(net, kind).await;
    }
    // The dialer's way to the relay is slow.
    let circuit = net.circuit().await;
    let hop: Multiaddr = circuit.iter().take(2).collect();
    let front = proxy.front(&hop).await;
    let address = circuit.iter().skip(2).fold(front, Multiaddr::with);
    net.dialer.dial(&net.listener, address).await
}

/// The dialer's side of a stream on the only connection, and the listener's.
async fn stream(net: &mut Net, whose: Whose, on: Pair) -> (Box<dyn Io>, Box<dyn Io>) {
    let (peer, me) = (net.listener.id, net.dialer.id);
    match whose {
        Whose::Ours => {
            let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
            let (a, b) = open(&mut net.dialer, peer, &mut incoming, on.here).await;
            (Box::new(a), Box::new(b))
        }
        Whose::Theirs => {
            let mut incoming = net.dialer.control.accept(PROTOCOL).unwrap();
            let (b, a) = open(&mut net.listener, me, &mut incoming, on.there).await;
            (Box::new(a), Box::new(b))
        }
        Whose::Others => {
            let mut incoming = net.listener.accept_plain(OTHERS);
            let (a, b) = net.open_plain(&mut incoming, OTHERS).await;
            (Box::new(a), Box::new(b))
        }
    }
}

/// A stream has moved off the slow connection, and another has been written, closed and dropped there, when
/// the dialer would close it. All that was written arrives.
async fn nothing_is_cut(kind: Kind, whose: Whose, policy: impl Policy, asked: bool) {
    let dialer = Node::with(setup(config()).policy(policy));
    let mut net = Net::with(dialer, Node::with(setup(config())));
    let peer = net.listener.id;
    let slow = slow(&mut net, kind).await;
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let (moved, _moved) = open(&mut net.dialer, peer, &mut incoming, slow.here).await;
    drop(incoming);
    let (mut writer, mut reader) = stream(&mut net, whose, slow).await;
    let fast = net.connect(Kind::Tcp).await;
    let migration = net.dialer.control.migrate(moved.key(), fast.here);
    within("the migration", migration).await.unwrap();
    within("writing", async {
        write(&mut writer, 1, 0, LENGTH).await;
        writer.close().await.unwrap();
    })
    .await;
    drop(writer);
    if asked {
        net.dialer.control.close_when_free(peer, slow.here).await;
    }
    let got = within("reading", read_to_end(&mut reader, 1, 0)).await;
    assert_eq!(got, LENGTH, "{kind:?}, {whose:?}: short, with a clean end");
}

/// We relay through a slow server. One stream has moved to the direct connection that came later; another,
/// on the relay, was the upload that had just ended when the relayed connection was closed under it.
///
/// A1
#[tokio::test]
async fn an_upload_that_has_just_ended_on_the_relay() {
    for whose in [Whose::Ours, Whose::Theirs, Whose::Others] {
        nothing_is_cut(Kind::Relayed, whose, Stay, false).await;
    }
}

/// The application has asked to close a connection as soon as it is free; that is not the moment at which
/// the last stream there has been closed and dropped here.
///
/// A1
#[tokio::test]
async fn close_when_free_is_not_close_at_once() {
    for (kind, whose) in [
        (Kind::Tcp, Whose::Ours),
        (Kind::Tcp, Whose::Theirs),
        (Kind::Tcp, Whose::Others),
        (Kind::Relayed, Whose::Ours),
    ] {
        nothing_is_cut(kind, whose, Stay, true).await;
    }
}

/// Closes the first connection.
struct CloseTheFirst;

impl Policy for CloseTheFirst {
    fn changed(&mut self, change: &Change, peer: &PeerView<'_>) -> Vec<Action> {
        match (change, peer.connections()) {
            (Change::Migrated(_), [first, _]) => vec![Action::Close(first.key)],
            _ => Vec::new(),
        }
    }
}

/// A policy says so.
///
/// A1
#[tokio::test]
async fn a_policys_close_is_not_close_at_once() {
    for whose in [Whose::Ours, Whose::Theirs, Whose::Others] {
        nothing_is_cut(Kind::Tcp, whose, CloseTheFirst, false).await;
    }
}

async fn closed(node: &Node, pair: Pair) {
    node.event("the close", |event| match event {
        Event::ConnectionPruned { connection, .. } if *connection == pair.here => Some(()),
        _ => None,
    })
    .await;
}

/// It is closed in the end, though: when what has ended there has had its time.
///
/// A1
#[tokio::test]
async fn it_is_closed_in_the_end() {
    for whose in [Whose::Ours, Whose::Theirs, Whose::Others] {
        let config = || config().with_old_leg_linger(Duration::from_millis(300));
        let dialer = Node::with(setup(config()).policy(Stay));
        let mut net = Net::with(dialer, Node::with(setup(config())));
        let peer = net.listener.id;
        let relayed = net.connect(Kind::Relayed).await;
        let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
        let (moved, _moved) = open(&mut net.dialer, peer, &mut incoming, relayed.here).await;
        drop(incoming);
        let (mut writer, mut reader) = stream(&mut net, whose, relayed).await;
        let direct = net.connect(Kind::Tcp).await;
        let migration = net.dialer.control.migrate(moved.key(), direct.here);
        within("the migration", migration).await.unwrap();
        write(&mut writer, 1, 0, 1000).await;
        writer.close().await.unwrap();
        let got = within("reading", read_to_end(&mut reader, 1, 0)).await;
        assert_eq!(got, 1000);
        drop((writer, reader));
        closed(&net.dialer, relayed).await;
    }
}

/// What happens to a stream before its writer is done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    /// The other side asks something, and ends there.
    Question,
    /// It moves onto the slow connection.
    Move,
}

/// A swarm that closes connections which nobody has used for a third of the time that what is written takes.
fn soon_idle() -> Setup {
    Setup {
        config: Config::default().with_prune_grace(None),
        idle: Duration::from_secs(1),
        ..Default::default()
    }
}

/// The ordinary way to send something: write, close, drop. The path, or the reader, is slow, and the swarm
/// finds the connection idle: the reader got part of it, and a clean end.
///
/// A9 · rust-libp2p 5060
#[tokio::test]
async fn what_was_sent_last_arrives_though_the_connection_goes_idle() {
    for (kind, before) in [
        (Kind::Tcp, Before::Nothing),
        (Kind::Tcp, Before::Question),
        (Kind::Tcp, Before::Move),
        (Kind::Relayed, Before::Nothing),
        (Kind::Relayed, Before::Question),
    ] {
        let mut net = Net::with(Node::with(soon_idle()), Node::with(soon_idle()));
        let peer = net.listener.id;
        let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
        let first = match before {
            Before::Move => Some(net.connect(Kind::Tcp).await),
            _ => None,
        };
        let slow = slow(&mut net, kind).await;
        let on = first.unwrap_or(slow).here;
        // The dialer asks, the listener sends.
        let (mut reader, mut writer) = open(&mut net.dialer, peer, &mut incoming, on).await;
        match before {
            Before::Nothing => {}
            Before::Question => {
                write(&mut reader, 2, 0, 10).await;
                reader.close().await.unwrap();
                read(&mut writer, 2, 0, 10).await;
                read_end(&mut writer).await;
            }
            Before::Move => {
                let moved = net.listener.control.migrate(writer.key(), slow.there);
                within("the move", moved).await.unwrap();
            }
        }
        within("writing", async {
            write(&mut writer, 1, 0, LENGTH).await;
            writer.close().await.unwrap();
        })
        .await;
        drop(writer);
        let got = within("reading", read_to_end(&mut reader, 1, 0)).await;
        assert_eq!(got, LENGTH, "{kind:?}, {before:?}: short, with a clean end");
    }
}

/// It is not kept for longer than it is needed: once the reader has ended the stream too, the connection is idle.
///
/// A9
#[tokio::test]
async fn a_connection_is_idle_once_the_other_side_has_closed_too() {
    let mut net = Net::with(Node::with(soon_idle()), Node::with(soon_idle()));
    let peer = net.listener.id;
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    for kind in [Kind::Tcp, Kind::Quic] {
        let pair = net.connect(kind).await;
        let (mut writer, mut reader) = open(&mut net.dialer, peer, &mut incoming, pair.here).await;
        write(&mut writer, 1, 0, 1000).await;
        writer.close().await.unwrap();
        drop(writer);
        assert_eq!(
            within("reading", read_to_end(&mut reader, 1, 0)).await,
            1000
        );
        let start = std::time::Instant::now();
        reader.close().await.unwrap();
        drop(reader);
        net.dialer
            .wait("the close", |seen| match seen {
                Seen::Closed(closed) if *closed == pair.here => Some(()),
                _ => None,
            })
            .await;
        assert!(
            start.elapsed() < Duration::from_secs(25),
            "kept for the linger time"
        );
    }
}

/// A direct connection has come, and it is the other peer's turn to move the stream there, for five seconds. It does not;
/// by then the idle timeout had closed the connection, and the stream stayed on the relay.
///
/// B14 · rust-libp2p 6140
#[tokio::test]
async fn the_target_is_there_when_it_is_our_turn() {
    let keypairs = [(); 2].map(|()| Keypair::generate_ed25519());
    let ids = [0, 1].map(|n: usize| keypairs[n].public().to_peer_id());
    let [one, two] = keypairs;
    let (waits, starts) = match designated_peer(ids[0], ids[1]) == ids[0] {
        true => (two, one),
        false => (one, two),
    };
    let patience = Duration::from_secs(3);
    let dialer = Setup {
        config: Config::default().with_initiate(Initiate::Designated { patience }),
        // A third of our patience.
        idle: Duration::from_secs(1),
        keypair: waits,
        ..Default::default()
    };
    let listener = Setup {
        keypair: starts,
        ..Default::default()
    };
    let mut net = Net::with(
        Node::with(dialer.policy(PreferDirect)),
        Node::with(listener.policy(Stay)),
    );
    let peer = net.listener.id;
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let relayed = net.connect(Kind::Relayed).await;
    let (_ours, _theirs) = open(&mut net.dialer, peer, &mut incoming, relayed.here).await;
    let direct = net.connect(Kind::Quic).await;
    net.dialer
        .event("the move", |event| match event {
            Event::MigrationCompleted { to, .. } if *to == direct.here => Some(()),
            Event::ConnectionClosed { connection, .. } if *connection == direct.here => {
                panic!("closed before it was our turn")
            }
            _ => None,
        })
        .await;
}
