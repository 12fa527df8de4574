//! Why a stream could not be opened.

use std::io;

use libp2p_swarm::StreamProtocol;

use crate::view::Mobility;

/// Why a stream could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenStreamError {
    /// The remote does not support the requested protocol.
    #[error("failed to open stream: remote peer does not support {0}")]
    UnsupportedProtocol(StreamProtocol),
    /// The peer is connected, but by no connection on which streams of this [`Mobility`] may begin: see
    /// [`Config::with_wait_for_direct`](crate::Config::with_wait_for_direct).
    #[error("failed to open stream: no connection may be used by a stream whose mobility is {0:?}")]
    NotAllowed(Mobility),
    /// The peer could not be dialed, the connection failed, or a limit of ours was reached.
    #[error("failed to open stream: io error")]
    Io(#[from] io::Error),
}
