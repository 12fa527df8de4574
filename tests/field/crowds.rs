//! Many streams at once: bursts, full connections, opens whose caller has given up.

use std::{io, pin::Pin, time::Duration};

use futures::{AsyncReadExt, FutureExt, StreamExt, future::join_all};
use libp2p::{PeerId, StreamProtocol};
use libp2p_stream_migration::ConnectionKey;
use libp2p_stream_migration::{
    Chain, Config, Control, Event, IncomingStreams, Initiate, Obstacle, OpenStreamError,
    PROTOCOL_NAME, PreferDirect, PreferTransport, Stream,
};
use testing::*;

type Opening = Pin<Box<dyn Future<Output = Result<Stream, OpenStreamError>>>>;

/// A call that has been made and is waited for.
fn opening(control: &Control, peer: PeerId, on: ConnectionKey) -> Opening {
    let mut control = control.clone();
    let open = async move { control.open_stream_on(peer, on, PROTOCOL).await };
    let mut open: Opening = Box::pin(open);
    assert!(open.as_mut().now_or_never().is_none());
    open
}

fn is_refused(opened: &Result<Stream, OpenStreamError>) -> bool {
    matches!(opened, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// Callers have set a timeout for their opens, which has passed; they hold no place, and later calls are
/// not refused for their sake.
/// B15 · rust-libp2p 6157
#[tokio::test]
async fn callers_who_have_given_up_hold_no_place() {
    const PLACES: usize = 8;
    /// How many a connection is asked for at once.
    const ASKED: usize = 64;
    let dialer = Node::with(Setup {
        config: Config::default().with_max_pending_opens(PLACES),
        ..Default::default()
    });
    let net = Net::with(dialer, Node::new());
    let path = Proxy::default();
    let on = path.connect(&net, Kind::Tcp).await.here;
    path.silence();
    let (control, peer) = (&net.dialer.control, net.listener.id);
    let given_up: Vec<_> = (0..ASKED + PLACES)
        .map(|_| opening(control, peer, on))
        .collect();
    let refused = within("a refusal", opening(control, peer, on)).await;
    assert!(is_refused(&refused), "{refused:?}");
    drop(given_up);
    let live: Vec<_> = (0..PLACES).map(|_| opening(control, peer, on)).collect();
    let refused = within("a refusal", opening(control, peer, on)).await;
    assert!(is_refused(&refused), "{refused:?}");
    for mut live in live {
        assert!(live.as_mut().now_or_never().is_none());
    }
}

/// A caller gives up while the remote thinks about its protocol: the stream is let go of at once, and the
/// next caller has one of its own.
/// B15 · rust-libp2p 5651
#[tokio::test]
async fn a_caller_gives_up_while_the_protocol_is_negotiated() {
    // By another name, the protocol's real name is a protocol like any other.
    let raw = Node::with(Setup {
        config: Config::default().with_protocol_name(StreamProtocol::new("/raw")),
        ..Default::default()
    });
    let mut net = Net::with(Node::new(), raw);
    let mut inside = net.listener.control.accept(PROTOCOL_NAME).unwrap();
    let on = net.connect(Kind::Tcp).await.here;
    let peer = net.listener.id;
    let given_up = opening(&net.dialer.control, peer, on);
    let (_, mut leg) = within("the label", inside.next()).await.unwrap();
    within("the label's first byte", leg.read_exact(&mut [0]))
        .await
        .unwrap();
    drop(given_up);
    let mut said = Vec::new();
    // A reset, on some transports; the label and the offer before it.
    let _ = within("it is let go of", leg.read_to_end(&mut said)).await;
    let over = |event: &Event| matches!(event, Event::StreamEnded { .. }).then_some(());
    net.dialer.event("the end", over).await;
    assert!(net.dialer.control.streams(peer).await.is_empty());
}

/// Accepts everything, and keeps each stream until the remote has no more use for it.
fn keep_all(mut incoming: IncomingStreams) {
    tokio::spawn(async move {
        while let Some((_, mut stream)) = incoming.next().await {
            tokio::spawn(async move { while let Ok(1..) = stream.read(&mut [0; 64]).await {} });
        }
    });
}

/// Hundreds of streams are open, and a burst of hundreds more comes at once. A muxer with too many streams
/// ends, with all of them.
///
/// B8 · rust-yamux PR 223, rust-libp2p 3041
#[tokio::test]
async fn a_burst_does_not_end_the_connection() {
    for (named, limit) in [(false, 192), (true, 448)] {
        for kind in [Kind::Tcp, Kind::Quic] {
            let config = Config::default()
                .with_max_pending_opens(1000)
                .with_negotiation_timeout(Duration::from_millis(1500));
            let node = || {
                Node::with(Setup {
                    config: config.clone(),
                    ..Default::default()
                })
            };
            let mut net = Net::with(node(), node());
            let incoming = net.listener.control.accept(PROTOCOL).unwrap();
            keep_all(incoming);
            let connection = net.connect(kind).await;
            let peer = net.listener.id;
            let burst = |number| {
                let control = net.dialer.control.clone();
                join_all((0..number).map(move |_| {
                    let mut control = control.clone();
                    async move {
                        match named {
                            true => {
                                let on = connection.here;
                                control.open_stream_on(peer, on, PROTOCOL).await
                            }
                            false => control.open_stream(peer, PROTOCOL).await,
                        }
                    }
                }))
            };
            let mut live = Vec::new();
            let mut beyond = 0;
            for number in [150, 500] {
                for result in within("the burst", burst(number)).await {
                    match result {
                        Ok(stream) => live.push(stream),
                        Err(error) => {
                            let kind = error.kind();
                            let expected = [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut];
                            assert!(expected.contains(&kind), "{error:?}");
                            beyond += 1;
                        }
                    }
                }
            }
            // A QUIC connection holds 256 by itself.
            let holds = if kind == Kind::Quic {
                limit.min(256)
            } else {
                limit
            };
            assert_eq!(live.len(), holds, "{kind:?}");
            assert_eq!(live.len() + beyond, 650);
            for stream in &mut live {
                write(stream, 1, 0, 10).await;
            }
            let closed = |event: &Event| matches!(event, Event::ConnectionClosed { .. });
            assert!(!net.dialer.events().iter().any(closed));
            // What waits for room gets it.
            drop(live.split_off(10));
            let opened = within("room", net.dialer.control.open_stream(peer, PROTOCOL)).await;
            opened.unwrap();
        }
    }
}

/// An open that waits for room gets it when a stream ends, and the connection says what speaks against it.
///
/// B8
#[tokio::test]
async fn an_open_waits_its_turn() {
    let config = Config::default().with_max_streams_per_connection(2);
    let mut net = Net::with(
        Node::with(Setup {
            config,
            ..Default::default()
        }),
        Node::new(),
    );
    keep_all(net.listener.control.accept(PROTOCOL).unwrap());
    let connection = net.connect(Kind::Tcp).await;
    let peer = net.listener.id;
    let mut live = Vec::new();
    for _ in 0..2 {
        let opened = within("opening", net.dialer.control.open_stream(peer, PROTOCOL)).await;
        live.push(opened.unwrap());
    }
    let info = net.dialer.connection(peer, connection.here).await;
    assert_eq!(info.obstacle(), Some(Obstacle::Full));
    let mut control = net.dialer.control.clone();
    let mut third = Box::pin(control.open_stream(peer, PROTOCOL));
    assert!(third.as_mut().now_or_never().is_none());
    // The behaviour has heard of it.
    net.dialer.control.connections(peer).await;
    assert!(third.as_mut().now_or_never().is_none());
    drop(live.pop());
    within("the third", third).await.unwrap();
}

async fn opens(
    net: &mut Net,
    incoming: &mut IncomingStreams,
    on: ConnectionKey,
    number: usize,
) -> Vec<(Stream, Stream)> {
    let peer = net.listener.id;
    let mut streams = Vec::new();
    for _ in 0..number {
        streams.push(open(&mut net.dialer, peer, incoming, on).await);
    }
    streams
}

/// More streams are on the relay than the best direct connection takes. The others stay on the relay,
/// though there is a second direct one, and die with its limit.
///
/// B13
#[tokio::test]
async fn the_second_best_takes_what_the_best_has_no_room_for() {
    for second_comes_late in [false, true] {
        let config = Config::default()
            .with_initiate(Initiate::Either)
            .with_max_streams_per_connection(5);
        let policy = || Chain::new(PreferDirect).then(PreferTransport::default());
        let dialer = Setup {
            config,
            policy: Box::new(policy()),
            ..Default::default()
        };
        let mut net = Net::with(Node::with(dialer), Node::new());
        let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
        let relayed = net.connect(Kind::Relayed).await;
        let streams = opens(&mut net, &mut incoming, relayed.here, 12).await;
        let kinds = match second_comes_late {
            true => [Kind::Quic, Kind::Tcp],
            false => [Kind::Tcp, Kind::Quic],
        };
        let first = net.connect(kinds[0]).await;
        if second_comes_late {
            let is_move = |event: &Event| matches!(event, Event::MigrationCompleted { .. });
            net.dialer.count("moves", 5, is_move).await;
        }
        let second = net.connect(kinds[1]).await;
        within("ten off the relay", async {
            loop {
                let on = |id| {
                    let there = |it: &&(Stream, Stream)| it.0.connection() == Some(id);
                    streams.iter().filter(there).count()
                };
                if (on(first.here), on(second.here), on(relayed.here)) == (5, 5, 2) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

/// Streams that wait for room on a better connection are told of.
///
/// B16 · js-libp2p-yamux 56, js-libp2p 1695
#[tokio::test]
async fn who_waits_for_room_is_told_of() {
    let config = Config::default()
        .with_initiate(Initiate::Either)
        .with_max_streams_per_connection(2);
    let dialer = Setup {
        config,
        policy: Box::new(PreferDirect),
        ..Default::default()
    };
    let mut net = Net::with(Node::with(dialer), Node::new());
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let relayed = net.connect(Kind::Relayed).await;
    let streams = opens(&mut net, &mut incoming, relayed.here, 3).await;
    let direct = net.connect(Kind::Tcp).await;
    let waiting = net
        .dialer
        .event("who waits", |event| match event {
            Event::MigrationWaiting { key, to, .. } => {
                assert_eq!(*to, direct.here);
                Some(*key)
            }
            _ => None,
        })
        .await;
    let is_move = |event: &Event| matches!(event, Event::MigrationCompleted { .. });
    net.dialer.count("moves", 2, is_move).await;
    let peer = net.listener.id;
    let infos = net.dialer.control.streams(peer).await;
    let waits: Vec<_> = infos.iter().filter(|it| it.waiting_for.is_some()).collect();
    assert_eq!(waits.len(), 1);
    assert_eq!(
        (waits[0].key, waits[0].waiting_for),
        (waiting, Some(direct.here))
    );
    assert_eq!(waits[0].connection, Some(relayed.here));
    drop(streams);
}
