//! The upgrades of substreams: they agree on a protocol and leave it at that.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::Arc,
};

use libp2p_core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p_swarm::{Stream, StreamProtocol};

/// The name of a protocol in an offer.
#[derive(Debug, Clone)]
pub struct Name {
    pub(super) name: StreamProtocol,
    /// True if it was offered before. Agreed on, it is refused: a swarm that negotiates lazily
    /// takes the last offer for agreed when those before it were refused.
    pub(super) last: bool,
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        self.name.as_ref()
    }
}

/// The remote does not support what it was asked for.
#[derive(Debug, thiserror::Error)]
#[error("the remote does not support the protocol")]
pub struct Refused;

/// Agrees on a protocol that the remote asks for, and leaves it at that.
#[derive(Debug, Clone)]
pub struct Accept(pub(super) Arc<[StreamProtocol]>);

/// Iterates over a shared list, which the swarm asks for at every poll of a connection.
#[derive(Debug, Clone)]
pub struct Protocols {
    list: Arc<[StreamProtocol]>,
    next: usize,
}

impl Iterator for Protocols {
    type Item = StreamProtocol;

    fn next(&mut self) -> Option<StreamProtocol> {
        let protocol = self.list.get(self.next)?.clone();
        self.next += 1;
        Some(protocol)
    }
}

impl UpgradeInfo for Accept {
    type Info = StreamProtocol;
    type InfoIter = Protocols;

    fn protocol_info(&self) -> Protocols {
        Protocols {
            list: self.0.clone(),
            next: 0,
        }
    }
}

impl InboundUpgrade<Stream> for Accept {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}

/// Asks for a protocol and leaves it at that.
#[derive(Debug)]
pub struct Ask(pub(super) Vec<Name>);

impl UpgradeInfo for Ask {
    type Info = Name;
    type InfoIter = std::vec::IntoIter<Name>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter()
    }
}

impl OutboundUpgrade<Stream> for Ask {
    type Output = (Stream, StreamProtocol);
    type Error = Refused;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_outbound(self, stream: Stream, Name { name, last }: Name) -> Self::Future {
        ready(match last {
            false => Ok((stream, name)),
            true => Err(Refused),
        })
    }
}
