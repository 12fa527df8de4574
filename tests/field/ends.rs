//! Ends of streams: what they look like, and what they prove.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures::{AsyncReadExt, AsyncWriteExt, FutureExt, StreamExt};
use libp2p::StreamProtocol;
use libp2p_stream_migration::{Config, Event, PROTOCOL_NAME};
use testing::{raw::*, *};

/// How long no progress is put up with.
const PATIENCE: Duration = Duration::from_millis(500);

fn impatient() -> Setup {
    Setup {
        config: Config::default()
            .with_progress_timeout(PATIENCE)
            .with_answer_timeout(PATIENCE),
        ..Default::default()
    }
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
                assert_eq!(node.how_it_ended().await, Ok(()));
            }
        }
    }
}

/// I send a file over a stream that has moved, close it and let go of it. The other side needs longer for
/// reading it than anything here has patience; it gets every byte and then the end, as from any stream.
///
/// A2
#[tokio::test]
async fn a_reader_may_take_its_time() {
    futures::join!(
        slow_reader(Kind::Tcp),
        slow_reader(Kind::Quic),
        slow_reader(Kind::Relayed)
    );
}

async fn slow_reader(new: Kind) {
    let mut net = Net::with(Node::with(impatient()), Node::with(impatient()));
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let first = net.connect(Kind::Tcp).await;
    let second = net.connect(new).await;
    let peer = net.listener.id;
    let (mut ours, mut theirs) = open(&mut net.dialer, peer, &mut incoming, first.here).await;
    let migration = net.dialer.control.migrate(ours.key(), second.here);
    within("the migration", migration).await.unwrap();
    within("writing", write(&mut ours, 1, 0, 100_000)).await;
    within("closing", ours.close()).await.unwrap();
    drop(ours);
    // That time passes is what is tested.
    tokio::time::sleep(3 * PATIENCE).await;
    within("all of it", read(&mut theirs, 1, 0, 100_000)).await;
    within("the end", read_end(&mut theirs)).await;
    // It holds the stream. Here that is no fault, and nothing is aborted.
    tokio::time::sleep(2 * PATIENCE).await;
    let ended = |event: &Event| matches!(event, Event::StreamEnded { .. });
    assert!(!net.dialer.events().iter().any(ended));
    drop(theirs);
    assert_eq!(net.dialer.how_it_ended().await, Ok(()));
}

/// The same, and the stream is still on its way when it is let go of: the other side has not read what
/// the old path has brought, more than is read ahead for it.
///
/// A2
#[tokio::test]
async fn a_reader_may_take_its_time_in_a_migration() {
    for (old, new) in [(Kind::Tcp, Kind::Quic), (Kind::Quic, Kind::Tcp)] {
        let slow = || {
            let setup = impatient();
            let config = setup.config.with_read_ahead_per_stream(4096);
            Node::with(Setup { config, ..setup })
        };
        let mut net = Net::with(slow(), slow());
        let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
        let first = net.connect(old).await;
        let second = net.connect(new).await;
        let peer = net.listener.id;
        let (mut ours, mut theirs) = open(&mut net.dialer, peer, &mut incoming, first.here).await;
        write(&mut ours, 1, 0, 100_000).await;
        let mut control = net.dialer.control.clone();
        let migration = control.migrate(ours.key(), second.here);
        let agreed = |event: &Event| matches!(event, Event::MigrationAgreed { .. });
        futures::pin_mut!(migration);
        within("the agreement", async {
            futures::select! {
                result = migration.as_mut().fuse() => panic!("{result:?}"),
                () = net.dialer.count("agreement", 1, agreed).fuse() => {}
            }
        })
        .await;
        within("writing", write(&mut ours, 1, 100_000, 150_000)).await;
        within("closing", ours.close()).await.unwrap();
        drop(ours);
        // That time passes is what is tested.
        tokio::time::sleep(3 * PATIENCE).await;
        within("all of it", read(&mut theirs, 1, 0, 150_000)).await;
        within("the end", read_end(&mut theirs)).await;
        let mut rest = Vec::new();
        theirs.close().await.unwrap();
        assert_eq!(theirs.read_to_end(&mut rest).await.unwrap(), 0);
        drop(theirs);
        within("the migration", migration).await.unwrap();
        assert_eq!(net.dialer.how_it_ended().await, Ok(()));
        assert_eq!(net.listener.how_it_ended().await, Ok(()));
    }
}

/// I open a stream with `V1Lazy`, write, close and drop it, before the other side has answered; and it takes
/// its time for that. Over QUIC its answer must not fail, or what was written is lost with it.
///
/// A2
#[tokio::test]
async fn an_answer_may_take_its_time() {
    let lazy = Setup {
        identify: true,
        lazy: true,
        ..impatient()
    };
    let raw = Setup {
        config: Config::default().with_protocol_name(StreamProtocol::new("/raw")),
        identify: true,
        ..Default::default()
    };
    let mut net = Net::with(Node::with(lazy), Node::with(raw));
    let mut prefixes = net.listener.control.accept(PROTOCOL_NAME).unwrap();
    let _served = net.listener.control.accept(PROTOCOL).unwrap();
    let pair = net.connect(Kind::Quic).await;
    net.dialer
        .wait("what the other serves", |seen| {
            matches!(seen, Seen::Identified(_)).then_some(())
        })
        .await;
    let control = &mut net.dialer.control;
    let opened = control.open_stream_on(net.listener.id, pair.here, PROTOCOL);
    let mut ours = within("opening", opened).await.unwrap();
    write(&mut ours, 1, 0, 1000).await;
    ours.close().await.unwrap();
    drop(ours);
    let (_, mut leg) = within("the leg", prefixes.next()).await.unwrap();
    // That time passes is what is tested.
    tokio::time::sleep(3 * PATIENCE).await;
    let mut length = [0];
    leg.read_exact(&mut length).await.unwrap();
    let mut label = vec![0; length[0].into()];
    leg.read_exact(&mut label).await.unwrap();
    let selected = multistream_select::listener_select_proto(leg, [PROTOCOL]);
    let (_, mut theirs) = within("the answer", selected).await.unwrap();
    within("all of it", read(&mut theirs, 1, 0, 1000)).await;
    within("the end", read_end(&mut theirs)).await;
}

/// The other side closes its half, which in our protocol means "stop sending"; and we send as fast as we can,
/// from the task that also reads. We hear of it though the writer takes all the room there is.
///
/// A7
#[tokio::test]
async fn a_busy_writer_hears_that_it_should_stop() {
    for kind in KINDS {
        for moved in [false, true] {
            let mut net = Net::new();
            let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
            let mut on = net.connect(kind).await;
            let peer = net.listener.id;
            let (ours, theirs) = open(&mut net.dialer, peer, &mut incoming, on.here).await;
            if moved {
                on = net.connect(kind).await;
                let migration = net.dialer.control.migrate(ours.key(), on.here);
                within("the migration", migration).await.unwrap();
            }
            let (mut reader, mut writer) = ours.split();
            let (mut their_reader, mut their_writer) = theirs.split();
            let stop = AtomicBool::new(false);
            let remote = async {
                write(&mut their_writer, 2, 0, 1000).await;
                // When the other is well on its way.
                read(&mut their_reader, 1, 0, 1_000_000).await;
                their_writer.close().await.unwrap();
                read_to_end(&mut their_reader, 1, 1_000_000).await
            };
            let sends = async {
                // Never waiting for a flush: it always has something for what room there is.
                let mut sent = 0;
                while !stop.load(Ordering::Relaxed) {
                    let chunk: Vec<_> = (sent..sent + 4096).map(|at| byte(1, at)).collect();
                    writer.write_all(&chunk).await.unwrap();
                    sent += 4096;
                }
                writer.close().await.unwrap();
                sent
            };
            let hears = async {
                read(&mut reader, 2, 0, 1000).await;
                read_end(&mut reader).await;
                stop.store(true, Ordering::Relaxed);
            };
            let what = format!("the end, {kind:?}, moved: {moved}");
            let (sent, (), received) =
                within(&what, async { futures::join!(sends, hears, remote) }).await;
            assert_eq!(sent, received);
        }
    }
}

/// The other side wants to move a stream that is still being moved: that has to wait, but not for longer
/// than anybody waits for the answer. Its path may have gone silent since.
///
/// A6
#[tokio::test]
async fn an_old_wish_to_move_is_forgotten() {
    let config = Config::default().with_answer_timeout(PATIENCE);
    let mut scene = Scene::with(config, Kind::Tcp, Kind::Quic).await;
    let third = scene.net.connect(Kind::Tcp).await;
    let (mut old, mut ours) = scene.labelled(0).await;
    let mut control = scene.net.listener.control.clone();
    let migration = tokio::spawn({
        let (key, to) = (ours.key(), scene.new.there);
        async move { control.migrate(key, to).await }
    });
    let (mut new, message) = scene.migrate_leg().await;
    // Our ID, from 0: two varints after the tags.
    let id = u64::from(message[3]);
    assert!(id < 128);
    say(&mut new, ACCEPT).await;
    assert_eq!(within("our end", old.read(&mut [0])).await.unwrap(), 0);
    // It answers to that ID now, but the old leg has not ended.
    let mut next = scene.first(third.here, &migrate(2, id)).await;
    is_dropped(&mut next).await;
    old.write_all(b"old").await.unwrap();
    old.close().await.unwrap();
    say(&mut new, b"new").await;
    hear(&mut ours, b"oldnew").await;
    assert_eq!(migration.await.unwrap(), Ok(()));
}

/// No timer comes to anybody's help.
fn patient(per_stream: usize, per_peer: usize) -> Node {
    let hours = Duration::from_secs(24 * 3600);
    Node::with(Setup {
        config: Config::default()
            .with_progress_timeout(hours)
            .with_read_ahead_per_stream(per_stream)
            .with_read_ahead_per_peer(per_peer),
        ..Default::default()
    })
}

/// Of a thousand streams that move at once, some have more in flight than their reader has taken, and use up
/// what may be read ahead for one peer. The others move on as soon as there is room again.
///
/// C10
#[tokio::test]
async fn room_for_reading_ahead_comes_back() {
    let mut net = Net::with(patient(1 << 20, 4096), patient(1 << 20, 4096));
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let old = net.connect(Kind::Tcp).await;
    let new = net.connect(Kind::Quic).await;
    let peer = net.listener.id;
    let mut streams = Vec::new();
    for much in [100_000, 1000] {
        let (mut ours, theirs) = open(&mut net.dialer, peer, &mut incoming, old.here).await;
        write(&mut ours, 1, 0, much).await;
        let migration = tokio::spawn({
            let (mut control, key) = (net.dialer.control.clone(), ours.key());
            async move { control.migrate(key, new.here).await }
        });
        let agreed = |event: &Event| matches!(event, Event::MigrationAgreed { .. });
        net.listener
            .count("agreement", streams.len() + 1, agreed)
            .await;
        streams.push((ours, theirs, migration));
    }
    let [(_ours, greedy, first), (_other, modest, second)] = &mut streams[..] else {
        unreachable!()
    };
    // Nobody reads that one, and its migration waits.
    assert!(!second.is_finished());
    within("all of the first", read(greedy, 1, 0, 100_000)).await;
    within("the first", first).await.unwrap().unwrap();
    within("the second", second).await.unwrap().unwrap();
    within("all of the second", read(modest, 1, 0, 1000)).await;
}

/// Reading ahead is switched off. A stream of which nothing is in flight moves all the same, though nobody
/// reads it.
///
/// C10
#[tokio::test]
async fn an_end_needs_no_room() {
    for verify in [true, false] {
        let node = || {
            Node::with(Setup {
                config: Config::default()
                    .with_verify(verify)
                    .with_read_ahead_per_stream(0),
                ..Default::default()
            })
        };
        let mut net = Net::with(node(), node());
        let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
        let old = net.connect(Kind::Tcp).await;
        let new = net.connect(Kind::Quic).await;
        let peer = net.listener.id;
        let (ours, _theirs) = open(&mut net.dialer, peer, &mut incoming, old.here).await;
        let migration = net.dialer.control.migrate(ours.key(), new.here);
        within("the migration", migration).await.unwrap();
    }
}

/// A stream that I have closed and let go of comes to its end, whatever the other side still sends on it, and
/// though all that may be read ahead for that peer is used up by another stream.
///
/// C10
#[tokio::test]
async fn what_is_let_go_of_needs_no_room() {
    let mut net = Net::with(patient(1 << 20, 4096), patient(1 << 20, 4096));
    let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
    let old = net.connect(Kind::Tcp).await;
    let new = net.connect(Kind::Quic).await;
    let peer = net.listener.id;
    let (mut ours, mut theirs) = open(&mut net.dialer, peer, &mut incoming, old.here).await;
    within("moving", net.dialer.control.migrate(ours.key(), new.here))
        .await
        .unwrap();
    let (greedy, mut full) = open(&mut net.dialer, peer, &mut incoming, old.here).await;
    write(&mut full, 2, 0, 100_000).await;
    let migration = tokio::spawn({
        let (mut control, key) = (net.dialer.control.clone(), greedy.key());
        async move { control.migrate(key, new.here).await }
    });
    let agreed = |event: &Event| matches!(event, Event::MigrationAgreed { .. });
    net.dialer.count("agreement", 2, agreed).await;
    ours.close().await.unwrap();
    drop(ours);
    read_end(&mut theirs).await;
    within("sending", write(&mut theirs, 2, 0, 1_000_000)).await;
    theirs.close().await.unwrap();
    drop(theirs);
    assert_eq!(net.dialer.how_it_ended().await, Ok(()));
    assert!(!migration.is_finished());
}

/// I write my answer, flush it and let go of the stream, as I do everywhere: what is flushed arrives. It does while the
/// stream leaves a slow path, whoever moves it.
///
/// `confirm_successful` of libp2p-autonat
#[tokio::test]
async fn what_was_flushed_before_a_drop_arrives() {
    for by_writer in [true, false] {
        let mut net = Net::new();
        let mut incoming = net.listener.control.accept(PROTOCOL).unwrap();
        let slow = Proxy::throttled(100_000).connect(&net, Kind::Tcp).await;
        let fast = net.connect(Kind::Quic).await;
        let peer = net.listener.id;
        let (mut ours, mut theirs) = open(&mut net.dialer, peer, &mut incoming, slow.here).await;
        write(&mut ours, 1, 0, 50_000).await;
        let (mover, key, to) = match by_writer {
            true => (&net.dialer, ours.key(), fast.here),
            false => (&net.listener, theirs.key(), fast.there),
        };
        let mut control = mover.control.clone();
        tokio::spawn(async move { control.migrate(key, to).await });
        let agreed = |event: &Event| matches!(event, Event::MigrationAgreed { .. });
        net.dialer.count("agreement", 1, agreed).await;
        drop(ours);
        within("what was flushed", read(&mut theirs, 1, 0, 50_000)).await;
    }
}
