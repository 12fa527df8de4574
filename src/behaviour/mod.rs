//! The [`NetworkBehaviour`]: owns the table, the connections' views, and everything that runs in the
//! background; translates between the swarm and the rest.

#[cfg(test)]
mod books;
mod choose;
mod connections;
mod dialing;
mod extra;
mod health;
mod migrations;
mod offers;
mod opens;
mod outside;
mod policy;
mod prune;
mod rate;
mod requests;
mod streams;
mod timers;
mod turns;
mod twins;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    task::{Context, Poll},
};

use futures::{StreamExt, channel::mpsc, future::BoxFuture, stream::FuturesUnordered};
use libp2p_core::{Endpoint, Multiaddr, transport::PortUse};
use libp2p_identity::PeerId;
use libp2p_swarm::{
    AddressChange, ConnectionClosed, ConnectionDenied, ConnectionId, DialFailure, FromSwarm,
    ListenFailure, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
    behaviour::ConnectionEstablished,
};
use web_time::Instant;

pub use self::twins::NameInUse;
use self::{
    connections::Connections,
    dialing::Dials,
    extra::Extra,
    health::Healths,
    offers::OfferDriven,
    opens::Opens,
    outside::Outside,
    prune::{Legs, Records},
    requests::EarlyGone,
    streams::Negotiated,
    timers::{TimerKey, Timers},
    turns::{Asker, Turns},
};
use crate::{
    Chain, Change, Config, Event, Policy,
    accept::{Owner, Queue},
    control::{Command, Control},
    handler::{FromBehaviour, Handler, News, ToBehaviour},
    spare,
    stream::{Drive, Leg, Mailbox, StreamKey, Timeouts},
    substream::Substream,
    table::{Caps, Table},
    view::Streams,
};

type SwarmLeg = Leg<Substream, ConnectionId>;

/// Commands that may wait, beside one per [`Control`].
const COMMAND_BACKLOG: usize = 16;

/// Something that is due later.
#[derive(Debug)]
enum Due {
    /// Ask the policy about a stream again, as it wished.
    Ask(StreamKey),
    /// Try again after a failure.
    Retry(StreamKey, ConnectionId),
    /// The designated peer has had its time to start.
    Patience(StreamKey),
    /// Call the policy, as it wished.
    Call(PeerId),
    /// Nobody outside has answered the remote's question.
    Unanswered(StreamKey),
    /// Somebody else's dial has had its time to get through.
    Redial(PeerId),
    /// The application may have had its time to accept a stream.
    Accept(Queue),
    /// The label that a `Migrate` waits for has not come.
    Early(PeerId, u64),
    /// An old leg may have lingered long enough.
    Linger(PeerId, ConnectionId),
    /// An attempt to open a stream has had its time alone.
    HeadStart(u64),
    /// Opening a stream has had all its time.
    OpenOver(u64),
    /// The offer on a stream that was handed out before its answer should have been answered.
    Unheard(StreamKey),
    /// The leg of our migration should be open.
    LegOverdue(StreamKey),
    /// A probe of this number has been unanswered for long enough to look for another connection.
    ProbeLate(PeerId, ConnectionId, u64),
    /// It has been unanswered for long enough to give the connection up.
    ProbeOver(PeerId, ConnectionId, u64),
    /// A suspected connection may be well again.
    ProbeAgain(PeerId, ConnectionId),
    /// What has left a connection may return.
    QuarantineOver(PeerId, ConnectionId),
    /// A connection has been there for long enough to be chosen among duplicates.
    Proven(PeerId, ConnectionId),
    /// A connection may have carried streams and brought nothing.
    LookAfter(PeerId, ConnectionId),
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
    local: PeerId,
    policy: Box<dyn Policy>,
    /// When the policy wants to be called about a peer.
    calls: HashMap<PeerId, (Instant, TimerKey)>,
    acceptors: Owner,
    command_sender: mpsc::Sender<Command>,
    commands: mpsc::Receiver<Command>,
    connections: Connections,
    records: Records,
    turns: Turns,
    table: Table<Substream, ConnectionId, Extra>,
    mailbox: Arc<Mailbox>,
    /// Whether they answer.
    healths: Healths,
    /// Streams that are being opened.
    opens: Opens,
    /// Peers of whose connections one may have room for something that waits.
    changed: BTreeSet<PeerId>,
    /// Streams that wait for their peer to be dialed.
    dials: Dials,
    drives: FuturesUnordered<Drive<Substream, ConnectionId>>,
    negotiations: FuturesUnordered<BoxFuture<'static, Negotiated>>,
    /// Offers that the application does not wait for.
    offers: FuturesUnordered<BoxFuture<'static, OfferDriven>>,
    /// Protocols that peers serve on plain streams only.
    outside: Outside,
    due: Timers<Due>,
    /// `Migrate`s that wait for their label, looked after.
    early: FuturesUnordered<BoxFuture<'static, EarlyGone>>,
    /// Denials of migrations of streams that have ended, being written.
    denials: FuturesUnordered<BoxFuture<'static, ()>>,
    /// Last legs of streams that were closed and dropped; what comes out is where there was one.
    kept: FuturesUnordered<BoxFuture<'static, (PeerId, ConnectionId)>>,
    actions: VecDeque<ToSwarm<Event, FromBehaviour>>,
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
    pub fn with_policy(local_peer_id: PeerId, config: Config, policy: impl Policy) -> Self {
        let (command_sender, commands) = mpsc::channel(COMMAND_BACKLOG);
        let caps = Caps {
            streams_per_peer: config.max_streams_per_peer,
            unanswered_per_peer: config.max_unanswered_per_peer,
            ended_ids_per_peer: config.max_ended_ids_per_peer,
            ended_id_memory: config.ended_id_memory,
            read_ahead_per_stream: config.read_ahead_per_stream,
            read_ahead_per_peer: config.read_ahead_per_peer,
        };
        Self {
            local: local_peer_id,
            policy: Box::new(policy),
            calls: HashMap::new(),
            acceptors: Owner::new(config.protocol_name.clone(), config.accept_backlog),
            command_sender,
            commands,
            connections: Connections::default(),
            records: Records::default(),
            turns: Turns::default(),
            table: Table::new(local_peer_id, caps, config.first_id),
            mailbox: Arc::default(),
            healths: Healths::default(),
            opens: Opens::default(),
            changed: BTreeSet::new(),
            dials: Dials::default(),
            drives: FuturesUnordered::new(),
            negotiations: FuturesUnordered::new(),
            offers: FuturesUnordered::new(),
            outside: Outside::default(),
            due: Timers::default(),
            early: FuturesUnordered::new(),
            denials: FuturesUnordered::new(),
            kept: FuturesUnordered::new(),
            actions: VecDeque::new(),
            config,
        }
    }

    /// A handle to open, accept, move and list streams.
    #[must_use]
    pub fn new_control(&self) -> Control {
        Control::new(self.command_sender.clone(), self.acceptors.clone())
    }

    fn handler(&mut self, peer: PeerId, id: ConnectionId) -> Result<Handler, ConnectionDenied> {
        self.refuse_twin(id)?;
        let parcel = self.handed_over(peer, id);
        Ok(Handler::new(self.acceptors.clone(), &self.config, parcel))
    }

    fn event(&mut self, event: Event) {
        tracing::debug!(local = %self.local, ?event);
        self.actions.push_back(ToSwarm::GenerateEvent(event));
    }

    fn later(&mut self, delay: std::time::Duration, due: Due) -> TimerKey {
        self.due.add(delay, due)
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Open {
                peer,
                connection,
                request,
            } => self.open(peer, connection, request),
            Command::Migrate { key, to, reply } => self.migrate(key, to, Asker::Control(reply)),
            Command::Answer {
                key,
                to,
                verdict,
                reply,
            } => {
                let _ = reply.send(self.answered(key, to, verdict));
            }
            Command::SetMobility {
                key,
                mobility,
                reply,
            } => {
                let _ = reply.send(self.set_mobility(key, mobility));
            }
            Command::Drain {
                peer,
                connection,
                reply,
            } => self.drain(peer, connection, reply),
            Command::CloseWhenFree { peer, connection } => self.close_when_free(peer, connection),
            Command::Streams { peer, reply } => {
                let _ = reply.send(Streams::of_peer(&self.table, peer));
            }
            Command::Connections { peer, reply } => {
                let ranked = self.ranked(peer).into_iter().cloned();
                let _ = reply.send(ranked.collect());
            }
        }
    }

    fn is_due(&mut self, due: Due) {
        match due {
            Due::Ask(key) => {
                if let Some(entry) = self.table.get_mut(key) {
                    entry.extra.moves().asking_again = None;
                }
                self.place(key);
            }
            Due::Retry(key, to) => self.backed_off(key, to),
            Due::Patience(key) => self.patience_over(key),
            Due::Call(peer) => {
                self.calls.remove(&peer);
                self.tell(peer, &Change::Called);
            }
            Due::Unanswered(key) => self.unanswered(key),
            Due::Accept(queue) => self.not_accepted(queue),
            Due::Early(peer, number) => drop(self.table.expire_early(peer, number)),
            Due::Redial(peer) => self.dial_at_last(peer),
            Due::Linger(peer, connection) => self.lingered(peer, connection),
            Due::HeadStart(open) => self.head_start_over(open),
            Due::OpenOver(open) => self.open_over(open),
            Due::Unheard(key) => self.unheard(key),
            Due::LegOverdue(key) => self.leg_overdue(key),
            Due::ProbeLate(peer, connection, number) => {
                self.probe_is_late(peer, connection, number);
            }
            Due::ProbeOver(peer, connection, number) => {
                self.probe_over(peer, connection, number, false);
            }
            Due::ProbeAgain(peer, connection) => self.probe_again(peer, connection),
            Due::QuarantineOver(peer, connection) => self.quarantine_over(peer, connection),
            Due::Proven(peer, connection) => self.proven(peer, connection),
            Due::LookAfter(peer, connection) => self.look_after(peer, connection),
        }
    }

    /// Runs a driver for the stream if it needs one.
    fn drive(&mut self, key: StreamKey) {
        if let Some(entry) = self.table.get(key)
            && entry.shared.claim_drive()
        {
            let timeouts = Timeouts {
                answer: self.config.answer_timeout,
                progress: self.config.progress_timeout,
            };
            self.drives.push(Drive::new(entry.shared.clone(), timeouts));
        }
    }

    /// Local work: one round over everything that may be ready. Returns whether anything was.
    fn work(&mut self, cx: &mut Context<'_>) -> bool {
        let mut progress = false;
        for key in self.mailbox.collect(cx) {
            progress = true;
            self.heard_from(key);
        }
        while let Poll::Ready(Some(_)) = self.drives.poll_next_unpin(cx) {
            progress = true;
        }
        while let Poll::Ready(Some(negotiated)) = self.negotiations.poll_next_unpin(cx) {
            progress = true;
            self.negotiated(negotiated);
        }
        while let Poll::Ready(Some(driven)) = self.offers.poll_next_unpin(cx) {
            progress = true;
            self.offer_driven(driven);
        }
        while let Poll::Ready(Some(early)) = self.early.poll_next_unpin(cx) {
            progress = true;
            self.early_gone(early);
        }
        while let Poll::Ready(Some(())) = self.denials.poll_next_unpin(cx) {}
        while let Poll::Ready(Some((peer, connection))) = self.kept.poll_next_unpin(cx) {
            progress = true;
            self.released(peer, connection);
        }
        while let Poll::Ready(due) = self.due.poll_next(cx) {
            progress = true;
            self.is_due(due);
        }
        for peer in std::mem::take(&mut self.changed) {
            progress = true;
            self.serve_waiting(peer);
        }
        progress
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
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.handler(peer, connection)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.handler(peer, connection)
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
                ..
            }) => self.disconnected(peer_id, connection_id),
            FromSwarm::AddressChange(AddressChange {
                peer_id,
                connection_id,
                new,
                ..
            }) => {
                let info = self.look_at(connection_id, peer_id, new);
                self.connections.moved(info);
                self.connection_changed(peer_id, connection_id);
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
        ToBehaviour(news): THandlerOutEvent<Self>,
    ) {
        match news {
            News::Opened {
                purpose,
                stream,
                prefix,
                known,
                answered,
            } => {
                if answered {
                    self.heard(peer, connection);
                }
                self.opened(peer, connection, purpose, stream, prefix, known);
            }
            News::OpenFailed { purpose, error } => {
                self.open_failed(peer, connection, purpose, error);
            }
            News::Requested { stream, request } => {
                self.seen(peer, connection);
                self.requested(peer, connection, stream, request);
            }
            News::Plain { stream, protocol } => {
                self.seen(peer, connection);
                self.accepted_plain(peer, connection, stream, protocol);
            }
            News::ProtocolsChanged => {
                self.seen(peer, connection);
                self.outside.forget(peer);
            }
            News::Born { legs } => self.born(peer, connection, legs),
            News::Unused => self.unused(peer, connection),
            News::Refused => self.event(Event::Refused {
                peer,
                connection,
                limit: crate::Limit::InboundRequests,
            }),
            News::Violation => self.event(Event::Violation {
                peer,
                connection: Some(connection),
                what: crate::Violation::Message,
            }),
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.due.begin_round();
        loop {
            // Events out first, then local work, then new work.
            if let Some(action) = self.actions.pop_front() {
                return Poll::Ready(action);
            }
            spare::shrink_queue(&mut self.actions);
            if self.work(cx) {
                continue;
            }
            match self.commands.poll_next_unpin(cx) {
                Poll::Ready(Some(command)) => self.command(command),
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }
}
