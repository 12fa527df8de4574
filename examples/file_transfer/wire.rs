//! The protocol, `/file-transfer/1.0.0`.
//!
//! A frame is one byte that tells its kind, the length of its body in four bytes, and the body.
//! Numbers are big-endian; paths are UTF-8 as `path.rs` has them, and take what is left of their
//! body.
//!
//! ```text
//!  sender                                                                       receiver
//!     │ ── 1 Offer: files (8), directories (8), bytes (8), name ───────────────▶ │
//!     │ ◀──────────────────────────────────────────────────────────── 2 Accept ─ │
//!     │ ── 3 Directory: path ──────────────────────────────────────────────────▶ │ each before
//!     │ ── 4 File: length (8), path ───────────────────────────────────────────▶ │ what is in it
//!     │ ── 5 Data: up to 64 KiB, as many as it takes ──────────────────────────▶ │
//!     │ ── 6 Hash: SHA-256 of the file (32) ───────────────────────────────────▶ │
//!     │ ── 7 End: SHA-256 of everything (32) ──────────────────────────────────▶ │ verifies
//!     │ ◀──────────────────── 8 Done: bytes (8), SHA-256 of everything (32) ──── │
//!     │ ◀──────────────────────────────────────────────────────────────── FIN ── │
//!     │ ── FIN ────────────────────────────────────────────────────────────────▶ │
//! ```
//!
//! Either side may say `9 Failed: reason` instead, and then closes. Everything has a length or is
//! counted, so that a stream which ends early cannot pass for one that is complete.
//!
//! "Everything" is the one file; or the kind (`d`, `f`), the path's length (8) and path of each
//! entry, and of a file its length (8) and SHA-256, in their order here.

use std::io;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::StreamProtocol;

use crate::{path::MAX_PATH, tally::Hash};

pub const PROTOCOL: StreamProtocol = StreamProtocol::new("/file-transfer/1.0.0");

/// The most in one `Data`.
pub const MAX_DATA: usize = 64 * 1024;
/// The longest reason.
const MAX_REASON: usize = 1024;
const NUMBER: usize = 8;
const HASH: usize = 32;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    Offer(Offer),
    Accept,
    Directory(String),
    File { path: String, length: u64 },
    Data(Vec<u8>),
    Hash(Hash),
    End(Hash),
    Done { bytes: u64, hash: Hash },
    Failed(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    pub files: u64,
    pub directories: u64,
    pub bytes: u64,
    pub name: String,
}

/// Why there is no frame.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("the stream ended in the middle of the transfer")]
    Ended,
    #[error("the stream failed")]
    Io(#[source] io::Error),
    #[error("a frame of kind {kind} and {length} bytes was received, where {limit} are the limit")]
    TooLong { kind: u8, length: u32, limit: usize },
    #[error("a frame of kind {0} was received, which this protocol does not have")]
    Kind(u8),
    #[error("a frame of kind {0} was received whose body is malformed")]
    Malformed(u8),
}

impl Frame {
    fn kind(&self) -> u8 {
        match self {
            Self::Offer(_) => 1,
            Self::Accept => 2,
            Self::Directory(_) => 3,
            Self::File { .. } => 4,
            Self::Data(_) => 5,
            Self::Hash(_) => 6,
            Self::End(_) => 7,
            Self::Done { .. } => 8,
            Self::Failed(_) => 9,
        }
    }

    /// What kind it is, for an error.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Offer(_) => "Offer",
            Self::Accept => "Accept",
            Self::Directory(_) => "Directory",
            Self::File { .. } => "File",
            Self::Data(_) => "Data",
            Self::Hash(_) => "Hash",
            Self::End(_) => "End",
            Self::Done { .. } => "Done",
            Self::Failed(_) => "Failed",
        }
    }

    fn encode(self) -> Vec<u8> {
        let mut bytes = vec![self.kind(), 0, 0, 0, 0];
        match self {
            Self::Offer(offer) => {
                for number in [offer.files, offer.directories, offer.bytes] {
                    bytes.extend(number.to_be_bytes());
                }
                bytes.extend(offer.name.into_bytes());
            }
            Self::Accept => {}
            Self::Directory(path) => bytes.extend(path.into_bytes()),
            Self::File { path, length } => {
                bytes.extend(length.to_be_bytes());
                bytes.extend(path.into_bytes());
            }
            Self::Data(data) => bytes.extend(data),
            Self::Hash(hash) | Self::End(hash) => bytes.extend(hash),
            Self::Done { bytes: count, hash } => {
                bytes.extend(count.to_be_bytes());
                bytes.extend(hash);
            }
            Self::Failed(reason) => {
                let reason = reason.as_bytes();
                bytes.extend(&reason[..reason.len().min(MAX_REASON)]);
            }
        }
        let length = (bytes.len() - 5) as u32;
        bytes[1..5].copy_from_slice(&length.to_be_bytes());
        bytes
    }

    /// The shortest and the longest body of a kind.
    fn limits(kind: u8) -> Option<(usize, usize)> {
        Some(match kind {
            1 => (3 * NUMBER, 3 * NUMBER + MAX_PATH),
            2 => (0, 0),
            3 => (0, MAX_PATH),
            4 => (NUMBER, NUMBER + MAX_PATH),
            5 => (1, MAX_DATA),
            6 | 7 => (HASH, HASH),
            8 => (NUMBER + HASH, NUMBER + HASH),
            9 => (0, MAX_REASON),
            _ => return None,
        })
    }

    fn decode(kind: u8, body: Vec<u8>) -> Option<Self> {
        let mut rest = &body[..];
        let mut number = || {
            let (number, after) = rest.split_first_chunk::<NUMBER>()?;
            rest = after;
            Some(u64::from_be_bytes(*number))
        };
        Some(match kind {
            1 => Self::Offer(Offer {
                files: number()?,
                directories: number()?,
                bytes: number()?,
                name: text(rest)?,
            }),
            2 => Self::Accept,
            3 => Self::Directory(text(rest)?),
            4 => Self::File {
                length: number()?,
                path: text(rest)?,
            },
            5 => Self::Data(body),
            6 => Self::Hash(rest.try_into().ok()?),
            7 => Self::End(rest.try_into().ok()?),
            8 => Self::Done {
                bytes: number()?,
                hash: rest.try_into().ok()?,
            },
            9 => {
                // To be shown to somebody: without what plays with a terminal.
                let reason = String::from_utf8_lossy(rest);
                Self::Failed(reason.replace(char::is_control, " "))
            }
            _ => return None,
        })
    }
}

fn text(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}

pub async fn write(to: &mut (impl AsyncWrite + Unpin), frame: Frame) -> io::Result<()> {
    to.write_all(&frame.encode()).await
}

/// Reads one frame; allocates no more than its kind may have.
pub async fn read(from: &mut (impl AsyncRead + Unpin)) -> Result<Frame, WireError> {
    let mut header = [0; 5];
    exactly(from, &mut header).await?;
    let [kind, length @ ..] = header;
    let length = u32::from_be_bytes(length);
    let (least, limit) = Frame::limits(kind).ok_or(WireError::Kind(kind))?;
    let size = usize::try_from(length).unwrap_or(usize::MAX);
    if size > limit {
        return Err(WireError::TooLong {
            kind,
            length,
            limit,
        });
    }
    if size < least {
        return Err(WireError::Malformed(kind));
    }
    let mut body = vec![0; size];
    exactly(from, &mut body).await?;
    Frame::decode(kind, body).ok_or(WireError::Malformed(kind))
}

async fn exactly(from: &mut (impl AsyncRead + Unpin), to: &mut [u8]) -> Result<(), WireError> {
    from.read_exact(to)
        .await
        .map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => WireError::Ended,
            _ => WireError::Io(error),
        })
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, io::Cursor};

    use super::*;

    fn parse(bytes: &[u8]) -> Result<Frame, WireError> {
        read(&mut Cursor::new(bytes)).now_or_never().unwrap()
    }

    fn all() -> Vec<Frame> {
        vec![
            Frame::Offer(Offer {
                files: 1,
                directories: 2,
                bytes: u64::MAX,
                name: "ä".into(),
            }),
            Frame::Accept,
            Frame::Directory("a/b".into()),
            Frame::File {
                path: "a".into(),
                length: 3,
            },
            Frame::Data(vec![7; MAX_DATA]),
            Frame::Hash([1; 32]),
            Frame::End([2; 32]),
            Frame::Done {
                bytes: 4,
                hash: [3; 32],
            },
            Frame::Failed("why".into()),
        ]
    }

    #[test]
    fn frames_survive_the_wire_and_a_cut_one_is_an_end() {
        for frame in all() {
            let bytes = frame.clone().encode();
            assert_eq!(parse(&bytes).unwrap(), frame);
            for cut in [0, 1, 4, bytes.len() - 1] {
                let error = parse(&bytes[..cut]).unwrap_err();
                assert!(matches!(error, WireError::Ended), "{error}");
            }
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_anything_is_read() {
        for kind in 1..=9 {
            let (least, limit) = Frame::limits(kind).unwrap();
            for length in [limit as u32 + 1, u32::MAX] {
                let header = [&[kind][..], &length.to_be_bytes()].concat();
                let error = parse(&header).unwrap_err();
                assert!(matches!(error, WireError::TooLong { .. }), "{error}");
            }
            if least > 0 {
                let error = parse(&[kind, 0, 0, 0, 0]).unwrap_err();
                assert!(matches!(error, WireError::Malformed(_)), "{error}");
            }
        }
        assert!(matches!(parse(&[0; 5]), Err(WireError::Kind(0))));
        assert!(matches!(parse(&[10, 0, 0, 0, 0]), Err(WireError::Kind(10))));
        let path = [3, 0, 0, 0, 1, 0xff];
        assert!(matches!(parse(&path), Err(WireError::Malformed(3))));
    }

    #[test]
    fn a_reason_is_shortened_and_cannot_play_with_a_terminal() {
        let bytes = Frame::Failed(format!("\u{1b}{}", "ß".repeat(MAX_REASON))).encode();
        let Frame::Failed(reason) = parse(&bytes).unwrap() else {
            panic!("another frame");
        };
        assert!(reason.starts_with(" ß") && !reason.contains(char::is_control));
    }
}
