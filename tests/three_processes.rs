//! Relay, listener and dialer as three processes, as the README's walk-through has them.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{OnceLock, mpsc},
    time::{Duration, Instant},
};

/// What takes longer than this hangs.
const HANG: Duration = Duration::from_secs(120);

/// The example's program, built if need be.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(build)
}

fn build() -> PathBuf {
    let mut build = Command::new(env!("CARGO"));
    build.args([
        "build",
        "--locked",
        "--example",
        "relay_to_direct",
        "--message-format=json",
    ]);
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    let output = build.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "the example does not build");
    let lines = output.stdout.lines().map(Result::unwrap);
    let executables = lines.filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(&line).ok()?;
        (message["target"]["name"] == "relay_to_direct")
            .then(|| message["executable"].as_str().map(PathBuf::from))?
    });
    executables.last().unwrap()
}

/// A process and what it prints; killed when dropped.
struct Process {
    child: Child,
    lines: mpsc::Receiver<String>,
    seen: Vec<String>,
}

impl Process {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(program())
            .args(arguments)
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
    fn line<T>(&mut self, what: &str, find: impl Fn(&str) -> Option<T>) -> T {
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

    fn exit_code(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn listening(line: &str) -> Option<String> {
    Some(line.strip_prefix("listening on ")?.to_owned())
}

/// `transport` as it shows in an address; `punch`: by hole punching, else by dialing.
fn moves(transport: &str, in_address: &str, punch: bool) {
    let mut relay = Process::start(&["relay", "--seed", "1"]);
    let relay_address = relay.line("relay address", |line| {
        let address = listening(line)?;
        let ws = address.contains("/ws");
        (address.contains(in_address) && ws == (transport == "ws")).then_some(address)
    });
    let mut listener = Process::start(&["listen", &relay_address]);
    let direct = listener.line("direct address", |line| {
        Some(line.strip_prefix("direct address ")?.to_owned())
    });
    let circuit = listener.line("circuit address", listening);
    let mut arguments = vec!["dial", &circuit, "--mib", "4", "--json"];
    if !punch {
        arguments.extend(["--direct", &direct]);
    }
    let mut dialer = Process::start(&arguments);
    let report = dialer.line("report", |line| {
        serde_json::from_str::<serde_json::Value>(line).ok()
    });
    assert_eq!(dialer.exit_code(), Some(0), "{report}");
    for direction in ["dial_to_listen", "listen_to_dial"] {
        assert_eq!(report["bytes_lost"][direction], 0);
        assert_eq!(report["bytes_duplicated"][direction], 0);
        assert_eq!(report["bytes_received"][direction], 4 << 20);
        assert!(report["old_leg_bytes"][direction].as_u64().unwrap() >= 1 << 20);
        assert!(report["new_leg_bytes"][direction].as_u64().unwrap() > 0);
    }
    assert_eq!(report["sha256_match"], true);
    assert_eq!(report["migrations"], 1);
    assert_eq!(report["path_after"], format!("direct {transport}"));
    assert_eq!(report["relayed_connection_closed"], true);
    listener.line("its own success", |line| {
        (line.starts_with("transfer from") && line.ends_with("0 lost, 0 duplicated, SHA-256 equal"))
            .then_some(())
    });
    listener.line("the relayed connection's end", |line| {
        (line.starts_with("relayed connection") && line.ends_with("closed")).then_some(())
    });
}

#[test]
fn tcp_by_hole_punching() {
    moves("tcp", "/tcp/", true);
}

#[test]
fn quic_by_hole_punching() {
    moves("quic", "/quic-v1", true);
}

#[test]
fn websocket_by_dialing() {
    moves("ws", "/ws", false);
}

/// A bad address is answered by an error that names it and says what is expected.
#[test]
fn bad_addresses_are_named() {
    for (arguments, expected) in [
        (
            &["listen", "/ip4/127.0.0.1/tcp"][..],
            "/ip4/127.0.0.1/udp/4001/quic-v1",
        ),
        (&["listen", "/ip4/127.0.0.1/tcp/1"], "/p2p/<peer ID>"),
        (
            &[
                "dial",
                "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWSCufgHzV4fCwRijfH2k3abrpAJxTKxEvN1FDuRXA2U9x",
            ],
            "/p2p-circuit/",
        ),
    ] {
        let output = Command::new(program()).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            said.contains(arguments[1]) && said.contains(expected),
            "{said}"
        );
    }
}
