//! Streams that outlive their connections: the application notices a pause.

use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p_stream_migration::{Abort, Config, Event, Stream, StreamKey};
use testing::*;
use web_time::Instant;

/// More than the muxers and sockets of both sides hold.
const LARGE: u64 = 4_000_000;

fn config() -> Config {
    Config::default().with_resume(true)
}

fn with(config: Config) -> Node {
    Node::with(Setup {
        config,
        ..Default::default()
    })
}

fn net() -> Net {
    Net::with(with(config()), with(config()))
}

/// A stream on this connection that its dialer, or its listener, has opened, whose beginnings both sides have heard.
async fn stream(net: &mut Net, pair: Pair, by_dialer: bool) -> (Stream, Stream) {
    let (opener, acceptor, on) = match by_dialer {
        true => (&mut net.dialer, &mut net.listener, pair.here),
        false => (&mut net.listener, &mut net.dialer, pair.there),
    };
    let mut incoming = acceptor.control.accept(PROTOCOL).unwrap();
    let peer = acceptor.id;
    let (mut ours, mut theirs) = open(opener, peer, &mut incoming, on).await;
    write(&mut ours, 1, 0, 10).await;
    read(&mut theirs, 1, 0, 10).await;
    write(&mut theirs, 2, 0, 10).await;
    read(&mut ours, 2, 0, 10).await;
    within("knowing that both resume", async {
        while !(ours.is_resumable() && theirs.is_resumable()) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    (ours, theirs)
}

/// Both write all the time, close, and read to the end; every byte is as it was written.
async fn both_ways(ours: Stream, theirs: Stream) {
    let flow = |stream: Stream, writes: u64, reads: u64| async move {
        let (mut reader, mut writer) = stream.split();
        futures::join!(
            async {
                write(&mut writer, writes, 10, LARGE).await;
                within("closing", writer.close()).await.unwrap();
            },
            async {
                read(&mut reader, reads, 10, LARGE).await;
                read_end(&mut reader).await;
            }
        );
    };
    within("all of it", async {
        futures::join!(flow(ours, 1, 2), flow(theirs, 2, 1));
    })
    .await;
}

async fn is_suspended(node: &Node, key: StreamKey) {
    node.event("the loss", |event| match event {
        Event::StreamSuspended { key: of, .. } if *of == key => Some(()),
        _ => None,
    })
    .await;
}

async fn goes_on(node: &Node, key: StreamKey) {
    node.event("another leg", |event| match event {
        Event::StreamResumed { key: of, .. } if *of == key => Some(()),
        _ => None,
    })
    .await;
}

fn connections(node: &Node) -> usize {
    let is = |event: &&Event| matches!(event, Event::ConnectionEstablished(_));
    node.events().iter().filter(is).count()
}

/// My connection is lost in the middle of everything, and there is another to the same peer. Both of us go on there,
/// whoever opened the stream; not a byte is lost, or comes twice.
#[tokio::test]
async fn a_stream_goes_on_beside_its_lost_connection() {
    for other in KINDS {
        for by_dialer in [true, false] {
            let mut net = net();
            let path = Proxy::default();
            let first = path.connect(&net, Kind::Tcp).await;
            let (ours, theirs) = stream(&mut net, first, by_dialer).await;
            net.connect(other).await;
            let key = if by_dialer { ours.key() } else { theirs.key() };
            let cut = async {
                tokio::time::sleep(Duration::from_millis(30)).await;
                path.cut();
                goes_on(&net.dialer, key).await;
            };
            futures::join!(both_ways(ours, theirs), cut);
            for node in [&net.dialer, &net.listener] {
                assert_eq!(node.how_it_ended().await, Ok(()), "{other:?} {by_dialer}");
            }
        }
    }
}

/// The only connection is lost, and the path is away for a while. What is written meanwhile is kept; my side dials
/// until somebody answers, and both go on, whoever opened the stream.
#[tokio::test]
async fn a_stream_outlives_its_only_connection() {
    for by_dialer in [true, false] {
        let mut net = net();
        let path = Proxy::default();
        let first = path.connect(&net, Kind::Tcp).await;
        let (ours, theirs) = stream(&mut net, first, by_dialer).await;
        let key = if by_dialer { ours.key() } else { theirs.key() };
        let cut = async {
            tokio::time::sleep(Duration::from_millis(30)).await;
            path.cut();
            is_suspended(&net.dialer, key).await;
            tokio::time::sleep(Duration::from_millis(700)).await;
            path.mend();
            goes_on(&net.dialer, key).await;
        };
        futures::join!(both_ways(ours, theirs), cut);
        for node in [&net.dialer, &net.listener] {
            assert_eq!(node.how_it_ended().await, Ok(()), "{by_dialer}");
        }
    }
}

/// I have asked, and closed my side; the answer is written, its writer has closed and gone, and then the connection
/// is lost before I have read it. I get all of it, and a clean end.
#[tokio::test]
async fn an_answer_outlives_its_writer_and_its_connection() {
    for by_dialer in [true, false] {
        let mut net = net();
        let path = Proxy::default();
        let first = path.connect(&net, Kind::Tcp).await;
        let (mut ours, mut theirs) = stream(&mut net, first, by_dialer).await;
        net.connect(Kind::Quic).await;
        ours.close().await.unwrap();
        read_end(&mut theirs).await;
        write(&mut theirs, 2, 10, 100_000).await;
        theirs.close().await.unwrap();
        drop(theirs);
        path.cut();
        within("the answer", read(&mut ours, 2, 10, 100_000)).await;
        within("the end", read_end(&mut ours)).await;
        drop(ours);
        for node in [&net.dialer, &net.listener] {
            assert_eq!(node.how_it_ended().await, Ok(()), "{by_dialer}");
        }
    }
}

/// I close the connection on purpose. Its streams end at once on both sides, nobody dials, and nothing is kept.
#[tokio::test]
async fn what_is_closed_on_purpose_stays_closed() {
    for kind in KINDS {
        for (by_dialer, closes) in [(true, true), (true, false), (false, true), (false, false)] {
            let mut net = net();
            let pair = net.connect(kind).await;
            let (mut ours, mut theirs) = stream(&mut net, pair, by_dialer).await;
            let before = [connections(&net.dialer), connections(&net.listener)];
            match closes {
                true => net.dialer.close(pair.here),
                false => net.listener.disconnect(net.dialer.id),
            }
            let start = Instant::now();
            for stream in [&mut ours, &mut theirs] {
                let error = within("the end", stream.read(&mut [0])).await.unwrap_err();
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
            }
            assert!(
                start.elapsed() < Duration::from_secs(5),
                "{kind:?} {closes}"
            );
            // Longer than anybody would wait for a first dial.
            tokio::time::sleep(Duration::from_millis(1300)).await;
            let after = [connections(&net.dialer), connections(&net.listener)];
            assert_eq!(
                before, after,
                "{kind:?}, opened by dialer: {by_dialer}, {closes}"
            );
        }
    }
}

/// Nobody comes back. The stream ends in an error, when I have said that it should.
#[tokio::test]
async fn nobody_comes_back() {
    let patience = Duration::from_millis(600);
    let config = || config().with_resume_timeout(patience);
    let mut net = Net::with(with(config()), with(config()));
    let path = Proxy::default();
    let first = path.connect(&net, Kind::Tcp).await;
    let (mut ours, mut theirs) = stream(&mut net, first, true).await;
    let start = Instant::now();
    path.cut();
    for stream in [&mut ours, &mut theirs] {
        let error = within("the end", stream.read(&mut [0])).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    assert!(start.elapsed() >= patience);
    for node in [&net.dialer, &net.listener] {
        assert_eq!(node.how_it_ended().await, Err(Abort::LegLost));
    }
}

/// The other side was restarted with its key. What was open is over at once: nobody waits for streams of a process
/// that is gone, or gets bytes of another one's.
#[tokio::test]
async fn a_restarted_peer_holds_nothing() {
    for by_dialer in [true, false] {
        let keypair = libp2p::identity::Keypair::generate_ed25519();
        let life = || {
            Node::with(Setup {
                config: config().with_first_id(7),
                keypair: keypair.clone(),
                ..Default::default()
            })
        };
        let mut net = Net::with(with(config()), life());
        let pair = net.connect(Kind::Tcp).await;
        let (mut ours, mut theirs) = stream(&mut net, pair, by_dialer).await;
        if !by_dialer {
            std::mem::swap(&mut ours, &mut theirs);
        }
        let address = net.dialer.listen("/ip4/127.0.0.1/tcp/0").await;
        net.listener = life();
        drop(theirs);
        net.listener.dial(&net.dialer, address).await;
        let error = within("the end", ours.read(&mut [0])).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}

/// A path goes silent, as it does when Wi-Fi is left; the other connection answers. What I write and read goes on
/// there, and the bytes that were under way are not lost.
#[tokio::test]
async fn a_silent_path_is_left() {
    for kind in [Kind::Tcp, Kind::Quic] {
        for by_dialer in [true, false] {
            let mut net = net();
            let path = Proxy::default();
            let first = path.connect(&net, kind).await;
            let (ours, theirs) = stream(&mut net, first, by_dialer).await;
            net.connect(Kind::Tcp).await;
            let key = if by_dialer { ours.key() } else { theirs.key() };
            let silence = async {
                tokio::time::sleep(Duration::from_millis(30)).await;
                path.silence();
                let since = Instant::now();
                goes_on(&net.dialer, key).await;
                since.elapsed()
            };
            let ((), pause) = futures::join!(both_ways(ours, theirs), silence);
            println!("{kind:?}, opened by the dialer: {by_dialer}: {pause:?}");
            assert!(pause < Duration::from_secs(5), "{pause:?}");
            for node in [&net.dialer, &net.listener] {
                assert_eq!(node.how_it_ended().await, Ok(()), "{kind:?} {by_dialer}");
            }
        }
    }
}

/// I want to know that what I wrote is there, not only that it has left: on a lost connection, too.
#[tokio::test]
async fn what_is_delivered_is_known_to_be() {
    let mut net = net();
    let path = Proxy::default();
    let first = path.connect(&net, Kind::Tcp).await;
    let (mut ours, mut theirs) = stream(&mut net, first, true).await;
    net.connect(Kind::Tcp).await;
    write(&mut ours, 1, 10, 50_000).await;
    path.cut();
    {
        let delivered = ours.delivered();
        futures::pin_mut!(delivered);
        // Nobody has read it.
        goes_on(&net.listener, theirs.key()).await;
        assert!(futures::poll!(&mut delivered).is_pending());
        let reader = async {
            read(&mut theirs, 1, 10, 50_000).await;
            read_end(&mut theirs).await;
        };
        let ((), delivered) = within("word", async { futures::join!(reader, delivered) }).await;
        delivered.unwrap();
    }
    // Of a peer that does not speak, nobody knows.
    let mut net = Net::with(with(config()), with(Config::default()));
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let pair = net.connect(Kind::Tcp).await;
    let peer = net.listener.id;
    let (mut ours, _theirs) = open(&mut net.dialer, peer, &mut incoming, pair.here).await;
    let error = within("an answer", ours.delivered()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::Unsupported);
}

/// A connection with many streams is lost, and all of them go on beside it.
#[tokio::test]
async fn many_go_on_at_once() {
    const STREAMS: usize = 150;
    for kind in [Kind::Tcp, Kind::Quic] {
        let mut net = net();
        let path = Proxy::default();
        let first = path.connect(&net, Kind::Tcp).await;
        let mut pairs = Vec::new();
        for number in 0..STREAMS {
            pairs.push(stream(&mut net, first, number % 2 == 0).await);
        }
        net.connect(kind).await;
        path.cut();
        let start = Instant::now();
        let all = pairs.into_iter().map(|(mut ours, mut theirs)| async move {
            write(&mut ours, 1, 10, 3000).await;
            read(&mut theirs, 1, 10, 3000).await;
            write(&mut theirs, 2, 10, 3000).await;
            read(&mut ours, 2, 10, 3000).await;
        });
        within("all of them", futures::future::join_all(all)).await;
        println!(
            "{STREAMS} streams went on over {kind:?} after {:?}",
            start.elapsed()
        );
    }
}

/// My phone says that its network has changed: the silent path is left at once, and I need not wait to find out.
#[tokio::test]
async fn a_change_of_network_is_a_hint() {
    let config = || config().with_reader_probe(None);
    let mut net = Net::with(with(config()), with(config()));
    let path = Proxy::default();
    let first = path.connect(&net, Kind::Tcp).await;
    let (mut ours, mut theirs) = stream(&mut net, first, true).await;
    net.connect(Kind::Tcp).await;
    path.silence();
    // Nobody has written anything, so nobody misses anything.
    let key = ours.key();
    net.dialer.control.network_changed().await;
    within("another leg", goes_on(&net.dialer, key)).await;
    write(&mut ours, 1, 10, 3000).await;
    read(&mut theirs, 1, 10, 3000).await;
}

/// The newest connection goes silent while I only read, and what is written to me gets stuck there: the other side
/// says so where I hear it.
#[tokio::test]
async fn a_reader_on_a_silent_path_is_told() {
    for kind in [Kind::Tcp, Kind::Quic] {
        for by_dialer in [true, false] {
            let mut net = net();
            net.connect(Kind::Tcp).await;
            let path = Proxy::default();
            let newest = path.connect(&net, kind).await;
            let (mut ours, mut theirs) = stream(&mut net, newest, by_dialer).await;
            path.silence();
            let since = Instant::now();
            write(&mut theirs, 2, 10, 10_000).await;
            within("the rest", read(&mut ours, 2, 10, 10_000)).await;
            let pause = since.elapsed();
            println!("{kind:?}, opened by the dialer: {by_dialer}: {pause:?}");
            assert!(pause < Duration::from_secs(5), "{pause:?}");
        }
    }
}

/// The only path goes silent, and nobody tells us. Whoever waits dials, be it to read or to write, and the stream goes
/// on there.
#[tokio::test]
async fn the_only_path_goes_silent() {
    for reads in [true, false] {
        let config = || config().with_reader_probe(Some(Duration::from_secs(1)));
        let mut net = Net::with(with(config()), with(config()));
        let way = net.address(Kind::Tcp).await;
        let path = Proxy::default();
        let first = path.connect(&net, Kind::Tcp).await;
        let (mut ours, mut theirs) = stream(&mut net, first, true).await;
        let (dialer, peer) = (&net.dialer, net.listener.id);
        dialer.knows(peer, way);
        path.silence();
        let (write_to, read_from, seed) = match reads {
            true => (&mut theirs, &mut ours, 2),
            false => (&mut ours, &mut theirs, 1),
        };
        let since = Instant::now();
        write(write_to, seed, 10, 10_000).await;
        within("the rest", read(read_from, seed, 10, 10_000)).await;
        println!("the dialer reads: {reads}: {:?}", since.elapsed());
        assert!(since.elapsed() < Duration::from_secs(20));
    }
}

/// My peer was restarted behind a path that had gone silent before; the new one calls me, and the old one's streams are
/// over, though nobody has told me that their connection is.
#[tokio::test]
async fn a_peer_restarts_behind_a_silent_path() {
    let keypair = libp2p::identity::Keypair::generate_ed25519();
    let life = || {
        Node::with(Setup {
            config: config(),
            keypair: keypair.clone(),
            ..Default::default()
        })
    };
    let mut net = Net::with(with(config()), life());
    let path = Proxy::default();
    let first = path.connect(&net, Kind::Tcp).await;
    let (mut ours, _theirs) = stream(&mut net, first, true).await;
    path.silence();
    let address = net.dialer.listen("/ip4/127.0.0.1/tcp/0").await;
    net.listener = life();
    net.listener.dial(&net.dialer, address).await;
    write(&mut ours, 1, 10, 1000).await;
    let start = Instant::now();
    let error = within("the end", ours.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(
        start.elapsed() < Duration::from_secs(15),
        "{:?}",
        start.elapsed()
    );
}

/// We both write a lot before either reads, which the muxer has room for: nobody waits for ever for what is kept to
/// arrive. What is too much is not kept, and when all of it has arrived, the stream outlives its connection again.
#[tokio::test]
async fn both_write_before_they_read() {
    let mut net = net();
    let pair = net.connect(Kind::Quic).await;
    let (mut ours, mut theirs) = stream(&mut net, pair, true).await;
    within("writing", async {
        futures::join!(
            write(&mut ours, 1, 10, LARGE),
            write(&mut theirs, 2, 10, LARGE)
        );
    })
    .await;
    assert!(!ours.is_resumable() && !theirs.is_resumable());
    within("reading", async {
        futures::join!(
            read(&mut ours, 2, 10, LARGE),
            read(&mut theirs, 1, 10, LARGE)
        );
    })
    .await;
    within("knowing that all has arrived", async {
        while !(ours.is_resumable() && theirs.is_resumable()) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// All my streams together write more than may be kept. None waits for another's reader; those of which something is not
/// kept end in an error when their connection is lost, and never in a gap.
#[tokio::test]
async fn more_than_may_be_kept() {
    let config = || config().with_max_replay(150_000);
    let mut net = Net::with(with(config()), with(config()));
    let path = Proxy::default();
    let first = path.connect(&net, Kind::Tcp).await;
    let mut pairs = Vec::new();
    for _ in 0..4 {
        pairs.push(stream(&mut net, first, true).await);
    }
    net.connect(Kind::Tcp).await;
    for (ours, _) in &mut pairs {
        within("a write that waits for nobody", write(ours, 1, 10, 100_000)).await;
    }
    let kept: Vec<_> = pairs.iter().map(|(ours, _)| ours.is_resumable()).collect();
    assert!(kept.contains(&true) && kept.contains(&false), "{kept:?}");
    path.cut();
    for (is_kept, (_ours, mut theirs)) in kept.into_iter().zip(pairs) {
        let mut at = 10;
        let mut buf = [0; 4096];
        let ended = within("the rest, or an error", async {
            while at < 100_000 {
                match theirs.read(&mut buf).await {
                    Ok(n) => {
                        assert_ne!(n, 0, "a clean end");
                        let wrong = (0..n).find(|i| buf[*i] != byte(1, at + *i as u64));
                        assert_eq!(wrong, None, "at {at}");
                        at += n as u64;
                    }
                    Err(error) => return Err(error.kind()),
                }
            }
            Ok(())
        })
        .await;
        match is_kept {
            true => assert_eq!(ended, Ok(())),
            false => assert_eq!(ended, Err(std::io::ErrorKind::ConnectionReset)),
        }
    }
}

/// The pauses of streams whose path goes silent beside another, in figures: `RUNS=200` of each kind.
#[tokio::test]
#[ignore = "figures, not a test"]
async fn silent_paths_in_figures() {
    let runs = std::env::var("RUNS").map_or(20, |runs| runs.parse().unwrap());
    for kind in [Kind::Quic, Kind::Tcp, Kind::Relayed] {
        let mut pauses = Vec::new();
        while pauses.len() < runs {
            let batch = (0..4).map(|_| pause_of(kind));
            pauses.extend(futures::future::join_all(batch).await);
        }
        pauses.sort_unstable();
        let at = |percent: usize| pauses[(pauses.len() - 1) * percent / 100];
        println!(
            "{kind:?}: p50 {:?}, p99 {:?}, of {}",
            at(50),
            at(99),
            pauses.len()
        );
    }
}

/// The longest time without a byte, of a reader to whom something is always on its way.
async fn pause_of(kind: Kind) -> Duration {
    let mut net = net();
    let path = Proxy::default();
    let first = match kind {
        Kind::Relayed => {
            let circuit = net.circuit().await;
            let front = path.front(&circuit).await;
            let rest: libp2p::Multiaddr = circuit.iter().skip(2).collect();
            let address = front.iter().chain(rest.iter()).collect();
            net.dialer.dial(&net.listener, address).await
        }
        _ => path.connect(&net, kind).await,
    };
    let (mut ours, mut theirs) = stream(&mut net, first, true).await;
    net.connect(Kind::Tcp).await;
    let until = Instant::now() + Duration::from_millis(2500);
    let writer = async {
        while Instant::now() < until {
            ours.write_all(&[1; 1000]).await.unwrap();
            ours.flush().await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        ours.close().await.unwrap();
    };
    let reader = async {
        let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
        while theirs.read(&mut [0; 4096]).await.unwrap() > 0 {
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
        longest
    };
    let silence = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        path.silence();
    };
    let ((), longest, ()) = futures::join!(writer, reader, silence);
    longest
}
