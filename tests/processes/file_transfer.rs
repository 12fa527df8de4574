//! `examples/file_transfer` as processes: relay, receiver and sender.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

use sha2::{Digest, Sha256};
use testing::process::{Process, example, listening};

fn program() -> Command {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    Command::new(PROGRAM.get_or_init(|| example("file_transfer")))
}

/// A relay and a receiver behind it, and their directories.
struct Setting {
    _relay: Process,
    receiver: Process,
    circuit: String,
    direct: String,
    from: PathBuf,
    into: PathBuf,
}

impl Setting {
    /// `transport` is how its relay is chosen among the relay's addresses.
    fn new(test: &str, transport: &str, arguments: &[&str]) -> Self {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("file_transfer");
        let [from, into] = ["from", "into"].map(|name| place.join(test).join(name));
        let _ = fs::remove_dir_all(place.join(test));
        for directory in [&from, &into] {
            fs::create_dir_all(directory).unwrap();
        }
        let mut relay = Process::spawn(program().arg("relay"));
        let relay_address = relay.line("relay address", |line| {
            listening(line).filter(|address| address.contains(transport))
        });
        let mut receiver = Process::spawn(
            program()
                .args(["receive", "--once", "--into"])
                .arg(&into)
                .args(arguments)
                .arg(relay_address),
        );
        let direct = receiver.line("direct address", |line| {
            Some(line.strip_prefix("direct address ")?.to_owned())
        });
        let circuit = receiver.line("circuit address", listening);
        Self {
            _relay: relay,
            receiver,
            circuit,
            direct,
            from,
            into,
        }
    }

    fn sender(&self, name: &str, arguments: &[&str]) -> Command {
        let mut sender = program();
        sender.arg("send").args(arguments);
        sender.arg(self.from.join(name)).arg(&self.circuit);
        sender
    }
}

/// What is in a directory, hidden or not.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

/// An address at which nobody listens, with a peer ID.
const NOBODY: &str =
    "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWSCufgHzV4fCwRijfH2k3abrpAJxTKxEvN1FDuRXA2U9x";

/// Bytes that are not the same everywhere.
fn bytes(length: usize) -> Vec<u8> {
    let words = (0_u64..).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut bytes: Vec<u8> = words
        .take(length.div_ceil(8))
        .flat_map(u64::to_be_bytes)
        .collect();
    bytes.truncate(length);
    bytes
}

fn hex(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The SHA-256 that this line ends in.
fn hash_in<'a>(line: &'a str, start: &str) -> Option<&'a str> {
    line.starts_with(start).then(|| line.rsplit(' ').next())?
}

fn text(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

/// Sends, and returns the hash on both sides when it has been moved to this path before its end.
fn sent(setting: &mut Setting, sender: &mut Command, path: &str) -> String {
    let output = sender.output().unwrap();
    let (said, complained) = text(&output);
    assert!(output.status.success(), "{said}{complained}");
    let hash = said
        .lines()
        .find_map(|line| hash_in(line, "sent "))
        .unwrap();
    let there = setting.receiver.line("the end", |line| {
        Some(hash_in(line, "received ")?.to_owned())
    });
    assert_eq!(hash, there);
    let way = |line: &str| Some(line.strip_prefix("on the way: ")?.to_owned());
    let ways = [
        said.lines().find_map(way).unwrap(),
        setting.receiver.line("the way", way),
    ];
    for way in ways {
        let (before, after) = way.split_once(", then ").expect(&way);
        assert!(before.contains(" relayed "), "{way}");
        assert!(after.ends_with(path) && !after.starts_with("0 B"), "{way}");
    }
    assert_eq!(setting.receiver.exit_code(), Some(0));
    there
}

#[test]
fn a_file_by_hole_punching() {
    let mut setting = Setting::new("file", "/quic-v1", &[]);
    let content = bytes(5 << 20 | 123);
    fs::write(setting.from.join("a file"), &content).unwrap();
    let mut sender = setting.sender("a file", &[]);
    let hash = sent(&mut setting, &mut sender, " direct quic");
    assert_eq!(hash, hex(&content));
    assert!(fs::read(setting.into.join("a file")).unwrap() == content);
    assert_eq!(names(&setting.into), ["a file"]);
}

#[test]
fn a_directory_by_dialing() {
    let quic = ["--direct", "/ip4/127.0.0.1/udp/0/quic-v1"];
    let mut setting = Setting::new("directory", "/tcp/", &quic);
    let tree = setting.from.join("tree");
    for directory in ["a/b/c", "empty"] {
        fs::create_dir_all(tree.join(directory)).unwrap();
    }
    let files = [
        ("a/large", 3 << 20),
        ("a/b/c/one", 1),
        ("a/b/none", 0),
        ("ä ß", 65_536),
        (".hidden", 65_537),
    ];
    for (name, length) in files {
        fs::write(tree.join(name), bytes(length)).unwrap();
    }
    symlink("/etc", tree.join("link")).unwrap();
    let direct = setting.direct.clone();
    let mut sender = setting.sender("tree", &["--direct", &direct, "--over-relay", "1024"]);
    sent(&mut setting, &mut sender, " direct quic");
    for (name, length) in files {
        let content = fs::read(setting.into.join("tree").join(name)).unwrap();
        assert!(content == bytes(length), "{name}");
    }
    assert!(setting.into.join("tree/empty").is_dir());
    assert!(setting.into.join("tree/link").symlink_metadata().is_err());
    assert_eq!(names(&setting.into), ["tree"]);
}

/// A sparse file that nobody can be through with by the time somebody looks.
fn endless(path: &Path) {
    let file = fs::File::create(path).unwrap();
    file.set_len(8 << 30).unwrap();
}

#[test]
fn a_sender_that_is_killed_leaves_nothing() {
    let mut setting = Setting::new("killed", "/tcp/", &[]);
    endless(&setting.from.join("endless"));
    let sender = Process::spawn(&mut setting.sender("endless", &[]));
    let going = |line: &str| line.contains(" direct tcp").then_some(());
    setting.receiver.line("progress on the direct path", going);
    let unfinished = names(&setting.into);
    assert!(
        unfinished.iter().all(|name| name.starts_with('.')),
        "{unfinished:?}"
    );
    // Kills it.
    drop(sender);
    setting.receiver.line("the failure", |line| {
        (line.contains("the stream ended in the middle") || line.contains("the stream failed"))
            .then_some(())
    });
    assert_eq!(setting.receiver.exit_code(), Some(1));
    assert_eq!(names(&setting.into), [""; 0]);
}

#[test]
fn a_receiver_that_is_killed_leaves_nothing_that_looks_complete() {
    let mut setting = Setting::new("killed-receiver", "/tcp/", &[]);
    endless(&setting.from.join("endless"));
    let mut sender = Process::spawn(&mut setting.sender("endless", &[]));
    let going = |line: &str| line.contains(" direct tcp").then_some(());
    setting.receiver.line("progress on the direct path", going);
    let Setting { receiver, into, .. } = setting;
    // Kills it.
    drop(receiver);
    assert_eq!(sender.exit_code(), Some(1));
    let left = names(&into);
    assert!(left.iter().all(|name| name.starts_with('.')), "{left:?}");
    assert_eq!(left.len(), 1);
    // The next one removes it, even if it gets no further. Elsewhere it cannot tell who is dead.
    if cfg!(target_os = "linux") {
        let mut next = program();
        next.args(["receive", "--into"]).arg(&into).arg(NOBODY);
        assert_eq!(next.output().unwrap().status.code(), Some(1));
        assert_eq!(names(&into), [""; 0]);
    }
}

#[test]
fn what_is_there_is_not_overwritten_and_both_sides_say_so() {
    let mut setting = Setting::new("exists", "/tcp/", &[]);
    let outside = setting.from.join("outside");
    fs::write(&outside, "mine").unwrap();
    symlink(&outside, setting.into.join("a")).unwrap();
    fs::write(setting.from.join("a"), bytes(1000)).unwrap();
    let output = setting.sender("a", &[]).output().unwrap();
    let (_, complained) = text(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(complained.contains("is there already"), "{complained}");
    setting.receiver.line("the refusal", |line| {
        line.contains("is there already").then_some(())
    });
    assert_eq!(setting.receiver.exit_code(), Some(1));
    assert_eq!(fs::read(outside).unwrap(), b"mine");
    assert_eq!(names(&setting.into), ["a"]);
}

#[test]
fn too_much_is_refused_before_it_is_sent() {
    let mut setting = Setting::new("too-much", "/tcp/", &["--max-mib", "1"]);
    endless(&setting.from.join("endless"));
    let output = setting.sender("endless", &[]).output().unwrap();
    let (_, complained) = text(&output);
    assert!(complained.contains("--max-mib"), "{complained}");
    assert_eq!(setting.receiver.exit_code(), Some(1));
    assert_eq!(names(&setting.into), [""; 0]);
}

/// Mistakes are named, with what to do about them.
#[test]
fn mistakes_are_named() {
    let peer = NOBODY.split_once("/p2p/").unwrap().1;
    let circuit = format!("{NOBODY}/p2p-circuit/p2p/{peer}");
    for (arguments, expected) in [
        (
            ["receive", "--into=.", "/ip4/127.0.0.1/tcp"],
            "/ip4/127.0.0.1/udp/4001/quic-v1",
        ),
        (
            ["receive", "--into=.", "/ip4/127.0.0.1/tcp/1"],
            "/p2p/<peer ID>",
        ),
        (
            ["receive", "--into=/no/such", NOBODY],
            "name a directory that is there",
        ),
        (["send", "Cargo.toml", NOBODY], "/p2p-circuit/"),
        (["send", "/no/such", &circuit], "No such file"),
        (["send", "Cargo.toml", &circuit], "Connection refused"),
    ] {
        let output = program().args(arguments).output().unwrap();
        assert!(!output.status.success());
        let (_, said) = text(&output);
        // The relay comes first in a circuit address.
        let named = arguments[1..].iter().any(|value| {
            let value = value.trim_start_matches("--into=");
            said.contains(value.split("/p2p-circuit").next().unwrap_or(value))
        });
        assert!(said.contains(expected) && named, "{arguments:?}: {said}");
    }
}
