//! Looks at inbound substreams of a link: the header and the first proposal are read, and not a byte more.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use futures::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use super::io::{Physical, Replayed};
use crate::protocol::codec::{self, ReadError, Request};

const HEADER: &[u8] = b"/multistream/1.0.0\n";

/// The header as it is on the wire.
const HEADER_LINE: &[u8] = b"\x13/multistream/1.0.0\n";

/// The longest line that is looked at; a longer one is none of ours.
const LONGEST: usize = 1024;

/// Names of the layer's own protocols.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names {
    pub(super) link: &'static str,
    pub(super) control: &'static str,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            link: "/libp2p/stream-migration/link/1.0.0",
            control: "/libp2p/stream-migration/control/1.0.0",
        }
    }
}

/// An inbound substream, once it is known what it is.
pub(super) enum Peeked {
    /// The remote's control substream.
    Control(Physical),
    /// A leg, with its first message.
    Leg(Physical, Request),
    /// A leg with something else in place of its first message.
    Violation,
    /// Somebody else's.
    Plain(Replayed),
    /// A substream that failed, or ended, before it said what it was.
    Gone,
}

/// Finds out what it is.
pub(super) async fn peek(mut io: Physical, names: Names) -> Peeked {
    let mut before = Vec::new();
    let mut said = 0;
    let plain = |io, before, said| Peeked::Plain(Replayed { io, before, said });
    match read_line(&mut io, &mut before).await {
        Ok(Some(line)) if line == HEADER => {}
        Ok(_) => return plain(io, before, said),
        Err(_) => return Peeked::Gone,
    }
    // Who waits for our header before it proposes anything, gets it.
    let Ok(there) = peek_byte(&mut io, &mut before).await else {
        return Peeked::Gone;
    };
    if !there {
        if say(&mut io, &[HEADER_LINE]).await.is_err() {
            return Peeked::Gone;
        }
        said = HEADER_LINE.len();
    }
    let line = match read_line(&mut io, &mut before).await {
        Ok(Some(line)) => line,
        Ok(None) => return plain(io, before, said),
        Err(_) => return Peeked::Gone,
    };
    let name = line.strip_suffix(b"\n");
    let ours = [names.link, names.control];
    let Some(name) = ours.into_iter().find(|it| name == Some(it.as_bytes())) else {
        return plain(io, before, said);
    };
    let length = [u8::try_from(name.len() + 1).unwrap_or(u8::MAX)];
    let header = &HEADER_LINE[said..];
    if say(&mut io, &[header, &length, name.as_bytes(), b"\n"])
        .await
        .is_err()
    {
        return Peeked::Gone;
    }
    if name == names.control {
        return Peeked::Control(io.leg());
    }
    match codec::read::<Request>(&mut io).await {
        Ok(request) => Peeked::Leg(io.leg(), request),
        Err(error @ ReadError::Io(_)) => {
            tracing::debug!(%error, "no first message on a leg");
            Peeked::Gone
        }
        Err(_) => Peeked::Violation,
    }
}

async fn say(io: &mut Physical, parts: &[&[u8]]) -> io::Result<()> {
    io.write_all(&parts.concat()).await?;
    io.flush().await
}

/// Reads one byte if it is there; false if nothing is.
async fn peek_byte(io: &mut Physical, before: &mut Vec<u8>) -> io::Result<bool> {
    let mut byte = [0];
    let polled =
        poll_fn(|cx: &mut Context<'_>| Poll::Ready(Pin::new(&mut *io).poll_read(cx, &mut byte)));
    match polled.await {
        Poll::Pending => Ok(false),
        Poll::Ready(Ok(0)) => Err(io::ErrorKind::UnexpectedEof.into()),
        Poll::Ready(Ok(_)) => {
            before.push(byte[0]);
            Ok(true)
        }
        Poll::Ready(Err(error)) => Err(error),
    }
}

/// Reads the next line, of which a byte may have been read already; `None` if it is none of ours, or too long.
async fn read_line(io: &mut Physical, before: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    let start = complete(before);
    loop {
        match unsigned_varint::decode::usize(&before[start..]) {
            Ok((length, _)) if length > LONGEST => return Ok(None),
            Ok((length, rest)) if length == rest.len() => return Ok(Some(rest.to_vec())),
            Ok((length, rest)) => {
                let at = before.len();
                before.resize(at + length - rest.len(), 0);
                io.read_exact(&mut before[at..]).await?;
            }
            Err(unsigned_varint::decode::Error::Insufficient) if before.len() - start < 2 => {
                let mut byte = [0];
                io.read_exact(&mut byte).await?;
                before.push(byte[0]);
            }
            Err(_) => return Ok(None),
        }
    }
}

/// The number of bytes in lines that are complete.
fn complete(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    while let Ok((length, line)) = unsigned_varint::decode::usize(rest)
        && line.len() >= length
    {
        rest = &line[length..];
    }
    bytes.len() - rest.len()
}

/// The meaning of lines of multistream-select.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Lines<'a> {
    /// No line is complete.
    Nothing,
    /// The header is there, and no proposal.
    Header,
    /// The first proposal.
    Proposal(&'a str),
    /// No negotiation.
    None,
}

/// Reads the first bytes of a negotiation's side.
pub(super) fn proposals(bytes: &[u8]) -> Lines<'_> {
    let (header, rest) = match line(bytes) {
        Ok(Some(it)) => it,
        Ok(None) => return Lines::Nothing,
        Err(NoLine) => return Lines::None,
    };
    if header != HEADER {
        return Lines::None;
    }
    let proposal = match line(rest) {
        Ok(Some((proposal, _))) => proposal,
        Ok(None) => return Lines::Header,
        Err(NoLine) => return Lines::None,
    };
    let name = proposal.strip_suffix(b"\n").map(std::str::from_utf8);
    match name {
        Some(Ok(name)) => Lines::Proposal(name),
        _ => Lines::None,
    }
}

/// No line of multistream-select, or too long for one of ours.
struct NoLine;

type Split<'a> = (&'a [u8], &'a [u8]);

/// The first line and the rest, if it is complete.
fn line(bytes: &[u8]) -> Result<Option<Split<'_>>, NoLine> {
    match unsigned_varint::decode::usize(bytes) {
        Ok((length, _)) if length > LONGEST => Err(NoLine),
        Ok((length, rest)) if rest.len() >= length => Ok(Some(rest.split_at(length))),
        Ok(_) => Ok(None),
        Err(unsigned_varint::decode::Error::Insufficient) => Ok(None),
        Err(_) => Err(NoLine),
    }
}
