//! A layer as a plain peer of another implementation sees it: streams and bytes, counted there,
//! beside those of the same exchange without it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::{
    case::{Case, Impl, Side},
    flow::{done, ended},
    moves::SOME,
    process::{Check, Place},
    world::{Names, World},
};

/// The proposal of the layer's control protocol, with the header before it.
const PROPOSAL: &str = "_/multistream/1.0.0\n_/libp2p/stream-migration/control/1.0.0\n";

/// Its refusal.
const REFUSAL: &str = "_/multistream/1.0.0\n_na\n";

const COUNTED: [&str; 4] = ["streams_in", "streams_out", "read", "written"];

/// What the plain peer has counted, of each protocol.
type Counts = BTreeMap<String, [i64; 4]>;

struct Seen {
    counts: Counts,
    /// The Rust peer's names of the relayed connections.
    relayed: Vec<String>,
}

/// The Rust peer, which has the layer; the other has nothing of ours.
fn layered(case: &Case) -> Side {
    match case.dialer {
        Impl::Rust => Side::Dialer,
        Impl::Go | Impl::Js => Side::Listener,
    }
}

/// The world is the one with the layer; another one is made without.
pub async fn compared(world: &mut World<'_>, place: &Place) -> Check {
    let with = seen(world).await?;
    let place = Place {
        logs: place.logs.join("without"),
        ..place.clone()
    };
    let mut other = World::without_layer(world.case, &place).await?;
    let without = seen(&mut other).await?;
    other.finish(false).await?;
    let mut differs = difference(&with.counts, &without.counts);
    let mut expected = Counts::new();
    for connection in &with.relayed {
        let refused = expected.entry(String::new()).or_default();
        let asked = PROPOSAL.len() + hello(connection)?;
        refused[0] += 1;
        refused[2] += asked as i64;
        refused[3] += REFUSAL.len() as i64;
    }
    if world.case.peer(layered(world.case).other()) == Impl::Go {
        leave_unread(&mut differs, &expected, with.relayed.len());
    }
    if differs != expected {
        return Err(format!(
            "the difference of {COUNTED:?} is {differs:?}, not {expected:?}; \
             with: {:?}; without: {:?}",
            with.counts, without.counts
        ));
    }
    Ok(())
}

/// Makes up for what go-libp2p has not read: its refusal may have ended the stream before it came to
/// the hello.
fn leave_unread(differs: &mut Counts, expected: &Counts, refused: usize) {
    let asked = (PROPOSAL.len() * refused) as i64;
    if let (Some(differs), Some(expected)) = (differs.get_mut(""), expected.get(""))
        && (asked..expected[2]).contains(&differs[2])
    {
        differs[2] = expected[2];
    }
}

/// The length of the hello on this connection: of a message that tells 8 bytes, and the connection's
/// number.
fn hello(connection: &str) -> Check<usize> {
    let number = connection.strip_prefix('c').and_then(|it| it.parse().ok());
    let number: u64 = number.ok_or_else(|| format!("{connection} is no number"))?;
    let bits = u64::BITS - number.max(1).leading_zeros();
    Ok(1 + 2 + 9 + 1 + bits.div_ceil(7) as usize)
}

fn difference(with: &Counts, without: &Counts) -> Counts {
    let protocols: BTreeSet<_> = with.keys().chain(without.keys()).collect();
    let differs = protocols.into_iter().map(|protocol| {
        let [with, without] =
            [with, without].map(|it| it.get(protocol).copied().unwrap_or_default());
        let differs = std::array::from_fn(|at| with[at] - without[at]);
        (protocol.clone(), differs)
    });
    differs.filter(|(_, differs)| *differs != [0; 4]).collect()
}

/// A stream of each side's on each of two connections, to the end of all, as the plain peer sees
/// it.
async fn seen(world: &mut World<'_>) -> Check<Seen> {
    let ours = layered(world.case);
    // An address that is new while there is a connection is told there, at some time.
    world.listen_both().await?;
    let old = world.connect_old().await?;
    exchange(world, &old).await?;
    let new = world.connect_new().await?;
    exchange(world, &new).await?;
    world.close(&old, ours).await?;
    world.close(&new, ours).await?;
    let count = json!({ "cmd": "count", "peer": world.peer(ours).id });
    let counted = world.peer(ours.other()).call(count).await?;
    let counts = counts(&counted["counts"])?;
    let case = world.case;
    let relayed = [(case.old, old), (case.new, new)]
        .into_iter()
        .filter(|(transport, _)| transport.is_relayed())
        .map(|(_, connection)| connection.at(ours).to_owned());
    Ok(Seen {
        counts,
        relayed: relayed.collect(),
    })
}

fn counts(counted: &Value) -> Check<Counts> {
    let counted = counted
        .as_object()
        .ok_or_else(|| format!("{counted} are no counts"))?;
    let one = |counts: &Value| -> Check<[i64; 4]> {
        let number = |name: &str| {
            let number = counts[name].as_i64();
            number.ok_or_else(|| format!("{name} is no number in {counts}"))
        };
        let [a, b, c, d] = COUNTED.map(number);
        Ok([a?, b?, c?, d?])
    };
    counted
        .iter()
        .map(|(protocol, counts)| Ok((protocol.clone(), one(counts)?)))
        .collect()
}

async fn exchange(world: &World<'_>, connection: &Names) -> Check {
    // js-libp2p does not always say when it has come to an end. What it has been sent before other bytes
    // on a connection over TCP, it has read before them.
    let says = |side: &Side| world.case.peer(*side) != Impl::Js;
    for side in Side::BOTH.into_iter().filter(says) {
        let name = connection.at(side);
        let is = |event: &Value| event["event"] == "identified" && event["conn"] == *name;
        world.peer(side).event("identified", is).await?;
    }
    for opener in Side::BOTH {
        let stream = world.open_by(connection, opener).await?;
        world.carry_both(&stream, SOME).await?;
        for side in Side::BOTH {
            world.close_write(&stream, side).await?;
            let read = world.read(&stream, side.other(), None).await?;
            ended(&done("read", read)?, 0)?;
        }
        for side in Side::BOTH {
            let drop = json!({ "cmd": "drop", "stream": stream.names.at(side) });
            world.peer(side).call(drop).await?;
        }
    }
    Ok(())
}
