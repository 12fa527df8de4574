//! The behaviour of a swarm whose transport is wrapped by a layer: streams are opened through the layer where the
//! remote has one, and what happens there is told as if it were here.

use std::{
    borrow::Cow,
    collections::HashMap,
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
};

use futures::channel::oneshot;
use libp2p_identity::PeerId;

use super::Behaviour;
use crate::{
    Chain, Config, ConnectionInfo, DrainError, Event, MigrateError, OpenStreamError, Policy,
    StreamInfo,
    handler::Here,
    hub::Hub,
    key::{ConnectionKey, StreamKey},
    layer::{Labelled, Layer, NotOpened, Opening, Shared, SharedPolicy, Told},
    permits::Permit,
    request::{Inside, StreamRequest},
    stream::SwarmShared,
    substream::Substream,
};

/// A layer with the default policy, and the behaviour that goes with it. The behaviour may be left out of the
/// swarm: with [`Layer::wrap`] alone streams move as the default policy says; the behaviour brings events,
/// [`Control`](crate::Control), and a policy of one's own.
#[must_use]
pub fn layered(local_peer_id: PeerId, config: Config) -> (Layer, Behaviour) {
    layered_with_policy(local_peer_id, config, Chain::default())
}

/// As [`new`](crate::transport::new), with another policy: one for streams above and below the swarm. It is asked
/// about links, which have the names of the connections that they came with.
#[must_use]
pub fn layered_with_policy(
    local_peer_id: PeerId,
    mut config: Config,
    policy: impl Policy,
) -> (Layer, Behaviour) {
    // The layer has the control substreams.
    config.hub.facts = false;
    config.hub.resume = false;
    let policy = SharedPolicy::new(policy);
    let layer = Layer::new(local_peer_id, &config, policy.clone());
    let mut behaviour = Behaviour::with_policy(local_peer_id, config, policy);
    behaviour.layer = Some(Attached::new(layer.0.clone()));
    (layer, behaviour)
}

/// The layer, as long as there is a behaviour that listens.
pub(super) struct Attached {
    layer: Arc<Shared>,
    /// Streams of no connection, of which each keeps one alive: the swarm does not see them.
    alive: HashMap<StreamKey, Permit>,
    /// Migrations onto connections of which it is not known yet whether they lead to a layer.
    early: Vec<Early>,
}

struct Early {
    key: StreamKey,
    to: ConnectionKey,
    reply: oneshot::Sender<Result<(), MigrateError>>,
}

impl Attached {
    fn new(layer: Arc<Shared>) -> Self {
        layer.outbox.attach(true);
        Self {
            layer,
            alive: HashMap::new(),
            early: Vec::new(),
        }
    }

    /// A call by which this connection's handler tells its muxer who they are.
    pub(super) fn here(&self, connection: ConnectionKey) -> Here {
        let layer = self.layer.clone();
        Box::new(move || layer.here(connection.number()))
    }

    /// Streams below the swarm.
    pub(super) fn streams(&self, peer: PeerId) -> Vec<StreamInfo> {
        let peer = self.layer.peer(peer);
        peer.map(|peer| peer.with(|state| state.streams()))
            .unwrap_or_default()
    }

    /// The places for streams to a peer, with whose home each is, and what else there is of the swarm's connections.
    pub(super) fn connections(
        &self,
        peer: PeerId,
        places: Vec<ConnectionInfo>,
        connections: &[ConnectionInfo],
    ) -> Vec<ConnectionInfo> {
        match self.layer.peer(peer) {
            Some(peer) => peer.with(|state| state.views(places, connections)),
            None => places,
        }
    }

    /// The connection that keeps a place for streams from being closed.
    pub(super) fn owner(&self, peer: PeerId, place: ConnectionKey) -> ConnectionKey {
        let peer = self.layer.peer(peer);
        peer.map_or(place, |peer| peer.with(|state| state.owner(place)))
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.layer.outbox.attach(false);
    }
}

impl Behaviour {
    // ---- Which hub ---------------------------------------------------------------------------------

    /// Runs `f` with the hub that has the stream, above the swarm or below.
    pub(super) fn with_hub_of<R>(
        &mut self,
        key: StreamKey,
        f: impl FnOnce(&mut Hub<Substream>) -> R,
    ) -> Option<R> {
        if self.hub.stream(key).is_none()
            && let Some(layer) = &self.layer
            && let Some(peer) = layer.layer.peer_of(key)
        {
            let result = peer.with(|state| state.hub_of_stream(key).map(f));
            peer.waker.rouse();
            return result;
        }
        Some(f(&mut self.hub))
    }

    /// Runs `f` with the hub that decides about this connection: its link's, if that has a layer at the other
    /// end.
    pub(super) fn with_hub_at<R>(
        &mut self,
        peer: PeerId,
        connection: ConnectionKey,
        f: impl FnOnce(&mut Hub<Substream>) -> R,
    ) -> R {
        let Some(below) = self.layer.as_ref().and_then(|it| it.layer.peer(peer)) else {
            return f(&mut self.hub);
        };
        let result = below.with(|state| match state.hub_of(connection.number()) {
            Some(hub) => Ok(f(hub)),
            None => Err(f),
        });
        below.waker.rouse();
        result.unwrap_or_else(|f| f(&mut self.hub))
    }

    /// True if this is a link, too, with a layer at the other end.
    pub(super) fn is_linked(&self, info: &ConnectionInfo) -> bool {
        let below = self.layer.as_ref().and_then(|it| it.layer.peer(info.peer));
        below.is_some_and(|below| below.with(|state| state.hub_of(info.key.number()).is_some()))
    }

    /// True if the peer is known to have a layer, too.
    pub(super) fn is_layered(&self, peer: PeerId) -> bool {
        let below = self.layer.as_ref().and_then(|it| it.layer.peer(peer));
        below.is_some_and(|below| below.with(|state| state.is_layered()))
    }

    /// The peer's connections as places for new streams, the oldest first; links, where there is a layer at both
    /// ends.
    pub(super) fn places(&self, peer: PeerId) -> Cow<'_, [ConnectionInfo]> {
        let connections = self.hub.connections(peer);
        let below = self.layer.as_ref().and_then(|it| it.layer.peer(peer));
        let places = below.and_then(|below| below.with(|state| state.places(connections)));
        places.map_or(Cow::Borrowed(connections), Cow::Owned)
    }

    pub(super) fn migrate_to(
        &mut self,
        key: StreamKey,
        to: ConnectionKey,
        reply: oneshot::Sender<Result<(), MigrateError>>,
    ) {
        let of = self.layer.as_ref().and_then(|it| it.layer.peer_of(key));
        if let Some(below) = of
            && self.hub.connection(below.id, to).is_some()
            && below.with(|state| state.is_awaited(to))
            && let Some(layer) = &mut self.layer
        {
            return layer.early.push(Early { key, to, reply });
        }
        self.with_hub_of(key, |hub| hub.migrate(key, to, reply));
    }

    /// Looks again at migrations that came early.
    pub(super) fn migrate_early(&mut self) {
        let early = self.layer.as_mut().map(|it| std::mem::take(&mut it.early));
        for Early { key, to, reply } in early.into_iter().flatten() {
            self.migrate_to(key, to, reply);
        }
    }

    pub(super) fn await_move(
        &mut self,
        key: StreamKey,
        reply: oneshot::Sender<Result<ConnectionKey, MigrateError>>,
    ) {
        self.with_hub_of(key, |hub| hub.await_move(key, reply));
    }

    pub(super) fn drain_for(
        &mut self,
        peer: PeerId,
        connection: ConnectionKey,
        reply: oneshot::Sender<Result<(), DrainError>>,
    ) {
        self.with_hub_at(peer, connection, |hub| hub.drain(peer, connection, reply));
    }

    // ---- Opening -----------------------------------------------------------------------------------

    /// Opens a stream for somebody who waits for it: through the layer if there is one at both ends, else
    /// through the connection's handler.
    pub(super) fn open_attempt(
        &mut self,
        peer: PeerId,
        connection: ConnectionKey,
        request: StreamRequest,
        alive: Option<Permit>,
    ) {
        let mobility = self.config.mobility_of(&request.protocol);
        let below = self.layer.as_ref().and_then(|it| it.layer.peer(peer));
        let Some(below) = below else {
            return self.ask_handler(peer, connection, request);
        };
        let number = connection.number();
        // What was refused there may be served by something else than this crate: by a plain stream, which the
        // layer moves as well.
        let inside = request.inside == Inside::Unknown;
        if !inside || !below.with(|state| state.may_open(number)) {
            return self.ask_handler(peer, connection, request);
        }
        let task = async move {
            let (mut opening, mut request) = (Opening::default(), request);
            // Lent as a whole: what it holds is not to be shared.
            let waiting = &mut request;
            let opened = poll_fn(move |cx| match waiting.poll_canceled(cx) {
                Poll::Ready(()) => Poll::Ready(Err(NotOpened::Cancelled)),
                Poll::Pending => {
                    below.with(|state| state.poll_open(number, mobility, &mut opening, cx))
                }
            });
            (opened.await, request)
        };
        self.spawn(task, move |it, (opened, request)| {
            it.opened_below(peer, connection, request, alive, opened);
        });
        self.wake();
    }

    fn opened_below(
        &mut self,
        peer: PeerId,
        connection: ConnectionKey,
        request: StreamRequest,
        alive: Option<Permit>,
        result: Result<Arc<SwarmShared>, NotOpened>,
    ) {
        let shared = match result {
            Ok(shared) => shared,
            // It turned out that there is no layer.
            Err(NotOpened::NoLayer) => return self.ask_handler(peer, connection, request),
            Err(not_opened) => {
                self.attempt_settled(peer, connection);
                let error = match not_opened {
                    NotOpened::Cancelled => return self.nobody_waits(&request),
                    NotOpened::Full => {
                        OpenStreamError::TooManyStreams(self.config.hub.max_streams_per_peer)
                    }
                    NotOpened::NoLayer | NotOpened::Lost => OpenStreamError::ConnectionLost,
                };
                return self.not_opened(connection, request, error);
            }
        };
        self.attempt_settled(peer, connection);
        self.keep_alive_for(shared.key(), alive);
        self.dial_on(shared, peer, connection, request, false);
    }

    fn keep_alive_for(&mut self, key: StreamKey, alive: Option<Permit>) {
        if let (Some(layer), Some(alive)) = (&mut self.layer, alive) {
            layer.alive.insert(key, alive);
        }
    }

    // ---- What the layer tells ----------------------------------------------------------------------

    /// Goes on with what concerns the layer. Returns whether there was anything.
    pub(super) fn poll_below(&mut self, cx: &mut Context<'_>) -> bool {
        let mut progress = false;
        while let Some(layer) = &self.layer
            && let Poll::Ready(told) = layer.layer.outbox.poll(cx)
        {
            progress = true;
            self.told(told);
        }
        progress
    }

    fn told(&mut self, told: Told) {
        match told {
            Told::Event(event) => {
                if let (Event::StreamEnded { key, .. }, Some(layer)) = (&event, &mut self.layer) {
                    layer.alive.remove(key);
                }
                self.tell(event);
            }
            Told::Labelled(labelled) => self.labelled_below(labelled),
            Told::Room(peer) => {
                self.migrate_early();
                self.serve_waiting(peer);
            }
        }
    }

    /// The remote has opened a stream that belongs to no connection.
    fn labelled_below(&mut self, labelled: Labelled) {
        let Labelled {
            peer,
            connection,
            shared,
        } = labelled;
        let any = self
            .hub
            .connections(peer)
            .iter()
            .map(|info| info.key)
            .next_back();
        let alive = any.and_then(|any| self.hub.keep_alive(any));
        self.keep_alive_for(shared.key(), alive);
        self.listen_on(shared, peer, connection);
    }
}
