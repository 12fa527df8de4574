//! The committed protobuf code is what pb-rs generates from the committed `.proto`.

use std::{env, fs, path::Path};

/// Regenerates into a temporary directory and compares. With `REGENERATE=1` it writes the committed
/// file instead.
#[test]
fn generated_code_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let proto_dir = root.join("proto");
    let proto = proto_dir.join("streammigration.proto");
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("generated");
    let _ = fs::remove_dir_all(&out);
    fs::create_dir_all(&out).unwrap();

    let config = pb_rs::ConfigBuilder::new(&[proto], None, Some(&out), &[proto_dir])
        .unwrap()
        .single_module(true)
        .headers(false)
        .dont_use_cow(true)
        .build();
    pb_rs::types::FileDescriptor::run(&config).unwrap();

    let fresh = fs::read_to_string(out.join("streammigration.rs")).unwrap();
    let committed = root.join("core/src/protocol/generated/streammigration.rs");
    if env::var_os("REGENERATE").is_some() {
        fs::write(&committed, &fresh).unwrap();
    }
    assert_eq!(
        fresh,
        fs::read_to_string(&committed).unwrap(),
        "run `REGENERATE=1 cargo test --test docs`"
    );
}
