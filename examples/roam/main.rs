//! A file goes from one process to another, and its stream outlives the paths that it takes: Wi-Fi,
//! cellular, a relay, which are cut, silenced, exchanged and mended meanwhile.
//!
//! ```sh
//! cargo run --release --example roam                # by keys
//! cargo run --release --example roam -- --script    # by itself
//! ```
//!
//! This process is the conductor. It starts three others, a relay, a receiver and a sender, which
//! are ordinary nodes with this crate's behaviour, and between them it runs proxies on loopback,
//! which are the paths: `wifi` is QUIC, `cellular` is TCP with some delay, `relay` is TCP to the
//! relay, on both sides. The sender opens one stream, writes the file, and waits on the same stream
//! for a receipt: the SHA-256 and the length of what has come.
//!
//! Cut: TCP connections are closed, which both sides notice, and new ones are refused. Over UDP,
//! nobody is told of anything, so it is as with silence: what is sent vanishes, until mended.
//! Silent: connections stay open, and nothing passes.
//!
//! A pause is the longest time between two reads of the receiver around an event.
//!
//! To copy: `peer.rs` is a node that resumes; `sender.rs` and `receiver.rs` are an application that
//! need not know of it. The rest makes the trouble.

mod args;
mod keys;
mod path;
mod peer;
mod process;
mod proxy;
mod receiver;
mod relay;
mod screen;
mod script;
mod sender;
mod stage;
mod step;
mod world;

use std::{
    error::Error,
    io::{self, Write},
    process::ExitCode,
};

use args::{Args, Part};
use clap::Parser;

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(io::stderr)
        .init();
    match run(Args::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<ExitCode, Box<dyn Error>> {
    match &args.part {
        None => script::conduct(&args).await,
        Some(part) => {
            let done = match part {
                Part::Relay { seed } => relay::run(*seed).await,
                Part::Receiver => receiver::run().await,
                Part::Sender => sender::run(&args).await,
            };
            let Err(error) = done else {
                return Ok(ExitCode::SUCCESS);
            };
            // The conductor shows it.
            process::report(&serde_json::json!({ "failed": chain(&*error) }))?;
            Ok(ExitCode::FAILURE)
        }
    }
}

/// An error with its causes, but for those that it tells itself.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        source = cause.source();
    }
    text
}

/// A line for whoever reads our output, at once; without a panic if nobody does any more.
fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
