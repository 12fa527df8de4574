//! The negotiation of an application's protocol on top of a migratable stream, whose bytes the negotiation's are, so
//! that a migration during it is nothing special.

use std::{future::poll_fn, io, sync::Arc};

use futures::AsyncWriteExt;
use libp2p_identity::PeerId;
use libp2p_swarm::StreamProtocol;
use multistream_select::NegotiationError;

use crate::{
    accept::Acceptors,
    machine::Side,
    migratable::Migratable,
    offer::{self, Answer, Held, Pending},
    protocol::codec::{self, Request},
    stream::{Inner, Stream, SwarmMigratable, SwarmShared},
    substream::Substream,
};

/// Why the protocol was not agreed on.
#[derive(Debug)]
pub(crate) enum Unagreed {
    /// The remote does not serve it inside the prefix.
    Refused(Held),
    /// The stream has failed or ended before the remote's answer.
    Unanswered(io::Error, Option<Held>),
    /// The remote has not answered in time, or nobody waits for its answer any more.
    TimedOut,
}

/// Offers a protocol on a stream that we have labelled. If the remote is known to support it, its
/// answer is not waited for, and the offer travels with the label.
pub(crate) async fn dial(
    shared: Arc<SwarmShared>,
    peer: Arc<PeerId>,
    protocol: StreamProtocol,
    known: bool,
) -> Result<Stream, Unagreed> {
    let mut io = Migratable::new(shared.clone());
    let key = shared.key();
    if let Err(error) = write_offer(&mut io, &protocol).await {
        return Err(Unagreed::Unanswered(error, Some(Held::new(io))));
    }
    if known {
        shared.set_unanswered(true);
        let inner = Inner::Offered {
            pending: Pending::new(io, shared.clone(), protocol.clone()),
            shared,
        };
        return Ok(Stream::new(key, inner, peer, protocol, Side::Local));
    }
    let mut reader = offer::Reader::new(protocol.clone());
    match poll_fn(|cx| reader.poll(&mut io, cx)).await {
        Ok(Answer::Yes) => {
            let inner = Inner::Migratable { io, shared };
            Ok(Stream::new(key, inner, peer, protocol, Side::Local))
        }
        Ok(Answer::No) => Err(Unagreed::Refused(offer::let_go(&shared, io))),
        Err(error) => Err(Unagreed::Unanswered(error, Some(Held::new(io)))),
    }
}

async fn write_offer(io: &mut SwarmMigratable, protocol: &StreamProtocol) -> io::Result<()> {
    io.write_all(&offer::offer(protocol)?).await?;
    // What waits for the first write could be lost by a drop before it.
    io.flush().await
}

/// The outcome of the negotiation on a stream that the remote has labelled.
pub(crate) enum Listened {
    /// A stream.
    Stream(Stream),
    /// A leg for another: the proof of concept in Go labels it first, and then says `Migrate` after
    /// another prefix. The stream that it seemed to be is over.
    Leg(Substream, Request),
    /// Neither: what came after the other prefix was no `Migrate`.
    Violation,
}

/// Answers a remote's offer on a stream that it has labelled.
pub(crate) async fn listen(
    shared: Arc<SwarmShared>,
    peer: Arc<PeerId>,
    acceptors: Arc<Acceptors>,
) -> Result<Listened, NegotiationError> {
    let mut io = Migratable::new(shared.clone());
    let protocols = acceptors.inner();
    // It is answered when this returns, and nothing is left in what negotiated it.
    let (protocol, _) = multistream_select::listener_select_proto(&mut io, protocols).await?;
    if !acceptors.is_prefix(&protocol) {
        let key = shared.key();
        let inner = Inner::Migratable { io, shared };
        let stream = Stream::new(key, inner, peer, protocol, Side::Remote);
        return Ok(Listened::Stream(stream));
    }
    // One level and no more: what comes now is a message, and no label.
    let leg = shared.dissolve().ok_or(NegotiationError::Failed)?;
    drop(io);
    let mut leg = leg.into_io();
    match codec::read(&mut leg).await {
        Ok(request @ (Request::Migrate { .. } | Request::Resume { .. })) => {
            Ok(Listened::Leg(leg, request))
        }
        Ok(Request::Label { .. }) => Ok(Listened::Violation),
        Err(error) if error.is_violation() => Ok(Listened::Violation),
        Err(_) => Err(NegotiationError::Failed),
    }
}
