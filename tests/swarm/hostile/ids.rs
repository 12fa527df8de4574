//! IDs at their bounds, in use, used again, and another peer's.

use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p_stream_migration::{Abort, Stream, Violation};

use super::*;

/// The lowest and the highest, of either parity; a stream goes from one to the other and back.
#[tokio::test]
async fn any_id_will_do() {
    for (from, to) in [(0, u64::MAX), (1, u64::MAX - 1), (u64::MAX, 0)] {
        let mut siege = Siege::new().await;
        let (mut old, mut ours) = siege.scene.labelled(from).await;
        assert_eq!(ours.id().unwrap().0, from);
        let mut new = siege.scene.agreed(to, from, false).await;
        old.close().await.unwrap();
        say(&mut new, b"moved").await;
        hear(&mut ours, b"moved").await;
        siege.completed(ours.key(), 1).await;
        assert_eq!(ours.id().unwrap().0, to);
        // The old one is free again, on the wire and for a stream of its own.
        let (mut raw, mut other) = siege.scene.labelled(from).await;
        still_works(&mut raw, &mut other).await;
        siege.nothing_reported();
        siege.unharmed().await;
    }
}

/// IDs of our own streams are as much in use as the remote's, whoever they came from.
#[tokio::test]
async fn ids_of_ours() {
    let mut siege = Siege::new().await;
    let (connection, peer) = (siege.scene.old, siege.scene.raw_id());
    let control = siege.scene.net.listener.control.clone();
    let open = || {
        let mut control = control.clone();
        let opened = async move {
            control
                .open_stream_on(peer, connection.there, PROTOCOL)
                .await
        };
        tokio::spawn(opened)
    };
    // Ours, labelled, and the negotiation answered by hand.
    async fn answered(siege: &mut Siege) -> (u64, Stream) {
        let incoming = siege.scene.raw_incoming.next();
        let (_, mut leg) = within("a leg", incoming).await.unwrap();
        let mut message = [0; 5];
        leg.read_exact(&mut message).await.unwrap();
        assert_eq!(message[..4], [4, 0x0a, 2, 8]);
        say(&mut leg, INNER).await;
        hear(&mut leg, INNER).await;
        (message[4].into(), leg)
    }
    let opening = open();
    let (id, mut theirs) = answered(&mut siege).await;
    let mut ours = within("it", opening).await.unwrap().unwrap();
    assert_eq!(ours.id().unwrap().0, id);
    for (number, message) in [label(id), migrate(id, BYSTANDERS[0])].iter().enumerate() {
        let mut leg = siege.scene.first(siege.scene.new.here, message).await;
        is_dropped(&mut leg).await;
        siege.violations(Violation::IdInUse, number + 1).await;
    }
    // The remote takes what would have been our next one: we skip it.
    let (mut raw, mut taken) = siege.scene.labelled(id + 2).await;
    let opening = open();
    let (next, mut other) = answered(&mut siege).await;
    let mut next_ours = within("it", opening).await.unwrap().unwrap();
    assert_eq!(next, id + 4);
    for (theirs, ours) in [(&mut theirs, &mut ours), (&mut other, &mut next_ours)] {
        say(theirs, b"ours").await;
        hear(ours, b"ours").await;
    }
    still_works(&mut raw, &mut taken).await;
    siege.unharmed().await;
}

/// An ID whose stream is over may be used again; what is known of it is the last stream's.
#[tokio::test]
async fn ids_of_streams_that_are_over() {
    let mut siege = Siege::new().await;
    let (mut raw, mut ours) = siege.scene.labelled(0).await;
    raw.close().await.unwrap();
    read_end(&mut ours).await;
    ours.close().await.unwrap();
    let key = ours.key();
    drop(ours);
    assert_eq!(siege.ended(key).await, Ok(()));

    let (mut raw, mut ours) = siege.scene.labelled(0).await;
    still_works(&mut raw, &mut ours).await;
    let key = ours.key();
    drop(ours);
    assert_eq!(siege.ended(key).await, Err(Abort::Dropped));
    // A deny would make the remote believe that an abort was a clean end.
    let mut new = siege
        .scene
        .first(siege.scene.new.here, &migrate(2, 0))
        .await;
    is_dropped(&mut new).await;

    let (mut raw, mut ours) = siege.scene.labelled(0).await;
    still_works(&mut raw, &mut ours).await;
    siege.nothing_reported();
    siege.unharmed().await;
}

/// A second peer names the first one's stream: it speaks of one of its own, which may yet come.
#[tokio::test]
async fn another_peers_stream() {
    let mut siege = Siege::with(patience(Duration::from_millis(400)), Kind::Tcp, Kind::Quic).await;
    let (mut raw, mut ours) = siege.scene.labelled(0).await;
    let mut second = raw_node();
    let listener = &siege.scene.net.listener;
    let peer = listener.id;
    let address = listener.listen("/ip4/127.0.0.1/tcp/0").await;
    let connection = second.dial(listener, address).await.here;
    let mut leg = prefix(&mut second, peer, connection).await;
    say(&mut leg, &migrate(2, 0)).await;
    is_dropped(&mut leg).await;
    still_works(&mut raw, &mut ours).await;
    let streams = siege.scene.net.listener.control.clone();
    let streams = streams.clone().streams(siege.scene.raw_id()).await;
    let stream = streams.iter().find(|s| s.key == ours.key()).unwrap();
    assert_eq!((stream.id.0, stream.migrating), (0, false));

    // It has a stream 0 of its own now, and that one it may move.
    let mut old = prefix(&mut second, peer, connection).await;
    say(&mut old, &[&label(0), INNER].concat()).await;
    hear(&mut old, INNER).await;
    let incoming = &mut siege.scene.incoming;
    let (from, mut its) = within("its stream", incoming.next()).await.unwrap();
    assert_eq!(from, second.id);
    let mut new = prefix(&mut second, peer, connection).await;
    say(&mut new, &migrate(2, 0)).await;
    hear(&mut new, ACCEPT).await;
    old.close().await.unwrap();
    say(&mut new, b"its own").await;
    hear(&mut its, b"its own").await;
    still_works(&mut raw, &mut ours).await;
    siege.nothing_reported();
    siege.unharmed().await;
}
