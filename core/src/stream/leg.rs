//! A leg: one substream on one connection, with the messages that go before the application's
//! bytes.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use asynchronous_codec::BytesMut;
use tracing::Span;
use web_time::Instant;

use super::{
    Io, LegKind,
    kind::{WEBRTC_FRAME, WEBRTC_PACKET},
};
use crate::{
    key::ConnectionKey,
    machine::Proof,
    permits::Permit,
    protocol::codec::{self, Ack, Message, ReadError, Reader, Resumed},
};

/// Ends that are read again, in a row, before they are taken for one.
const MAX_REPEATED_ENDS: u32 = 16;

/// The messages that go before and between the application's bytes.
#[derive(Debug, Default)]
struct Talk {
    /// Messages that have to be written before anything else.
    queued: BytesMut,
    reader: Reader,
    /// Held while the `Migrate` that came on this leg is unanswered.
    permits: Vec<Permit>,
    /// The time at which the `Migrate` came.
    arrived: Option<Instant>,
}

/// A leg of a stream.
#[derive(Debug)]
pub struct Leg<L> {
    io: L,
    connection: ConnectionKey,
    kind: LegKind,
    /// The exchange of messages, while there is one: most legs say theirs and live on.
    talk: Option<Box<Talk>>,
    /// The bytes written since the last flush, where that becomes one packet.
    packed: u16,
    /// A message has to be flushed without the application's doing.
    unflushed: bool,
    closing: bool,
    closed: bool,
    /// Closing has failed; it is not tried again.
    close_failed: Option<io::ErrorKind>,
    /// A byte that was read to see whether there is one.
    peeked: Option<u8>,
    /// The remote's end has been read; the leg is not read again.
    ended: bool,
    /// True if the leg was not reset when it had ended.
    ended_well: bool,
    /// True if its end was read after we had closed it, so it is not likely to have been sent
    /// before our end was read.
    answered: bool,
    /// A read has failed, and with it everything: a lazily negotiated substream panics when it is used
    /// after that.
    broken: Option<io::ErrorKind>,
    /// The swarm has closed the connection.
    lost: bool,
    /// A message has been read that says that the remote has switched.
    heard: bool,
    read: u64,
    written: u64,
    /// The migration that it was opened for, in logs. Boxed: most legs have none.
    span: Option<Box<Span>>,
}

impl<L: Io> Leg<L> {
    pub fn new(io: L, connection: ConnectionKey, kind: LegKind) -> Self {
        Self {
            io,
            connection,
            kind,
            packed: 0,
            talk: None,
            unflushed: false,
            closing: false,
            closed: false,
            close_failed: None,
            peeked: None,
            ended: false,
            ended_well: false,
            answered: false,
            broken: None,
            lost: false,
            heard: false,
            read: 0,
            written: 0,
            span: None,
        }
    }

    /// Logs what happens in the migration that the leg is for in this span.
    pub fn set_span(&mut self, span: Span) {
        self.span = Some(Box::new(span));
    }

    pub(super) fn clear_span(&mut self) {
        self.span = None;
    }

    pub(super) fn span(&self) -> Span {
        self.span.as_deref().cloned().unwrap_or_else(Span::none)
    }

    fn talk(&mut self) -> &mut Talk {
        self.talk.get_or_insert_default()
    }

    /// Frees what nothing is left in.
    fn end_talk(&mut self) {
        self.talk.take_if(|talk| {
            talk.queued.is_empty() && talk.reader.is_idle() && talk.permits.is_empty()
        });
    }

    /// Holds these permits until the `Migrate` that came on this leg is answered.
    pub fn hold(&mut self, permits: Vec<Permit>) {
        let talk = self.talk();
        talk.permits = permits;
        talk.arrived = Some(Instant::now());
    }

    /// The time at which the `Migrate` came that holds permits.
    pub(super) fn arrived(&self) -> Option<Instant> {
        self.talk.as_ref()?.arrived
    }

    pub(super) fn answered(&mut self) {
        if let Some(talk) = &mut self.talk {
            talk.permits = Vec::new();
        }
        self.end_talk();
    }

    /// The substream, of which everything was flushed.
    pub fn into_io(self) -> L {
        self.io
    }

    pub fn connection(&self) -> ConnectionKey {
        self.connection
    }

    pub(super) fn kind(&self) -> LegKind {
        self.kind
    }

    /// Stream bytes that this leg has carried: out, in.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.written, self.read)
    }

    /// True if anything has been read: a message, data or the end.
    pub(super) fn has_heard(&self) -> bool {
        self.heard || self.ended || self.read > 0
    }

    /// Queues a message, to be written before the application's next byte.
    pub(super) fn queue(&mut self, message: &[u8]) {
        self.talk().queued.extend_from_slice(message);
    }

    pub(super) fn flush_soon(&mut self) {
        self.unflushed = true;
    }

    pub(super) fn give_up_flushing(&mut self) {
        self.unflushed = false;
    }

    pub(super) fn is_unflushed(&self) -> bool {
        self.unflushed
    }

    pub(super) fn has_queued(&self) -> bool {
        self.talk
            .as_ref()
            .is_some_and(|talk| !talk.queued.is_empty())
    }

    /// Closes the leg for writing, in the polls to come.
    pub(super) fn close(&mut self) {
        self.closing = true;
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing && !self.closed && self.close_failed.is_none()
    }

    /// The remote's count was read here.
    pub(super) fn set_heard(&mut self) {
        self.heard = true;
    }

    /// True if the remote's end has been read.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    pub(super) fn set_lost(&mut self) {
        self.lost = true;
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost
    }

    /// The loss of a connection that the swarm has closed: nothing will come any more, and yamux
    /// does not say so.
    fn or_lost<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match polled {
            Poll::Pending if self.lost => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
            polled => polled,
        }
    }

    fn usable(&self) -> io::Result<()> {
        match self.broken {
            Some(kind) => Err(kind.into()),
            None => Ok(()),
        }
    }

    /// Notes the end or the failure of a read.
    fn after_read(
        &mut self,
        polled: Poll<io::Result<usize>>,
        wanted: bool,
    ) -> Poll<io::Result<usize>> {
        let polled = self.or_lost(polled);
        match &polled {
            Poll::Ready(Ok(0)) if wanted => {
                self.ended = true;
                self.answered = self.closed;
            }
            Poll::Ready(Ok(n)) => self.read += *n as u64,
            Poll::Ready(Err(error)) => self.broken = Some(error.kind()),
            Poll::Pending => {}
        }
        polled
    }

    /// True if there is anything to be read, false at the end.
    pub(super) fn poll_peek(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.peeked.is_some() {
            return Poll::Ready(Ok(true));
        }
        let mut byte = [0];
        let polled = self.poll_read_by(true, |io| io.poll_read(cx, &mut byte));
        if let Poll::Ready(Ok(1)) = polled {
            self.peeked = Some(byte[0]);
            // It counts when it is asked for.
            self.read -= 1;
        }
        polled.map_ok(|n| n > 0)
    }

    /// Reads on after a byte that was peeked at.
    fn read_peeked(&mut self, byte: u8, cx: &mut Context<'_>, buf: &mut [u8]) -> usize {
        buf[0] = byte;
        self.peeked = None;
        self.read += 1;
        let more = match buf.len() {
            1 => 0,
            // An end or an error is told at the next read.
            _ => match self.poll_read(cx, &mut buf[1..]) {
                Poll::Ready(Ok(n)) => n,
                Poll::Ready(Err(_)) | Poll::Pending => 0,
            },
        };
        1 + more
    }

    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(byte) = self.peeked
            && !buf.is_empty()
        {
            return Poll::Ready(Ok(self.read_peeked(byte, cx, buf)));
        }
        self.poll_read_by(!buf.is_empty(), |io| io.poll_read(cx, buf))
    }

    pub(super) fn poll_read_vectored(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &mut [io::IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.peeked.is_some()
            && let Some(buf) = bufs.iter_mut().find(|buf| !buf.is_empty())
        {
            return self.poll_read(cx, buf);
        }
        let wanted = bufs.iter().any(|buf| !buf.is_empty());
        self.poll_read_by(wanted, |io| io.poll_read_vectored(cx, bufs))
    }

    fn poll_read_by(
        &mut self,
        wanted: bool,
        mut read: impl FnMut(Pin<&mut L>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if self.ended {
            return Poll::Ready(Ok(0));
        }
        self.usable()?;
        let mut polled = read(Pin::new(&mut self.io));
        if wanted && self.kind.repeats_ends() && matches!(polled, Poll::Ready(Ok(0))) {
            polled = self.poll_read_again(read);
        }
        self.after_read(polled, wanted)
    }

    /// The worth of an end on a leg that gives one for a FIN, a reset and every message without
    /// data: read again, a FIN is a broken pipe, a reset an error of its own, and otherwise the
    /// stream goes on.
    fn poll_read_again(
        &mut self,
        mut read: impl FnMut(Pin<&mut L>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        for _ in 0..MAX_REPEATED_ENDS {
            match read(Pin::new(&mut self.io)) {
                Poll::Ready(Ok(0)) => {}
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => break,
                // A FIN that comes while ours is being written is forgotten once it has been read.
                Poll::Pending if self.is_closing() => break,
                polled => return polled,
            }
        }
        Poll::Ready(Ok(0))
    }

    /// Reads one message and not a byte more. Its bytes are not the stream's and are not counted.
    pub fn poll_message<M: Message>(&mut self, cx: &mut Context<'_>) -> Poll<Result<M, ReadError>> {
        if self.ended {
            return Poll::Ready(Err(ReadError::Io(io::ErrorKind::UnexpectedEof.into())));
        }
        self.usable().map_err(ReadError::Io)?;
        let talk = self.talk.get_or_insert_default();
        let polled = talk.reader.poll_read(&mut self.io, cx);
        if polled.is_ready() {
            self.end_talk();
        }
        match polled {
            Poll::Pending if self.lost => {
                Poll::Ready(Err(ReadError::Io(io::ErrorKind::NotConnected.into())))
            }
            Poll::Ready(Err(ReadError::Io(error))) => {
                self.broken = Some(error.kind());
                Poll::Ready(Err(ReadError::Io(error)))
            }
            polled => polled,
        }
    }

    /// Writes what is queued.
    pub(super) fn poll_queued(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let queued = self.talk.as_ref().map_or(0, |talk| talk.queued.len());
            if queued == 0 {
                return Poll::Ready(Ok(()));
            }
            self.usable()?;
            ready!(self.poll_unpack(cx, queued))?;
            let talk = self.talk.get_or_insert_default();
            let polled = Pin::new(&mut self.io).poll_write(cx, &talk.queued);
            match ready!(self.or_lost(polled))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => {
                    drop(self.talk().queued.split_to(n));
                    self.pack(n);
                }
            }
            self.end_talk();
        }
    }

    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_queued(cx))?;
        self.usable()?;
        if self.kind.packs_writes() {
            return self.poll_write_packet(cx, bufs);
        }
        if !self.kind.takes_empty_writes() && bufs.iter().all(|buf| buf.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        let io = Pin::new(&mut self.io);
        let polled = match bufs {
            [buf] => io.poll_write(cx, buf),
            bufs => io.poll_write_vectored(cx, bufs),
        };
        let polled = self.or_lost(polled);
        if let Poll::Ready(Ok(n)) = polled {
            self.written += n as u64;
        }
        polled
    }

    /// Writes what fits into a packet of its own, or into that of what was written before.
    fn poll_write_packet(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Some(buf) = bufs.iter().find(|buf| !buf.is_empty()) else {
            return Poll::Ready(Ok(0));
        };
        let buf = &buf[..buf.len().min(WEBRTC_PACKET - WEBRTC_FRAME)];
        ready!(self.poll_unpack(cx, buf.len()))?;
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        let polled = self.or_lost(polled);
        if let Poll::Ready(Ok(n)) = polled {
            self.written += n as u64;
            self.pack(n);
        }
        polled
    }

    /// Counts what has been written that the next flush sends.
    fn pack(&mut self, n: usize) {
        if self.kind.packs_writes() {
            let framed = u16::try_from(n + WEBRTC_FRAME).unwrap_or(u16::MAX);
            self.packed = self.packed.saturating_add(framed);
        }
    }

    /// Sends what was written before, unless so much more fits into the same packet.
    fn poll_unpack(&mut self, cx: &mut Context<'_>, more: usize) -> Poll<io::Result<()>> {
        let fits = usize::from(self.packed) + more + WEBRTC_FRAME <= WEBRTC_PACKET;
        if self.packed == 0 || fits {
            return Poll::Ready(Ok(()));
        }
        let polled = Pin::new(&mut self.io).poll_flush(cx);
        ready!(self.or_lost(polled))?;
        self.packed = 0;
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.closed {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_queued(cx))?;
        self.usable()?;
        let polled = Pin::new(&mut self.io).poll_flush(cx);
        ready!(self.or_lost(polled))?;
        self.unflushed = false;
        self.packed = 0;
        Poll::Ready(Ok(()))
    }

    /// Flushes and closes the write side, once.
    pub(super) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.closed {
            return Poll::Ready(Ok(()));
        }
        if let Some(kind) = self.close_failed {
            return Poll::Ready(Err(kind.into()));
        }
        let result = ready!(self.poll_flush_and_close(cx));
        match &result {
            Ok(()) => self.closed = true,
            Err(error) => self.close_failed = Some(error.kind()),
        }
        Poll::Ready(result)
    }

    fn poll_flush_and_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        let polled = Pin::new(&mut self.io).poll_close(cx);
        self.or_lost(polled)
    }

    /// True if the remote's end came after ours.
    pub(super) fn is_answered(&self) -> bool {
        self.answered
    }

    /// True if anything can still be read.
    pub fn is_open(&self) -> bool {
        !self.ended && self.broken.is_none() && !self.lost
    }

    /// Throws away what comes, until the remote's end or the leg's.
    pub async fn discard(mut self) {
        poll_fn(|cx| {
            // One remote's bytes do not keep the others from being looked after.
            for _ in 0..16 {
                match ready!(self.poll_read(cx, &mut [0; 4096])) {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => return Poll::Ready(()),
                }
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    /// Answers a request for a stream to go on that was read on this leg, and closes it.
    pub async fn answer(mut self, answer: Resumed) -> io::Result<()> {
        self.queue(&codec::frame(&answer));
        poll_fn(|cx| self.poll_close(cx)).await
    }

    /// Refuses a `Migrate` that was read on this leg, for good.
    pub async fn deny(mut self) -> io::Result<()> {
        let deny = Ack {
            deny: true,
            verify: false,
        };
        self.queue(&codec::frame(&deny));
        poll_fn(|cx| self.poll_close(cx)).await
    }

    /// The empty write: whether an EOF that was just read is a FIN, as far as the write side can tell.
    ///
    /// yamux refuses a write on a stream that was reset or whose connection is lost *before* it looks
    /// at the send window, so a write that has to wait for window has been told that the stream is
    /// alive. It may also have to wait for room in the muxer's own queue, which says nothing; flushing
    /// first waits for that. QUIC looks at the connection's window first: there, waiting says nothing. On
    /// other kinds of leg an empty write may be anything, and is not made.
    pub(super) fn poll_empty_write(&mut self, cx: &mut Context<'_>) -> Poll<Proof> {
        if self.lost || self.broken.is_some() {
            return Poll::Ready(Proof::Disagrees);
        }
        if !self.kind.takes_empty_writes() {
            return Poll::Ready(Proof::Unavailable);
        }
        if ready!(self.poll_flush(cx)).is_err() {
            return Poll::Ready(Proof::Disagrees);
        }
        Poll::Ready(match Pin::new(&mut self.io).poll_write(cx, &[]) {
            Poll::Ready(Err(_)) => Proof::Disagrees,
            Poll::Pending if !self.kind.is_alive_if_it_waits() => return Poll::Pending,
            Poll::Ready(Ok(_)) | Poll::Pending => Proof::Agrees,
        })
    }

    /// Finds out whether the end that was read is a reset, on a leg that gives one for both. It is
    /// asked once: who has closed its side may drop it later, and then it takes nothing more.
    pub(super) fn poll_is_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.ended_well || !self.kind.is_ambiguous() {
            return Poll::Pending;
        }
        match ready!(self.poll_empty_write(cx)) {
            Proof::Disagrees => Poll::Ready(()),
            Proof::Agrees | Proof::Unavailable => {
                self.ended_well = true;
                Poll::Pending
            }
        }
    }
}
