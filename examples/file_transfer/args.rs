//! The command line, and what is said about mistakes on it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};

/// Sends files over one stream that moves from a relayed connection to a direct one.
#[derive(Debug, Parser)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// A circuit-relay-v2 server without limits.
    Relay {
        /// An address to listen on; may be repeated. Default: TCP, QUIC and WebSocket on 127.0.0.1.
        #[arg(long = "listen", value_name = "ADDR", value_parser = address)]
        listen: Vec<Multiaddr>,
    },
    /// Waits behind a relay, and receives what anybody who knows the address sends.
    Receive(Receive),
    /// Sends a file, or a directory with all that is in it.
    Send(Send),
}

#[derive(Debug, Args)]
pub struct Receive {
    /// The directory to receive into. Nothing is written anywhere else, and nothing in it is
    /// overwritten.
    #[arg(long, value_name = "DIR")]
    pub into: PathBuf,
    /// The relay's address, as `relay` prints it.
    #[arg(value_name = "RELAY_ADDRESS", value_parser = address_of_peer)]
    pub relay: Multiaddr,
    /// A direct address to listen on; may be repeated. Default: the relay's transport on 127.0.0.1.
    #[arg(long = "direct", value_name = "ADDR", value_parser = address)]
    pub direct: Vec<Multiaddr>,
    /// Refuse what is larger than this.
    #[arg(long, value_name = "MIB", default_value_t = 16 * 1024,
        value_parser = clap::value_parser!(u64).range(1..=1 << 40))]
    pub max_mib: u64,
    /// Leave after one transfer, successfully if that was.
    #[arg(long)]
    pub once: bool,
}

#[derive(Debug, Args)]
pub struct Send {
    /// The file or directory to send. Symbolic links in it are left out.
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// The receiver's address through its relay, as `receive` prints it.
    #[arg(value_name = "CIRCUIT_ADDRESS", value_parser = circuit)]
    pub circuit: Multiaddr,
    /// Dial this address of the receiver for a direct connection, instead of hole punching.
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub direct: Option<Multiaddr>,
    /// Send this much over the relay, then wait for the direct connection. A relay ends what goes
    /// beyond its own limit, which is 128 KiB by default.
    #[arg(long, value_name = "KIB", default_value_t = 64,
        value_parser = clap::value_parser!(u64).range(..=1 << 40))]
    pub over_relay: u64,
    /// How many seconds to wait for it; then the rest goes over the relay, too.
    #[arg(long, value_name = "SECONDS", default_value_t = 15,
        value_parser = clap::value_parser!(u64).range(..=45))]
    pub patience: u64,
}

/// All that `relay` listens on by default.
pub fn everywhere() -> Vec<Multiaddr> {
    let ip = Multiaddr::from(std::net::Ipv4Addr::LOCALHOST);
    vec![
        ip.clone().with(Protocol::Tcp(0)),
        ip.clone().with(Protocol::Udp(0)).with(Protocol::QuicV1),
        ip.with(Protocol::Tcp(0)).with(Protocol::Ws("/".into())),
    ]
}

/// A place to listen on that can be punched through to from behind this relay: what the relay sees
/// as our address is one of the same transport.
pub fn beside(relay: &Multiaddr) -> Multiaddr {
    let [tcp, quic, _]: [Multiaddr; 3] = everywhere()
        .try_into()
        .unwrap_or_else(|_| unreachable!("there are three of them"));
    match relay.iter().any(|part| part == Protocol::QuicV1) {
        true => quic,
        false => tcp,
    }
}

/// The peer that an address ends in.
pub fn peer_of(address: &Multiaddr) -> Result<PeerId, String> {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => Ok(peer),
        _ => Err(format!("{address} does not end in /p2p/<peer ID>")),
    }
}

/// The relay's part of an address through it.
pub fn relay_of(circuit: &Multiaddr) -> Multiaddr {
    let parts = circuit.iter();
    parts
        .take_while(|part| *part != Protocol::P2pCircuit)
        .collect()
}

fn address(text: &str) -> Result<Multiaddr, String> {
    text.parse().map_err(|error| {
        format!("{error}; expected a multiaddr such as /ip4/127.0.0.1/udp/4001/quic-v1")
    })
}

fn address_of_peer(text: &str) -> Result<Multiaddr, String> {
    let parsed = address(text)?;
    peer_of(&parsed)
        .map_err(|_| "expected an address that ends in /p2p/<peer ID>, as `relay` prints it")?;
    Ok(parsed)
}

fn circuit(text: &str) -> Result<Multiaddr, String> {
    let parsed = address_of_peer(text)?;
    match parsed.iter().any(|part| part == Protocol::P2pCircuit) {
        true => Ok(parsed),
        false => Err(
            "expected an address through a relay, with /p2p-circuit/ in it, as `receive` prints it"
                .into(),
        ),
    }
}
