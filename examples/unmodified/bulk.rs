//! Much data at once: the large response of request-response, and the stream of `libp2p-stream`.
//!
//! Both are sent slowly until the relayed connection is gone, or there would be nothing left to go
//! the new way; and compared, byte by byte, as they come.

use std::{io, time::Duration};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{StreamProtocol, request_response};

use crate::{
    course::{Course, Stage},
    payload::{Check, Source},
    tally::{Book, Protocol, Side},
};

const CHUNK: u64 = 64 * 1024;
const PACE: Duration = Duration::from_millis(4);
/// So many chunks make a whole, as long as the relayed connection is there: 4 s.
const PIECES: u64 = 1024;
/// The last quarter comes so much slower.
const SLOWLY: u64 = 16;

/// Sends all of it, and leaves the stream open.
pub async fn send(
    io: &mut (impl AsyncWrite + Unpin),
    source: Source,
    total: u64,
    course: &Course,
) -> io::Result<()> {
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut at = 0;
    while at < total {
        let chunk = if course.stage() == Stage::Alone {
            CHUNK
        } else {
            pace.tick().await;
            let slowly = if at < total / 4 * 3 { 1 } else { SLOWLY };
            // Positions are multiples of 8.
            (total / PIECES / slowly / 8 * 8).max(8)
        };
        let chunk = chunk.min(total - at);
        io.write_all(&source.bytes(at, chunk)).await?;
        io.flush().await?;
        at += chunk;
    }
    Ok(())
}

/// Reads to the end, and compares.
pub async fn receive(
    io: &mut (impl AsyncRead + Unpin),
    source: Source,
    total: u64,
    (book, protocol): (&Book, Protocol),
) -> io::Result<()> {
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut check = Check::new(source, total);
    let mut buf = vec![0; CHUNK as usize];
    loop {
        let n = io.read(&mut buf).await?;
        if n == 0 {
            break;
        }
        let found = check.read(&buf[..n]);
        book.line(protocol, |line| {
            line.received(found.new);
            line.doubled += found.doubled;
        });
        if found.foreign > 0 {
            return Err(invalid("bytes that nobody has sent".to_owned()));
        }
    }
    match check.at_the_end() {
        true => Ok(()),
        false => Err(invalid("it ends too early, and looks complete".to_owned())),
    }
}

/// The codec of a request for so many bytes, and of the response: just these bytes.
#[derive(Clone)]
pub struct Codec {
    pub seed: u64,
    pub book: Book,
    pub course: Course,
}

impl Codec {
    fn of(&self, side: Side) -> Source {
        Source::new(self.seed, Protocol::Response, side)
    }
}

impl request_response::Codec for Codec {
    type Protocol = StreamProtocol;
    type Request = u64;
    type Response = u64;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<u64>
    where
        T: AsyncRead + Unpin + Send,
    {
        let mut total = [0; 8];
        io.read_exact(&mut total).await?;
        Ok(u64::from_be_bytes(total))
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<u64>
    where
        T: AsyncRead + Unpin + Send,
    {
        let mut total = [0; 8];
        io.read_exact(&mut total).await?;
        let total = u64::from_be_bytes(total);
        let source = self.of(self.book.side.other());
        receive(io, source, total, (&self.book, Protocol::Response)).await?;
        Ok(total)
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        total: u64,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&total.to_be_bytes()).await
    }

    async fn write_response<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        total: u64,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&total.to_be_bytes()).await?;
        send(io, self.of(self.book.side), total, &self.course).await
    }
}

pub const STREAM: StreamProtocol = StreamProtocol::new("/unmodified/stream/1.0.0");

/// Sends so many bytes over a stream and receives as many, both at once.
pub async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send,
    (seed, total): (u64, u64),
    book: &Book,
    course: &Course,
) {
    let of = |side| Source::new(seed, Protocol::Stream, side);
    let (mut reader, mut writer) = stream.split();
    let sending = async {
        let sent = async {
            send(&mut writer, of(book.side), total, course).await?;
            writer.close().await
        };
        if let Err(error) = sent.await {
            book.line(Protocol::Stream, |line| {
                line.error(format!("sending: {error}"))
            });
        }
    };
    let receiving = async {
        book.line(Protocol::Stream, |line| line.sent = total);
        let source = of(book.side.other());
        let received = receive(&mut reader, source, total, (book, Protocol::Stream)).await;
        book.line(Protocol::Stream, |line| {
            line.ended(received.err().map(|error| format!("receiving: {error}")));
        });
    };
    futures::join!(sending, receiving);
}
