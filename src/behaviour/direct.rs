//! The synchronous twins of [`Control`]'s calls, for whoever has the behaviour at hand: in a swarm's loop,
//! awaiting a `Control` waits for that very loop.

use futures::{FutureExt, channel::oneshot, future::BoxFuture};
use libp2p_identity::PeerId;
use libp2p_swarm::StreamProtocol;

use super::Behaviour;
use crate::{
    accept::{AcceptError, Acceptors, IncomingStreams},
    connection::ConnectionName,
    error::{DrainError, MigrateError},
    key::{ConnectionKey, StreamKey},
    open_error::OpenStreamError,
    policy::Verdict,
    request::{Caller, Reply, StreamRequest},
    stream::Stream,
    view::{ConnectionInfo, Mobility, StreamInfo},
};

/// Calls without a [`Control`](crate::Control), from the loop that polls the swarm. Each does at once what
/// `Control`'s method of the same name says, errors and cancel-safety included; where the outcome takes
/// time, the future has to be awaited elsewhere than in that loop, or may be dropped.
impl Behaviour {
    /// As [`Control::open_stream`](crate::Control::open_stream).
    pub fn open_stream(
        &mut self,
        peer: PeerId,
        protocol: StreamProtocol,
    ) -> BoxFuture<'static, Result<Stream, OpenStreamError>> {
        let gone = Err(OpenStreamError::BehaviourGone);
        self.promise(gone, |it, reply| it.open_for(peer, None, protocol, reply))
    }

    /// As [`Control::open_stream_on`](crate::Control::open_stream_on).
    pub fn open_stream_on(
        &mut self,
        peer: PeerId,
        connection: impl ConnectionName,
        protocol: StreamProtocol,
    ) -> BoxFuture<'static, Result<Stream, OpenStreamError>> {
        let (only, gone) = (Some(connection.key()), Err(OpenStreamError::BehaviourGone));
        self.promise(gone, |it, reply| it.open_for(peer, only, protocol, reply))
    }

    /// As [`Control::accept`](crate::Control::accept).
    ///
    /// # Errors
    ///
    /// [`AcceptError::AlreadyRegistered`].
    pub fn accept(&mut self, protocol: StreamProtocol) -> Result<IncomingStreams, AcceptError> {
        Acceptors::register(&self.acceptors, protocol)
    }

    /// As [`Control::migrate`](crate::Control::migrate).
    pub fn migrate(
        &mut self,
        key: StreamKey,
        connection: impl ConnectionName,
    ) -> BoxFuture<'static, Result<(), MigrateError>> {
        let (to, gone) = (connection.key(), Err(MigrateError::BehaviourGone));
        self.promise(gone, |it, reply| it.migrate_to(key, to, reply))
    }

    /// As [`Control::next_move`](crate::Control::next_move).
    pub fn next_move(
        &mut self,
        key: StreamKey,
    ) -> BoxFuture<'static, Result<ConnectionKey, MigrateError>> {
        let gone = Err(MigrateError::BehaviourGone);
        self.promise(gone, |it, reply| it.await_move(key, reply))
    }

    /// As [`Control::answer`](crate::Control::answer).
    ///
    /// # Errors
    ///
    /// [`MigrateError::NotAsked`], [`MigrateError::UnknownStream`].
    pub fn answer(
        &mut self,
        key: StreamKey,
        connection: impl ConnectionName,
        verdict: Verdict,
    ) -> Result<(), MigrateError> {
        let to = connection.key();
        let answered = self.with_hub_of(key, |hub| hub.answered(key, to, verdict));
        self.wake();
        answered.unwrap_or(Err(MigrateError::UnknownStream(key)))
    }

    /// As [`Control::set_mobility`](crate::Control::set_mobility).
    ///
    /// # Errors
    ///
    /// [`MigrateError::UnknownStream`].
    pub fn set_mobility(&mut self, key: StreamKey, mobility: Mobility) -> Result<(), MigrateError> {
        let set = self.with_hub_of(key, |hub| hub.set_mobility(key, mobility));
        self.wake();
        set.unwrap_or(Err(MigrateError::UnknownStream(key)))
    }

    /// As [`Control::drain`](crate::Control::drain).
    pub fn drain(
        &mut self,
        peer: PeerId,
        connection: impl ConnectionName,
    ) -> BoxFuture<'static, Result<(), DrainError>> {
        let (connection, gone) = (connection.key(), Err(DrainError::BehaviourGone));
        self.promise(gone, |it, reply| it.drain_for(peer, connection, reply))
    }

    /// As [`Control::undrain`](crate::Control::undrain).
    ///
    /// # Errors
    ///
    /// [`DrainError::UnknownConnection`].
    pub fn undrain(
        &mut self,
        peer: PeerId,
        connection: impl ConnectionName,
    ) -> Result<(), DrainError> {
        let connection = connection.key();
        let undrained = self.with_hub_at(peer, connection, |hub| hub.undrain(peer, connection));
        self.wake();
        undrained
    }

    /// As [`Control::close_when_free`](crate::Control::close_when_free).
    pub fn close_when_free(&mut self, peer: PeerId, connection: impl ConnectionName) {
        let connection = connection.key();
        self.with_hub_at(peer, connection, |hub| {
            hub.close_when_free(peer, connection)
        });
        self.wake();
    }

    /// The peers that are connected, in order.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerId> {
        self.hub.peers()
    }

    /// The migratable streams to and from this peer.
    #[must_use]
    pub fn streams(&self, peer: PeerId) -> Vec<StreamInfo> {
        let mut streams = self.hub.streams(peer);
        if let Some(layer) = &self.layer {
            streams.extend(layer.streams(peer));
        }
        streams
    }

    /// The connections to this peer, the one that ranks first for new streams first.
    #[must_use]
    pub fn connections(&self, peer: PeerId) -> Vec<ConnectionInfo> {
        let places = self.places(peer);
        let ranked = self.hub.rank(peer, &places).into_iter().cloned().collect();
        match &self.layer {
            Some(layer) => layer.connections(peer, ranked, self.hub.connections(peer)),
            None => ranked,
        }
    }

    /// Asks for something that takes time; `gone` is the answer if this is dropped before.
    fn promise<R: Send + 'static>(
        &mut self,
        gone: R,
        ask: impl FnOnce(&mut Self, oneshot::Sender<R>),
    ) -> BoxFuture<'static, R> {
        let (reply, answer) = oneshot::channel();
        ask(self, reply);
        self.wake();
        answer.map(|answer| answer.unwrap_or(gone)).boxed()
    }

    pub(super) fn open_for(
        &mut self,
        peer: PeerId,
        only: Option<ConnectionKey>,
        protocol: StreamProtocol,
        reply: oneshot::Sender<Result<Stream, OpenStreamError>>,
    ) {
        let reply = Reply::Caller(Caller::new(reply));
        self.open(peer, only, StreamRequest::new(protocol, reply));
    }
}
