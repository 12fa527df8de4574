//! A stream moves from a relayed connection to a direct one while bytes flow both ways, and every byte is
//! checked.
//!
//! Without arguments, everything happens in this process on loopback: a relay, a listener that can only
//! be reached through it, a dialer. With a subcommand, each is a process of its own.

mod args;
mod node;
mod processes;
mod report;
mod scenario;
mod transfer;

use std::{error::Error, process::ExitCode};

use args::{Cli, Command};
use clap::Parser;
use report::Report;

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    match run(Cli::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<ExitCode, Box<dyn Error>> {
    match cli.command {
        None => {
            let report = scenario::all_in_one(&cli.run).await?;
            Ok(show(&report, cli.run.size.json))
        }
        Some(Command::Relay { listen, identity }) => {
            processes::relay(identity.keypair()?, listen).await?;
            Ok(ExitCode::SUCCESS)
        }
        Some(Command::Listen {
            relay,
            direct,
            identity,
        }) => {
            processes::listen(identity.keypair()?, relay, direct).await?;
            Ok(ExitCode::SUCCESS)
        }
        Some(Command::Dial {
            circuit,
            direct,
            size,
            identity,
        }) => {
            let report = processes::dial(identity.keypair()?, circuit, direct, &size).await?;
            Ok(show(&report, size.json))
        }
    }
}

/// Prints the report; the exit code tells whether everything is as it should be.
fn show(report: &Report, json: bool) -> ExitCode {
    if json {
        println!("{}", report.json());
    } else {
        report.print();
    }
    let faults = report.faults();
    for fault in &faults {
        eprintln!("fault: {fault}");
    }
    if faults.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
