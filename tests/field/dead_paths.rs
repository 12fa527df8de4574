//! Connections that are there and do not answer, beside ones that do.

use std::time::{Duration, Instant};

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt, future::join_all, join};
use libp2p_stream_migration::{
    Chain, Config, Event, Initiate, MigrateError, Mobility, Obstacle, Stay, Stream,
};
use testing::*;

/// What an open may take that does not wait for a dead connection; that would take 10 s.
const SOON: Duration = Duration::from_secs(5);

/// Starts at once, and with this policy.
fn node(policy: bool, config: Config, identify: bool, lazy: bool) -> Node {
    let config = config.with_initiate(Initiate::Either);
    Node::with(Setup {
        config,
        identify,
        lazy,
        policy: match policy {
            true => Box::new(Chain::default()),
            false => Box::new(Stay),
        },
        ..Default::default()
    })
}

/// Short, so that the tests are.
fn impatient() -> Config {
    Config::default()
        .with_open_head_start(Duration::from_millis(200))
        .with_suspect_after(Duration::from_millis(300))
        .with_answer_timeout(Duration::from_secs(2))
        .with_progress_timeout(Duration::from_secs(2))
}

/// The remote has told what it speaks, and where it listens.
async fn identified(node: &Node) {
    node.wait("Identify", |seen| match seen {
        Seen::Identified(_) => Some(()),
        _ => None,
    })
    .await;
}

async fn suspected(
    node: &Node,
    connection: libp2p_stream_migration::ConnectionKey,
    expected: bool,
) {
    node.event("a suspicion", |event| match event {
        Event::ConnectionChanged(info) if info.key == connection => {
            (info.suspected == expected).then_some(())
        }
        _ => None,
    })
    .await;
}

/// My Wi-Fi has changed, the peer has dialed again, and my old connection does not know yet that it is
/// dead. Every new stream goes there and times out, one after the other.
///
/// B1 · tari-ootle PR 2530, go-libp2p 634
#[tokio::test]
async fn new_streams_do_not_wait_for_a_dead_connection() {
    for kind in [Kind::Tcp, Kind::Quic] {
        for (policy, identify, lazy) in [
            (true, false, false),
            (true, true, false),
            (false, false, true),
            (false, true, true),
        ] {
            let ours = node(policy, Config::default(), identify, lazy);
            let mut net = Net::with(ours, node(policy, Config::default(), identify, lazy));
            let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
            let proxy = Proxy::default();
            let dead = proxy.connect(&net, kind).await;
            let peer = net.listener.id;
            let (mut ours, mut theirs) =
                open(&mut net.dialer, peer, &mut incoming, dead.here).await;
            write(&mut ours, 1, 0, 100).await;
            read(&mut theirs, 1, 0, 100).await;
            if identify {
                identified(&net.dialer).await;
            }
            proxy.silence();
            let alive = net.connect(kind).await;
            for round in 0..3 {
                let start = Instant::now();
                let (opened, accepted) = within("opening", async {
                    join!(
                        async {
                            let opened = net.dialer.control.open_stream(peer, PROTOCOL).await;
                            let mut stream = opened.unwrap();
                            write(&mut stream, round, 0, 100).await;
                            stream
                        },
                        async {
                            let mut stream = incoming.next().await.unwrap().1;
                            read(&mut stream, round, 0, 100).await;
                            stream
                        }
                    )
                })
                .await;
                assert!(start.elapsed() < SOON, "{kind:?}: {:?}", start.elapsed());
                assert_eq!(opened.connection(), Some(alive.here));
                drop(accepted);
            }
        }
    }
}

/// The same, and the streams that I have stay on the dead connection, though nothing is lost: nobody said
/// anything since it died.
///
/// B1 · rust-libp2p PR 3947, lnd PR 2058
#[tokio::test]
async fn streams_leave_a_dead_connection_for_one_that_answers() {
    for kind in [Kind::Tcp, Kind::Quic] {
        let both = || node(true, impatient(), false, false);
        let mut net = Net::with(both(), both());
        let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
        let proxy = Proxy::default();
        let dead = proxy.connect(&net, kind).await;
        let peer = net.listener.id;
        let mut streams = Vec::new();
        for _ in 0..3 {
            streams.push(open(&mut net.dialer, peer, &mut incoming, dead.here).await);
        }
        for (ours, theirs) in &mut streams {
            write(ours, 1, 0, 100).await;
            read(theirs, 1, 0, 100).await;
        }
        proxy.silence();
        let alive = net.connect(kind).await;
        suspected(&net.dialer, dead.here, true).await;
        for node in [&net.dialer, &net.listener] {
            node.count("the moves", 3, |event| {
                matches!(event, Event::MigrationCompleted { .. })
            })
            .await;
        }
        for (ours, theirs) in &mut streams {
            within("the streams", async {
                write(ours, 1, 100, 20_000).await;
                read(theirs, 1, 100, 20_000).await;
                write(theirs, 2, 0, 20_000).await;
                read(ours, 2, 0, 20_000).await;
                ours.close().await.unwrap();
                read_end(theirs).await;
            })
            .await;
            assert_eq!(ours.connection(), Some(alive.here));
        }
    }
}

async fn both_fail(ours: &mut Stream, theirs: &mut Stream) {
    let (mut here, mut there) = ([0], [0]);
    let reads = async { join!(ours.read(&mut here), theirs.read(&mut there)) };
    let (here, there) = within("the errors", reads).await;
    assert!(here.is_err() && there.is_err(), "{here:?} {there:?}");
}

/// What was in flight on the dead connection is gone. I want to hear of it in seconds, and not to wait for
/// TCP.
///
/// B1 · go-libp2p 1966
#[tokio::test]
async fn what_cannot_be_saved_fails_in_seconds() {
    let both = || node(true, impatient(), false, false);
    let mut net = Net::with(both(), both());
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let proxy = Proxy::default();
    let dead = proxy.connect(&net, Kind::Tcp).await;
    let peer = net.listener.id;
    let (mut ours, mut theirs) = open(&mut net.dialer, peer, &mut incoming, dead.here).await;
    write(&mut ours, 1, 0, 100).await;
    read(&mut theirs, 1, 0, 100).await;
    proxy.silence();
    write(&mut ours, 1, 100, 200).await;
    net.connect(Kind::Tcp).await;
    both_fail(&mut ours, &mut theirs).await;
}

/// Nobody may move my stream, and its path has died. The other connection is idle, so nobody has heard from it
/// for long; I am left waiting as if there were none.
///
/// B1
#[tokio::test]
async fn what_must_stay_fails_in_seconds_beside_an_idle_connection() {
    let config = Config::default()
        .with_suspect_after(Duration::from_millis(200))
        .with_progress_timeout(Duration::from_millis(500))
        .with_probe_interval(Some(Duration::from_millis(300)));
    let both = || node(false, config.clone(), false, false);
    let mut net = Net::with(both(), both());
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let proxy = Proxy::default();
    let dead = proxy.connect(&net, Kind::Tcp).await;
    net.connect(Kind::Tcp).await;
    let peer = net.listener.id;
    let (mut ours, mut theirs) = open(&mut net.dialer, peer, &mut incoming, dead.here).await;
    write(&mut ours, 1, 0, 100).await;
    read(&mut theirs, 1, 0, 100).await;
    proxy.silence();
    both_fail(&mut ours, &mut theirs).await;
}

/// It was only slow. When it answers again, streams do not run back and forth.
#[tokio::test]
async fn a_connection_that_answers_again_is_cleared() {
    let config = impatient().with_suspect_after(Duration::from_millis(1));
    let mut net = Net::with(node(true, config, false, false), Node::new());
    let _incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let slow = Proxy::throttled(4_000).connect(&net, Kind::Tcp).await;
    let peer = net.listener.id;
    net.connect(Kind::Tcp).await;
    // The other one is probed when this comes, and answers late.
    suspected(&net.dialer, slow.here, true).await;
    suspected(&net.dialer, slow.here, false).await;
    let info = net.dialer.connection(peer, slow.here).await;
    assert!(!info.suspected);
    // It is never chosen again among equals.
    assert_eq!(info.obstacle(), Some(Obstacle::Unproven));
}

/// Lazy negotiation takes my silent path for a live one: moving hangs, for ever.
///
/// A3
#[tokio::test]
async fn a_probe_proves_something_with_lazy_negotiation() {
    for kind in [Kind::Tcp, Kind::Quic] {
        let both = || node(false, impatient(), false, true);
        let mut net = Net::with(both(), both());
        let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
        let proxy = Proxy::default();
        let dead = proxy.connect(&net, kind).await;
        let alive = net.connect(kind).await;
        let peer = net.listener.id;
        let (mut ours, mut theirs) = open(&mut net.dialer, peer, &mut incoming, dead.here).await;
        write(&mut ours, 1, 0, 100).await;
        read(&mut theirs, 1, 0, 100).await;
        proxy.silence();
        write(&mut ours, 1, 100, 200).await;
        let migration = net.dialer.control.migrate(ours.key(), alive.here);
        let mut byte = [0];
        let (migration, read) = within("the migration", async {
            join!(migration, theirs.read(&mut byte))
        })
        .await;
        assert!(
            migration.is_err() && read.is_err(),
            "{migration:?} {read:?}"
        );
    }
}

/// A healthy request is answered on the good connection. That somebody tried to move it onto a dead one
/// must not end it in an error.
///
/// A12
#[tokio::test]
async fn a_dead_target_leaves_no_doubt() {
    for kind in [Kind::Tcp, Kind::Quic] {
        for lazy in [false, true] {
            let both = || node(false, impatient(), true, lazy);
            let mut net = Net::with(both(), both());
            let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
            let proxy = Proxy::default();
            let alive = net.connect(Kind::Tcp).await;
            let dead = proxy.connect(&net, kind).await;
            let peer = net.listener.id;
            let (mut ours, mut theirs) =
                open(&mut net.dialer, peer, &mut incoming, alive.here).await;
            write(&mut ours, 1, 0, 1000).await;
            ours.close().await.unwrap();
            proxy.silence();
            let migration = net.dialer.control.migrate(ours.key(), dead.here);
            let migration = within("the attempt", migration).await;
            assert!(
                matches!(migration, Err(MigrateError::NoLeg(_))),
                "{migration:?}"
            );
            within("the answer", async {
                read(&mut theirs, 1, 0, 1000).await;
                read_end(&mut theirs).await;
                write(&mut theirs, 2, 0, 1000).await;
                theirs.close().await.unwrap();
                read(&mut ours, 2, 0, 1000).await;
                read_end(&mut ours).await;
            })
            .await;
        }
    }
}

/// I have thousands of streams on a path that has died. One probe answers for all of them.
///
/// C4
#[tokio::test]
async fn one_probe_serves_all_streams() {
    const STREAMS: usize = 300;
    let config = impatient()
        .with_max_streams_per_connection(1000)
        .with_max_pending_opens(1000);
    let both = || {
        Node::with(Setup {
            config: config.clone(),
            max_yamux_streams: 2000,
            ..Default::default()
        })
    };
    let mut net = Net::with(both(), both());
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let proxy = Proxy::default();
    let dead = proxy.connect(&net, Kind::Tcp).await;
    let peer = net.listener.id;
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        streams.push(open(&mut net.dialer, peer, &mut incoming, dead.here).await);
    }
    let alive = net.connect(Kind::Tcp).await;
    for (ours, theirs) in &mut streams {
        write(ours, 1, 0, 10).await;
        read(theirs, 1, 0, 10).await;
    }
    proxy.silence();
    for (ours, _) in &mut streams {
        // Gets lost.
        write(ours, 1, 10, 20).await;
    }
    let start = Instant::now();
    let migrations = streams.iter().map(|(ours, _)| {
        let (mut control, key) = (net.dialer.control.clone(), ours.key());
        async move { control.migrate(key, alive.here).await }
    });
    let results = within("all of them", join_all(migrations)).await;
    assert!(results.iter().all(Result::is_err));
    // With a probe each, 64 at a time: 2 s for each 64.
    println!("{STREAMS} streams ended after {:?}", start.elapsed());
    // And what is opened then is not held up by probes.
    let opened = net.dialer.control.open_stream(peer, PROTOCOL);
    let opened = within("opening", opened).await.unwrap();
    assert_eq!(opened.connection(), Some(alive.here));
}

/// My application has just asked the swarm to close a connection, or the swarm is closing one by itself,
/// and a stream that I open goes there, though another one is healthy.
///
/// B6 · litep2p 487, 664
#[tokio::test]
async fn a_stream_that_is_opened_on_a_closing_connection_goes_to_the_next() {
    for kind in [Kind::Tcp, Kind::Quic] {
        let mut net = Net::new();
        let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
        let peer = net.listener.id;
        net.connect(Kind::Quic).await;
        for _ in 0..20 {
            let closing = net.connect(kind).await;
            let first = net.dialer.control.connections(peer).await[0].key;
            let mut control = net.dialer.control.clone();
            let mut opening = Box::pin(control.open_stream(peer, PROTOCOL));
            // Before, and after, and both.
            net.dialer.close(first);
            assert!(futures::poll!(&mut opening).is_pending());
            net.dialer.close(first);
            let (opened, _accepted) =
                within("opening", async { join!(opening, incoming.next()) }).await;
            opened.unwrap();
            let _ = closing;
        }
    }
}

/// The connection hangs in closing, because its path has gone silent: nobody polls its handler any more. A
/// stream is to be moved there.
///
/// B6 · litep2p 504
#[tokio::test]
async fn a_target_that_hangs_in_closing_is_given_up() {
    let config = impatient().with_answer_timeout(Duration::from_millis(200));
    let mut net = Net::with(node(false, config, false, false), Node::new());
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let proxy = Proxy::default();
    let stuck = proxy.connect(&net, Kind::Tcp).await;
    let peer = net.listener.id;
    // So much is on its way that closing cannot flush.
    let (mut filler, _unread) = open(&mut net.dialer, peer, &mut incoming, stuck.here).await;
    proxy.silence();
    let alive = net.connect(Kind::Tcp).await;
    let (mut ours, mut theirs) = open(&mut net.dialer, peer, &mut incoming, alive.here).await;
    let chunk = vec![0; 1 << 20];
    let filling = async {
        loop {
            filler.write_all(&chunk).await.unwrap();
        }
    };
    let full = tokio::time::timeout(Duration::from_millis(500), filling).await;
    assert!(full.is_err());
    net.dialer.close(stuck.here);
    let migration = net.dialer.control.migrate(ours.key(), stuck.here);
    let migration = within("the attempt", migration).await;
    assert!(migration.is_err(), "{migration:?}");
    within("the stream", async {
        write(&mut ours, 1, 0, 1000).await;
        read(&mut theirs, 1, 0, 1000).await;
    })
    .await;
}

/// My only connection to a peer is dead, and I could reach it by another. New streams wait for the dead one.
///
/// B1 · lnd PR 2058
#[tokio::test]
async fn a_peer_whose_connections_are_dead_is_dialed_again() {
    let both = || node(true, impatient(), true, false);
    let mut net = Net::with(both(), both());
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let proxy = Proxy::default();
    let dead = proxy.connect(&net, Kind::Tcp).await;
    let peer = net.listener.id;
    // The peer has told how it can be reached.
    identified(&net.dialer).await;
    proxy.silence();
    let (opened, _accepted) = within("opening", async {
        join!(
            net.dialer.control.open_stream(peer, PROTOCOL),
            incoming.next()
        )
    })
    .await;
    assert_ne!(opened.unwrap().connection(), Some(dead.here));
}

/// The only connection is closed just as I open a stream: an idle timeout, or the peer restarts. I am told
/// that the connection was closed, though the peer can be dialed.
///
/// B6 · litep2p 664
#[tokio::test]
async fn a_stream_whose_only_connection_closes_dials() {
    for kind in [Kind::Tcp, Kind::Quic] {
        let both = || node(false, Config::default(), true, false);
        let mut net = Net::with(both(), both());
        let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
        let only = net.connect(kind).await;
        let peer = net.listener.id;
        identified(&net.dialer).await;
        let mut control = net.dialer.control.clone();
        net.dialer.close(only.here);
        let (opened, _accepted) = within("opening", async {
            join!(control.open_stream(peer, PROTOCOL), incoming.next())
        })
        .await;
        assert_ne!(opened.unwrap().connection(), Some(only.here));
    }
}

/// A stream that must not be on a relay waits for a direct connection, and the relay goes away: the peer is
/// dialed, rather than waited for.
///
/// B7
#[tokio::test]
async fn who_waits_for_a_direct_connection_dials_when_the_relay_is_gone() {
    let config = Config::default()
        .with_mobility(PROTOCOL, Mobility::NeverRelayed)
        .with_wait_for_direct(Duration::MAX);
    let both = || node(false, config.clone(), true, false);
    let mut net = Net::with(both(), both());
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    net.listener.listen("/ip4/127.0.0.1/tcp/0").await;
    let relayed = net.connect(Kind::Relayed).await;
    let peer = net.listener.id;
    net.dialer
        .wait("Identify", |seen| match seen {
            Seen::Identified(id) => (*id == peer).then_some(()),
            _ => None,
        })
        .await;
    let mut control = net.dialer.control.clone();
    let mut opening = Box::pin(control.open_stream(peer, PROTOCOL));
    assert!(futures::poll!(&mut opening).is_pending());
    net.dialer.control.connections(peer).await;
    net.dialer.close(relayed.here);
    let (opened, _accepted) = within("opening", async { join!(opening, incoming.next()) }).await;
    assert_ne!(opened.unwrap().connection(), Some(relayed.here));
}
