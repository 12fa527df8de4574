//! What a node tells Prometheus while its streams move all the time.
//!
//! Two nodes on loopback in this process, with a TCP and a QUIC connection between them. Several
//! streams carry a pattern that comes back and is checked; each is moved to the other connection and
//! back, half of them by one node and half by the other. `/metrics` is one node's, `/there/metrics`
//! the other's; `dashboard.json` beside this file is for Grafana.

mod load;
mod moves;
mod node;
mod scrape;
mod serve;

use std::{error::Error, net::SocketAddr, process::ExitCode, time::Duration};

use clap::Parser;
use libp2p::StreamProtocol;
use tokio::{net::TcpListener, sync::watch};

use node::Node;

/// Anything that may go wrong in an example.
type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

const LOAD: StreamProtocol = StreamProtocol::new("/load/1.0.0");

#[derive(Parser)]
struct Args {
    /// Where to serve the metrics; with port 0, the system chooses one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// How long to run; until Ctrl-C if left out.
    #[arg(long)]
    seconds: Option<u64>,
    /// How many streams there are.
    #[arg(long, default_value_t = 8)]
    streams: usize,
    /// How long a stream stays on a connection before it moves on, in milliseconds. A node takes
    /// ten migrations of a stream per second, and refuses more.
    #[arg(long, default_value_t = 250)]
    pause: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    match run(Args::parse()).await {
        Ok(lost) => ExitCode::from(u8::from(lost > 0)),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs until there is enough; returns how many bytes were lost.
async fn run(args: Args) -> Fallible<u64> {
    let there = Node::start(&[]).await?;
    let here = Node::start(&there.addresses).await?;
    let places = [("/metrics", &here), ("/there/metrics", &there)];
    let places = places.map(|(path, node)| (path, node.registry.clone()));
    let listener = TcpListener::bind(args.listen).await?;
    println!("metrics at http://{}/metrics", listener.local_addr()?);
    tokio::spawn(serve::serve(listener, places.into()));

    let connections = [here.connections(there.id), there.connections(here.id)];
    let [from_here, from_there] = futures::future::try_join_all(connections)
        .await?
        .try_into()
        .map_err(|_| "two nodes")?;
    // Streams come to rest before they end: what has ended does not move.
    let (rest, enough) = (watch::Sender::new(false), watch::Sender::new(false));
    let mut incoming = there.control.clone().accept(LOAD)?;
    let (mut talks, mut movers) = (Vec::new(), Vec::new());
    for number in 0..args.streams {
        let mut control = here.control.clone();
        let (opened, accepted) = tokio::join!(
            control.open_stream(there.id, LOAD),
            futures::StreamExt::next(&mut incoming),
        );
        let (ours, (_, theirs)) = (opened?, accepted.ok_or("the other node is gone")?);
        let (control, key, connections) = if number % 2 == 0 {
            (here.control.clone(), ours.key(), from_here)
        } else {
            (there.control.clone(), theirs.key(), from_there)
        };
        movers.push(tokio::spawn(moves::to_and_fro(
            control,
            key,
            connections,
            Duration::from_millis(args.pause),
            rest.subscribe(),
        )));
        let seed = number as u64;
        talks.push(tokio::spawn(load::talk(ours, seed, enough.subscribe())));
        tokio::spawn(load::echo(theirs));
    }

    match args.seconds {
        Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
        None => tokio::signal::ctrl_c().await?,
    }
    rest.send_replace(true);
    for mover in movers {
        mover.await??;
    }
    enough.send_replace(true);
    let mut lost = 0;
    for talk in talks {
        lost += talk.await??;
    }
    for node in [&here, &there] {
        node.until_no_stream_is_left().await?;
    }
    // Either node tells of all of them, the other's included.
    let metrics = here.scrape()?;
    let moved = metrics.sum("migrations_total", &[("outcome", "completed")]);
    let took = metrics.sum("migration_duration_seconds_sum", &[]);
    let number = metrics.sum("migration_duration_seconds_count", &[]);
    println!(
        "migrations: {moved}, lost bytes: {lost}, mean duration: {:.2} ms",
        1000.0 * took / number.max(1.0)
    );
    Ok(lost)
}
