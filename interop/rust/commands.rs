//! The commands: read, taken apart, and done side by side.

use std::{sync::Arc, time::Instant};

use libp2p::{Multiaddr, PeerId, StreamProtocol, multiaddr::Protocol};
use libp2p_stream_migration::{ConnectionName as _, MigrateError, Side, Verdict};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::{
    connections::{self, Ask, Connection},
    halves::{Read, Write},
    node::Control,
    output::{Answer, Error, Kind, Reply},
    policy::Verdicts,
    streams::Streams,
};

pub const PROTOCOL: StreamProtocol = StreamProtocol::new("/interop/1");

/// What commands are done with.
#[derive(Clone)]
pub struct Context {
    pub control: Control,
    pub verdicts: Verdicts,
    pub streams: Arc<Streams>,
    pub asks: mpsc::UnboundedSender<Ask>,
}

/// A command's fields.
struct Fields<'a>(&'a Value);

impl Fields<'_> {
    fn text(&self, name: &str) -> Result<&str, Error> {
        let value = self.0[name].as_str();
        value.ok_or_else(|| Error::bad(format!("{name:?} is not a text")))
    }

    fn number(&self, name: &str) -> Result<u64, Error> {
        let value = self.0[name].as_u64();
        value.ok_or_else(|| Error::bad(format!("{name:?} is not a number")))
    }

    fn seed(&self) -> Result<u32, Error> {
        u32::try_from(self.number("seed")?).map_err(Error::bad)
    }

    fn address(&self) -> Result<Multiaddr, Error> {
        self.text("addr")?.parse().map_err(Error::bad)
    }

    fn peer(&self) -> Result<PeerId, Error> {
        self.text("peer")?.parse().map_err(Error::bad)
    }

    fn has(&self, name: &str) -> bool {
        !self.0[name].is_null()
    }
}

impl Context {
    /// Does a command. Those that take their time are left to a task of their own.
    pub fn command(&self, line: &str) {
        let command: Value = match serde_json::from_str(line) {
            Ok(command) => command,
            Err(error) => return Reply::new(Value::Null).send(Err(Error::bad(error))),
        };
        let reply = Reply::new(command["seq"].clone());
        let mut reply = Some(reply);
        if let Err(error) = self.dispatch(&Fields(&command), &mut reply)
            && let Some(reply) = reply
        {
            reply.send(Err(error));
        }
    }

    /// Takes the reply if somebody else is going to send it.
    fn dispatch(&self, fields: &Fields<'_>, reply: &mut Option<Reply>) -> Result<(), Error> {
        let mut owed = || reply.take().expect("taken once, by one arm");
        match fields.text("cmd")? {
            "listen" => self.ask(Ask::Listen(fields.address()?, owed())),
            "dial" => {
                let address = fields.address()?;
                let Some(Protocol::P2p(peer)) = address.iter().last() else {
                    return Err(Error::bad("the address does not end in a peer"));
                };
                self.ask(Ask::Dial(peer, address, owed()));
            }
            "close_connection" => {
                let id = connections::by_name(fields.text("conn")?)?;
                self.ask(Ask::Close(id.id(), owed()));
            }
            "on_relayed" => {
                let close = match fields.text("action")? {
                    "close" => true,
                    "keep" => false,
                    other => return Err(Error::bad(format!("{other:?} is no action"))),
                };
                self.ask(Ask::CloseRelayed(close, owed()));
            }
            "connections" => {
                let peer = fields.peer()?;
                let this = self.clone();
                spawn(owed(), async move {
                    let all = this.connections(Some(peer)).await;
                    let all: Vec<_> = all.iter().map(Connection::json).collect();
                    Ok(json!({ "connections": all }))
                });
            }
            "open" => {
                let peer = fields.peer()?;
                let connection = connections::by_name(fields.text("conn")?)?;
                let this = self.clone();
                spawn(owed(), async move { this.open(peer, connection).await });
            }
            "write" => {
                let write = Write::Pattern {
                    seed: fields.seed()?,
                    bytes: fields.number("bytes")?,
                };
                self.streams.write(fields.text("stream")?, write, owed());
            }
            "close" => {
                let stream = fields.text("stream")?;
                self.streams.write(stream, Write::Close, owed());
            }
            "read" => {
                let to_end = fields.0["eof"] == true;
                let bytes = (!to_end).then(|| fields.number("bytes")).transpose()?;
                let seed = fields.seed()?;
                let read = Read { seed, bytes };
                self.streams.read(fields.text("stream")?, read, owed());
            }
            what @ ("reset" | "drop") => {
                let abort = what == "reset";
                let stream = fields.text("stream")?.to_owned();
                let streams = self.streams.clone();
                spawn(owed(), async move { streams.let_go(&stream, abort).await });
            }
            "migrate" => {
                if fields.has("reset") {
                    return Err(unsupported("aborting at a certain point of a migration"));
                }
                let stream = fields.text("stream")?.to_owned();
                let to = connections::by_name(fields.text("conn")?)?;
                let this = self.clone();
                spawn(owed(), async move { this.migrate(&stream, to).await });
            }
            "answer" => {
                self.verdicts.set(verdicts(fields)?);
                owed().send(Ok(json!({})));
            }
            "release" => return Err(unsupported("holding a `Migrate` unanswered")),
            "streams" => {
                let this = self.clone();
                spawn(owed(), async move { this.list().await });
            }
            "quit" => {
                owed().send(Ok(json!({})));
                std::process::exit(0);
            }
            other => return Err(Error::bad(format!("{other:?} is no command"))),
        }
        Ok(())
    }

    fn ask(&self, ask: Ask) {
        // If the swarm's task is gone, the ask is dropped, which answers it.
        let _ = self.asks.send(ask);
    }

    /// The connections to this peer, or to all.
    pub async fn connections(&self, peer: Option<PeerId>) -> Vec<Connection> {
        let (reply, answer) = oneshot::channel();
        self.ask(Ask::Connections(peer, reply));
        answer.await.unwrap_or_default()
    }

    async fn open(
        &self,
        peer: PeerId,
        connection: libp2p_stream_migration::ConnectionKey,
    ) -> Answer {
        let other =
            |error: &dyn std::error::Error| Error::new(Kind::Other, connections::chain(error));
        let (name, migratable) = match self.control.clone() {
            Control::Migration(mut control) => {
                let opened = control.open_stream_on(peer, connection, PROTOCOL).await;
                let stream = opened.map_err(|error| other(&error))?;
                let migratable = stream.is_migratable();
                let key = migratable.then(|| stream.key());
                (self.streams.hold(key, Box::new(stream)), migratable)
            }
            Control::Plain(mut control) => {
                // It picks the connection itself.
                let opened = control.open_stream(peer, PROTOCOL).await;
                let stream = opened.map_err(|error| other(&error))?;
                (self.streams.hold(None, Box::new(stream)), false)
            }
        };
        Ok(json!({ "stream": name, "migratable": migratable }))
    }

    async fn migrate(&self, stream: &str, to: libp2p_stream_migration::ConnectionKey) -> Answer {
        let plain = || Error::new(Kind::Failed, "the stream is a plain one");
        let key = self.streams.key(stream)?.ok_or_else(plain)?;
        let Control::Migration(mut control) = self.control.clone() else {
            return Err(plain());
        };
        let begun = Instant::now();
        control.migrate(key, to).await.map_err(|error| {
            let kind = match error {
                MigrateError::Denied => Kind::Denied,
                MigrateError::Aborted(_) => Kind::Reset,
                _ => Kind::Failed,
            };
            Error::new(kind, error)
        })?;
        let took = begun.elapsed().as_secs_f64() * 1e3;
        Ok(json!({ "took_ms": took }))
    }

    async fn list(&self) -> Answer {
        let Control::Migration(mut control) = self.control.clone() else {
            return Ok(json!({ "streams": [] }));
        };
        let connections = self.connections(None).await;
        let mut peers: Vec<_> = connections.iter().map(|it| it.peer).collect();
        peers.sort_unstable();
        peers.dedup();
        let mut all = Vec::new();
        for peer in peers {
            for stream in control.streams(peer).await {
                all.push(json!({
                    "stream": self.streams.name(stream.key),
                    "peer": peer.to_string(),
                    "conn": stream.connection.map(connections::name),
                    "id": stream.id.0,
                    "opener": stream.opener == Side::Local,
                }));
            }
        }
        Ok(json!({ "streams": all }))
    }
}

fn verdicts(fields: &Fields<'_>) -> Result<Vec<Verdict>, Error> {
    let next = fields.0["next"].as_array();
    let next = next.ok_or_else(|| Error::bad("\"next\" is not a list"))?;
    let verdicts = next.iter().map(|verdict| match verdict.as_str() {
        Some("accept") => Ok(Verdict::Accept),
        Some("deny") => Ok(Verdict::Deny),
        Some("ignore") => Ok(Verdict::NotNow),
        Some("reset_before_ack" | "reset_after_ack" | "hold") => Err(unsupported(
            "aborting or waiting at a certain point of a migration",
        )),
        _ => Err(Error::bad(format!("{verdict} is no answer"))),
    });
    verdicts.collect()
}

fn unsupported(what: &str) -> Error {
    let text = format!("{what} is not in the crate's public API");
    Error::new(Kind::Unsupported, text)
}

fn spawn(reply: Reply, work: impl Future<Output = Answer> + Send + 'static) {
    tokio::spawn(async move { reply.send(work.await) });
}
