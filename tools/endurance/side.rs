//! One side of a stream: a task that writes and another that reads, so that each is woken by its own
//! waker or not at all.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::SeqCst},
    task::{Poll, ready},
};

use futures::{AsyncRead, AsyncWrite};
use libp2p_stream_migration::ConnectionKey;
use libp2p_stream_migration::Stream;
use tokio::sync::watch;

use testing::Random;

use crate::{
    flow::{Flow, Flows, Side},
    plan::{Ends, Plan},
};

/// How reading ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// With `Ok(0)`.
    End,
    Failed(String),
    /// A byte at this position is not what was written there, or nothing was.
    Wrong(u64),
    /// This side wanted no more.
    Stopped,
}

/// How writing ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Writing {
    Closed,
    Failed(String),
    /// This side wanted to write no more, and did not close.
    Stopped,
}

/// What can be known of the write side when reading ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WriteSide {
    Open,
    Closed,
    Failed,
}

/// What became of one side.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub reading: Reading,
    pub writing: Writing,
    /// How many bytes came.
    pub read: u64,
    /// How it was with our write side when reading ended, and which connection was the last.
    pub write_side: WriteSide,
    pub last: Option<ConnectionKey>,
    /// Dropped it on purpose: without closing, or after closing but before the remote's end.
    pub dropped: bool,
    pub left: bool,
    /// Somebody has given it up, before this side was done.
    pub given_up: bool,
}

struct Io {
    stream: Stream,
    write_side: WriteSide,
}

/// The stream as its two tasks share it. It is dropped with the last of them.
struct Half {
    io: Arc<Mutex<Io>>,
    flows: Arc<Flows>,
    side: Side,
    plan: Plan,
    random: Random,
    /// Set when this side lets go of the stream.
    enough: Arc<watch::Sender<bool>>,
}

impl Half {
    fn io(&self) -> MutexGuard<'_, Io> {
        self.io.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn pause(&mut self, chance: u64) {
        if self.random.chance(chance) {
            tokio::time::sleep(Plan::pause(&mut self.random)).await;
            self.flows.progressed();
        }
    }
}

/// Carries out the plan, and lets go of the stream.
pub async fn run(
    stream: Stream,
    side: Side,
    flows: Arc<Flows>,
    plan: Plan,
    random: Random,
) -> Outcome {
    let last = stream.connection();
    let io = Arc::new(Mutex::new(Io {
        stream,
        write_side: WriteSide::Open,
    }));
    let half = |purpose| Half {
        io: io.clone(),
        flows: flows.clone(),
        side,
        plan: plan.clone(),
        random: Random::of(random.clone().number(), purpose),
        enough: Arc::new(watch::Sender::new(false)),
    };
    let (mut writer, mut reader) = (half(0), half(1));
    reader.enough = writer.enough.clone();
    let on_purpose = writer.enough.clone();
    let (end, ended) = watch::channel(false);
    let write = tokio::spawn(async move {
        let enough = enough(writer.enough.clone(), writer.flows.clone());
        tokio::select! {
            biased;
            () = enough => Writing::Stopped,
            written = write(&mut writer, ended) => written,
        }
    });
    let read = tokio::spawn(async move {
        let enough = enough(reader.enough.clone(), reader.flows.clone());
        let reading = tokio::select! {
            biased;
            () = enough => None,
            read = read(&mut reader) => Some(read),
        };
        end.send_replace(true);
        let io = reader.io();
        let now = (io.write_side, io.stream.connection());
        drop(io);
        reading.unwrap_or((Reading::Stopped, now.0, now.1))
    });
    let (writing, reading) = tokio::join!(write, read);
    // A task of ours that panicked is a fault of this program.
    let writing = writing.unwrap_or_else(|error| Writing::Failed(format!("panicked: {error}")));
    let (reading, write_side, last) = reading
        .unwrap_or_else(|error| (Reading::Failed(format!("{error}")), WriteSide::Open, last));
    let stopped = reading == Reading::Stopped;
    let read = flows.written_by(side.other()).read.load(SeqCst);
    drop(io);
    let on_purpose = *on_purpose.borrow();
    let left = stopped && writing == Writing::Closed;
    let dropped = writing == Writing::Stopped || stopped && writing != Writing::Closed;
    Outcome {
        left: on_purpose && left,
        dropped: on_purpose && dropped,
        given_up: !on_purpose && (left || dropped),
        reading,
        writing,
        read,
        write_side,
        last,
    }
}

/// This side lets go of the stream, or somebody has given it up.
async fn enough(enough: Arc<watch::Sender<bool>>, flows: Arc<Flows>) {
    let mut enough = enough.subscribe();
    tokio::select! {
        _ = enough.wait_for(|enough| *enough) => {}
        () = flows.given_up() => {}
    }
}

async fn write(half: &mut Half, mut ended: watch::Receiver<bool>) -> Writing {
    if half.plan.answers {
        let _ = ended.wait_for(|ended| *ended).await;
    }
    match write_all(half).await {
        Ok(()) => {}
        Err(error) => return Writing::Failed(format!("{error:?}")),
    }
    if let Ends::DropsWriting(_) = half.plan.ends {
        half.enough.send_replace(true);
        return Writing::Stopped;
    }
    if half.plan.closes_last {
        let _ = ended.wait_for(|ended| *ended).await;
    }
    let closed = poll_fn(|cx| {
        let mut io = half.io();
        io.write_side = WriteSide::Closed;
        half.flows.written_by(half.side).closing.store(true, SeqCst);
        Pin::new(&mut io.stream).poll_close(cx)
    });
    match closed.await {
        Ok(()) => {}
        Err(error) => return Writing::Failed(format!("closing: {error:?}")),
    }
    half.flows.progressed();
    if half.plan.ends == Ends::Leaving {
        half.enough.send_replace(true);
    }
    Writing::Closed
}

async fn write_all(half: &mut Half) -> io::Result<()> {
    let flows = half.flows.clone();
    let flow = flows.written_by(half.side);
    let bytes = match half.plan.ends {
        Ends::DropsWriting(bytes) => bytes,
        _ => half.plan.bytes,
    };
    let mut at = 0;
    let mut buf = Vec::new();
    while at < bytes {
        let piece = half.random.size(half.plan.piece).min(bytes - at);
        buf.resize(usize::try_from(piece).unwrap_or(usize::MAX), 0);
        flow.content.fill(at, &mut buf);
        flow.offered.store(at + piece, SeqCst);
        let mut rest = &buf[..];
        while !rest.is_empty() {
            let n = poll_fn(|cx| {
                let mut io = half.io();
                let written = ready!(Pin::new(&mut io.stream).poll_write(cx, rest));
                if !matches!(written, Ok(1..)) {
                    io.write_side = WriteSide::Failed;
                }
                Poll::Ready(written)
            })
            .await?;
            if n == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            rest = &rest[n..];
            at += n as u64;
            flow.written.store(at, SeqCst);
            flows.progressed();
        }
        if half.random.chance(half.plan.flushes) {
            poll_fn(|cx| Pin::new(&mut half.io().stream).poll_flush(cx)).await?;
        }
        if half.random.chance(half.plan.yields) {
            tokio::task::yield_now().await;
        }
        half.pause(half.plan.pauses).await;
    }
    Ok(())
}

async fn read(half: &mut Half) -> (Reading, WriteSide, Option<ConnectionKey>) {
    let flows = half.flows.clone();
    let flow = flows.written_by(half.side.other());
    let most = half.plan.buffer;
    let mut buf = vec![0; usize::try_from(most).unwrap_or(usize::MAX)];
    if let Some(long) = half.plan.sleeps {
        tokio::time::sleep(long).await;
    }
    loop {
        let wanted = usize::try_from(half.random.size(most)).unwrap_or(1);
        // Looked at while nobody closes or writes.
        let (read, write_side, last) = poll_fn(|cx| {
            let mut io = half.io();
            let read = ready!(Pin::new(&mut io.stream).poll_read(cx, &mut buf[..wanted]));
            Poll::Ready((read, io.write_side, io.stream.connection()))
        })
        .await;
        flows.progressed();
        let reading = match read {
            Ok(0) => Reading::End,
            Err(error) => Reading::Failed(format!("{error:?}")),
            Ok(n) => match check(flow, &buf[..n]) {
                Some(position) => Reading::Wrong(position),
                None if let_go(half, flow) => Reading::Stopped,
                None => {
                    half.pause(half.plan.read_pauses).await;
                    continue;
                }
            },
        };
        return (reading, write_side, last);
    }
}

/// Where the bytes that were read next are not what was written.
fn check(flow: &Flow, bytes: &[u8]) -> Option<u64> {
    let at = flow.read.load(SeqCst);
    let wrong = flow.content.differs(at, bytes);
    let end = at + bytes.len() as u64;
    let offered = flow.offered.load(SeqCst);
    flow.read.store(end, SeqCst);
    wrong.or((end > offered).then_some(offered))
}

fn let_go(half: &Half, flow: &Flow) -> bool {
    let enough = match half.plan.ends {
        Ends::DropsReading(bytes) => flow.read.load(SeqCst) >= bytes,
        _ => false,
    };
    if enough {
        half.enough.send_replace(true);
    }
    enough
}
