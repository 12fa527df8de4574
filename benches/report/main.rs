//! Ours against a plain `libp2p-stream` stream, quantity by quantity.
//!
//! `cargo bench --bench report [-- SECTION… --json FILE --quick --svg FILE]`
//!
//! Each line names the quantity, what it is with a migratable stream, what it is with a plain one in the
//! same run, and their ratio with its 95 % bootstrap interval. Where a time is measured, the two take
//! turns. A goal is met if the interval reaches it.

mod alloc;
mod net;
mod path;
mod pipe;
mod sections;
mod stats;

use libp2p_stream_migration_core::{key, machine, policy, protocol, stream, table, view};

use std::{fs, path::PathBuf, process::ExitCode, time::Instant};

use clap::{Parser, ValueEnum};
use testing::alloc::Counting;

use self::{sections::instructions::Child, stats::Report};
use crate::policy::Policy;
use crate::view::{ConnectionInfo, PeerView, StreamInfo};

#[global_allocator]
static ALLOCATOR: Counting<alloc::Heap> = Counting(alloc::Heap);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Section {
    Throughput,
    Instructions,
    Open,
    Switch,
    Mass,
    Memory,
    Table,
    Wire,
}

#[derive(Debug, Parser)]
struct Cli {
    /// What to measure; everything if nothing is named.
    sections: Vec<Section>,
    /// Writes all lines as a JSON array.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Few pairs and few streams: to see that it works, not to quote.
    #[arg(long)]
    quick: bool,
    /// Draws a migration as the reader sees it; part of the section `switch`.
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Said by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
    /// What valgrind runs: nothing but reads and writes.
    #[arg(long, hide = true)]
    child: Option<Child>,
}

/// How much is measured.
#[derive(Debug, Clone, Copy)]
struct Effort {
    pairs: usize,
    quick: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(child) = cli.child {
        child.run();
        return ExitCode::SUCCESS;
    }
    if !cli.bench {
        println!("nothing is measured here; run `cargo bench --bench report`");
        return ExitCode::SUCCESS;
    }
    let sections = match &cli.sections[..] {
        [] => Section::value_variants(),
        sections => sections,
    };
    let effort = Effort {
        pairs: if cli.quick { 3 } else { 15 },
        quick: cli.quick,
    };
    let mut report = Report::default();
    let start = Instant::now();
    for section in sections {
        let begun = Instant::now();
        match section {
            Section::Throughput => sections::throughput::run(effort, &mut report),
            Section::Instructions => sections::instructions::run(effort, &mut report),
            Section::Open => sections::open::run(effort, &mut report),
            Section::Switch => sections::switch::run(effort, cli.svg.as_deref(), &mut report),
            Section::Mass => sections::mass::run(effort, &mut report),
            Section::Memory => sections::memory::run(effort, &mut report),
            Section::Table => sections::table::run(effort, &mut report),
            Section::Wire => sections::wire::run(&mut report),
        }
        println!("{section:?}: {:.0} s", begun.elapsed().as_secs_f64());
    }
    println!("in all: {:.0} s", start.elapsed().as_secs_f64());
    if let Some(file) = cli.json
        && let Err(error) = fs::write(&file, report.json())
    {
        eprintln!("{}: {error}", file.display());
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
