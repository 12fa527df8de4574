//! After a failure, the policy waits longer and longer; but not for another connection.

use std::time::{Duration, Instant};

use libp2p_stream_migration::{
    Chain, ConnectionInfo, Failure, PeerView, PreferDirect, PreferTransport, StreamInfo, Transport,
    Verdict,
};

use super::*;

/// "Not now" to whatever is to go over TCP.
struct NoTcp;

impl Policy for NoTcp {
    fn verdict(&mut self, _: &StreamInfo, to: &ConnectionInfo, _: &PeerView<'_>) -> Verdict {
        match to.transport {
            Transport::Tcp => Verdict::NotNow,
            _ => Verdict::Accept,
        }
    }
}

fn retries(node: &Node) -> Vec<(Failure, bool, Option<Duration>)> {
    let events = node.events().into_iter();
    let failures = events.filter_map(|event| match event {
        Event::MigrationFailed {
            reason,
            initiator,
            retry_in,
            ..
        } => Some((reason, initiator.is_local(), retry_in)),
        _ => None,
    });
    failures.collect()
}

#[tokio::test]
async fn one_second_then_two_and_nothing_for_another_connection() {
    let policy = Chain::new(PreferDirect).then(PreferTransport::default());
    let mut net = Net::with(node(policy), node(NoTcp));
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let relayed = net.connect(Kind::Relayed).await;
    let mut streams = open_many(&mut net, &mut incoming, relayed.here, 1).await;
    let tcp = net.connect(Kind::Tcp).await;
    net.dialer.count("failures", 2, is_failure).await;
    let waits = [1, 2].map(|seconds| {
        let wait = Duration::from_secs(seconds);
        (Failure::LegLost, true, Some(wait))
    });
    assert_eq!(retries(&net.dialer), waits);
    all_work(&mut streams).await;
    assert_eq!(streams[0].0.connection(), Some(relayed.here));

    // Within these two seconds.
    let start = Instant::now();
    let quic = net.connect(Kind::Quic).await;
    moved(&net.dialer, streams[0].0.key(), quic.here).await;
    assert!(start.elapsed() < Duration::from_secs(2));
    assert_eq!(retries(&net.dialer), waits);
    all_work(&mut streams).await;
    let attempts = net
        .dialer
        .events()
        .into_iter()
        .filter_map(|event| match event {
            Event::MigrationStarted { to, .. } => Some(to),
            _ => None,
        });
    assert_eq!(
        attempts.collect::<Vec<_>>(),
        [tcp.here, tcp.here, quic.here]
    );
}

/// What the application asks for is its own business: no attempt follows, and the next may come at once.
#[tokio::test]
async fn the_application_may_try_at_once() {
    let mut net = Net::with(Node::new(), node(NoTcp));
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let quic = net.connect(Kind::Quic).await;
    let tcp = net.connect(Kind::Tcp).await;
    let mut streams = open_many(&mut net, &mut incoming, quic.here, 1).await;
    for attempts in 1..=3 {
        let migration = net.dialer.control.migrate(streams[0].0.key(), tcp.here);
        assert!(within("the answer", migration).await.is_err());
        net.dialer.count("failures", attempts, is_failure).await;
    }
    for (_, _, retry_in) in retries(&net.dialer) {
        assert_eq!(retry_in, None);
    }
    all_work(&mut streams).await;
}

/// A denial is for good.
#[tokio::test]
async fn a_denial_is_not_tried_again() {
    struct Never;
    impl Policy for Never {
        fn verdict(&mut self, _: &StreamInfo, _: &ConnectionInfo, _: &PeerView<'_>) -> Verdict {
            Verdict::Deny
        }
    }
    let mut net = Net::with(node(PreferTransport::default()), node(Never));
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let tcp = net.connect(Kind::Tcp).await;
    let mut streams = open_many(&mut net, &mut incoming, tcp.here, 1).await;
    net.connect(Kind::Quic).await;
    net.dialer.count("the denial", 1, is_failure).await;
    net.connect(Kind::Quic).await;
    at_rest(&net.dialer, net.listener.id).await;
    assert_eq!(retries(&net.dialer), [(Failure::Denied, true, None)]);
    assert_eq!(count(&net.dialer, is_start), 1);
    all_work(&mut streams).await;
}
