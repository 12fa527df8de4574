//! Bytes that flow through a stream: written until it is enough, read and checked to the end.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    case::Side,
    pattern,
    process::{Check, Refusal},
    world::{Stream, World},
};

const MIB: u64 = 1 << 20;

/// How much goes each way, at least.
pub const PAYLOAD: u64 = 8 * MIB;

/// What still flows while a migration takes its time: as much as keeps it under load.
const TRICKLE: u64 = MIB / 4;
const PAUSE: Duration = Duration::from_millis(5);

impl World<'_> {
    /// Sends a `write`, now.
    pub fn write(
        &self,
        stream: &Stream,
        by: Side,
        bytes: u64,
    ) -> impl Future<Output = Check<Result<Value, Refusal>>> + use<> {
        self.peer(by).send(json!({
            "cmd": "write",
            "stream": stream.names.at(by),
            "bytes": bytes,
            "seed": stream.seed(by),
        }))
    }

    /// Sends a `close`, now.
    pub fn close_write(
        &self,
        stream: &Stream,
        by: Side,
    ) -> impl Future<Output = Check<Value>> + use<> {
        let close = json!({ "cmd": "close", "stream": stream.names.at(by) });
        self.peer(by).call(close)
    }

    /// Sends a `read` of what the other side writes, now: so many bytes, or all up to the end.
    pub fn read(
        &self,
        stream: &Stream,
        by: Side,
        bytes: Option<u64>,
    ) -> impl Future<Output = Check<Result<Value, Refusal>>> + use<> {
        let mut read = json!({
            "cmd": "read",
            "stream": stream.names.at(by),
            "seed": stream.seed(by.other()),
        });
        match bytes {
            Some(bytes) => read["bytes"] = bytes.into(),
            None => read["eof"] = true.into(),
        }
        self.peer(by).send(read)
    }

    /// Writes so many bytes on one side and reads them on the other.
    pub async fn carry(&self, stream: &Stream, from: Side, bytes: u64) -> Check {
        let read = self.read(stream, from.other(), Some(bytes));
        let written = self.write(stream, from, bytes);
        let (read, written) = tokio::try_join!(read, written)?;
        done("write", written)?;
        done("read", read).map(drop)
    }

    /// The same, both ways at once.
    pub async fn carry_both(&self, stream: &Stream, bytes: u64) -> Check {
        let one = self.carry(stream, Side::Dialer, bytes);
        let other = self.carry(stream, Side::Listener, bytes);
        tokio::try_join!(one, other).map(drop)
    }

    /// Writes all the payload and closes; the other side reads it to the end. `before` bytes had been
    /// written, and read.
    pub async fn finish_direction(&self, stream: &Stream, from: Side, before: u64) -> Check {
        let written = self.write(stream, from, PAYLOAD);
        let closed = self.close_write(stream, from);
        let read = self.read(stream, from.other(), None);
        let (written, _, read) = tokio::try_join!(written, closed, read)?;
        done("write", written)?;
        let read = done("read", read)?;
        if before > 0 {
            return ended(&read, PAYLOAD);
        }
        whole(&read, stream.seed(from), PAYLOAD)
    }

    /// The same, both ways at once.
    pub async fn finish_both(&self, stream: &Stream, before: u64) -> Check {
        let one = self.finish_direction(stream, Side::Dialer, before);
        let other = self.finish_direction(stream, Side::Listener, before);
        tokio::try_join!(one, other).map(drop)
    }

    /// Bytes flow both ways, to clean ends, while something happens; afterwards, too.
    pub async fn under_load(&self, stream: &Stream, happens: impl Future<Output = Check>) -> Check {
        let load = Load::default();
        let happens = async {
            load.begun().await;
            happens.await?;
            load.enough.store(true, Ordering::Relaxed);
            Ok(())
        };
        let one = self.direction(stream, Side::Dialer, &load);
        let other = self.direction(stream, Side::Listener, &load);
        tokio::try_join!(happens, one, other).map(drop)
    }

    async fn direction(&self, stream: &Stream, from: Side, load: &Load) -> Check {
        let read = self.read(stream, from.other(), None);
        let written = async {
            let total = self.write_until(stream, from, load).await?;
            self.close_write(stream, from).await?;
            Ok(total)
        };
        let (total, read) = tokio::try_join!(written, read)?;
        whole(&done("read", read)?, stream.seed(from), total)
    }

    /// Writes the payload, and more until it is enough, and some more; returns how much.
    pub async fn write_until(&self, stream: &Stream, from: Side, load: &Load) -> Check<u64> {
        let mut total = 0;
        loop {
            let enough = load.enough.load(Ordering::Relaxed);
            let bytes = if total < PAYLOAD { MIB } else { TRICKLE };
            done("write", self.write(stream, from, bytes).await?)?;
            total += bytes;
            load.written[from as usize].store(total, Ordering::Relaxed);
            if total >= PAYLOAD {
                if enough {
                    return Ok(total);
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// How a flow is going.
#[derive(Debug, Default)]
pub struct Load {
    written: [AtomicU64; 2],
    /// What it was for is over.
    pub enough: AtomicBool,
}

impl Load {
    /// Waits until some has been written both ways.
    pub async fn begun(&self) {
        while self
            .written
            .iter()
            .any(|it| it.load(Ordering::Relaxed) == 0)
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// What has to have been done.
pub fn done(what: &str, answer: Result<Value, Refusal>) -> Check<Value> {
    answer.map_err(|it| format!("a {what} failed: {}: {}", it.kind, it.text))
}

/// A read that met a clean end after so many bytes.
pub fn ended(read: &Value, bytes: u64) -> Check {
    let expected = json!([bytes, true]);
    if json!([read["read"], read["eof"]]) != expected {
        return Err(format!("[read, eof] is not {expected} in {read}"));
    }
    Ok(())
}

/// The read of a whole direction.
pub fn whole(read: &Value, seed: u32, bytes: u64) -> Check {
    ended(read, bytes)?;
    let digest = pattern::sha256(seed, bytes);
    if read["sha256"] != *digest {
        return Err(format!("SHA-256 is not {digest} in {read}"));
    }
    Ok(())
}
