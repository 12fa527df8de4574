//! A file over paths that come and go: the example's own script.

use std::{path::PathBuf, process::Command, sync::OnceLock};

use serde_json::Value;
use testing::process::{Process, example};

/// The longest pause in seconds that passes here, whatever is lost.
const PAUSE: f64 = 20.0;

fn program() -> &'static PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| example("roam"))
}

/// Runs the script, or one step of it; each of these events comes, the stream goes on after it, and
/// the file arrives as it was sent.
fn goes_on(step: Option<&str>, events: &[&str]) -> Value {
    let mut command = Command::new(program());
    command.args(["--script", "--json", "--mib", "24"]);
    command.args(step.map(|step| format!("--only={step}")));
    let mut roam = Process::spawn(&mut command);
    let whole = |line: &str| {
        let report: Value = serde_json::from_str(line).ok()?;
        report["exact"].is_boolean().then_some(report)
    };
    for (n, event) in events.iter().enumerate() {
        let before = events[..n].iter().filter(|it| *it == event).count();
        let seen = std::cell::Cell::new(0);
        let report = roam.line(event, |line| {
            let report: Value = serde_json::from_str(line).ok()?;
            let is_it = report["event"] == *event;
            let nth = seen.replace(seen.get() + usize::from(is_it));
            (is_it && nth == before).then_some(report)
        });
        let pause = report["pause_ms"].as_f64().unwrap() / 1e3;
        assert!(pause < PAUSE, "{report}");
        let names = ["wifi", "cellular", "relay"];
        assert!(names.iter().any(|name| report["to"] == *name), "{report}");
    }
    let whole = roam.line("the whole", whole);
    assert_eq!(whole["exact"], true, "{whole}");
    assert_eq!(whole["bytes"], 24 << 20, "{whole}");
    assert_eq!(whole["sha256"].as_str().unwrap().len(), 64, "{whole}");
    assert!(whole["resumes"].as_u64() >= Some(1), "{whole}");
    assert_eq!(roam.exit_code(), Some(0), "{whole}");
    whole
}

/// The path in use is cut, and the next one; the last one stays.
#[test]
fn paths_are_cut() {
    goes_on(Some("cut"), &["cut", "cut"]);
}

/// The path in use goes silent, and the next one, and nobody is told.
#[test]
fn paths_go_silent() {
    goes_on(Some("silence"), &["silence", "silence"]);
}

/// Nothing is left for 10 s.
#[test]
fn all_paths_are_gone() {
    let whole = goes_on(Some("all-gone"), &["all_gone"]);
    assert!(
        whole["longest_pause_ms"].as_f64() >= Some(9_000.0),
        "{whole}"
    );
}

/// The relay is restarted, and I am on it.
#[test]
fn the_relay_is_restarted() {
    goes_on(Some("relay-restart"), &["relay_restart"]);
}

/// Both sides are elsewhere at once, and somebody says where.
#[test]
fn both_sides_move() {
    goes_on(Some("both-moved"), &["both_moved"]);
}

/// The receiver is elsewhere, and has to find out, and to dial.
#[test]
fn the_receiver_moves() {
    goes_on(Some("receiver-moved"), &["receiver_moved"]);
}

/// All of this happens to one stream.
#[test]
fn one_after_the_other() {
    let events = [
        "cut",
        "cut",
        "silence",
        "silence",
        "all_gone",
        "relay_restart",
        "both_moved",
        "receiver_moved",
    ];
    goes_on(None, &events);
}

/// A file that is not there is named.
#[test]
fn a_missing_file_is_named() {
    let output = Command::new(program())
        .args(["--script", "--file", "/nowhere/at-all"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("/nowhere/at-all"), "{said}");
}
