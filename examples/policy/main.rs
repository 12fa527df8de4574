//! Who decides what moves: a policy of your own inside the behaviour, or a task outside it.
//!
//! Two nodes on loopback in this process. With `--inside`, streams of one protocol stay on TCP and those
//! of another go to QUIC, by a `Policy` in a `Chain`. With `--outside`, both have dialed each other, and
//! a task at each merges the two connections with nothing but events and a `Control`. Without either,
//! both are shown. Every byte is checked.

mod inside;
mod node;
mod outside;
mod traffic;

use std::{error::Error, process::ExitCode};

use clap::Parser;

/// Anything that may go wrong in an example.
type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Parser)]
struct Args {
    /// A policy of our own, in the behaviour.
    #[arg(long)]
    inside: bool,
    /// The behaviour's policy off, and a task with a control instead.
    #[arg(long)]
    outside: bool,
}

/// What came of it.
#[derive(Debug, Default)]
struct Outcome {
    /// Migrations that are complete.
    moved: usize,
    /// Bytes that were written and did not come back as they were.
    lost: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    match run(Args::parse()).await {
        Ok(Outcome { moved, lost }) => {
            println!("moved: {moved}, lost: {lost}");
            ExitCode::from(u8::from(lost > 0))
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Fallible<Outcome> {
    let both = args.inside == args.outside;
    let mut total = Outcome::default();
    if args.inside || both {
        total += inside::run().await?;
    }
    if args.outside || both {
        total += outside::run().await?;
    }
    Ok(total)
}

impl std::ops::AddAssign for Outcome {
    fn add_assign(&mut self, more: Self) {
        self.moved += more.moved;
        self.lost += more.lost;
    }
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn inside() {
        let outcome = crate::inside::run().await.unwrap();
        assert_eq!((outcome.moved, outcome.lost), (1, 0));
    }

    #[tokio::test]
    async fn outside() {
        let outcome = crate::outside::run().await.unwrap();
        // As many as were on the connection that is not kept.
        assert_eq!((outcome.moved, outcome.lost), (2, 0));
    }
}
