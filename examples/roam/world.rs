//! What the conductor knows from the reports of its processes.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::sync::watch;

/// The lines that are kept for whoever looks for the reason of something.
const LINES: usize = 200;

/// One of the processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Relay,
    Receiver,
    Sender,
}

/// One node, as it last reported.
#[derive(Debug, Default)]
pub struct View {
    pub peer: String,
    /// Where it listens; a reservation is not among it.
    pub listening: Vec<String>,
    pub reserved: bool,
    /// The path of the stream.
    pub path: String,
    /// Paths on which it has a connection that is not suspected.
    pub up: Vec<String>,
    pub suspended: bool,
    pub bytes: u64,
    pub total: u64,
    pub mark: u64,
    pub pause: Duration,
    pub longest_pause: Duration,
    pub migrations: u64,
    pub resumes: u64,
    pub again: u64,
    /// The SHA-256 at the end.
    pub done: Option<String>,
    /// True if the receipt is right.
    pub exact: bool,
}

impl View {
    fn take(&mut self, report: &Value) {
        let text = |key: &str| report[key].as_str().map(str::to_owned);
        let number = |key: &str, into: &mut u64| {
            if let Some(number) = report[key].as_u64() {
                *into = number;
            }
        };
        number("bytes", &mut self.bytes);
        number("total", &mut self.total);
        number("mark", &mut self.mark);
        number("migrations", &mut self.migrations);
        number("resumes", &mut self.resumes);
        number("again", &mut self.again);
        for (key, into) in [
            ("pause_us", &mut self.pause),
            ("longest_pause_us", &mut self.longest_pause),
        ] {
            if let Some(micros) = report[key].as_u64() {
                *into = Duration::from_micros(micros);
            }
        }
        if let Some(up) = report["up"].as_array() {
            let names = up.iter().filter_map(Value::as_str);
            self.up = names.map(str::to_owned).collect();
            self.path = text("path").unwrap_or_default();
        }
        if let Some(suspended) = report["suspended"].as_bool() {
            self.suspended = suspended;
        }
        if let Some(peer) = text("peer") {
            self.peer = peer;
        }
        self.listening.extend(text("listening"));
        self.reserved |= text("reserved").is_some();
        self.done = text("done").or(self.done.take());
        self.exact |= report["exact"].as_bool() == Some(true);
    }
}

/// Everything together.
#[derive(Debug, Default)]
pub struct World {
    pub relay: View,
    pub receiver: View,
    pub sender: View,
    /// A process that was not to end has ended, or says that it cannot go on.
    pub failed: Option<String>,
    lines: VecDeque<(Instant, String)>,
}

impl World {
    pub fn view(&mut self, who: Who) -> &mut View {
        match who {
            Who::Relay => &mut self.relay,
            Who::Receiver => &mut self.receiver,
            Who::Sender => &mut self.sender,
        }
    }

    pub fn take(&mut self, who: Who, report: &Value) {
        if let Some(said) = report["said"].as_str() {
            self.line(format!("{who:?}: {said}"));
        }
        if let Some(why) = report["failed"].as_str() {
            self.failed = Some(format!("{who:?}: {why}"));
        }
        self.view(who).take(report);
    }

    pub fn line(&mut self, line: String) {
        if self.lines.len() == LINES {
            self.lines.pop_front();
        }
        self.lines.push_back((Instant::now(), line));
    }

    /// What was said since then, with the time from then on.
    pub fn lines_since(&self, then: Instant) -> impl Iterator<Item = String> {
        self.lines.iter().filter_map(move |(at, line)| {
            let since = at.checked_duration_since(then)?;
            Some(format!("{:9.3} s {line}", since.as_secs_f64()))
        })
    }

    fn summary(&self) -> String {
        let of = |view: &View| {
            let suspended = if view.suspended { ", suspended" } else { "" };
            let (path, up) = (&view.path, view.up.join(" "));
            format!("on {path}{suspended}, up: {up}, {} bytes", view.bytes)
        };
        format!(
            "sender {}; receiver {}",
            of(&self.sender),
            of(&self.receiver)
        )
    }
}

/// Waits until it is so.
pub async fn wait(
    world: &watch::Sender<World>,
    what: &str,
    limit: Duration,
    mut is_so: impl FnMut(&World) -> bool,
) -> Result<(), String> {
    let mut watching = world.subscribe();
    let waiting = watching.wait_for(|world| world.failed.is_some() || is_so(world));
    match tokio::time::timeout(limit, waiting).await {
        Ok(Ok(world)) => match &world.failed {
            Some(why) => Err(format!("waited for {what}: {why}")),
            None => Ok(()),
        },
        Ok(Err(_)) => Err(format!("waited for {what}: the conductor is gone")),
        Err(_) => {
            let now = world.borrow().summary();
            Err(format!("{what} did not come within {limit:?}: {now}"))
        }
    }
}
