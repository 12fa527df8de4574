//! The streams that the peer holds, their names, and what is said of them.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::AsyncReadExt;
use libp2p::PeerId;
use libp2p_stream_migration::{Event, StreamKey};
use serde_json::json;
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{
    connections,
    halves::{self, Io, Read, Write},
    output::{Answer, Error, Kind, Reply, say},
};

/// All streams.
#[derive(Default)]
pub struct Streams {
    /// Protects the names and the queues; nothing else is done under it.
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    names: HashMap<StreamKey, String>,
    named: usize,
    streams: HashMap<String, Stream>,
}

/// A stream whose halves are each worked on by a task, one command after the other.
struct Stream {
    /// `None` for a plain one.
    key: Option<StreamKey>,
    reads: mpsc::UnboundedSender<(Read, Reply)>,
    writes: mpsc::UnboundedSender<(Write, Reply)>,
    closed: Arc<AtomicBool>,
    tasks: [JoinHandle<()>; 2],
}

impl Held {
    fn fresh_name(&mut self) -> String {
        self.named += 1;
        format!("s{}", self.named)
    }

    fn name(&mut self, key: StreamKey) -> String {
        if let Some(name) = self.names.get(&key) {
            return name.clone();
        }
        let name = self.fresh_name();
        self.names.insert(key, name.clone());
        name
    }

    fn stream(&self, name: &str) -> Result<&Stream, Error> {
        let stream = self.streams.get(name);
        stream.ok_or_else(|| Error::bad(format!("{name:?} is no stream")))
    }
}

impl Streams {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the stream with this key is called.
    pub fn name(&self, key: StreamKey) -> String {
        self.held().name(key)
    }

    /// The key of the stream that is called so, if it is one that can be moved.
    pub fn key(&self, name: &str) -> Result<Option<StreamKey>, Error> {
        self.held().stream(name).map(|stream| stream.key)
    }

    /// Holds one more stream; returns its name.
    pub fn hold(&self, key: Option<StreamKey>, io: Box<dyn Io>) -> String {
        let (read_half, write_half) = io.split();
        let (reads, receiver) = mpsc::unbounded_channel();
        let reader = tokio::spawn(halves::read(read_half, receiver));
        let (writes, receiver) = mpsc::unbounded_channel();
        let closed = Arc::new(AtomicBool::new(false));
        let writer = tokio::spawn(halves::write(write_half, receiver, closed.clone()));
        let mut held = self.held();
        let name = match key {
            Some(key) => held.name(key),
            None => held.fresh_name(),
        };
        let stream = Stream {
            key,
            reads,
            writes,
            closed,
            tasks: [reader, writer],
        };
        held.streams.insert(name.clone(), stream);
        name
    }

    pub fn read(&self, name: &str, read: Read, reply: Reply) {
        let sent = match self.held().stream(name) {
            Ok(stream) => Ok(stream.reads.send((read, reply))),
            Err(error) => Err((error, reply)),
        };
        if let Err((error, reply)) = sent {
            reply.send(Err(error));
        }
    }

    pub fn write(&self, name: &str, write: Write, reply: Reply) {
        let sent = match self.held().stream(name) {
            Ok(stream) => Ok(stream.writes.send((write, reply))),
            Err(error) => Err((error, reply)),
        };
        if let Err((error, reply)) = sent {
            reply.send(Err(error));
        }
    }

    /// Lets go of a stream, which aborts it unless it was closed. `abort`: fails if it would not.
    pub async fn let_go(&self, name: &str, abort: bool) -> Answer {
        let stream = {
            let mut held = self.held();
            if abort && held.stream(name)?.closed.load(Ordering::Relaxed) {
                return Err(Error::new(
                    Kind::Unsupported,
                    "a stream of this crate that was closed cannot be aborted",
                ));
            }
            let stream = held.streams.remove(name);
            stream.ok_or_else(|| Error::bad(format!("{name:?} is no stream")))?
        };
        for task in stream.tasks {
            task.abort();
            let _ = task.await;
        }
        Ok(json!({}))
    }

    // ---- What is said of them ----------------------------------------------------------------------

    pub fn say_accepted(&self, name: &str, peer: PeerId, conn: Option<String>, migratable: bool) {
        say(&json!({
            "event": "accepted",
            "stream": name,
            "peer": peer.to_string(),
            "conn": conn,
            "migratable": migratable,
        }));
    }

    pub fn say_received(&self, key: StreamKey) {
        say(&json!({ "event": "migrate_received", "stream": self.name(key) }));
    }

    pub fn say_event(&self, event: &Event) {
        match *event {
            Event::MigrationCompleted {
                key,
                from,
                to,
                initiator,
                ..
            } => say(&json!({
                "event": "migrated",
                "stream": self.name(key),
                "from": connections::name(from),
                "to": connections::name(to),
                "initiator": initiator.is_local(),
            })),
            Event::MigrationFailed {
                key,
                reason,
                initiator,
                ..
            } => say(&json!({
                "event": "migration_failed",
                "stream": self.name(key),
                "initiator": initiator.is_local(),
                "reason": format!("{reason:?}"),
            })),
            _ => {}
        }
    }
}
