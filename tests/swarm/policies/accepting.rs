//! Inbound streams that the application does not take.

use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p_stream_migration::Limit;

use super::*;

const TIMEOUT: Duration = Duration::from_millis(300);

fn is_refusal(event: &Event, limit: Limit) -> bool {
    matches!(event, Event::Refused { limit: reached, .. } if *reached == limit)
}

/// Refused, and told on both sides; those that were taken in time are not harmed, nor is one that comes
/// later.
#[tokio::test]
async fn too_late() {
    for kind in [Kind::Tcp, Kind::Quic] {
        let listener = Node::with(setup(eager().with_accept_timeout(TIMEOUT)));
        let mut net = Net::with(Node::new(), listener);
        let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
        let pair = net.connect(kind).await;
        let mut streams = open_many(&mut net, &mut incoming, pair.here, 2).await;
        let peer = net.listener.id;
        let opening = net.dialer.control.open_stream(peer, PROTOCOL);
        let mut late = within("opening", opening).await.unwrap();
        write(&mut late, 1, 0, 1000).await;
        let connection = net.listener.event("the refusal", |event| match event {
            Event::Refused {
                limit: Limit::AcceptTimeout,
                connection,
                ..
            } => Some(*connection),
            _ => None,
        });
        assert_eq!(connection.await, Some(pair.there));
        // A drop is a clean end on QUIC, which only a write can tell; see docs/legs.md.
        let read = within("the abort", late.read(&mut [0])).await;
        assert!(
            read.is_err() || kind == Kind::Quic && matches!(read, Ok(0)),
            "{read:?}"
        );
        within("the abort", async {
            while late.write_all(&[0; 1000]).await.is_ok() {}
        })
        .await;
        drop(late);
        for node in [&net.dialer, &net.listener] {
            let ended = node.event("the end", |event| match event {
                Event::StreamEnded { result, .. } => Some(*result),
                _ => None,
            });
            assert!(ended.await.is_err());
        }
        assert!(futures::poll!(incoming.next()).is_pending());
        streams.push(open(&mut net.dialer, peer, &mut incoming, pair.here).await);
        all_work(&mut streams).await;
        let refusals = |event: &Event| is_refusal(event, Limit::AcceptTimeout);
        assert_eq!(count(&net.listener, refusals), 1);
    }
}

/// No more than the backlog waits; and when nobody accepts any more, what waited is gone.
#[tokio::test]
async fn too_many() {
    let listener = Node::with(setup(eager().with_accept_backlog(2)));
    let mut net = Net::with(Node::new(), listener);
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let pair = net.connect(Kind::Tcp).await;
    let peer = net.listener.id;
    let mut opened = Vec::new();
    for _ in 0..3 {
        let opening = net.dialer.control.open_stream_on(peer, pair.here, PROTOCOL);
        opened.push(within("opening", opening).await.unwrap());
    }
    let refusals = |event: &Event| is_refusal(event, Limit::AcceptBacklog);
    net.listener.count("the refusal", 1, refusals).await;
    let mut refused = opened.pop().unwrap();
    let error = within("the abort", refused.read(&mut [0])).await;
    assert!(error.is_err(), "{error:?}");
    let mut streams = Vec::new();
    for ours in opened {
        let (_, theirs) = within("accepting", incoming.next()).await.unwrap();
        streams.push((ours, theirs));
    }
    all_work(&mut streams).await;
    assert_eq!(count(&net.listener, refusals), 1);
}
