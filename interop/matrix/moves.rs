//! The scenarios in which the stream moves and lives.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use crate::{
    case::{Case, Knows, Role, Scenario, Side},
    counts,
    flow::{Load, PAYLOAD, done, whole},
    process::{Check, Place},
    refusals,
    world::World,
};

/// What goes each way before something happens, where no load is wanted.
pub const SOME: u64 = 64 * 1024;

pub async fn run(case: &Case, place: &Place) -> Check {
    let mut world = World::start(case, place).await?;
    let world_of = &mut world;
    match case.scenario {
        Scenario::Load
        | Scenario::BareAccept
        | Scenario::Nested
        | Scenario::Unverified(_)
        | Scenario::LayeredBeside(_, Knows::Streams) => load(world_of).await?,
        Scenario::Layered => layered(world_of).await?,
        Scenario::Idle => idle(world_of).await?,
        Scenario::HalfBefore(closer) => half_closed_before(world_of, closer).await?,
        Scenario::HalfDuring(closer) => half_closed_during(world_of, closer).await?,
        Scenario::FourMoves => four_moves(world_of).await?,
        Scenario::Simultaneous(_) => simultaneous(world_of).await?,
        Scenario::Deny | Scenario::BareDeny => refusals::deny(world_of).await?,
        Scenario::Retry => refusals::retry(world_of).await?,
        Scenario::Fallback(plain) => refusals::fallback(world_of, plain).await?,
        Scenario::LayeredBeside(layered, Knows::Nothing) => {
            refusals::fallback(world_of, layered.other()).await?;
        }
        Scenario::Reset(Role::Initiator, when) => {
            refusals::reset_by_initiator(world_of, when).await?;
        }
        Scenario::Reset(Role::Responder, when) => {
            refusals::reset_by_responder(world_of, when).await?;
        }
        Scenario::RelayedCloses(by) => refusals::relayed_closes(world_of, by).await?,
        Scenario::LayeredCount => counts::compared(world_of, place).await?,
    }
    let failures = matches!(
        case.scenario,
        Scenario::Simultaneous(_)
            | Scenario::Deny
            | Scenario::BareDeny
            | Scenario::Retry
            | Scenario::Fallback(_)
            | Scenario::LayeredBeside(_, Knows::Nothing)
            | Scenario::Reset(..)
            | Scenario::RelayedCloses(_)
    );
    world.finish(failures).await
}

async fn load(world: &mut World<'_>) -> Check {
    let [old, new] = world.connect_both().await?;
    let stream = world.open(&old).await?;
    if !stream.migratable {
        return Err("the stream is a plain one".to_owned());
    }
    let moves = world.moves(&stream, [&old, &new], world.case.mover);
    world.under_load(&stream, moves).await
}

/// A stream of no connection in particular, between two layers. It is opened before there is a better link, to which it
/// would go at once.
async fn layered(world: &mut World<'_>) -> Check {
    let old = world.connect_old().await?;
    world.greet(&old).await?;
    let stream = world.open(&old).await?;
    let new = world.connect_new().await?;
    world.greet(&new).await?;
    let moves = world.moves(&stream, [&old, &new], world.case.mover);
    world.under_load(&stream, moves).await
}

/// Closing the old connection shows that nothing is left on it.
async fn idle(world: &mut World<'_>) -> Check {
    let [old, new] = world.connect_both().await?;
    let stream = world.open(&old).await?;
    let mover = world.case.mover;
    world.lists(&stream, &old, stream.opener).await?;
    world.moves(&stream, [&old, &new], mover).await?;
    world.lists(&stream, &new, mover).await?;
    world.close(&old, mover).await?;
    world.finish_both(&stream, 0).await
}

async fn half_closed_before(world: &mut World<'_>, closer: Side) -> Check {
    let [old, new] = world.connect_both().await?;
    let stream = world.open(&old).await?;
    world.finish_direction(&stream, closer, 0).await?;
    let mover = world.case.mover;
    world.moves(&stream, [&old, &new], mover).await?;
    world.finish_direction(&stream, closer.other(), 0).await
}

async fn half_closed_during(world: &mut World<'_>, closer: Side) -> Check {
    let [old, new] = world.connect_both().await?;
    let stream = world.open(&old).await?;
    let open = closer.other();
    let load = Load::default();
    // All of it is under way when the migration begins, the close included.
    let closing = async {
        let read = world.read(&stream, open, None);
        let written = world.write(&stream, closer, PAYLOAD);
        let closed = world.close_write(&stream, closer);
        let (written, _, read) = tokio::try_join!(written, closed, read)?;
        done("write", written)?;
        whole(&done("read", read)?, stream.seed(closer), PAYLOAD)
    };
    let staying = async {
        let read = world.read(&stream, closer, None);
        let written = async {
            let total = world.write_until(&stream, open, &load).await?;
            world.close_write(&stream, open).await?;
            Ok(total)
        };
        let (total, read) = tokio::try_join!(written, read)?;
        whole(&done("read", read)?, stream.seed(open), total)
    };
    let moving = async {
        world.moves(&stream, [&old, &new], world.case.mover).await?;
        load.enough.store(true, Ordering::Relaxed);
        Ok(())
    };
    tokio::try_join!(closing, staying, moving).map(drop)
}

/// Each time to a connection of its own, the two taking turns.
async fn four_moves(world: &mut World<'_>) -> Check {
    let mut connections = Vec::new();
    for number in 0..5 {
        connections.push(if number % 2 == 0 {
            world.connect_old().await?
        } else {
            world.connect_new().await?
        });
    }
    let stream = world.open(&connections[0]).await?;
    let moves = async {
        let mut by = world.case.mover;
        for legs in connections.windows(2) {
            world.moves(&stream, [&legs[0], &legs[1]], by).await?;
            world.lists(&stream, &legs[1], by).await?;
            by = by.other();
        }
        Ok(())
    };
    world.under_load(&stream, moves).await
}

/// Both start at the same time, to and fro. One of the two attempts succeeds, or both do, one after the
/// other: a peer may keep its own until the remote's is complete.
async fn simultaneous(world: &mut World<'_>) -> Check {
    let [old, new] = world.connect_both().await?;
    let stream = world.open(&old).await?;
    let moves = async {
        for round in 0..4 {
            let [from, to] = if round % 2 == 0 {
                [&old, &new]
            } else {
                [&new, &old]
            };
            let answers = tokio::try_join!(
                world.migrate(&stream, to, Side::Dialer),
                world.migrate(&stream, to, Side::Listener),
            )?;
            let by = match &answers {
                (Ok(_), Err(other)) if other.kind == "failed" => Side::Dialer,
                (Err(other), Ok(_)) if other.kind == "failed" => Side::Listener,
                (Ok(_), Ok(_)) => {
                    let first = world.migrated_by_either(&stream, [from, to]).await?;
                    world.migrated(&stream, [to, to], first.other()).await?;
                    world.lists(&stream, to, first.other()).await?;
                    continue;
                }
                answers => return Err(format!("none of both succeeded: {answers:?}")),
            };
            world.migrated(&stream, [from, to], by).await?;
            world.lists(&stream, to, by).await?;
        }
        Ok(())
    };
    world.under_load(&stream, moves).await?;
    for side in Side::BOTH {
        let is = |event: &Value| event["event"] == "migrated";
        let more = world.peer(side).events(is);
        if !more.is_empty() {
            let more = json!(more);
            return Err(format!("the {} tells of one more: {more}", side.name()));
        }
    }
    Ok(())
}
