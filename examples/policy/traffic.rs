//! What the streams carry: a pattern that comes back, and is checked.

use std::{io, time::Duration};

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p_stream_migration::{IncomingStreams, Stream};
use tokio::{sync::watch, task::JoinHandle};

use crate::Fallible;

/// Sends back whatever comes.
pub async fn echo(mut incoming: IncomingStreams) {
    while let Some((_, stream)) = incoming.next().await {
        tokio::spawn(async move {
            let (reader, mut writer) = stream.split();
            futures::io::copy(reader, &mut writer).await?;
            writer.close().await
        });
    }
}

/// Streams that talk until there is enough.
pub struct Talks {
    enough: watch::Sender<bool>,
    talks: Vec<JoinHandle<io::Result<u64>>>,
}

impl Talks {
    pub fn new() -> Self {
        Self {
            enough: watch::Sender::new(false),
            talks: Vec::new(),
        }
    }

    pub fn start(&mut self, stream: Stream) {
        let seed = self.talks.len() as u64;
        let talk = talk(stream, seed, self.enough.subscribe());
        self.talks.push(tokio::spawn(talk));
    }

    /// Ends them in order; returns how many bytes are lost.
    pub async fn end(self) -> Fallible<u64> {
        self.enough.send_replace(true);
        let mut lost = 0;
        for talk in self.talks {
            lost += talk.await??;
        }
        Ok(lost)
    }
}

/// Writes until there is enough, reads the echo meanwhile, and returns how many bytes have not come back.
async fn talk(stream: Stream, seed: u64, enough: watch::Receiver<bool>) -> io::Result<u64> {
    let (mut reader, mut writer) = stream.split();
    let write = async {
        let mut written = 0;
        while !*enough.borrow() {
            let block: Vec<_> = (written..written + 4096).map(|at| byte(seed, at)).collect();
            writer.write_all(&block).await?;
            writer.flush().await?;
            written += 4096;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        writer.close().await?;
        Ok::<_, io::Error>(written)
    };
    let read = async {
        let (mut right, mut buf) = (0, [0; 4096]);
        loop {
            match reader.read(&mut buf).await? {
                0 => return Ok(right),
                n => {
                    let expected = (right..).map(|at| byte(seed, at));
                    if buf[..n].iter().copied().ne(expected.take(n)) {
                        return Ok(right);
                    }
                    right += n as u64;
                }
            }
        }
    };
    let (written, right) = futures::try_join!(write, read)?;
    Ok(written - right)
}

/// The byte at a place: neighbours differ, and so do streams.
fn byte(seed: u64, at: u64) -> u8 {
    ((at ^ at >> 8 ^ at >> 16).wrapping_mul(167) ^ seed) as u8
}
