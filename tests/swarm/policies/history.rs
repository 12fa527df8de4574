//! The events of a life: all of them, in order, and with numbers that add up.

use futures::{AsyncWriteExt, StreamExt};
use libp2p_stream_migration::Side;

use super::*;

/// An event in few words, which say what is the same in every run.
fn told(event: &Event) -> String {
    match event {
        Event::ConnectionEstablished(_) => "established".into(),
        Event::ConnectionClosed { .. } => "closed".into(),
        Event::PlainStream { opener, .. } => format!("plain, by {opener:?}"),
        Event::StreamStarted { opener, .. } => format!("started, by {opener:?}"),
        Event::StreamNegotiated { .. } => "negotiated".into(),
        Event::StreamEnded { result, .. } => format!("ended: {result:?}"),
        Event::MigrationStarted { .. } => "migration started".into(),
        Event::MigrationAgreed { initiator, .. } => {
            format!("agreed, ours: {}", initiator.is_local())
        }
        Event::MigrationCompleted { initiator, .. } => {
            format!("completed, ours: {}", initiator.is_local())
        }
        Event::Resumed { initiator, .. } => format!("resumed, ours: {}", initiator.is_local()),
        Event::ConnectionFree { .. } => "free".into(),
        other => format!("{other:?}"),
    }
}

/// Open, move, end; then the connections go. Whoever moves it.
async fn a_life(by_opener: bool) {
    let mut net = Net::new();
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let old = net.connect(Kind::Tcp).await;
    let mut streams = open_many(&mut net, &mut incoming, old.here, 1).await;
    let new = net.connect(Kind::Quic).await;
    all_work(&mut streams).await;
    let (mut ours, mut theirs) = streams.remove(0);
    let (here, there) = (ours.key(), theirs.key());
    // A thousand bytes each way, and the negotiation's.
    let migration = match by_opener {
        true => net.dialer.control.migrate(here, new.here).await,
        false => net.listener.control.migrate(there, new.there).await,
    };
    assert_eq!(migration, Ok(()));
    moved(&net.dialer, here, new.here).await;
    moved(&net.listener, there, new.there).await;
    within("the end", async {
        for (stream, seed, length) in [(&mut ours, 3, 500), (&mut theirs, 4, 700)] {
            write(stream, seed, 0, length).await;
            stream.close().await.unwrap();
        }
        assert_eq!(read_to_end(&mut theirs, 3, 0).await, 500);
        assert_eq!(read_to_end(&mut ours, 4, 0).await, 700);
    })
    .await;
    drop((ours, theirs));
    let ended = |event: &Event| matches!(event, Event::StreamEnded { .. });
    for node in [&net.dialer, &net.listener] {
        node.count("the end", 1, ended).await;
    }
    for pair in [old, new] {
        net.dialer.close(pair.here);
        closed(&net.listener, pair.there).await;
        closed(&net.dialer, pair.here).await;
    }

    for (node, opener, ours) in [
        (&net.dialer, Side::Local, by_opener),
        (&net.listener, Side::Remote, !by_opener),
    ] {
        let mut expected = vec![
            "established".to_owned(),
            format!("started, by {opener:?}"),
            "negotiated".into(),
            "established".into(),
            format!("agreed, ours: {ours}"),
            "free".into(),
            format!("completed, ours: {ours}"),
            format!("resumed, ours: {ours}"),
            "free".into(),
            "ended: Ok(())".into(),
            "closed".into(),
            "closed".into(),
        ];
        if ours {
            expected.insert(4, "migration started".into());
        }
        let events: Vec<_> = node.events().iter().map(told).collect();
        assert_eq!(events, expected);
    }
    for (node, pair, out, r#in) in [
        (&net.dialer, (old.here, new.here), 500, 700),
        (&net.listener, (old.there, new.there), 700, 500),
    ] {
        details(node, pair, out, r#in);
    }
    legs_add_up(&net);
}

/// What the events of one side say beside their order.
fn details(node: &Node, (old, new): (ConnectionKey, ConnectionKey), out: u64, r#in: u64) {
    let mut total = None;
    let mut free = Vec::new();
    let mut closed = Vec::new();
    for event in node.events() {
        match event {
            Event::StreamStarted { connection, .. } => assert_eq!(connection, old),
            Event::StreamNegotiated { protocol, .. } => assert_eq!(protocol, PROTOCOL),
            Event::MigrationStarted { from, to, .. } => assert_eq!((from, to), (Some(old), new)),
            Event::MigrationAgreed { from, to, .. } => assert_eq!((from, to), (old, new)),
            Event::MigrationCompleted {
                from,
                to,
                took,
                old_leg_sent,
                old_leg_received,
                new_leg_sent,
                new_leg_received,
                ..
            } => {
                assert_eq!((from, to), (old, new));
                assert!(took < HANG);
                // Nothing was written between the agreement and the completion.
                assert_eq!((new_leg_sent, new_leg_received), (0, 0));
                total = Some((old_leg_sent + out, old_leg_received + r#in));
            }
            Event::StreamEnded { sent, received, .. } => {
                assert_eq!(Some((sent, received)), total);
            }
            Event::ConnectionFree { connection, .. } => free.push(connection),
            Event::ConnectionClosed { connection, .. } => closed.push(connection),
            _ => {}
        }
    }
    assert_eq!((&free[..], &closed[..]), (&[old, new][..], &[old, new][..]));
}

/// What one side has sent on the old leg, the other has received there.
fn legs_add_up(net: &Net) {
    let legs = |node: &Node| {
        let events = node.events().into_iter();
        let mut legs = events.filter_map(|event| match event {
            Event::MigrationCompleted {
                old_leg_sent,
                old_leg_received,
                ..
            } => Some((old_leg_sent, old_leg_received)),
            _ => None,
        });
        legs.next().unwrap()
    };
    let (here, there) = (legs(&net.dialer), legs(&net.listener));
    assert_eq!((here.0, here.1), (there.1, there.0));
    assert!(here.0 >= 1000 && here.1 >= 1000);
}

#[tokio::test]
async fn moved_by_the_opener() {
    a_life(true).await;
}

#[tokio::test]
async fn moved_by_the_acceptor() {
    a_life(false).await;
}

/// Bytes that flow during the migration are on one leg or the other.
#[tokio::test]
async fn legs_add_up_under_load() {
    let mut net = Net::new();
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let old = net.connect(Kind::Quic).await;
    let new = net.connect(Kind::Tcp).await;
    let mut streams = open_many(&mut net, &mut incoming, old.here, 1).await;
    let (mut ours, mut theirs) = streams.remove(0);
    let (here, there) = (ours.key(), theirs.key());
    within("the transfer", async {
        let ((), (), migration) = futures::join!(
            write(&mut ours, 1, 0, 1_000_000),
            read(&mut theirs, 1, 0, 1_000_000),
            net.dialer.control.migrate(here, new.here),
        );
        migration.unwrap();
        moved(&net.listener, there, new.there).await;
        write(&mut ours, 1, 1_000_000, 1_001_000).await;
        read(&mut theirs, 1, 1_000_000, 1_001_000).await;
    })
    .await;
    legs_add_up_to(&net.dialer, ours.bytes_out(), ours.bytes_in());
    legs_add_up_to(&net.listener, theirs.bytes_out(), theirs.bytes_in());
    let control = &mut net.dialer.control;
    let info = &control.streams(net.listener.id).await[0];
    assert_eq!(
        (info.sent, info.received),
        (ours.bytes_out(), ours.bytes_in())
    );
}

/// On both legs together there was at most this when the migration completed, all of the old leg's.
fn legs_add_up_to(node: &Node, out: u64, r#in: u64) {
    let completed = node.events().into_iter().find_map(|event| match event {
        Event::MigrationCompleted {
            old_leg_sent,
            old_leg_received,
            new_leg_sent,
            new_leg_received,
            ..
        } => Some((
            old_leg_sent + new_leg_sent,
            old_leg_received + new_leg_received,
        )),
        _ => None,
    });
    let (sent, received) = completed.unwrap();
    assert!(sent <= out && received <= r#in, "{sent} {received}");
}

/// A peer that does not speak the protocol: one event, at whoever speaks it.
#[tokio::test]
async fn plain_streams() {
    let without = || {
        Node::with(Setup {
            migration: false,
            plain: true,
            ..Default::default()
        })
    };
    for by_us in [true, false] {
        let mut net = match by_us {
            true => Net::with(Node::new(), without()),
            false => Net::with(without(), Node::new()),
        };
        let pair = net.connect(Kind::Tcp).await;
        let (node, opener, connection) = if by_us {
            let mut incoming = net.listener.accept_plain(PROTOCOL);
            let opening = net.dialer.control.open_stream(net.listener.id, PROTOCOL);
            let (opened, _) = within("opening", async {
                futures::join!(opening, incoming.next())
            })
            .await;
            opened.unwrap();
            (&net.dialer, Side::Local, pair.here)
        } else {
            let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
            let plain = net.dialer.plain.as_mut().unwrap();
            let (opened, _) = within("opening", async {
                futures::join!(
                    plain.open_stream(net.listener.id, PROTOCOL),
                    incoming.next()
                )
            })
            .await;
            opened.unwrap();
            (&net.listener, Side::Remote, pair.there)
        };
        let on = node.event("the plain stream", |event| match event {
            Event::PlainStream {
                connection,
                protocol,
                ..
            } if *protocol == PROTOCOL => Some(*connection),
            _ => None,
        });
        assert_eq!(on.await, connection);
        let events: Vec<_> = node.events().iter().map(told).collect();
        assert_eq!(
            events,
            ["established".to_owned(), format!("plain, by {opener:?}")]
        );
    }
}
