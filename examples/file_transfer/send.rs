//! The sender: one stream, opened through the relay, used as if that were all there is.

use std::{future::Future, io, path::PathBuf, sync::atomic::Ordering, time::Duration};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{Multiaddr, PeerId};
use libp2p_stream_migration::{OpenStreamError, StreamKey};
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt as _;

use crate::{
    Failure, args,
    node::{Node, Role},
    progress::{Progress, Screen},
    route::State,
    source::{Entry, Source},
    tally::{Hash, Tally},
    wire::{self, Frame, MAX_DATA, PROTOCOL, WireError},
};

/// How long the other side may leave us without any progress.
pub const QUIET: Duration = Duration::from_secs(60);

/// How long a stream that has failed may still take to tell why, or to end.
pub const LAST_WORDS: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("the receiver refuses: {0}")]
    Refused(String),
    #[error("the stream failed")]
    Stream(#[source] io::Error),
    #[error("no answer from the receiver")]
    Answer(#[from] WireError),
    #[error("the receiver answered with {0}, which does not belong there")]
    Unexpected(&'static str),
    #[error("the receiver has other bytes than we have sent; send it again")]
    Differs,
    #[error("{0:?} was changed while it was being sent; send it again")]
    Changed(PathBuf),
    #[error("cannot read {path:?}")]
    Read { path: PathBuf, source: io::Error },
}

pub async fn run(args: args::Send) -> Result<(), Failure> {
    let screen = Screen::new();
    let source = tokio::task::block_in_place(|| Source::new(&args.path))?;
    for path in &source.left_out {
        eprintln!("left out {path:?}: neither a file nor a directory");
    }
    let peer = args::peer_of(&args.circuit)?;
    let relay = args::relay_of(&args.circuit);
    let punch = args.direct.is_none();
    let node = Node::start(Role::Peer { dcutr: punch }).await?;
    if punch {
        node.listen(args::beside(&relay)).await?;
    }
    node.behind(args::peer_of(&relay)?, relay).await?;
    let relayed = node.dial(peer, args.circuit.clone()).await?;
    let mut control = node.control.clone();
    let opening = control.open_stream_on(peer, relayed, PROTOCOL);
    let stream = opening.await.map_err(|error| match error {
        OpenStreamError::UnsupportedProtocol(_) => {
            format!("{peer} does not receive files: {error}; is it `file_transfer receive`?")
        }
        error => crate::chain(&error),
    })?;
    if !stream.is_migratable() {
        eprintln!("{peer} does not speak stream migration: everything goes over the relay");
    }
    let key = stream.key();
    let hold = Hold {
        node: &node,
        peer,
        key,
        direct: args.direct,
        after: args.over_relay << 10,
        patience: Duration::from_secs(if stream.is_migratable() {
            args.patience
        } else {
            0
        }),
    };
    let progress = Progress::default();
    progress
        .total
        .store(source.offer().bytes, Ordering::Relaxed);
    let (mut reader, mut writer) = stream.split();
    let sending = exchange(&mut reader, &mut writer, &source, &hold, &progress);
    let tally = screen
        .show("sending", &progress, &node, key, sending)
        .await?;
    let stream = reader.reunite(writer)?;
    let way = node
        .way(&stream, stream.bytes_out(), |(sent, _)| sent)
        .await;
    let name = source.offer().name;
    screen.say(&format!("sent {name:?} to {peer}: {tally}"));
    screen.say(&format!("on the way: {way}"));
    Ok(())
}

/// What goes over the relay, and when that is enough.
struct Hold<'a> {
    node: &'a Node,
    peer: PeerId,
    key: StreamKey,
    direct: Option<Multiaddr>,
    after: u64,
    patience: Duration,
}

impl Hold<'_> {
    /// Waits until the stream has left the relay, or for as long as there is patience.
    async fn wait(&self) {
        let waiting = async {
            if let Some(address) = &self.direct {
                self.node.dial(self.peer, address.clone()).await?;
            }
            let moved = |state: &State| {
                let route = state.route(self.key);
                route.is_none_or(|route| !route.before.is_empty())
            };
            self.node.wait(moved).await
        };
        let why = match tokio::time::timeout(self.patience, waiting).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(_) => format!("no direct connection within {:?}", self.patience),
        };
        eprintln!("{why}: going on over the relay, which may end it (see --over-relay, --direct)");
    }
}

async fn exchange(
    reader: &mut (impl AsyncRead + Unpin),
    writer: &mut (impl AsyncWrite + Unpin),
    source: &Source,
    hold: &Hold<'_>,
    progress: &Progress,
) -> Result<Tally, SendError> {
    write(writer, Frame::Offer(source.offer())).await?;
    flush(writer).await?;
    match answer(wire::read(reader)).await? {
        Frame::Accept => {}
        other => return Err(unexpected(other)),
    }
    // The receiver may have enough at any time; it would not read what we write any more.
    let mut last = Box::pin(wire::read(&mut *reader));
    let sent = tokio::select! {
        early = &mut last => return Err(unexpected(early?)),
        sent = entries(writer, source, hold, progress) => sent,
    };
    match sent {
        Ok(tally) => {
            match answer(&mut last).await? {
                Frame::Done { bytes, hash } if (bytes, hash) == (tally.bytes, tally.hash()) => {}
                Frame::Done { .. } => return Err(SendError::Differs),
                other => return Err(unexpected(other)),
            }
            drop(last);
            // It is done; how the stream ends makes no difference to that.
            let _ = tokio::time::timeout(LAST_WORDS, finish(reader, writer)).await;
            Ok(tally)
        }
        // If the stream has failed, the receiver may have said why.
        Err(SendError::Stream(error)) => match tokio::time::timeout(LAST_WORDS, last).await {
            Ok(Ok(Frame::Failed(reason))) => Err(SendError::Refused(reason)),
            _ => Err(SendError::Stream(error)),
        },
        Err(error) => {
            drop(last);
            let giving_up = async {
                write(writer, Frame::Failed(error.to_string())).await?;
                finish(reader, writer).await.map_err(SendError::Stream)
            };
            let _ = tokio::time::timeout(LAST_WORDS, giving_up).await;
            Err(error)
        }
    }
}

async fn entries(
    writer: &mut (impl AsyncWrite + Unpin),
    source: &Source,
    hold: &Hold<'_>,
    progress: &Progress,
) -> Result<Tally, SendError> {
    let mut tally = Tally::default();
    let mut held = false;
    for entry in &source.entries {
        let name = entry.name.as_str().to_owned();
        let Some(length) = entry.length else {
            write(writer, Frame::Directory(name)).await?;
            tally.directory(&entry.name);
            continue;
        };
        write(writer, Frame::File { path: name, length }).await?;
        let mut file = open(entry).await?;
        let mut hash = Sha256::new();
        let mut left = length;
        while left > 0 {
            let sent = progress.done.load(Ordering::Relaxed);
            if !held && sent >= hold.after {
                flush(writer).await?;
                hold.wait().await;
                held = true;
            }
            let mut most = left.min(MAX_DATA as u64);
            if !held {
                most = most.min(hold.after - sent);
            }
            let mut data = vec![0; usize::try_from(most).unwrap_or(MAX_DATA)];
            let n = read(entry, &mut file, &mut data).await?;
            if n == 0 {
                return Err(SendError::Changed(entry.path.clone()));
            }
            data.truncate(n);
            hash.update(&data);
            write(writer, Frame::Data(data)).await?;
            left -= n as u64;
            progress.done.fetch_add(n as u64, Ordering::Relaxed);
        }
        if read(entry, &mut file, &mut [0]).await? > 0 {
            return Err(SendError::Changed(entry.path.clone()));
        }
        let hash: Hash = hash.finalize().into();
        write(writer, Frame::Hash(hash)).await?;
        tally.file(&entry.name, length, hash);
    }
    write(writer, Frame::End(tally.hash())).await?;
    flush(writer).await?;
    Ok(tally)
}

async fn open(entry: &Entry) -> Result<tokio::fs::File, SendError> {
    let file = tokio::fs::File::open(&entry.path).await;
    file.map_err(|source| read_error(entry, source))
}

async fn read(
    entry: &Entry,
    file: &mut tokio::fs::File,
    to: &mut [u8],
) -> Result<usize, SendError> {
    let n = file.read(to).await;
    n.map_err(|source| read_error(entry, source))
}

fn read_error(entry: &Entry, source: io::Error) -> SendError {
    let path = entry.path.clone();
    SendError::Read { path, source }
}

async fn write(writer: &mut (impl AsyncWrite + Unpin), frame: Frame) -> Result<(), SendError> {
    let writing = wire::write(writer, frame);
    quietly(writing).await.map_err(SendError::Stream)
}

async fn flush(writer: &mut (impl AsyncWrite + Unpin)) -> Result<(), SendError> {
    quietly(writer.flush()).await.map_err(SendError::Stream)
}

async fn answer(
    reading: impl Future<Output = Result<Frame, WireError>>,
) -> Result<Frame, WireError> {
    let io = async { Ok(reading.await) };
    quietly(io).await.map_err(WireError::Io)?
}

/// Fails if this takes too long.
pub async fn quietly<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(QUIET, work).await {
        Ok(done) => done,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("nothing came from the other side for {QUIET:?}"),
        )),
    }
}

/// Closes, and waits until the other side has done so, which shows that it has read everything.
pub async fn finish(
    reader: &mut (impl AsyncRead + Unpin),
    writer: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    writer.close().await?;
    let mut rest = [0; 4096];
    while reader.read(&mut rest).await? > 0 {}
    Ok(())
}

fn unexpected(frame: Frame) -> SendError {
    match frame {
        Frame::Failed(reason) => SendError::Refused(reason),
        other => SendError::Unexpected(other.name()),
    }
}
