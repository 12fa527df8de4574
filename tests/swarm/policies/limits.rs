//! Whose turn it is: migrations at once, and streams on one connection.

use futures::AsyncWriteExt;
use libp2p_stream_migration::{PreferTransport, Side, Stay, Transport};

use super::*;

/// The most of our migrations that were unanswered at any time.
fn most_at_once(node: &Node) -> usize {
    let (mut now, mut most) = (0_usize, 0);
    for event in node.events() {
        match event {
            Event::MigrationStarted { .. } => now += 1,
            Event::MigrationAgreed {
                initiator: Side::Local,
                ..
            }
            | Event::MigrationFailed {
                initiator: Side::Local,
                ..
            } => now -= 1,
            _ => {}
        }
        most = most.max(now);
    }
    assert_eq!(now, 0, "some are unanswered");
    most
}

/// Whoever asks, the policy or the application.
async fn two_at_once(by_policy: bool) {
    let setup = setup(eager().with_max_migrations_per_peer(2));
    let dialer = match by_policy {
        true => setup.policy(PreferTransport::default()),
        false => setup.policy(Stay),
    };
    let mut net = Net::with(Node::with(dialer), Node::new());
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let old = net.connect(Kind::Tcp).await;
    let mut streams = open_many(&mut net, &mut incoming, old.here, 20).await;
    let new = net.connect(Kind::Quic).await;
    if !by_policy {
        let all = streams.iter().map(|(ours, _)| {
            let (mut control, key) = (net.dialer.control.clone(), ours.key());
            async move { control.migrate(key, new.here).await }
        });
        let results = within("the migrations", join_all(all)).await;
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    }
    for node in [&net.dialer, &net.listener] {
        node.count("completions", 20, is_completion).await;
    }
    all_work(&mut streams).await;
    assert!(
        streams
            .iter()
            .all(|(ours, _)| ours.connection() == Some(new.here))
    );
    assert_eq!(count(&net.dialer, is_start), 20);
    assert_eq!(count(&net.dialer, is_failure), 0);
    assert_eq!(most_at_once(&net.dialer), 2);
}

#[tokio::test]
async fn two_of_the_policys_at_once() {
    two_at_once(true).await;
}

#[tokio::test]
async fn two_of_the_applications_at_once() {
    two_at_once(false).await;
}

/// Whoever has given up waiting is moved all the same, and the queue goes on.
#[tokio::test]
async fn one_who_gives_up_waiting_holds_nobody_up() {
    let setup = setup(eager().with_max_migrations_per_peer(1));
    let mut net = Net::with(Node::with(setup.policy(Stay)), Node::new());
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let old = net.connect(Kind::Tcp).await;
    let mut streams = open_many(&mut net, &mut incoming, old.here, 4).await;
    let new = net.connect(Kind::Quic).await;
    let mut waiting: Vec<_> = streams
        .iter()
        .map(|(ours, _)| {
            let (mut control, key) = (net.dialer.control.clone(), ours.key());
            Box::pin(async move { control.migrate(key, new.here).await })
        })
        .collect();
    for migration in &mut waiting {
        assert!(futures::poll!(migration).is_pending());
    }
    // One ends while it waits, one is waited for no more.
    drop(streams.remove(2));
    drop(waiting.remove(1));
    let results = within("the migrations", join_all(waiting)).await;
    assert!(results[0].is_ok() && results[2].is_ok(), "{results:?}");
    for (ours, theirs) in &streams {
        moved(&net.dialer, ours.key(), new.here).await;
        moved(&net.listener, theirs.key(), new.there).await;
    }
    all_work(&mut streams).await;
}

/// Twelve want to go where five may be: five go, and the others as those end.
#[tokio::test]
async fn five_on_one_connection() {
    let setup = setup(eager().with_max_streams_per_connection(5));
    let dialer = Node::with(setup.policy(PreferTransport::default()));
    let mut net = Net::with(dialer, Node::new());
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let old = net.connect(Kind::Tcp).await;
    let mut streams = open_many(&mut net, &mut incoming, old.here, 12).await;
    let new = net.connect(Kind::Quic).await;
    let peer = net.listener.id;
    for gone in 0..=7 {
        let completions = 5 + gone;
        for node in [&net.dialer, &net.listener] {
            node.count("completions", completions, is_completion).await;
        }
        all_work(&mut streams).await;
        let (there, waiting): (Vec<_>, Vec<_>) = streams
            .drain(..)
            .partition(|(ours, _)| ours.connection() == Some(new.here));
        assert_eq!((there.len(), waiting.len()), (5, 7 - gone));
        assert_eq!(count(&net.dialer, is_start), completions);
        let info = net.dialer.connection(peer, new.here).await;
        assert_eq!(info.streams, 5);
        streams = there;
        // In order or not, a place is a place.
        let (mut ours, mut theirs) = streams.remove(0);
        if gone % 2 == 0 {
            within("the end", async {
                ours.close().await.unwrap();
                theirs.close().await.unwrap();
                read_end(&mut ours).await;
            })
            .await;
        }
        drop((ours, theirs));
        streams.extend(waiting);
    }
    assert_eq!(count(&net.dialer, is_failure), 0);
}

/// A yamux connection with too many streams ends with all of them. So many are never put on it.
#[tokio::test]
async fn a_small_muxer_survives() {
    for (limit, survives) in [(8, true), (40, false)] {
        let node = |max_yamux_streams| Setup {
            max_yamux_streams,
            ..setup(eager().with_max_streams_per_connection(limit))
        };
        let tcp_first = PreferTransport::new([Transport::Tcp]);
        // It is the receiving side that ends the connection.
        let dialer = Node::with(node(512).policy(tcp_first));
        let mut net = Net::with(dialer, Node::with(node(16)));
        let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
        let old = net.connect(Kind::Quic).await;
        let mut streams = open_many(&mut net, &mut incoming, old.here, 40).await;
        let new = net.connect(Kind::Tcp).await;
        if survives {
            net.listener
                .count("completions", limit, is_completion)
                .await;
            net.dialer.count("completions", limit, is_completion).await;
            all_work(&mut streams).await;
            let info = net.dialer.connection(net.listener.id, new.here).await;
            assert_eq!(info.streams, limit);
        } else {
            // This is what the limit is for.
            closed(&net.dialer, new.here).await;
        }
    }
}

/// A stream that the remote moves to and fro leaves one old leg on each connection, not one for each move.
#[tokio::test]
async fn old_legs_do_not_pile_up() {
    const MOVES: usize = 60;
    let small = Setup {
        max_yamux_streams: 16,
        ..setup(Config::default().with_max_migration_rate(1_000_000))
    };
    let mut net = Net::with(Node::new(), Node::with(small));
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let connections = [net.connect(Kind::Tcp).await, net.connect(Kind::Tcp).await];
    let mut streams = open_many(&mut net, &mut incoming, connections[0].here, 1).await;
    let key = streams[0].0.key();
    for turn in 1..=MOVES {
        let moved = net.dialer.control.migrate(key, connections[turn % 2].here);
        within("a migration", moved).await.unwrap();
        net.listener.count("completions", turn, is_completion).await;
    }
    all_work(&mut streams).await;
}
