//! Ends of streams: what they look like, and what they prove.

use std::time::Duration;

use futures::AsyncWriteExt;
use libp2p_stream_migration::{Abort, Config, Event};

use crate::{harness::*, proxy::Proxy};

/// How long no progress is put up with.
const PATIENCE: Duration = Duration::from_millis(400);

fn impatient() -> Setup {
    Setup {
        config: Config::default()
            .with_progress_timeout(PATIENCE)
            .with_answer_timeout(PATIENCE),
        ..Default::default()
    }
}

async fn how_it_ended(node: &Node) -> Result<(), Abort> {
    node.event("the end", |event| match event {
        Event::StreamEnded { result, .. } => Some(*result),
        _ => None,
    })
    .await
}

/// The path under a quiet stream has gone silent, and somebody moves the stream to one that works. Nothing
/// was in flight, so nothing was lost: it goes on, both ways, and ends as it should. It makes no difference
/// who moves it.
///
/// A11 · iroh 4424, 2169
#[tokio::test]
async fn a_quiet_stream_leaves_a_silent_path() {
    for (old, new) in [(Kind::Tcp, Kind::Quic), (Kind::Quic, Kind::Tcp)] {
        for by_dialer in [true, false] {
            let mut net = Net::with(Node::with(impatient()), Node::with(impatient()));
            let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
            let proxy = Proxy::default();
            let first = proxy.connect(&net, old).await;
            let second = net.connect(new).await;
            let peer = net.listener.id;
            let (mut ours, mut theirs) =
                open(&mut net.dialer, peer, &mut incoming, first.here).await;
            write(&mut ours, 1, 0, 34).await;
            write(&mut theirs, 2, 0, 34).await;
            read(&mut theirs, 1, 0, 34).await;
            read(&mut ours, 2, 0, 34).await;
            proxy.silence();
            let migration = match by_dialer {
                true => net.dialer.control.migrate(ours.key(), second.here),
                false => net.listener.control.migrate(theirs.key(), second.there),
            };
            // What is written before that is in flight on the silent path, and lost.
            within("the migration", migration).await.unwrap();
            let completed = |event: &Event| matches!(event, Event::MigrationCompleted { .. });
            net.dialer.count("completion", 1, completed).await;
            net.listener.count("completion", 1, completed).await;
            write(&mut ours, 1, 34, 50_000).await;
            within("the new path", read(&mut theirs, 1, 34, 50_000)).await;
            write(&mut theirs, 2, 34, 50_000).await;
            within("the new path", read(&mut ours, 2, 34, 50_000)).await;
            ours.close().await.unwrap();
            within("the end", read_end(&mut theirs)).await;
            theirs.close().await.unwrap();
            within("the end", read_end(&mut ours)).await;
            drop((ours, theirs));
            for node in [&net.dialer, &net.listener] {
                assert_eq!(how_it_ended(node).await, Ok(()));
            }
        }
    }
}
