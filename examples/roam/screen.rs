//! What a person sees: a bar that is drawn anew, and a line for each event.

use std::{
    io::{self, IsTerminal},
    sync::Arc,
    time::Duration,
};

use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};
use serde_json::Value;
use tokio::sync::watch;

use crate::{say, world::World};

const LOOK: Duration = Duration::from_millis(100);

/// Where no bar can be drawn, a line comes so often.
const LINE: u32 = 20;

pub struct Screen {
    json: bool,
    bars: Option<MultiProgress>,
}

impl Screen {
    pub fn new(json: bool) -> Self {
        let terminal = io::stdout().is_terminal() && io::stderr().is_terminal();
        let bars = (terminal && !json).then(MultiProgress::new);
        Self { json, bars }
    }

    /// A line for a person, or an object for a program. Nobody may read us any more; the transfer
    /// goes on.
    pub fn say(&self, line: &str, json: Option<&Value>) {
        let _ = match (self.json, json, &self.bars) {
            (true, Some(json), _) => say(&json.to_string()),
            (true, None, _) => Ok(()),
            (false, _, Some(bars)) => bars.suspend(|| say(line)),
            (false, _, None) => say(line),
        };
    }

    /// Shows the transfer for as long as it is polled.
    pub async fn show(&self, world: &Arc<watch::Sender<World>>) {
        if self.json {
            return std::future::pending().await;
        }
        let bar = self.bars.as_ref().map(|bars| bars.add(ProgressBar::new(0)));
        if let Some(bar) = &bar {
            let style = ProgressStyle::with_template(
                "{bar:32} {percent:>3} % {bytes:>10} {bytes_per_sec:>12}  {msg}",
            );
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        }
        let mut ticks = tokio::time::interval(LOOK);
        let mut before = 0;
        for n in 0_u32.. {
            ticks.tick().await;
            let (bytes, total, path) = {
                let world = world.borrow();
                let path = match (world.sender.suspended, world.sender.path.as_str()) {
                    (true, _) => "suspended".to_owned(),
                    (false, path) => format!("over {path}"),
                };
                (world.receiver.bytes, world.sender.total, path)
            };
            match &bar {
                Some(bar) => {
                    bar.set_length(total);
                    bar.set_position(bytes);
                    bar.set_message(path);
                }
                None if n % LINE == 0 && total > 0 => {
                    let rate = bytes.saturating_sub(before) * 10 / u64::from(LINE);
                    before = bytes;
                    let line = format!(
                        "{:3} % of {}, {}/s, {path}",
                        bytes * 100 / total,
                        HumanBytes(total),
                        HumanBytes(rate),
                    );
                    self.say(&line, None);
                }
                None => {}
            }
        }
    }
}
