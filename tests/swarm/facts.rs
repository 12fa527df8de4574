//! Two peers that say facts about their streams beside the legs: no end is guessed.

use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt, FutureExt};
use libp2p_stream_migration::{Config, Event, Stream};
use testing::*;

/// More than a muxer's window, so that a reader is still at it when the writer has gone.
const LARGE: u64 = 1_000_000;

fn config() -> Config {
    Config::default().with_facts(true)
}

fn node() -> Node {
    Node::with(Setup {
        config: config(),
        ..Default::default()
    })
}

fn closes_when_idle() -> Node {
    Node::with(Setup {
        config: config(),
        idle: Duration::from_millis(200),
        ..Default::default()
    })
}

/// A stream between the two, opened by the dialer, whose beginnings both sides have heard.
async fn stream(net: &mut Net, kind: Kind) -> (Stream, Stream, Pair) {
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let pair = net.connect(kind).await;
    let peer = net.listener.id;
    let (mut ours, mut theirs) = open(&mut net.dialer, peer, &mut incoming, pair.here).await;
    write(&mut ours, 1, 0, 10).await;
    read(&mut theirs, 1, 0, 10).await;
    (ours, theirs, pair)
}

/// All that comes, and whether the end is clean.
async fn rest(stream: &mut Stream) -> (usize, bool) {
    let mut bytes = Vec::new();
    let ended = within("an end", stream.read_to_end(&mut bytes)).await;
    (bytes.len(), ended.is_ok())
}

/// I ask, close my side, and read the answer. The other side gives up in the middle of it, or is gone with its
/// connection: I am told, on every muxer, moved before or not. Without facts, that is a clean end.
#[tokio::test]
async fn half_an_answer_is_none() {
    for kind in KINDS {
        for moved in [false, true] {
            for by_drop in [true, false] {
                let mut net = Net::with(node(), node());
                let (mut ours, mut theirs, pair) = stream(&mut net, kind).await;
                let mut last = pair;
                if moved {
                    last = net.connect(kind).await;
                    let migration = net.dialer.control.migrate(ours.key(), last.here);
                    within("the migration", migration).await.unwrap();
                }
                ours.close().await.unwrap();
                read_end(&mut theirs).await;
                write(&mut theirs, 2, 0, 5000).await;
                read(&mut ours, 2, 0, 5000).await;
                match by_drop {
                    true => drop(theirs),
                    false => {
                        net.listener.close(last.there);
                        net.dialer.close(pair.here);
                    }
                }
                let (bytes, clean) = rest(&mut ours).await;
                assert_eq!((bytes, clean), (0, false), "{kind:?} {moved} {by_drop}");
            }
        }
    }
}

/// I write my answer, close it, and let go of it; my connections close when nobody uses them. A reader that takes
/// its time gets all of it.
#[tokio::test]
async fn who_has_closed_and_gone_is_read_to_the_end() {
    for kind in KINDS {
        let mut net = Net::with(closes_when_idle(), closes_when_idle());
        let (mut ours, mut theirs, _) = stream(&mut net, kind).await;
        ours.close().await.unwrap();
        read_end(&mut theirs).await;
        let reader = async {
            let mut at = 0;
            while at < LARGE {
                let to = (at + 50_000).min(LARGE);
                within("the answer", read(&mut ours, 2, at, to)).await;
                at = to;
                // A reader that is slower than its connection would be idle for.
                tokio::time::sleep(Duration::from_millis(40)).await;
            }
            within("the end", read_end(&mut ours)).await;
            drop(ours);
        };
        let writer = async {
            write(&mut theirs, 2, 0, LARGE).await;
            theirs.close().await.unwrap();
            drop(theirs);
        };
        futures::join!(reader, writer);
        for node in [&net.dialer, &net.listener] {
            assert_eq!(node.how_it_ended().await, Ok(()), "{kind:?}");
        }
    }
}

/// The other side has read what it wanted, says so by closing its side, and lets go of the stream. I write on, and am
/// told that nobody reads it; over yamux I would never be.
#[tokio::test]
async fn a_writer_to_nobody_is_told() {
    for kind in KINDS {
        let mut net = Net::with(node(), node());
        let (mut ours, mut theirs, _) = stream(&mut net, kind).await;
        theirs.close().await.unwrap();
        read_end(&mut ours).await;
        drop(theirs);
        let told = async { while ours.write_all(&[0; 1000]).await.is_ok() {} };
        within("word", told).await;
    }
}

/// We both close and let go at once, each before it has heard the other's end. That is nobody's fault.
#[tokio::test]
async fn both_let_go_at_once() {
    for kind in KINDS {
        let mut net = Net::with(node(), node());
        let (mut ours, mut theirs, _) = stream(&mut net, kind).await;
        write(&mut ours, 1, 10, 1000).await;
        futures::join!(
            async {
                ours.close().await.unwrap();
                drop(ours);
            },
            async {
                theirs.close().await.unwrap();
                let (bytes, clean) = rest(&mut theirs).await;
                assert_eq!((bytes, clean), (990, true));
                drop(theirs);
            }
        );
        for node in [&net.dialer, &net.listener] {
            assert_eq!(node.how_it_ended().await, Ok(()), "{kind:?}");
        }
    }
}

/// A thousand short exchanges, from the very first on: every one whole, and nothing is left of any.
#[tokio::test]
async fn short_exchanges_are_whole() {
    for kind in KINDS {
        let mut net = Net::with(node(), node());
        let incoming = net.listener.control.accept(PROTOCOL).unwrap();
        let pair = net.connect(kind).await;
        let server = tokio::spawn(futures::StreamExt::for_each_concurrent(
            incoming,
            None,
            |(_, mut stream)| async move {
                let mut request = Vec::new();
                stream.read_to_end(&mut request).await.unwrap();
                stream.write_all(&request).await.unwrap();
                stream.close().await.unwrap();
            },
        ));
        for _ in 0..50 {
            let mut clients = Vec::new();
            for _ in 0..20 {
                let mut control = net.dialer.control.clone();
                let peer = net.listener.id;
                clients.push(async move {
                    let stream = control.open_stream_on(peer, pair.here, PROTOCOL).await;
                    let mut stream = stream.unwrap();
                    stream.write_all(b"request").await.unwrap();
                    stream.close().await.unwrap();
                    let mut answer = Vec::new();
                    stream.read_to_end(&mut answer).await.unwrap();
                    assert_eq!(answer, b"request");
                });
            }
            within("the answers", futures::future::join_all(clients)).await;
        }
        for node in [&mut net.dialer, &mut net.listener] {
            within("the end of all", async {
                while !node.control.all_streams().await.is_empty() {
                    tokio::task::yield_now().await;
                }
            })
            .await;
            let bad = |event: &Event| matches!(event, Event::StreamEnded { result: Err(_), .. });
            assert!(!node.events().iter().any(bad), "{kind:?}");
        }
        server.abort();
    }
}

/// One of us has facts, the other does not: everything is as it is without.
#[tokio::test]
async fn who_does_not_speak_is_served_as_ever() {
    for here in [true, false] {
        for kind in KINDS {
            let (one, other) = (node(), Node::new());
            let mut net = match here {
                true => Net::with(one, other),
                false => Net::with(other, one),
            };
            let (mut ours, mut theirs, _) = stream(&mut net, kind).await;
            let direct = net.connect(Kind::Quic).await;
            let migration = net.dialer.control.migrate(ours.key(), direct.here);
            within("the migration", migration).await.unwrap();
            write(&mut ours, 1, 10, 50_000).await;
            ours.close().await.unwrap();
            let both = async {
                read(&mut theirs, 1, 10, 50_000).await;
                read_end(&mut theirs).await;
                write(&mut theirs, 2, 0, 50_000).await;
                theirs.close().await.unwrap();
            };
            let reading = async {
                read(&mut ours, 2, 0, 50_000).await;
                read_end(&mut ours).await;
            };
            within("the exchange", async { futures::join!(both, reading) }).await;
            drop((ours, theirs));
            for node in [&net.dialer, &net.listener] {
                assert_eq!(node.how_it_ended().await, Ok(()), "{kind:?}");
            }
        }
    }
}

/// Streams move back and forth while they are written, closed and let go of.
#[tokio::test]
async fn they_move_as_ever() {
    for kinds in [[Kind::Tcp, Kind::Quic], [Kind::Relayed, Kind::Tcp]] {
        let mut net = Net::with(node(), node());
        let (mut ours, mut theirs, first) = stream(&mut net, kinds[0]).await;
        let second = net.connect(kinds[1]).await;
        let (here, there) = (ours.key(), theirs.key());
        let mut movers = [net.dialer.control.clone(), net.listener.control.clone()];
        let moves = async {
            for turn in 0..10 {
                let pair = [second, first][turn % 2];
                let _ = match turn % 3 {
                    0 => movers[1].migrate(there, pair.there).await,
                    _ => movers[0].migrate(here, pair.here).await,
                };
            }
        };
        let writing = async {
            write(&mut ours, 1, 10, LARGE).await;
            ours.close().await.unwrap();
            assert_eq!(read_to_end(&mut ours, 2, 0).await, LARGE);
            drop(ours);
        };
        let answering = async {
            assert_eq!(read_to_end(&mut theirs, 1, 10).await, LARGE);
            write(&mut theirs, 2, 0, LARGE).await;
            theirs.close().await.unwrap();
            drop(theirs);
        };
        within("all of it", async {
            futures::join!(moves, writing, answering)
        })
        .boxed()
        .await;
        for node in [&net.dialer, &net.listener] {
            assert_eq!(node.how_it_ended().await, Ok(()), "{kinds:?}");
        }
    }
}
