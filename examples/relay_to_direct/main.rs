//! A stream moves from a relayed connection to a direct one while bytes flow both ways, and every
//! byte is checked.
//!
//! Without arguments, everything happens in this process on loopback: a relay, a listener that can
//! only be reached through it, a dialer. With a subcommand, each is a process of its own.

mod args;
mod node;
mod processes;
mod report;
mod scenario;
mod transfer;

use std::{
    error::Error,
    io::{self, Write},
    process::ExitCode,
};

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
            eprintln!("error: {}", chain(&*error));
            ExitCode::FAILURE
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

async fn run(cli: Cli) -> Result<ExitCode, Box<dyn Error>> {
    match cli.command {
        None => {
            let report = scenario::all_in_one(&cli.run).await?;
            Ok(show(&report, cli.run.size.json)?)
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
            Ok(show(&report, size.json)?)
        }
    }
}

/// Prints the report; the exit code tells whether everything is as it should be.
fn show(report: &Report, json: bool) -> io::Result<ExitCode> {
    if json {
        say(&report.json().to_string())?;
    } else {
        say(&report.table())?;
    }
    let faults = report.faults();
    for fault in &faults {
        eprintln!("fault: {fault}");
    }
    Ok(if faults.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
