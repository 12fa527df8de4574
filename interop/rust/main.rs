//! This crate as a test peer: commands as JSON lines on standard input, answers and events as JSON
//! lines on standard output. `interop/README.md` has the command line, which the peers of other
//! implementations share.

mod args;
mod commands;
mod connections;
mod halves;
mod node;
mod output;
mod pattern;
mod policy;
mod streams;

use std::{error::Error, sync::Arc};

use futures::StreamExt;
use libp2p_stream_migration::ConnectionName as _;
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    sync::mpsc,
};

use self::{
    args::Args,
    commands::{Context, PROTOCOL},
    connections::Swarming,
    node::Control,
    streams::Streams,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let args = Args::read();
    let streams = Arc::<Streams>::default();
    let (swarm, control, verdicts) = node::make(&args, &streams).await?;
    let peer = swarm.local_peer_id().to_string();
    let (asks, receiver) = mpsc::unbounded_channel();
    let context = Context {
        control: control.clone(),
        verdicts,
        streams: streams.clone(),
        asks,
    };
    accept(control, &context)?;
    let swarming = Swarming::new(swarm, streams, args.relay);
    tokio::spawn(swarming.run(receiver));

    output::say(&json!({ "event": "ready", "peer": peer }));
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        if !line.trim().is_empty() {
            context.command(&line);
        }
    }
    Ok(())
}

/// Holds and tells of every stream that a remote opens.
fn accept(control: Control, context: &Context) -> Result<(), Box<dyn Error>> {
    let context = context.clone();
    match control {
        Control::Migration(mut control) => {
            let mut incoming = control.accept(PROTOCOL)?;
            tokio::spawn(async move {
                while let Some((peer, stream)) = incoming.next().await {
                    let migratable = stream.is_migratable();
                    let connection = stream.connection().map(connections::name);
                    let key = migratable.then(|| stream.key());
                    let name = context.streams.hold(key, Box::new(stream));
                    let streams = &context.streams;
                    streams.say_accepted(&name, peer, connection, migratable);
                }
            });
        }
        Control::Plain(mut control) => {
            let mut incoming = control.accept(PROTOCOL)?;
            tokio::spawn(async move {
                while let Some((peer, stream)) = incoming.next().await {
                    let name = context.streams.hold(None, Box::new(stream));
                    // It does not tell on which connection; this is right if there is but one.
                    let connections = context.connections(Some(peer)).await;
                    let connection = connections.first().map(|it| connections::name(it.id.key()));
                    context.streams.say_accepted(&name, peer, connection, false);
                }
            });
        }
    }
    Ok(())
}
