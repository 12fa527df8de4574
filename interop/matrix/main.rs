//! The interop matrix: pairs of test peers of all implementations, moved streams, checked bytes.
//! `interop/run.sh` builds what this needs and runs it; `interop/README.md` has the peers' command line.

mod args;
mod case;
mod counts;
mod flow;
mod identity;
mod moves;
mod pattern;
mod plan;
mod process;
mod refusals;
mod report;
mod skips;
mod world;

use std::{
    collections::HashSet,
    fs,
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Parser;
use tokio::{sync::Semaphore, task::JoinSet};

use self::{
    args::Args,
    case::Case,
    process::{Check, Place, Waits},
    report::{Outcome, Report},
    skips::Skips,
};

/// What takes longer than this hangs.
const HANG: Duration = Duration::from_secs(30);

/// How Rust, Go and Node say that something went wrong that was not meant to.
const PANICS: [&str; 4] = [
    "panicked at",
    "panic: ",
    "DATA RACE",
    "UnhandledPromiseRejection",
];

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let all = plan::all();
    let skips = match Skips::read(&all).and_then(|skips| smoke_is_there(&all).map(|()| skips)) {
        Ok(skips) => skips,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    let chosen: Vec<_> = all.into_iter().filter(|case| args.wants(case)).collect();
    if args.list {
        for case in chosen {
            match skips.reason(&case) {
                Some(reason) => println!("{case}  # skip: {reason}"),
                None => println!("{case}"),
            }
        }
        return ExitCode::SUCCESS;
    }
    if chosen.is_empty() {
        eprintln!("error: no case fits");
        return ExitCode::from(2);
    }
    tokio::select! {
        report = run_all(Arc::new(args), chosen, &skips) => report.end(),
        // The peers go with their futures.
        _ = tokio::signal::ctrl_c() => ExitCode::from(130),
    }
}

/// A case that has another name by now would be missed without anybody noticing.
fn smoke_is_there(all: &[Case]) -> Check {
    let names: HashSet<_> = all.iter().map(Case::to_string).collect();
    match plan::SMOKE.into_iter().find(|name| !names.contains(*name)) {
        None => Ok(()),
        Some(name) => Err(format!("there is no case {name}")),
    }
}

async fn run_all(args: Arc<Args>, chosen: Vec<Case>, skips: &Skips) -> Report {
    let width = chosen.iter().map(|case| case.to_string().len()).max();
    let mut report = Report::new(width.unwrap_or_default());
    let places = Arc::new(Semaphore::new(args.jobs));
    let mut running = JoinSet::new();
    for case in chosen {
        if let Some(reason) = skips.reason(&case) {
            report.tell(&case, &Outcome::Skipped(reason), Duration::ZERO);
            continue;
        }
        let (args, places) = (args.clone(), places.clone());
        running.spawn(async move {
            let _place = places.acquire_owned().await;
            let begun = Instant::now();
            let outcome = match run(&args, &case).await {
                Ok(()) => Outcome::Passed,
                Err(why) => Outcome::Failed(why),
            };
            (case, outcome, begun.elapsed())
        });
    }
    while let Some(ran) = running.join_next().await {
        match ran {
            Ok((case, outcome, took)) => report.tell(&case, &outcome, took),
            Err(error) => report.broken(&error.to_string()),
        }
    }
    report
}

/// Runs a case; keeps its logs if it fails.
async fn run(args: &Args, case: &Case) -> Check {
    let place = Place {
        programs: args.programs(),
        logs: args.logs.join(case.folder()),
        waits: Waits::default(),
    };
    // Of an earlier run.
    let _ = fs::remove_dir_all(&place.logs);
    let mut running = Box::pin(moves::run(case, &place));
    let result = match tokio::time::timeout(HANG, &mut running).await {
        Ok(result) => result,
        Err(_) => Err(format!("hangs, waiting for {}", place.waits.all())),
    };
    drop(running);
    let result = result.and_then(|()| no_panics(&place.logs));
    match &result {
        Ok(()) => {
            let _ = fs::remove_dir_all(&place.logs);
        }
        Err(why) => {
            let _ = fs::write(place.logs.join("why"), format!("{case}\n{why}\n"));
        }
    }
    result
}

/// A peer may have a panic in one task and go on with the others.
fn no_panics(logs: &Path) -> Check {
    for file in fs::read_dir(logs).into_iter().flatten().flatten() {
        let path = file.path();
        if path.is_dir() {
            no_panics(&path)?;
        }
        if path.extension().is_some_and(|ending| ending == "stderr") {
            let said = fs::read(&path).unwrap_or_default();
            let said = String::from_utf8_lossy(&said);
            if let Some(line) = said
                .lines()
                .find(|line| PANICS.iter().any(|it| line.contains(it)))
            {
                let name = file.file_name();
                return Err(format!("{}: {line}", name.display()));
            }
        }
    }
    Ok(())
}
