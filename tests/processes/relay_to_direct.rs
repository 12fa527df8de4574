//! Relay, listener and dialer as three processes, as `docs/examples.md` has them.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use testing::process::{Process, example, listening};

/// The example's program, built if need be.
pub(crate) fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| example("relay_to_direct"))
}

fn start(arguments: &[&str]) -> Process {
    Process::spawn(Command::new(program()).args(arguments))
}

/// `transport` as it shows in an address; `punch`: by hole punching, else by dialing.
fn moves(transport: &str, in_address: &str, punch: bool) {
    let mut relay = start(&["relay", "--seed", "1"]);
    let relay_address = relay.line("relay address", |line| {
        let address = listening(line)?;
        let ws = address.contains("/ws");
        (address.contains(in_address) && ws == (transport == "ws")).then_some(address)
    });
    let mut listener = start(&["listen", &relay_address]);
    let direct = listener.line("direct address", |line| {
        Some(line.strip_prefix("direct address ")?.to_owned())
    });
    let circuit = listener.line("circuit address", listening);
    assert!(
        circuit.starts_with(&relay_address),
        "{circuit} is not through {relay_address}"
    );
    let mut arguments = vec!["dial", &circuit, "--mib", "4", "--json"];
    if !punch {
        arguments.extend(["--direct", &direct]);
    }
    let mut dialer = start(&arguments);
    let report = report(&mut dialer);
    assert_exact(&report, 4 << 20);
    assert_eq!(report["path_after"], format!("direct {transport}"));
    assert_listener_done(&mut listener);
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

/// Asserts that the dialer's report is one of an exact transfer of so many bytes each way, with a
/// migration and an end of the relayed connection.
pub(crate) fn assert_exact(report: &serde_json::Value, bytes: u64) {
    for direction in ["dial_to_listen", "listen_to_dial"] {
        assert_eq!(report["bytes_lost"][direction], 0, "{report}");
        assert_eq!(report["bytes_duplicated"][direction], 0, "{report}");
        assert_eq!(report["bytes_received"][direction], bytes, "{report}");
        let leg = |name: &str| report[name][direction].as_u64().unwrap();
        assert!(leg("old_leg_bytes") >= 1 << 20, "{report}");
        assert!(leg("new_leg_bytes") > 0, "{report}");
    }
    assert_eq!(report["sha256_match"], true, "{report}");
    assert!(report["migrations"].as_u64() >= Some(1), "{report}");
    assert_eq!(report["relayed_connection_closed"], true, "{report}");
}

/// The dialer's report, and that it exits well.
pub(crate) fn report(dialer: &mut Process) -> serde_json::Value {
    let report = dialer.line("report", |line| serde_json::from_str(line).ok());
    assert_eq!(dialer.exit_code(), Some(0), "{report}");
    report
}

/// The listener says that it received everything, and that the relayed connection is gone.
pub(crate) fn assert_listener_done(listener: &mut Process) {
    listener.line("its own success", |line| {
        (line.starts_with("transfer from") && line.ends_with("0 lost, 0 duplicated, SHA-256 equal"))
            .then_some(())
    });
    listener.line("the relayed connection's end", |line| {
        (line.starts_with("relayed connection") && line.ends_with("closed")).then_some(())
    });
}
