//! Bytes by position, both ways at once, paced until the stream has moved, checked at the other
//! end.
//!
//! On the wire: the dialer says how many bytes each direction carries (8 bytes, big-endian); then
//! each side sends that many and the SHA-256 of them. The dialer closes; the listener, when it has
//! read that, says what it received, and closes.

use std::{
    io,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::StreamProtocol;
use libp2p_stream_migration::Stream;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;

pub const PROTOCOL: StreamProtocol = StreamProtocol::new("/relay-to-direct/1.0.0");

const CHUNK: usize = 64 * 1024;
const WORD: usize = 8;
const HASH: usize = 32;
const RECEIPT: usize = 5 * 8;
/// 64 KiB every 4 ms: 16 MiB/s.
const PACE: Duration = Duration::from_millis(4);
/// How long the last quarter waits for the switch, all in all.
const PATIENCE: Duration = Duration::from_secs(30);
/// An odd factor, so that the word of every position is another one, and tells its position.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// What the two sides of a transfer, and whoever watches it, share.
#[derive(Debug, Default)]
pub struct Progress {
    pub sent: AtomicU64,
    pub received: AtomicU64,
    /// Some more was received.
    pub news: Notify,
    /// The stream has moved: from now on flat out.
    pub switched: AtomicBool,
    /// The path that it has moved to.
    pub path: OnceLock<String>,
}

/// What one direction's receiver has seen.
#[derive(Debug, Default, Clone)]
pub struct Received {
    pub bytes: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub sha256_match: bool,
    /// The longest time between two arrivals.
    pub longest_gap: Duration,
    /// When how many bytes were there; known to the receiver only.
    pub arrivals: Vec<(Instant, u64)>,
}

impl Received {
    /// The listener's word on it: five numbers of 8 bytes, big-endian.
    fn to_receipt(&self) -> Vec<u8> {
        let gap = u64::try_from(self.longest_gap.as_micros()).unwrap_or(u64::MAX);
        [
            self.bytes,
            self.lost,
            self.duplicated,
            self.sha256_match.into(),
            gap,
        ]
        .map(u64::to_be_bytes)
        .concat()
    }

    fn from_receipt(bytes: &[u8]) -> Option<Self> {
        let [received, lost, duplicated, matches, gap] = bytes.as_chunks::<8>().0 else {
            return None;
        };
        Some(Self {
            bytes: u64::from_be_bytes(*received),
            lost: u64::from_be_bytes(*lost),
            duplicated: u64::from_be_bytes(*duplicated),
            sha256_match: u64::from_be_bytes(*matches) == 1,
            longest_gap: Duration::from_micros(u64::from_be_bytes(*gap)),
            arrivals: Vec::new(),
        })
    }
}

/// The longest time between two arrivals.
pub fn longest_gap(arrivals: &[(Instant, u64)]) -> Duration {
    let gaps = arrivals.windows(2).map(|pair| pair[1].0 - pair[0].0);
    gaps.max().unwrap_or_default()
}

/// One side's result.
#[derive(Debug)]
pub struct Outcome {
    pub sent: u64,
    pub received: Received,
    /// What the other side says that it received; the dialer gets to know it.
    pub receipt: Option<Received>,
    /// All the stream's bytes, the negotiation of its protocol included.
    pub bytes_out: u64,
    pub bytes_in: u64,
    /// How many of them come before the first that counts: the negotiation, and the total.
    pub lead_out: u64,
    pub lead_in: u64,
}

/// Runs one side. `total` is the dialer's to say.
pub async fn run(
    mut stream: Stream,
    total: Option<u64>,
    progress: &Progress,
) -> io::Result<Outcome> {
    let dialer = total.is_some();
    let (total, seeds) = match total {
        Some(total) => {
            stream.write_all(&total.to_be_bytes()).await?;
            stream.flush().await?;
            (total, (1, 2))
        }
        None => {
            let mut total = [0; 8];
            stream.read_exact(&mut total).await?;
            (u64::from_be_bytes(total), (2, 1))
        }
    };
    if total % WORD as u64 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a total of {total} bytes is not a multiple of {WORD}"),
        ));
    }
    let lead_out = stream.bytes_out();
    let (mut reader, mut writer) = stream.split();
    let sending = async {
        let sent = send(&mut writer, seeds.0, total, progress).await?;
        if dialer {
            writer.close().await?;
        }
        io::Result::Ok(sent)
    };
    let (sent, received) = futures::join!(sending, receive(&mut reader, seeds.1, total, progress));
    let (sent, (received, rest)) = (sent?, received?);
    let mut stream = reader.reunite(writer).map_err(io::Error::other)?;
    if !dialer {
        stream.write_all(&received.to_receipt()).await?;
        stream.close().await?;
    }
    let bytes_in = stream.bytes_in();
    let trailer = (HASH + rest.len()) as u64;
    Ok(Outcome {
        sent,
        lead_out,
        lead_in: bytes_in.saturating_sub(received.bytes + trailer),
        received,
        receipt: Received::from_receipt(&rest),
        bytes_out: stream.bytes_out(),
        bytes_in,
    })
}

fn word(seed: u64, index: u64) -> [u8; WORD] {
    (index.wrapping_add(seed << 48).wrapping_mul(FACTOR)).to_le_bytes()
}

async fn send(
    writer: &mut (impl AsyncWrite + Unpin),
    seed: u64,
    total: u64,
    progress: &Progress,
) -> io::Result<u64> {
    let mut hash = Sha256::new();
    let mut pace = tokio::time::interval(PACE);
    let mut patience = None;
    let mut at = 0;
    while at < total {
        // The last quarter waits for the switch, or there might be nothing left to go the new way.
        let last_quarter = at >= total / 4 * 3;
        while !progress.switched.load(Ordering::Relaxed) {
            pace.tick().await;
            if !last_quarter
                || Instant::now() > *patience.get_or_insert_with(|| Instant::now() + PATIENCE)
            {
                break;
            }
        }
        let length = (total - at).min(CHUNK as u64);
        let words = at / WORD as u64..(at + length) / WORD as u64;
        let chunk: Vec<u8> = words.flat_map(|index| word(seed, index)).collect();
        hash.update(&chunk);
        writer.write_all(&chunk).await?;
        at += length;
        progress.sent.store(at, Ordering::Relaxed);
    }
    writer.write_all(&hash.finalize()).await?;
    writer.flush().await?;
    Ok(at)
}

/// Reads to the end. Returns what came after the payload and its hash, too.
async fn receive(
    reader: &mut (impl AsyncRead + Unpin),
    seed: u64,
    total: u64,
    progress: &Progress,
) -> io::Result<(Received, Vec<u8>)> {
    let mut check = Check::new(seed, total / WORD as u64);
    let mut hash = Sha256::new();
    let mut received = Received::default();
    let mut trailer = Vec::new();
    let mut buf = vec![0; CHUNK];
    loop {
        let n = reader.read(&mut buf).await?;
        if n == 0 {
            break;
        }
        received.arrivals.push((Instant::now(), received.bytes));
        let payload = usize::try_from((total - received.bytes).min(n as u64)).unwrap_or(n);
        hash.update(&buf[..payload]);
        check.update(&buf[..payload]);
        received.bytes += payload as u64;
        trailer.extend_from_slice(&buf[payload..n]);
        if trailer.len() > HASH + RECEIPT {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "more bytes than were announced",
            ));
        }
        progress.received.store(received.bytes, Ordering::Relaxed);
        progress.news.notify_one();
    }
    received.lost = check.lost + (check.words - check.next) * WORD as u64;
    received.duplicated = check.duplicated;
    let digest = hash.finalize();
    received.sha256_match = trailer.starts_with(&digest);
    received.longest_gap = longest_gap(&received.arrivals);
    let rest = trailer.split_off(digest.len().min(trailer.len()));
    Ok((received, rest))
}

/// Compares what comes with what belongs at its position.
struct Check {
    /// The seed's part of every word, taken off before a word's position is told.
    base: u64,
    inverse: u64,
    words: u64,
    next: u64,
    lost: u64,
    duplicated: u64,
    partial: Vec<u8>,
}

impl Check {
    fn new(seed: u64, words: u64) -> Self {
        // Newton's iteration: each round doubles the number of right bits of the inverse modulo
        // 2^64.
        let mut inverse = FACTOR;
        for _ in 0..6 {
            inverse = inverse.wrapping_mul(2_u64.wrapping_sub(FACTOR.wrapping_mul(inverse)));
        }
        Self {
            base: seed << 48,
            inverse,
            words,
            next: 0,
            lost: 0,
            duplicated: 0,
            partial: Vec::new(),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        self.partial.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(word) = self.partial[at..].first_chunk() {
            let word = u64::from_le_bytes(*word);
            let index = word.wrapping_mul(self.inverse).wrapping_sub(self.base);
            if index >= self.words {
                // Not a word of ours, or not the beginning of one: look for the next.
                at += 1;
                continue;
            }
            at += WORD;
            if index < self.next {
                self.duplicated += WORD as u64;
            } else {
                self.lost += (index - self.next) * WORD as u64;
                self.next = index + 1;
            }
        }
        self.partial.drain(..at);
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;

    /// What the check says about these ranges of a pattern of `words` words.
    fn check(words: u64, ranges: &[std::ops::Range<usize>], pieces: usize) -> (u64, u64) {
        let pattern: Vec<u8> = (0..words).flat_map(|index| word(2, index)).collect();
        let bytes: Vec<u8> = ranges
            .iter()
            .flat_map(|r| pattern[r.clone()].to_vec())
            .collect();
        let mut check = Check::new(2, words);
        for piece in bytes.chunks(pieces) {
            check.update(piece);
        }
        (
            check.lost + (words - check.next) * WORD as u64,
            check.duplicated,
        )
    }

    #[test]
    fn what_is_missing_or_there_twice_is_counted_by_position() {
        for pieces in [1, 7, 8, 13, 4096] {
            assert_eq!(check(100, &[0..800], pieces), (0, 0));
            assert_eq!(check(100, &[0..80, 160..800], pieces), (80, 0));
            assert_eq!(check(100, &[0..160, 80..800], pieces), (0, 80));
            assert_eq!(check(100, &[0..640], pieces), (160, 0));
            assert_eq!(check(100, &[], pieces), (800, 0));
            // Words that are cut count as a whole.
            assert_eq!(check(100, &[0..83, 157..800], pieces), (80, 0));
        }
    }
}
