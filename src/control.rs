//! The handle by which an application opens, accepts, moves and lists streams.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use futures::{
    SinkExt, StreamExt,
    channel::{mpsc, oneshot},
};
use libp2p_identity::PeerId;
use libp2p_swarm::{ConnectionId, StreamProtocol};

use crate::{
    event::{Abort, ConnectionInfo, Failure, StreamInfo},
    negotiate::Stream,
    stream::StreamKey,
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
    Streams {
        peer: PeerId,
        reply: oneshot::Sender<Vec<StreamInfo>>,
    },
    Connections {
        peer: PeerId,
        reply: oneshot::Sender<Vec<ConnectionInfo>>,
    },
}

/// A stream that somebody waits for.
#[derive(Debug)]
pub(crate) struct StreamRequest {
    pub(crate) protocol: StreamProtocol,
    pub(crate) reply: oneshot::Sender<Result<Stream, OpenStreamError>>,
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

    /// Opens a stream to the peer, on its direct connection if there is one, else on a relayed one; dials
    /// the peer if there is none.
    ///
    /// If the peer does not speak the migration protocol, the stream is a plain one
    /// ([`Stream::is_migratable`]).
    ///
    /// # Errors
    ///
    /// [`OpenStreamError::UnsupportedProtocol`] if the peer does not support the protocol. When Identify
    /// has told that it does, its answer is not waited for, and a peer that has changed its mind shows as
    /// an error of the first read.
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
        let (reply, answer) = oneshot::channel();
        let request = StreamRequest { protocol, reply };
        let command = Command::Open {
            peer,
            connection,
            request,
        };
        self.commands.send(command).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Accepts inbound streams of this protocol, from peers with and without the migration protocol.
    ///
    /// To stop, drop the returned handle.
    ///
    /// # Errors
    ///
    /// [`AlreadyRegistered`] if there is such a handle already, and for the migration protocol's own
    /// name.
    pub fn accept(
        &mut self,
        protocol: StreamProtocol,
    ) -> Result<IncomingStreams, AlreadyRegistered> {
        Acceptors::register(&self.acceptors, protocol)
    }

    /// Moves a stream onto another connection to its peer.
    ///
    /// Resolves when the migration is complete: the old leg has been read to its end and closed. It does
    /// so even while the application neither reads nor writes, as long as what has to be read ahead for
    /// it fits [`Config::with_read_ahead_per_stream`](crate::Config::with_read_ahead_per_stream). Dropping
    /// the future does not stop the migration.
    ///
    /// # Errors
    ///
    /// See [`MigrateError`]. Unless it is [`MigrateError::Aborted`], the stream goes on where it was.
    pub async fn migrate(
        &mut self,
        key: StreamKey,
        connection: ConnectionId,
    ) -> Result<(), MigrateError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Migrate {
            key,
            to: connection,
            reply,
        };
        self.commands
            .send(command)
            .await
            .map_err(|_| MigrateError::BehaviourGone)?;
        answer.await.map_err(|_| MigrateError::BehaviourGone)?
    }

    /// The migratable streams to and from this peer.
    pub async fn streams(&mut self, peer: PeerId) -> Vec<StreamInfo> {
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.send(Command::Streams { peer, reply }).await;
        match sent {
            Ok(()) => answer.await.unwrap_or_default(),
            Err(_) => Vec::new(),
        }
    }

    /// The connections to this peer, the one that ranks first for new streams first.
    pub async fn connections(&mut self, peer: PeerId) -> Vec<ConnectionInfo> {
        let (reply, answer) = oneshot::channel();
        let sent = self
            .commands
            .send(Command::Connections { peer, reply })
            .await;
        match sent {
            Ok(()) => answer.await.unwrap_or_default(),
            Err(_) => Vec::new(),
        }
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

/// The protocol is already registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the protocol is already registered")]
pub struct AlreadyRegistered;

type Incoming = (PeerId, ConnectionId, Stream);

/// Inbound streams of one protocol: the peer, the connection on which it came, the stream.
#[derive(Debug)]
#[must_use = "streams do nothing unless polled"]
pub struct IncomingStreams {
    protocol: StreamProtocol,
    receiver: mpsc::Receiver<Incoming>,
    acceptors: Arc<Acceptors>,
}

impl futures::Stream for IncomingStreams {
    type Item = Incoming;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Incoming>> {
        self.receiver.poll_next_unpin(cx)
    }
}

impl Drop for IncomingStreams {
    fn drop(&mut self) {
        self.acceptors.unregister(&self.protocol);
    }
}

/// The protocols that are accepted, shared by controls, handlers and the behaviour.
#[derive(Debug)]
pub(crate) struct Acceptors {
    prefix: StreamProtocol,
    backlog: usize,
    /// Protects the registrations; nothing else is done under it.
    registered: Mutex<Registered>,
}

/// The lock is the behaviour's way to send without cloning, for a clone would bring a place of its own
/// and nothing would be bounded. Nobody else takes it.
type Accepting = Arc<Mutex<mpsc::Sender<Incoming>>>;

#[derive(Debug)]
struct Registered {
    senders: HashMap<StreamProtocol, Accepting>,
    /// The prefix and all of them, ready to be handed to the swarm at every poll.
    list: Arc<[StreamProtocol]>,
}

impl Acceptors {
    pub(crate) fn new(prefix: StreamProtocol, backlog: usize) -> Arc<Self> {
        Arc::new(Self {
            backlog,
            registered: Mutex::new(Registered {
                senders: HashMap::new(),
                list: [prefix.clone()].into(),
            }),
            prefix,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Registered> {
        self.registered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn register(
        this: &Arc<Self>,
        protocol: StreamProtocol,
    ) -> Result<IncomingStreams, AlreadyRegistered> {
        let mut registered = this.lock();
        if protocol == this.prefix || registered.senders.contains_key(&protocol) {
            return Err(AlreadyRegistered);
        }
        // The one sender has a place of its own.
        let (sender, receiver) = mpsc::channel(this.backlog.saturating_sub(1));
        registered
            .senders
            .insert(protocol.clone(), Arc::new(Mutex::new(sender)));
        registered.relist(&this.prefix);
        drop(registered);
        Ok(IncomingStreams {
            protocol,
            receiver,
            acceptors: this.clone(),
        })
    }

    fn unregister(&self, protocol: &StreamProtocol) {
        let mut registered = self.lock();
        let sender = registered.senders.remove(protocol);
        registered.relist(&self.prefix);
        drop(registered);
        drop(sender);
    }

    /// The prefix and the application's protocols, all as plain protocols.
    pub(crate) fn protocols(&self) -> Arc<[StreamProtocol]> {
        self.lock().list.clone()
    }

    /// The application's protocols, as they may follow a label.
    pub(crate) fn inner(&self) -> Vec<StreamProtocol> {
        self.lock().list[1..].to_vec()
    }

    /// Hands a stream to the application. Returns whether somebody wants it and has room for it; if not,
    /// it is dropped.
    pub(crate) fn deliver(&self, peer: PeerId, connection: ConnectionId, stream: Stream) -> bool {
        let sender = self.lock().senders.get(stream.protocol()).cloned();
        sender.is_some_and(|sender| {
            let mut sender = sender.lock().unwrap_or_else(PoisonError::into_inner);
            sender.try_send((peer, connection, stream)).is_ok()
        })
    }
}

impl Registered {
    fn relist(&mut self, prefix: &StreamProtocol) {
        let mut protocols: Vec<_> = self.senders.keys().cloned().collect();
        protocols.sort_unstable_by(|a, b| a.as_ref().cmp(b.as_ref()));
        protocols.insert(0, prefix.clone());
        self.list = protocols.into();
    }
}
