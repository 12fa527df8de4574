//! What the behaviour keeps of connections and streams: it fits what there is, whatever happens in whatever
//! order. `src/behaviour/books.rs` looks for more of it at random.

use std::time::Duration;

use futures::{AsyncWriteExt, FutureExt, StreamExt, join};
use libp2p_stream_migration::ConnectionKey;
use libp2p_stream_migration::{
    Action, Change, Config, Control, Event, Failure, Initiate, MigrateError, Mobility, Outside,
    PeerView, Placement, Policy, PreferDirect, Stay, Stream, StreamInfo, StreamKey, Verdict,
};
use testing::*;

fn node(config: Config) -> Node {
    let setup = Setup {
        config,
        ..Default::default()
    };
    Node::with(setup)
}

async fn closed(node: &Node, id: ConnectionKey) {
    node.wait("the close", |seen| match seen {
        Seen::Closed(closed) if *closed == id => Some(()),
        _ => None,
    })
    .await;
}

/// The path that our move was to go to fails while the remote has still to answer. We were told of it twice, and
/// the second time it took the place of the next move.
///
/// C2
#[tokio::test]
async fn the_target_is_lost_before_the_answer() {
    let mut net = Net::with(
        Node::with(Setup::default().policy(Stay)),
        Node::with(Setup::default().policy(Outside)),
    );
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let peer = net.listener.id;
    let first = net.connect(Kind::Tcp).await;
    let second = net.connect(Kind::Tcp).await;
    let third = net.connect(Kind::Quic).await;
    let (mut ours, mut theirs) = open(&mut net.dialer, peer, &mut incoming, first.here).await;
    let key = ours.key();
    let asked = |to: ConnectionKey| {
        move |event: &Event| match event {
            Event::MigrationRequested { to: there, .. } if *there == to => Some(()),
            _ => None,
        }
    };
    let mut control = net.dialer.control.clone();
    let lost = tokio::spawn(async move { control.migrate(key, second.here).await });
    net.listener
        .event("the question", asked(second.there))
        .await;
    net.dialer.close(second.here);
    closed(&net.dialer, second.here).await;
    let lost = within("who asked is told", lost).await.unwrap();
    assert_eq!(lost, Err(MigrateError::Failed(Failure::LegLost)));

    let mut control = net.dialer.control.clone();
    let moved = tokio::spawn(async move { control.migrate(key, third.here).await });
    net.listener
        .event("the next question", asked(third.there))
        .await;
    let there = theirs.key();
    let answer = net
        .listener
        .control
        .answer(there, third.there, Verdict::Accept);
    assert_eq!(within("the answer", answer).await, Ok(()));
    assert_eq!(within("the next move", moved).await.unwrap(), Ok(()));
    join!(write(&mut ours, 1, 0, 1000), read(&mut theirs, 1, 0, 1000));
    let failed = |event: Event| match event {
        Event::MigrationFailed { to, .. } => Some(to),
        _ => None,
    };
    let failures = net.dialer.events().into_iter().filter_map(failed);
    assert_eq!(failures.collect::<Vec<_>>(), [second.here]);
    let connections = net.dialer.control.connections(peer).await;
    let on = |id| {
        connections
            .iter()
            .find(|info| info.key == id)
            .map(|info| info.streams)
    };
    assert_eq!((on(first.here), on(third.here)), (Some(0), Some(1)));
}

/// Our move of a stream had not got far when the path to its target failed; the remote was just moving the
/// stream somewhere else, and its reader took its time. Whoever had asked for our move waited for ever.
///
/// C1
#[tokio::test]
async fn the_target_is_lost_while_the_remote_moves_the_stream() {
    // So that the remote's move waits for the reader, and ours for its leg.
    let config = Config::default()
        .with_read_ahead_per_stream(100)
        .with_answer_timeout(Duration::from_secs(300));
    let mut net = Net::with(node(config), Node::new());
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let peer = net.listener.id;
    let first = net.connect(Kind::Tcp).await;
    let second = net.connect(Kind::Tcp).await;
    let path = Proxy::default();
    let third = path.connect(&net, Kind::Quic).await;
    let (mut ours, mut theirs) = open(&mut net.dialer, peer, &mut incoming, first.here).await;
    write(&mut theirs, 1, 0, 1000).await;
    path.silence();
    let mut control = net.dialer.control.clone();
    let key = ours.key();
    let lost = tokio::spawn(async move { control.migrate(key, third.here).await });
    net.dialer
        .event("our move", |event| match event {
            Event::MigrationStarted { to, .. } if *to == third.here => Some(()),
            _ => None,
        })
        .await;
    let mut control = net.listener.control.clone();
    let key = theirs.key();
    let moved = tokio::spawn(async move { control.migrate(key, second.there).await });
    net.dialer
        .event("the remote's move", |event| match event {
            Event::MigrationAgreed { to, .. } if *to == second.here => Some(()),
            _ => None,
        })
        .await;
    net.dialer.close(third.here);
    closed(&net.dialer, third.here).await;
    let lost = within("who asked is told", lost).await.unwrap();
    assert_eq!(lost, Err(MigrateError::UnknownConnection(third.here)));
    write(&mut theirs, 1, 1000, 1001).await;
    let reading = read(&mut ours, 1, 0, 1001);
    let (moved, ()) = within("the remote's move", async { join!(moved, reading) }).await;
    assert_eq!(moved.unwrap(), Ok(()));
    // And it can be moved again.
    let again = net.dialer.control.migrate(ours.key(), first.here);
    assert_eq!(within("moving it again", again).await, Ok(()));
}

/// A relayed connection from which streams were moved is used again later, because the direct one is gone; it
/// was closed a second after each use, though it was the last one to the peer.
///
/// C3
#[tokio::test]
async fn a_relay_that_is_needed_again_is_not_closed_after_each_use() {
    let config = || {
        Config::default()
            .with_prune_grace(Some(Duration::from_millis(20)))
            .with_old_leg_linger(Duration::from_millis(20))
    };
    let mut net = Net::with(node(config()), node(config()));
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let peer = net.listener.id;
    let relayed = net.connect(Kind::Relayed).await;
    let (moved, mut _there) = open(&mut net.dialer, peer, &mut incoming, relayed.here).await;
    // Keeps it open for now.
    let (stays, _stays) = open(&mut net.dialer, peer, &mut incoming, relayed.here).await;
    let direct = net.connect(Kind::Tcp).await;
    let migration = net.dialer.control.migrate(moved.key(), direct.here);
    within("the migration", migration).await.unwrap();
    write(&mut _there, 1, 0, 1).await;
    net.dialer.close(direct.here);
    closed(&net.dialer, direct.here).await;
    drop((stays, _stays));
    for _ in 0..3 {
        let (mut ours, theirs) = open(&mut net.dialer, peer, &mut incoming, relayed.here).await;
        ours.close().await.unwrap();
        drop((ours, theirs));
        // That nothing happens in so long is what is tested.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let pruned = |event: &Event| matches!(event, Event::ConnectionPruned { .. });
    assert!(!net.dialer.events().iter().any(pruned));
}

/// Two streams of the dialer's; the first one's move waits for the listener's answer, and the second one's for
/// its turn.
async fn one_waits() -> (Net, Control, [Stream; 2], Pair, StreamKey) {
    let dialer = Setup {
        config: Config::default().with_max_migrations_per_peer(1),
        ..Default::default()
    };
    let listener = Setup::default().policy(Outside);
    let mut net = Net::with(Node::with(dialer), Node::with(listener));
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let peer = net.listener.id;
    let old = net.connect(Kind::Tcp).await;
    let new = net.connect(Kind::Tcp).await;
    let (one, there) = open(&mut net.dialer, peer, &mut incoming, old.here).await;
    let (two, also_there) = open(&mut net.dialer, peer, &mut incoming, old.here).await;
    let key = there.key();
    tokio::spawn(async move {
        let _kept = (there, also_there, incoming);
        std::future::pending::<()>().await
    });
    let mut control = net.dialer.control.clone();
    let first = one.key();
    tokio::spawn(async move { control.migrate(first, new.here).await });
    net.listener
        .event("the question", |event| match event {
            Event::MigrationRequested { .. } => Some(()),
            _ => None,
        })
        .await;
    let control = net.dialer.control.clone();
    (net, control, [one, two], new, key)
}

/// A stream was pinned, or its target was to be emptied, while its move waited for its turn. It was moved all the
/// same.
///
/// C5
#[tokio::test]
async fn what_waits_for_its_turn_is_looked_at_again() {
    for pinned in [true, false] {
        let (mut net, mut control, [one, two], new, key) = one_waits().await;
        let second = two.key();
        let mut mover = control.clone();
        let waits = tokio::spawn(async move { mover.migrate(second, new.here).await });
        // Who is in the queue shows as migrating.
        within("it waits", async {
            while !control
                .streams(net.listener.id)
                .await
                .iter()
                .any(|it| it.key == second && it.migrating)
            {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let drained = if pinned {
            control
                .set_mobility(second, Mobility::Pinned)
                .await
                .unwrap();
            None
        } else {
            // The first one is on its way there: it does not resolve.
            let mut control = control.clone();
            let peer = net.listener.id;
            Some(tokio::spawn(
                async move { control.drain(peer, new.here).await },
            ))
        };
        if !pinned {
            net.dialer
                .event("draining", |event| match event {
                    Event::ConnectionChanged(info) if info.draining => Some(()),
                    _ => None,
                })
                .await;
        }
        let answer = net.listener.control.answer(key, new.there, Verdict::NotNow);
        answer.await.unwrap();
        let expected = match pinned {
            true => MigrateError::NotAllowed(Mobility::Pinned),
            false => MigrateError::Draining(new.here),
        };
        assert_eq!(within("its turn", waits).await.unwrap(), Err(expected));
        drop((one, two, drained));
    }
}

/// Everything to the peer was lost, and the application still holds a stream of before. The peer is there again:
/// the stream's ID may stand for another stream there now, which must not be moved in its place.
///
/// A8
#[tokio::test]
async fn a_stream_of_before_all_was_lost_is_not_moved() {
    let mut net = Net::new();
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let peer = net.listener.id;
    let first = net.connect(Kind::Quic).await;
    let (before, _before) = open(&mut net.dialer, peer, &mut incoming, first.here).await;
    net.dialer.close(first.here);
    closed(&net.dialer, first.here).await;
    closed(&net.listener, first.there).await;
    let second = net.connect(Kind::Tcp).await;
    let third = net.connect(Kind::Tcp).await;
    let (mut after, mut there) = open(&mut net.dialer, peer, &mut incoming, second.here).await;
    let moved = net.dialer.control.migrate(before.key(), third.here);
    let moved = within("an answer", moved).await;
    assert!(
        matches!(
            moved,
            Err(MigrateError::UnknownStream(_) | MigrateError::Ended)
        ),
        "{moved:?}"
    );
    let violated = |event: &Event| {
        matches!(
            event,
            Event::Violation { .. } | Event::MigrationStarted { .. }
        )
    };
    assert!(!net.dialer.events().iter().any(violated));
    assert!(!net.listener.events().iter().any(violated));
    write(&mut after, 1, 0, 100).await;
    read(&mut there, 1, 0, 100).await;
}

/// The listener has pinned its stream to a connection that is gone. The remote's move was refused for good; it is to
/// be refused for now.
///
/// C13
#[tokio::test]
async fn pinned_to_what_is_gone() {
    let mut net = Net::new();
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let peer = net.listener.id;
    let first = net.connect(Kind::Tcp).await;
    let gone = net.connect(Kind::Tcp).await;
    let other = net.connect(Kind::Tcp).await;
    let (ours, theirs) = open(&mut net.dialer, peer, &mut incoming, first.here).await;
    net.dialer.close(gone.here);
    closed(&net.listener, gone.there).await;
    let pinned = Mobility::PinnedTo(gone.there);
    let mut control = net.listener.control.clone();
    control.set_mobility(theirs.key(), pinned).await.unwrap();
    let moved = net.dialer.control.migrate(ours.key(), other.here);
    let moved = within("the answer", moved).await;
    assert_eq!(moved, Err(MigrateError::Failed(Failure::LegLost)));
    control
        .set_mobility(theirs.key(), Mobility::Free)
        .await
        .unwrap();
    let moved = net.dialer.control.migrate(ours.key(), other.here);
    assert_eq!(within("the move", moved).await, Ok(()));
}

/// Wants to be asked, and called, again at once, whatever happens.
struct Impatient;

impl Policy for Impatient {
    fn place(&mut self, _: &StreamInfo, _: &PeerView<'_>) -> Placement {
        Placement::AskAgain(Duration::ZERO)
    }

    fn changed(&mut self, _: &Change, _: &PeerView<'_>) -> Vec<Action> {
        vec![Action::CallIn(Duration::ZERO), Action::Replace]
    }
}

/// A policy polls something outside, as often as it can. The node did nothing else any more.
///
/// C8
#[tokio::test]
async fn a_policy_that_cannot_wait() {
    let dialer = Node::with(Setup::default().policy(Impatient));
    let mut net = Net::with(dialer, Node::with(Setup::default().policy(Impatient)));
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let peer = net.listener.id;
    let old = net.connect(Kind::Tcp).await;
    let new = net.connect(Kind::Quic).await;
    let (mut ours, mut theirs) = open(&mut net.dialer, peer, &mut incoming, old.here).await;
    let moved = net.dialer.control.migrate(ours.key(), new.here);
    assert_eq!(within("the move", moved).await, Ok(()));
    within("talk", async {
        write(&mut ours, 1, 0, 1000).await;
        read(&mut theirs, 1, 0, 1000).await;
    })
    .await;
}

/// Every setting that is a time.
fn times(time: Duration) -> Config {
    Config::default()
        .with_initiate(Initiate::Designated { patience: time })
        .with_answer_timeout(time)
        .with_progress_timeout(time)
        .with_negotiation_timeout(time)
        .with_old_leg_linger(time)
        .with_prune_grace(Some(time))
        .with_ended_id_memory(time)
        .with_accept_timeout(time)
}

/// "Never" is a time, too: a node whose timeouts are all as long as can be works. It panicked, with some of them as
/// soon as a remote said something.
///
/// C8
#[tokio::test]
async fn never_is_a_time() {
    for config in [
        times(Duration::MAX),
        times(Duration::from_secs(u64::MAX / 2)),
    ] {
        let setup = || Setup {
            config: config.clone(),
            ..Default::default()
        };
        let dialer = Node::with(setup().policy(PreferDirect));
        let mut net = Net::with(dialer, Node::with(setup().policy(Outside)));
        let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
        let peer = net.listener.id;
        let old = net.connect(Kind::Relayed).await;
        let (mut ours, mut theirs) = open(&mut net.dialer, peer, &mut incoming, old.here).await;
        let new = net.connect(Kind::Tcp).await;
        let mut control = net.dialer.control.clone();
        let key = ours.key();
        let moved = tokio::spawn(async move { control.migrate(key, new.here).await });
        let (key, to) = net
            .listener
            .event("the question", |event| match event {
                Event::MigrationRequested { key, to, .. } => Some((*key, *to)),
                _ => None,
            })
            .await;
        let answer = net.listener.control.answer(key, to, Verdict::Accept);
        within("the answer", answer).await.unwrap();
        let moved = within("the move", moved).await.unwrap();
        assert!(
            matches!(moved, Ok(()) | Err(MigrateError::AlreadyMigrating)),
            "{moved:?}"
        );
        within("talk", async {
            write(&mut ours, 1, 0, 1000).await;
            read(&mut theirs, 1, 0, 1000).await;
            ours.close().await.unwrap();
            theirs.close().await.unwrap();
        })
        .await;
        drop((ours, theirs));
        net.dialer.control.close_when_free(peer, new.here).await;
        let ended = |event: &Event| matches!(event, Event::StreamEnded { .. });
        net.dialer.count("the end", 1, ended).await;
        let connections = within("it lives", net.dialer.control.connections(peer)).await;
        assert!(!connections.is_empty());
    }
}

/// "At once" is one as well. Little can be done in no time, but nothing spins or panics.
///
/// C8
#[tokio::test]
async fn at_once_is_a_time() {
    let setup = || Setup {
        config: times(Duration::ZERO),
        ..Default::default()
    };
    let dialer = Node::with(setup().policy(PreferDirect));
    let mut net = Net::with(dialer, Node::with(setup().policy(PreferDirect)));
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let peer = net.listener.id;
    let relayed = net.connect(Kind::Relayed).await;
    let mut control = net.dialer.control.clone();
    for _ in 0..10 {
        let opened = control.open_stream_on(peer, relayed.here, PROTOCOL);
        let opened = within("opening", opened).await;
        if let Ok(mut stream) = opened {
            let _ = stream.write_all(b"?").await;
        }
    }
    let direct = net.connect(Kind::Tcp).await;
    for connection in [relayed.here, direct.here] {
        let _ = within(
            "opening",
            control.open_stream_on(peer, connection, PROTOCOL),
        )
        .await;
    }
    while let Some(Some(_)) = incoming.next().now_or_never() {}
    for node in [&mut net.dialer, &mut net.listener] {
        let other = if node.id == peer { None } else { Some(peer) };
        if let Some(other) = other {
            within("it lives", node.control.connections(other)).await;
        }
    }
}
