//! Sends a file or a directory over one stream, which begins on a relayed connection and moves to a
//! direct one on the way, without the transfer noticing.
//!
//! Three processes: `relay`, `receive` and `send`. Read `send.rs` and `inbox.rs` first: neither
//! knows that its stream moves. What the receiver trusts nobody with is in `path.rs` and
//! `staging.rs`.

mod args;
mod inbox;
mod node;
mod path;
mod progress;
mod receive;
mod route;
mod send;
mod source;
mod staging;
mod tally;
mod wire;

use std::{
    error::Error,
    future::Future,
    io::{self, Write},
    process::ExitCode,
};

use args::{Cli, Command};
use clap::Parser;
use libp2p::Multiaddr;
use node::{Node, Role};

type Failure = Box<dyn Error>;

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let done = match Cli::parse().command {
        Command::Relay { listen } => until_interrupted(relay(listen), Ok(())).await,
        Command::Receive(receive) => until_interrupted(receive::run(receive), Ok(())).await,
        Command::Send(send) => until_interrupted(send::run(send), Err("interrupted".into())).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

/// Drops the work at Ctrl-C, and with it whatever it has not finished writing.
async fn until_interrupted(
    work: impl Future<Output = Result<(), Failure>>,
    interrupted: Result<(), Failure>,
) -> Result<(), Failure> {
    let interrupt = async {
        if tokio::signal::ctrl_c().await.is_err() {
            // No signals here: run until killed.
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        done = work => done,
        () = interrupt => interrupted,
    }
}

async fn relay(mut listen: Vec<Multiaddr>) -> Result<(), Failure> {
    let node = Node::start(Role::Relay).await?;
    if listen.is_empty() {
        listen = args::everywhere();
    }
    for address in listen {
        say(&format!("listening on {}", node.listen(address).await?))?;
    }
    std::future::pending().await
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
