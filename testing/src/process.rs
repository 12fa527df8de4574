//! Programs as processes, and what they print.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

/// Patience with a process.
const HANG: Duration = Duration::from_secs(120);

/// Cargo, as if nobody had called it from here.
pub fn cargo() -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    // What cargo tells this test about its package would make build scripts run anew.
    for (variable, _) in std::env::vars_os() {
        let variable = variable.to_string_lossy();
        let ours = [
            "CARGO_PKG_",
            "CARGO_MANIFEST_",
            "CARGO_CRATE_",
            "CARGO_BIN_",
        ];
        if ours.iter().any(|prefix| variable.starts_with(prefix)) {
            cargo.env_remove(&*variable);
        }
    }
    cargo
}

/// The program of this example, built if need be.
pub fn example(name: &str) -> PathBuf {
    example_with(name, &[])
}

/// The program of this example with these features, built if need be.
pub fn example_with(name: &str, features: &[&str]) -> PathBuf {
    let mut build = cargo();
    build.args(["build", "--locked", "--message-format=json", "--example"]);
    build.arg(name);
    for feature in features {
        build.args(["--features", feature]);
    }
    // As this is, so that nothing is built twice.
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    let output = build.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "the example does not build");
    let lines = String::from_utf8(output.stdout).unwrap();
    let mut executables = lines.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        (message["target"]["name"] == *name)
            .then(|| message["executable"].as_str().map(PathBuf::from))?
    });
    executables.next_back().unwrap()
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
