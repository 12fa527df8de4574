//! The command line, and what the whole run is told.

use std::path::PathBuf;

use clap::{
    CommandFactory, Parser, ValueEnum,
    error::{Error, ErrorKind},
};
use libp2p::{Multiaddr, multiaddr::Protocol};

/// Streams of unmodified libp2p behaviours move from a relayed connection to a direct one.
#[derive(Debug, Clone, Parser)]
#[command(name = "unmodified")]
pub struct Args {
    /// What the relay is reached by, and what the direct connection runs over.
    #[arg(long, value_enum, default_value_t = Transport::Quic)]
    pub transport: Transport,
    /// How the direct connection comes about. Default: hole punching, where the transport can.
    #[arg(long, value_enum)]
    by: Option<By>,
    /// Peer IDs and contents are functions of this number.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// The size of the response in MiB; the stream carries half of that each way.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=4096))]
    mib: u64,
    /// How many gossipsub messages each side publishes, at least; 250 a second.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(40..))]
    pub messages: u64,
    /// The same run without the layer.
    #[arg(long)]
    pub without: bool,
    /// Print one JSON object on the last line instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Also draw what came of each protocol, into this file.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

impl Args {
    /// Options that exclude each other are found out here.
    pub fn checked() -> Result<Self, Error> {
        let args = Self::parse();
        if args.transport == Transport::Ws && args.by() == By::Dcutr {
            let complaint = "hole punching needs a port that is reused, which a WebSocket's is not";
            return Err(Self::command().error(ErrorKind::ArgumentConflict, complaint));
        }
        Ok(args)
    }

    pub fn by(&self) -> By {
        self.by.unwrap_or(match self.transport {
            Transport::Tcp | Transport::Quic => By::Dcutr,
            Transport::Ws => By::Dial,
        })
    }

    /// The response's size in bytes.
    pub fn response(&self) -> u64 {
        self.mib << 20
    }

    /// The bytes of each direction of the stream.
    pub fn stream(&self) -> u64 {
        self.response() / 2
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    Tcp,
    Quic,
    Ws,
}

impl Transport {
    /// An address of ours to listen on, with a port that the system chooses.
    pub fn listen_address(self) -> Multiaddr {
        let ip = Multiaddr::from(std::net::Ipv4Addr::LOCALHOST);
        match self {
            Self::Tcp => ip.with(Protocol::Tcp(0)),
            Self::Quic => ip.with(Protocol::Udp(0)).with(Protocol::QuicV1),
            Self::Ws => ip.with(Protocol::Tcp(0)).with(Protocol::Ws("/".into())),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Quic => "quic",
            Self::Ws => "ws",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// Hole punching.
    Dcutr,
    /// The dialer dials the listener's direct address.
    Dial,
}

impl By {
    pub fn name(self) -> &'static str {
        match self {
            Self::Dcutr => "dcutr",
            Self::Dial => "dial",
        }
    }
}
