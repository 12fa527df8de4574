//! Looks at inbound substreams of a link: the header and the first proposal are read, and not a byte more.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use futures::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use super::io::{Physical, Replayed};
use crate::protocol::{
    self,
    codec::{self, ReadError, Request},
};

const HEADER: &[u8] = b"/multistream/1.0.0\n";

/// The header as it is on the wire.
const HEADER_LINE: &[u8] = b"\x13/multistream/1.0.0\n";

/// The longest line that is looked at; a longer one is none of ours.
const LONGEST: usize = 1024;

/// Names of the layer's own protocols.
pub(super) const LINK: &str = "/libp2p/stream-migration/link/1.0.0";
pub(super) const CONTROL: &str = protocol::CONTROL_NAME;

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
pub(super) async fn peek(io: Physical) -> Peeked {
    look(io).await.unwrap_or(Peeked::Gone)
}

async fn look(mut io: Physical) -> io::Result<Peeked> {
    let mut before = Vec::new();
    let mut said = 0;
    let name = loop {
        match proposal(&before) {
            Ok(name) => break [LINK, CONTROL].into_iter().find(|it| *it == name),
            Err(NoProposal::None) => break None,
            Err(NoProposal::Missing(missing)) => {
                // Who waits for our header before it proposes anything, gets it.
                if before == HEADER_LINE {
                    if peek_byte(&mut io, &mut before).await? {
                        continue;
                    }
                    say(&mut io, &[HEADER_LINE]).await?;
                    said = HEADER_LINE.len();
                }
                let at = before.len();
                before.resize(at + missing, 0);
                io.read_exact(&mut before[at..]).await?;
            }
        }
    };
    let Some(name) = name else {
        return Ok(Peeked::Plain(Replayed { io, before, said }));
    };
    let length = [u8::try_from(name.len() + 1).unwrap_or(u8::MAX)];
    let header = &HEADER_LINE[said..];
    say(&mut io, &[header, &length, name.as_bytes(), b"\n"]).await?;
    if name == CONTROL {
        return Ok(Peeked::Control(io.leg()));
    }
    match codec::read::<Request>(&mut io).await {
        Ok(request) => Ok(Peeked::Leg(io.leg(), request)),
        Err(error @ ReadError::Io(_)) => {
            tracing::debug!(%error, "no first message on a leg");
            Ok(Peeked::Gone)
        }
        Err(_) => Ok(Peeked::Violation),
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

/// Why there is no proposal in the first bytes of a negotiation's side.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoProposal {
    /// Not yet: so many bytes are missing at least.
    Missing(usize),
    /// No negotiation, or a line that is too long for one of ours.
    None,
}

/// The first proposal in the first bytes of a negotiation's side.
pub(super) fn proposal(bytes: &[u8]) -> Result<&str, NoProposal> {
    let (header, rest) = line(bytes)?;
    if header != HEADER {
        return Err(NoProposal::None);
    }
    let (proposal, _) = line(rest)?;
    let name = proposal.strip_suffix(b"\n").ok_or(NoProposal::None)?;
    std::str::from_utf8(name).map_err(|_| NoProposal::None)
}

/// The first line and the rest, if it is complete.
fn line(bytes: &[u8]) -> Result<(&[u8], &[u8]), NoProposal> {
    match unsigned_varint::decode::usize(bytes) {
        Ok((length, _)) if length > LONGEST => Err(NoProposal::None),
        Ok((length, rest)) => rest
            .split_at_checked(length)
            .ok_or_else(|| NoProposal::Missing(length - rest.len())),
        Err(unsigned_varint::decode::Error::Insufficient) if bytes.len() < 2 => {
            Err(NoProposal::Missing(1))
        }
        Err(_) => Err(NoProposal::None),
    }
}
