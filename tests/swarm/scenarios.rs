//! What an application may be doing while its stream moves, on the pairs of connections that differ in
//! how streams end.

use std::sync::atomic::{AtomicBool, Ordering};

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt, join};
use libp2p_stream_migration::ConnectionKey;
use libp2p_stream_migration::{
    Config, ConnectionInfo, Event, Failure, IncomingStreams, MigrateError, PeerView, Policy,
    PreferDirect, Stream, StreamInfo, StreamKey, Verdict,
};
use testing::*;

/// A stream over one connection, and another connection to move it to.
struct Scene {
    net: Net,
    incoming: IncomingStreams,
    old: Pair,
    new: Pair,
    ours: Stream,
    theirs: Stream,
}

impl Scene {
    async fn new(old: Kind, new: Kind) -> Self {
        Self::with(Net::new(), old, new).await
    }

    async fn with(mut net: Net, old: Kind, new: Kind) -> Self {
        let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
        let old = net.connect(old).await;
        let new = net.connect(new).await;
        let peer = net.listener.id;
        let (ours, theirs) = open(&mut net.dialer, peer, &mut incoming, old.here).await;
        Self {
            net,
            incoming,
            old,
            new,
            ours,
            theirs,
        }
    }

    async fn migrate(&mut self) {
        let key = self.ours.key();
        self.migrate_key(key).await;
    }

    async fn migrate_key(&mut self, key: StreamKey) {
        let migration = self.net.dialer.control.migrate(key, self.new.here);
        within("the migration", migration).await.unwrap();
    }

    /// The other side's end of the migration is its own.
    async fn completed_there(&self) {
        completed(&self.net.listener, self.new.there).await;
    }

    /// Both directions still work, and end.
    async fn check_to_the_end(self) {
        let (ours, theirs) = (self.ours, self.theirs);
        within("the rest of the stream", async {
            join!(say_and_hear(ours, 11, 12), say_and_hear(theirs, 12, 11));
        })
        .await;
    }
}

async fn completed(node: &Node, onto: ConnectionKey) {
    node.event("completion", |event| match event {
        Event::MigrationCompleted { to, .. } if *to == onto => Some(()),
        _ => None,
    })
    .await;
}

async fn say_and_hear(stream: Stream, out: u64, r#in: u64) {
    let (mut reader, mut writer) = stream.split();
    join!(
        async {
            write(&mut writer, out, 0, 100_000).await;
            writer.close().await.unwrap();
        },
        async {
            assert_eq!(read_to_end(&mut reader, r#in, 0).await, 100_000);
        },
    );
}

async fn idle_stream(old: Kind, new: Kind) {
    let mut scene = Scene::new(old, new).await;
    scene.migrate().await;
    scene.completed_there().await;
    assert_eq!(scene.ours.connection(), Some(scene.new.here));
    assert_eq!(scene.theirs.connection(), Some(scene.new.there));
    assert_eq!(scene.ours.id(), scene.theirs.id());
    scene.check_to_the_end().await;
}

/// Ours writes without a pause, theirs reads, and neither does anything else, while something happens
/// to the stream. Every byte arrives.
async fn transfer(mut ours: Stream, mut theirs: Stream, meanwhile: impl Future<Output = ()>) {
    let stop = AtomicBool::new(false);
    let (written, read, ()) = within("the transfer", async {
        join!(
            async {
                let written = write_until(&mut ours, 1, 0, &stop).await;
                ours.close().await.unwrap();
                written
            },
            read_to_end(&mut theirs, 1, 0),
            async {
                meanwhile.await;
                stop.store(true, Ordering::Relaxed);
            },
        )
    })
    .await;
    assert_eq!(written, read);
}

async fn write_only_and_read_only(old: Kind, new: Kind) {
    let mut scene = Scene::new(old, new).await;
    let key = scene.ours.key();
    transfer(scene.ours, scene.theirs, async {
        let migration = scene.net.dialer.control.migrate(key, scene.new.here);
        migration.await.unwrap();
        completed(&scene.net.listener, scene.new.there).await;
    })
    .await;
}

/// Nobody reads while the stream moves: what is under way is read ahead.
async fn nobody_reads(old: Kind, new: Kind) {
    let mut scene = Scene::new(old, new).await;
    write(&mut scene.ours, 1, 0, 200_000).await;
    write(&mut scene.theirs, 2, 0, 200_000).await;
    scene.migrate().await;
    scene.completed_there().await;
    write(&mut scene.ours, 1, 200_000, 300_000).await;
    read(&mut scene.theirs, 1, 0, 300_000).await;
    read(&mut scene.ours, 2, 0, 200_000).await;
    scene.check_to_the_end().await;
}

async fn half_closed_by_the_initiator_before(old: Kind, new: Kind) {
    let mut scene = Scene::new(old, new).await;
    write(&mut scene.ours, 1, 0, 1000).await;
    scene.ours.close().await.unwrap();
    scene.migrate().await;
    read(&mut scene.theirs, 1, 0, 1000).await;
    read_end(&mut scene.theirs).await;
    write(&mut scene.theirs, 2, 0, 70_000).await;
    scene.theirs.close().await.unwrap();
    read(&mut scene.ours, 2, 0, 70_000).await;
    read_end(&mut scene.ours).await;
}

async fn half_closed_by_the_responder_before(old: Kind, new: Kind) {
    let mut scene = Scene::new(old, new).await;
    write(&mut scene.theirs, 2, 0, 1000).await;
    scene.theirs.close().await.unwrap();
    // Our application has been given the end before the migration.
    read(&mut scene.ours, 2, 0, 1000).await;
    read_end(&mut scene.ours).await;
    scene.migrate().await;
    write(&mut scene.ours, 1, 0, 70_000).await;
    scene.ours.close().await.unwrap();
    read(&mut scene.theirs, 1, 0, 70_000).await;
    read_end(&mut scene.theirs).await;
    read_end(&mut scene.ours).await;
}

/// Each side closes while the migration is under way, at whatever moment that is.
async fn half_closed_during(old: Kind, new: Kind) {
    for by_initiator in [true, false] {
        let mut scene = Scene::new(old, new).await;
        let key = scene.ours.key();
        let (closing, open) = if by_initiator {
            (&mut scene.ours, &mut scene.theirs)
        } else {
            (&mut scene.theirs, &mut scene.ours)
        };
        let (written, read_, migration) = within("the migration", async {
            join!(
                async {
                    write(closing, 1, 0, 3000).await;
                    closing.close().await.unwrap();
                    3000
                },
                read_to_end(open, 1, 0),
                scene.net.dialer.control.migrate(key, scene.new.here),
            )
        })
        .await;
        migration.unwrap();
        assert_eq!(written, read_);
        write(open, 2, 0, 3000).await;
        open.close().await.unwrap();
        read(closing, 2, 0, 3000).await;
        read_end(closing).await;
    }
}

/// What was written before closing and dropping is delivered, whoever does it.
async fn write_close_drop_during(old: Kind, new: Kind) {
    for by_initiator in [true, false] {
        let Scene {
            mut net,
            old,
            new,
            ours,
            theirs,
            incoming,
        } = Scene::new(old, new).await;
        let key = ours.key();
        let (mut leaving, mut staying) = if by_initiator {
            (ours, theirs)
        } else {
            (theirs, ours)
        };
        let (read_, migration, ()) = within("the migration", async {
            join!(
                read_to_end(&mut staying, 1, 0),
                net.dialer.control.migrate(key, new.here),
                async {
                    write(&mut leaving, 1, 0, 100_000).await;
                    leaving.close().await.unwrap();
                    drop(leaving);
                },
            )
        })
        .await;
        assert_eq!(read_, 100_000);
        // It may be over before it has begun, but it may not hang or lose anything.
        assert!(
            matches!(
                migration,
                Ok(())
                    | Err(MigrateError::Ended
                        | MigrateError::Denied
                        | MigrateError::UnknownStream(_))
            ),
            "{migration:?}"
        );
        drop((staying, incoming, old));
    }
}

async fn four_in_a_row(old: Kind, new: Kind) {
    let mut scene = Scene::new(old, new).await;
    let key = scene.ours.key();
    transfer(scene.ours, scene.theirs, async {
        for to in [scene.new, scene.old, scene.new, scene.old] {
            // The other side may not have heard yet that the one before is complete.
            let control = &mut scene.net.dialer.control;
            control.migrate(key, to.here).await.unwrap();
        }
    })
    .await;
    let moves = |node: &Node| {
        let events = node.events().into_iter();
        let completed = events.filter(|event| matches!(event, Event::MigrationCompleted { .. }));
        completed.count()
    };
    assert_eq!(moves(&scene.net.dialer), 4);
}

/// Opened by either peer, migrated by either.
async fn opened_and_migrated_by_either(old: Kind, new: Kind) {
    for opened_by_dialer in [true, false] {
        for migrated_by_dialer in [true, false] {
            let mut net = Net::new();
            let mut to_listener = net.listener.control.accept(PROTOCOL).unwrap();
            let mut to_dialer = net.dialer.control.accept(PROTOCOL).unwrap();
            let old = net.connect(old).await;
            let new = net.connect(new).await;
            let Net {
                dialer, listener, ..
            } = &mut net;
            let (ours, theirs) = if opened_by_dialer {
                open(dialer, listener.id, &mut to_listener, old.here).await
            } else {
                let streams = open(listener, dialer.id, &mut to_dialer, old.there).await;
                (streams.1, streams.0)
            };
            let (mut control, key, to) = if migrated_by_dialer {
                (dialer.control.clone(), ours.key(), new.here)
            } else {
                (listener.control.clone(), theirs.key(), new.there)
            };
            within("the migration", async {
                join!(
                    async { control.migrate(key, to).await.unwrap() },
                    say_and_hear(ours, 1, 2),
                    async {
                        // Held open until it has moved.
                        let mut theirs = theirs;
                        read(&mut theirs, 1, 0, 100_000).await;
                        completed(dialer, new.here).await;
                        completed(listener, new.there).await;
                        write(&mut theirs, 2, 0, 100_000).await;
                        theirs.close().await.unwrap();
                        read_end(&mut theirs).await;
                    },
                )
            })
            .await;
        }
    }
}

/// Both start at once, over and over; whatever happens, both agree and nothing is lost.
async fn simultaneous_start(old: Kind, new: Kind) {
    let mut scene = Scene::new(old, new).await;
    let (ours, theirs) = (scene.ours.key(), scene.theirs.key());
    for round in 0..10 {
        let to = [scene.new, scene.old][round % 2];
        let (one, other) = within("both migrations", async {
            join!(
                scene.net.dialer.control.migrate(ours, to.here),
                scene.net.listener.control.migrate(theirs, to.there),
            )
        })
        .await;
        assert!(one.is_ok() || other.is_ok(), "{one:?} {other:?}");
        within("agreement", async {
            loop {
                let here = scene
                    .net
                    .dialer
                    .control
                    .streams(scene.net.listener.id)
                    .await;
                let there = scene
                    .net
                    .listener
                    .control
                    .streams(scene.net.dialer.id)
                    .await;
                if !here[0].migrating && !there[0].migrating && here[0].id == there[0].id {
                    assert_eq!(here[0].connection, Some(to.here));
                    assert_eq!(there[0].connection, Some(to.there));
                    return;
                }
                tokio::task::yield_now().await;
            }
        })
        .await;
        let position = round as u64 * 1000;
        write(&mut scene.ours, 1, position, position + 1000).await;
        read(&mut scene.theirs, 1, position, position + 1000).await;
    }
    scene.check_to_the_end().await;
}

/// Two tasks, one reading and one writing, on each side.
async fn two_tasks(old: Kind, new: Kind) {
    let mut scene = Scene::new(old, new).await;
    let key = scene.ours.key();
    let mut tasks = Vec::new();
    for (stream, out, r#in) in [(scene.ours, 1, 2), (scene.theirs, 2, 1)] {
        let (mut reader, mut writer) = stream.split();
        tasks.push(tokio::spawn(async move {
            write(&mut writer, out, 0, 400_000).await;
            writer.close().await.unwrap();
        }));
        tasks.push(tokio::spawn(async move {
            assert_eq!(read_to_end(&mut reader, r#in, 0).await, 400_000);
        }));
    }
    let migration = scene.net.dialer.control.migrate(key, scene.new.here);
    let migration = within("the migration", migration).await;
    assert!(
        matches!(
            migration,
            Ok(())
                | Err(MigrateError::Ended | MigrateError::Denied | MigrateError::UnknownStream(_))
        ),
        "{migration:?}"
    );
    for task in tasks {
        within("a task", task).await.unwrap();
    }
}

/// Says the same to every migration of the remote.
struct Says(Verdict);

impl Policy for Says {
    fn verdict(&mut self, _: &StreamInfo, _: &ConnectionInfo, _: &PeerView<'_>) -> Verdict {
        self.0
    }
}

async fn denied(old: Kind, new: Kind) {
    let listener = Node::with(Setup::default().policy(Says(Verdict::Deny)));
    let mut scene = Scene::with(Net::with(Node::new(), listener), old, new).await;
    let key = scene.ours.key();
    for _ in 0..2 {
        let migration = scene.net.dialer.control.migrate(key, scene.new.here);
        assert_eq!(
            within("the answer", migration).await,
            Err(MigrateError::Denied)
        );
    }
    assert_eq!(scene.ours.connection(), Some(scene.old.here));
    scene.check_to_the_end().await;
}

/// Dropped unanswered, which means "try again later".
async fn not_now(old: Kind, new: Kind) {
    let listener = Node::with(Setup::default().policy(Says(Verdict::NotNow)));
    let mut scene = Scene::with(Net::with(Node::new(), listener), old, new).await;
    let key = scene.ours.key();
    for _ in 0..2 {
        let migration = scene.net.dialer.control.migrate(key, scene.new.here);
        assert_eq!(
            within("the answer", migration).await,
            Err(MigrateError::Failed(Failure::LegLost))
        );
    }
    // The old leg is in doubt now: its end is believed only if it is read before we close it ourselves.
    let (mut ours, mut theirs) = (scene.ours, scene.theirs);
    write(&mut ours, 1, 0, 1000).await;
    write(&mut theirs, 2, 0, 1000).await;
    theirs.close().await.unwrap();
    read(&mut ours, 2, 0, 1000).await;
    read_end(&mut ours).await;
    ours.close().await.unwrap();
    read(&mut theirs, 1, 0, 1000).await;
    read_end(&mut theirs).await;
}

macro_rules! scenarios {
    ($($name:ident)*) => {
        $(
            mod $name {
                use super::Kind;

                #[tokio::test]
                async fn relayed_to_quic() {
                    super::$name(Kind::Relayed, Kind::Quic).await;
                }

                #[tokio::test]
                async fn tcp_to_quic() {
                    super::$name(Kind::Tcp, Kind::Quic).await;
                }

                #[tokio::test]
                async fn quic_to_tcp() {
                    super::$name(Kind::Quic, Kind::Tcp).await;
                }
            }
        )*
    };
}

scenarios! {
    idle_stream
    write_only_and_read_only
    nobody_reads
    half_closed_by_the_initiator_before
    half_closed_by_the_responder_before
    half_closed_during
    write_close_drop_during
    four_in_a_row
    opened_and_migrated_by_either
    simultaneous_start
    two_tasks
    denied
    not_now
}

/// Read-ahead is bounded: past the bound the migration waits for the reader, and loses nothing.
#[tokio::test]
async fn read_ahead_is_bounded() {
    for (per_stream, per_peer) in [(4096, 1 << 20), (1 << 20, 4096)] {
        let config = Config::default()
            .with_read_ahead_per_stream(per_stream)
            .with_read_ahead_per_peer(per_peer);
        let listener = Node::with(Setup {
            config,
            ..Default::default()
        });
        let net = Net::with(Node::new(), listener);
        let mut scene = Scene::with(net, Kind::Tcp, Kind::Quic).await;
        write(&mut scene.ours, 1, 0, 100_000).await;
        let key = scene.ours.key();
        let mut control = scene.net.dialer.control.clone();
        let mut migration = std::pin::pin!(control.migrate(key, scene.new.here));
        let agreed = scene
            .net
            .listener
            .event("the agreement", |event| match event {
                Event::MigrationAgreed { .. } => Some(()),
                _ => None,
            });
        tokio::select! {
            early = &mut migration => panic!("complete though nobody reads: {early:?}"),
            () = agreed => {}
        }
        // What was read ahead, and the offer of the protocol.
        let ahead = scene.theirs.bytes_in();
        assert!(ahead < 4096 + 1024, "{ahead}");
        assert!(futures::poll!(&mut migration).is_pending());
        read(&mut scene.theirs, 1, 0, 100_000).await;
        within("the migration", migration).await.unwrap();
        scene.check_to_the_end().await;
    }
}

/// Vectored reads and writes, before, during and after a migration.
#[tokio::test]
async fn vectored() {
    use std::io::{IoSlice, IoSliceMut};
    let mut scene = Scene::new(Kind::Tcp, Kind::Quic).await;
    let key = scene.ours.key();
    let mut control = scene.net.dialer.control.clone();
    let mut to = [scene.new, scene.old].into_iter().cycle();
    for _ in 0..4 {
        let migration = control.migrate(key, to.next().unwrap().here);
        let words = async {
            for _ in 0..50 {
                let words = [
                    IoSlice::new(b""),
                    IoSlice::new(b"some "),
                    IoSlice::new(b"words"),
                ];
                let n = scene.ours.write_vectored(&words).await.unwrap();
                scene.ours.write_all(&b"some words"[n..]).await.unwrap();
                scene.ours.flush().await.unwrap();
                let mut got = Vec::<u8>::new();
                while got.len() < 10 {
                    let (mut one, mut two) = ([0; 3], [0; 4]);
                    let room = 10 - got.len();
                    let mut bufs = [
                        IoSliceMut::new(&mut []),
                        IoSliceMut::new(&mut one[..room.min(3)]),
                        IoSliceMut::new(&mut two[..room.saturating_sub(3).min(4)]),
                    ];
                    let n = scene.theirs.read_vectored(&mut bufs).await.unwrap();
                    assert_ne!(n, 0);
                    got.extend([&one[..], &two].concat()[..n].iter());
                }
                assert_eq!(got, b"some words");
            }
        };
        let (migrated, ()) = within("the words", async { join!(migration, words) }).await;
        migrated.unwrap();
    }
    assert_eq!(scene.ours.bytes_out(), scene.theirs.bytes_in());
}

/// The default policy moves a stream off the relay as soon as there is a direct connection, and leaves
/// it alone from then on.
#[tokio::test]
async fn the_policy_moves_relayed_streams() {
    let node = || Node::with(Setup::default().policy(PreferDirect));
    let mut net = Net::with(node(), node());
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let relayed = net.connect(Kind::Relayed).await;
    let peer = net.listener.id;
    let (mut ours, mut theirs) = open(&mut net.dialer, peer, &mut incoming, relayed.here).await;
    write(&mut ours, 1, 0, 1000).await;
    let direct = net.connect(Kind::Quic).await;
    completed(&net.dialer, direct.here).await;
    completed(&net.listener, direct.there).await;
    net.connect(Kind::Tcp).await;
    write(&mut ours, 1, 1000, 2000).await;
    read(&mut theirs, 1, 0, 2000).await;
    assert_eq!(ours.connection(), Some(direct.here));
    let info = net.dialer.connection(peer, direct.here).await;
    assert!(!info.relayed);
    let started = net.dialer.events().into_iter().chain(net.listener.events());
    let started = started.filter(|event| matches!(event, Event::MigrationStarted { .. }));
    assert_eq!(started.count(), 1);
}

/// Peers without the protocol get plain streams, both ways.
#[tokio::test]
async fn a_peer_without_the_protocol() {
    let without = || {
        Node::with(Setup {
            migration: false,
            plain: true,
            ..Default::default()
        })
    };
    for kind in KINDS {
        for identify in [false, true] {
            // As acceptor.
            let with = Node::with(Setup {
                identify,
                ..Default::default()
            });
            let mut net = Net::with(with, without());
            let pair = net.connect(kind).await;
            let mut incoming = net.listener.accept_plain(PROTOCOL);
            let (ours, theirs) = within("opening", async {
                let peer = net.listener.id;
                join!(
                    net.dialer.control.open_stream(peer, PROTOCOL),
                    incoming.next(),
                )
            })
            .await;
            let (mut ours, mut theirs) = (ours.unwrap(), theirs.unwrap().1);
            assert!(!ours.is_migratable());
            assert_eq!((ours.id(), ours.connection()), (None, Some(pair.here)));
            write(&mut ours, 1, 0, 1000).await;
            read(&mut theirs, 1, 0, 1000).await;
            assert_eq!(ours.bytes_out(), 1000);
            let migration = net.dialer.control.migrate(ours.key(), pair.here).await;
            assert_eq!(migration, Err(MigrateError::UnknownStream(ours.key())));

            // As opener.
            let mut net = Net::with(without(), Node::new());
            net.connect(kind).await;
            let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
            let peer = net.listener.id;
            let plain = net.dialer.plain.as_mut().unwrap();
            let (ours, theirs) = within("opening", async {
                join!(plain.open_stream(peer, PROTOCOL), incoming.next())
            })
            .await;
            let (mut ours, mut theirs) = (ours.unwrap(), theirs.unwrap().1);
            assert!(!theirs.is_migratable());
            write(&mut theirs, 1, 0, 1000).await;
            read(&mut ours, 1, 0, 1000).await;
        }
    }
}

/// With Identify, the offer travels with the label, and so does an offer that turns out to be wrong.
#[tokio::test]
async fn identify_says_what_the_remote_speaks() {
    let node = || {
        Node::with(Setup {
            identify: true,
            ..Default::default()
        })
    };
    let mut net = Net::with(node(), node());
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let pair = net.connect(Kind::Tcp).await;
    for (node, peer) in [
        (&net.dialer, net.listener.id),
        (&net.listener, net.dialer.id),
    ] {
        node.wait("Identify", |seen| match seen {
            Seen::Identified(who) if *who == peer => Some(()),
            _ => None,
        })
        .await;
    }
    let peer = net.listener.id;
    let (mut ours, mut theirs) = open(&mut net.dialer, peer, &mut incoming, pair.here).await;
    write(&mut ours, 1, 0, 1000).await;
    read(&mut theirs, 1, 0, 1000).await;
    write(&mut theirs, 1, 0, 1000).await;
    read(&mut ours, 1, 0, 1000).await;

    // The listener stops accepting. The dialer may still think that it does; the stream then ends in an
    // error at its first read, and at every use after that, without a panic.
    drop(incoming);
    if let Ok(mut stream) = net.dialer.control.open_stream(peer, PROTOCOL).await {
        let mut buf = [0];
        for _ in 0..2 {
            assert!(within("an error", stream.read(&mut buf)).await.is_err());
            assert!(within("an error", stream.write(&buf)).await.is_err());
            assert!(within("an error", stream.close()).await.is_err());
        }
    }
}

/// A dial failure, a missing connection, an unknown protocol.
#[tokio::test]
async fn open_errors_say_why() {
    use libp2p_stream_migration::OpenStreamError;
    let mut net = Net::new();
    let stranger = libp2p::PeerId::random();
    let error = within(
        "the dial",
        net.dialer.control.open_stream(stranger, PROTOCOL),
    )
    .await;
    assert!(
        matches!(&error, Err(OpenStreamError::Dial(why)) if !why.is_empty()),
        "{error:?}"
    );
    let pair = net.connect(Kind::Tcp).await;
    let peer = net.listener.id;
    let error = net.dialer.control.open_stream(peer, PROTOCOL).await;
    assert!(
        matches!(&error, Err(OpenStreamError::UnsupportedProtocol(p)) if *p == PROTOCOL),
        "{error:?}"
    );
    let error = net
        .dialer
        .control
        .open_stream_on(stranger, pair.here, PROTOCOL)
        .await;
    assert!(
        matches!(error, Err(OpenStreamError::UnknownConnection(it)) if it == pair.here),
        "{error:?}"
    );
    let _incoming = net.listener.control.accept(PROTOCOL).unwrap();
    assert!(net.listener.control.accept(PROTOCOL).is_err());
    assert!(
        net.listener
            .control
            .accept(libp2p_stream_migration::PROTOCOL_NAME)
            .is_err()
    );
}

/// A stream whose protocol was offered lazily, by us or by the swarm, has a read pending when its writer
/// is held up: both go on.
#[tokio::test]
async fn a_read_is_pending_while_a_write_waits() {
    const BYTES: u64 = 1 << 20;
    for (kind, lazy) in [
        (Kind::Tcp, false),
        (Kind::Quic, false),
        (Kind::Tcp, true),
        (Kind::Quic, true),
    ] {
        let setup = || Setup {
            identify: true,
            lazy,
            ..Default::default()
        };
        let mut net = Net::with(Node::with(setup()), Node::with(setup()));
        let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
        let connection = net.connect(kind).await;
        let (peer, here) = (net.listener.id, connection.here);
        let identified = |seen: &Seen| matches!(seen, Seen::Identified(_)).then_some(());
        net.dialer.wait("identify", identified).await;
        let opened = net.dialer.control.open_stream_on(peer, here, PROTOCOL);
        let opened = within("the stream", opened).await.unwrap();
        let (mut reader, mut writer) = opened.split();
        let writer = tokio::spawn(async move {
            write(&mut writer, 5, 0, BYTES).await;
            writer.close().await.unwrap();
        });
        // Nobody reads there; so it has come to a halt when it has filled the window, or soon will.
        within("a full window", async {
            let mut sent = 0;
            loop {
                let streams = net.dialer.control.streams(peer).await;
                if sent > 0 && streams[0].sent == sent {
                    return;
                }
                sent = streams[0].sent;
                tokio::task::yield_now().await;
            }
        })
        .await;
        let (polled, is_polled) = tokio::sync::oneshot::channel();
        let reader = tokio::spawn(async move {
            let mut buf = [0];
            let mut polled = Some(polled);
            let read = std::future::poll_fn(|cx| {
                let read =
                    futures::AsyncRead::poll_read(std::pin::Pin::new(&mut reader), cx, &mut buf);
                if let Some(polled) = polled.take() {
                    polled.send(()).unwrap();
                }
                read
            });
            assert_eq!(read.await.unwrap(), 0);
        });
        is_polled.await.unwrap();
        let (_, mut accepted) = within("the stream there", incoming.next()).await.unwrap();
        within("all of it", read(&mut accepted, 5, 0, BYTES)).await;
        read_end(&mut accepted).await;
        accepted.close().await.unwrap();
        within("the writer", writer).await.unwrap();
        within("the reader", reader).await.unwrap();
    }
}

/// What is written, closed and let go of at once arrives, as on any stream whose opening has returned:
/// whether the remote's protocol was known when it was opened or not. On QUIC the remote's answer to a
/// lazy offer would fail if nobody were there to read it, and what it has not read would go with it.
#[tokio::test]
async fn said_and_gone() {
    for kind in KINDS {
        for (identify, lazy) in [(true, false), (false, false), (true, true), (false, true)] {
            let setup = || Setup {
                identify,
                lazy,
                ..Default::default()
            };
            let mut net = Net::with(Node::with(setup()), Node::with(setup()));
            let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
            let connection = net.connect(kind).await;
            let (peer, here) = (net.listener.id, connection.here);
            if identify {
                let identified = |seen: &Seen| matches!(seen, Seen::Identified(_)).then_some(());
                net.dialer.wait("identify", identified).await;
            }
            for round in 0..20 {
                let opened = net.dialer.control.open_stream_on(peer, here, PROTOCOL);
                let mut opened = within("the stream", opened).await.unwrap();
                write(&mut opened, 1, 0, 8).await;
                within("closing", opened.close()).await.unwrap();
                drop(opened);
                let what = format!("stream {round} on {kind:?}");
                let (_, mut accepted) = within(&what, incoming.next()).await.unwrap();
                assert_eq!(read_to_end(&mut accepted, 1, 0).await, 8);
            }
        }
    }
}
