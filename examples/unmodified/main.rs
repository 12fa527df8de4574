//! Behaviours as they come with rust-libp2p run over a relay; a direct connection is made; and all
//! their streams move there, though none of them knows of it.
//!
//! ```sh
//! cargo run --release --example unmodified                # QUIC, hole punching, 64 MiB
//! cargo run --release --example unmodified -- --without   # the same without the layer
//! ```
//!
//! All in this process, on loopback: a relay, a listener that has a reservation there, a dialer.
//! Between the two go numbered gossipsub messages both ways (250 a second each), one large response
//! of request-response to the listener, small requests and kad queries both ways, identify, ping,
//! and a stream of `libp2p-stream` that carries bytes both ways. When all of this is under way on
//! the relayed connection, DCUtR punches a hole (`--by dial`: the dialer dials). The streams move,
//! the layer closes the relayed link, the relay is stopped, and what remains goes the direct way.
//!
//! Whatever is received is compared with what has to be there, byte by byte: contents are functions
//! of the seed and of a number or a position. The bytes on each path are counted below the layer.
//! If anything is lost, doubled or in error, or has not come after 60 s, the exit code is 1.
//!
//! `--without` has the same transport without the layer around it. There, nothing ever leaves the
//! relayed connection but what is opened anew, so the relay is stopped when three quarters of the
//! messages are sent; and the exit code is 0, whatever is lost then.
//!
//! To copy: `wiring.rs` is all that a node needs for the layer. `behaviour.rs`, `node.rs` and
//! `events.rs` are an ordinary node; `scenario.rs` is the course of events; the rest measures.

mod args;
mod behaviour;
mod bulk;
mod course;
mod events;
mod heads;
mod node;
mod paths;
mod payload;
mod picture;
mod relay;
mod report;
mod scenario;
mod tally;
mod wiring;

use std::{
    error::Error,
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use args::Args;
use report::Report;
use scenario::Run;

/// What has not happened by then does not happen.
const LIMIT: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let args = Args::checked().unwrap_or_else(|error| error.exit());
    match run(&args).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> Result<ExitCode, Box<dyn Error>> {
    let over = tokio::time::sleep(LIMIT);
    tokio::pin!(over);
    let mut run = tokio::select! {
        run = Run::set_up(args) => run?,
        () = &mut over => return Err("the relay was not reached in time".into()),
    };
    let missing = tokio::select! {
        () = run.go(args) => Vec::new(),
        () = over => run.missing(args),
    };
    let report = Report::new(args, &run, missing);
    let faults = report.faults();
    for fault in &faults {
        eprintln!("fault: {fault}");
    }
    if let Some(path) = &args.svg {
        std::fs::write(path, report.svg())?;
    }
    let mut out = io::stdout().lock();
    match args.json {
        true => writeln!(out, "{}", report.json())?,
        false => writeln!(out, "{}", report.table())?,
    }
    Ok(match faults.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
