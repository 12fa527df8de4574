//! Pruning on rate-limited links, which loopback hides: the relayed connection is closed right after a
//! migration that had bulk data in flight both ways, and no byte is lost.
//!
//! The links are virtual, between network namespaces of the test's own, which takes root. Where that is
//! not permitted the test is skipped with a message; with `CI=true` that is a failure.

use std::process::{Command, Output};

use testing::process::{Process, listening};

use crate::relay_to_direct::{assert_exact, assert_listener_done, program, report};

/// Dialer, relay and listener in three namespaces: each has a slow link to the relay, and the two have
/// one to each other.
struct Network {
    tag: String,
}

fn ip(arguments: &str) -> Output {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    output.unwrap_or_else(|error| panic!("ip {arguments}: {error}"))
}

impl Network {
    /// `None` if it is not permitted here.
    fn new(tag: &str) -> Option<Self> {
        let permitted = Command::new("ip").arg("-V").output().is_ok();
        let tag = format!("{tag}{}", std::process::id());
        let network = Self { tag };
        if !permitted
            || !ip(&format!("netns add {}", network.name("d")))
                .status
                .success()
        {
            let message = "no network namespaces can be made here";
            assert!(std::env::var("CI").is_err(), "{message}");
            eprintln!("skipped: {message}");
            return None;
        }
        for node in ["r", "l"] {
            network.must(&format!("netns add {}", network.name(node)));
        }
        for node in ["d", "r", "l"] {
            network.must(&format!("-n {} link set lo up", network.name(node)));
        }
        for (number, (one, other, slow)) in [("d", "r", true), ("l", "r", true), ("d", "l", false)]
            .into_iter()
            .enumerate()
        {
            // Addresses of test networks (RFC 5737), in these namespaces only.
            let net = format!("192.0.2.{}", number * 16);
            let net = net.rsplit_once('.').map(|(net, _)| net.to_owned()).unwrap();
            let (one_ns, other_ns) = (network.name(one), network.name(other));
            network.must(&format!(
                "-n {one_ns} link add {one}{other} type veth peer name {other}{one} netns {other_ns}"
            ));
            for (ns, link, host) in [
                (&one_ns, format!("{one}{other}"), 1),
                (&other_ns, format!("{other}{one}"), 2),
            ] {
                let host = number * 16 + host;
                network.must(&format!("-n {ns} addr add {net}.{host}/28 dev {link}"));
                network.must(&format!("-n {ns} link set {link} up"));
                if slow {
                    let tc = format!(
                        "netns exec {ns} tc qdisc add dev {link} root tbf rate 20mbit burst 32kbit \
                         latency 400ms"
                    );
                    network.must(&tc);
                }
            }
        }
        Some(network)
    }

    fn name(&self, node: &str) -> String {
        format!("{}{node}", self.tag)
    }

    fn must(&self, arguments: &str) {
        let output = ip(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ip {arguments}: {said}");
    }

    fn start(&self, node: &str, arguments: &[&str]) -> Process {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(node)]);
        command.arg(program()).args(arguments);
        Process::spawn(&mut command)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for node in ["d", "r", "l"] {
            let _ = ip(&format!("netns del {}", self.name(node)));
        }
    }
}

/// The relay's address as one of its two neighbours sees it.
fn relay_address(relay: &mut Process, host: &str) -> String {
    relay.line("relay address", |line| {
        listening(line).filter(|address| address.contains(host))
    })
}

fn nothing_is_lost(tag: &str, hop: &str, direct: &str) {
    let Some(network) = Network::new(tag) else {
        return;
    };
    let address = |host: &str, transport: &str| match transport {
        "tcp" => format!("/ip4/{host}/tcp/0"),
        _ => format!("/ip4/{host}/udp/0/quic-v1"),
    };
    let (for_dialer, for_listener) = ("192.0.2.2", "192.0.2.18");
    let listens = [address(for_dialer, hop), address(for_listener, hop)];
    let mut relay = network.start(
        "r",
        &["relay", "--listen", &listens[0], "--listen", &listens[1]],
    );
    let near_dialer = relay_address(&mut relay, &format!("/{for_dialer}/"));
    let near_listener = relay_address(&mut relay, &format!("/{for_listener}/"));
    let direct_address = address("192.0.2.34", direct);
    let mut listener = network.start(
        "l",
        &["listen", &near_listener, "--direct", &direct_address],
    );
    let direct_address = listener.line("direct address", |line| {
        Some(line.strip_prefix("direct address ")?.to_owned())
    });
    let circuit = listener.line("circuit address", listening);
    let (_, target) = circuit.split_once("/p2p-circuit/").unwrap();
    let circuit = format!("{near_dialer}/p2p-circuit/{target}");
    let mut dialer = network.start(
        "d",
        &[
            "dial",
            &circuit,
            "--direct",
            &direct_address,
            "--mib",
            "8",
            "--json",
        ],
    );
    assert_exact(&report(&mut dialer), 8 << 20);
    assert_listener_done(&mut listener);
}

#[test]
fn relayed_over_tcp_to_quic() {
    nothing_is_lost("smq", "tcp", "quic");
}

#[test]
fn relayed_over_quic_to_tcp() {
    nothing_is_lost("smt", "quic", "tcp");
}
