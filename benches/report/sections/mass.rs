//! All streams between two peers moved at once, against opening as many plain ones.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt, future::join_all, stream};
use libp2p_stream_migration::ConnectionKey;
use libp2p_stream_migration::{Config, Stream};
use tokio::task::JoinHandle;

use super::on_runtime;
use crate::{
    Effort,
    alloc::Counter,
    net::{Kind, Net, OURS, Setup},
    stats::{Goal, Pair, Report, Row},
};

const SECTION: &str = "mass";
/// Opened at once: as many as the crate moves at once by default.
const AT_ONCE: usize = 64;
/// How often each trickling stream says something.
const TRICKLE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy)]
struct Case {
    kind: Kind,
    streams: usize,
    trickling: bool,
}

impl Case {
    fn name(self) -> String {
        let what = if self.trickling { "trickling" } else { "idle" };
        format!("{}, {} {what} streams", self.kind.name(), self.streams)
    }
}

/// Ours and plain: the times, in ms; peak memory above what was there before, in bytes.
struct Outcome {
    took: Vec<Pair>,
    peak: Pair,
    at_once: usize,
}

/// Settings with room for so many.
pub fn roomy(streams: usize) -> Setup {
    let config = Config::default()
        .with_max_streams_per_peer(4 * streams)
        .with_max_streams_per_connection(4 * streams)
        .with_muxer_limit(4 * streams)
        .with_max_pending_opens(streams)
        .with_accept_backlog(streams)
        // What a few rounds leave behind is not to add up.
        .with_accept_timeout(Duration::from_secs(1))
        .with_old_leg_linger(Duration::from_millis(500));
    Setup {
        config,
        quic_streams: u32::try_from(4 * streams + 256).unwrap_or(u32::MAX),
        yamux_streams: 4096,
        ..Default::default()
    }
}

pub fn run(effort: Effort, report: &mut Report) {
    let (quic, yamux): (&[usize], &[usize]) = match effort.quick {
        true => (&[1, 100, 1000], &[100]),
        false => (&[1, 10, 100, 1000, 10_000], &[100, 4000]),
    };
    for trickling in [false, true] {
        for (kind, counts) in [(Kind::Quic, quic), (Kind::Tcp, yamux)] {
            let mut each = Vec::new();
            for &streams in counts {
                let case = Case {
                    kind,
                    streams,
                    trickling,
                };
                let outcome = on_runtime(measure(effort, case));
                outcome.report(case, report);
                let took = outcome.took.iter().map(|(ours, _)| ours / streams as f64);
                each.push((streams, took.collect::<Vec<_>>()));
            }
            let few = each.iter().position(|(streams, _)| *streams == 100);
            let many = each.len() - 1;
            if let Some(few) = few.filter(|few| *few != many) {
                let what = if trickling { "trickling" } else { "idle" };
                let name = format!(
                    "{}, {what}: per stream, {} streams against 100: ms",
                    kind.name(),
                    each[many].0
                );
                let (many, few) = (&each[many].1, &each[few].1);
                let samples: Vec<_> = many.iter().copied().zip(few.iter().copied()).collect();
                let goal = Goal::AtMost(1.5);
                report.add(Row::unpaired(SECTION, name, &samples, goal));
            }
        }
    }
}

impl Outcome {
    fn report(&self, case: Case, report: &mut Report) {
        let name = format!("{}: all moved, all opened: ms", case.name());
        report.add(Row::ratio(SECTION, name, &self.took, Goal::AtMost(2.0)));
        let streams = case.streams as f64;
        let peak = (self.peak.0 / streams, self.peak.1 / streams);
        let name = format!("{}: peak memory, both ends: bytes each", case.name());
        report.add(Row::ratio(SECTION, name, &[peak], Goal::None));
        let name = format!("{}: migrations running at once", case.name());
        report.add(Row::ours(SECTION, name, &[self.at_once as f64], Goal::None));
    }
}

async fn measure(effort: Effort, case: Case) -> Outcome {
    let setup = roomy(case.streams);
    let mut plain = Net::new(&setup);
    plain.connect(case.kind).await;
    let mut net = Net::new(&setup);
    let connections = [net.connect(case.kind).await, net.connect(case.kind).await];
    let (streams, accepted) = open_ours(&mut net, connections[0], case.streams).await;
    let keys: Vec<_> = streams.iter().map(Stream::key).collect();
    let all = All::new(streams, accepted, case.trickling);
    let mut to = connections.iter().cycle().skip(1);
    let mut next = || *to.next().expect("it goes round");

    let mut took = Vec::new();
    // The first is for the caches.
    for turn in 0..=effort.pairs {
        let moved;
        let opened;
        if turn % 2 == 0 {
            moved = move_all(&net, &keys, next()).await;
            opened = time_plain(&mut plain, case.streams).await;
        } else {
            opened = time_plain(&mut plain, case.streams).await;
            moved = move_all(&net, &keys, next()).await;
        }
        if turn > 0 {
            took.push((ms(moved), ms(opened)));
        }
    }
    net.dialer.take_most();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let counter = Counter::start();
    let peak = |before: f64| counter.peak() - before;
    let before = counter.live();
    counter.reset_peak();
    move_all(&net, &keys, next()).await;
    let ours = peak(before);
    let before = counter.live();
    counter.reset_peak();
    time_plain(&mut plain, case.streams).await;
    let peak = (ours, peak(before));
    drop(counter);
    all.end().await;
    Outcome {
        took,
        peak,
        at_once: net.dialer.take_most(),
    }
}

fn ms(duration: Duration) -> f64 {
    1000.0 * duration.as_secs_f64()
}

/// Both ends of all streams.
pub async fn open_ours(
    net: &mut Net,
    connection: ConnectionKey,
    count: usize,
) -> (Vec<Stream>, Vec<Stream>) {
    let (peer, control) = (net.listener.id, net.dialer.control.clone());
    let opening = stream::iter(0..count).map(|_| {
        let mut control = control.clone();
        async move {
            let opened = control.open_stream_on(peer, connection, OURS).await;
            opened.expect("a stream")
        }
    });
    let accepting = net.incoming.by_ref().take(count);
    futures::join!(
        opening.buffer_unordered(AT_ONCE).collect::<Vec<_>>(),
        accepting.map(|(_, stream)| stream).collect::<Vec<_>>()
    )
}

/// The same of plain ones, one after the other: `libp2p-stream` negotiates one at a time on a connection
/// whoever asks, and drops what comes in while two wait to be accepted.
pub async fn open_plain(net: &mut Net, count: usize) -> Vec<(libp2p::Stream, libp2p::Stream)> {
    let mut streams = Vec::with_capacity(count);
    for _ in 0..count {
        streams.push(net.plain().await);
    }
    streams
}

async fn time_plain(net: &mut Net, count: usize) -> Duration {
    let start = Instant::now();
    let streams = open_plain(net, count).await;
    let took = start.elapsed();
    drop(streams);
    // What ends them is still on its way.
    tokio::time::sleep(Duration::from_millis(20) + took / 4).await;
    took
}

async fn move_all(
    net: &Net,
    keys: &[libp2p_stream_migration::StreamKey],
    to: ConnectionKey,
) -> Duration {
    let start = Instant::now();
    let moves = keys.iter().map(|key| {
        let mut control = net.dialer.control.clone();
        async move { control.migrate(*key, to).await }
    });
    for moved in join_all(moves).await {
        moved.expect("a migration");
    }
    let took = start.elapsed();
    // The other side hears last, and may not be moved by us more often than it puts up with.
    tokio::time::sleep(Duration::from_millis(120) + took / 8).await;
    took
}

/// All streams at both ends, idle or with a little traffic.
enum All {
    Idle(Vec<Stream>, Vec<Stream>),
    Trickling {
        stop: Arc<AtomicBool>,
        writer: JoinHandle<Vec<Stream>>,
        readers: Vec<JoinHandle<()>>,
    },
}

impl All {
    fn new(mut streams: Vec<Stream>, accepted: Vec<Stream>, trickling: bool) -> Self {
        if !trickling {
            return Self::Idle(streams, accepted);
        }
        let readers = accepted.into_iter().map(|mut stream| {
            tokio::spawn(async move {
                let mut buf = [0; 64];
                while let Ok(1..) = stream.read(&mut buf).await {}
                let _ = stream.close().await;
            })
        });
        let readers = readers.collect();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let writer = tokio::spawn(async move {
            let slices = 100;
            let mut tick = tokio::time::interval(TRICKLE / slices);
            let slice = streams.len().div_ceil(slices as usize);
            while !stopped.load(Ordering::Relaxed) {
                for streams in streams.chunks_mut(slice) {
                    tick.tick().await;
                    for stream in streams {
                        stream.write_all(&[0x5a; 8]).await.expect("writing");
                        stream.flush().await.expect("flushing");
                    }
                }
            }
            streams
        });
        Self::Trickling {
            stop,
            writer,
            readers,
        }
    }

    async fn end(self) {
        match self {
            Self::Idle(streams, accepted) => drop((streams, accepted)),
            Self::Trickling {
                stop,
                writer,
                readers,
            } => {
                stop.store(true, Ordering::Relaxed);
                for mut stream in writer.await.expect("a writer") {
                    stream.close().await.expect("closing");
                }
                for reader in readers {
                    reader.await.expect("a reader");
                }
            }
        }
    }
}
