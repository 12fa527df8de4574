//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

/// A file goes from one process to another over Wi-Fi, cellular and a relay, which come and go.
///
/// Keys: w, c, r cut or mend Wi-Fi, cellular, the relay; W, C, R silence or mend; q quits.
#[derive(Debug, Clone, Parser)]
#[command(name = "roam")]
pub struct Args {
    #[command(subcommand)]
    pub part: Option<Part>,
    /// The file to send. Default: bytes that are a function of the seed.
    #[arg(long, global = true)]
    pub file: Option<PathBuf>,
    /// How many MiB to send if there is no file.
    #[arg(long, global = true, default_value_t = 64,
        value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pub mib: u64,
    /// The seed of what is sent if there is no file.
    #[arg(long, global = true, default_value_t = 1)]
    pub seed: u64,
    /// The most MiB to send in a second. With a script it is less, so that there is something to
    /// send until its end.
    #[arg(long, global = true, default_value_t = 8,
        value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub pace: u64,
    /// Make the trouble without a hand, and tell whether everything went on.
    #[arg(long, global = true)]
    pub script: bool,
    /// Print one JSON object a line for each event, and one for the whole.
    #[arg(long, global = true)]
    pub json: bool,
    /// Tell on stderr all that the nodes report.
    #[arg(long)]
    pub trace: bool,
    /// Only this step of the script; may be repeated, in any order.
    #[arg(long, value_enum, value_name = "STEP", requires = "script")]
    pub only: Vec<Act>,
}

/// A step of the script.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Act {
    /// The path in use is cut, and the next one, too.
    Cut,
    /// The path in use goes silent, and the next one, too.
    Silence,
    /// All paths are gone for 10 s.
    AllGone,
    /// The relay is restarted while the stream is on it.
    RelayRestart,
    /// Both sides have other addresses at once; the sender is told a moment later.
    BothMoved,
    /// The receiver is where it cannot be dialed, and nobody is told.
    ReceiverMoved,
}

/// One of the conductor's processes.
#[derive(Debug, Clone, Subcommand)]
pub enum Part {
    #[command(hide = true)]
    Relay {
        #[arg(long)]
        seed: u64,
    },
    #[command(hide = true)]
    Receiver,
    #[command(hide = true)]
    Sender,
}
