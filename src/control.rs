//! The handle by which an application opens, accepts, moves and lists streams.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use futures::{
    SinkExt,
    channel::{mpsc, oneshot},
};
use libp2p_identity::PeerId;
use libp2p_swarm::{ConnectionId, StreamProtocol};

use crate::{
    accept::{AcceptError, Acceptors, IncomingStreams},
    event::{Abort, Failure},
    negotiate::Stream,
    offer::{Held, Reopening},
    policy::Verdict,
    stream::StreamKey,
    view::{ConnectionInfo, Mobility, StreamInfo},
};

/// What a [`Control`] asks of its behaviour.
#[derive(Debug)]
pub(crate) enum Command {
    Open {
        peer: PeerId,
        /// `None`: whichever ranks first, dialing if there is none.
        connection: Option<ConnectionId>,
        request: StreamRequest,
    },
    Migrate {
        key: StreamKey,
        to: ConnectionId,
        reply: oneshot::Sender<Result<(), MigrateError>>,
    },
    Answer {
        key: StreamKey,
        to: ConnectionId,
        verdict: Verdict,
        reply: oneshot::Sender<Result<(), MigrateError>>,
    },
    SetMobility {
        key: StreamKey,
        mobility: Mobility,
        reply: oneshot::Sender<Result<(), MigrateError>>,
    },
    Drain {
        peer: PeerId,
        connection: ConnectionId,
        reply: oneshot::Sender<Result<(), DrainError>>,
    },
    CloseWhenFree {
        peer: PeerId,
        connection: ConnectionId,
    },
    Streams {
        peer: PeerId,
        reply: oneshot::Sender<Vec<StreamInfo>>,
    },
    Connections {
        peer: PeerId,
        reply: oneshot::Sender<Vec<ConnectionInfo>>,
    },
}

/// A stream that somebody waits for. Each attempt to open it has one of its own.
#[derive(Debug)]
pub(crate) struct StreamRequest {
    pub(crate) protocol: StreamProtocol,
    pub(crate) reply: Reply,
    /// Of the open that this is an attempt of; a stream that becomes a plain one has none.
    pub(crate) number: Option<u64>,
    /// The connection has to show that it is alive.
    pub(crate) prove: bool,
    /// The peer was dialed for it because its last connection was closed under it, which is done once.
    pub(crate) redialed: bool,
    /// Whether the remote serves the protocol inside the prefix.
    pub(crate) inside: Inside,
    /// It is tried a second time, because the first offer was not answered.
    pub(crate) again: bool,
    /// What is left of the stream that was opened for it before.
    pub(crate) held: Option<Held>,
}

/// What is known of a protocol inside the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inside {
    Unknown,
    /// It was refused there some time ago, and served on a plain stream.
    Remembered,
    /// It was refused there just now.
    Refused,
}

/// Who waits for a stream.
#[derive(Debug)]
pub(crate) enum Reply {
    Caller(Caller),
    /// A stream that the application holds already, and that becomes a plain one.
    Reopening(Reopening),
}

type Opened = Result<Stream, OpenStreamError>;

/// A caller, shared by the attempts on several connections: the first to send serves.
#[derive(Debug, Clone)]
pub(crate) struct Caller(
    /// Protects the sender, which the first takes, and who wants to know when it is gone. Wakers are woken
    /// after it is released.
    Arc<Mutex<Waiting>>,
);

#[derive(Debug)]
struct Waiting {
    sender: Option<oneshot::Sender<Opened>>,
    wakers: Vec<Waker>,
}

impl Caller {
    fn new(sender: oneshot::Sender<Opened>) -> Self {
        Self(Arc::new(Mutex::new(Waiting {
            sender: Some(sender),
            wakers: Vec::new(),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it has been served or has given up.
    fn is_gone(&self) -> bool {
        let waiting = self.lock();
        let sender = waiting.sender.as_ref();
        sender.is_none_or(oneshot::Sender::is_canceled)
    }

    fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut waiting = self.lock();
        let Some(sender) = &mut waiting.sender else {
            return Poll::Ready(());
        };
        // The sender wakes the last of those who ask, who tells the others by letting go of it.
        if sender.poll_canceled(cx).is_ready() {
            return Poll::Ready(());
        }
        if !waiting
            .wakers
            .iter()
            .any(|waker| waker.will_wake(cx.waker()))
        {
            waiting.wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Serves the caller, if nobody has yet; with nothing, lets go of it.
    pub(crate) fn serve(&self, result: Option<Opened>) {
        let mut waiting = self.lock();
        let sender = waiting.sender.take();
        let wakers = std::mem::take(&mut waiting.wakers);
        drop(waiting);
        wakers.into_iter().for_each(Waker::wake);
        if let (Some(sender), Some(result)) = (sender, result) {
            // Whoever has given up drops the stream, which aborts it.
            drop(sender.send(result));
        }
    }
}

impl StreamRequest {
    pub(crate) fn new(protocol: StreamProtocol, reply: Reply) -> Self {
        Self {
            protocol,
            reply,
            number: None,
            prove: false,
            redialed: false,
            inside: Inside::Unknown,
            again: false,
            held: None,
        }
    }

    /// An attempt to open what this asks for, of which nothing has come yet.
    pub(crate) fn attempt(&self) -> Option<Self> {
        let Reply::Caller(caller) = &self.reply else {
            return None;
        };
        Some(Self {
            number: self.number,
            ..Self::new(self.protocol.clone(), Reply::Caller(caller.clone()))
        })
    }

    /// Whether nobody waits for it any more.
    pub(crate) fn is_canceled(&self) -> bool {
        match &self.reply {
            Reply::Caller(caller) => caller.is_gone(),
            Reply::Reopening(reopening) => reopening.is_canceled(),
        }
    }

    /// Ready when nobody waits for it any more.
    pub(crate) fn poll_canceled(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.reply {
            Reply::Caller(caller) => caller.poll_gone(cx),
            Reply::Reopening(_) => Poll::Pending,
        }
    }

    /// Tells whoever waits that there will be no stream.
    pub(crate) fn fail(self, error: OpenStreamError) {
        match self.reply {
            Reply::Caller(caller) => caller.serve(Some(Err(error))),
            Reply::Reopening(reopening) => {
                reopening.reopened(Err(error));
            }
        }
    }
}

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
    pub(crate) fn new(commands: mpsc::Sender<Command>, acceptors: Arc<Acceptors>) -> Self {
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
    /// an error of the first read. [`OpenStreamError::Io`] if the peer does not answer, which says nothing
    /// of what it supports: with [`io::ErrorKind::TimedOut`], or as the last connection that was tried
    /// said. With [`io::ErrorKind::WouldBlock`] if there is no room. [`OpenStreamError::NotAllowed`].
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
    /// As [`Control::open_stream`]; and [`OpenStreamError::Io`] with [`io::ErrorKind::NotConnected`] if
    /// there is no such connection to this peer.
    pub async fn open_stream_on(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        protocol: StreamProtocol,
    ) -> Result<Stream, OpenStreamError> {
        self.open(peer, Some(connection), protocol).await
    }

    async fn open(
        &mut self,
        peer: PeerId,
        connection: Option<ConnectionId>,
        protocol: StreamProtocol,
    ) -> Result<Stream, OpenStreamError> {
        self.ask(|reply| Command::Open {
            peer,
            connection,
            request: StreamRequest::new(protocol, Reply::Caller(Caller::new(reply))),
        })
        .await
        .unwrap_or_else(|| Err(gone()))
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
        connection: ConnectionId,
    ) -> Result<(), MigrateError> {
        let to = connection;
        self.ask(|reply| Command::Migrate { key, to, reply })
            .await
            .unwrap_or(Err(MigrateError::BehaviourGone))
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
        connection: ConnectionId,
        verdict: Verdict,
    ) -> Result<(), MigrateError> {
        let to = connection;
        self.ask(|reply| Command::Answer {
            key,
            to,
            verdict,
            reply,
        })
        .await
        .unwrap_or(Err(MigrateError::BehaviourGone))
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
        self.ask(|reply| Command::SetMobility {
            key,
            mobility,
            reply,
        })
        .await
        .unwrap_or(Err(MigrateError::BehaviourGone))
    }

    /// Has a connection emptied: no stream is put on it from now on, and the [`Drain`](crate::Drain)
    /// policy, which is part of the default one, moves those that are there to other connections of the
    /// peer, as soon as there are any. Resolves when it is free. Pinned streams, and those whose migration
    /// the remote denied, stay, and then it is not free before they end.
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
        connection: ConnectionId,
    ) -> Result<(), DrainError> {
        self.ask(|reply| Command::Drain {
            peer,
            connection,
            reply,
        })
        .await
        .unwrap_or(Err(DrainError::BehaviourGone))
    }

    /// Has a connection closed as soon as no migratable stream is on it, nothing else uses it, and nothing
    /// of what has left it can be lost (*Pruning*). If the remote has moved streams off it, this is left to
    /// the remote, or to the swarm's idle timeout. [`Event::ConnectionPruned`](crate::Event::ConnectionPruned)
    /// tells.
    pub async fn close_when_free(&mut self, peer: PeerId, connection: ConnectionId) {
        let command = Command::CloseWhenFree { peer, connection };
        let _ = self.commands.send(command).await;
    }

    /// The migratable streams to and from this peer.
    pub async fn streams(&mut self, peer: PeerId) -> Vec<StreamInfo> {
        let asked = self.ask(|reply| Command::Streams { peer, reply });
        asked.await.unwrap_or_default()
    }

    /// The connections to this peer, the one that ranks first for new streams first, each with
    /// [what speaks against it](ConnectionInfo::obstacle).
    pub async fn connections(&mut self, peer: PeerId) -> Vec<ConnectionInfo> {
        let asked = self.ask(|reply| Command::Connections { peer, reply });
        asked.await.unwrap_or_default()
    }

    /// `None` if the behaviour is gone.
    async fn ask<R>(&mut self, command: impl FnOnce(oneshot::Sender<R>) -> Command) -> Option<R> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.ok()?;
        answer.await.ok()
    }
}

fn gone() -> OpenStreamError {
    OpenStreamError::Io(io::Error::new(
        io::ErrorKind::ConnectionReset,
        "the behaviour or the connection is gone",
    ))
}

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

/// Why a stream was not moved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MigrateError {
    /// There is no migratable stream with this key, or it is over.
    #[error("there is no live migratable stream with key {0}")]
    UnknownStream(StreamKey),
    /// There is no such connection to the stream's peer.
    #[error("there is no connection {0} to the stream's peer")]
    UnknownConnection(ConnectionId),
    /// The stream is on that connection already.
    #[error("the stream is on connection {0} already")]
    AlreadyThere(ConnectionId),
    /// Another migration of the stream is under way.
    #[error("the stream is being migrated already")]
    AlreadyMigrating,
    /// The connection is being emptied ([`Control::drain`]).
    #[error("connection {0} is being drained")]
    Draining(ConnectionId),
    /// The stream's [`Mobility`] forbids it; change that first.
    #[error("the stream may not go there: its mobility is {0:?}")]
    NotAllowed(Mobility),
    /// There is nothing to answer.
    #[error("the remote does not ask to move the stream there, or not any more")]
    NotAsked,
    /// The remote has denied one, for good.
    #[error("the remote denied migrating this stream, for good")]
    Denied,
    /// Both directions of the stream have ended, or its application has let go of it.
    #[error("the stream has ended")]
    Ended,
    /// The new leg could not be opened.
    #[error("the new leg could not be opened: {0}")]
    NoLeg(String),
    /// The attempt has come to nothing.
    #[error("the migration has come to nothing: {0:?}")]
    Failed(Failure),
    /// The stream was aborted while it was moving.
    #[error("the stream was aborted: {0}")]
    Aborted(Abort),
    /// The behaviour is gone.
    #[error("the behaviour is gone")]
    BehaviourGone,
}

/// Why a connection was not emptied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DrainError {
    /// There is no such connection to this peer.
    #[error("there is no connection {0} to this peer")]
    UnknownConnection(ConnectionId),
    /// It was closed with streams on it.
    #[error("connection {0} was closed before it was free")]
    Closed(ConnectionId),
    /// The behaviour is gone.
    #[error("the behaviour is gone")]
    BehaviourGone,
}
