//! What goes with `Control`'s calls where both nodes have a layer: policies, mobility, limits, events.

use std::time::Duration;

use futures::poll;
use libp2p::{PeerId, StreamProtocol};
use libp2p_stream_migration::*;
use testing::*;

use crate::stage::{PLAIN, Scene, Stage, config, ends, moved, setup};

/// Lets nothing move onto QUIC.
struct Veto(Verdict);

impl Policy for Veto {
    fn verdict(&mut self, _: &StreamInfo, to: &ConnectionInfo, _: &PeerView<'_>) -> Verdict {
        match to.transport {
            Transport::Quic => self.0,
            _ => Verdict::Accept,
        }
    }
}

/// "My policy says no." It has its say about links, as it would about connections.
#[tokio::test]
async fn a_policys_veto() {
    for (verdict, error) in [
        (Verdict::Deny, MigrateError::Denied),
        (Verdict::NotNow, MigrateError::Failed(Failure::LegLost)),
    ] {
        let vetoing = setup(config()).policy(Veto(verdict));
        let mut scene = Scene::new(setup(config()), vetoing).await;
        let [mut control, _] = scene.stage.controls();
        for [here, _] in scene.keys() {
            let migration = within("the answer", control.migrate(here, scene.quic.here));
            assert_eq!(migration.await, Err(error.clone()));
        }
        scene.works().await;
    }
}

/// "This protocol of somebody else's behaviour must not move, and that one must not go over relays." Whoever of the
/// two says so.
#[tokio::test]
async fn protocols_of_unmodified_behaviours_stay() {
    let pinned = StreamProtocol::new("/pinned/1.0.0");
    let direct = StreamProtocol::new("/direct/1.0.0");
    for says in [0, 1] {
        let prefer_direct = |config| setup(config).policy(PreferDirect);
        let said = config()
            .with_mobility(pinned.clone(), Mobility::Pinned)
            .with_mobility(direct.clone(), Mobility::NeverRelayed);
        let mut setups = [prefer_direct(said), prefer_direct(config())];
        setups.rotate_left(says);
        let [dialer, listener] = setups;
        let mut stage = Stage::new(dialer, listener);
        let relayed = stage.connect(Kind::Relayed).await;
        let mut stays = stage.open_plain(pinned.clone()).await;
        let mut goes = stage.open_plain(direct.clone()).await;
        let link = stage.connect(Kind::Tcp).await;
        moved(&stage.net.dialer, goes.keys[0], link.here).await;
        moved(&stage.net.listener, goes.keys[1], link.there).await;
        let mut controls = stage.controls();
        for (flow, mobility, to) in [
            (&stays, Mobility::Pinned, link),
            (&goes, Mobility::NeverRelayed, relayed),
        ] {
            let to = ends(to);
            let own = controls[says].migrate(flow.keys[says], to[says]).await;
            assert_eq!(own, Err(MigrateError::NotAllowed(mobility)));
            let other = 1 - says;
            let denied = controls[other].migrate(flow.keys[other], to[other]);
            let denied = within("the answer", denied).await;
            assert_eq!(denied, Err(MigrateError::Denied));
        }
        stays.works().await;
        goes.works().await;
        assert_eq!(stage.place(stays.keys[0]).await, Some(relayed.here));
        assert_eq!(stage.place(goes.keys[0]).await, Some(link.here));
    }
}

/// "A link holds two streams, and no more." The third goes to the second best, the fifth waits, and so does who is
/// to be moved.
#[tokio::test]
async fn a_link_that_is_full() {
    let two = config().with_max_streams_per_connection(2);
    let mut stage = Stage::new(setup(two), setup(config()));
    let tcp = stage.connect(Kind::Tcp).await;
    let quic = stage.connect(Kind::Quic).await;
    let mut flows = Vec::new();
    for expected in [tcp, tcp, quic, quic] {
        let flow = stage.open().await;
        assert_eq!(flow.ours.connection(), Some(expected.here));
        flows.push(flow);
    }
    let [mut control, _] = stage.controls();
    let moving = flows[0].keys[0];
    let mut migration = Box::pin(control.migrate(moving, quic.here));
    assert!(poll!(&mut migration).is_pending());
    let waits = |event: &Event| match event {
        Event::MigrationWaiting { key, to, .. } => (*key, *to) == (moving, quic.here),
        _ => false,
    };
    stage.net.dialer.count("the wait", 1, waits).await;
    drop(flows.pop());
    assert_eq!(within("the migration", migration).await, Ok(()));
    let flow = stage.open().await;
    assert_eq!(flow.ours.connection(), Some(tcp.here));
    flows.push(flow);

    let peer = stage.net.listener.id;
    let mut opening = Box::pin(control.open_stream(peer, PROTOCOL));
    assert!(poll!(&mut opening).is_pending());
    let links = stage.net.dialer.control.connections(peer).await;
    assert!(links.iter().all(|it| it.is_full() && it.streams == 2));
    // What has been moved.
    drop(flows.remove(0));
    let opened = within("opening", opening).await.unwrap();
    assert_eq!(opened.connection(), Some(quic.here));
    for flow in &mut flows {
        flow.works().await;
    }
}

/// Both sides have seen the link for long enough.
async fn proven(stage: &mut Stage, pair: Pair) {
    let peers = [stage.net.listener.id, stage.net.dialer.id];
    let nodes = [&mut stage.net.dialer, &mut stage.net.listener];
    for ((node, peer), link) in nodes.into_iter().zip(peers).zip(ends(pair)) {
        within("the proof", async {
            while !node.connection(peer, link).await.proven {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

/// What an event tells of this peer, but times and numbers that are drawn.
fn told(event: &Event, peer: PeerId) -> Option<String> {
    Some(match event {
        Event::ConnectionEstablished(it) | Event::ConnectionChanged(it) if it.peer != peer => {
            return None;
        }
        Event::ConnectionEstablished(it) => format!("connected {:?}", it.key),
        Event::ConnectionChanged(it) => format!("changed {:?}, proven: {}", it.key, it.proven),
        Event::StreamStarted {
            key,
            opener,
            connection,
            ..
        } => format!("started {key:?}, {opener:?}, {connection:?}"),
        event => {
            let text = format!("{event:?}").replace(&format!("peer: {peer:?}, "), "");
            let drawn = text.find(", took").or_else(|| text.find(", gap"));
            let end = drawn.or_else(|| text.find(" }")).unwrap_or(text.len());
            text[..end].replace(" {", "")
        }
    })
}

/// "I draw a picture from the events." Each thing that happens is told once, as it was.
#[tokio::test]
async fn each_event_comes_once() {
    let brief = config()
        // By then it is known that there is a layer.
        .with_proving_time(Duration::from_secs(2))
        .with_prune_grace(Some(Duration::from_millis(50)))
        .with_old_leg_linger(Duration::from_millis(50));
    let mut stage = Stage::new(setup(brief), setup(config()));
    let relayed = stage.net.connect(Kind::Relayed).await;
    let mut flow = stage.open_plain(PLAIN).await;
    flow.works().await;
    let direct = stage.net.connect(Kind::Tcp).await;
    proven(&mut stage, relayed).await;
    proven(&mut stage, direct).await;
    let [mut control, _] = stage.controls();
    let migration = within("the migration", control.migrate(flow.keys[0], direct.here));
    assert_eq!(migration.await, Ok(()));
    flow.works().await;
    let pruned = |event: &Event| matches!(event, Event::ConnectionPruned { .. });
    stage.net.dialer.count("pruning", 1, pruned).await;
    let keys = flow.keys;
    flow.close().await;

    let peers = [stage.net.listener.id, stage.net.dialer.id];
    for (at, node) in stage.nodes().into_iter().enumerate() {
        let ended = |event: &Event| matches!(event, Event::StreamEnded { .. });
        node.count("the end", 1, ended).await;
        // What was to be told is in the log.
        node.control.clone().peers().await;
        let (key, side) = (keys[at], [Side::Local, Side::Remote][at]);
        let [old, new] = [relayed, direct].map(|pair| ends(pair)[at]);
        let mut expected = vec![
            format!("connected {old:?}"),
            format!("changed {old:?}, proven: true"),
            format!("started {key:?}, {side:?}, {old:?}"),
            format!("StreamNegotiated key: {key:?}, protocol: \"{PLAIN}\""),
            format!("connected {new:?}"),
            format!("changed {new:?}, proven: true"),
            format!("ConnectionRehomed connection: {old:?}, from: {old:?}, to: {new:?}"),
            format!(
                "MigrationAgreed key: {key:?}, from: {old:?}, to: {new:?}, initiator: {side:?}"
            ),
            format!("ConnectionFree connection: {old:?}"),
            format!(
                "MigrationCompleted key: {key:?}, from: {old:?}, to: {new:?}, initiator: {side:?}"
            ),
            format!("Resumed key: {key:?}, connection: {new:?}, initiator: {side:?}"),
            format!("ConnectionFree connection: {new:?}"),
            // With what the unmodified behaviour has negotiated.
            format!("StreamEnded key: {key:?}, result: Ok(()), sent: 2034, received: 2034"),
        ];
        if side == Side::Local {
            expected.push(format!(
                "MigrationStarted key: {key:?}, from: Some({old:?}), to: {new:?}"
            ));
            expected.push(format!("ConnectionPruned connection: {old:?}"));
        }
        let events = node.events();
        let mut all: Vec<_> = events.iter().filter_map(|it| told(it, peers[at])).collect();
        all.sort_unstable();
        expected.sort_unstable();
        assert_eq!(all, expected);
    }
}
