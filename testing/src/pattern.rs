//! A byte pattern that shows what is missing, repeated or misplaced.

use std::sync::atomic::{AtomicBool, Ordering};

use futures::{AsyncReadExt, AsyncWriteExt};

/// The byte at a position of a direction's pattern.
pub fn byte(seed: u64, position: u64) -> u8 {
    let mut z = (position / 8)
        .wrapping_add(seed)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^= z >> 27;
    z.to_le_bytes()[(position % 8) as usize]
}

fn pattern(seed: u64, from: u64, length: usize) -> Vec<u8> {
    (from..from + length as u64)
        .map(|position| byte(seed, position))
        .collect()
}

pub async fn write(io: &mut (impl AsyncWriteExt + Unpin), seed: u64, from: u64, to: u64) {
    let mut at = from;
    while at < to {
        let length = (to - at).min(16 * 1024) as usize;
        io.write_all(&pattern(seed, at, length)).await.unwrap();
        at += length as u64;
    }
    io.flush().await.unwrap();
}

pub async fn read(io: &mut (impl AsyncReadExt + Unpin), seed: u64, from: u64, to: u64) {
    let mut at = from;
    let mut buf = vec![0; 32 * 1024];
    while at < to {
        let wanted = buf.len().min((to - at) as usize);
        let n = io.read(&mut buf[..wanted]).await.unwrap();
        assert_ne!(n, 0, "the stream ends at {at} of {to}");
        assert_eq!(buf[..n], pattern(seed, at, n), "at {at}");
        at += n as u64;
    }
}

pub async fn read_end(io: &mut (impl AsyncReadExt + Unpin)) {
    assert_eq!(io.read(&mut [0]).await.unwrap(), 0, "more than was written");
}

/// Reads to the end; returns where it was.
pub async fn read_to_end(io: &mut (impl AsyncReadExt + Unpin), seed: u64, from: u64) -> u64 {
    let mut at = from;
    let mut buf = vec![0; 32 * 1024];
    loop {
        let n = io.read(&mut buf).await.unwrap();
        if n == 0 {
            return at;
        }
        assert_eq!(buf[..n], pattern(seed, at, n), "at {at}");
        at += n as u64;
    }
}

/// Writes until told to stop, and at least `least` bytes; returns how many.
pub async fn write_until(
    io: &mut (impl AsyncWriteExt + Unpin),
    seed: u64,
    least: u64,
    stop: &AtomicBool,
) -> u64 {
    let mut at = 0;
    while at < least || !stop.load(Ordering::Relaxed) {
        write(io, seed, at, at + 4096).await;
        at += 4096;
        tokio::task::yield_now().await;
    }
    at
}
