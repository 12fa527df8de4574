//! What a migration costs on the wire. In memory: what the substreams carry, which is what this crate
//! decides. On real connections: what TCP or UDP carry, with everything that muxer and security add.

use std::time::Duration;

use futures::FutureExt;
use multistream_select::{Version, dialer_select_proto, listener_select_proto};

use super::on_runtime;
use crate::{
    net::{Kind, Net, Setup, read, write},
    path::Path,
    pipe::{End, Sides, context},
    protocol::PROTOCOL_NAME,
    stats::{Goal, Report, Row},
};

const SECTION: &str = "wire";

type Negotiated = multistream_select::Negotiated<End>;

pub fn run(report: &mut Report) {
    substreams(report);
    on_runtime(async {
        for (old, new) in [(Kind::Tcp, Kind::Quic), (Kind::Quic, Kind::Tcp)] {
            connections(old, new, report).await;
        }
    });
}

/// A substream on which the prefix has been agreed.
fn negotiated() -> ((Negotiated, Negotiated), impl Fn() -> u64) {
    let (opener, acceptor) = End::pair();
    let meter = opener.meter();
    let mut dial = Box::pin(dialer_select_proto(opener, [PROTOCOL_NAME], Version::V1));
    let mut listen = Box::pin(listener_select_proto(acceptor, [PROTOCOL_NAME]));
    let (mut opener, mut acceptor) = (None, None);
    while opener.is_none() || acceptor.is_none() {
        if opener.is_none()
            && let std::task::Poll::Ready(result) = dial.poll_unpin(&mut context())
        {
            opener = Some(result.expect("it is agreed").1);
        }
        if acceptor.is_none()
            && let std::task::Poll::Ready(result) = listen.poll_unpin(&mut context())
        {
            acceptor = Some(result.expect("it is agreed").1);
        }
    }
    let ends = opener.zip(acceptor).expect("both are there");
    (ends, meter)
}

fn substreams(report: &mut Report) {
    let (old, on_old) = negotiated();
    let mut sides = Sides::new(old);
    let before = on_old();
    let (new, on_new) = negotiated();
    let prefix = on_new();
    // An ID as long as they become with a million streams behind them.
    sides.migrate(2_000_000, new);
    let messages = on_new() - prefix;
    for (name, bytes, goal) in [
        ("old leg", on_old() - before, Goal::None),
        ("new leg, agreeing on the prefix", prefix, Goal::None),
        ("new leg, messages", messages, Goal::None),
        (
            "in all",
            on_old() - before + prefix + messages,
            Goal::Below(200.0),
        ),
    ] {
        let name = format!("substreams, {name}: bytes of a migration");
        report.add(Row::ours(SECTION, name, &[bytes as f64], goal));
    }
}

async fn connections(old: Kind, new: Kind, report: &mut Report) {
    let mut net = Net::new(&Setup::default());
    let paths = [Path::default(), Path::default()];
    let first = net.connect_by(old, &paths[0]).await;
    let second = net.connect_by(new, &paths[1]).await;
    let (mut ours, mut theirs) = net.ours(first).await;
    write(&mut ours, 100, 100).await;
    read(&mut theirs, 100).await;
    // QUIC probes its path's size for a while.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = paths.each_ref().map(Path::bytes);
    let migrated = net.dialer.control.migrate(ours.key(), second).await;
    migrated.expect("a migration");
    tokio::time::sleep(Duration::from_millis(300)).await;
    for ((path, before), (leg, kind)) in paths.iter().zip(before).zip([("old", old), ("new", new)])
    {
        let bytes = path.bytes() - before;
        let name = format!("{}, {leg} leg: bytes of a migration, as sent", kind.name());
        report.add(Row::ours(SECTION, name, &[bytes as f64], Goal::None));
    }
}
