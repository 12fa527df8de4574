//! Connections and streams come and go.

use std::sync::Arc;

use libp2p_identity::PeerId;

use super::{Hub, prune::Legs, record::Record, word::With};
use crate::{
    error::DrainError,
    event::{Event, Limit, Violation},
    key::{ConnectionKey, StreamKey},
    machine::{Setup, Side, Speech, StreamId},
    policy::Change,
    protocol::codec::Request,
    stream::{Io, Leg, Shared},
    table::{Early, Rejected},
    view::{ConnectionInfo, Mobility, ProtocolName},
};

impl<L: Io + Send + 'static> Hub<L> {
    // ---- Connections -------------------------------------------------------------------------------

    /// A connection is there.
    pub fn connected(&mut self, info: ConnectionInfo) {
        let (peer, connection) = (info.peer, info.key);
        let info = ConnectionInfo {
            capacity: self.settings.max_streams_per_connection,
            ..info
        };
        self.connections.add(info.clone());
        self.prove(peer, connection);
        self.event(Event::ConnectionEstablished(info));
        self.table.connected(peer);
        self.greet(peer, connection);
        self.look_after_all(peer, connection);
        self.room_changed(peer);
        self.tell(peer, &Change::Connected(connection));
        self.place_all(peer);
    }

    /// A connection has another address.
    pub fn moved(&mut self, info: ConnectionInfo) {
        let (peer, connection) = (info.peer, info.key);
        self.connections.moved(info);
        self.connection_changed(peer, connection);
    }

    pub(super) fn connection_changed(&mut self, peer: PeerId, connection: ConnectionKey) {
        let Some(info) = self.connections.get(peer, connection) else {
            return;
        };
        let event = Event::ConnectionChanged(info.clone());
        self.event(event);
        self.tell(peer, &Change::ConnectionChanged(connection));
        self.place_all(peer);
    }

    /// Below the swarm, this connection's streams are opened on another link from now on.
    pub fn rehomed(
        &mut self,
        peer: PeerId,
        connection: ConnectionKey,
        from: ConnectionKey,
        to: ConnectionKey,
    ) {
        self.event(Event::ConnectionRehomed {
            peer,
            connection,
            from,
            to,
        });
    }

    /// A connection is gone, and all that was on it. `lost` is false if it was closed on purpose.
    pub fn disconnected(&mut self, peer: PeerId, connection: ConnectionKey, lost: bool) {
        let lost = lost && !self.said_bye(connection);
        let (record, last) = self.connections.remove(peer, connection);
        self.event(Event::ConnectionClosed { peer, connection });
        // Before its streams hear of it: whether they go on depends on it.
        self.learn_from_others(peer, connection);
        let keys = self.table.of_peer(peer);
        for key in &keys {
            if let Some(entry) = self.table.get(*key) {
                entry.shared.connection_lost(connection);
                if last {
                    entry.shared.left_alone();
                }
            }
        }
        if let Some(record) = record {
            for reply in record.pruning.drains {
                let _ = reply.send(Err(DrainError::Closed(connection)));
            }
            self.queue.forget_line(&record.line);
            for key in keys {
                self.target_lost(key, connection);
            }
            self.forget_health(connection, record.health);
            self.due.cancel(record.beat.timer());
            self.hung_up(peer, &record.talk);
        }
        for key in self.table.of_peer(peer) {
            if self.table.get(key).is_some_and(|it| it.shared.is_legless()) {
                self.heard_from(key);
            }
        }
        self.connection_gone(peer, connection, lost);
        self.room_changed(peer);
        if last {
            self.table.disconnected(peer);
            self.queue.forget_peer(peer);
            if let Some((_, timer)) = self.calls.remove(&peer) {
                self.due.cancel(timer);
            }
        }
        self.tell(peer, &Change::Disconnected(connection));
        if !last {
            self.place_all(peer);
        }
    }

    /// Counts streams that are being opened on the connection: one more, or one fewer.
    pub fn count_opening(&mut self, peer: PeerId, connection: ConnectionKey, more: isize) {
        if let Some(info) = self.connections.get_mut(peer, connection) {
            info.opening = info.opening.saturating_add_signed(more);
            if more < 0 {
                self.room_changed(peer);
            }
        }
    }

    // ---- Streams -----------------------------------------------------------------------------------

    /// The peer's ID, to be kept with many things.
    pub fn name(&mut self, peer: PeerId) -> Arc<PeerId> {
        self.table.name(peer)
    }

    /// A key for a stream that the hub has nothing to do with.
    pub fn next_key(&mut self) -> StreamKey {
        self.table.next_key()
    }

    /// A stream of the table.
    pub fn stream(&self, key: StreamKey) -> Option<&Arc<Shared<L>>> {
        Some(&self.table.get(key)?.shared)
    }

    pub(super) fn start(
        &mut self,
        peer: PeerId,
        leg: Leg<L>,
        id: StreamId,
        label: Option<Request>,
        (speech, with): (Speech, With),
        mobility: Mobility,
    ) -> Arc<Shared<L>> {
        let connection = leg.connection();
        let opener = Side::of(label.is_some());
        let setup = Setup {
            designated: self.table.is_designated(peer),
            verify: self.settings.verify,
            peer_verifies: self.table.verifies(peer),
            speech,
            opener: opener.is_local(),
            keeps: self.settings.resume && !matches!(with, With::Nobody),
        };
        let key = self.table.next_key();
        let shared = Shared::new(
            key,
            id,
            setup,
            leg,
            label,
            self.table.budget(peer).with_room(self.room.clone()),
            self.ready.clone(),
        );
        let legs = Legs {
            current: Some(connection),
            ..Legs::NONE
        };
        self.set_legs(peer, Legs::NONE, legs);
        self.arrived(connection);
        let record = Record::new(opener, mobility, legs, with);
        self.table.insert(peer, shared.clone(), record);
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

    pub(super) fn leg(&self, peer: PeerId, connection: ConnectionKey, io: L) -> Option<Leg<L>> {
        let info = self.connections.get(peer, connection)?;
        Some(Leg::new(io, connection, info.leg_kind))
    }

    /// *Opening*: a new stream of ours, whose first message is its label. `None` if the peer has as many
    /// streams as it may, or the connection is gone. Between two layers, `route` says for which connection of
    /// the remote's it is.
    pub fn label(
        &mut self,
        peer: PeerId,
        connection: ConnectionKey,
        io: L,
        mobility: Mobility,
        route: Option<u64>,
    ) -> Option<Arc<Shared<L>>> {
        let id = self.table.allocate(peer);
        let leg = self.leg(peer, connection, io)?;
        self.table.admits(peer, id).ok()?;
        let speech = self.speech_on(peer, connection);
        let label = Request::Label {
            id,
            control: self.epoch().filter(|_| speech.0 != Speech::No),
            route,
        };
        Some(self.start(peer, leg, id, Some(label), speech, mobility))
    }

    /// The remote's first message on a substream. Returns the stream if that is a new one, whose protocol has
    /// still to be negotiated.
    pub fn requested(
        &mut self,
        peer: PeerId,
        connection: ConnectionKey,
        io: L,
        request: Request,
    ) -> Option<Arc<Shared<L>>> {
        let leg = self.leg(peer, connection, io)?;
        match request {
            Request::Label { id, control, .. } => self.labelled(peer, leg, id, control),
            Request::Migrate { id, from, verify } => {
                let early = Early {
                    leg,
                    id,
                    from,
                    verify,
                };
                self.migrate_requested(peer, early);
                None
            }
            Request::Resume { id, resume } => self.resume_requested(peer, leg, id, resume),
        }
    }

    fn labelled(
        &mut self,
        peer: PeerId,
        leg: Leg<L>,
        id: StreamId,
        control: Option<u64>,
    ) -> Option<Arc<Shared<L>>> {
        let connection = leg.connection();
        if let Err(rejected) = self.table.admits(peer, id) {
            // The new leg goes, and nothing else.
            drop(leg);
            match rejected {
                Rejected::IdInUse => self.violated(peer, Some(connection), Violation::IdInUse),
                Rejected::Full => self.refused(peer, Some(connection), Limit::StreamsPerPeer),
            }
            return None;
        }
        let speech = self.speech_of(peer, connection, control);
        if let Some(epoch) = control.filter(|_| self.settings.resume) {
            self.table.seen(peer).insert(epoch, id);
        }
        let shared = self.start(peer, leg, id, None, speech, Mobility::default());
        self.take_word(peer, connection, shared.key(), id);
        self.admit_from(peer, id);
        self.place(shared.key());
        Some(shared)
    }

    /// Lets go of a stream that its application still holds: its connection is closed.
    pub fn let_go(&mut self, key: StreamKey) {
        if let Some(entry) = self.table.get(key) {
            entry.shared.let_go();
            self.heard_from(key);
        }
    }

    /// A stream's protocol is agreed, or was at least offered; with the mobility that its streams have unless
    /// somebody has said otherwise of this one.
    pub fn negotiated(
        &mut self,
        peer: PeerId,
        key: StreamKey,
        protocol: Option<ProtocolName>,
        agreed: Option<Mobility>,
    ) {
        if let Some(entry) = self.table.get_mut(key) {
            entry.record.protocol = protocol.clone();
            if let Some(mobility) = agreed.filter(|_| !entry.record.mobility_said) {
                entry.record.mobility = mobility;
            }
        }
        if agreed.is_some()
            && let Some(protocol) = protocol
        {
            self.event(Event::StreamNegotiated {
                peer,
                key,
                protocol,
            });
            self.tell(peer, &Change::StreamChanged(key));
        }
    }
}
