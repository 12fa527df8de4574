//! The library in a browser, where std has no clock.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// What a source names of std's clocks: by a path, or in a `use` of `std`, in whatever layout.
fn clocks(source: &str) -> Vec<String> {
    let lines = source.lines().map(|line| match line.find("//") {
        Some(comment) => &line[..comment],
        None => line,
    });
    let code: String = lines.flat_map(str::chars).collect();
    let code: String = code.chars().filter(|c| !c.is_whitespace()).collect();
    let named = |text: &str| text.contains("Instant") || text.contains("SystemTime");
    // Of std's `time`, only `Duration` is used.
    let imports = code.split("usestd::").skip(1).filter_map(|rest| {
        let import = rest.split(';').next()?;
        let whole = ["time::*", "time::{self", "time,", "timeas", "time}"];
        let taken = import == "time" || whole.iter().any(|whole| import.contains(whole));
        (named(import) || import.contains("time") && taken).then(|| import.to_owned())
    });
    let paths = ["Instant", "SystemTime", "UNIX_EPOCH"].into_iter();
    let paths = paths.filter_map(|name| {
        let path = format!("std::time::{name}");
        code.contains(&path).then_some(path)
    });
    imports.chain(paths).collect()
}

/// A node in a browser: `std::time::Instant::now` compiles there and panics, at the first connection. A
/// lint cannot tell it from `web_time`'s, which elsewhere is the same type; so this looks at the text.
/// D1 · rust-libp2p 5305, 2984, 6387
#[test]
fn no_clock_of_stds_is_used() {
    let mut found = Vec::new();
    for of_crate in ["src", "core/src"] {
        let of_crate = Path::new(env!("CARGO_MANIFEST_DIR")).join(of_crate);
        sources(&of_crate, &mut found);
    }
    assert!(found.len() > 30, "these are not the sources: {found:?}");
    for path in found {
        let used = clocks(&fs::read_to_string(&path).unwrap());
        assert!(used.is_empty(), "{} uses {used:?}", path.display());
    }
}

/// The text is read as a compiler would.
#[test]
fn clocks_are_found_in_every_layout() {
    for bad in [
        "use std::time::Instant;",
        "use std::{\n    fmt,\n    time::{Duration, Instant},\n};",
        "use std::time;\n",
        "use std::{fmt, time};",
        "use std::time::*;",
        "use std::time::{self, Duration};",
        "let now = std::time::Instant::now();",
        "let now = ::std::time::SystemTime::now();",
        "use std::time as clock;",
    ] {
        assert!(!clocks(bad).is_empty(), "{bad}");
    }
    for good in [
        "use std::time::Duration;\nuse web_time::Instant;",
        "use std::{\n    fmt,\n    time::Duration,\n};\nuse web_time::Instant;",
        "// use std::time::Instant;",
    ] {
        assert_eq!(clocks(good), Vec::<String>::new(), "{good}");
    }
}

/// Timers and randomness are the browser's, in an application too that takes `libp2p-swarm` and not all of
/// `libp2p`: the features that say so are this crate's.
/// D1 · rust-libp2p 5305
#[test]
fn the_browsers_features_are_on() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("core/Cargo.toml");
    let manifest = fs::read_to_string(manifest).unwrap();
    let (_, target) = manifest
        .split_once(
            r#"[target.'cfg(all(target_family = "wasm", target_os = "unknown"))'.dependencies]"#,
        )
        .unwrap();
    let target = target.split("\n[").next().unwrap();
    for (dependency, feature) in [("futures-timer", "wasm-bindgen"), ("getrandom", "wasm_js")] {
        let line = target.lines().find(|line| line.starts_with(dependency));
        assert!(
            line.is_some_and(|line| line.contains(feature)),
            "{dependency}"
        );
    }
}
