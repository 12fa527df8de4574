//! Legs in memory, counted, and the crate's own stream over them: everything but swarm and muxer.

use std::{
    collections::VecDeque,
    io::{self, Read},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures::{AsyncRead, AsyncWrite, FutureExt};

use crate::{
    key::{ConnectionKey, StreamKey},
    machine::{Setup, Speech, StreamId, Verdict},
    protocol::codec::{self, Request},
    stream::{self, Budget, Drive, Migratable, Note, Shared, Timeouts},
};

/// Fits between a writer and its reader.
const WINDOW: usize = 256 * 1024;

/// One direction.
#[derive(Debug)]
struct Pipe {
    bytes: VecDeque<u8>,
    closed: bool,
    carried: u64,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    fn new(window: usize) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            bytes: VecDeque::with_capacity(window),
            closed: false,
            carried: 0,
            reader: None,
            writer: None,
        }))
    }
}

fn lock(pipe: &Mutex<Pipe>) -> MutexGuard<'_, Pipe> {
    pipe.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// One end of a leg.
#[derive(Debug)]
pub struct End {
    incoming: Arc<Mutex<Pipe>>,
    outgoing: Arc<Mutex<Pipe>>,
    window: usize,
}

impl End {
    /// A leg's two ends.
    pub fn pair() -> (Self, Self) {
        Self::with_window(WINDOW)
    }

    pub fn with_window(window: usize) -> (Self, Self) {
        let (there, back) = (Pipe::new(window), Pipe::new(window));
        let end = |incoming: &Arc<_>, outgoing: &Arc<_>| Self {
            incoming: Arc::clone(incoming),
            outgoing: Arc::clone(outgoing),
            window,
        };
        (end(&back, &there), end(&there, &back))
    }

    /// What tells how much the leg has carried, both ways, after it is gone, too.
    pub fn meter(&self) -> impl Fn() -> u64 + use<> {
        let pipes = [self.incoming.clone(), self.outgoing.clone()];
        move || pipes.iter().map(|pipe| lock(pipe).carried).sum()
    }
}

impl AsyncRead for End {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut pipe = lock(&self.incoming);
        if pipe.bytes.is_empty() && !pipe.closed {
            pipe.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let n = pipe.bytes.read(buf)?;
        let writer = pipe.writer.take();
        drop(pipe);
        wake(writer);
        Poll::Ready(Ok(n))
    }
}

impl AsyncWrite for End {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut pipe = lock(&self.outgoing);
        let n = buf.len().min(self.window - pipe.bytes.len());
        if n == 0 && !buf.is_empty() {
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        pipe.bytes.extend(&buf[..n]);
        pipe.carried += n as u64;
        let reader = pipe.reader.take();
        drop(pipe);
        wake(reader);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pipe = lock(&self.outgoing);
        pipe.closed = true;
        let reader = pipe.reader.take();
        drop(pipe);
        wake(reader);
        Poll::Ready(Ok(()))
    }
}

/// Without any stream behind it that could be woken.
pub fn context() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// Both sides of a stream of ours.
pub struct Sides<L: stream::Io> {
    pub opener: Side<L>,
    pub acceptor: Side<L>,
}

pub struct Side<L: stream::Io> {
    pub io: Migratable<L>,
    shared: Arc<Shared<L>>,
    drive: Option<Drive<L>>,
    lingering: Vec<stream::Leg<L>>,
    completed: usize,
}

/// A stream's shared part on this leg, labelled already.
pub fn shared<L: stream::Io>(
    key: StreamKey,
    id: StreamId,
    leg: stream::Leg<L>,
    budget: Budget,
) -> Arc<Shared<L>> {
    let setup = Setup {
        designated: key == StreamKey::new(0),
        verify: true,
        peer_verifies: false,
        speech: Speech::No,
        opener: key == StreamKey::new(0),
        keeps: false,
    };
    Shared::new(key, id, setup, leg, None, budget, Arc::default())
}

impl<L: stream::Io> Sides<L> {
    pub fn new((opener, acceptor): (L, L)) -> Self {
        let side = |key, leg| {
            let leg = stream::Leg::new(leg, ConnectionKey::new(0), stream::LegKind::Yamux);
            let budget = Budget::new(1 << 20, 1 << 26);
            let shared = shared(StreamKey::new(key), StreamId(0), leg, budget);
            Side {
                io: Migratable::new(shared.clone()),
                shared,
                drive: None,
                lingering: Vec::new(),
                completed: 0,
            }
        };
        Self {
            opener: side(0, opener),
            acceptor: side(1, acceptor),
        }
    }

    /// Moves the stream onto this leg, on which the prefix has been agreed; all of it, to the end.
    pub fn migrate(&mut self, id: u64, (opener, acceptor): (L, L)) {
        let id = StreamId(id);
        let leg = stream::Leg::new(opener, ConnectionKey::new(1), stream::LegKind::Yamux);
        assert!(self.opener.shared.start(leg, id).is_ok(), "it may start");
        let mut acceptor = Some(acceptor);
        for _ in 0..1000 {
            self.opener.work();
            if let Some(mut leg) = acceptor.take() {
                match codec::read(&mut leg).now_or_never() {
                    Some(Ok(Request::Migrate { id, from, verify })) => {
                        let leg =
                            stream::Leg::new(leg, ConnectionKey::new(1), stream::LegKind::Yamux);
                        let moved = self.acceptor.shared.migrate(leg, id, from, verify);
                        assert!(moved.is_ok(), "it is not over");
                    }
                    Some(other) => panic!("{other:?} instead of a Migrate"),
                    None => acceptor = Some(leg),
                }
            }
            self.acceptor.work();
            if self.opener.completed > 0 && self.acceptor.completed > 0 {
                self.opener.completed = 0;
                self.acceptor.completed = 0;
                return;
            }
        }
        panic!("the migration does not end");
    }
}

impl<L: stream::Io> Side<L> {
    fn work(&mut self) {
        for note in self.shared.take_notes() {
            match note {
                Note::Ask { question, .. } => {
                    self.shared.verdict(question, Verdict::Accept);
                }
                Note::Completed(_) => self.completed += 1,
                _ => {}
            }
        }
        self.lingering.extend(self.shared.take_lingering());
        if self.shared.claim_drive() {
            let hour = Duration::from_secs(3600);
            let timeouts = Timeouts {
                answer: hour,
                progress: hour,
                explain: hour,
                resume: hour,
            };
            self.drive = Some(Drive::new(self.shared.clone(), timeouts));
        }
        if let Some(drive) = &mut self.drive
            && Pin::new(drive).poll(&mut context()).is_ready()
        {
            self.drive = None;
        }
    }
}

/// Writes a piece and reads it again, once.
pub fn pass(
    writer: &mut (impl AsyncWrite + Unpin),
    reader: &mut (impl AsyncRead + Unpin),
    piece: &[u8],
    buf: &mut [u8],
) {
    let mut cx = context();
    let mut left = piece;
    while !left.is_empty() {
        match Pin::new(&mut *writer).poll_write(&mut cx, left) {
            Poll::Ready(Ok(n)) => left = &left[n..],
            other => panic!("{other:?}"),
        }
    }
    let mut missing = piece.len();
    while missing > 0 {
        match Pin::new(&mut *reader).poll_read(&mut cx, buf) {
            Poll::Ready(Ok(n @ 1..)) => missing -= n,
            other => panic!("{other:?}"),
        }
    }
}
