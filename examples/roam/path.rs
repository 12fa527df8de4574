//! The three paths, and which of them a connection takes.

use std::{fmt, str::FromStr};

use libp2p_stream_migration::{ConnectionInfo, Transport};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Path {
    Wifi,
    Cellular,
    Relay,
}

impl Path {
    pub const ALL: [Self; 3] = [Self::Wifi, Self::Cellular, Self::Relay];

    /// Both sides see the same: each path has a transport of its own.
    pub fn of(connection: &ConnectionInfo) -> Self {
        match (connection.relayed, connection.transport) {
            (true, _) => Self::Relay,
            (false, Transport::Quic) => Self::Wifi,
            (false, _) => Self::Cellular,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Wifi => "wifi",
            Self::Cellular => "cellular",
            Self::Relay => "relay",
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Path {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|path| path.name() == text);
        found.ok_or_else(|| format!("no path is named {text}"))
    }
}
