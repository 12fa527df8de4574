//! A connection as the swarm has it: virtual, at home on a link.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker, ready},
};

use futures::{FutureExt, channel::oneshot};
use libp2p_core::Multiaddr;

use super::{ConnectionKey, State};
use crate::{
    layer::{
        io::Physical,
        link::Open,
        peek::{LINK, proposal},
        substream::Virtual,
        wakers::PeerWaker,
    },
    links::Readiness,
    stream::SwarmShared,
    substream::Substream,
    view::{Mobility, ProtocolName},
};

/// The part of a connection that its streams share.
#[derive(Debug)]
pub(in crate::layer) struct ConnectionShared {
    pub(in crate::layer) number: u64,
    /// Streams that the swarm has.
    live: AtomicUsize,
    /// True once it is closed, and with it what it has.
    closed: AtomicBool,
    waker: Arc<PeerWaker>,
}

impl ConnectionShared {
    pub(in crate::layer) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(in crate::layer) fn begin(&self) {
        self.live.fetch_add(1, Ordering::SeqCst);
    }

    pub(in crate::layer) fn end(&self) {
        if self.live.fetch_sub(1, Ordering::SeqCst) == 1 {
            // The connection may have waited for that.
            self.waker.rouse();
        }
    }

    pub(super) fn live(&self) -> usize {
        self.live.load(Ordering::SeqCst)
    }
}

pub(super) struct Connection {
    pub(super) shared: Arc<ConnectionShared>,
    pub(super) inbound: VecDeque<Virtual>,
    /// Why its home is lost.
    pub(super) lost: Option<io::Error>,
    /// Why it is over.
    pub(super) error: Option<io::Error>,
    /// The own link's new address.
    pub(super) moved: Option<Multiaddr>,
    /// The task that polls it.
    task: Option<Waker>,
}

impl Connection {
    pub(super) fn new(number: u64, waker: &Arc<PeerWaker>) -> Self {
        Self {
            shared: Arc::new(ConnectionShared {
                number,
                live: AtomicUsize::new(0),
                closed: AtomicBool::new(false),
                waker: waker.clone(),
            }),
            inbound: VecDeque::new(),
            lost: None,
            error: None,
            moved: None,
            task: None,
        }
    }

    pub(super) fn waker(&self) -> Option<Waker> {
        self.task.clone()
    }
}

/// The lot of a substream that the swarm has opened, once its first proposal is known.
pub(in crate::layer) enum Decision {
    /// A stream that moves.
    Labelled(Arc<SwarmShared>),
    /// A plain one, on this substream.
    Plain(Physical),
    /// A plain one, on the connection's own link, where there is one still to be opened.
    Own(oneshot::Receiver<Physical>),
}

/// Why no stream is opened through the layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotOpened {
    /// There is no layer at the other end.
    NoLayer,
    /// The connection is gone.
    Lost,
    /// The peer has as many streams as it may.
    Full,
    /// Nobody waits for it any more.
    Cancelled,
}

fn gone() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

/// A stream that is being opened through the layer: the link, and the substream on it.
#[derive(Default)]
pub(crate) struct Opening(Option<(u64, oneshot::Receiver<Physical>)>);

impl State {
    // ---- Streams of no connection ------------------------------------------------------------------

    /// The link of this name; once that is gone, the home of the connection that came with it.
    pub(super) fn link_named(&self, number: u64) -> Option<u64> {
        match self.links.get(&number) {
            Some(link) if !link.closing => Some(number),
            _ => self.books.home(number),
        }
    }

    /// True if a stream may be opened through the layer on the link of this name, as far as is known.
    pub(crate) fn may_open(&self, number: u64) -> bool {
        let link = self.link_named(number);
        let readiness = link.and_then(|link| self.books.readiness(link));
        matches!(readiness, Some(Readiness::Asked | Readiness::Ready { .. }))
    }

    /// Opens a stream of no connection's on the link of this name.
    pub(crate) fn poll_open(
        &mut self,
        number: u64,
        mobility: Mobility,
        opening: &mut Opening,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Arc<SwarmShared>, NotOpened>> {
        if opening.0.is_none() {
            let number = self.link_named(number).ok_or(NotOpened::Lost)?;
            let link = self.links.get_mut(&number).ok_or(NotOpened::Lost)?;
            match self.books.readiness(number) {
                Some(Readiness::Asked) => {
                    link.wait(cx.waker());
                    return Poll::Pending;
                }
                Some(Readiness::Ready { .. }) => {}
                Some(Readiness::Unasked | Readiness::Silent | Readiness::Plain) | None => {
                    return Poll::Ready(Err(NotOpened::NoLayer));
                }
            }
            let (reply, opened) = oneshot::channel();
            link.open(Open::Plain(reply));
            self.waker.rouse();
            opening.0 = Some((number, opened));
        }
        let (link, opened) = opening.0.as_mut().ok_or(NotOpened::Lost)?;
        let io = ready!(opened.poll_unpin(cx)).map_err(|_| NotOpened::Lost)?;
        let (id, key) = (self.id, ConnectionKey::new(*link));
        let hub = self.hub_of(*link).ok_or(NotOpened::Lost)?;
        let leg = Substream::link(io.leg().propose(LINK));
        let labelled = hub.label(id, key, leg, mobility, None);
        self.waker.rouse();
        Poll::Ready(labelled.ok_or(NotOpened::Full))
    }

    // ---- The swarm's connections -------------------------------------------------------------------

    /// The swarm polls the connection.
    pub(in crate::layer) fn poll_connection(
        &mut self,
        number: u64,
        waker: &Waker,
    ) -> Poll<io::Result<Multiaddr>> {
        let connection = self.connections.get_mut(&number).ok_or_else(gone)?;
        match &mut connection.task {
            Some(task) => task.clone_from(waker),
            task => *task = Some(waker.clone()),
        }
        if let Some(error) = connection.error.take() {
            // It is asked again by nobody, and told the same.
            connection.error = Some(error.kind().into());
            return Poll::Ready(Err(error));
        }
        match connection.moved.take() {
            Some(address) => Poll::Ready(Ok(address)),
            None => Poll::Pending,
        }
    }

    pub(in crate::layer) fn poll_inbound(&mut self, number: u64) -> Poll<io::Result<Virtual>> {
        let connection = self.connections.get_mut(&number);
        let stream = connection.and_then(|connection| connection.inbound.pop_front());
        stream.map_or(Poll::Pending, |stream| Poll::Ready(Ok(stream)))
    }

    /// A substream on the connection's home, for something that has not been said yet. It is looked at unless
    /// it can but be plain.
    pub(in crate::layer) fn poll_outbound(
        &mut self,
        number: u64,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(Physical, u64, bool)>> {
        let home = self.books.home(number).ok_or_else(gone)?;
        if !self.books.is_open(number) {
            return Poll::Pending;
        }
        let looked_at = home != number || self.books.may_move(home);
        let limit = self.layer.config.muxer_limit;
        let Some(link) = self.links.get_mut(&home) else {
            return Poll::Pending;
        };
        if link.closing || !link.load.has_room(limit) {
            return Poll::Pending;
        }
        match ready!(link.poll_outbound(cx)) {
            Ok(io) => Poll::Ready(Ok((io, home, looked_at))),
            Err(error) => {
                self.lost.push_back((home, error));
                self.waker.rouse();
                Poll::Pending
            }
        }
    }

    /// Decides what becomes of a substream of this connection's on this link, from the first bytes that the
    /// swarm has written on it.
    pub(in crate::layer) fn poll_decide(
        &mut self,
        connection: u64,
        number: u64,
        first: &[u8],
        io: &mut Option<Physical>,
        cx: &Context<'_>,
    ) -> Poll<io::Result<Decision>> {
        if !self.connections.contains_key(&connection) {
            return Poll::Ready(Err(gone()));
        }
        let remote = self.books.remote(connection);
        let protocol = proposal(first).ok();
        let excluded = protocol.is_none_or(|protocol| self.is_excluded(protocol));
        let link = self.links.get_mut(&number).ok_or_else(gone)?;
        let readiness = self.books.readiness(number);
        if excluded && number != connection {
            let own = self.links.get_mut(&connection).ok_or_else(gone)?;
            *io = None;
            let (reply, substream) = oneshot::channel();
            own.open(Open::Plain(reply));
            self.waker.rouse();
            return Poll::Ready(Ok(Decision::Own(substream)));
        }
        if !excluded && readiness == Some(Readiness::Asked) {
            link.wait(cx.waker());
            return Poll::Pending;
        }
        let io = io.take().ok_or_else(gone)?;
        let (Some(protocol), Some(Readiness::Ready { epoch, .. }), false) =
            (protocol, readiness, excluded)
        else {
            return Poll::Ready(Ok(Decision::Plain(io)));
        };
        let (_, route) = remote.filter(|(of, _)| *of == epoch).ok_or_else(gone)?;
        let mobility = self.mobility(protocol);
        let (id, key) = (self.id, ConnectionKey::new(number));
        let hub = self.hub_of(number).ok_or_else(gone)?;
        let leg = Substream::link(io.leg().propose(LINK));
        let labelled = hub.label(id, key, leg, mobility, Some(route));
        let shared = labelled.ok_or(io::ErrorKind::QuotaExceeded)?;
        let stream = shared.key();
        let protocol = ProtocolName::new(protocol);
        hub.negotiated(id, stream, Some(protocol), Some(mobility));
        hub.place(stream);
        self.routes.insert(stream, connection);
        self.waker.rouse();
        Poll::Ready(Ok(Decision::Labelled(shared)))
    }

    /// Takes a connection out, and ends what it has. Returns whether it was there.
    pub(super) fn take_connection(&mut self, number: u64) -> bool {
        let Some(mut connection) = self.connections.remove(&number) else {
            return false;
        };
        connection.shared.closed.store(true, Ordering::Release);
        connection.inbound.clear();
        let of = |(_, route): &(&crate::StreamKey, &u64)| **route == number;
        let streams: Vec<_> = self.routes.iter().filter(of).map(|(key, _)| *key).collect();
        for key in streams {
            if let Some(hub) = self.hub_of_stream(key) {
                hub.let_go(key);
            }
        }
        true
    }
}
