//! Why a stream could not be opened.

use std::io;

use libp2p_swarm::StreamProtocol;

use crate::{key::ConnectionKey, view::Mobility};

/// Why a stream could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenStreamError {
    /// The remote does not support the requested protocol.
    #[error("the remote does not support {0}")]
    UnsupportedProtocol(StreamProtocol),
    /// The peer is connected, but by no connection on which streams of this [`Mobility`] may begin: see
    /// [`Config::with_wait_for_direct`](crate::Config::with_wait_for_direct).
    #[error("no connection may be used by a stream whose mobility is {0:?}")]
    NotAllowed(Mobility),
    /// The peer could not be dialed; why, with all that it was caused by.
    #[error("the peer could not be dialed: {0}")]
    Dial(String),
    /// There is no such connection to this peer, or it is being closed.
    #[error("there is no connection {0} to this peer")]
    UnknownConnection(ConnectionKey),
    /// The connection was closed while the stream was being opened on it, and there was no other.
    #[error("the connection was closed while the stream was being opened on it")]
    ConnectionLost,
    /// The peer has not answered in time, which says nothing of what it supports.
    #[error("the peer has not answered in time")]
    TimedOut,
    /// The peer has as many streams as it may
    /// ([`Config::with_max_streams_per_peer`](crate::Config::with_max_streams_per_peer)).
    #[error("the limit of {0} streams of one peer is reached")]
    TooManyStreams(usize),
    /// No connection to the peer has had room in time
    /// ([`Config::with_max_streams_per_connection`](crate::Config::with_max_streams_per_connection)).
    #[error("the connections to the peer hold as many streams as they may")]
    NoRoom,
    /// As many streams are waiting already as may
    /// ([`Config::with_max_pending_opens`](crate::Config::with_max_pending_opens)).
    #[error("{0} streams are already waiting to be opened")]
    TooManyWaiting(usize),
    /// The behaviour is gone, and its swarm with it.
    #[error("the behaviour is gone")]
    BehaviourGone,
    /// The substream has failed.
    #[error("the substream has failed")]
    Io(#[from] io::Error),
}

impl OpenStreamError {
    /// The kind of I/O error that it is as one.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::UnsupportedProtocol(_) => io::ErrorKind::Unsupported,
            Self::NotAllowed(_) => io::ErrorKind::PermissionDenied,
            Self::Dial(_) | Self::UnknownConnection(_) | Self::ConnectionLost => {
                io::ErrorKind::NotConnected
            }
            Self::TimedOut => io::ErrorKind::TimedOut,
            Self::TooManyStreams(_) | Self::NoRoom | Self::TooManyWaiting(_) => {
                io::ErrorKind::WouldBlock
            }
            Self::BehaviourGone => io::ErrorKind::BrokenPipe,
            Self::Io(error) => error.kind(),
        }
    }
}

impl From<OpenStreamError> for io::Error {
    fn from(error: OpenStreamError) -> Self {
        match error {
            OpenStreamError::Io(error) => error,
            error => Self::new(error.kind(), error),
        }
    }
}
