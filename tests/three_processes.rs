//! Relay, listener and dialer as three processes, as `docs/examples.md` has them.

use std::process::Command;
use testing::process::*;

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
