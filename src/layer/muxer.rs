//! The connection that the swarm gets: a muxer whose substreams may be on any link to the peer.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use libp2p_core::{
    ConnectedPoint,
    muxing::{StreamMuxer, StreamMuxerBox, StreamMuxerEvent},
};
use libp2p_identity::PeerId;

use super::{
    peer::{ConnectionShared, Peer},
    substream::Virtual,
    transport::Shared,
    wakers::Task,
};

/// A virtual connection.
pub(super) struct Muxer {
    layer: Arc<Shared>,
    stage: Stage,
}

enum Stage {
    /// The swarm has not polled it, and may never: it may be denied, or be another peer's.
    New(Option<Box<New>>),
    Adopted {
        peer: Arc<Peer>,
        connection: Arc<ConnectionShared>,
    },
    /// The swarm closes it.
    Closing { peer: Arc<Peer>, number: u64 },
}

struct New {
    id: PeerId,
    muxer: StreamMuxerBox,
    endpoint: ConnectedPoint,
}

impl Muxer {
    pub(super) fn new(
        layer: Arc<Shared>,
        id: PeerId,
        muxer: StreamMuxerBox,
        endpoint: ConnectedPoint,
    ) -> Self {
        let new = New {
            id,
            muxer,
            endpoint,
        };
        Self {
            layer,
            stage: Stage::New(Some(Box::new(new))),
        }
    }

    /// The connection, which the swarm uses from now on.
    fn adopted(&mut self) -> io::Result<(&Arc<Peer>, &Arc<ConnectionShared>)> {
        if let Stage::New(new) = &mut self.stage
            && let Some(new) = new.take()
        {
            let (peer, connection) = self.layer.adopt(new.id, new.muxer, new.endpoint);
            self.stage = Stage::Adopted { peer, connection };
        }
        match &self.stage {
            Stage::Adopted { peer, connection } => Ok((peer, connection)),
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl StreamMuxer for Muxer {
    type Substream = Virtual;
    type Error = io::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<Virtual>> {
        let (peer, connection) = self.adopted()?;
        let stream = ready!(peer.with(|state| state.poll_inbound(connection.number)))?;
        Poll::Ready(Ok(stream.taken(peer)))
    }

    fn poll_outbound(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<Virtual>> {
        let (peer, connection) = self.adopted()?;
        let number = connection.number;
        let (io, link, looked_at) =
            ready!(peer.drive(|state, cx| state.poll_outbound(number, cx)))?;
        let stream = Virtual::outbound(peer, link, io, looked_at);
        Poll::Ready(Ok(stream.of(connection)))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let (peer, number) = match &mut this.stage {
            Stage::New(Some(new)) => return Pin::new(&mut new.muxer).poll_close(cx),
            Stage::New(None) => return Poll::Ready(Ok(())),
            Stage::Adopted { peer, connection } => {
                let (peer, number) = (peer.clone(), connection.number);
                peer.with(|state| state.close_connection(number, true));
                this.stage = Stage::Closing {
                    peer: peer.clone(),
                    number,
                };
                (peer, number)
            }
            Stage::Closing { peer, number } => (peer.clone(), *number),
        };
        peer.waker.register(Task::Connection(number), cx.waker());
        let closed = peer.drive(|state, _| state.poll_closed());
        if closed.is_ready() {
            peer.waker.forget(Task::Connection(number));
            this.stage = Stage::New(None);
            this.layer.left(&peer);
        }
        closed.map(Ok)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
        let (peer, connection) = self.adopted()?;
        let number = connection.number;
        peer.waker.register(Task::Connection(number), cx.waker());
        let polled = peer.drive(|state, _| state.poll_connection(number, cx.waker()));
        polled.map_ok(StreamMuxerEvent::AddressChange)
    }
}

impl Drop for Muxer {
    fn drop(&mut self) {
        let peer = match &self.stage {
            Stage::New(_) => return,
            Stage::Adopted { peer, connection } => {
                peer.with(|state| state.close_connection(connection.number, false));
                peer.clone()
            }
            Stage::Closing { peer, number } => {
                peer.waker.forget(Task::Connection(*number));
                peer.clone()
            }
        };
        self.layer.left(&peer);
    }
}
