//! The example's program as processes, and what they print.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{OnceLock, mpsc},
    time::{Duration, Instant},
};

use crate::build::example;

/// What takes longer than this hangs.
const HANG: Duration = Duration::from_secs(120);

/// The example's program, built if need be.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| example("relay_to_direct"))
}

/// A process and what it prints; killed when dropped.
pub struct Process {
    child: Child,
    lines: mpsc::Receiver<String>,
    seen: Vec<String>,
}

impl Process {
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self {
            child,
            lines,
            seen: Vec::new(),
        }
    }

    /// Waits for a line of which `find` makes something.
    pub fn line<T>(&mut self, what: &str, find: impl Fn(&str) -> Option<T>) -> T {
        let start = Instant::now();
        let mut next = 0;
        loop {
            if let Some(found) = self.seen[next..].iter().find_map(|line| find(line)) {
                return found;
            }
            next = self.seen.len();
            let left = HANG.saturating_sub(start.elapsed());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.seen.push(line),
                Err(error) => panic!("no {what}: {error}; it said {:?}", self.seen),
            }
        }
    }

    pub fn exit_code(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn listening(line: &str) -> Option<String> {
    Some(line.strip_prefix("listening on ")?.to_owned())
}

/// Asserts that the dialer's report is one of an exact transfer of so many bytes each way, with one
/// migration and an end of the relayed connection.
pub fn assert_exact(report: &serde_json::Value, bytes: u64) {
    for direction in ["dial_to_listen", "listen_to_dial"] {
        assert_eq!(report["bytes_lost"][direction], 0, "{report}");
        assert_eq!(report["bytes_duplicated"][direction], 0, "{report}");
        assert_eq!(report["bytes_received"][direction], bytes, "{report}");
        let leg = |name: &str| report[name][direction].as_u64().unwrap();
        assert!(leg("old_leg_bytes") >= 1 << 20, "{report}");
        assert!(leg("new_leg_bytes") > 0, "{report}");
    }
    assert_eq!(report["sha256_match"], true, "{report}");
    assert_eq!(report["migrations"], 1, "{report}");
    assert_eq!(report["relayed_connection_closed"], true, "{report}");
}

/// The dialer's report, and that it exits well.
pub fn report(dialer: &mut Process) -> serde_json::Value {
    let report = dialer.line("report", |line| serde_json::from_str(line).ok());
    assert_eq!(dialer.exit_code(), Some(0), "{report}");
    report
}

/// The listener says that it received everything, and that the relayed connection is gone.
pub fn assert_listener_done(listener: &mut Process) {
    listener.line("its own success", |line| {
        (line.starts_with("transfer from") && line.ends_with("0 lost, 0 duplicated, SHA-256 equal"))
            .then_some(())
    });
    listener.line("the relayed connection's end", |line| {
        (line.starts_with("relayed connection") && line.ends_with("closed")).then_some(())
    });
}
