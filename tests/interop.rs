//! A part of the interop matrix, with the Go and the JS peer if Go and Node are there. The whole of it
//! is `interop/run.sh`.

#[path = "common/build.rs"]
mod build;

use std::{
    env,
    path::Path,
    process::{Command, Stdio},
};

use build::example;

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
