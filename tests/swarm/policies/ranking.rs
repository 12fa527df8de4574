//! On which connection a new stream is opened.

use libp2p_stream_migration::{Chain, PreferTransport};

use super::*;

/// Opens a stream wherever it is best; returns where that is.
async fn best(net: &mut Net, incoming: &mut IncomingStreams) -> ((Stream, Stream), ConnectionKey) {
    let peer = net.listener.id;
    // The list is in the order of the ranking.
    let first = net.dialer.control.connections(peer).await[0].key;
    let (opened, accepted) = within("opening", async {
        futures::join!(
            net.dialer.control.open_stream(peer, PROTOCOL),
            futures::StreamExt::next(incoming),
        )
    })
    .await;
    let (opened, (_, accepted)) = (opened.unwrap(), accepted.unwrap());
    assert_eq!(opened.connection(), Some(first));
    ((opened, accepted), first)
}

#[tokio::test]
async fn direct_before_relayed_whatever_the_policy() {
    for policy in [true, false] {
        let dialer = match policy {
            true => node(Chain::default()),
            false => Node::new(),
        };
        let mut net = Net::with(dialer, Node::new());
        let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
        let relayed = net.connect(Kind::Relayed).await;
        let (_relayed, on) = best(&mut net, &mut incoming).await;
        assert_eq!(on, relayed.here);
        let tcp = net.connect(Kind::Tcp).await;
        // Equal, and younger.
        net.connect(Kind::Quic).await;
        let (_direct, on) = best(&mut net, &mut incoming).await;
        assert_eq!(on, tcp.here);
    }
}

#[tokio::test]
async fn as_the_policy_says_but_not_one_that_is_drained_or_full() {
    let config = eager().with_max_streams_per_connection(2);
    let dialer = Node::with(setup(config).policy(PreferTransport::default()));
    let mut net = Net::with(dialer, Node::new());
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let tcp = net.connect(Kind::Tcp).await;
    let quic = net.connect(Kind::Quic).await;
    let mut streams = Vec::new();
    // QUIC has room for two; then so has TCP.
    for expected in [quic, quic, tcp, tcp] {
        let (stream, on) = best(&mut net, &mut incoming).await;
        assert_eq!(on, expected.here);
        streams.push(stream);
    }
    // The fifth waits until there is room.
    let peer = net.listener.id;
    let mut control = net.dialer.control.clone();
    let mut fifth = Box::pin(control.open_stream(peer, PROTOCOL));
    assert!(futures::poll!(&mut fifth).is_pending());
    assert_eq!(net.dialer.control.streams(peer).await.len(), 4);
    drop(streams.remove(2));
    let (fifth, accepted) = within("room", async {
        futures::join!(fifth, futures::StreamExt::next(&mut incoming))
    })
    .await;
    let fifth = fifth.unwrap();
    assert_eq!(fifth.connection(), Some(tcp.here));
    streams.push((fifth, accepted.unwrap().1));
    drop(streams);
    net.dialer
        .count("ends", 5, |event| {
            matches!(event, Event::StreamEnded { .. })
        })
        .await;
    let (_stream, on) = best(&mut net, &mut incoming).await;
    assert_eq!(on, quic.here);

    let peer = net.listener.id;
    let mut control = net.dialer.control.clone();
    let mut draining = Box::pin(control.drain(peer, quic.here));
    assert!(futures::poll!(&mut draining).is_pending());
    for _ in 0..2 {
        let (stream, on) = best(&mut net, &mut incoming).await;
        assert_eq!(on, tcp.here);
        std::mem::forget(stream);
    }
}
