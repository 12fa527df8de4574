//! A protocol that we have offered on a labelled stream: the offer, and the remote's answer.

mod pending;

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::AsyncRead;
use libp2p_swarm::StreamProtocol;

pub(crate) use self::pending::{Driven, Held, Pending, Poller, Reopening, Settled, let_go};

/// The longest line that multistream-select can carry in one message.
const MAX_LINE: usize = (1 << 14) - 1;

const HEADER: &[u8] = b"/multistream/1.0.0\n";
const NOT_AVAILABLE: &[u8] = b"na\n";

/// The remote's answer to an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Yes,
    No,
}

/// Appends a line of multistream-select.
fn push_line(to: &mut Vec<u8>, line: &[&[u8]]) {
    let length = line.iter().map(|part| part.len()).sum();
    let mut buffer = unsigned_varint::encode::usize_buffer();
    to.extend_from_slice(unsigned_varint::encode::usize(length, &mut buffer));
    for part in line {
        to.extend_from_slice(part);
    }
}

/// The offer of one protocol, as both versions of multistream-select write it.
pub(crate) fn offer(protocol: &StreamProtocol) -> io::Result<Vec<u8>> {
    if protocol.as_ref().len() >= MAX_LINE {
        let message = "the protocol's name is too long";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let mut offer = Vec::new();
    push_line(&mut offer, &[HEADER]);
    push_line(&mut offer, &[protocol.as_ref().as_bytes(), b"\n"]);
    Ok(offer)
}

/// Reads the answer to an offer, and not a byte more.
///
/// Not multistream-select's own future, to which the stream's end is a no: a remote that is full drops
/// the stream without a word, and serves the protocol all the same.
#[derive(Debug)]
pub(crate) struct Reader {
    protocol: StreamProtocol,
    /// The line that is being read: its length and what is there of it.
    seen: Vec<u8>,
    header_seen: bool,
}

impl Reader {
    pub(crate) fn new(protocol: StreamProtocol) -> Self {
        Self {
            protocol,
            seen: Vec::new(),
            header_seen: false,
        }
    }

    pub(crate) fn poll(
        &mut self,
        io: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Answer>> {
        loop {
            let wanted = match self.missing()? {
                0 => match self.line()? {
                    Some(answer) => return Poll::Ready(Ok(answer)),
                    None => continue,
                },
                wanted => wanted,
            };
            let mut buf = [0; 256];
            let wanted = wanted.min(buf.len());
            match ready!(Pin::new(&mut *io).poll_read(cx, &mut buf[..wanted]))? {
                0 => {
                    let message = "the stream ended before the remote answered the offer";
                    let error = io::Error::new(io::ErrorKind::UnexpectedEof, message);
                    return Poll::Ready(Err(error));
                }
                n => self.seen.extend_from_slice(&buf[..n]),
            }
        }
    }

    /// The bytes of the line that are still to come, as far as is known.
    fn missing(&self) -> io::Result<usize> {
        match unsigned_varint::decode::usize(&self.seen) {
            Ok((length, _)) if length > self.longest() => Err(invalid()),
            Ok((length, rest)) => Ok(length - rest.len()),
            Err(unsigned_varint::decode::Error::Insufficient) if self.seen.len() < 2 => Ok(1),
            Err(_) => Err(invalid()),
        }
    }

    /// No line that makes sense here is longer.
    fn longest(&self) -> usize {
        HEADER.len().max(self.protocol.as_ref().len() + 1)
    }

    /// The answer in a line that is complete.
    fn line(&mut self) -> io::Result<Option<Answer>> {
        let seen = std::mem::take(&mut self.seen);
        let (_, line) = unsigned_varint::decode::usize(&seen).map_err(|_| invalid())?;
        if !self.header_seen {
            self.header_seen = line == HEADER;
            return match self.header_seen {
                true => Ok(None),
                false => Err(invalid()),
            };
        }
        match line.strip_suffix(b"\n") {
            Some(name) if name == self.protocol.as_ref().as_bytes() => Ok(Some(Answer::Yes)),
            _ if line == NOT_AVAILABLE => Ok(Some(Answer::No)),
            _ => Err(invalid()),
        }
    }
}

fn invalid() -> io::Error {
    let message = "the remote's answer to the offer is none";
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, future::poll_fn, io::Cursor};

    use super::*;

    const PROTOCOL: StreamProtocol = StreamProtocol::new("/test/1.0.0");

    /// The answer, and how much was read for it.
    fn answer(bytes: &[u8]) -> (io::Result<Answer>, u64) {
        let mut io = Cursor::new(bytes);
        let mut reader = Reader::new(PROTOCOL);
        let polled = poll_fn(|cx| reader.poll(&mut io, cx)).now_or_never();
        (polled.expect("a cursor never waits"), io.position())
    }

    #[test]
    fn the_offer_is_that_of_multistream_select() {
        let offer = offer(&PROTOCOL).unwrap();
        assert_eq!(offer, b"\x13/multistream/1.0.0\n\x0c/test/1.0.0\n");
        let long = format!("/{}", "x".repeat(MAX_LINE));
        let long = StreamProtocol::try_from_owned(long).unwrap();
        assert!(super::offer(&long).is_err());
    }

    #[test]
    fn an_answer_is_yes_or_no_or_none() {
        let yes = b"\x13/multistream/1.0.0\n\x0c/test/1.0.0\nwhat follows";
        let (said, read) = answer(yes);
        assert_eq!((said.unwrap(), read), (Answer::Yes, 33));
        let (said, read) = answer(b"\x13/multistream/1.0.0\n\x03na\nwhat follows");
        assert_eq!((said.unwrap(), read), (Answer::No, 24));
        for length in 0..33 {
            let error = answer(&yes[..length]).0.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{length}");
        }
        for none in [
            &b"\x03na\n"[..],
            b"\x0c/test/1.0.0\n",
            b"\x00",
            b"\x13/multistream/1.0.0\n\x0c/test/2.0.0\n",
            b"\x13/multistream/1.0.0\n\x13/multistream/1.0.0\n",
            b"\x14",
            b"\xff\xff\xff",
            b"\x80\x00",
        ] {
            let error = answer(none).0.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{none:?}");
        }
    }
}
