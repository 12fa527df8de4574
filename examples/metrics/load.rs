//! What the streams carry: a pattern that comes back, and is checked.

use std::{io, time::Duration};

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p_stream_migration::Stream;
use tokio::sync::watch;

/// Written at a time, with a pause after each; a stream carries some MiB/s each way.
const BLOCK: u64 = 8 << 10;

/// Sends back whatever comes.
pub async fn echo(stream: Stream) -> io::Result<()> {
    let (reader, mut writer) = stream.split();
    futures::io::copy(reader, &mut writer).await?;
    writer.close().await
}

/// Writes until there is enough, reads the echo meanwhile, and returns how many bytes have not come
/// back as they were.
pub async fn talk(stream: Stream, seed: u64, enough: watch::Receiver<bool>) -> io::Result<u64> {
    let (mut reader, mut writer) = stream.split();
    let write = async {
        let mut written = 0;
        while !*enough.borrow() {
            let block: Vec<_> = (written..written + BLOCK)
                .map(|at| byte(seed, at))
                .collect();
            writer.write_all(&block).await?;
            writer.flush().await?;
            written += BLOCK;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        writer.close().await?;
        Ok::<_, io::Error>(written)
    };
    let read = async {
        let (mut at, mut right, mut buf) = (0, 0, [0; BLOCK as usize]);
        loop {
            let read = reader.read(&mut buf).await?;
            if read == 0 {
                return Ok((at, right));
            }
            let expected = (at..).map(|at| byte(seed, at));
            let same = buf[..read].iter().zip(expected).filter(|(a, b)| **a == *b);
            right += same.count() as u64;
            at += read as u64;
        }
    };
    let (written, (came, right)) = futures::try_join!(write, read)?;
    // What came twice is as wrong as what did not come.
    Ok(written.max(came) - right)
}

/// The byte at a place: neighbours differ, and so do streams.
fn byte(seed: u64, at: u64) -> u8 {
    ((at ^ at >> 8 ^ at >> 16).wrapping_mul(167) ^ seed) as u8
}
