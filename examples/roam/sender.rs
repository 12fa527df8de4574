//! The sender's process: writes a file into one stream, and waits for the receipt there.

use std::{
    error::Error,
    fs::File,
    io::{self, Read},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::PeerId;
use libp2p_stream_migration::Control;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::{sync::watch, time::Instant};

use crate::{
    args::Args,
    peer::{App, PROTOCOL, Peer},
    process::{Order, orders, report},
    receiver::{RECEIPT, hex},
};

/// The bytes that are written at once, at most.
const CHUNK: usize = 64 * 1024;

/// The bytes of a word of what is a function of the seed; pieces are whole words.
const WORD: usize = 8;

/// The interval at which bytes are written.
const TICK: Duration = Duration::from_millis(10);

/// Until nothing more is to happen, so long a time would be left for the rest at any moment.
const IN_HAND: f64 = 12.0;

/// The time that the receipt may take, all pauses included.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Default)]
struct Sender {
    to: watch::Sender<Option<PeerId>>,
    /// Nothing more will happen.
    finish: AtomicBool,
    mark: AtomicU64,
    sent: AtomicU64,
    total: AtomicU64,
}

/// What is sent.
enum Source {
    File(File),
    /// Bytes that are a function of the seed, and how many are left.
    Seed(u64, u64),
}

impl Source {
    fn open(args: &Args) -> Result<(Self, u64), Box<dyn Error>> {
        let Some(path) = &args.file else {
            let total = args.mib << 20;
            return Ok((Self::Seed(args.seed, total), total));
        };
        let open = || {
            let file = File::open(path)?;
            let length = file.metadata()?.len();
            io::Result::Ok((Self::File(file), length))
        };
        open().map_err(|error| format!("{}: {error}", path.display()).into())
    }

    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.read(buf),
            Self::Seed(state, left) => {
                let n = usize::try_from(*left).map_or(buf.len(), |left| left.min(buf.len()));
                for piece in buf[..n].chunks_mut(WORD) {
                    // SplitMix64.
                    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                    let mut word = *state;
                    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                    word ^= word >> 31;
                    piece.copy_from_slice(&word.to_le_bytes()[..piece.len()]);
                }
                *left -= n as u64;
                Ok(n)
            }
        }
    }
}

impl App for Sender {
    fn order(&self, order: Order) {
        match order {
            Order::Start(peer) => drop(self.to.send_replace(Some(peer))),
            Order::Mark(mark) => self.mark.store(mark, Ordering::Relaxed),
            Order::Finish => self.finish.store(true, Ordering::Relaxed),
            order => tracing::debug!(?order, "not for a sender"),
        }
    }

    fn report(&self) -> Value {
        json!({
            "mark": self.mark.load(Ordering::Relaxed),
            "bytes": self.sent.load(Ordering::Relaxed),
            "total": self.total.load(Ordering::Relaxed),
        })
    }
}

pub async fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let (source, total) = Source::open(args)?;
    let mut peer = Peer::new()?;
    // For a receiver that cannot be dialed.
    peer.listen("/ip4/127.0.0.1/udp/0/quic-v1")?;
    let app = Arc::new(Sender::default());
    app.total.store(total, Ordering::Relaxed);
    app.finish.store(!args.script, Ordering::Relaxed);
    let control = peer.control.clone();
    let mut to = app.to.subscribe();
    let transfer = async {
        let to = to
            .wait_for(Option::is_some)
            .await?
            .ok_or("nobody to send to")?;
        let rate = args.pace << 20;
        send(&app, control, to, source, (total, rate)).await?;
        // Until the conductor has had enough.
        std::future::pending::<Result<(), Box<dyn Error>>>().await
    };
    tokio::select! {
        done = peer.run(app.clone(), orders()) => done,
        done = transfer => done,
    }
}

async fn send(
    app: &Sender,
    mut control: Control,
    to: PeerId,
    mut source: Source,
    (total, rate): (u64, u64),
) -> Result<(), Box<dyn Error>> {
    let mut stream = control.open_stream(to, PROTOCOL).await?;
    stream.write_all(&total.to_be_bytes()).await?;
    let mut hash = Sha256::new();
    let mut buf = vec![0; CHUNK];
    let mut sent = 0;
    let mut free_at = Instant::now();
    while sent < total {
        let most = match app.finish.load(Ordering::Relaxed) {
            true => rate as f64,
            false => (rate as f64).min((total - sent) as f64 / IN_HAND),
        };
        let length = (most * TICK.as_secs_f64()) as usize / WORD * WORD;
        let length = length.clamp(WORD, CHUNK);
        let n = source.read(&mut buf[..length])?;
        if n == 0 {
            return Err(format!("the file ends after {sent} of {total} bytes").into());
        }
        hash.update(&buf[..n]);
        stream.write_all(&buf[..n]).await?;
        stream.flush().await?;
        sent += n as u64;
        app.sent.store(sent, Ordering::Relaxed);
        // What could not be written in a pause is not made up for.
        free_at = free_at.max(Instant::now() - TICK) + Duration::from_secs_f64(n as f64 / most);
        tokio::time::sleep_until(free_at).await;
    }
    stream.close().await?;
    let mut receipt = Vec::new();
    let mut stream = stream.take(RECEIPT as u64 + 1);
    match tokio::time::timeout(PATIENCE, stream.read_to_end(&mut receipt)).await {
        Ok(read) => read.map(drop)?,
        Err(_) => return Err(format!("no receipt after {PATIENCE:?}").into()),
    }
    let hash = hash.finalize();
    let expected = [&hash[..], &sent.to_be_bytes()].concat();
    report(&json!({
        "done": hex(&hash),
        "bytes": sent,
        "exact": receipt == expected,
    }))?;
    Ok(())
}
