//! What Tendermint's RFC 004, "P2P Stream Support", asks of a P2P stack: a stream for each channel,
//! a handshake that says which it is and how large its messages may be, and messages framed by
//! their sender. With streams that migrate, the connection under the channels can change: here from
//! TCP to QUIC, under load, with one channel's reader asleep.
//!
//! Two nodes in this process, on loopback. Read `channel.rs`, then `codec.rs`; `node.rs` says in
//! one line what moves.

mod channel;
mod check;
mod codec;
mod load;
mod messages;
mod node;

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use clap::Parser;
use libp2p_stream_migration::Transport;
use load::{Flow, Plan, Report};

/// Four channels move from TCP to QUIC under load, and no message is lost, repeated or reordered.
#[derive(Debug, Parser)]
struct Cli {
    /// How many messages each channel carries in each direction, at least.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(8..))]
    messages: u64,
    /// How many seconds to go on, at least.
    #[arg(long, default_value_t = 0)]
    seconds: u32,
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let cli = Cli::parse();
    let plan = Plan {
        messages: cli.messages,
        time: Duration::from_secs(cli.seconds.into()),
    };
    let shown = match load::run(plan).await {
        Ok(report) => show(&report).map(|()| report.faults()),
        Err(error) => Ok(vec![error.to_string()]),
    };
    let faults = shown.unwrap_or_else(|error| vec![error.to_string()]);
    for fault in &faults {
        eprintln!("fault: {fault}");
    }
    match faults.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Without a panic if nobody reads our output any more.
fn show(report: &Report) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{:9}    {:>7} {:>8} {:>8} {:>5} {:>8} {:>9}  {:11} {:>8} {:>10}",
        "channel",
        "largest",
        "sent",
        "received",
        "lost",
        "repeated",
        "reordered",
        "moved",
        "within",
        "MiB before"
    )?;
    for flow in &report.flows {
        let name = |transport| match transport {
            Some(Transport::Tcp) => "tcp",
            Some(Transport::Quic) => "quic",
            _ => "?",
        };
        let moved = flow.moved.map(|(moved, _)| moved);
        let way = moved.map_or((None, None), |moved| (moved.from, moved.to));
        writeln!(
            out,
            "{:9} {}  {:>7} {:>8} {:>8} {:>5} {:>8} {:>9}  {:11} {:>5} ms {:>10.1}",
            flow.channel,
            flow.way,
            flow.max_message,
            flow.sent,
            flow.check.received,
            flow.lost(),
            flow.check.repeated,
            flow.check.reordered,
            format!("{} → {}", name(way.0), name(way.1)),
            moved.map_or(0, |moved| moved.took.as_millis()),
            moved.map_or(0, |moved| moved.sent) as f64 / f64::from(1 << 20),
        )?;
    }
    writeln!(
        out,
        "refused at the sender: {} messages larger than the remote accepts",
        report.refused
    )?;
    writeln!(
        out,
        "while the mempool's reader slept after {} messages, the other channels delivered {}",
        report.slow_then, report.others_then
    )?;
    let (sent, lost) = (report.sum(|flow| flow.sent), report.sum(Flow::lost));
    writeln!(out, "messages: {sent}, lost: {lost}")
}

impl Flow {
    fn lost(&self) -> u64 {
        self.check.lost(self.sent)
    }
}

impl Report {
    fn sum(&self, count: impl Fn(&Flow) -> u64) -> u64 {
        self.flows.iter().map(count).sum()
    }

    /// What is not as it should be.
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for flow in &self.flows {
            let check = &flow.check;
            for (count, what) in [
                (flow.lost(), "lost"),
                (check.repeated, "repeated"),
                (check.reordered, "reordered"),
                (check.altered, "altered"),
                (flow.sent.abs_diff(check.received), "too many or too few"),
            ] {
                if count > 0 {
                    faults.push(format!("{} {}: {count} {what}", flow.channel, flow.way));
                }
            }
            let moved = flow
                .moved
                .map(|(moved, times)| (moved.from, moved.to, times));
            if moved != Some((Some(Transport::Tcp), Some(Transport::Quic), 1)) {
                faults.push(format!("{} {}: moved {moved:?}", flow.channel, flow.way));
            }
        }
        if self.refused != self.flows.len() {
            let sent = self.flows.len() - self.refused;
            faults.push(format!("{sent} messages were sent that are too large"));
        }
        faults
    }
}

#[cfg(test)]
mod tests;
