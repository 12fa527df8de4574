//! What is done with a stream's halves: writing the pattern, reading and checking it.

use std::{
    fmt::Write as _,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt,
    io::{ReadHalf, WriteHalf},
};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::{
    output::{Answer, Error, Kind, Reply},
    pattern,
};

/// A stream, migratable or plain.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

const CHUNK: usize = 64 * 1024;

#[derive(Debug)]
pub struct Read {
    pub seed: u32,
    /// How much; `None`: all up to the end.
    pub bytes: Option<u64>,
}

#[derive(Debug)]
pub enum Write {
    Pattern { seed: u32, bytes: u64 },
    Close,
}

/// Whatever it is, the stream is over.
fn reset(error: &io::Error) -> Error {
    Error::new(Kind::Reset, format!("{:?}: {error}", error.kind()))
}

/// Does what is asked of the write half.
pub async fn write(
    mut half: WriteHalf<Box<dyn Io>>,
    mut asked: mpsc::UnboundedReceiver<(Write, Reply)>,
    closed: Arc<AtomicBool>,
) {
    let mut position = 0;
    while let Some((write, reply)) = asked.recv().await {
        let answer = match write {
            Write::Pattern { seed, bytes } => {
                write_pattern(&mut half, seed, &mut position, bytes).await
            }
            Write::Close => half.close().await.map(|()| {
                closed.store(true, Ordering::Relaxed);
                json!({})
            }),
        };
        reply.send(answer.map_err(|error| reset(&error)));
    }
    // The stream is let go of when it is told to be, not when there is nothing more to do.
    std::future::pending::<()>().await;
}

async fn write_pattern(
    half: &mut WriteHalf<Box<dyn Io>>,
    seed: u32,
    position: &mut u64,
    bytes: u64,
) -> io::Result<serde_json::Value> {
    let end = *position + bytes;
    let mut buffer = vec![0; CHUNK];
    while *position < end {
        let length = (end - *position).min(CHUNK as u64) as usize;
        pattern::fill(&mut buffer[..length], seed, *position);
        half.write_all(&buffer[..length]).await?;
        *position += length as u64;
    }
    half.flush().await?;
    Ok(json!({ "written": bytes }))
}

/// Does what is asked of the read half.
pub async fn read(
    mut half: ReadHalf<Box<dyn Io>>,
    mut asked: mpsc::UnboundedReceiver<(Read, Reply)>,
) {
    let mut reader = Reader {
        position: 0,
        ended: false,
        buffer: vec![0; CHUNK],
    };
    while let Some((read, reply)) = asked.recv().await {
        reply.send(reader.read(&mut half, &read).await);
    }
    std::future::pending::<()>().await;
}

struct Reader {
    position: u64,
    ended: bool,
    buffer: Vec<u8>,
}

impl Reader {
    async fn read(&mut self, half: &mut ReadHalf<Box<dyn Io>>, asked: &Read) -> Answer {
        let mut digest = Sha256::new();
        let mut count = 0;
        while !self.ended && asked.bytes.is_none_or(|bytes| count < bytes) {
            let left = asked.bytes.map_or(u64::MAX, |bytes| bytes - count);
            let room = left.min(CHUNK as u64) as usize;
            let n = match half.read(&mut self.buffer[..room]).await {
                Ok(n) => n,
                Err(error) => {
                    let mut error = reset(&error);
                    let _ = write!(error.text, " (at byte {})", self.position);
                    return Err(error);
                }
            };
            let got = &self.buffer[..n];
            if let Some(at) = pattern::mismatch(got, asked.seed, self.position) {
                return Err(Error::new(Kind::Corrupt, format!("byte {at} is another")));
            }
            digest.update(got);
            count += n as u64;
            self.position += n as u64;
            self.ended = n == 0;
        }
        if asked.bytes.is_some_and(|bytes| count < bytes) {
            let text = format!("a clean end at byte {}", self.position);
            return Err(Error::new(Kind::Other, text));
        }
        let digest = digest.finalize();
        let hex = digest.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        Ok(json!({ "read": count, "sha256": hex, "eof": self.ended }))
    }
}
