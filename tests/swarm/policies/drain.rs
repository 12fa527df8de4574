//! A connection is emptied, and then it is free.

use libp2p_stream_migration::{Chain, DrainError, MigrateError, Mobility};

use super::*;

fn drained(event: &Event, connection: ConnectionKey) -> bool {
    matches!(event, Event::ConnectionFree { connection: free, .. } if *free == connection)
}

/// All streams leave, whoever opened them; nothing comes back, and nothing new goes there.
#[tokio::test]
async fn all_streams_leave() {
    for by_dialer in [true, false] {
        let mut net = Net::with(node(Chain::default()), node(Chain::default()));
        let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
        let old = net.connect(Kind::Tcp).await;
        let mut streams = open_many(&mut net, &mut incoming, old.here, 5).await;
        let new = net.connect(Kind::Quic).await;
        assert_eq!(count(&net.dialer, is_start), 0);

        let (drainer, mut control, other, side) = if by_dialer {
            (
                &net.dialer,
                net.dialer.control.clone(),
                net.listener.id,
                old.here,
            )
        } else {
            (
                &net.listener,
                net.listener.control.clone(),
                net.dialer.id,
                old.there,
            )
        };
        assert_eq!(within("draining", control.drain(other, side)).await, Ok(()));
        drainer.count("free", 1, |event| drained(event, side)).await;
        assert_eq!(count(drainer, |event| drained(event, side)), 1);
        let changed = drainer.event("the change", |event| match event {
            Event::ConnectionChanged(info) if info.key == side => Some(info.draining),
            _ => None,
        });
        assert!(changed.await);
        for (ours, theirs) in &streams {
            assert_eq!(ours.connection(), Some(new.here));
            // The other side's end of the migration is its own.
            moved(&net.listener, theirs.key(), new.there).await;
        }
        all_work(&mut streams).await;

        // It is the older of the two, and would come first.
        let _accepting = net.dialer.control.accept(PROTOCOL).unwrap();
        let opening = within("opening", control.open_stream(other, PROTOCOL));
        let expected = if by_dialer { new.here } else { new.there };
        assert_eq!(opening.await.unwrap().connection(), Some(expected));
        // Not by an explicit wish either, nor by the other's.
        let (ours, theirs) = (streams[0].0.key(), streams[0].1.key());
        let (mine, yours) = if by_dialer {
            let mine = net.dialer.control.migrate(ours, old.here).await;
            (mine, net.listener.control.migrate(theirs, old.there).await)
        } else {
            let mine = net.listener.control.migrate(theirs, old.there).await;
            (mine, net.dialer.control.migrate(ours, old.here).await)
        };
        assert_eq!(mine, Err(MigrateError::Draining(side)));
        assert!(matches!(yours, Err(MigrateError::Failed(_))), "{yours:?}");
        all_work(&mut streams).await;

        // It is free already.
        let again = within("draining again", control.drain(other, side)).await;
        assert_eq!(again, Ok(()));
    }
}

/// The connection that is drained here is the one that the remote likes best. It is not told, and it
/// does not try to move the streams back over and over.
#[tokio::test]
async fn the_remote_does_not_insist() {
    let [designated, other] = keypairs();
    let [dialer, listener] = [designated, other].map(|keypair| {
        let setup = Setup {
            keypair,
            ..setup(eager())
        };
        Node::with(setup.policy(Chain::default()))
    });
    let mut net = Net::with(dialer, listener);
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let old = net.connect(Kind::Tcp).await;
    let new = net.connect(Kind::Tcp).await;
    let mut streams = open_many(&mut net, &mut incoming, old.here, 3).await;
    let mut control = net.listener.control.clone();
    let draining = control.drain(net.dialer.id, old.there);
    assert_eq!(within("draining", draining).await, Ok(()));
    for (ours, _) in &streams {
        moved(&net.dialer, ours.key(), new.here).await;
    }
    at_rest(&net.dialer, net.listener.id).await;
    all_work(&mut streams).await;
    assert_eq!(count(&net.dialer, is_start), 0);
    assert_eq!(count(&net.dialer, is_failure), 0);
}

#[tokio::test]
async fn only_connections_that_are_there() {
    let mut net = Net::with(node(Chain::default()), node(Chain::default()));
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let pair = net.connect(Kind::Tcp).await;
    let unknown = ConnectionKey::new(u64::MAX);
    let peer = net.listener.id;
    let mut control = net.dialer.control.clone();
    let result = control.drain(peer, unknown).await;
    assert_eq!(result, Err(DrainError::UnknownConnection(unknown)));
    let result = control.drain(PeerId::random(), pair.here).await;
    assert_eq!(result, Err(DrainError::UnknownConnection(pair.here)));

    // Closed while somebody waits, with streams that had nowhere to go.
    let _streams = open(&mut net.dialer, peer, &mut incoming, pair.here).await;
    let mut draining = Box::pin(control.drain(peer, pair.here));
    assert!(futures::poll!(&mut draining).is_pending());
    net.dialer
        .event("the change", |event| match event {
            Event::ConnectionChanged(info) => info.draining.then_some(()),
            _ => None,
        })
        .await;
    net.dialer.close(pair.here);
    let result = within("the end", draining).await;
    assert_eq!(result, Err(DrainError::Closed(pair.here)));
    // Gone is gone.
    let result = net.dialer.control.drain(peer, pair.here).await;
    assert_eq!(result, Err(DrainError::UnknownConnection(pair.here)));
}

/// Two wait for it; nothing is free as long as a pinned stream is there, nor before there is another
/// place for the others.
#[tokio::test]
async fn not_free_before_the_pinned_stream_ends() {
    let mut net = Net::with(node(Chain::default()), node(Chain::default()));
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let old = net.connect(Kind::Tcp).await;
    let mut streams = open_many(&mut net, &mut incoming, old.here, 2).await;
    let peer = net.listener.id;
    let mut control = net.dialer.control.clone();
    let pinned = streams[0].0.key();
    control
        .set_mobility(pinned, Mobility::Pinned)
        .await
        .unwrap();
    let mut other = control.clone();
    let mut draining = Box::pin(async {
        futures::join!(control.drain(peer, old.here), other.drain(peer, old.here))
    });
    assert!(futures::poll!(&mut draining).is_pending());
    let new = net.connect(Kind::Quic).await;
    moved(&net.dialer, streams[1].0.key(), new.here).await;
    at_rest(&net.dialer, peer).await;
    assert!(futures::poll!(&mut draining).is_pending());
    assert_eq!(streams[0].0.connection(), Some(old.here));
    all_work(&mut streams).await;
    assert_eq!(count(&net.dialer, |event| drained(event, old.here)), 0);

    // Aborted: the other stream is not its business.
    drop(streams.remove(0));
    assert_eq!(within("draining", draining).await, (Ok(()), Ok(())));
    assert_eq!(count(&net.dialer, |event| drained(event, old.here)), 1);
    all_work(&mut streams).await;
}
