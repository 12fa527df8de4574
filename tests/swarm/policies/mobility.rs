//! Streams that stay, or go to one place only, whatever policies say.

use futures::{AsyncWriteExt, StreamExt};
use libp2p_stream_migration::{
    Action, Change, Failure, MigrateError, Mobility, PeerView, PreferTransport,
};
use multistream_select::{Version, dialer_select_proto};
use testing::raw;

use super::*;

#[tokio::test]
async fn pinned_by_protocol_until_set_free() {
    let config = eager().with_mobility(PROTOCOL, Mobility::Pinned);
    let dialer = Node::with(setup(config).policy(PreferTransport::default()));
    let mut net = Net::with(dialer, Node::new());
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let tcp = net.connect(Kind::Tcp).await;
    let quic = net.connect(Kind::Quic).await;
    let mut streams = open_many(&mut net, &mut incoming, tcp.here, 1).await;
    let (here, there) = (streams[0].0.key(), streams[0].1.key());
    let peer = net.listener.id;
    at_rest(&net.dialer, peer).await;
    assert_eq!(count(&net.dialer, is_start), 0);
    let info = &net.dialer.control.streams(peer).await[0];
    assert_eq!(info.mobility, Mobility::Pinned);

    let migration = net.dialer.control.migrate(here, quic.here).await;
    assert_eq!(migration, Err(MigrateError::NotAllowed(Mobility::Pinned)));
    // The remote is refused, for good.
    for _ in 0..2 {
        let migration = net.listener.control.migrate(there, quic.there);
        let migration = within("the answer", migration).await;
        assert_eq!(migration, Err(MigrateError::Denied));
    }
    all_work(&mut streams).await;
    assert_eq!(streams[0].0.connection(), Some(tcp.here));

    // Ours is another matter.
    let free = net.dialer.control.set_mobility(here, Mobility::Free);
    free.await.unwrap();
    moved(&net.dialer, here, quic.here).await;
    moved(&net.listener, there, quic.there).await;
    all_work(&mut streams).await;
}

/// On the accepting side, the setting of the protocol holds as well; another protocol is not meant.
#[tokio::test]
async fn pinned_by_protocol_where_it_was_accepted() {
    let other = libp2p::StreamProtocol::new("/other/1.0.0");
    for (protocol, denied) in [(PROTOCOL, true), (other, false)] {
        let listener = Node::with(setup(eager().with_mobility(protocol, Mobility::Pinned)));
        let mut net = Net::with(Node::new(), listener);
        let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
        let tcp = net.connect(Kind::Tcp).await;
        let quic = net.connect(Kind::Quic).await;
        let mut streams = open_many(&mut net, &mut incoming, tcp.here, 1).await;
        let migration = net.dialer.control.migrate(streams[0].0.key(), quic.here);
        let migration = within("the answer", migration).await;
        assert_eq!(migration.is_err(), denied, "{migration:?}");
        all_work(&mut streams).await;
    }
}

#[tokio::test]
async fn pinned_by_the_application() {
    let mut net = Net::with(node(PreferTransport::default()), Node::new());
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let tcp = net.connect(Kind::Tcp).await;
    let mut streams = open_many(&mut net, &mut incoming, tcp.here, 2).await;
    let key = streams[0].0.key();
    let mut control = net.dialer.control.clone();
    control.set_mobility(key, Mobility::Pinned).await.unwrap();
    let quic = net.connect(Kind::Quic).await;
    moved(&net.dialer, streams[1].0.key(), quic.here).await;
    at_rest(&net.dialer, net.listener.id).await;
    all_work(&mut streams).await;
    assert_eq!(streams[0].0.connection(), Some(tcp.here));
    assert_eq!(count(&net.dialer, is_start), 1);

    // A stream that is over cannot be pinned.
    drop(streams);
    net.dialer
        .count("ends", 2, |event| {
            matches!(event, Event::StreamEnded { .. })
        })
        .await;
    let unknown = control.set_mobility(key, Mobility::Free).await;
    assert_eq!(unknown, Err(MigrateError::UnknownStream(key)));
}

/// Between direct connections as it likes; off a relay, but not onto one.
#[tokio::test]
async fn never_relayed() {
    let dialer = Node::with(setup(
        eager().with_mobility(PROTOCOL, Mobility::NeverRelayed),
    ));
    let mut net = Net::with(dialer, Node::new());
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let relayed = net.connect(Kind::Relayed).await;
    let again = net.connect(Kind::Relayed).await;
    let mut streams = open_many(&mut net, &mut incoming, relayed.here, 1).await;
    let (here, there) = (streams[0].0.key(), streams[0].1.key());
    let refused = Err(MigrateError::NotAllowed(Mobility::NeverRelayed));
    assert_eq!(net.dialer.control.migrate(here, again.here).await, refused);
    // Not a denial: that would keep it on this relay.
    let migration = net.listener.control.migrate(there, again.there);
    let failed = Err(MigrateError::Failed(Failure::LegLost));
    assert_eq!(within("the answer", migration).await, failed);

    let tcp = net.connect(Kind::Tcp).await;
    let quic = net.connect(Kind::Quic).await;
    let migration = net.listener.control.migrate(there, tcp.there);
    assert_eq!(within("the migration", migration).await, Ok(()));
    moved(&net.dialer, here, tcp.here).await;
    let migration = net.dialer.control.migrate(here, quic.here);
    assert_eq!(within("the migration", migration).await, Ok(()));
    moved(&net.listener, there, quic.there).await;

    assert_eq!(
        net.dialer.control.migrate(here, relayed.here).await,
        refused
    );
    let migration = net.listener.control.migrate(there, relayed.there);
    let denied = Err(MigrateError::Denied);
    assert_eq!(within("the answer", migration).await, denied);
    all_work(&mut streams).await;
}

/// Moved to its place at once, though the policy prefers another, and kept there.
#[tokio::test]
async fn pinned_to_one_connection() {
    let mut net = Net::with(node(PreferTransport::default()), Node::new());
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let first = net.connect(Kind::Tcp).await;
    let second = net.connect(Kind::Tcp).await;
    let mut streams = open_many(&mut net, &mut incoming, first.here, 1).await;
    let (here, there) = (streams[0].0.key(), streams[0].1.key());
    let mut control = net.dialer.control.clone();
    let pinned = Mobility::PinnedTo(second.here);
    control.set_mobility(here, pinned).await.unwrap();
    moved(&net.dialer, here, second.here).await;
    moved(&net.listener, there, second.there).await;

    let quic = net.connect(Kind::Quic).await;
    at_rest(&net.dialer, net.listener.id).await;
    assert_eq!(count(&net.dialer, is_start), 1);
    for to in [first.here, quic.here] {
        let refused = Err(MigrateError::NotAllowed(pinned));
        assert_eq!(control.migrate(here, to).await, refused);
    }
    let migration = net.listener.control.migrate(there, quic.there);
    assert_eq!(
        within("the answer", migration).await,
        Err(MigrateError::Denied)
    );
    all_work(&mut streams).await;

    control.set_mobility(here, Mobility::Free).await.unwrap();
    moved(&net.dialer, here, quic.here).await;
    moved(&net.listener, there, quic.there).await;
    all_work(&mut streams).await;
}

/// Pinned to a connection that is not there: it stays where it is.
#[tokio::test]
async fn pinned_to_nothing() {
    let mut net = Net::with(node(PreferTransport::default()), Node::new());
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let tcp = net.connect(Kind::Tcp).await;
    let mut streams = open_many(&mut net, &mut incoming, tcp.here, 1).await;
    let nothing = Mobility::PinnedTo(ConnectionKey::new(u64::MAX));
    let mut control = net.dialer.control.clone();
    let set = control.set_mobility(streams[0].0.key(), nothing);
    set.await.unwrap();
    net.connect(Kind::Quic).await;
    at_rest(&net.dialer, net.listener.id).await;
    all_work(&mut streams).await;
    assert_eq!(count(&net.dialer, is_start), 0);
}

/// Moves a stream to any other connection as soon as it has begun.
struct AtOnce;

impl Policy for AtOnce {
    fn changed(&mut self, change: &Change, peer: &PeerView<'_>) -> Vec<Action> {
        let Change::StreamStarted(key) = change else {
            return Vec::new();
        };
        let here = peer.stream(*key).unwrap().connection;
        let mut others = peer
            .connections()
            .iter()
            .filter(|other| Some(other.key) != here);
        let other = others.next().map(|other| Action::Move(*key, other.key));
        other.into_iter().collect()
    }
}

/// The opener knows the protocol from the start, before it is agreed.
#[tokio::test]
async fn pinned_from_the_start() {
    for pinned in [true, false] {
        let config = match pinned {
            true => eager().with_mobility(PROTOCOL, Mobility::Pinned),
            false => eager(),
        };
        let mut net = Net::with(Node::with(setup(config).policy(AtOnce)), Node::new());
        let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
        let tcp = net.connect(Kind::Tcp).await;
        let quic = net.connect(Kind::Quic).await;
        let mut streams = open_many(&mut net, &mut incoming, tcp.here, 1).await;
        if pinned {
            at_rest(&net.dialer, net.listener.id).await;
            assert_eq!(count(&net.dialer, is_start), 0);
        } else {
            moved(&net.dialer, streams[0].0.key(), quic.here).await;
        }
        all_work(&mut streams).await;
    }
}

/// What the application says of a stream before its protocol is agreed is not forgotten then.
#[tokio::test]
async fn said_early() {
    let mut net = Net::with(raw::raw_node(), Node::with(setup(eager())));
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let tcp = net.connect(Kind::Tcp).await;
    let (here, there) = (net.dialer.id, net.listener.id);
    let mut leg = raw::prefix(&mut net.dialer, there, tcp.here).await;
    leg.write_all(&raw::label(0)).await.unwrap();
    leg.flush().await.unwrap();
    let key = net.listener.event("the label", |event| match event {
        Event::StreamStarted { key, .. } => Some(*key),
        _ => None,
    });
    let key = key.await;
    let mut control = net.listener.control.clone();
    control.set_mobility(key, Mobility::Pinned).await.unwrap();
    let offer = dialer_select_proto(leg, [PROTOCOL], Version::V1);
    let (_leg, stream) = within("the negotiation", async {
        futures::join!(offer, incoming.next())
    })
    .await;
    let (_, stream) = stream.unwrap();
    assert_eq!(stream.key(), key);
    let info = &control.streams(here).await[0];
    assert_eq!(info.mobility, Mobility::Pinned);
}
