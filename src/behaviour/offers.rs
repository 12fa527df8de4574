//! Results of offers: a stream, a plain one, another try, or an error.

use std::{future::poll_fn, sync::Arc};

use futures::FutureExt;
use libp2p_identity::PeerId;
use libp2p_swarm::StreamProtocol;

use super::Behaviour;
use crate::{
    OpenStreamError, ProtocolName, Side,
    key::ConnectionKey,
    migratable::after,
    negotiate::Unagreed,
    offer::{Driven, Pending, Reopening},
    request::{Inside, Reply, StreamRequest},
    stream::Stream,
    substream::Substream,
};

impl Behaviour {
    pub(super) fn opened_plain(
        &mut self,
        peer: PeerId,
        connection: ConnectionKey,
        stream: Substream,
        request: StreamRequest,
    ) {
        if request.is_canceled() {
            return self.nobody_waits(&request);
        }
        let Some(stream) = stream.into_plain() else {
            return;
        };
        let StreamRequest {
            protocol,
            reply,
            inside,
            number,
            ..
        } = request;
        if inside == Inside::Refused && self.hub.connection(peer, connection).is_some() {
            self.outside.add(peer, protocol.clone());
        }
        self.hub
            .tell_of_plain(peer, connection, ProtocolName::new(&protocol), Side::Local);
        match reply {
            Reply::Caller(_) => {
                let key = self.hub.next_key();
                let name = self.hub.name(peer);
                let stream = Stream::plain(stream, key, name, connection, protocol, Side::Local);
                self.attempted(connection, number, Ok(stream));
            }
            Reply::Reopening(reopening) => {
                let pending = reopening.reopened(Ok((stream, connection)));
                self.drive_offer(peer, connection, protocol, pending);
            }
        }
    }

    /// The application has its stream; whether the remote has agreed to the protocol or not.
    pub(super) fn offered(
        &mut self,
        peer: PeerId,
        connection: ConnectionKey,
        request: StreamRequest,
        stream: Stream,
    ) {
        if let Some(pending) = stream.pending() {
            self.drive_offer(peer, connection, request.protocol, pending);
        }
        if let Reply::Caller(_) = request.reply {
            self.attempted(connection, request.number, Ok(stream));
        }
    }

    pub(super) fn unagreed(
        &mut self,
        peer: PeerId,
        connection: ConnectionKey,
        mut request: StreamRequest,
        unagreed: Unagreed,
    ) {
        if request.is_canceled() {
            return self.nobody_waits(&request);
        }
        match unagreed {
            // Identify cannot say whether it is served inside the prefix.
            Unagreed::Refused(held) => {
                request.inside = Inside::Refused;
                request.held = Some(held);
            }
            // It may have been full, or the ID one that it still holds for a former life of ours.
            Unagreed::Unanswered(_, held)
                if !request.again && self.hub.connection(peer, connection).is_some() =>
            {
                request.again = true;
                request.held = held;
            }
            Unagreed::Unanswered(error, _) => {
                return self.not_opened(connection, request, error.into());
            }
            Unagreed::TimedOut => {
                return self.not_opened(connection, request, OpenStreamError::TimedOut);
            }
        }
        self.start_attempt(peer, connection, request);
    }

    /// Sees to it that an offer comes to something, though the application polls nothing.
    fn drive_offer(
        &mut self,
        peer: PeerId,
        connection: ConnectionKey,
        protocol: StreamProtocol,
        pending: Arc<Pending>,
    ) {
        let patience = self.config.negotiation_timeout;
        let task = async move {
            let mut timeout = None;
            let driven = poll_fn(|cx| {
                let driven = pending.poll_drive(cx);
                // The application waits as long as it likes; for what it has let go of, we do not.
                if driven.is_pending()
                    && pending.is_detached()
                    && timeout
                        .get_or_insert_with(|| after(patience))
                        .poll_unpin(cx)
                        .is_ready()
                {
                    pending.give_up();
                }
                driven
            });
            (driven.await, pending)
        };
        self.spawn(task, move |it, (driven, pending)| {
            if driven == Driven::Refused {
                let connection = pending.connection().unwrap_or(connection);
                let reply = Reply::Reopening(Reopening::new(pending));
                let request = StreamRequest {
                    inside: Inside::Refused,
                    ..StreamRequest::new(protocol, reply)
                };
                it.start_attempt(peer, connection, request);
            }
        });
    }
}
