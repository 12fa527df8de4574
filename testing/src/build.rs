//! Examples as programs to run.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

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
