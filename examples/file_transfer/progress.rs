//! How far a transfer is, on which path, and how fast: a bar on a terminal, lines elsewhere.

use std::{
    future::Future,
    io::{self, IsTerminal},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};
use libp2p_stream_migration::StreamKey;

use crate::{node::Node, say};

const LOOK: Duration = Duration::from_millis(100);
const LINE: Duration = Duration::from_secs(1);

/// What a transfer tells those who watch it.
#[derive(Debug, Default)]
pub struct Progress {
    pub done: AtomicU64,
    pub total: AtomicU64,
}

/// Where we talk to people.
pub struct Screen {
    bars: Option<MultiProgress>,
}

impl Screen {
    pub fn new() -> Self {
        let terminal = io::stdout().is_terminal() && io::stderr().is_terminal();
        let bars = terminal.then(MultiProgress::new);
        Self { bars }
    }

    /// A line that does not tear the bars. Nobody may read us any more; the transfer goes on.
    pub fn say(&self, line: &str) {
        let _ = match &self.bars {
            Some(bars) => bars.suspend(|| say(line)),
            None => say(line),
        };
    }

    /// Shows the progress of this work on this stream while it goes on.
    pub async fn show<T>(
        &self,
        verb: &'static str,
        progress: &Progress,
        node: &Node,
        stream: StreamKey,
        work: impl Future<Output = T>,
    ) -> T {
        let watching = async {
            let mut sight = match &self.bars {
                Some(bars) => Sight::bar(bars, verb),
                None => Sight::Lines {
                    verb,
                    path: String::new(),
                    done: 0,
                    at: Instant::now(),
                },
            };
            let mut ticks = tokio::time::interval(LOOK);
            loop {
                ticks.tick().await;
                let path = node.look(|state| state.route(stream).map(|route| route.now.clone()));
                let done = progress.done.load(Ordering::Relaxed);
                let total = progress.total.load(Ordering::Relaxed);
                sight.update(path.as_deref().unwrap_or("not migratable"), done, total);
            }
        };
        tokio::select! {
            done = work => done,
            () = watching => unreachable!("it goes on for ever"),
        }
    }
}

enum Sight {
    Bar(ProgressBar),
    Lines {
        verb: &'static str,
        path: String,
        done: u64,
        at: Instant,
    },
}

impl Sight {
    fn bar(bars: &MultiProgress, verb: &'static str) -> Self {
        let style = ProgressStyle::with_template(
            "{prefix} {bar:40} {bytes:>10}/{total_bytes} {bytes_per_sec:>12} {msg}",
        )
        .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(0).with_style(style).with_prefix(verb);
        Self::Bar(bars.add(bar))
    }

    fn update(&mut self, now: &str, sum: u64, total: u64) {
        match self {
            Self::Bar(bar) => {
                bar.set_length(total);
                bar.set_position(sum);
                bar.set_message(now.to_owned());
            }
            Self::Lines {
                verb,
                path,
                done,
                at,
            } => {
                let since = at.elapsed();
                let news = *path != now || (since >= LINE && sum > *done);
                if sum == 0 || !news {
                    return;
                }
                let rate = (sum - *done) as f64 / since.as_secs_f64().max(1e-3);
                let _ = say(&format!(
                    "{verb}: {} of {}, {}/s, {now}",
                    HumanBytes(sum),
                    HumanBytes(total),
                    HumanBytes(rate as u64),
                ));
                now.clone_into(path);
                (*done, *at) = (sum, Instant::now());
            }
        }
    }
}

impl Drop for Sight {
    fn drop(&mut self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}
