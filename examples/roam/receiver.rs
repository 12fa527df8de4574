//! The receiver's process: reads what comes in one stream, and answers with a receipt.

use std::{
    error::Error,
    fmt::Write,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p_stream_migration::Stream;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    peer::{App, PROTOCOL, Peer},
    process::{Order, orders, report},
};

/// The length of a receipt: SHA-256, and the number of bytes.
pub const RECEIPT: usize = 32 + 8;

#[derive(Default)]
struct Receiver(Mutex<Reads>);

/// The times between reads.
#[derive(Default)]
struct Reads {
    bytes: u64,
    last: Option<Instant>,
    over: bool,
    mark: u64,
    /// Since the mark.
    longest: Duration,
    longest_of_all: Duration,
}

impl Reads {
    /// Notes the time since the last read, whether or not it goes on.
    fn look(&mut self, now: Instant) {
        if let (Some(last), false) = (self.last, self.over) {
            let gap = now.saturating_duration_since(last);
            self.longest = self.longest.max(gap);
            self.longest_of_all = self.longest_of_all.max(gap);
        }
    }
}

impl Receiver {
    fn reads<T>(&self, with: impl FnOnce(&mut Reads) -> T) -> T {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn has_read(&self, n: usize) {
        self.reads(|reads| {
            let now = Instant::now();
            reads.look(now);
            reads.last = Some(now);
            reads.bytes += n as u64;
        });
    }
}

impl App for Receiver {
    fn order(&self, order: Order) {
        match order {
            Order::Mark(mark) => self.reads(|reads| {
                (reads.mark, reads.longest) = (mark, Duration::ZERO);
            }),
            order => tracing::debug!(?order, "not for a receiver"),
        }
    }

    fn report(&self) -> Value {
        self.reads(|reads| {
            reads.look(Instant::now());
            json!({
                "bytes": reads.bytes,
                "mark": reads.mark,
                "pause_us": reads.longest.as_micros() as u64,
                "longest_pause_us": reads.longest_of_all.as_micros() as u64,
            })
        })
    }
}

pub async fn run() -> Result<(), Box<dyn Error>> {
    let mut peer = Peer::new()?;
    peer.listen("/ip4/127.0.0.1/udp/0/quic-v1")?;
    peer.listen("/ip4/127.0.0.1/tcp/0")?;
    let mut streams = peer.control.accept(PROTOCOL)?;
    let app = Arc::new(Receiver::default());
    let transfer = async {
        let (_, stream) = streams.next().await.ok_or("the node has stopped")?;
        receive(&app, stream).await?;
        // Until the conductor has had enough: the receipt may still be under way.
        std::future::pending::<Result<(), Box<dyn Error>>>().await
    };
    tokio::select! {
        done = peer.run(app.clone(), orders()) => done,
        done = transfer => done,
    }
}

async fn receive(app: &Receiver, mut stream: Stream) -> Result<(), Box<dyn Error>> {
    let mut total = [0; 8];
    stream.read_exact(&mut total).await?;
    let total = u64::from_be_bytes(total);
    let mut hash = Sha256::new();
    let mut bytes = 0;
    let mut buf = vec![0; 64 * 1024];
    loop {
        let n = stream.read(&mut buf).await?;
        if n == 0 {
            break;
        }
        app.has_read(n);
        hash.update(&buf[..n]);
        bytes += n as u64;
    }
    app.reads(|reads| reads.over = true);
    if bytes != total {
        return Err(format!("{bytes} bytes have come, {total} were announced").into());
    }
    let hash = hash.finalize();
    stream
        .write_all(&[&hash[..], &bytes.to_be_bytes()].concat())
        .await?;
    stream.close().await?;
    report(&json!({ "done": hex(&hash), "bytes": bytes }))?;
    Ok(())
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
