//! The [`NetworkBehaviour`]: owns the table, the connections' views, and everything that runs in the
//! background; translates between the swarm and the rest.

// Needs the core's checks.
#[cfg(all(test, stream_migration_mutants))]
mod books;
mod control;
mod dialing;
mod direct;
mod layered;
mod negotiations;
mod offers;
mod opens;
mod outside;
mod redial;
mod twins;

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use futures::{StreamExt, channel::mpsc, future::BoxFuture, stream::FuturesUnordered};
use libp2p_core::{ConnectedPoint, Endpoint, Multiaddr, multiaddr::Protocol, transport::PortUse};
use libp2p_identity::PeerId;
use libp2p_swarm::{
    AddressChange, CloseConnection, ConnectionClosed, ConnectionDenied, ConnectionError,
    ConnectionId, DialFailure, FromSwarm, ListenFailure, NetworkBehaviour, NotifyHandler, THandler,
    THandlerInEvent, THandlerOutEvent, ToSwarm,
    behaviour::{ConnectionEstablished, NewExternalAddrOfPeer},
};

pub use self::{
    control::Control,
    layered::{layered, layered_with_policy},
    twins::NameInUse,
};
use self::{dialing::Dials, layered::Attached, opens::Opens, outside::Outside, redial::Ways};
use crate::{
    Chain, Config, Event, Policy,
    accept::{Acceptors, Queue},
    config::CONTROL_NAME,
    connection::ConnectionName,
    handler::{self, FromBehaviour, Handler, Purpose, ToBehaviour},
    hub::{self, Hub, Output, Timers},
    inbox::Inbox,
    key::{ConnectionKey, StreamKey},
    shrink,
    substream::Substream,
};

/// A thing that the behaviour is to do.
type Command = Box<dyn FnOnce(&mut Behaviour) + Send>;

/// Commands that may wait, beside one per [`Control`].
const COMMAND_BACKLOG: usize = 16;

/// Something that is due later.
#[derive(Debug)]
enum Due {
    /// Somebody else's dial has had its time to get through.
    Redial(PeerId),
    /// The application may have had its time to accept a stream.
    Accept(Queue),
    /// An attempt to open a stream has had its time alone.
    HeadStart(u64),
    /// Opening a stream has had all its time.
    OpenOver(u64),
    /// The offer on a stream that was handed out before its answer should have been answered.
    Unheard(StreamKey),
}

/// Makes streams migratable, and moves them. Add it to a `Swarm`'s behaviour and get a [`Control`] from
/// it.
///
/// A swarm needs one of them at most; two need different [names](Config::with_protocol_name), or all
/// connections are denied with [`NameInUse`].
///
/// The swarm has to be polled for anything to happen. When the behaviour is dropped, streams that are
/// not being migrated live on as long as their connections do.
pub struct Behaviour {
    config: Config,
    hub: Hub<Substream>,
    acceptors: Arc<Acceptors>,
    command_sender: mpsc::Sender<Command>,
    commands: mpsc::Receiver<Command>,
    /// Streams that are being opened.
    opens: Opens,
    /// Streams that wait for their peer to be dialed.
    dials: Dials,
    /// The words of peers on control substreams.
    inbox: Inbox,
    /// The ways to peers whose streams outlive their connections.
    ways: Ways,
    /// Things that run in the background, each with what is to be done once it is over.
    tasks: FuturesUnordered<BoxFuture<'static, Command>>,
    /// Protocols that peers serve on plain streams only.
    outside: Outside,
    due: Timers<Due>,
    actions: VecDeque<ToSwarm<Event, FromBehaviour>>,
    /// The layer below the swarm.
    layer: Option<Attached>,
    /// The task that polls, while it has nothing to do: a call from elsewhere gives it something.
    waker: Option<Waker>,
}

impl Behaviour {
    /// A behaviour with the default policy, which is a [`Chain`] of [`Drain`](crate::Drain),
    /// [`PreferDirect`](crate::PreferDirect) and [`MergeDuplicates`](crate::MergeDuplicates). It needs the local peer's ID, because the
    /// parity of stream IDs and the designated peer depend on it.
    #[must_use]
    pub fn new(local_peer_id: PeerId, config: Config) -> Self {
        Self::with_policy(local_peer_id, config, Chain::default())
    }

    /// A behaviour with another policy; [`Outside`](crate::Outside) leaves all to somebody who uses a
    /// [`Control`].
    #[must_use]
    pub fn with_policy(local_peer_id: PeerId, mut config: Config, policy: impl Policy) -> Self {
        let (command_sender, commands) = mpsc::channel(COMMAND_BACKLOG);
        // Who believes facts has counted what came before them.
        config.hub.facts &= config.hub.verify;
        config.hub.resume &= config.hub.facts;
        let control = config.hub.facts.then_some(CONTROL_NAME);
        Self {
            hub: Hub::new(local_peer_id, config.hub.clone(), Box::new(policy)),
            acceptors: Acceptors::new(config.protocol_name.clone(), control, config.accept_backlog),
            command_sender,
            commands,
            opens: Opens::default(),
            dials: Dials::default(),
            inbox: Inbox::default(),
            ways: Ways::default(),
            tasks: FuturesUnordered::new(),
            outside: Outside::default(),
            due: Timers::default(),
            actions: VecDeque::new(),
            layer: None,
            waker: None,
            config,
        }
    }

    /// A handle to open, accept, move and list streams.
    #[must_use]
    pub fn new_control(&self) -> Control {
        Control::new(self.command_sender.clone(), self.acceptors.clone())
    }

    fn handler(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        address: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        self.refuse_twin(id)?;
        let parcel = self.handed_over(peer, id);
        let here = self.layer.as_ref().map(|layer| layer.here(id.key()));
        Ok(Handler::new(
            self.acceptors.clone(),
            &self.config,
            parcel,
            here,
            self.inbox.slit(peer, id.key()),
            is_quic(address),
        ))
    }

    // ---- Connections -------------------------------------------------------------------------------

    fn connected(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        let mut info = self.config.look_at(id.key(), peer, endpoint);
        // What was handed to it at birth.
        info.opening = self.opens.running_on(info.key).len();
        self.hub.connected(info);
        self.reached(peer, endpoint);
        for request in self.dialed(peer, id) {
            self.open(peer, None, request);
        }
    }

    fn disconnected(&mut self, peer: PeerId, connection: ConnectionKey, lost: bool) {
        self.hub.disconnected(peer, connection, lost);
        self.opens_lost(connection);
        self.migrate_early();
        if self.hub.connections(peer).is_empty() {
            self.outside.forget(peer);
        }
        self.forget_ways(peer);
    }

    fn notify(&mut self, peer_id: PeerId, connection: ConnectionKey, command: handler::Command) {
        self.actions.push_back(ToSwarm::NotifyHandler {
            peer_id,
            handler: NotifyHandler::One(connection.id()),
            event: FromBehaviour(command),
        });
    }

    /// Runs something in the background, and then goes on with what has come of it.
    fn spawn<T: Send + 'static>(
        &mut self,
        task: impl Future<Output = T> + Send + 'static,
        then: impl FnOnce(&mut Self, T) + Send + 'static,
    ) {
        self.tasks.push(Box::pin(async move {
            let result = task.await;
            Box::new(move |it: &mut Self| then(it, result)) as Command
        }));
    }

    /// Hears what peers have said on control substreams. Returns whether there was anything.
    fn hear_words(&mut self) -> bool {
        let words = self.inbox.take();
        let progress = !words.is_empty();
        for (peer, connection, control) in words {
            self.hub.seen(peer, connection);
            if let Some(hello) = control.hello {
                self.hub.greeted(peer, connection, hello);
            }
            if control.bye {
                self.hub.told_bye(connection);
            }
            if let Some(number) = control.pong {
                self.hub.ponged(peer, connection, number);
            }
            self.hub.told(peer, connection, control.facts);
        }
        progress
    }

    /// Something is to be done that nobody has polled for.
    fn wake(&mut self) {
        self.waker.take().into_iter().for_each(Waker::wake);
    }

    // ---- What comes out of the rooms ---------------------------------------------------------------

    fn tell(&mut self, event: Event) {
        if let Event::ConnectionChanged(info) = &event
            && info.suspected
        {
            self.dial_if_none_answers(info.peer);
        }
        if let Event::StreamEnded { peer, .. } = &event {
            self.forget_ways(*peer);
        }
        self.actions.push_back(ToSwarm::GenerateEvent(event));
    }

    fn output(&mut self, output: Output) {
        match output {
            // The layer tells it, of the link.
            Output::Event(Event::ConnectionChanged(info)) if self.is_linked(&info) => {}
            Output::Event(event) => self.tell(event),
            // Below the swarm, the links are looked after.
            Output::Open(peer, connection, hub::Purpose::Probe { number, .. })
                if self.is_layered(peer) =>
            {
                self.hub.probe_over(peer, connection, number, true);
            }
            Output::Open(peer, connection, purpose) => {
                let purpose = Purpose::Hub(purpose);
                self.notify(peer, connection, handler::Command::Open(purpose));
            }
            Output::Watch(peer, connection, quiet_from) => {
                self.notify(peer, connection, handler::Command::Watch(quiet_from));
            }
            Output::Wake(peer, connection) => {
                self.notify(peer, connection, handler::Command::Wake);
            }
            Output::Close(peer_id, connection) => {
                self.actions.push_back(ToSwarm::CloseConnection {
                    peer_id,
                    connection: CloseConnection::One(connection.id()),
                });
            }
            Output::Room(peer) => self.serve_waiting(peer),
            Output::Converse(peer, connection) => {
                if let Some(hello) = self.hub.hello() {
                    self.notify(peer, connection, handler::Command::Converse(hello));
                }
            }
            Output::Say(peer, connection, origin, facts) => {
                self.notify(peer, connection, handler::Command::Say(origin, facts));
            }
            Output::Dial(peer) => self.dial_for_suspended(peer),
            Output::Ping(peer, connection, number) => {
                self.notify(peer, connection, handler::Command::Ping(number));
            }
        }
    }

    fn is_due(&mut self, due: Due) {
        match due {
            Due::Accept(queue) => self.not_accepted(queue),
            Due::Redial(peer) => self.dial_at_last(peer),
            Due::HeadStart(open) => self.head_start_over(open),
            Due::OpenOver(open) => self.open_over(open),
            Due::Unheard(key) => self.hub.unheard(key),
        }
    }

    /// Local work: one round over everything that may be ready. Returns whether anything was.
    fn work(&mut self, cx: &mut Context<'_>) -> bool {
        let mut progress = self.hear_words();
        // One at a time: what it wants done goes out before it thinks on.
        if let Poll::Ready(output) = self.hub.poll(cx) {
            progress = true;
            self.output(output);
        }
        progress |= self.poll_below(cx);
        while let Poll::Ready(Some(command)) = self.tasks.poll_next_unpin(cx) {
            progress = true;
            command(self);
        }
        while let Poll::Ready(due) = self.due.poll_next(cx) {
            progress = true;
            self.is_due(due);
        }
        progress
    }
}

/// True if the muxer goes on while the connection's close waits.
fn is_quic(address: &Multiaddr) -> bool {
    let has = |wanted: fn(&Protocol<'_>) -> bool| address.iter().any(|part| wanted(&part));
    let quic = has(|part| matches!(part, Protocol::Quic | Protocol::QuicV1));
    quic && !has(|part| matches!(part, Protocol::P2pCircuit))
}

impl Drop for Behaviour {
    fn drop(&mut self) {
        self.acceptors.close();
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.handler(peer, connection, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.handler(peer, connection, remote)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            }) => self.connected(peer_id, connection_id, endpoint),
            FromSwarm::ConnectionClosed(ConnectionClosed {
                peer_id,
                connection_id,
                cause,
                ..
            }) => {
                // Who closes it, or lets it be idle, has no error.
                // Its last words say why.
                self.hear_words();
                let lost = !matches!(cause, None | Some(ConnectionError::KeepAliveTimeout));
                self.disconnected(peer_id, connection_id.key(), lost);
            }
            FromSwarm::AddressChange(AddressChange {
                peer_id,
                connection_id,
                new,
                ..
            }) => {
                let info = self.config.look_at(connection_id.key(), peer_id, new);
                self.hub.moved(info);
            }
            FromSwarm::NewExternalAddrOfPeer(NewExternalAddrOfPeer { peer_id, addr }) => {
                self.told_of_way(peer_id, addr);
            }
            FromSwarm::DialFailure(DialFailure {
                peer_id,
                error,
                connection_id,
            }) => self.not_connected(peer_id, connection_id, Some(error)),
            FromSwarm::ListenFailure(ListenFailure {
                peer_id,
                connection_id,
                ..
            }) => self.not_connected(peer_id, connection_id, None),
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        ToBehaviour(event): THandlerOutEvent<Self>,
    ) {
        let connection = connection.key();
        match event {
            handler::Event::Opened {
                purpose,
                stream,
                prefix,
                known,
                answered,
            } => {
                if answered {
                    self.hub.heard(peer, connection);
                }
                self.opened(peer, connection, purpose, stream, prefix, known);
            }
            handler::Event::OpenFailed { purpose, error } => {
                self.open_failed(peer, connection, purpose, error);
            }
            handler::Event::Requested { stream, request } => {
                self.hub.seen(peer, connection);
                self.requested(peer, connection, stream, request);
            }
            handler::Event::Plain { stream, protocol } => {
                self.hub.seen(peer, connection);
                self.accepted_plain(peer, connection, stream, protocol);
            }
            handler::Event::ProtocolsChanged => {
                self.hub.seen(peer, connection);
                self.outside.forget(peer);
            }
            handler::Event::HandedBack { request, alive } => {
                self.open_attempt(peer, connection, request, Some(alive));
            }
            handler::Event::Born { legs, pulse } => {
                self.hub.born(peer, connection, legs);
                self.hub.set_pulse(connection, pulse);
            }
            handler::Event::Unused => self.hub.unused(peer, connection),
            handler::Event::Mute => self.hub.mute(peer, connection),
            handler::Event::Refused => {
                self.hub
                    .refused(peer, Some(connection), crate::Limit::InboundRequests)
            }
            handler::Event::Violation => {
                self.hub
                    .violated(peer, Some(connection), crate::Violation::Message)
            }
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.hub.begin_round();
        self.due.begin_round();
        loop {
            // Events out first, then local work, then new work.
            if let Some(action) = self.actions.pop_front() {
                return Poll::Ready(action);
            }
            shrink::queue(&mut self.actions);
            if self.work(cx) {
                continue;
            }
            match self.commands.poll_next_unpin(cx) {
                Poll::Ready(Some(command)) => command(self),
                Poll::Ready(None) | Poll::Pending => {
                    self.waker = Some(cx.waker().clone());
                    self.inbox.register(cx);
                    if self.inbox.is_empty() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }
}
