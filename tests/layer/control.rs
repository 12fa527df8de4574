//! `Control`'s calls where both nodes have a layer, for its own streams and those of an unmodified behaviour.

use std::{any::Any, time::Duration};

use futures::poll;
use libp2p::StreamProtocol;
use libp2p_stream_migration::*;
use testing::*;

use crate::{
    rehomed,
    stage::{NOBODY, NOWHERE, PLAIN, Scene, Stage, config, count, ends, moved, setup},
};

/// Who moves nothing, at either end.
async fn calm() -> Scene {
    Scene::new(setup(config()), setup(config())).await
}

/// "I name a connection to open a stream on, or leave it to the crate; and I accept them by protocol."
#[tokio::test]
async fn streams_are_opened_where_they_are_wanted() {
    let mut scene = calm().await;
    for pair in [scene.tcp, scene.quic] {
        let mut flow = scene.stage.open_on(pair).await;
        assert!(flow.ours.is_migratable());
        assert_eq!(flow.ours.connection(), Some(pair.here));
        assert_eq!(flow.theirs.connection(), Some(pair.there));
        flow.works().await;
    }
    // Both are as good: the older.
    let flow = scene.stage.open().await;
    assert_eq!(flow.ours.connection(), Some(scene.tcp.here));

    let peer = scene.stage.net.listener.id;
    let [mut ours, mut theirs] = scene.stage.controls();
    let unknown = ours.open_stream_on(peer, NOWHERE, PROTOCOL).await;
    assert!(matches!(
        unknown,
        Err(OpenStreamError::UnknownConnection(NOWHERE))
    ));
    let taken = theirs.accept(PROTOCOL);
    assert!(matches!(taken, Err(AcceptError::AlreadyRegistered(_))));
    drop(scene.stage.incoming);
    let refused = within("the refusal", ours.open_stream(peer, PROTOCOL)).await;
    assert!(matches!(
        refused,
        Err(OpenStreamError::UnsupportedProtocol(_))
    ));
}

/// "I move a stream, mine or anybody's, and the other side waits for that." There and back, and nowhere else.
#[tokio::test]
async fn there_and_back() {
    let mut scene = calm().await;
    let [mut ours, mut theirs] = scene.stage.controls();
    for [here, there] in scene.keys() {
        for to in [scene.quic, scene.tcp] {
            let mut next = Box::pin(theirs.next_move(there));
            assert!(poll!(&mut next).is_pending());
            // What is asked later is answered later.
            scene.stage.net.listener.control.peers().await;
            let moved = within("the migration", ours.migrate(here, to.here));
            assert_eq!(moved.await, Ok(()));
            assert_eq!(within("the next move", next).await, Ok(to.there));
            assert_eq!(scene.stage.place(here).await, Some(to.here));
            scene.works().await;
        }
        let there_already = Err(MigrateError::AlreadyThere(scene.tcp.here));
        assert_eq!(ours.migrate(here, scene.tcp.here).await, there_already);
        let unknown = Err(MigrateError::UnknownConnection(NOWHERE));
        assert_eq!(ours.migrate(here, NOWHERE).await, unknown);
    }
    let unknown = MigrateError::UnknownStream(NOBODY);
    let moved = ours.migrate(NOBODY, scene.quic.here).await;
    assert_eq!(moved, Err(unknown.clone()));
    assert_eq!(ours.next_move(NOBODY).await, Err(unknown));

    let [own, plain] = scene.keys();
    let flows: [(_, Box<dyn Any>); 2] = [
        (own[0], Box::new(scene.own)),
        (plain[0], Box::new(scene.plain)),
    ];
    for (here, flow) in flows {
        let mut next = Box::pin(ours.next_move(here));
        assert!(poll!(&mut next).is_pending());
        scene.stage.net.dialer.control.peers().await;
        drop(flow);
        let none = within("the end", next).await;
        assert!(matches!(
            none,
            Err(MigrateError::Ended | MigrateError::Aborted(_))
        ));
    }
}

/// "The swarm told me of the direct connection, and I moved my stream there at once: there was no such connection."
/// Whether there is a layer at its other end is waited for.
#[tokio::test]
async fn as_soon_as_there_is_a_connection() {
    for always in [true, false] {
        let config = || config().with_layer_always(always);
        let mut stage = Stage::new(setup(config()), setup(config()));
        stage.net.connect(Kind::Relayed).await;
        let mut flow = stage.open_plain(PLAIN).await;
        let [mut ours, mut theirs] = stage.controls();
        for kind in [Kind::Tcp, Kind::Quic] {
            let pair = stage.net.connect(kind).await;
            let moved = within("the migration", ours.migrate(flow.keys[0], pair.here));
            assert_eq!(moved.await, Ok(()));
            flow.works().await;
            let pair = stage.net.connect(kind).await;
            let moved = within("the migration", theirs.migrate(flow.keys[1], pair.there));
            assert_eq!(moved.await, Ok(()));
            flow.works().await;
        }
    }
}

/// Moves nothing, and leaves each question to the application.
struct Asks;

impl Policy for Asks {
    fn place(&mut self, _: &StreamInfo, _: &PeerView<'_>) -> Placement {
        Placement::Here
    }

    fn verdict(&mut self, _: &StreamInfo, _: &ConnectionInfo, _: &PeerView<'_>) -> Verdict {
        Verdict::Ask
    }
}

/// "My application says whether a stream may be moved." Yes or no, once, and of what was asked.
#[tokio::test]
async fn the_application_answers() {
    for (verdict, outcome, declined) in [
        (Verdict::Accept, Ok(()), 0),
        (Verdict::Deny, Err(MigrateError::Denied), 2),
    ] {
        let mut scene = Scene::new(setup(config()), setup(config()).policy(Asks)).await;
        let [mut ours, mut theirs] = scene.stage.controls();
        let (tcp, quic) = (scene.tcp.there, scene.quic.there);
        for [here, there] in scene.keys() {
            let mut migration = Box::pin(ours.migrate(here, scene.quic.here));
            assert!(poll!(&mut migration).is_pending());
            let question = |event: &Event| match event {
                Event::MigrationRequested { key, to, .. } if *key == there => Some(*to),
                _ => None,
            };
            let listener = &scene.stage.net.listener;
            assert_eq!(listener.event("the question", question).await, quic);
            let not_asked = Err(MigrateError::NotAsked);
            assert_eq!(theirs.answer(there, tcp, verdict).await, not_asked);
            assert_eq!(theirs.answer(there, quic, Verdict::Ask).await, not_asked);
            assert_eq!(theirs.answer(there, quic, verdict).await, Ok(()));
            assert_eq!(theirs.answer(there, quic, verdict).await, not_asked);
            assert_eq!(within("the migration", migration).await, outcome);
        }
        let for_good = |event: &Event| match event {
            Event::MigrationDeclined { to, for_good, .. } => *to == quic && *for_good,
            _ => false,
        };
        assert_eq!(count(&scene.stage.net.listener, for_good), declined);
        scene.works().await;
        let unknown = Err(MigrateError::UnknownStream(NOBODY));
        assert_eq!(theirs.answer(NOBODY, quic, verdict).await, unknown);
    }
}

/// "My user took too long to answer." That is "not now", and the stream goes on where it was.
#[tokio::test]
async fn an_answer_that_comes_too_late() {
    let hasty = config().with_answer_timeout(Duration::from_millis(500));
    let mut scene = Scene::new(setup(config()), setup(hasty).policy(Asks)).await;
    let [mut ours, mut theirs] = scene.stage.controls();
    for [here, there] in scene.keys() {
        let failed = Err(MigrateError::Failed(Failure::LegLost));
        let migration = within("the migration", ours.migrate(here, scene.quic.here));
        assert_eq!(migration.await, failed);
        let late = theirs.answer(there, scene.quic.there, Verdict::Accept);
        assert_eq!(late.await, Err(MigrateError::NotAsked));
        assert_eq!(scene.stage.place(here).await, Some(scene.tcp.here));
    }
    scene.works().await;
}

/// "I pin a stream to a link, and it goes there; whoever wants it elsewhere is refused, until I set it free."
#[tokio::test]
async fn mobility_of_one_stream() {
    let mut scene = calm().await;
    let [mut ours, mut theirs] = scene.stage.controls();
    for [here, there] in scene.keys() {
        let pinned = Mobility::PinnedTo(scene.quic.here);
        assert_eq!(ours.set_mobility(here, pinned).await, Ok(()));
        moved(&scene.stage.net.dialer, here, scene.quic.here).await;
        moved(&scene.stage.net.listener, there, scene.quic.there).await;
        let back = ours.migrate(here, scene.tcp.here).await;
        assert_eq!(back, Err(MigrateError::NotAllowed(pinned)));
        let back = within("the answer", theirs.migrate(there, scene.tcp.there)).await;
        assert_eq!(back, Err(MigrateError::Denied));
        assert_eq!(ours.set_mobility(here, Mobility::Free).await, Ok(()));
        let back = within("the migration", ours.migrate(here, scene.tcp.here)).await;
        assert_eq!(back, Ok(()));
    }
    scene.works().await;
    let unknown = Err(MigrateError::UnknownStream(NOBODY));
    assert_eq!(ours.set_mobility(NOBODY, Mobility::Free).await, unknown);
}

/// "I empty a link before I take its interface down." All leave it, and nothing new is put there, by whatever
/// behaviour; until I say otherwise.
#[tokio::test]
async fn a_link_is_emptied() {
    let setup = || setup(config()).policy(Drain);
    let mut scene = Scene::new(setup(), setup()).await;
    let ([mut control, _], peer) = (scene.stage.controls(), scene.stage.net.listener.id);
    let unknown = Err(DrainError::UnknownConnection(NOWHERE));
    assert_eq!(control.drain(peer, NOWHERE).await, unknown);
    assert_eq!(control.undrain(peer, NOWHERE).await, unknown);

    let (tcp, quic) = (scene.tcp.here, scene.quic.here);
    let begun = |event: &Event| match event {
        Event::StreamStarted { connection, .. } => *connection == tcp,
        _ => false,
    };
    let before = count(&scene.stage.net.dialer, begun);
    let drained = within("draining", control.drain(peer, tcp)).await;
    assert_eq!(drained, Ok(()));
    for [here, _] in scene.keys() {
        assert_eq!(scene.stage.place(here).await, Some(quic));
        let back = control.migrate(here, tcp).await;
        assert_eq!(back, Err(MigrateError::Draining(tcp)));
    }
    // The older, and it would come first.
    let flow = scene.stage.open().await;
    assert_eq!(flow.ours.connection(), Some(quic));
    home(&scene, tcp, quic).await;
    for number in 0..8 {
        let protocol = StreamProtocol::try_from_owned(format!("/{number}")).unwrap();
        scene.stage.open_plain(protocol).await.works().await;
    }
    assert_eq!(count(&scene.stage.net.dialer, begun), before);
    scene.works().await;

    assert_eq!(control.undrain(peer, tcp).await, Ok(()));
    home(&scene, quic, tcp).await;
    for [here, _] in scene.keys() {
        let back = within("the migration", control.migrate(here, tcp)).await;
        assert_eq!(back, Ok(()));
        let pinned = control.set_mobility(here, Mobility::Pinned).await;
        assert_eq!(pinned, Ok(()));
    }
    // It is not free as long as those are there: whoever waits hears that he need not.
    let mut other = control.clone();
    let mut draining = Box::pin(other.drain(peer, tcp));
    assert!(poll!(&mut draining).is_pending());
    assert_eq!(control.undrain(peer, tcp).await, Ok(()));
    let undrained = within("the end of the wait", draining).await;
    assert_eq!(undrained, Err(DrainError::Undrained(tcp)));
    scene.works().await;
}

/// The TCP connection of the dialer is at home on another link.
async fn home(scene: &Scene, old: ConnectionKey, new: ConnectionKey) {
    let of = scene.tcp.here;
    let dialer = &scene.stage.net.dialer;
    let rehomed = |event: &Event| match event {
        Event::ConnectionRehomed {
            connection,
            from,
            to,
            ..
        } if (*connection, *from, *to) == (of, old, new) => Some(()),
        _ => None,
    };
    dialer.event("another home", rehomed).await;
}

/// "I have a link closed as soon as nothing needs it." Not before; and its connection lives on.
#[tokio::test]
async fn a_link_is_closed_when_free() {
    for kind in [Kind::Relayed, Kind::Quic] {
        let brief = config()
            .with_prune_grace(Some(Duration::from_millis(50)))
            .with_old_leg_linger(Duration::from_millis(50));
        // The other side has nothing to close.
        let mut stage = Stage::new(setup(brief), setup(config()));
        let old = stage.connect(kind).await;
        let mut flow = stage.open_plain(PLAIN).await;
        let new = stage.connect(Kind::Tcp).await;
        let (peer, [mut control, _]) = (stage.net.listener.id, stage.controls());
        control.close_when_free(peer, old.here).await;
        flow.works().await;
        let pruned = |event: &Event| match event {
            Event::ConnectionPruned { connection, .. } => {
                assert_eq!(*connection, old.here);
                true
            }
            _ => false,
        };
        assert_eq!(count(&stage.net.dialer, pruned), 0);
        let migration = within("the migration", control.migrate(flow.keys[0], new.here));
        assert_eq!(migration.await, Ok(()));
        stage.net.dialer.count("pruning", 1, pruned).await;
        rehomed(&stage.net, old).await;
        within("the link's end", async {
            let gone = Err(MigrateError::UnknownConnection(old.here));
            while control.migrate(flow.keys[0], old.here).await != gone {
                tokio::task::yield_now().await;
            }
        })
        .await;
        flow.works().await;
        assert_eq!(count(&stage.net.dialer, pruned), 1);
        for node in stage.nodes() {
            assert!(!node.read(|seen| matches!(seen, Seen::Closed(_))));
        }
    }
}

/// "I list what is there." Streams of any behaviour by their protocols; links in their order, and whose home they
/// are.
#[tokio::test]
async fn what_is_there_is_listed() {
    let mut stage = Stage::new(setup(config()), setup(config()));
    let relayed = stage.connect(Kind::Relayed).await;
    let plain = stage.open_plain(PLAIN).await;
    let own = stage.open_on(relayed).await;
    let direct = stage.connect(Kind::Tcp).await;
    rehomed(&stage.net, relayed).await;
    let peers = [stage.net.listener.id, stage.net.dialer.id];
    for (side, mut control) in stage.controls().into_iter().enumerate() {
        let (peer, opener) = (peers[side], [Side::Local, Side::Remote][side]);
        let [relayed, direct] = [relayed, direct].map(|pair| ends(pair)[side]);
        assert!(control.peers().await.contains(&peer));
        for streams in [control.streams(peer).await, control.all_streams().await] {
            assert_eq!(streams.len(), 2);
            for (key, protocol) in [(plain.keys[side], PLAIN), (own.keys[side], PROTOCOL)] {
                let info = streams.iter().find(|it| it.key == key).unwrap();
                assert_eq!(info.protocol, Some(ProtocolName::new(&protocol)));
                assert_eq!((info.peer, info.opener), (peer, opener));
                assert_eq!(info.connection, Some(relayed));
                assert!(!info.migrating && info.mobility == Mobility::Free);
            }
        }
        let [first, second] = &control.connections(peer).await[..] else {
            panic!("two links");
        };
        let seen = |it: &ConnectionInfo| (it.key, it.relayed, it.streams);
        assert_eq!(seen(first), (direct, false, 0));
        assert_eq!(seen(second), (relayed, true, 2));
        assert!(first.homes.contains(&relayed) && first.homes.contains(&direct));
        assert!(second.homes.is_empty());
    }
}

/// "I closed the direct connection; its link carries on for the other one." It is a place for streams like any other.
#[tokio::test]
async fn a_link_that_outlives_its_connection() {
    let direct_only = config().with_mobility(PROTOCOL, Mobility::NeverRelayed);
    let mut stage = Stage::new(setup(direct_only), setup(config()));
    let relayed = stage.connect(Kind::Relayed).await;
    let direct = stage.connect(Kind::Tcp).await;
    rehomed(&stage.net, relayed).await;
    stage.net.dialer.close(direct.here);
    for (node, connection) in stage.nodes().into_iter().zip(ends(direct)) {
        node.wait("its end", |seen| match seen {
            Seen::Closed(it) if *it == connection => Some(()),
            _ => None,
        })
        .await;
    }
    let peer = stage.net.listener.id;
    let link = stage.net.dialer.connection(peer, direct.here).await;
    assert_eq!(link.homes, [relayed.here]);
    for mut flow in [stage.open().await, stage.open_on(direct).await] {
        assert_eq!(flow.ours.connection(), Some(direct.here));
        flow.works().await;
    }
}
