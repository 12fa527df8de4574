//! The words of two layers to each other: hello, which connections are closed, and first messages of legs.

use std::sync::Arc;

use libp2p_swarm::StreamProtocol;

use super::{ConnectionKey, State};
use crate::{
    Limit, StreamKey,
    layer::{io::Physical, link::MAX_EARLY, outbox::Labelled, substream::Virtual},
    links::Readiness,
    protocol::codec::{Control, Request},
    stream::SwarmShared,
    substream::Substream,
    view::ProtocolName,
};

impl State {
    pub(super) fn said(&mut self, number: u64, control: Control) {
        if let Some(hello) = control.hello {
            self.books.greeted(number, hello);
        }
        if let Some(epoch) = self.books.said_epoch(number) {
            for closed in control.closed {
                self.books.closed_by_remote(epoch, closed);
            }
        }
        self.carry_out();
        self.seen(number);
    }

    /// The first message on a leg of the remote's.
    pub(super) fn requested(&mut self, number: u64, io: Physical, request: Request) {
        let Some(epoch) = self.books.epoch(number) else {
            // Its hello may be on its way, on another substream.
            let readiness = self.books.readiness(number);
            if matches!(readiness, Some(Readiness::Asked | Readiness::Silent))
                && let Some(link) = self.links.get_mut(&number)
                && link.early.len() < MAX_EARLY
            {
                link.early.push((io, request));
            }
            return;
        };
        let route = match request {
            Request::Label { route, .. } => route,
            Request::Migrate { .. } | Request::Resume { .. } => None,
        };
        if let Some(route) = route
            && !self.books.has_route(route, epoch)
        {
            drop(io);
            return self.books.unknown_route(number, route);
        }
        let (id, key) = (self.id, ConnectionKey::new(number));
        let Some(hub) = self.hub_of(number) else {
            return;
        };
        hub.seen(id, key);
        let Some(shared) = hub.requested(id, key, Substream::link(io), request) else {
            return;
        };
        if let Some(route) = route {
            return self.deliver(route, shared);
        }
        let labelled = Labelled {
            peer: id,
            connection: key,
            shared,
        };
        if let Err(labelled) = self.layer.outbox.labelled(labelled) {
            // Nobody accepts streams that belong to no connection: it is the link's own.
            self.deliver(number, labelled.shared);
        }
    }

    /// Hands a labelled stream to a connection.
    fn deliver(&mut self, number: u64, shared: Arc<SwarmShared>) {
        let (key, peer) = (shared.key(), self.id);
        if self.arrived(number, || Virtual::labelled(shared)) {
            self.routes.insert(key, number);
        } else if let Some(hub) = self.hub_of_stream(key) {
            hub.refused(peer, Some(ConnectionKey::new(number)), Limit::AcceptBacklog);
            // Nobody will ever drop it.
            hub.let_go(key);
        }
    }

    /// The protocol of an inbound stream is known: the first that the remote has proposed on it.
    pub(in crate::layer) fn proposed(&mut self, key: StreamKey, protocol: &str) {
        let mobility = self.mobility(protocol);
        let peer = self.id;
        if let Some(hub) = self.hub_of_stream(key) {
            hub.negotiated(peer, key, Some(ProtocolName::new(protocol)), Some(mobility));
            hub.place(key);
            self.waker.rouse();
        }
    }

    /// True if substreams of this protocol belong to the link on which they are opened.
    pub(super) fn is_excluded(&self, protocol: &str) -> bool {
        let excluded = |it: &StreamProtocol| it.as_ref() == protocol;
        self.layer.config.link_protocols.iter().any(excluded)
    }
}
