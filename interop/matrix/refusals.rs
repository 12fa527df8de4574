//! The scenarios in which a migration does not come about, or the stream does not survive.

use serde_json::{Value, json};

use crate::{
    case::{Side, When},
    moves::SOME,
    process::{Check, Refusal},
    world::{Stream, World},
};

impl World<'_> {
    /// What a side says to the `Migrate`s to come.
    async fn answers(&self, side: Side, next: &[&str]) -> Check {
        let answer = json!({ "cmd": "answer", "next": next });
        self.peer(side).call(answer).await.map(drop)
    }

    /// Reads that are pending at both sides and have to end in an error.
    fn doomed(&self, stream: &Stream) -> impl Future<Output = Check> + use<> {
        let reads = Side::BOTH.map(|side| self.read(stream, side, None));
        let [one, other] = reads;
        async move {
            let (one, other) = tokio::try_join!(one, other)?;
            for (side, read) in Side::BOTH.into_iter().zip([one, other]) {
                let side = side.name();
                failed_with(&format!("the {side}'s read"), read, &["reset"])?;
            }
            Ok(())
        }
    }

    /// Writes fail, too, at once or once the remote's buffers are full.
    async fn writes_fail(&self, stream: &Stream) -> Check {
        for side in Side::BOTH {
            let what = format!("the {}'s write", side.name());
            let written = self.write(stream, side, SOME).await?;
            failed_with(&what, written, &["reset"])?;
        }
        Ok(())
    }
}

fn failed_with(what: &str, answer: Result<Value, Refusal>, kinds: &[&str]) -> Check {
    match answer {
        Err(refusal) if kinds.contains(&&*refusal.kind) => Ok(()),
        Err(refusal) => Err(format!(
            "{what} failed with {:?} ({}), not {kinds:?}",
            refusal.kind, refusal.text
        )),
        Ok(done) => Err(format!("{what} should have failed: {done}")),
    }
}

/// For good: the second attempt is not even made.
pub async fn deny(world: &mut World<'_>) -> Check {
    let [old, new] = world.connect_both().await?;
    let stream = world.open(&old).await?;
    world.carry_both(&stream, SOME).await?;
    let mover = world.case.mover;
    world.answers(mover.other(), &["deny"]).await?;
    for _ in 0..2 {
        let answer = world.migrate(&stream, &new, mover).await?;
        failed_with("the migration", answer, &["denied"])?;
    }
    let is = |event: &Value| event["event"] == "migration_failed" && event["initiator"] == true;
    world.peer(mover).event("migration_failed", is).await?;
    world.lists(&stream, &old, stream.opener).await?;
    // Nothing has touched the new connection's side of things.
    world.close(&new, mover).await?;
    world.finish_both(&stream, SOME).await
}

pub async fn retry(world: &mut World<'_>) -> Check {
    let [old, new] = world.connect_both().await?;
    let stream = world.open(&old).await?;
    world.carry_both(&stream, SOME).await?;
    let mover = world.case.mover;
    world.answers(mover.other(), &["ignore", "accept"]).await?;
    let answer = world.migrate(&stream, &new, mover).await?;
    failed_with("the first attempt", answer, &["failed"])?;
    world.carry_both(&stream, SOME).await?;
    world.moves(&stream, [&old, &new], mover).await?;
    world.close(&old, mover).await?;
    world.finish_both(&stream, SOME).await
}

pub async fn fallback(world: &mut World<'_>, plain: Side) -> Check {
    let old = world.connect_old().await?;
    let stream = world.open(&old).await?;
    if stream.migratable {
        return Err("the stream is migratable".to_owned());
    }
    let new = world.connect_new().await?;
    world.carry_both(&stream, SOME).await?;
    let answer = world.migrate(&stream, &new, plain.other()).await?;
    failed_with("the migration", answer, &["failed", "unsupported"])?;
    world.finish_both(&stream, SOME).await
}

pub async fn reset_by_initiator(world: &mut World<'_>, when: When) -> Check {
    let [old, new] = world.connect_both().await?;
    let stream = world.open(&old).await?;
    world.carry_both(&stream, SOME).await?;
    let mover = world.case.mover;
    let doomed = world.doomed(&stream);
    let answer = world.peer(mover).send(json!({
        "cmd": "migrate",
        "stream": stream.names.at(mover),
        "conn": new.at(mover),
        "reset": match when {
            When::Before => "before_ack",
            When::After => "after_ack",
        },
    }));
    let (answer, ()) = tokio::try_join!(answer, doomed)?;
    // Whether doing as it was told is a success is for the peer to say.
    if let Err(refusal) = answer {
        failed_with("the migration", Err(refusal), &["reset"])?;
    }
    world.writes_fail(&stream).await
}

pub async fn reset_by_responder(world: &mut World<'_>, when: When) -> Check {
    let [old, new] = world.connect_both().await?;
    let stream = world.open(&old).await?;
    world.carry_both(&stream, SOME).await?;
    let mover = world.case.mover;
    let next = match when {
        When::Before => "reset_before_ack",
        When::After => "reset_after_ack",
    };
    world.answers(mover.other(), &[next]).await?;
    let doomed = world.doomed(&stream);
    let answer = world.migrate(&stream, &new, mover);
    let (answer, ()) = tokio::try_join!(answer, doomed)?;
    // Before the ack, a new leg that is gone is an attempt that failed; the old leg is another matter.
    failed_with("the migration", answer, &["reset", "failed"])?;
    world.writes_fail(&stream).await
}

/// The stream has moved, or ends in an error at both sides: nothing in between.
pub async fn relayed_closes(world: &mut World<'_>, by: Side) -> Check {
    let old = world.connect_old().await?;
    let stream = world.open(&old).await?;
    world.carry_both(&stream, SOME).await?;
    let close = json!({ "cmd": "on_relayed", "action": "close" });
    world.peer(by).call(close).await?;
    let new = world.connect_new().await?;
    let answer = world.migrate(&stream, &new, world.case.mover).await?;
    if answer.is_ok() {
        world
            .migrated(&stream, [&old, &new], world.case.mover)
            .await?;
        return world.finish_both(&stream, SOME).await;
    }
    world.doomed(&stream).await?;
    // The connection that came instead is as good as ever.
    let again = world.open(&new).await?;
    world.finish_both(&again, 0).await
}
