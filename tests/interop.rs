//! A part of the interop matrix, with the Go and the JS peer if Go and Node are there. The whole of it
//! is `interop/run.sh`.

use std::{
    env, fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use testing::process::{cargo, example};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Whether the program is there. In CI, everything has to be.
fn have(program: &str, argument: &str) -> bool {
    let ran = Command::new(program)
        .arg(argument)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let have = ran.is_ok_and(|status| status.success());
    let ci = env::var_os("CI").is_some_and(|ci| ci == "true");
    assert!(have || !ci, "{program} is needed in CI");
    have
}

fn run(what: &str, command: &mut Command) {
    let status = command.stdin(Stdio::null()).status().unwrap();
    assert!(status.success(), "{what}: {status}");
}

/// The last commit before the wire's first changes that a peer could notice: where IDs begin, and what a
/// refusal behind the label means. A fresh clone may lack its tag, `v0.1.0-pre`.
const BEFORE: &str = "e24df23";

/// The test peer as it was then, built in a directory of its own; `None` if its sources are not there.
fn peer_before() -> Option<PathBuf> {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("before");
    let (source, target) = (place.join("source"), place.join("target"));
    if !source.join("Cargo.toml").is_file() {
        let archive = Command::new("git")
            .args(["archive", "--format=tar", BEFORE])
            .current_dir(ROOT)
            .stdin(Stdio::null())
            .output();
        let archive = archive.ok().filter(|archive| archive.status.success());
        // A shallow clone has no history, wherever it is.
        let archive = archive?;
        // Complete, or not there.
        let unpacked = place.join("unpacked");
        let _ = fs::remove_dir_all(&unpacked);
        fs::create_dir_all(&unpacked).unwrap();
        let mut tar = Command::new("tar")
            .args(["-x", "-f", "-", "-C"])
            .arg(&unpacked)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        tar.stdin
            .take()
            .unwrap()
            .write_all(&archive.stdout)
            .unwrap();
        assert!(tar.wait().unwrap().success(), "{BEFORE} cannot be unpacked");
        // Below another workspace, it has to be one of its own.
        let manifest = unpacked.join("Cargo.toml");
        let text = fs::read_to_string(&manifest).unwrap();
        fs::write(&manifest, format!("{text}\n[workspace]\n")).unwrap();
        fs::rename(&unpacked, &source).unwrap();
    }
    run(
        "the peer from before does not build",
        cargo()
            .args(["build", "--locked", "--quiet", "--example", "interop_peer"])
            .arg("--target-dir")
            .arg(&target)
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .current_dir(&source),
    );
    let program = format!("interop_peer{}", env::consts::EXE_SUFFIX);
    Some(target.join("debug/examples").join(program))
}

/// Peers of the wire as it was, and of today's, in both roles: in the matrix, the peer from before takes the
/// Go peer's part.
#[test]
fn peers_from_before() {
    let Some(before) = peer_before() else {
        eprintln!(
            "SKIPPED: interop with peers from before, for the sources of {BEFORE} are not there"
        );
        return;
    };
    let rust = example("interop_peer");
    let matrix = example("interop_matrix");
    let logs = Path::new(env!("CARGO_TARGET_TMPDIR")).join("before/logs");
    for pair in ["rust-go/", "go-rust/"] {
        for what in [
            ["/load/", "/tcp-noise_to_quic/"],
            ["/load/", "/relay-go_to_tcp-noise/"],
            ["/four-moves/", "/tcp-noise_to_quic/"],
            ["/half-closed-", "/tcp-noise_to_quic/"],
            ["/idle/", "/tcp-noise_to_quic/"],
            ["/deny/", "/tcp-noise_to_quic/"],
            ["/retry/", "/tcp-noise_to_quic/"],
            ["/simultaneous-", "/tcp-noise_to_quic/"],
            ["/unverified-", "/tcp-noise_to_quic/"],
            ["/fallback-", "/tcp-noise_to_quic/"],
        ] {
            let mut cases = Command::new(&matrix);
            cases.args(["--peers", "rust,go", pair]).args(what);
            cases.arg("--rust").arg(&rust).arg("--go").arg(&before);
            run("the matrix has failures", cases.arg("--logs").arg(&logs));
        }
    }
}

#[test]
fn foreign_peers() {
    if !have("go", "version") {
        eprintln!("SKIPPED: interop with go-libp2p and js-libp2p, for there is no Go");
        return;
    }
    let rust = example("interop_peer");
    let matrix = example("interop_matrix");
    // Not where `run.sh` has them: both may be running.
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("interop");
    let go = place.join("go-peer");
    run(
        "the Go peer does not build",
        Command::new("go")
            .args(["build", "-o"])
            .arg(&go)
            .arg("./cmd/peer")
            .current_dir(Path::new(ROOT).join("interop/go")),
    );
    let mut smoke = Command::new(matrix);
    smoke
        .args(["--smoke", "--rust"])
        .arg(rust)
        .arg("--go")
        .arg(go)
        .arg("--logs")
        .arg(place.join("logs"));
    let js = Path::new(ROOT).join("interop/js");
    if have("node", "--version") {
        if !js.join("node_modules").is_dir() {
            run(
                "the JS peer's packages cannot be installed",
                Command::new("npm")
                    .args(["ci", "--silent", "--no-audit", "--no-fund"])
                    .current_dir(&js),
            );
        }
        smoke.arg("--js").arg(js.join("peer.js"));
    } else {
        eprintln!("SKIPPED: interop with js-libp2p, for there is no Node");
        smoke.args(["--peers", "rust,go"]);
    }
    run("the matrix has failures", &mut smoke);
}
