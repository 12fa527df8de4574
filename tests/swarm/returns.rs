//! A stream that has left a relayed connection does not go back: the remote may be closing it
//! (rule 8; what it costs is in `tests/traces/pruning.rs`).

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use libp2p_stream_migration::{
    Config, Event, Initiate, PeerView, Placement, Policy, StreamInfo, StreamKey,
};
use testing::*;

/// Wants every stream on a relayed connection.
struct PreferRelayed {
    /// It was asked about a stream that has left one.
    asked: Arc<AtomicBool>,
}

impl Policy for PreferRelayed {
    fn place(&mut self, stream: &StreamInfo, peer: &PeerView<'_>) -> Placement {
        let relayed = |id| peer.connection(id).is_some_and(|info| info.relayed);
        if stream.connection.is_some_and(relayed) {
            return Placement::Here;
        }
        if stream.left_relay {
            self.asked.store(true, Ordering::Relaxed);
        }
        let target = peer.connections().iter().find(|info| info.relayed);
        target.map_or(Placement::Here, |info| Placement::On(info.key))
    }
}

/// One stream leaves the relay, and the policy is not heeded that wants it back. Another, which
/// began on the direct connection, is moved onto the relayed one by the same policy, later: so the
/// first was not just waiting.
async fn only_one_that_never_left(direct: Kind) {
    let asked = Arc::new(AtomicBool::new(false));
    let setup = Setup {
        config: Config::default()
            .with_prune_grace(None)
            .with_initiate(Initiate::Either),
        ..Default::default()
    };
    let policy = PreferRelayed {
        asked: asked.clone(),
    };
    let mut net = Net::with(Node::with(setup.policy(policy)), Node::new());
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let relayed = net.connect(Kind::Relayed).await;
    let peer = net.listener.id;
    let (mut left, mut there) = open(&mut net.dialer, peer, &mut incoming, relayed.here).await;
    let direct = net.connect(direct).await;
    let migration = net.listener.control.migrate(there.key(), direct.there);
    assert_eq!(within("the migration", migration).await, Ok(()));
    let completed = |key: StreamKey| {
        move |event: &Event| match event {
            Event::MigrationCompleted { key: of, to, .. } if *of == key => Some(*to),
            _ => None,
        }
    };
    let to = net.dialer.event("completion", completed(left.key())).await;
    assert_eq!(to, direct.here);

    let (never, _there) = open(&mut net.dialer, peer, &mut incoming, direct.here).await;
    let to = net.dialer.event("its move", completed(never.key())).await;
    assert_eq!(to, relayed.here);
    assert!(asked.load(Ordering::Relaxed), "the policy wanted it back");
    let attempts = net.dialer.events().into_iter().filter(|event| {
        matches!(event, Event::MigrationAgreed { key, to, .. }
            if *key == left.key() && *to == relayed.here)
    });
    assert_eq!(attempts.count(), 0);
    assert_eq!(left.connection(), Some(direct.here));
    write(&mut left, 1, 0, 1000).await;
    read(&mut there, 1, 0, 1000).await;
}

#[tokio::test]
async fn relayed_and_tcp() {
    only_one_that_never_left(Kind::Tcp).await;
}

#[tokio::test]
async fn relayed_and_quic() {
    only_one_that_never_left(Kind::Quic).await;
}
