//! Names that are local to a node: of streams and of connections.
#![warn(missing_docs)]

use std::fmt;

/// A stream's local name: unique within one behaviour, the same for the stream's whole life.
///
/// The ID on the wire changes with every migration; the key never does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamKey(pub(crate) u64);

impl StreamKey {
    /// The key of this number, for tests of policies.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The key's number.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A connection's local name, drawn by whoever owns the connection; never used again for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionKey(u64);

impl ConnectionKey {
    /// The key of this number, which its owner has drawn.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number that its owner has drawn.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ConnectionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
