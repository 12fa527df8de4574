//! The command line, and what is said about mistakes on it.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use libp2p::{Multiaddr, PeerId, identity::Keypair, multiaddr::Protocol};

/// A stream moves from a relayed connection to a direct one while bytes flow both ways.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub run: Run,
}

/// Without a subcommand, all three run in this process.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// A circuit-relay-v2 server without limits.
    Relay {
        /// An address to listen on; may be repeated. Default: TCP, QUIC and WebSocket on 127.0.0.1.
        #[arg(long = "listen", value_name = "ADDR", value_parser = address)]
        listen: Vec<Multiaddr>,
        #[command(flatten)]
        identity: Identity,
    },
    /// A node behind a relay; accepts transfers, and /echo/1.0.0.
    Listen {
        /// The relay's address, with its peer ID.
        #[arg(value_name = "RELAY", value_parser = address_of_peer)]
        relay: Multiaddr,
        /// A direct address to listen on; may be repeated. Default: the relay's transport on
        /// 127.0.0.1.
        #[arg(long = "direct", value_name = "ADDR", value_parser = address)]
        direct: Vec<Multiaddr>,
        #[command(flatten)]
        identity: Identity,
    },
    /// Dials a listener through its relay and runs a transfer.
    Dial {
        /// The listener's address through the relay, as `listen` prints it.
        #[arg(value_name = "CIRCUIT", value_parser = circuit)]
        circuit: Multiaddr,
        /// Dial this address when a quarter is through, instead of waiting for hole punching.
        #[arg(long = "direct", value_name = "ADDR", value_parser = address)]
        direct: Option<Multiaddr>,
        #[command(flatten)]
        size: Size,
        #[command(flatten)]
        identity: Identity,
    },
}

#[derive(Debug, Args)]
pub struct Run {
    /// What the direct connection runs over.
    #[arg(long, value_enum, default_value_t = Transport::Quic)]
    pub transport: Transport,
    /// How it comes about. Default: hole punching, where the transport can do it.
    #[arg(long, value_enum)]
    pub direct: Option<Direct>,
    #[command(flatten)]
    pub size: Size,
}

#[derive(Debug, Args)]
pub struct Size {
    /// How many MiB to send each way; less than 4 would be over before the stream has moved.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(4..))]
    pub mib: u64,
    /// Print one JSON object on the last line instead of a table.
    #[arg(long)]
    pub json: bool,
}

impl Size {
    pub fn bytes(&self) -> u64 {
        self.mib.saturating_mul(1 << 20)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    Quic,
    Tcp,
    Ws,
}

impl Transport {
    pub fn listen_address(self) -> Multiaddr {
        let ip = Multiaddr::from(std::net::Ipv4Addr::LOCALHOST);
        match self {
            Self::Quic => ip.with(Protocol::Udp(0)).with(Protocol::QuicV1),
            Self::Tcp => ip.with(Protocol::Tcp(0)),
            Self::Ws => ip.with(Protocol::Tcp(0)).with(Protocol::Ws("/".into())),
        }
    }

    pub fn of(address: &Multiaddr) -> Self {
        let has = |wanted: &str| address.protocol_stack().any(|tag| tag == wanted);
        if has("quic-v1") {
            Self::Quic
        } else if has("ws") {
            Self::Ws
        } else {
            Self::Tcp
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Tcp => "tcp",
            Self::Ws => "ws",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Direct {
    /// Hole punching.
    Dcutr,
    /// Dialing the listener's direct address.
    Dial,
}

/// Who a node is. Default: somebody new each time.
#[derive(Debug, Args)]
pub struct Identity {
    /// Derive the key from this number: for trials only.
    #[arg(long, conflicts_with = "key")]
    seed: Option<u64>,
    /// A file with a protobuf-encoded key; made if there is none.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

impl Identity {
    pub fn keypair(&self) -> Result<Keypair, String> {
        if let Some(seed) = self.seed {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&seed.to_le_bytes());
            return Keypair::ed25519_from_bytes(bytes).map_err(|error| error.to_string());
        }
        let Some(path) = &self.key else {
            return Ok(Keypair::generate_ed25519());
        };
        let complain = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        if path.exists() {
            let bytes = fs::read(path).map_err(|error| complain(&error))?;
            return Keypair::from_protobuf_encoding(&bytes)
                .map_err(|error| complain(&format!("not a protobuf-encoded key: {error}")));
        }
        let keypair = Keypair::generate_ed25519();
        let bytes = keypair
            .to_protobuf_encoding()
            .map_err(|error| complain(&error))?;
        create(path, &bytes).map_err(|error| complain(&error))?;
        Ok(keypair)
    }
}

/// Writes a file that nobody else may read, and that was not there before.
fn create(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)?.write_all(bytes)
}

/// The peer that an address ends in.
pub fn peer_of(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

fn address(text: &str) -> Result<Multiaddr, String> {
    text.parse().map_err(|error| {
        format!("{error}; expected a multiaddr such as /ip4/127.0.0.1/udp/4001/quic-v1")
    })
}

fn address_of_peer(text: &str) -> Result<Multiaddr, String> {
    let parsed = address(text)?;
    match peer_of(&parsed) {
        Some(_) => Ok(parsed),
        None => Err("expected an address that ends in /p2p/<peer ID>, as `relay` prints it".into()),
    }
}

fn circuit(text: &str) -> Result<Multiaddr, String> {
    let parsed = address_of_peer(text)?;
    match parsed.iter().any(|part| part == Protocol::P2pCircuit) {
        true => Ok(parsed),
        false => Err(
            "expected an address through a relay, with /p2p-circuit/ in it, as `listen` prints it"
                .into(),
        ),
    }
}
