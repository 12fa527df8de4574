//! Either connection is closed at each step of a migration: the stream goes on where it can, to the
//! last byte, or it ends in an error. It never ends in a clean end, and nothing waits for ever.

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p_stream_migration::Abort;

use super::*;

/// The last step at which there is something to be closed.
const STEPS: usize = 8;
const BEFORE: &[u8] = b"before";
const AFTER: &[u8] = b"after";

async fn closed_at(step: usize, ours_asks: bool, verify: bool, kinds: (Kind, Kind), old_one: bool) {
    let what = format!("step {step}, ours {ours_asks}, verify {verify}, {kinds:?}, old {old_one}");
    let config = patience(Duration::from_secs(1));
    let mut siege = Siege::with(config, kinds.0, kinds.1).await;
    let (mut old, mut ours) = siege.scene.labelled(0).await;
    say(&mut old, BEFORE).await;
    let count = switched((INNER.len() + BEFORE.len()) as u64);
    let accept = if verify { ACCEPT_VERIFY } else { ACCEPT };
    let mut new = None;
    let mut migration = None;
    let mut has_left = false;
    for at in 1..=step {
        match (at, &mut new) {
            (1, _) if ours_asks => {
                let (asked, leg) = siege.scene.asked(&ours).await;
                (migration, new) = (Some(asked), Some(leg));
            }
            (1, _) => new = Some(siege.scene.prefix(siege.scene.new.here).await),
            (2, Some(new)) if ours_asks => say(new, accept).await,
            (2, Some(new)) if verify => say(new, &migrate_verify(2, 0)).await,
            (2, Some(new)) => say(new, &migrate(2, 0)).await,
            (3, Some(new)) if !ours_asks => hear(new, accept).await,
            // Who has asked is the first to leave; the other follows.
            (3, Some(new)) | (6, Some(new)) if ours_asks == (at == 3) => {
                if verify {
                    hear(new, &switched(INNER.len() as u64)).await;
                }
            }
            (4 | 7, _) if ours_asks == (at == 4) => is_dropped(&mut old).await,
            (4 | 5, Some(new)) if ours_asks == (at == 5) => {
                if verify {
                    say(new, &count).await;
                    has_left = true;
                }
            }
            (5 | 6, _) if ours_asks == (at == 6) => {
                old.close().await.unwrap();
                has_left = true;
            }
            (7, _) => siege.completed(ours.key(), 1).await,
            (8, Some(new)) => say(new, AFTER).await,
            other => unreachable!("{}", other.0),
        }
    }
    let (lost, other) = if old_one {
        (siege.scene.old, siege.scene.new)
    } else {
        (siege.scene.new, siege.scene.old)
    };
    siege.scene.net.dialer.close(lost.here);
    // Ours waits for the remote to leave the old leg, or to say its count. An honest one would find
    // out as well, and give up; this one does it by closing the other connection too.
    let gives_up = if ours_asks {
        (2..=5).contains(&step)
    } else {
        verify
            && if old_one {
                step == 2 || step == 3
            } else {
                step == 4
            }
    };
    // On a connection that we have closed ourselves, this may never return.
    let rest = tokio::spawn(async move {
        let _ = match &mut new {
            Some(_) if step == STEPS => Ok(()),
            Some(new) if has_left => new.write_all(AFTER).await.and(new.flush().await),
            _ => old.write_all(AFTER).await.and(old.flush().await),
        };
        (old, new)
    });
    if gives_up {
        siege.scene.net.dialer.close(other.here);
    }
    let mut got = Vec::new();
    let wanted = [BEFORE, AFTER].concat();
    let result = within(&what, async {
        let mut buf = [0; 32];
        while got.len() < wanted.len() {
            match ours.read(&mut buf).await {
                Ok(0) => panic!("a clean end after {got:?}: {what}"),
                Ok(n) => got.extend_from_slice(&buf[..n]),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    })
    .await;
    assert!(wanted.starts_with(&got), "{got:?}: {what}");
    if result.is_err() {
        let aborted = siege.ended(ours.key()).await;
        let losses = [Abort::LegLost, Abort::Unproven, Abort::Cut, Abort::TimedOut];
        assert!(losses.map(Err).contains(&aborted), "{aborted:?}: {what}");
        assert!(ours.write(&[0]).await.is_err(), "{what}");
    }
    // What can go on has to.
    let counted = verify && !ours_asks && step >= 4;
    let must_go_on = if old_one {
        step >= 7 || counted
    } else {
        step < 2
    };
    assert!(result.is_ok() || !must_go_on, "{result:?}: {what}");
    if let Some(migration) = migration {
        let _ = within(&what, migration).await.unwrap();
    }
    siege.nothing_reported();
    let gone = if gives_up {
        &[lost, other][..]
    } else {
        &[lost]
    };
    siege.unharmed_but(gone).await;
    rest.abort();
}

async fn closed_at_each_step(ours_asks: bool, verify: bool) {
    for kinds in [(Kind::Tcp, Kind::Quic), (Kind::Quic, Kind::Tcp)] {
        for step in 0..=STEPS {
            for old_one in [false, true] {
                closed_at(step, ours_asks, verify, kinds, old_one).await;
            }
        }
    }
}

macro_rules! closed {
    ($($name:ident: $ours_asks:literal, $verify:literal;)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                closed_at_each_step($ours_asks, $verify).await;
            }
        )*
    };
}

closed! {
    closed_while_theirs_moves: false, false;
    closed_while_theirs_moves_verified: false, true;
    closed_while_ours_moves: true, false;
    closed_while_ours_moves_verified: true, true;
}
