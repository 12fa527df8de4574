//! One direction, from the first write to the last read: a plain stream and one of ours on the same
//! connection, in turns.

use std::time::{Duration, Instant};

use libp2p_stream_migration::Config;

use super::on_runtime;
use crate::{
    Effort,
    net::{Io, Kind, Net, Setup, read, write},
    pipe::{End, Sides, pass},
    stats::{Goal, Pair, Report, Row},
};

const SECTION: &str = "throughput";
const MIB: f64 = 1024.0 * 1024.0;
/// A run's length, roughly: long against a scheduler's slices, short against the machine's moods.
const RUN: Duration = Duration::from_millis(100);
const PIECES: [(usize, &str); 2] = [(64 * 1024, "64 KiB"), (1024, "1 KiB")];

/// A stream's two ends.
type Ends<T> = (T, T);

/// What has become of the streams before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    New,
    Migrated,
    /// They outlive their connections.
    Resumable,
}

pub fn run(effort: Effort, report: &mut Report) {
    for life in [Life::New, Life::Migrated, Life::Resumable] {
        for kind in [Kind::Tcp, Kind::Quic] {
            for streams in [1, 16] {
                for (piece, name) in PIECES {
                    let pairs = on_runtime(connection(effort, kind, streams, piece, life));
                    let (life, goal) = match life {
                        Life::New => ("never migrated", 0.99),
                        Life::Migrated => ("after a migration", 0.99),
                        Life::Resumable => ("resumable", 0.97),
                    };
                    let name = format!("{}, {streams} × {name} writes, {life}: MiB/s", kind.name());
                    report.add(Row::ratio(SECTION, name, &pairs, Goal::AtLeast(goal)));
                }
            }
        }
    }
    for (piece, name) in PIECES {
        let name = format!("in memory, no muxer, {name} writes: MiB/s");
        report.add(Row::ratio(
            SECTION,
            name,
            &memory(effort, piece),
            Goal::None,
        ));
    }
}

async fn connection(
    effort: Effort,
    kind: Kind,
    streams: usize,
    piece: usize,
    life: Life,
) -> Vec<Pair> {
    let config = Config::default().with_resume(life == Life::Resumable);
    let mut net = Net::new(&Setup {
        config,
        ..Setup::default()
    });
    let migrated = life == Life::Migrated;
    let connection = net.connect(kind).await;
    // While there is one connection, a plain stream is on it.
    let mut plain = Vec::new();
    for _ in 0..streams {
        plain.push(net.plain().await);
    }
    let mut ours = Vec::new();
    let begin = if migrated {
        net.connect(kind).await
    } else {
        connection
    };
    for _ in 0..streams {
        ours.push(net.ours(begin).await);
    }
    if migrated {
        for (stream, _) in &ours {
            let moved = net.dialer.control.migrate(stream.key(), connection).await;
            moved.expect("a migration");
        }
    }
    // Windows grow and caches fill; and the last of these runs says how much to send.
    let mut bytes = 1 << 20;
    for _ in 0..4 {
        transfer(&mut ours, bytes, piece).await;
        let took = transfer(&mut plain, bytes, piece).await;
        let faster = RUN.as_secs_f64() / took.as_secs_f64();
        bytes = ((bytes as f64 * faster.clamp(0.1, 16.0)) as usize).max(1 << 16);
    }
    let mut pairs = Vec::new();
    for turn in 0..effort.pairs * 5 / 3 {
        let mut took = [Duration::ZERO; 2];
        for which in [turn % 2, 1 - turn % 2] {
            took[which] = match which {
                0 => transfer(&mut ours, bytes, piece).await,
                _ => transfer(&mut plain, bytes, piece).await,
            };
        }
        let speed = took.map(|took| (bytes * streams) as f64 / MIB / took.as_secs_f64());
        pairs.push((speed[0], speed[1]));
    }
    pairs
}

/// Sends so many bytes on each stream; every end is a task of its own.
async fn transfer<T: Io>(streams: &mut Vec<Ends<T>>, bytes: usize, piece: usize) -> Duration {
    let start = Instant::now();
    let tasks: Vec<_> = streams
        .drain(..)
        .map(|(mut writer, mut reader)| {
            let writing = tokio::spawn(async move {
                write(&mut writer, bytes, piece).await;
                writer
            });
            let reading = tokio::spawn(async move {
                read(&mut reader, bytes).await;
                reader
            });
            (writing, reading)
        })
        .collect();
    let mut ends = Vec::new();
    for (writing, reading) in tasks {
        ends.push(reading.await.map(|reader| (writing, reader)));
    }
    let took = start.elapsed();
    for end in ends {
        let (writing, reader) = end.expect("a reader");
        streams.push((writing.await.expect("a writer"), reader));
    }
    took
}

fn memory(effort: Effort, piece: usize) -> Vec<Pair> {
    let Sides {
        mut opener,
        mut acceptor,
    } = Sides::new(End::pair());
    let mut plain = End::pair();
    let (bytes, mut buf) = (vec![0x5a; piece], vec![0; piece]);
    let passes = (64 << 20) / piece;
    let speed = |pass: &mut dyn FnMut()| {
        let start = Instant::now();
        (0..passes).for_each(|_| pass());
        (passes * piece) as f64 / MIB / start.elapsed().as_secs_f64()
    };
    let mut pairs = Vec::new();
    for turn in 0..=effort.pairs {
        let ours = speed(&mut || pass(&mut opener.io, &mut acceptor.io, &bytes, &mut buf));
        let plain = speed(&mut || pass(&mut plain.0, &mut plain.1, &bytes, &mut buf));
        // The first is for the caches.
        if turn > 0 {
            pairs.push((ours, plain));
        }
    }
    pairs
}
