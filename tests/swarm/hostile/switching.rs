//! `Migrate`, its answer, and what follows on either leg.

use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p_stream_migration::{Abort, Config, Failure, MigrateError, Violation};

use super::*;

/// For a stream that is being migrated: held, and the one after it in its place; data before the
/// answer costs that leg and not the stream.
#[tokio::test]
async fn migrate_of_a_migrating_stream() {
    // No deadline hides a wake that was lost.
    let mut siege = Siege::with(patience(HANG * 2), Kind::Tcp, Kind::Quic).await;
    let (mut old, mut ours) = siege.scene.labelled(0).await;
    let mut new = siege.scene.agreed(2, 0, false).await;
    let onto = siege.scene.old.here;
    let mut impatient = siege.scene.first(onto, &migrate(4, 2)).await;
    say(&mut impatient, b"\x02data").await;
    is_dropped(&mut impatient).await;
    siege.violations(Violation::Message, 1).await;
    let mut replaced = siege.scene.first(onto, &migrate(4, 2)).await;
    let mut used = siege.scene.first(onto, &migrate(2, 2)).await;
    is_dropped(&mut used).await;
    siege.violations(Violation::IdInUse, 1).await;
    let mut held = siege.scene.first(onto, &migrate(6, 2)).await;
    is_dropped(&mut replaced).await;
    // Of an ID that is none of the stream's by the time that it is considered.
    old.close().await.unwrap();
    say(&mut new, b"second").await;
    hear(&mut ours, b"second").await;
    hear(&mut held, ACCEPT).await;
    new.close().await.unwrap();
    say(&mut held, b"third").await;
    hear(&mut ours, b"third").await;
    siege.completed(ours.key(), 2).await;
    siege.unharmed().await;
}

/// What is no answer is a failed attempt; the stream goes on, and can be moved later.
#[tokio::test]
async fn answers_that_are_none() {
    let oversized = [&[0x81, 2][..], &[0x7a; 257]].concat();
    let answers: &[(&[u8], bool)] = &[
        (&oversized, true),
        (&[0xff; 12], true),
        (&label(9), true),
        (&migrate(9, 8), true),
        (&[3, 0x1a, 0x7f, 8], true),
        (&[1, 0x0f], true),
        // The end before and within an answer.
        (&[], false),
        (&[2, 0x1a], false),
        (&[0x80], false),
    ];
    let mut siege = Siege::new().await;
    let (mut old, mut ours) = siege.scene.labelled(0).await;
    let mut violations = 0;
    for (answer, violates) in answers {
        let (migration, mut new) = siege.scene.asked(&ours).await;
        say(&mut new, answer).await;
        new.close().await.unwrap();
        let result = within("the failure", migration).await.unwrap();
        assert_eq!(result, Err(MigrateError::Failed(Failure::LegLost)));
        is_dropped(&mut new).await;
        violations += usize::from(*violates);
        siege.violations(Violation::Message, violations).await;
        still_works(&mut old, &mut ours).await;
    }
    let (migration, mut new) = siege.scene.asked(&ours).await;
    say(&mut new, ACCEPT).await;
    is_dropped(&mut old).await;
    old.close().await.unwrap();
    assert_eq!(within("it", migration).await.unwrap(), Ok(()));
    say(&mut new, b"moved").await;
    hear(&mut ours, b"moved").await;
    siege.unharmed().await;
}

/// The answer never comes, again and again: each attempt ends in time, and costs nothing.
#[tokio::test]
async fn never_answering() {
    let config = Config::default().with_answer_timeout(Duration::from_millis(200));
    let mut siege = Siege::with(config, Kind::Tcp, Kind::Quic).await;
    let (mut old, mut ours) = siege.scene.labelled(0).await;
    for _ in 0..4 {
        let (migration, mut new) = siege.scene.asked(&ours).await;
        let result = within("the timeout", migration).await.unwrap();
        assert_eq!(result, Err(MigrateError::Failed(Failure::TimedOut)));
        is_dropped(&mut new).await;
        still_works(&mut old, &mut ours).await;
    }
    siege.nothing_reported();
    siege.unharmed().await;
}

/// A second ack is, to a remote that verifies, no count; otherwise it is the application's data.
#[tokio::test]
async fn ack_twice() {
    for ack in [ACCEPT, BARE_ACCEPT, ACCEPT_VERIFY] {
        let mut siege = Siege::new().await;
        let (mut old, mut ours) = siege.scene.labelled(0).await;
        let (migration, mut new) = siege.scene.asked(&ours).await;
        say(&mut new, &[ack, ack].concat()).await;
        if ack == ACCEPT_VERIFY {
            let result = within("the abort", migration).await.unwrap();
            assert_eq!(result, Err(MigrateError::Aborted(Abort::Violation)));
            assert_eq!(siege.ended(ours.key()).await, Err(Abort::Violation));
            siege.violations(Violation::Message, 1).await;
            assert!(ours.read(&mut [0]).await.is_err());
            assert!(ours.write(&[0]).await.is_err());
        } else {
            is_dropped(&mut old).await;
            old.close().await.unwrap();
            assert_eq!(within("it", migration).await.unwrap(), Ok(()));
            hear(&mut ours, ack).await;
            siege.nothing_reported();
        }
        siege.unharmed().await;
    }
}

/// A direction that has ended stays ended: data on the new leg aborts the stream.
#[tokio::test]
async fn data_in_a_closed_direction() {
    for (old, new) in [(Kind::Tcp, Kind::Quic), (Kind::Quic, Kind::Tcp)] {
        for (ours_asks, verify) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut siege = Siege::with(Config::default(), old, new).await;
            let (mut old, mut ours) = siege.scene.labelled(0).await;
            old.close().await.unwrap();
            read_end(&mut ours).await;
            let mut new = if ours_asks {
                let (_, mut new) = siege.scene.asked(&ours).await;
                say(&mut new, if verify { ACCEPT_VERIFY } else { ACCEPT }).await;
                new
            } else {
                siege.scene.agreed(2, 0, verify).await
            };
            if verify {
                say(&mut new, &switched(INNER.len() as u64)).await;
            }
            say(&mut new, b"more").await;
            assert_eq!(siege.ended(ours.key()).await, Err(Abort::Violation));
            siege.violations(Violation::Message, 1).await;
            // An end that was given stays given.
            read_end(&mut ours).await;
            assert!(ours.write(&[0]).await.is_err());
            siege.unharmed().await;
        }
    }
}

/// Nobody need close an old leg soon; a remote that answers is waited for.
#[tokio::test]
async fn never_closing_the_old_leg() {
    for (ours_asks, verify, closes) in [
        (false, false, true),
        (false, true, true),
        (true, false, true),
        (true, true, true),
        (false, false, false),
        (true, true, false),
    ] {
        let config = patience(Duration::from_millis(500));
        let mut siege = Siege::with(config, Kind::Tcp, Kind::Quic).await;
        let (mut old, mut ours) = siege.scene.labelled(0).await;
        let mut new = if ours_asks {
            let (_, mut new) = siege.scene.asked(&ours).await;
            say(&mut new, if verify { ACCEPT_VERIFY } else { ACCEPT }).await;
            new
        } else {
            siege.scene.agreed(2, 0, verify).await
        };
        if verify {
            say(&mut new, &switched(INNER.len() as u64 + 4)).await;
        }
        for _ in 0..2 {
            assert_eq!(siege.probe().await, siege.scene.old.here);
        }
        say(&mut old, b"last").await;
        hear(&mut ours, b"last").await;
        siege.unharmed().await;
        if closes {
            old.close().await.unwrap();
            say(&mut new, b"next").await;
            hear(&mut ours, b"next").await;
            siege.completed(ours.key(), 1).await;
            siege.unharmed().await;
        } else {
            let connection = siege.scene.old;
            siege.scene.net.dialer.close(connection.here);
            if verify {
                // Everything has been counted: nothing was lost with it.
                say(&mut new, b"next").await;
                hear(&mut ours, b"next").await;
            } else {
                assert!(within("it", ours.read(&mut [0])).await.is_err());
                // yamux shows an end before the swarm knows of the loss.
                let result = siege.ended(ours.key()).await;
                assert!(matches!(result, Err(Abort::LegLost | Abort::Unproven)));
            }
            siege.unharmed_but(&[connection]).await;
        }
        siege.nothing_reported();
    }
}

/// A count that is not what was written, and messages that are no count.
#[tokio::test]
async fn counts_that_are_wrong() {
    let truth = INNER.len() as u64 + 4;
    let oversized = [&[0x81, 2][..], &[0x7a; 257]].concat();
    let both = frame(&[field(8, truth), field(16, 1)].concat());
    let said: &[(&[u8], Abort)] = &[
        (&switched(truth - 1), Abort::Violation),
        (&switched(0), Abort::Violation),
        (&switched(truth + 1), Abort::Cut),
        (&switched(u64::MAX), Abort::Cut),
        (&both, Abort::Violation),
        (&[0], Abort::Violation),
        (&oversized, Abort::Violation),
        (&[2, 0x0a, 0x7f], Abort::Violation),
        (b"\x04data", Abort::Violation),
    ];
    for (message, abort) in said {
        for ours_asks in [false, true] {
            let mut siege = Siege::new().await;
            let (mut old, mut ours) = siege.scene.labelled(0).await;
            let mut new = siege.verified(&ours, ours_asks).await;
            say(&mut old, b"last").await;
            old.close().await.unwrap();
            say(&mut new, message).await;
            assert_eq!(siege.ended(ours.key()).await, Err(*abort), "{message:?}");
            let violations = usize::from(*abort == Abort::Violation);
            siege.violations(Violation::Message, violations).await;
            // What came before the switch may be read, and never an end.
            let mut rest = Vec::new();
            assert!(within("it", ours.read_to_end(&mut rest)).await.is_err());
            assert!(b"last".starts_with(&rest), "{rest:?}");
            assert!(ours.write(&[0]).await.is_err());
            siege.unharmed().await;
        }
    }
}

/// No count: the new leg ends first, or its connection, or nothing happens at all.
#[tokio::test]
async fn counts_that_are_missing() {
    for ours_asks in [false, true] {
        for half in [false, true] {
            let mut siege = Siege::new().await;
            let (mut old, mut ours) = siege.scene.labelled(0).await;
            let mut new = siege.verified(&ours, ours_asks).await;
            old.close().await.unwrap();
            if half {
                say(&mut new, &[2, 8]).await;
            }
            new.close().await.unwrap();
            assert_eq!(siege.ended(ours.key()).await, Err(Abort::LegLost));
            assert!(within("it", ours.read(&mut [0])).await.is_err());
            siege.unharmed().await;
        }
        let config = patience(Duration::from_millis(500));
        let mut siege = Siege::with(config, Kind::Quic, Kind::Tcp).await;
        let (mut old, mut ours) = siege.scene.labelled(0).await;
        let _new = siege.verified(&ours, ours_asks).await;
        say(&mut old, b"last").await;
        old.close().await.unwrap();
        hear(&mut ours, b"last").await;
        // What was written to the old leg is at hand, and yet it is no end.
        let connection = siege.scene.new;
        for _ in 0..2 {
            assert_eq!(siege.probe().await, connection.here);
        }
        assert!(futures::poll!(ours.read(&mut [0])).is_pending());
        siege.unharmed().await;
        siege.scene.net.dialer.close(connection.here);
        assert!(within("it", ours.read(&mut [0])).await.is_err());
        assert_eq!(siege.ended(ours.key()).await, Err(Abort::LegLost));
        siege.unharmed_but(&[connection]).await;
        siege.nothing_reported();
    }
}

/// The first count is the count; what follows is data, whatever it looks like.
#[tokio::test]
async fn counted_twice() {
    for ours_asks in [false, true] {
        let mut siege = Siege::new().await;
        let (mut old, mut ours) = siege.scene.labelled(0).await;
        let mut new = siege.verified(&ours, ours_asks).await;
        let count = switched(INNER.len() as u64);
        say(&mut new, &[&count[..], &count].concat()).await;
        old.close().await.unwrap();
        hear(&mut ours, &count).await;
        siege.completed(ours.key(), 1).await;
        siege.nothing_reported();
        siege.unharmed().await;
    }
}

/// Only who has asked can take it back, and only before the count.
#[tokio::test]
async fn cancelled() {
    let mut siege = Siege::new().await;
    let (mut old, mut ours) = siege.scene.labelled(0).await;
    let mut new = siege.verified(&ours, false).await;
    say(&mut new, &frame(&field(16, 1))).await;
    is_dropped(&mut new).await;
    still_works(&mut old, &mut ours).await;
    siege.nothing_reported();

    let (mut old, mut ours) = siege.scene.labelled(4).await;
    let mut new = siege.verified(&ours, true).await;
    say(&mut new, &frame(&field(16, 1))).await;
    assert_eq!(siege.ended(ours.key()).await, Err(Abort::Violation));
    siege.violations(Violation::Message, 1).await;
    is_dropped(&mut old).await;
    assert!(ours.read(&mut [0]).await.is_err());
    siege.unharmed().await;
}
