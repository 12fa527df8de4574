//! Streams on their way to the application: opening, labels, negotiation, acceptance.

use std::{
    future::{Future, poll_fn},
    sync::Arc,
    task::Poll,
};

use futures::{
    TryFutureExt,
    future::{Either, select},
};
use libp2p_identity::PeerId;
use libp2p_swarm::StreamProtocol;

use super::{Behaviour, Due};
use crate::{
    Limit, OpenStreamError, Side, Violation,
    accept::{NotDelivered, Queue},
    handler::{OpenFailure, Purpose},
    hub,
    key::{ConnectionKey, StreamKey},
    migratable::after,
    negotiate::{self, Listened, Unagreed},
    protocol::codec::Request,
    request::StreamRequest,
    stream::{Stream, SwarmShared},
    substream::Substream,
    view::ProtocolName,
};

impl Behaviour {
    pub(super) fn opened(
        &mut self,
        peer: PeerId,
        connection: ConnectionKey,
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
            Purpose::Hub(hub::Purpose::Leg(key)) => {
                self.hub.leg_opened(key, connection, stream);
            }
            Purpose::Hub(hub::Purpose::Probe { number, .. }) => {
                self.hub.probe_over(peer, connection, number, true);
            }
            // The handler keeps it.
            Purpose::Control(_) => {}
        }
    }

    pub(super) fn open_failed(
        &mut self,
        peer: PeerId,
        connection: ConnectionKey,
        purpose: Purpose,
        error: OpenFailure,
    ) {
        match &error {
            // Refused is answered.
            OpenFailure::Refused => self.hub.heard(peer, connection),
            OpenFailure::TimedOut => {
                self.hub.suspect(peer, connection);
                self.dial_if_none_answers(peer);
            }
            OpenFailure::Full(_) | OpenFailure::Cancelled | OpenFailure::Io(_) => {}
        }
        match purpose {
            Purpose::Stream(request) => {
                self.attempt_settled(peer, connection);
                let error = match error {
                    OpenFailure::Refused => {
                        OpenStreamError::UnsupportedProtocol(request.protocol.clone())
                    }
                    OpenFailure::TimedOut => OpenStreamError::TimedOut,
                    OpenFailure::Full(waiting) => OpenStreamError::TooManyWaiting(waiting),
                    OpenFailure::Cancelled => return self.nobody_waits(&request),
                    OpenFailure::Io(error) => OpenStreamError::Io(error),
                };
                self.not_opened(connection, request, error);
            }
            Purpose::Hub(hub::Purpose::Leg(key)) => {
                self.hub.leg_failed(key, connection, error.to_string());
            }
            Purpose::Hub(hub::Purpose::Probe { number, .. }) => {
                let answered = matches!(error, OpenFailure::Refused);
                self.hub.probe_over(peer, connection, number, answered);
            }
            Purpose::Control(_) => self.hub.mute(peer, connection),
        }
    }

    /// *Opening*: a label, then the application's protocol on the labelled stream.
    fn label(
        &mut self,
        peer: PeerId,
        connection: ConnectionKey,
        stream: Substream,
        mut request: StreamRequest,
        known: bool,
    ) {
        request.held = None;
        let mobility = self.config.mobility_of(&request.protocol);
        let Some(shared) = self.hub.label(peer, connection, stream, mobility, None) else {
            let error = match self.hub.connection(peer, connection) {
                Some(_) => OpenStreamError::TooManyStreams(self.config.hub.max_streams_per_peer),
                None => OpenStreamError::ConnectionLost,
            };
            return self.not_opened(connection, request, error);
        };
        self.dial_on(shared, peer, connection, request, known);
    }

    /// Offers the application's protocol on a stream that is labelled.
    pub(super) fn dial_on(
        &mut self,
        shared: Arc<SwarmShared>,
        peer: PeerId,
        connection: ConnectionKey,
        request: StreamRequest,
        known: bool,
    ) {
        let (key, name) = (shared.key(), self.hub.name(peer));
        let protocol = request.protocol.clone();
        let dial = negotiate::dial(shared, name, protocol, known).map_ok(Listened::Stream);
        self.negotiate(peer, connection, key, Some(request), dial);
    }

    // ---- Inbound -----------------------------------------------------------------------------------

    pub(super) fn requested(
        &mut self,
        peer: PeerId,
        connection: ConnectionKey,
        stream: Substream,
        request: Request,
    ) {
        if let Some(shared) = self.hub.requested(peer, connection, stream, request) {
            self.listen_on(shared, peer, connection);
        }
    }

    /// Answers the remote's offer on a stream that it has labelled.
    pub(super) fn listen_on(
        &mut self,
        shared: Arc<SwarmShared>,
        peer: PeerId,
        connection: ConnectionKey,
    ) {
        let (key, name) = (shared.key(), self.hub.name(peer));
        let listen = negotiate::listen(shared, name, self.acceptors.clone())
            .map_err(|error| Unagreed::Unanswered(error.into(), None));
        self.negotiate(peer, connection, key, None, listen);
    }

    pub(super) fn accepted_plain(
        &mut self,
        peer: PeerId,
        connection: ConnectionKey,
        stream: libp2p_swarm::Stream,
        protocol: StreamProtocol,
    ) {
        self.hub
            .tell_of_plain(peer, connection, ProtocolName::new(&protocol), Side::Remote);
        let key = self.hub.next_key();
        let name = self.hub.name(peer);
        let stream = Stream::plain(stream, key, name, connection, protocol, Side::Remote);
        self.deliver(peer, stream);
    }

    fn deliver(&mut self, peer: PeerId, stream: Stream) {
        let timeout = self.config.accept_timeout;
        let connection = stream.connection();
        match self.acceptors.deliver((peer, stream), timeout) {
            Ok(Some(queue)) => drop(self.due.add(timeout, Due::Accept(queue))),
            Ok(None) => {}
            Err(NotDelivered) => self.hub.refused(peer, connection, Limit::AcceptBacklog),
        }
    }

    /// The application has had its time to take some of these.
    pub(super) fn not_accepted(&mut self, queue: Queue) {
        let (late, next) = queue.take_late();
        for (peer, stream) in late {
            self.hub
                .refused(peer, stream.connection(), Limit::AcceptTimeout);
        }
        if let Some(delay) = next {
            self.due.add(delay, Due::Accept(queue));
        }
    }

    // ---- Negotiation -------------------------------------------------------------------------------

    /// Negotiates on a labelled stream. The request is what it was opened for; `None` if the remote opened it.
    fn negotiate(
        &mut self,
        peer: PeerId,
        connection: ConnectionKey,
        key: StreamKey,
        mut request: Option<StreamRequest>,
        negotiation: impl Future<Output = Result<Listened, Unagreed>> + Send + 'static,
    ) {
        let timeout = after(self.config.negotiation_timeout);
        let task = async move {
            let given_up = poll_fn(|cx| match &mut request {
                Some(request) => request.poll_canceled(cx),
                None => Poll::Pending,
            });
            let no_longer = select(timeout, given_up);
            let result = match select(Box::pin(negotiation), no_longer).await {
                Either::Left((result, _)) => result,
                Either::Right(_) => Err(Unagreed::TimedOut),
            };
            (request, result)
        };
        self.spawn(task, move |it, (request, result)| {
            it.negotiated(peer, connection, key, request, result);
        });
    }

    fn negotiated(
        &mut self,
        peer: PeerId,
        connection: ConnectionKey,
        key: StreamKey,
        request: Option<StreamRequest>,
        result: Result<Listened, Unagreed>,
    ) {
        let result = match result {
            Ok(Listened::Stream(stream)) => Ok(stream),
            Ok(Listened::Leg(leg, request)) => {
                // The ID that the label took is free before the `Migrate` takes it.
                self.with_hub_of(key, |hub| hub.heard_from(key));
                return self.requested(peer, connection, leg, request);
            }
            Ok(Listened::Violation) => {
                let violated = |hub: &mut hub::Hub<Substream>| {
                    hub.heard_from(key);
                    hub.violated(peer, Some(connection), Violation::Message);
                };
                return self.with_hub_of(key, violated).unwrap_or_default();
            }
            Err(error) => Err(error),
        };
        let agreed = match &result {
            Ok(stream) => Some(stream.protocol().clone()),
            Err(_) => None,
        };
        // It may have moved meanwhile, or be over.
        let status = |hub: &mut hub::Hub<Substream>| hub.stream(key).map(|shared| shared.status());
        let status = self.with_hub_of(key, status).flatten();
        let here = self
            .hub
            .stream(key)
            .and(status)
            .and_then(|it| it.connection);
        let connection = here.unwrap_or(connection);
        let mobility = agreed.as_ref().map(|it| self.config.mobility_of(it));
        let offered = request.as_ref().map(|request| request.protocol.clone());
        let name = agreed.or(offered).map(ProtocolName::new);
        self.with_hub_of(key, |hub| hub.negotiated(peer, key, name, mobility));
        if status.is_some_and(|status| status.unanswered) {
            self.due.add(self.config.open_head_start, Due::Unheard(key));
        }
        match (request, result) {
            (Some(request), Ok(stream)) => self.offered(peer, connection, request, stream),
            (Some(request), Err(unagreed)) => self.unagreed(peer, connection, request, unagreed),
            (None, Ok(stream)) => self.deliver(peer, stream),
            (None, Err(error)) => {
                tracing::debug!(%peer, %key, ?error, "no protocol agreed on an inbound stream");
            }
        }
        self.with_hub_of(key, |hub| hub.place(key));
    }
}
