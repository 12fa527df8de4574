//! An offer that the application does not wait for, and what happens if the answer is no.
//!
//! Identify cannot say whether the remote serves the protocol *inside* the prefix: a handler of another
//! kind there may serve it. So what the application writes before the answer is kept, and after a no it
//! is written again on a plain stream (*Opening*).

use std::{
    fmt, io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Wake, Waker, ready},
};

use futures::{AsyncRead, AsyncWrite, task::AtomicWaker};
use libp2p_swarm::{Stream, StreamProtocol};

use super::{Answer, Reader};
use crate::{
    key::ConnectionKey,
    migratable::{Migratable, Shared},
    open_error::OpenStreamError,
    substream::Substream,
};

type SwarmShared = Shared<Substream>;
type SwarmMigratable = Migratable<Substream>;

/// Limits what is kept of the application's writes until the remote has answered; then writes wait.
const MAX_KEPT: usize = 64 << 10;

/// The party that polls an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Poller {
    Reader,
    Writer,
    /// The behaviour, which goes on though the application polls nothing.
    Driver,
}

/// Everybody who may wait for an offer. A leg keeps only the last waker per direction, and here each of
/// the three may read or write it: so whatever is woken wakes all.
#[derive(Debug, Default)]
struct Wakers {
    reader: AtomicWaker,
    writer: AtomicWaker,
    driver: AtomicWaker,
}

impl Wakers {
    fn of(&self, side: Poller) -> &AtomicWaker {
        match side {
            Poller::Reader => &self.reader,
            Poller::Writer => &self.writer,
            Poller::Driver => &self.driver,
        }
    }
}

impl Wake for Wakers {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        for side in [Poller::Reader, Poller::Writer, Poller::Driver] {
            self.of(side).wake();
        }
    }
}

/// An offer that the application does not wait for, until it is settled; shared by the stream that the
/// application holds and the behaviour. After that, nobody has it any more.
pub(crate) struct Pending {
    shared: Arc<SwarmShared>,
    /// Protects what becomes of the offer. Held around polls of the stream, because application and
    /// behaviour share it, and taken before the stream's own lock; never held while anybody is told.
    state: Mutex<State>,
    wakers: Arc<Wakers>,
}

enum State {
    /// An offer that is not answered.
    Waiting {
        io: Box<SwarmMigratable>,
        reader: Reader,
        kept: Kept,
    },
    /// The answer was no: a plain stream is being opened.
    Reopening { kept: Kept, _held: Held },
    /// A refused offer: what was kept is being written to the plain stream.
    Rewriting {
        io: Box<Stream>,
        connection: ConnectionKey,
        at: usize,
        kept: Kept,
        closed: bool,
    },
    /// A settled offer, for the application to take.
    Settled(Settled),
    /// An offer that is taken, or that nobody wants any more.
    Gone,
}

impl State {
    /// The application's doings, until the offer is settled.
    fn kept(&mut self) -> Option<&mut Kept> {
        match self {
            Self::Waiting { kept, .. }
            | Self::Reopening { kept, .. }
            | Self::Rewriting { kept, .. } => Some(kept),
            Self::Settled(_) | Self::Gone => None,
        }
    }
}

/// The application's doings.
#[derive(Debug, Default)]
struct Kept {
    bytes: Vec<u8>,
    /// The write side is closed.
    closed: bool,
    /// The stream was dropped after that; what was written is still to be delivered.
    detached: bool,
}

impl Kept {
    fn room(&self) -> usize {
        MAX_KEPT - self.bytes.len()
    }
}

/// The result of an offer.
pub(crate) enum Settled {
    /// The remote has agreed.
    Agreed(Box<SwarmMigratable>),
    /// The remote serves the protocol on plain streams only.
    Plain {
        io: Box<Stream>,
        connection: ConnectionKey,
        sent: u64,
        closed: bool,
    },
    /// A failure.
    Failed(io::Error),
}

/// The driver's next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Driven {
    /// No step: the offer is settled.
    Settled,
    /// Open a plain stream.
    Refused,
}

impl Pending {
    /// An offer that has been written on this stream.
    pub(crate) fn new(
        io: SwarmMigratable,
        shared: Arc<SwarmShared>,
        protocol: StreamProtocol,
    ) -> Arc<Self> {
        Arc::new(Self {
            shared,
            state: Mutex::new(State::Waiting {
                io: Box::new(io),
                reader: Reader::new(protocol),
                kept: Kept::default(),
            }),
            wakers: Arc::default(),
        })
    }

    /// The connection on which the stream is, or was when it was refused.
    pub(crate) fn connection(&self) -> Option<ConnectionKey> {
        self.shared.status().connection
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts another state in the place of this one, tells everybody, and drops the old without the lock.
    fn put(&self, mut guard: MutexGuard<'_, State>, state: State) {
        let old = std::mem::replace(&mut *guard, state);
        drop(guard);
        drop(old);
        self.wakers.wake_by_ref();
    }

    /// Goes on as far as possible. Ready once it is settled, or waits for the driver to open a stream.
    fn poll_on(&self, side: Poller, cx: &mut Context<'_>) -> Poll<Driven> {
        loop {
            let mut guard = self.lock();
            match &mut *guard {
                State::Settled(_) | State::Gone => return Poll::Ready(Driven::Settled),
                State::Reopening { .. } => return Poll::Ready(Driven::Refused),
                State::Waiting { io, reader, .. } => {
                    let answer = ready!(reader.poll(io, cx));
                    self.answered(guard, answer);
                }
                State::Rewriting {
                    io,
                    at,
                    kept,
                    closed,
                    ..
                } => {
                    let result = ready!(poll_rewrite(io, at, kept, closed, cx));
                    if result.is_ok() && kept.closed && !kept.detached && side != Poller::Reader {
                        // Whoever reads has it then; if nobody will, the driver does.
                        return Poll::Pending;
                    }
                    self.rewritten(guard, result);
                }
            }
        }
    }

    fn answered(&self, mut guard: MutexGuard<'_, State>, answer: io::Result<Answer>) {
        let State::Waiting { io, kept, .. } = std::mem::replace(&mut *guard, State::Gone) else {
            return;
        };
        match answer {
            Ok(Answer::Yes) => {
                self.shared.set_unanswered(false);
                self.settle(guard, &kept, Settled::Agreed(io));
            }
            Ok(Answer::No) => {
                let held = let_go(&self.shared, *io);
                self.put(guard, State::Reopening { kept, _held: held });
            }
            Err(error) => {
                self.put(guard, State::Settled(Settled::Failed(error)));
                drop(io);
            }
        }
    }

    fn rewritten(&self, mut guard: MutexGuard<'_, State>, result: io::Result<()>) {
        let State::Rewriting {
            io,
            connection,
            kept,
            ..
        } = std::mem::replace(&mut *guard, State::Gone)
        else {
            return;
        };
        let settled = match result {
            Ok(()) => Settled::Plain {
                io,
                connection,
                sent: kept.bytes.len() as u64,
                closed: kept.closed,
            },
            Err(error) => Settled::Failed(error),
        };
        self.settle(guard, &kept, settled);
    }

    /// Hands it to the application. Nobody takes what is detached.
    fn settle(&self, guard: MutexGuard<'_, State>, kept: &Kept, settled: Settled) {
        match kept.detached {
            false => self.put(guard, State::Settled(settled)),
            true => {
                drop(guard);
                drop(settled);
            }
        }
    }

    /// Runs `poll` with a waker that wakes everybody.
    fn with_wakers<T>(
        &self,
        side: Poller,
        cx: &Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> T,
    ) -> T {
        self.wakers.of(side).register(cx.waker());
        let waker = Waker::from(self.wakers.clone());
        poll(&mut Context::from_waker(&waker))
    }

    /// The behaviour's poll.
    pub(crate) fn poll_drive(&self, cx: &Context<'_>) -> Poll<Driven> {
        self.with_wakers(Poller::Driver, cx, |cx| self.poll_on(Poller::Driver, cx))
    }

    /// The application's: ready once it is settled, and then it has it.
    pub(crate) fn poll_settled(&self, side: Poller, cx: &Context<'_>) -> Poll<Settled> {
        if self.with_wakers(side, cx, |cx| self.poll_on(side, cx)) != Poll::Ready(Driven::Settled) {
            return Poll::Pending;
        }
        match std::mem::replace(&mut *self.lock(), State::Gone) {
            State::Settled(settled) => Poll::Ready(settled),
            _ => Poll::Ready(Settled::Failed(io::ErrorKind::NotConnected.into())),
        }
    }

    /// Writes while it is not settled. An error of the stream is not the writer's before the answer is
    /// there: whoever refuses may let go of the stream at once.
    pub(crate) fn poll_write(&self, cx: &Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.lock();
        if state.kept().is_some_and(|kept| kept.closed) {
            let message = "the stream was closed for writing";
            let error = io::Error::new(io::ErrorKind::BrokenPipe, message);
            return Poll::Ready(Err(error));
        }
        self.with_wakers(Poller::Writer, cx, |cx| {
            let (io, kept) = match &mut *state {
                State::Waiting { io, kept, .. } => (Some(io), kept),
                State::Reopening { kept, .. } | State::Rewriting { kept, .. } => (None, kept),
                State::Settled(_) | State::Gone => return Poll::Pending,
            };
            let mut n = kept.room().min(buf.len());
            if n == 0 && !buf.is_empty() {
                return Poll::Pending;
            }
            if let Some(io) = io {
                match ready!(Pin::new(&mut **io).poll_write(cx, &buf[..n])) {
                    Ok(written) => n = written,
                    Err(_) => return Poll::Pending,
                }
            }
            kept.bytes.extend_from_slice(&buf[..n]);
            Poll::Ready(Ok(n))
        })
    }

    pub(crate) fn poll_flush(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        self.with_wakers(Poller::Writer, cx, |cx| match &mut *self.lock() {
            State::Waiting { io, .. } => match ready!(Pin::new(&mut **io).poll_flush(cx)) {
                Ok(()) => Poll::Ready(Ok(())),
                Err(_) => Poll::Pending,
            },
            _ => Poll::Pending,
        })
    }

    pub(crate) fn poll_close(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.lock();
        if state.kept().is_some_and(|kept| kept.closed) {
            return Poll::Ready(Ok(()));
        }
        self.with_wakers(Poller::Writer, cx, |cx| match &mut *state {
            State::Waiting { io, kept, .. } => match ready!(Pin::new(&mut **io).poll_close(cx)) {
                Ok(()) => {
                    kept.closed = true;
                    Poll::Ready(Ok(()))
                }
                Err(_) => Poll::Pending,
            },
            _ => Poll::Pending,
        })
    }

    /// The application has dropped the stream. What it has closed is still delivered, as the driver does.
    pub(crate) fn let_go(&self) {
        let mut guard = self.lock();
        match guard.kept() {
            Some(kept) if kept.closed => {
                kept.detached = true;
                drop(guard);
                self.wakers.driver.wake();
            }
            _ => self.put(guard, State::Gone),
        }
    }

    /// The driver has waited long enough for the answer on behalf of nobody.
    pub(crate) fn give_up(&self) {
        self.put(self.lock(), State::Gone);
    }

    /// True if the application has let go of it.
    pub(crate) fn is_detached(&self) -> bool {
        self.lock().kept().is_some_and(|kept| kept.detached)
    }

    /// The bytes that the application has written, if the stream is, or will be, a plain one.
    pub(crate) fn plain_sent(&self) -> Option<u64> {
        match &*self.lock() {
            State::Reopening { kept, .. } | State::Rewriting { kept, .. } => {
                Some(kept.bytes.len() as u64)
            }
            State::Settled(Settled::Plain { sent, .. }) => Some(*sent),
            State::Waiting { .. } | State::Settled(_) | State::Gone => None,
        }
    }

    fn reopened(&self, result: Result<(Stream, ConnectionKey), OpenStreamError>) {
        let mut guard = self.lock();
        let State::Reopening { kept, .. } = &mut *guard else {
            // Nobody waits for it.
            drop(guard);
            return;
        };
        let state = match result {
            Ok((io, connection)) => State::Rewriting {
                io: Box::new(io),
                connection,
                at: 0,
                kept: std::mem::take(kept),
                closed: false,
            },
            Err(_) if kept.detached => State::Gone,
            Err(error) => State::Settled(Settled::Failed(error.into())),
        };
        self.put(guard, state);
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").finish_non_exhaustive()
    }
}

/// Writes again what was kept, and closes the stream if that was closed; then reads it to its end if
/// nobody else will.
fn poll_rewrite(
    io: &mut Stream,
    at: &mut usize,
    kept: &Kept,
    closed: &mut bool,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    let mut io = Pin::new(io);
    while *at < kept.bytes.len() {
        match ready!(io.as_mut().poll_write(cx, &kept.bytes[*at..]))? {
            0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            n => *at += n,
        }
    }
    if !*closed {
        ready!(io.as_mut().poll_flush(cx))?;
        if kept.closed {
            ready!(io.as_mut().poll_close(cx))?;
            *closed = true;
        }
    }
    // If the swarm negotiates lazily, the remote has still to answer, which over QUIC would fail if
    // nobody were there to read it, and what it has not read would go with it.
    let mut buf = [0; 256];
    while kept.detached && ready!(io.as_mut().poll_read(cx, &mut buf))? > 0 {}
    Poll::Ready(Ok(()))
}

/// The rest of a labelled stream that came to nothing. It keeps its connection until there is
/// another: a connection that nobody uses is closed at once, if its idle timeout is zero.
pub(crate) struct Held {
    _leg: Box<dyn Send>,
}

impl Held {
    pub(crate) fn new(leg: impl Send + 'static) -> Self {
        Self {
            _leg: Box::new(leg),
        }
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").finish_non_exhaustive()
    }
}

/// Ends a labelled stream whose protocol the remote has refused: in order, if that can be.
pub(crate) fn let_go(shared: &SwarmShared, io: SwarmMigratable) -> Held {
    match shared.dissolve() {
        Some(leg) => Held::new(leg),
        None => Held::new(io),
    }
}

/// A plain stream that is being opened for an offer that was refused. Dropped without it, it says so.
#[derive(Debug)]
pub(crate) struct Reopening(Arc<Pending>);

impl Reopening {
    pub(crate) fn new(pending: Arc<Pending>) -> Self {
        Self(pending)
    }

    /// Returns what has to be driven now.
    pub(crate) fn reopened(
        self,
        result: Result<(Stream, ConnectionKey), OpenStreamError>,
    ) -> Arc<Pending> {
        self.0.reopened(result);
        self.0.clone()
    }

    /// True if nobody waits for it any more.
    pub(crate) fn is_canceled(&self) -> bool {
        matches!(*self.0.lock(), State::Gone)
    }
}

impl Drop for Reopening {
    fn drop(&mut self) {
        let message = "the connection is gone";
        let error = io::Error::new(io::ErrorKind::ConnectionReset, message);
        self.0.reopened(Err(error.into()));
    }
}
