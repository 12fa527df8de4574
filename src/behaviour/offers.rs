//! What comes of an offer: a stream, a plain one, another try, or an error.

use std::{future::poll_fn, io, sync::Arc};

use futures::FutureExt;
use libp2p_identity::PeerId;
use libp2p_swarm::{ConnectionId, StreamProtocol};

use super::Behaviour;
use crate::{
    Event, Opener,
    control::{Inside, Reply, StreamRequest},
    handler::Purpose,
    negotiate::{Stream, Unagreed},
    offer::{Driven, Pending, Reopening},
    stream::after,
    substream::Substream,
};

/// How far an offer has come that the application did not wait for.
pub(super) struct OfferDriven {
    peer: PeerId,
    connection: ConnectionId,
    protocol: StreamProtocol,
    pending: Arc<Pending>,
    driven: Driven,
}

impl Behaviour {
    pub(super) fn opened_plain(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        stream: Substream,
        request: StreamRequest,
    ) {
        if request.is_canceled() {
            return;
        }
        let stream = stream.into_plain();
        let StreamRequest {
            protocol,
            reply,
            inside,
            ..
        } = request;
        if inside == Inside::Refused {
            self.outside.add(peer, protocol.clone());
        }
        self.event(Event::PlainStream {
            peer,
            connection,
            protocol: protocol.clone(),
            opener: Opener::Local,
        });
        match reply {
            Reply::Caller(reply) => {
                let key = self.table.next_key();
                let name = self.table.name(peer);
                let stream = Stream::plain(stream, key, name, connection, protocol);
                let _ = reply.send(Ok(stream));
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
        connection: ConnectionId,
        request: StreamRequest,
        stream: Stream,
    ) {
        if let Some(pending) = stream.pending() {
            self.drive_offer(peer, connection, request.protocol, pending);
        }
        if let Reply::Caller(reply) = request.reply {
            // Whoever has given up drops the stream, which aborts it.
            let _ = reply.send(Ok(stream));
        }
    }

    pub(super) fn unagreed(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        mut request: StreamRequest,
        unagreed: Unagreed,
    ) {
        if request.is_canceled() {
            return;
        }
        match unagreed {
            // Identify cannot say whether it is served inside the prefix.
            Unagreed::Refused(held) => {
                request.inside = Inside::Refused;
                request.held = Some(held);
            }
            // It may have been full, or the ID one that it still holds for a former life of ours.
            Unagreed::Unanswered(_, held)
                if !request.again && self.connections.get(peer, connection).is_some() =>
            {
                request.again = true;
                request.held = held;
            }
            Unagreed::Unanswered(error, _) => return request.fail(error.into()),
            Unagreed::TimedOut => {
                return request.fail(io::Error::from(io::ErrorKind::TimedOut).into());
            }
        }
        self.notify(peer, connection, Purpose::Stream(request));
    }

    /// Sees to it that an offer comes to something, though the application polls nothing.
    fn drive_offer(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        protocol: StreamProtocol,
        pending: Arc<Pending>,
    ) {
        let patience = self.config.negotiation_timeout;
        self.offers.push(Box::pin(async move {
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
            let driven = driven.await;
            OfferDriven {
                peer,
                connection,
                protocol,
                pending,
                driven,
            }
        }));
    }

    pub(super) fn offer_driven(&mut self, offer: OfferDriven) {
        if offer.driven == Driven::Refused {
            let connection = offer.pending.connection().unwrap_or(offer.connection);
            let request = StreamRequest {
                protocol: offer.protocol,
                reply: Reply::Reopening(Reopening::new(offer.pending)),
                inside: Inside::Refused,
                again: false,
                held: None,
            };
            self.notify(offer.peer, connection, Purpose::Stream(request));
        }
    }
}
