//! What a policy is told, and what it can have done.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use libp2p_stream_migration::{
    Action, Change, ConnectionInfo, Failure, Mobility, PeerView, Placement, StreamInfo, Verdict,
};

use super::*;

/// Notes what it is told; does what it is given to do, the next time that a stream changes.
#[derive(Clone, Default)]
struct Puppet(Arc<Mutex<Strings>>);

#[derive(Default)]
struct Strings {
    told: Vec<Change>,
    todo: VecDeque<Action>,
    place: Option<ConnectionKey>,
    not_now: bool,
}

impl Puppet {
    fn told(&self) -> Vec<Change> {
        self.0.lock().unwrap().told.clone()
    }

    /// Has an action done: the change of this stream is the occasion.
    async fn act(&self, node: &Node, key: StreamKey, action: Action) {
        self.0.lock().unwrap().todo.push_back(action);
        let mut control = node.control.clone();
        control.set_mobility(key, Mobility::Free).await.unwrap();
    }
}

impl Policy for Puppet {
    fn place(&mut self, _: &StreamInfo, _: &PeerView<'_>) -> Placement {
        let place = self.0.lock().unwrap().place;
        place.map_or(Placement::Here, Placement::On)
    }

    fn verdict(&mut self, _: &StreamInfo, _: &ConnectionInfo, _: &PeerView<'_>) -> Verdict {
        match self.0.lock().unwrap().not_now {
            true => Verdict::NotNow,
            false => Verdict::Accept,
        }
    }

    fn changed(&mut self, change: &Change, peer: &PeerView<'_>) -> Vec<Action> {
        let mut strings = self.0.lock().unwrap();
        strings.told.push(change.clone());
        // The view shows how it is now.
        match change {
            Change::Connected(id) => assert!(peer.connection(*id).is_some()),
            Change::Disconnected(id) => assert!(peer.connection(*id).is_none()),
            Change::StreamStarted(key) => assert!(peer.stream(*key).unwrap().protocol.is_none()),
            Change::StreamChanged(key) => {
                assert!(peer.stream(*key).unwrap().protocol.unwrap() == PROTOCOL);
                assert!(peer.streams().iter().any(|stream| stream.key == *key));
                return strings.todo.drain(..).collect();
            }
            Change::Migrated(key) => assert!(!peer.stream(*key).unwrap().migrating),
            Change::StreamEnded(key) => assert!(peer.stream(*key).is_none()),
            _ => {}
        }
        Vec::new()
    }
}

async fn told(node: &Node, puppet: &Puppet, what: impl Fn(&Change) -> bool) {
    let mut control = node.control.clone();
    within("the policy is told", async {
        while !puppet.told().iter().any(&what) {
            // Each answer is a round of the behaviour.
            control.connections(node.id).await;
            tokio::task::yield_now().await;
        }
    })
    .await;
}

struct Scene {
    net: Net,
    puppet: Puppet,
    streams: Vec<(Stream, Stream)>,
    old: Pair,
    new: Pair,
}

/// Two streams on TCP, and a QUIC connection.
async fn scene(config: Config) -> Scene {
    let puppet = Puppet::default();
    let mut net = Net::with(
        Node::with(setup(config).policy(puppet.clone())),
        Node::new(),
    );
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let old = net.connect(Kind::Tcp).await;
    let new = net.connect(Kind::Quic).await;
    let streams = open_many(&mut net, &mut incoming, old.here, 2).await;
    Scene {
        net,
        puppet,
        streams,
        old,
        new,
    }
}

/// All there is in a life, each once and in order.
#[tokio::test]
async fn told_of_everything() {
    let (puppet, remote) = (Puppet::default(), Puppet::default());
    let mut net = Net::with(node(remote.clone()), node(puppet.clone()));
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let old = net.connect(Kind::Tcp).await;
    let streams = open_many(&mut net, &mut incoming, old.here, 1).await;
    let (here, there) = (streams[0].0.key(), streams[0].1.key());
    let new = net.connect(Kind::Quic).await;
    remote.0.lock().unwrap().not_now = true;
    let migration = net.listener.control.migrate(there, new.there);
    assert!(within("the answer", migration).await.is_err());
    net.listener.count("the failure", 1, is_failure).await;
    let migration = net.dialer.control.migrate(here, new.here);
    assert_eq!(within("the migration", migration).await, Ok(()));
    moved(&net.listener, there, new.there).await;
    drop(streams);
    let ended = |change: &Change| matches!(change, Change::StreamEnded(_));
    told(&net.listener, &puppet, ended).await;
    net.dialer.close(old.here);
    closed(&net.listener, old.there).await;
    net.dialer.close(new.here);
    closed(&net.listener, new.there).await;
    let last = |change: &Change| *change == Change::Disconnected(new.there);
    told(&net.listener, &puppet, last).await;
    let expected = [
        Change::Connected(old.there),
        Change::StreamStarted(there),
        Change::StreamChanged(there),
        Change::Connected(new.there),
        Change::MigrationFailed(there, Failure::LegLost),
        Change::Migrated(there),
        Change::StreamEnded(there),
        Change::Disconnected(old.there),
        Change::Disconnected(new.there),
    ];
    assert_eq!(puppet.told(), expected);
}

#[tokio::test]
async fn moves_a_stream() {
    let mut scene = scene(eager()).await;
    let keys = [0, 1].map(|n: usize| scene.streams[n].0.key());
    // On the occasion of one, another.
    let action = Action::Move(keys[1], scene.new.here);
    scene.puppet.act(&scene.net.dialer, keys[0], action).await;
    moved(&scene.net.dialer, keys[1], scene.new.here).await;
    let migrated = |change: &Change| *change == Change::Migrated(keys[1]);
    told(&scene.net.dialer, &scene.puppet, migrated).await;
    all_work(&mut scene.streams).await;
    assert_eq!(scene.streams[0].0.connection(), Some(scene.old.here));
    // One that is pinned does not go, nor one that is there already, nor to nowhere.
    let mut control = scene.net.dialer.control.clone();
    let nowhere = ConnectionKey::new(u64::MAX);
    control
        .set_mobility(keys[1], Mobility::Pinned)
        .await
        .unwrap();
    for (key, to) in [
        (keys[1], scene.old.here),
        (keys[0], scene.old.here),
        (keys[0], nowhere),
    ] {
        let action = Action::Move(key, to);
        scene.puppet.act(&scene.net.dialer, keys[0], action).await;
        at_rest(&scene.net.dialer, scene.net.listener.id).await;
    }
    assert_eq!(count(&scene.net.dialer, is_start), 1);
    assert_eq!(count(&scene.net.dialer, is_failure), 0);
}

#[tokio::test]
async fn has_all_streams_placed_anew() {
    let mut scene = scene(eager()).await;
    let keys = [0, 1].map(|n: usize| scene.streams[n].0.key());
    scene.puppet.0.lock().unwrap().place = Some(scene.new.here);
    // Nobody has asked it yet.
    at_rest(&scene.net.dialer, scene.net.listener.id).await;
    assert_eq!(count(&scene.net.dialer, is_start), 0);
    scene
        .puppet
        .act(&scene.net.dialer, keys[0], Action::Replace)
        .await;
    for key in keys {
        moved(&scene.net.dialer, key, scene.new.here).await;
    }
    all_work(&mut scene.streams).await;
}

/// Called in time, once; of two times the earlier.
#[tokio::test]
async fn is_called() {
    let scene = scene(eager()).await;
    let key = scene.streams[0].0.key();
    let called = |change: &Change| *change == Change::Called;
    for delay in [Duration::from_secs(3600), Duration::from_millis(50)] {
        let action = Action::CallIn(delay);
        scene.puppet.act(&scene.net.dialer, key, action).await;
    }
    told(&scene.net.dialer, &scene.puppet, called).await;
    let calls = scene.puppet.told().iter().filter(|it| called(it)).count();
    assert_eq!(calls, 1);
    // Again when it asks again.
    let action = Action::CallIn(Duration::ZERO);
    scene.puppet.act(&scene.net.dialer, key, action).await;
    let mut control = scene.net.dialer.control.clone();
    within("the second call", async {
        while scene.puppet.told().iter().filter(|it| called(it)).count() < 2 {
            control.connections(scene.net.listener.id).await;
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// A direct connection that the policy wants closed, by [`Action::Close`] or from outside: as soon as it
/// is free, and not before.
#[tokio::test]
async fn has_a_connection_closed() {
    for by_policy in [true, false] {
        let config = eager()
            .with_prune_grace(Some(Duration::from_millis(50)))
            .with_old_leg_linger(Duration::from_millis(50));
        let mut scene = scene(config).await;
        let keys = [0, 1].map(|n: usize| scene.streams[n].0.key());
        let (peer, old) = (scene.net.listener.id, scene.old.here);
        let pruned = |event: &Event| match event {
            Event::ConnectionPruned { connection, .. } => {
                assert_eq!(*connection, old);
                true
            }
            _ => false,
        };
        let mut control = scene.net.dialer.control.clone();
        if by_policy {
            let action = Action::Close(old);
            scene.puppet.act(&scene.net.dialer, keys[0], action).await;
        } else {
            control.close_when_free(peer, old).await;
        }
        control.migrate(keys[0], scene.new.here).await.unwrap();
        all_work(&mut scene.streams).await;
        // Time has to pass: that nothing happens is what is tested.
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(count(&scene.net.dialer, pruned), 0);
        all_work(&mut scene.streams).await;
        control.migrate(keys[1], scene.new.here).await.unwrap();
        scene.net.dialer.count("pruning", 1, pruned).await;
        closed(&scene.net.dialer, old).await;
        closed(&scene.net.listener, scene.old.there).await;
        all_work(&mut scene.streams).await;
    }
}
