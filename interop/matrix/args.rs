//! The flags.

use std::{env, path::PathBuf, thread};

use clap::Parser;

use crate::{
    case::{Case, Impl},
    plan,
    process::Programs,
};

/// Runs pairs of test peers through the interop matrix. Exit code 1 if a case fails.
#[derive(Debug, Parser)]
pub struct Args {
    /// Only cases whose names have all of these in them.
    filters: Vec<String>,
    /// Print the cases' names, run nothing.
    #[arg(long)]
    pub list: bool,
    /// Only a few cases, those that `cargo test` runs.
    #[arg(long)]
    smoke: bool,
    /// Only cases that need no other peers, be it as relays.
    #[arg(long, value_delimiter = ',', default_value = "rust,go,js", value_parser = implementation)]
    peers: Vec<Impl>,
    /// How many cases run side by side.
    #[arg(long, default_value_t = thread::available_parallelism().map_or(2, usize::from))]
    pub jobs: usize,
    /// The Rust peer. Default: $INTEROP_RUST, or the example beside this one.
    #[arg(long, value_name = "PATH")]
    rust: Option<PathBuf>,
    /// The Go peer. Default: $INTEROP_GO.
    #[arg(long, value_name = "PATH")]
    go: Option<PathBuf>,
    /// The JS peer, which `node` runs. Default: $INTEROP_JS.
    #[arg(long, value_name = "PATH")]
    js: Option<PathBuf>,
    /// Where the logs of failed cases are kept.
    #[arg(
        long,
        value_name = "DIR",
        default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/target/interop/logs"),
    )]
    pub logs: PathBuf,
}

fn implementation(name: &str) -> Result<Impl, String> {
    let mut all = Impl::ALL.into_iter();
    all.find(|which| which.name() == name)
        .ok_or_else(|| "expected rust, go or js".to_owned())
}

impl Args {
    pub fn wants(&self, case: &Case) -> bool {
        let name = case.to_string();
        let mut unavailable = Impl::ALL.into_iter().filter(|it| !self.peers.contains(it));
        self.filters.iter().all(|filter| name.contains(filter))
            && !unavailable.any(|which| case.needs(which))
            && (!self.smoke || plan::SMOKE.contains(&&*name))
    }

    pub fn programs(&self) -> Programs {
        let from = |name| env::var_os(name).map(PathBuf::from);
        let beside = || {
            let exe = env::current_exe().unwrap_or_default();
            exe.with_file_name(format!("interop_peer{}", env::consts::EXE_SUFFIX))
        };
        let rust = self.rust.clone().or_else(|| from("INTEROP_RUST"));
        Programs {
            rust: rust.unwrap_or_else(beside),
            go: self.go.clone().or_else(|| from("INTEROP_GO")),
            js: self.js.clone().or_else(|| from("INTEROP_JS")),
        }
    }
}
