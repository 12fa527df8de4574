//! What an acceptor reads first: arbitrary bytes, in arbitrary pieces, ending in any way.

use std::{
    fmt::Debug,
    io, mem,
    pin::Pin,
    task::{Context, Poll},
};

use futures::{AsyncRead, FutureExt, task::noop_waker_ref};

use super::{
    Source,
    reference::{Opinion, Reference},
};
use crate::protocol::codec::{
    self, Ack, MAX_MESSAGE, Message, ReadError, Reader, Request, Switched,
};

/// The longest length that the cap allows, and the length itself.
const MOST: usize = 2 + MAX_MESSAGE;

/// The first byte says what is read and how the bytes end, the next sixteen how they are split, and
/// the rest are the bytes.
pub(crate) fn acceptor(data: &[u8]) {
    let mut source = Source(data);
    let flags = source.byte();
    let pieces = std::array::from_fn(|_| source.byte());
    let end = match flags & 3 {
        0 => End::Eof,
        1 => End::Error,
        _ => End::Never,
    };
    let bytes = source.rest();
    match flags >> 2 & 3 {
        0 | 1 => check::<Request>(bytes, pieces, end),
        2 => check::<Ack>(bytes, pieces, end),
        _ => check::<Switched>(bytes, pieces, end),
    }
}

/// Only reads, as [`acceptor`] does: for whoever counts what that allocates.
pub(crate) fn read_all(bytes: &[u8]) {
    let mut io = Pieces::new(bytes, [0; 16], End::Eof);
    let _ = poll_through::<Request>(&mut Reader::default(), &mut io);
    let _ = codec::read::<Request>(&mut Pieces::new(bytes, [255; 16], End::Eof)).now_or_never();
}

/// What a message is, going by its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected<M> {
    Message(Option<M>),
    /// Whatever the decoder makes of it.
    Unusual,
    TooLong(usize),
    BadLength,
    /// The bytes end within it.
    Short,
}

/// What is expected, and after how many bytes.
fn expect<M: Reference>(bytes: &[u8]) -> (Expected<M>, usize) {
    let Some(last) = bytes.iter().take(3).position(|byte| byte & 0x80 == 0) else {
        return match bytes.len() {
            0..3 => (Expected::Short, bytes.len()),
            _ => (Expected::BadLength, 3),
        };
    };
    let prefix = last + 1;
    let length = bytes[..prefix]
        .iter()
        .rev()
        .fold(0, |length, byte| length << 7 | usize::from(byte & 0x7f));
    if prefix > 1 && bytes[last] == 0 {
        return (Expected::BadLength, prefix);
    }
    if length > MAX_MESSAGE {
        return (Expected::TooLong(length), prefix);
    }
    match bytes.get(prefix..prefix + length) {
        None => (Expected::Short, bytes.len()),
        Some(body) => {
            let expected = match M::opinion(body) {
                Opinion::Is(message) => Expected::Message(Some(message)),
                Opinion::IsNot | Opinion::Broken => Expected::Message(None),
                Opinion::Unusual => Expected::Unusual,
            };
            (expected, prefix + length)
        }
    }
}

fn check<M>(bytes: &[u8], pieces: [u8; 16], end: End)
where
    M: Message + Reference + Copy + PartialEq + Debug,
{
    let mut whole = Pieces::new(bytes, [255; 16], end);
    let at_once = codec::read::<M>(&mut whole).now_or_never();
    let first = judge(bytes, end, at_once, whole.taken);

    // The same leg may carry several messages, and one reader reads them.
    let mut reader = Reader::default();
    let mut io = Pieces::new(bytes, pieces, end);
    let mut start = 0;
    loop {
        let result = poll_through::<M>(&mut reader, &mut io);
        let message = judge(&bytes[start..], end, result, io.taken - start);
        if start == 0 {
            assert_eq!((message, io.taken), (first, whole.taken));
        }
        if message.is_none() || io.taken == bytes.len() {
            return;
        }
        start = io.taken;
    }
}

/// Compares what was read with what should have been; a message, if one came.
fn judge<M>(bytes: &[u8], end: End, result: Option<Result<M, ReadError>>, taken: usize) -> Option<M>
where
    M: Message + Reference + Copy + PartialEq + Debug,
{
    let (expected, length) = expect::<M>(bytes);
    assert_eq!(taken, length, "{expected:?}, {result:?}");
    assert!(taken <= MOST);
    match (expected, result) {
        (Expected::Message(Some(message)), Some(Ok(read))) => {
            assert_eq!(message, read);
            again(read)
        }
        (Expected::Unusual, Some(Ok(read))) => again(read),
        (
            Expected::Message(None) | Expected::Unusual,
            Some(Err(ReadError::Malformed | ReadError::Missing(_))),
        )
        | (Expected::BadLength, Some(Err(ReadError::Malformed))) => None,
        (Expected::TooLong(length), Some(Err(ReadError::TooLong(said)))) => {
            assert_eq!(length, said);
            None
        }
        (Expected::Short, Some(Err(ReadError::Io(_)))) if end != End::Never => None,
        (Expected::Short, None) if end == End::Never => None,
        (expected, result) => panic!("{expected:?}, but {result:?}"),
    }
}

fn again<M: Message + PartialEq + Debug>(message: M) -> Option<M> {
    let decoded = M::decode(&message.encode()).ok();
    assert_eq!(decoded.as_ref(), Some(&message));
    decoded
}

/// Polls until the reader is ready, or nothing more will come.
fn poll_through<M: Message>(
    reader: &mut Reader,
    io: &mut Pieces<'_>,
) -> Option<Result<M, ReadError>> {
    let mut cx = Context::from_waker(noop_waker_ref());
    // Each piece has at least a byte, and comes after at most one wait.
    for _ in 0..=2 * MOST {
        io.waiting = false;
        if let Poll::Ready(result) = reader.poll_read::<M>(io, &mut cx) {
            return Some(result);
        }
        assert!(io.waiting, "nothing will wake the reader");
        if io.is_over() {
            return None;
        }
    }
    panic!("the reader never ends");
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Eof,
    Error,
    Never,
}

/// Bytes that come in pieces.
struct Pieces<'a> {
    bytes: &'a [u8],
    taken: usize,
    /// The sizes of pieces, over and over. A zero is a wait.
    pieces: [u8; 16],
    next: usize,
    end: End,
    waited: bool,
    waiting: bool,
}

impl<'a> Pieces<'a> {
    fn new(bytes: &'a [u8], pieces: [u8; 16], end: End) -> Self {
        Self {
            bytes,
            taken: 0,
            pieces,
            next: 0,
            end,
            waited: false,
            waiting: false,
        }
    }

    fn is_over(&self) -> bool {
        self.taken == self.bytes.len() && self.end == End::Never && !self.waited
    }
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        assert!(!buf.is_empty() && buf.len() <= MAX_MESSAGE);
        let left = &self.bytes[self.taken..];
        if left.is_empty() {
            self.waited = false;
            return match self.end {
                End::Eof => Poll::Ready(Ok(0)),
                End::Error => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                End::Never => {
                    self.waiting = true;
                    Poll::Pending
                }
            };
        }
        let piece = usize::from(self.pieces[self.next % 16]);
        if piece == 0 && !mem::replace(&mut self.waited, true) {
            self.waiting = true;
            return Poll::Pending;
        }
        let n = piece.clamp(1, buf.len()).min(left.len());
        buf[..n].copy_from_slice(&left[..n]);
        self.next += 1;
        self.taken += n;
        self.waited = false;
        Poll::Ready(Ok(n))
    }
}
