//! A migration from TCP to QUIC over paths with a delay, as the applications at both ends feel it. Both
//! write a little all the time; what they write comes as it was written, or it does not.

use std::{
    fs,
    path::Path as File,
    time::{Duration, Instant},
};

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p_stream_migration::ConnectionKey;
use libp2p_stream_migration::Event;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::{on_runtime, picture};
use crate::{
    Effort,
    net::{Kind, Net, Setup},
    path::Path,
    stats::{Goal, Pair, Report, Row},
};

const SECTION: &str = "switch";

/// What one side writes.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub piece: usize,
    pub every: Duration,
    pub pieces: usize,
}

/// Little enough for a new connection's first window.
const PIECE: usize = 32;
const EVERY: Duration = Duration::from_millis(2);

/// Old and new path.
pub struct Road {
    pub net: Net,
    pub delays: [Duration; 2],
    old: ConnectionKey,
    new: ConnectionKey,
    _paths: [Path; 2],
}

impl Road {
    /// In milliseconds each way.
    pub async fn new(delays: [u64; 2], lazy: bool) -> Self {
        let net = Net::new(&Setup {
            lazy,
            ..Default::default()
        });
        let delays = delays.map(Duration::from_millis);
        let paths = delays.map(Path::new);
        Self {
            old: net.connect_by(Kind::Tcp, &paths[0]).await,
            new: net.connect_by(Kind::Quic, &paths[1]).await,
            _paths: paths,
            net,
            delays,
        }
    }

    /// How long to wait for the flow to be steady, and how long for a migration to be over.
    fn times(&self) -> (Duration, Duration) {
        let [old, new] = self.delays;
        let room = Duration::from_millis(60);
        (2 * old + room, 4 * new + 2 * old + room)
    }

    /// Has both sides write for as long as a migration takes, or two.
    pub async fn run(&mut self, loads: [Option<Load>; 2], start: Option<Duration>) -> Run {
        self.net.dialer.remember();
        self.net.listener.remember();
        let (ours, theirs) = self.net.ours(self.old).await;
        let key = ours.key();
        let (near, far) = (ours.split(), theirs.split());
        let begun = Instant::now();
        let [out, back] = loads;
        let tasks = (
            tokio::spawn(write(near.1, out)),
            tokio::spawn(read(far.0, out)),
            tokio::spawn(write(far.1, back)),
            tokio::spawn(read(near.0, back)),
        );
        let mut migration = None;
        if let Some(start) = start {
            sleep(start).await;
            let asked = Instant::now();
            let moved = self.net.dialer.control.migrate(key, self.new).await;
            let complete = Instant::now();
            moved.expect("a migration");
            let is_agreed = |event: &Event| match event {
                Event::MigrationAgreed { .. } => Some(()),
                _ => None,
            };
            let (agreed, ()) = self.net.dialer.event(is_agreed).await;
            migration = Some(Migration {
                asked,
                agreed,
                complete,
            });
        }
        let (written, read, written_back, read_back) =
            futures::join!(tasks.0, tasks.1, tasks.2, tasks.3);
        let (far_reader, arrivals) = read.expect("a reader");
        let (near_reader, arrivals_back) = read_back.expect("a reader");
        let (near_writer, wait) = written.expect("a writer");
        let (far_writer, wait_back) = written_back.expect("a writer");
        let _ours = near_reader.reunite(near_writer).expect("halves of one");
        let theirs = far_reader.reunite(far_writer).expect("halves of one");
        // The negotiation of the protocol is the stream's, too.
        let bytes: usize = arrivals.iter().map(|(_, n)| n).sum();
        let before = theirs.bytes_in() - bytes as u64;
        let mut by_old = bytes as u64;
        if migration.is_some() {
            let completed = |event: &Event| match event {
                Event::MigrationCompleted {
                    old_leg_received, ..
                } => Some(*old_leg_received),
                _ => None,
            };
            by_old = self.net.listener.event(completed).await.1 - before;
        }
        Run {
            begun,
            migration,
            arrivals: [arrivals, arrivals_back],
            waits: [wait, wait_back],
            by_old,
        }
    }
}

/// When what happened to a migration, at the side that asked for it.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    pub asked: Instant,
    pub agreed: Instant,
    pub complete: Instant,
}

/// What came of it: towards the listener, towards the dialer.
pub struct Run {
    begun: Instant,
    pub migration: Option<Migration>,
    pub arrivals: [Vec<(Instant, usize)>; 2],
    waits: [Duration; 2],
    /// How much reached the listener by the old path.
    pub by_old: u64,
}

impl Run {
    /// The reader's longest wait for something new, in milliseconds, from so long after the beginning.
    fn gap(&self, direction: usize, from: Duration) -> f64 {
        let steady = self.arrivals[direction]
            .windows(2)
            .filter(|pair| pair[1].0 >= self.begun + from);
        let gaps = steady.map(|pair| ms(pair[1].0 - pair[0].0));
        gaps.fold(0.0, f64::max)
    }
}

fn ms(duration: Duration) -> f64 {
    1000.0 * duration.as_secs_f64()
}

/// Returns how long a write with its flush took at most.
async fn write<W: AsyncWriteExt + Unpin>(mut io: W, load: Option<Load>) -> (W, Duration) {
    let mut longest = Duration::ZERO;
    if let Some(load) = load {
        let piece = vec![0x5a; load.piece];
        let mut tick = interval(load.every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
        for _ in 0..load.pieces {
            tick.tick().await;
            let start = Instant::now();
            io.write_all(&piece).await.expect("writing");
            io.flush().await.expect("flushing");
            longest = longest.max(start.elapsed());
        }
    }
    (io, longest)
}

async fn read<R: AsyncReadExt + Unpin>(
    mut io: R,
    load: Option<Load>,
) -> (R, Vec<(Instant, usize)>) {
    let mut left = load.map_or(0, |load| load.piece * load.pieces);
    let mut arrivals = Vec::new();
    let mut buf = vec![0; 64 * 1024];
    while left > 0 {
        let n = io.read(&mut buf).await.expect("reading");
        assert_ne!(n, 0, "{left} bytes are missing");
        arrivals.push((Instant::now(), n));
        left -= n;
    }
    (io, arrivals)
}

pub fn run(effort: Effort, svg: Option<&File>, report: &mut Report) {
    for delays in [[5, 5], [80, 5], [5, 80], [80, 80]] {
        on_runtime(felt(effort, delays, report));
        for lazy in [false, true] {
            on_runtime(agreed(effort, delays, lazy, report));
        }
    }
    if let Some(file) = svg {
        let drawn = on_runtime(picture::draw());
        let written = drawn.and_then(|svg| fs::write(file, svg).map_err(|e| e.to_string()));
        match written {
            Ok(()) => println!("{} is drawn", file.display()),
            Err(error) => eprintln!("{}: {error}", file.display()),
        }
    }
}

fn title([old, new]: [u64; 2]) -> String {
    format!("tcp {old} ms → quic {new} ms")
}

async fn felt(effort: Effort, delays: [u64; 2], report: &mut Report) {
    let mut road = Road::new(delays, false).await;
    let (steady, rest) = road.times();
    let pieces = ((steady + rest).as_micros() / EVERY.as_micros()) as usize;
    let load = Some(Load {
        piece: PIECE,
        every: EVERY,
        pieces,
    });
    let mut gaps: [Vec<Pair>; 2] = Default::default();
    let mut waits: [Vec<Pair>; 2] = Default::default();
    for turn in 0..effort.pairs {
        let with = Some(steady);
        let runs = if turn % 2 == 0 {
            let first = road.run([load; 2], with).await;
            (first, road.run([load; 2], None).await)
        } else {
            let first = road.run([load; 2], None).await;
            (road.run([load; 2], with).await, first)
        };
        for direction in [0, 1] {
            let gap = |run: &Run| run.gap(direction, steady);
            gaps[direction].push((gap(&runs.0), gap(&runs.1)));
            let wait = |run: &Run| ms(run.waits[direction]);
            waits[direction].push((wait(&runs.0), wait(&runs.1)));
        }
    }
    let [old, new] = delays;
    let allowed = new.saturating_sub(old) as f64 + 5.0;
    for (samples, side) in gaps.iter().zip(["listener's", "dialer's"]) {
        let name = format!(
            "{}, {side} longest gap, with and without: ms",
            title(delays)
        );
        report.add(Row::difference(
            SECTION,
            name,
            samples,
            Goal::AtMost(allowed),
        ));
    }
    for (samples, side) in waits.iter().zip(["dialer's", "listener's"]) {
        let name = format!(
            "{}, {side} longest write, with and without: ms",
            title(delays)
        );
        report.add(Row::difference(SECTION, name, samples, Goal::AtMost(1.0)));
    }
}

/// How long until both sides have agreed, and until the old leg is done with.
async fn agreed(effort: Effort, delays: [u64; 2], lazy: bool, report: &mut Report) {
    let mut road = Road::new(delays, lazy).await;
    let round_trip = 2.0 * delays[1] as f64;
    let (mut trips, mut agreed, mut complete) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..effort.pairs {
        let run = road.run([None; 2], Some(Duration::ZERO)).await;
        let Some(at) = run.migration else { continue };
        let took = ms(at.agreed - at.asked);
        // To whole flights of half a round trip.
        trips.push((2.0 * took / round_trip).round() / 2.0);
        agreed.push(took);
        complete.push(ms(at.complete - at.asked));
    }
    let version = if lazy { "V1Lazy" } else { "V1" };
    let title = title(delays);
    let name = format!("{title}, {version}, agreed after so many new round trips");
    report.add(Row::ours(SECTION, name, &trips, Goal::AtMost(1.0)));
    for (samples, what) in [(agreed, "agreed"), (complete, "complete")] {
        let name = format!("{title}, {version}, {what} after: ms");
        report.add(Row::ours(SECTION, name, &samples, Goal::None));
    }
}
