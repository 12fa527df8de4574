//! A peer goes without a word to anybody, and comes back with its key.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use testing::Random;

use crate::{
    ledger::MOMENT,
    proxy::Path,
    world::{RESTARTED, World},
};

/// To be called while nobody dials it.
pub async fn restart(world: &Arc<World>, random: &mut Random) {
    let node = world.node(RESTARTED);
    let life = node.life;
    // Its paths go silent first, so that its peers still have its former life when it is back.
    let unnoticed = random.chance(500);
    if unnoticed {
        world.ledger.note(|known| {
            for end in known.links.of_node(life) {
                known.links.silence(end, Path::Silent);
            }
        });
    }
    sleep(Duration::from_micros(random.size(50_000))).await;
    world.ledger.note(|known| {
        known.counts.other(match unnoticed {
            true => "restarts that peers could not notice",
            false => "restarts",
        });
    });
    stop(world).await;
    come_back(world).await;
}

/// Ends the peer as it is.
pub async fn stop(world: &World) {
    let node = world.node(RESTARTED);
    world.ledger.note(|known| {
        for end in known.links.of_node(node.life) {
            known.links.leave(end);
        }
    });
    node.stop().await;
    world.ledger.note(|known| known.gone(node.life, node.id));
    // Whoever served it has to hear of it.
    sleep(MOMENT).await;
}

/// Makes it anew, with the key of its last life.
pub async fn come_back(world: &Arc<World>) {
    if let Err(error) = world.make_again(RESTARTED).await {
        let what = format!("a peer does not come back: {error}");
        world.ledger.note(|known| known.violation(&what));
    }
}
