//! The fuzz targets as tests: `fuzz/bodies` with random bytes and with the corpus.
//!
//! A failure prints the bytes, and writes its seed to `tests/fuzz_bodies.proptest-regressions`,
//! from where it is replayed at the next run. Commit that, or the bytes as a file of `fuzz/corpus`.
//! `PROPTEST_CASES` sets how many cases are tried.

#[path = "../fuzz/bodies/mod.rs"]
mod bodies;

use libp2p_stream_migration_core::{machine, protocol};

use std::{cell::Cell, env, fs, path::Path};

use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{FileFailurePersistence, TestRunner},
};
use testing::alloc::{Counter, Counting};

/// Notes a thread's largest allocation.
struct Largest;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting<Largest> = Counting(Largest);

// A `const` thread local of a type that is not dropped allocates nothing.
impl Counter for Largest {
    fn taken(&self, size: usize) {
        LARGEST.set(LARGEST.get().max(size));
    }
}

/// Calls `body` with the files of `fuzz/corpus/<name>`, then with what `bytes` makes up.
fn run(name: &str, cases: u32, bytes: impl Strategy<Value = Vec<u8>>, body: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(name);
    let mut files = 0;
    for entry in fs::read_dir(&corpus).unwrap_or_else(|error| panic!("{corpus:?}: {error}")) {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        body(&fs::read(path).unwrap());
        files += 1;
    }
    assert!(files > 0, "{corpus:?} is empty");

    let regressions = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fuzz_bodies.proptest-regressions"
    );
    let mut config = ProptestConfig {
        // Also in an integration test, where proptest would not know where to put it.
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(regressions))),
        source_file: Some(file!()),
        max_shrink_iters: 50_000,
        ..ProptestConfig::default()
    };
    if env::var_os("PROPTEST_CASES").is_none() {
        config.cases = cases;
    }
    let result = TestRunner::new(config).run(&bytes, |bytes| {
        body(&bytes);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{name}: {error}");
    }
}

/// Bytes of which many are those that messages are made of.
fn message_like(most: usize) -> impl Strategy<Value = Vec<u8>> {
    let tags =
        prop::sample::select(&[0x08, 0x0a, 0x10, 0x12, 0x1a, 0x3e, 0x52, 0x5d, 0x80, 0xc0][..]);
    vec(
        prop_oneof![2 => tags, 2 => 0..10u8, 1 => any::<u8>()],
        0..most,
    )
}

#[test]
fn codec() {
    let nested = (message_like(8), 1..4u8, 0..2u8, message_like(24)).prop_map(
        |(before, field, longer, inner)| {
            let mut body = before;
            let length = inner.len() as u8 + longer;
            body.extend([field << 3 | 2, length]);
            body.extend(inner);
            body
        },
    );
    run(
        "codec",
        2000,
        prop_oneof![message_like(32), nested],
        bodies::codec,
    );
}

#[test]
fn acceptor() {
    let head = vec(any::<u8>(), 17);
    let arbitrary = message_like(300);
    let framed = vec(message_like(16), 0..4).prop_map(|messages| {
        let mut bytes = Vec::new();
        for message in messages {
            bytes.push(message.len() as u8);
            bytes.extend(message);
        }
        bytes
    });
    let length = (any::<[u8; 3]>(), 1..4usize, message_like(280)).prop_map(|(length, n, body)| {
        let mut bytes = length[..n].to_vec();
        bytes.iter_mut().take(n - 1).for_each(|byte| *byte |= 0x80);
        bytes[n - 1] &= 0x7f;
        bytes.extend(body);
        bytes
    });
    let bytes = (head, prop_oneof![arbitrary, framed, length])
        .prop_map(|(head, bytes)| [head, bytes].concat());
    run("acceptor", 2000, bytes, bodies::acceptor);
}

#[test]
fn a_message_allocates_no_more_than_the_cap() {
    run("acceptor", 500, vec(any::<u8>(), 0..600), |bytes| {
        // The reader's buffer grows by doubling.
        const CAP: usize = 2 * (2 + protocol::codec::MAX_MESSAGE);
        LARGEST.set(0);
        bodies::read_all(bytes);
        let largest = LARGEST.get();
        assert!(largest <= CAP, "{largest} bytes were allocated at once");
    });
}

#[test]
fn machine() {
    run("machine", 1500, vec(any::<u8>(), 0..200), bodies::machine);
}

#[test]
fn pair() {
    run("pair", 1000, vec(any::<u8>(), 0..600), bodies::pair);
}
