//! The handle by which an application opens, accepts, moves and lists streams.

use std::sync::Arc;

use futures::{
    SinkExt,
    channel::{mpsc, oneshot},
};
use libp2p_identity::PeerId;
use libp2p_swarm::StreamProtocol;

use super::{Behaviour, Command};
use crate::{
    accept::{AcceptError, Acceptors, IncomingStreams},
    connection::ConnectionName,
    error::{DrainError, MigrateError},
    key::{ConnectionKey, StreamKey},
    open_error::OpenStreamError,
    policy::Verdict,
    stream::Stream,
    view::{ConnectionInfo, Mobility, StreamInfo},
};

/// Opens, accepts, moves and lists streams. Made by
/// [`Behaviour::new_control`](crate::Behaviour::new_control); clone it freely.
///
/// All its methods need the swarm to be polled. When the behaviour is gone, they fail with an error, or
/// answer with empty lists. All of them are cancel-safe: a dropped future undoes nothing that has
/// happened and leaks nothing; a stream that was opened for it is dropped.
///
/// Each control sends one request at a time, which `&mut self` enforces; that bounds what can be
/// waiting in the behaviour by the number of controls.
#[derive(Debug, Clone)]
pub struct Control {
    commands: mpsc::Sender<Command>,
    acceptors: Arc<Acceptors>,
}

impl Control {
    pub(super) fn new(commands: mpsc::Sender<Command>, acceptors: Arc<Acceptors>) -> Self {
        Self {
            commands,
            acceptors,
        }
    }

    /// Opens a stream to the peer on the best connection: one that answers and is not being emptied; of
    /// those, as the policy [says](crate::Policy::compare); direct before relayed; the oldest. Dials the
    /// peer if there is none.
    ///
    /// If a connection fails, the next best is tried, and so it is if one has not answered after
    /// [`Config::with_open_head_start`](crate::Config::with_open_head_start); the first to answer serves.
    /// If all that are good hold as many streams as they may, it waits for room
    /// ([`Config::with_max_streams_per_connection`](crate::Config::with_max_streams_per_connection)). Where
    /// the protocol's streams may begin, its [`Mobility`] says.
    ///
    /// If the peer does not speak the migration protocol, or serves this protocol by something else than
    /// this crate, the stream is a plain one ([`Stream::is_migratable`]).
    ///
    /// # Errors
    ///
    /// [`OpenStreamError::UnsupportedProtocol`] if the peer does not support the protocol. When Identify
    /// has told that it does, its answer is not waited for, and a peer that has changed its mind shows as
    /// an error of the first read. [`OpenStreamError::TimedOut`] and [`OpenStreamError::Io`] if the peer does
    /// not answer, which says nothing of what it supports. [`OpenStreamError::Dial`] if there is no way to it,
    /// [`OpenStreamError::NoRoom`] and its like where a limit is reached, [`OpenStreamError::NotAllowed`].
    pub async fn open_stream(
        &mut self,
        peer: PeerId,
        protocol: StreamProtocol,
    ) -> Result<Stream, OpenStreamError> {
        self.open(peer, None, protocol).await
    }

    /// Opens a stream on this connection to the peer.
    ///
    /// # Errors
    ///
    /// As [`Control::open_stream`]; and [`OpenStreamError::UnknownConnection`].
    pub async fn open_stream_on(
        &mut self,
        peer: PeerId,
        connection: impl ConnectionName,
        protocol: StreamProtocol,
    ) -> Result<Stream, OpenStreamError> {
        self.open(peer, Some(connection.key()), protocol).await
    }

    async fn open(
        &mut self,
        peer: PeerId,
        connection: Option<ConnectionKey>,
        protocol: StreamProtocol,
    ) -> Result<Stream, OpenStreamError> {
        let opened = self.ask(move |it, reply| it.open_for(peer, connection, protocol, reply));
        let opened = opened.await;
        opened.unwrap_or_else(|| Err(OpenStreamError::BehaviourGone))
    }

    /// Accepts inbound streams of this protocol, from peers with and without the migration protocol.
    ///
    /// To stop, drop the returned handle.
    ///
    /// # Errors
    ///
    /// [`AcceptError::AlreadyRegistered`] if there is such a handle already, and for the migration
    /// protocol's own name; [`AcceptError::BehaviourGone`] if nothing will ever come.
    pub fn accept(&mut self, protocol: StreamProtocol) -> Result<IncomingStreams, AcceptError> {
        Acceptors::register(&self.acceptors, protocol)
    }

    /// Moves a stream onto another connection to its peer.
    ///
    /// Resolves when the migration is complete: the old leg has been read to its end and closed. It does
    /// so even while the application neither reads nor writes, as long as what has to be read ahead for
    /// it fits [`Config::with_read_ahead_per_stream`](crate::Config::with_read_ahead_per_stream). It may
    /// have to wait for its turn first
    /// ([`Config::with_max_migrations_per_peer`](crate::Config::with_max_migrations_per_peer),
    /// [`Config::with_max_streams_per_connection`](crate::Config::with_max_streams_per_connection)). Once
    /// it has been asked for, dropping the future does not stop it.
    ///
    /// A policy that would rather have the stream elsewhere moves it again; to keep it there, say
    /// [`Mobility::PinnedTo`] with [`Control::set_mobility`], which moves it too.
    ///
    /// # Errors
    ///
    /// See [`MigrateError`]. Unless it is [`MigrateError::Aborted`], the stream goes on where it was.
    pub async fn migrate(
        &mut self,
        key: StreamKey,
        connection: impl ConnectionName,
    ) -> Result<(), MigrateError> {
        let to = connection.key();
        let migrated = self.ask(move |it, reply| it.migrate_to(key, to, reply));
        migrated.await.unwrap_or(Err(MigrateError::BehaviourGone))
    }

    /// Answers [`Event::MigrationRequested`](crate::Event::MigrationRequested): whether the stream may
    /// move onto this connection.
    ///
    /// # Errors
    ///
    /// [`MigrateError::NotAsked`] if there is no such question any more: it was answered, the
    /// [answer timeout](crate::Config::with_answer_timeout) has passed, the remote gave up, or `verdict` is
    /// [`Verdict::Ask`]. [`MigrateError::UnknownStream`] if the stream is over.
    pub async fn answer(
        &mut self,
        key: StreamKey,
        connection: impl ConnectionName,
        verdict: Verdict,
    ) -> Result<(), MigrateError> {
        let to = connection.key();
        let answered = self.call(move |it| it.answer(key, to, verdict));
        answered.await.unwrap_or(Err(MigrateError::BehaviourGone))
    }

    /// Says whether and whither a stream may be moved. A migration that is under way is not stopped.
    ///
    /// # Errors
    ///
    /// [`MigrateError::UnknownStream`].
    pub async fn set_mobility(
        &mut self,
        key: StreamKey,
        mobility: Mobility,
    ) -> Result<(), MigrateError> {
        let set = self.call(move |it| it.set_mobility(key, mobility));
        set.await.unwrap_or(Err(MigrateError::BehaviourGone))
    }

    /// Empties a connection: no stream is put on it from now on, and the [`Drain`](crate::Drain)
    /// policy, which is part of the default one, moves those that are there to other connections of
    /// the peer, as soon as there are any. Resolves when it is free. Pinned streams, and those
    /// whose migration the remote denied, stay, and then it is not free before they end.
    ///
    /// Dropping the future does not stop it; [`Event::ConnectionFree`](crate::Event::ConnectionFree) tells
    /// as well.
    ///
    /// # Errors
    ///
    /// See [`DrainError`].
    pub async fn drain(
        &mut self,
        peer: PeerId,
        connection: impl ConnectionName,
    ) -> Result<(), DrainError> {
        let connection = connection.key();
        let drained = self.ask(move |it, reply| it.drain_for(peer, connection, reply));
        drained.await.unwrap_or(Err(DrainError::BehaviourGone))
    }

    /// Stops emptying a connection: streams may go there again, and that it was to be
    /// [closed when free](Control::close_when_free) is forgotten. Whoever waits for
    /// [`drain`](Control::drain) gets [`DrainError::Undrained`].
    ///
    /// # Errors
    ///
    /// [`DrainError::UnknownConnection`].
    pub async fn undrain(
        &mut self,
        peer: PeerId,
        connection: impl ConnectionName,
    ) -> Result<(), DrainError> {
        let connection = connection.key();
        let undrained = self.call(move |it| it.undrain(peer, connection));
        undrained.await.unwrap_or(Err(DrainError::BehaviourGone))
    }

    /// Waits for the stream's next move, whoever makes it: resolves with the connection onto which it was
    /// moved, once that migration is complete.
    ///
    /// # Errors
    ///
    /// [`MigrateError::UnknownStream`]; [`MigrateError::Ended`] and [`MigrateError::Aborted`] once the stream
    /// is over.
    pub async fn next_move(&mut self, key: StreamKey) -> Result<ConnectionKey, MigrateError> {
        let moved = self.ask(move |it, reply| it.await_move(key, reply));
        moved.await.unwrap_or(Err(MigrateError::BehaviourGone))
    }

    /// Closes a connection as soon as no migratable stream is on it, nothing else uses it, and
    /// nothing of what has left it can be lost (*Pruning*). If the remote has moved streams off it,
    /// this is left to the remote, or to the swarm's idle timeout.
    /// [`Event::ConnectionPruned`](crate::Event::ConnectionPruned) tells.
    ///
    /// Below the swarm ([`transport`](crate::transport)) it is the link that is closed; its connection goes on, on
    /// another one. Without another one, it stays.
    pub async fn close_when_free(&mut self, peer: PeerId, connection: impl ConnectionName) {
        let connection = connection.key();
        let close: Command = Box::new(move |it| it.close_when_free(peer, connection));
        let _ = self.commands.send(close).await;
    }

    /// Says that this machine's network has changed, as when Wi-Fi is left: connections that may be silent now are asked at
    /// once, and peers to which streams wait for a connection are dialed at once. Not needed: what is silent is found
    /// out by itself, only later. For streams that outlive their connections
    /// ([`Config::with_resume`](crate::Config::with_resume)).
    pub async fn network_changed(&mut self) {
        let changed: Command = Box::new(Behaviour::network_changed);
        let _ = self.commands.send(changed).await;
    }

    /// The migratable streams to and from this peer.
    pub async fn streams(&mut self, peer: PeerId) -> Vec<StreamInfo> {
        let streams = self.call(move |it| it.streams(peer));
        streams.await.unwrap_or_default()
    }

    /// The connections to this peer, the one that ranks first for new streams first, each with
    /// [what speaks against it](ConnectionInfo::obstacle).
    pub async fn connections(&mut self, peer: PeerId) -> Vec<ConnectionInfo> {
        let connections = self.call(move |it| it.connections(peer));
        connections.await.unwrap_or_default()
    }

    /// The peers that are connected, in order.
    pub async fn peers(&mut self) -> Vec<PeerId> {
        self.call(|it| it.peers()).await.unwrap_or_default()
    }

    /// The migratable streams to and from all peers that are connected, peer by peer.
    pub async fn all_streams(&mut self) -> Vec<StreamInfo> {
        let mut all = Vec::new();
        for peer in self.peers().await {
            all.extend(self.streams(peer).await);
        }
        all
    }

    /// Asks for something that is done at once. `None` if the behaviour is gone.
    async fn call<R: Send + 'static>(
        &mut self,
        f: impl FnOnce(&mut Behaviour) -> R + Send + 'static,
    ) -> Option<R> {
        self.ask(|it, reply| drop(reply.send(f(it)))).await
    }

    /// Asks for something that takes time. `None` if the behaviour is gone.
    async fn ask<R: Send + 'static>(
        &mut self,
        f: impl FnOnce(&mut Behaviour, oneshot::Sender<R>) + Send + 'static,
    ) -> Option<R> {
        let (reply, answer) = oneshot::channel();
        let command: Command = Box::new(|it| f(it, reply));
        self.commands.send(command).await.ok()?;
        answer.await.ok()
    }
}
