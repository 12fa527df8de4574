//! Two connections of a kind become one, the same on both sides; and better transports win.

use libp2p_stream_migration::{Chain, Failure, PreferDirect, PreferTransport, Transport};

use super::*;

/// Both have dialed over this kind; the first opened a stream on each connection. Whoever is the
/// designated peer, all streams end on the connection that it dialed. One more does not matter.
async fn both_have_dialed(kind: Kind, dialer_is_designated: bool) {
    let mut keypairs = keypairs();
    if !dialer_is_designated {
        keypairs.reverse();
    }
    let [dialer, listener] = keypairs.map(|keypair| {
        Node::with(
            Setup {
                keypair,
                ..setup(eager())
            }
            .policy(Chain::default()),
        )
    });
    let mut net = Net::with(dialer, listener);
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let ours = net.connect(kind).await;
    let peer = net.listener.id;
    let first = open(&mut net.dialer, peer, &mut incoming, ours.here).await;
    let address = match kind {
        Kind::Quic => "/ip4/127.0.0.1/udp/0/quic-v1",
        _ => "/ip4/127.0.0.1/tcp/0",
    };
    let address = net.dialer.listen(address).await;
    let theirs = net.listener.dial(&net.dialer, address.clone()).await;
    let theirs = Pair {
        here: theirs.there,
        there: theirs.here,
    };
    let (kept, left) = match dialer_is_designated {
        true => (ours, theirs),
        false => (theirs, ours),
    };
    let second = open(&mut net.dialer, peer, &mut incoming, left.here).await;
    let third = open(&mut net.dialer, peer, &mut incoming, kept.here).await;
    let mut streams = [first, second, third];
    // What a policy wants, it wants as soon as it knows.
    moved(&net.dialer, streams[1].0.key(), kept.here).await;
    moved(&net.listener, streams[1].1.key(), kept.there).await;
    let dialer = net.dialer.id;
    for (node, other) in [(&net.dialer, peer), (&net.listener, dialer)] {
        at_rest(node, other).await;
    }
    let on = |streams: &[(Stream, Stream)]| {
        for (ours, theirs) in streams {
            assert_eq!(ours.connection(), Some(kept.here));
            assert_eq!(theirs.connection(), Some(kept.there));
        }
    };
    on(&streams);

    // One more by the designated peer is as good as the one that is kept, but younger; one by the other
    // is worse.
    let starts = count(&net.dialer, is_start) + count(&net.listener, is_start);
    let completions = count(&net.dialer, is_completion);
    net.connect(kind).await;
    net.listener.dial(&net.dialer, address).await;
    for (node, other) in [(&net.dialer, peer), (&net.listener, dialer)] {
        at_rest(node, other).await;
        // Asked again about each stream, the policies still see no reason.
        let mut control = node.control.clone();
        for stream in control.streams(other).await {
            let mobility = control.set_mobility(stream.key, Default::default());
            mobility.await.unwrap();
        }
        at_rest(node, other).await;
    }
    all_work(&mut streams).await;
    on(&streams);
    let now = count(&net.dialer, is_start) + count(&net.listener, is_start);
    assert_eq!(now, starts);
    // The two that had to move have moved once each, or one if the first was where it should be.
    assert_eq!(count(&net.dialer, is_completion), completions);
    assert_eq!(completions, if dialer_is_designated { 1 } else { 2 });
    assert_eq!(count(&net.listener, is_completion), completions);
}

#[tokio::test]
async fn tcp_and_the_dialer_is_designated() {
    both_have_dialed(Kind::Tcp, true).await;
}

#[tokio::test]
async fn tcp_and_the_listener_is_designated() {
    both_have_dialed(Kind::Tcp, false).await;
}

#[tokio::test]
async fn quic_and_the_dialer_is_designated() {
    both_have_dialed(Kind::Quic, true).await;
}

#[tokio::test]
async fn quic_and_the_listener_is_designated() {
    both_have_dialed(Kind::Quic, false).await;
}

/// From TCP to QUIC, off the relay to TCP, and never between equals: not onto another QUIC connection,
/// and not onto a worse one.
#[tokio::test]
async fn a_better_transport_wins_once() {
    let policy = || Chain::new(PreferDirect).then(PreferTransport::default());
    let mut net = Net::with(node(policy()), node(policy()));
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let relayed = net.connect(Kind::Relayed).await;
    let mut streams = open_many(&mut net, &mut incoming, relayed.here, 1).await;
    let (here, there) = (streams[0].0.key(), streams[0].1.key());
    for kind in [Kind::Tcp, Kind::Quic] {
        let better = net.connect(kind).await;
        moved(&net.dialer, here, better.here).await;
        moved(&net.listener, there, better.there).await;
    }
    let quic = streams[0].0.connection();
    for kind in [Kind::Quic, Kind::Tcp, Kind::Relayed] {
        net.connect(kind).await;
        at_rest(&net.dialer, net.listener.id).await;
        at_rest(&net.listener, net.dialer.id).await;
        all_work(&mut streams).await;
        assert_eq!(streams[0].0.connection(), quic);
    }
    assert_eq!(count(&net.dialer, is_completion), 2);
    assert_eq!(count(&net.listener, is_completion), 2);
}

/// Two operators who do not agree: what one moves, the other does not move back for ever.
#[tokio::test]
async fn policies_that_disagree_do_not_play_ball() {
    let tcp = node(PreferTransport::new([Transport::Tcp]));
    let quic = node(PreferTransport::new([Transport::Quic]));
    let mut net = Net::with(tcp, quic);
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let first = net.connect(Kind::Tcp).await;
    let mut streams = open_many(&mut net, &mut incoming, first.here, 1).await;
    net.connect(Kind::Quic).await;
    net.listener.count("the move", 1, is_completion).await;
    // Each may have its way once.
    for _ in 0..20 {
        all_work(&mut streams).await;
        at_rest(&net.dialer, net.listener.id).await;
        at_rest(&net.listener, net.dialer.id).await;
    }
    let moves = count(&net.listener, is_completion);
    assert!(moves <= 2, "moved {moves} times");
}

/// Both want the same of many streams, and start at once. One of the two gets its way with each, and the
/// other does not move it once more.
#[tokio::test(flavor = "multi_thread")]
async fn both_start_and_each_stream_moves_once() {
    // Who is too late, and how late, is chance.
    for _ in 0..5 {
        both_start().await;
    }
}

async fn both_start() {
    let policy = || node(PreferTransport::default());
    let mut net = Net::with(policy(), policy());
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let tcp = net.connect(Kind::Tcp).await;
    let mut streams = open_many(&mut net, &mut incoming, tcp.here, 60).await;
    let quic = net.connect(Kind::Quic).await;
    for (ours, theirs) in &streams {
        moved(&net.dialer, ours.key(), quic.here).await;
        moved(&net.listener, theirs.key(), quic.there).await;
    }
    at_rest(&net.dialer, net.listener.id).await;
    at_rest(&net.listener, net.dialer.id).await;
    all_work(&mut streams).await;
    for node in [&net.dialer, &net.listener] {
        assert_eq!(count(node, is_completion), 60);
        // Whoever came too late says so, and does not try again.
        for event in node.events() {
            if let Event::MigrationFailed {
                reason, retry_in, ..
            } = event
            {
                assert_eq!((reason, retry_in), (Failure::Yielded, None));
            }
        }
    }
}
