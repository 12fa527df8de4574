//! Streams come and go: opening, labels, negotiation, the end.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    io,
    sync::Arc,
    task::Poll,
};

use futures::{
    TryFutureExt,
    future::{Either, select},
};
use libp2p_core::ConnectedPoint;
use libp2p_identity::PeerId;
use libp2p_swarm::{ConnectionId, NotifyHandler, StreamProtocol, StreamUpgradeError, ToSwarm};

use super::{Behaviour, Due, Extra, Legs, SwarmLeg};
use crate::{
    Change, ConnectionInfo, DrainError, Event, Limit, Mobility, OpenStreamError, Opener, Violation,
    accept::{NotDelivered, Queue},
    control::StreamRequest,
    handler::{FromBehaviour, Purpose},
    machine::{Setup, StreamId},
    negotiate::{self, Listened, Stream, Unagreed},
    protocol::codec::Request,
    stream::{Shared, StreamKey, after},
    substream::Substream,
    table::Rejected,
};

/// How a negotiation on a labelled stream ended.
pub(super) struct Negotiated {
    peer: PeerId,
    connection: ConnectionId,
    key: StreamKey,
    /// What the stream was opened for; `None` if the remote opened it.
    request: Option<StreamRequest>,
    result: Result<Listened, Unagreed>,
}

impl Behaviour {
    // ---- Connections -------------------------------------------------------------------------------

    pub(super) fn connected(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        endpoint: &ConnectedPoint,
    ) {
        let info = ConnectionInfo {
            capacity: self.config.max_streams_per_connection,
            // What was handed to it at birth.
            opening: self.opens.running_on(connection).len(),
            ..self.look_at(connection, peer, endpoint)
        };
        self.connections.add(info.clone());
        self.records.add(connection);
        self.healthy(peer, connection);
        self.event(Event::ConnectionEstablished(info));
        self.table.connected(peer);
        for request in self.dialed(peer, connection) {
            self.open(peer, None, request);
        }
        self.look_after_all(peer, connection);
        self.room_changed(peer);
        self.tell(peer, &Change::Connected(connection));
        self.place_all(peer);
    }

    /// A connection as its endpoint shows it.
    pub(super) fn look_at(
        &self,
        connection: ConnectionId,
        peer: PeerId,
        endpoint: &ConnectedPoint,
    ) -> ConnectionInfo {
        let info = ConnectionInfo::new(connection, peer, endpoint);
        let said = self.config.leg_kind.as_ref();
        ConnectionInfo {
            leg_kind: said.map_or(info.leg_kind, |said| said.of(endpoint, info.leg_kind)),
            ..info
        }
    }

    pub(super) fn connection_changed(&mut self, peer: PeerId, connection: ConnectionId) {
        let Some(info) = self.connections.get(peer, connection) else {
            return;
        };
        let event = Event::ConnectionChanged(info.clone());
        self.event(event);
        self.tell(peer, &Change::ConnectionChanged(connection));
        self.place_all(peer);
    }

    pub(super) fn disconnected(&mut self, peer: PeerId, connection: ConnectionId) {
        let last = self.connections.remove(peer, connection);
        let record = self.records.remove(connection);
        self.event(Event::ConnectionClosed { peer, connection });
        for reply in record.map(|record| record.drains).unwrap_or_default() {
            let _ = reply.send(Err(DrainError::Closed(connection)));
        }
        let keys = self.table.of_peer(peer);
        for key in &keys {
            if let Some(entry) = self.table.get(*key) {
                entry.shared.connection_lost(connection);
            }
        }
        for key in keys {
            self.target_lost(key, connection);
        }
        // Those that waited to go there have been told.
        self.turns.forget_connection(connection);
        self.forget_health(connection);
        self.opens_lost(connection);
        self.room_changed(peer);
        if last {
            self.table.disconnected(peer);
            self.turns.forget_peer(peer);
            if let Some((_, timer)) = self.calls.remove(&peer) {
                self.due.cancel(timer);
            }
            self.outside.forget(peer);
        }
        self.tell(peer, &Change::Disconnected(connection));
        if !last {
            self.place_all(peer);
        }
    }

    // ---- Outbound ----------------------------------------------------------------------------------

    pub(super) fn notify(&mut self, peer_id: PeerId, connection: ConnectionId, purpose: Purpose) {
        self.actions.push_back(ToSwarm::NotifyHandler {
            peer_id,
            handler: NotifyHandler::One(connection),
            event: FromBehaviour(purpose),
        });
    }

    pub(super) fn opened(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        purpose: Purpose,
        stream: Substream,
        prefix: bool,
        known: bool,
    ) {
        match purpose {
            Purpose::Stream(request) => {
                self.attempt_settled(peer, connection);
                if prefix {
                    self.label(peer, connection, stream, request, known);
                } else {
                    self.opened_plain(peer, connection, stream, request);
                }
            }
            Purpose::Leg(key) => self.leg_opened(key, connection, stream),
            Purpose::Probe { number, .. } => self.probe_over(peer, connection, number, true),
            Purpose::Watch(_) | Purpose::Released => {}
        }
    }

    pub(super) fn open_failed(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        purpose: Purpose,
        error: StreamUpgradeError<Infallible>,
    ) {
        match &error {
            // Refused is answered.
            StreamUpgradeError::NegotiationFailed => self.heard(peer, connection),
            StreamUpgradeError::Timeout => self.suspect(peer, connection),
            StreamUpgradeError::Io(_) | StreamUpgradeError::Apply(_) => {}
        }
        match purpose {
            Purpose::Stream(request) => {
                self.attempt_settled(peer, connection);
                let protocol = request.protocol.clone();
                let error = match error {
                    StreamUpgradeError::Timeout => {
                        OpenStreamError::Io(io::ErrorKind::TimedOut.into())
                    }
                    StreamUpgradeError::Apply(infallible) => match infallible {},
                    StreamUpgradeError::NegotiationFailed => {
                        OpenStreamError::UnsupportedProtocol(protocol)
                    }
                    StreamUpgradeError::Io(error) => OpenStreamError::Io(error),
                };
                self.not_opened(connection, request, error);
            }
            Purpose::Leg(key) => {
                self.leg_failed(key, connection, error.to_string());
            }
            Purpose::Probe { number, .. } => {
                let answered = matches!(error, StreamUpgradeError::NegotiationFailed);
                self.probe_over(peer, connection, number, answered);
            }
            Purpose::Watch(_) | Purpose::Released => {}
        }
    }

    fn new_shared(
        &mut self,
        peer: PeerId,
        leg: SwarmLeg,
        id: StreamId,
        opener: Opener,
        mobility: Mobility,
    ) -> Arc<Shared<Substream, ConnectionId>> {
        let connection = leg.connection();
        let setup = Setup {
            designated: self.table.is_designated(peer),
            verify: self.config.verify,
            peer_verifies: self.table.verifies(peer),
        };
        let key = self.table.next_key();
        let shared = Shared::new(
            key,
            id,
            setup,
            leg,
            opener == Opener::Local,
            self.table.budget(peer),
            self.mailbox.clone(),
        );
        let legs = Legs {
            current: Some(connection),
            ..Legs::NONE
        };
        self.set_legs(peer, Legs::NONE, legs);
        self.arrived(connection);
        let extra = Extra::new(opener, mobility, legs);
        self.table.insert(peer, shared.clone(), extra);
        self.event(Event::StreamStarted {
            peer,
            key,
            id,
            opener,
            connection,
        });
        self.tell(peer, &Change::StreamStarted(key));
        shared
    }

    /// What the settings say of a protocol's streams.
    pub(super) fn mobility_of(&self, protocol: &StreamProtocol) -> Mobility {
        let mobility = self.config.mobility.get(protocol);
        mobility.copied().unwrap_or_default()
    }

    pub(super) fn leg(
        &self,
        peer: PeerId,
        connection: ConnectionId,
        stream: Substream,
    ) -> Option<SwarmLeg> {
        let info = self.connections.get(peer, connection)?;
        Some(SwarmLeg::new(stream, connection, info.leg_kind))
    }

    /// *Opening*: a label, then the application's protocol on the labelled stream.
    fn label(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        stream: Substream,
        mut request: StreamRequest,
        known: bool,
    ) {
        request.held = None;
        let id = self.table.allocate(peer);
        let leg = self.leg(peer, connection, stream);
        let (Ok(()), Some(leg)) = (self.table.admits(peer, id), leg) else {
            let message = format!(
                "the limit of {} streams to {peer} is reached, or the connection is gone",
                self.config.max_streams_per_peer
            );
            let error = io::Error::new(io::ErrorKind::WouldBlock, message);
            return self.not_opened(connection, request, error.into());
        };
        let protocol = request.protocol.clone();
        let mobility = self.mobility_of(&protocol);
        let shared = self.new_shared(peer, leg, id, Opener::Local, mobility);
        let key = shared.key();
        let name = self.table.name(peer);
        let dial =
            negotiate::dial(shared, name, connection, protocol, known).map_ok(Listened::Stream);
        self.negotiate(peer, connection, key, Some(request), dial);
    }

    // ---- Inbound -----------------------------------------------------------------------------------

    pub(super) fn requested(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        stream: Substream,
        request: Request,
    ) {
        let Some(leg) = self.leg(peer, connection, stream) else {
            return;
        };
        match request {
            Request::Label { id } => self.labelled(peer, leg, id),
            Request::Migrate { id, from, verify } => {
                self.migrate_requested(peer, leg, id, from, verify);
            }
        }
    }

    fn labelled(&mut self, peer: PeerId, leg: SwarmLeg, id: StreamId) {
        let connection = leg.connection();
        if let Err(rejected) = self.table.admits(peer, id) {
            // The new leg goes, and nothing else.
            drop(leg);
            self.event(match rejected {
                Rejected::IdInUse => Event::Violation {
                    peer,
                    connection: Some(connection),
                    what: Violation::IdInUse,
                },
                Rejected::Full => Event::Refused {
                    peer,
                    connection,
                    limit: Limit::StreamsPerPeer,
                },
            });
            return;
        }
        let mobility = Mobility::default();
        let shared = self.new_shared(peer, leg, id, Opener::Remote, mobility);
        let key = shared.key();
        let name = self.table.name(peer);
        let listen = negotiate::listen(shared, name, connection, self.acceptors.clone())
            .map_err(|error| Unagreed::Unanswered(error.into(), None));
        self.negotiate(peer, connection, key, None, listen);
        // *Overtaking*: what came before the label.
        for early in self.table.take_early(peer, id) {
            self.migrate_admitted(peer, early.leg, early.id, early.from, early.verify);
        }
        self.place(key);
    }

    pub(super) fn accepted_plain(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        stream: libp2p_swarm::Stream,
        protocol: StreamProtocol,
    ) {
        self.event(Event::PlainStream {
            peer,
            connection,
            protocol: protocol.clone(),
            opener: Opener::Remote,
        });
        let key = self.table.next_key();
        let name = self.table.name(peer);
        let stream = Stream::plain(stream, key, name, connection, protocol);
        self.deliver(peer, connection, stream);
    }

    fn deliver(&mut self, peer: PeerId, connection: ConnectionId, stream: Stream) {
        let timeout = self.config.accept_timeout;
        let incoming = (peer, connection, stream);
        match self.acceptors.deliver(incoming, timeout) {
            Ok(Some(queue)) => drop(self.later(timeout, Due::Accept(queue))),
            Ok(None) => {}
            Err(NotDelivered) => self.event(Event::Refused {
                peer,
                connection,
                limit: Limit::AcceptBacklog,
            }),
        }
    }

    /// The application has had its time to take some of these.
    pub(super) fn not_accepted(&mut self, queue: Queue) {
        let (late, next) = queue.take_late();
        for (peer, connection, _stream) in late {
            self.event(Event::Refused {
                peer,
                connection,
                limit: Limit::AcceptTimeout,
            });
        }
        if let Some(delay) = next {
            self.later(delay, Due::Accept(queue));
        }
    }

    // ---- Negotiation -------------------------------------------------------------------------------

    fn negotiate(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        key: StreamKey,
        mut request: Option<StreamRequest>,
        negotiation: impl Future<Output = Result<Listened, Unagreed>> + Send + 'static,
    ) {
        let timeout = after(self.config.negotiation_timeout);
        self.negotiations.push(Box::pin(async move {
            let given_up = poll_fn(|cx| match &mut request {
                Some(request) => request.poll_canceled(cx),
                None => Poll::Pending,
            });
            let no_longer = select(timeout, given_up);
            let result = match select(Box::pin(negotiation), no_longer).await {
                Either::Left((result, _)) => result,
                Either::Right(_) => Err(Unagreed::TimedOut),
            };
            Negotiated {
                peer,
                connection,
                key,
                request,
                result,
            }
        }));
    }

    pub(super) fn negotiated(&mut self, negotiated: Negotiated) {
        let Negotiated {
            peer,
            connection,
            key,
            request,
            result,
        } = negotiated;
        let result = match result {
            Ok(Listened::Stream(stream)) => Ok(stream),
            Ok(Listened::Leg(leg, request)) => {
                // The ID that the label took is free before the `Migrate` takes it.
                self.heard_from(key);
                return self.requested(peer, connection, leg, request);
            }
            Ok(Listened::Violation) => {
                self.heard_from(key);
                return self.event(Event::Violation {
                    peer,
                    connection: Some(connection),
                    what: Violation::Message,
                });
            }
            Err(error) => Err(error),
        };
        let agreed = match &result {
            Ok(stream) => Some(stream.protocol().clone()),
            Err(_) => None,
        };
        let mobility = agreed.as_ref().map(|agreed| self.mobility_of(agreed));
        let mut connection = connection;
        if let Some(entry) = self.table.get_mut(key) {
            // It may have moved meanwhile.
            connection = entry.shared.status().connection.unwrap_or(connection);
            let offered = request.as_ref().map(|request| request.protocol.clone());
            entry.extra.protocol = agreed.clone().or(offered);
            if let Some(mobility) = mobility.filter(|_| !entry.extra.mobility_said) {
                entry.extra.mobility = mobility;
            }
        }
        if let Some(protocol) = agreed {
            self.event(Event::StreamNegotiated {
                peer,
                key,
                protocol,
            });
            self.tell(peer, &Change::StreamChanged(key));
        }
        let status = self.table.get(key).map(|entry| entry.shared.status());
        if status.is_some_and(|status| status.unanswered) {
            self.later(self.config.open_head_start, Due::Unheard(key));
        }
        match (request, result) {
            (Some(request), Ok(stream)) => self.offered(peer, connection, request, stream),
            (Some(request), Err(unagreed)) => self.unagreed(peer, connection, request, unagreed),
            (None, Ok(stream)) => self.deliver(peer, connection, stream),
            (None, Err(error)) => {
                tracing::debug!(%peer, %key, ?error, "no protocol agreed on an inbound stream");
            }
        }
        self.place(key);
    }
}
