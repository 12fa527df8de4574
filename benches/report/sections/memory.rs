//! What an idle stream costs above a plain one, and whether anything stays behind.

use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt, future::join_all};
use libp2p_stream_migration::Stream;

use super::{
    mass::{open_ours, open_plain, roomy},
    on_runtime,
};
use crate::{
    Effort,
    alloc::Counter,
    net::{Io, Kind, Net},
    stats::{Goal, Report, Row},
};

const SECTION: &str = "memory";
/// Longer than anything that [`roomy`]'s settings keep for a while.
const SETTLED: Duration = Duration::from_millis(1500);

pub fn run(effort: Effort, report: &mut Report) {
    let streams = if effort.quick { 1000 } else { 10_000 };
    let ours = on_runtime(idle(streams, true));
    let plain = on_runtime(idle(streams, false));
    for (what, name, goal) in [
        (0, "just opened", Goal::None),
        (1, "idle", Goal::AtMost(1024.0)),
        (2, "left when all have ended", Goal::AtMost(64.0)),
    ] {
        let name = format!("quic-v1, {streams} streams, {name}: bytes per stream and end");
        let pair = [(ours[what], plain[what])];
        report.add(Row::difference(SECTION, name, &pair, goal));
    }
    let (rounds, each) = if effort.quick { (5, 500) } else { (10, 10_000) };
    let growth = on_runtime(growth(rounds, each));
    let name = format!(
        "growth over {} opens and migrations: bytes for each",
        rounds * each
    );
    report.add(Row::ours(SECTION, name, &[growth], Goal::AtMost(1.0)));
}

/// Bytes per stream and end: at once, after a while, and after their end.
async fn idle(count: usize, ours: bool) -> [f64; 3] {
    let mut net = Net::new(&roomy(count));
    let connection = net.connect(Kind::Quic).await;
    // Tables and pools have their first size.
    drop(open_ours(&mut net, connection, 10).await);
    drop(open_plain(&mut net, 10).await);
    tokio::time::sleep(SETTLED).await;
    let counter = Counter::start();
    let start = counter.live();
    let each = |live: f64| (live - start) / count as f64 / 2.0;
    let held = if ours {
        let (mut opened, mut accepted) = open_ours(&mut net, connection, count).await;
        opened.shrink_to_fit();
        accepted.shrink_to_fit();
        Held::Ours(opened, accepted)
    } else {
        Held::Plain(open_plain(&mut net, count).await)
    };
    let opened = each(counter.live());
    tokio::time::sleep(SETTLED).await;
    let idle = each(counter.live());
    match held {
        Held::Ours(opened, accepted) => end(opened, accepted).await,
        Held::Plain(streams) => {
            let (opened, accepted) = streams.into_iter().unzip();
            end(opened, accepted).await;
        }
    }
    tokio::time::sleep(2 * SETTLED).await;
    [opened, idle, each(counter.live())]
}

/// Both ends of either kind.
enum Held {
    Ours(Vec<Stream>, Vec<Stream>),
    Plain(Vec<(libp2p::Stream, libp2p::Stream)>),
}

/// Closes all in order.
async fn end<T: Io>(opened: Vec<T>, accepted: Vec<T>) {
    let mut ends: Vec<_> = opened.into_iter().chain(accepted).collect();
    for stream in &mut ends {
        stream.close().await.expect("closing");
    }
    for stream in &mut ends {
        assert_eq!(stream.read(&mut [0]).await.expect("reading"), 0);
    }
}

/// Opens and moves so many again and again; returns bytes that each leaves behind at both ends.
async fn growth(rounds: usize, each: usize) -> f64 {
    const BATCH: usize = 100;
    let mut net = Net::new(&roomy(BATCH * 4));
    let connections = [net.connect(Kind::Quic).await, net.connect(Kind::Quic).await];
    let counter = Counter::start();
    let mut live = Vec::new();
    for _ in 0..rounds {
        for _ in 0..each / BATCH {
            let (opened, accepted) = open_ours(&mut net, connections[0], BATCH).await;
            let moves = opened.iter().map(|stream| {
                let (mut control, key) = (net.dialer.control.clone(), stream.key());
                async move { control.migrate(key, connections[1]).await }
            });
            for moved in join_all(moves).await {
                moved.expect("a migration");
            }
            end(opened, accepted).await;
        }
        tokio::time::sleep(SETTLED).await;
        live.push(counter.live());
    }
    // The first rounds fill what has a bound.
    let from = live.len() / 2;
    (live[live.len() - 1] - live[from]) / ((live.len() - 1 - from) * each) as f64
}
