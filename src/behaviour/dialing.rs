//! Opens that have to wait for a connection: who dials, and what becomes of them when somebody does not get
//! through.

use std::{collections::HashMap, error::Error, iter};

use libp2p_identity::PeerId;
use libp2p_swarm::{
    ConnectionId, DialError, ToSwarm,
    dial_opts::{DialOpts, PeerCondition},
};

use super::{Behaviour, Due};
use crate::{
    Mobility, OpenStreamError, connection::ConnectionName, handler::Parcel, hub::TimerKey,
    request::StreamRequest,
};

/// Streams that wait for connections.
#[derive(Debug, Default)]
pub(super) struct Dials {
    peers: HashMap<PeerId, Waiting>,
    /// Connections whose handlers were handed streams and that are not established yet: another
    /// behaviour may still deny them.
    newborn: HashMap<ConnectionId, PeerId>,
}

/// Streams that wait for a connection to one peer.
#[derive(Debug)]
struct Waiting {
    requests: Vec<StreamRequest>,
    dial: Dial,
}

/// The dial that is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dial {
    Ours(ConnectionId),
    /// Somebody else's, until this timer is due.
    Theirs(TimerKey),
}

impl Waiting {
    /// Whoever has given up does not count.
    fn is_wanted(&mut self) -> bool {
        self.requests.retain(|request| !request.is_canceled());
        !self.requests.is_empty()
    }
}

#[cfg(all(test, stream_migration_mutants))]
impl Dials {
    pub(super) fn is_empty(&self) -> bool {
        self.peers.is_empty() && self.newborn.is_empty()
    }

    pub(super) fn waits(&self, peer: &PeerId) -> bool {
        self.peers.contains_key(peer)
    }

    /// Nobody waits for a connection that is there.
    pub(super) fn check(&self, connected: &std::collections::BTreeSet<PeerId>) {
        assert!(self.peers.keys().all(|peer| !connected.contains(peer)));
    }
}

impl Behaviour {
    /// Lets a stream wait for a connection to its peer, and dials if nobody does for us.
    pub(super) fn dial(&mut self, peer: PeerId, request: StreamRequest) {
        let Some(waiting) = self.dials.peers.get_mut(&peer) else {
            // A dial of somebody else's serves as well. To be connected and to be about to close may be one.
            let dial = self.start_dial(peer, PeerCondition::NotDialing);
            let requests = vec![request];
            self.dials.peers.insert(peer, Waiting { requests, dial });
            return;
        };
        if waiting.requests.len() >= self.config.max_pending_opens {
            waiting.is_wanted();
        }
        if waiting.requests.len() < self.config.max_pending_opens {
            return waiting.requests.push(request);
        }
        let waiting = waiting.requests.len();
        request.fail(OpenStreamError::TooManyWaiting(waiting));
    }

    /// Dials though there are connections, because they do not answer.
    pub(super) fn dial_beside(&mut self, peer: PeerId) {
        self.start_dial(peer, PeerCondition::NotDialing);
    }

    fn start_dial(&mut self, peer: PeerId, condition: PeerCondition) -> Dial {
        let opts = DialOpts::peer_id(peer).condition(condition).build();
        let dial = Dial::Ours(opts.connection_id());
        self.actions.push_back(ToSwarm::Dial { opts });
        dial
    }

    /// Dials for those who have waited in vain, or for long, for somebody else's dial. Now nothing keeps the swarm from it,
    /// and so it will tell how that went.
    pub(super) fn dial_at_last(&mut self, peer: PeerId) {
        let waiting = self.dials.peers.get_mut(&peer);
        if !waiting.is_some_and(Waiting::is_wanted) {
            self.no_longer_waiting(peer);
            return;
        }
        let dial = self.start_dial(peer, PeerCondition::Always);
        if let Some(waiting) = self.dials.peers.get_mut(&peer) {
            waiting.dial = dial;
        }
    }

    /// Nobody waits for a connection to the peer any more. Returns who has.
    fn no_longer_waiting(&mut self, peer: PeerId) -> Vec<StreamRequest> {
        let Some(waiting) = self.dials.peers.remove(&peer) else {
            return Vec::new();
        };
        if let Dial::Theirs(timer) = waiting.dial {
            self.due.cancel(timer);
        }
        waiting.requests
    }

    /// Takes what waits for a connection to the peer, for the handler of one that is about to be.
    /// Sent later it would find the connection closed, if that is idle for too long at once. What
    /// may not begin on just any connection waits to see it.
    pub(super) fn handed_over(&mut self, peer: PeerId, connection: ConnectionId) -> Option<Parcel> {
        let waiting = self.dials.peers.get_mut(&peer)?;
        if !waiting.is_wanted() {
            return None;
        }
        let anywhere = |request: &StreamRequest| {
            let mobility = self.config.mobility_of(&request.protocol);
            matches!(mobility, Mobility::Free | Mobility::Pinned)
        };
        let (requests, kept) = std::mem::take(&mut waiting.requests)
            .into_iter()
            .partition::<Vec<_>, _>(anywhere);
        waiting.requests = kept;
        let requests = requests.into_iter();
        let attempts = requests.filter_map(|request| self.adopt(peer, connection.key(), request));
        let parcel = Parcel::new(attempts.collect());
        self.dials.newborn.insert(connection, peer);
        Some(parcel)
    }

    /// A connection is there. Returns what still waits for one.
    pub(super) fn dialed(&mut self, peer: PeerId, connection: ConnectionId) -> Vec<StreamRequest> {
        self.dials.newborn.remove(&connection);
        self.no_longer_waiting(peer)
    }

    /// A connection has come to nothing, whoever wanted it; `error` says why, if it was dialed here.
    pub(super) fn not_connected(
        &mut self,
        peer: Option<PeerId>,
        connection: ConnectionId,
        error: Option<&DialError>,
    ) {
        if let Some(error) = error {
            self.not_reached(peer, connection, error);
        }
        let newborn = self.dials.newborn.remove(&connection);
        let Some(peer) = newborn.or(peer) else {
            return;
        };
        let given_back = self.give_back(connection.key());
        if let Some(waiting) = self.dials.peers.get_mut(&peer) {
            waiting.requests.extend(given_back);
        } else {
            for request in given_back {
                self.dial(peer, request);
            }
        }
        let Some(waiting) = self.dials.peers.get_mut(&peer) else {
            return;
        };
        let refused = matches!(error, Some(DialError::DialPeerConditionFalse(_)));
        match (waiting.dial, error) {
            (Dial::Ours(ours), Some(_)) if ours == connection && refused => {
                let timeout = self.config.negotiation_timeout;
                waiting.dial = Dial::Theirs(self.due.add(timeout, Due::Redial(peer)));
            }
            (Dial::Ours(ours), Some(error)) if ours == connection => {
                let cause = chain(error);
                for request in self.no_longer_waiting(peer) {
                    request.fail(OpenStreamError::Dial(cause.clone()));
                }
            }
            // It was not the one that is waited for.
            (Dial::Ours(_), _) | (_, None) => {}
            (Dial::Theirs(_), Some(_)) if refused => {}
            (Dial::Theirs(timer), Some(_)) => {
                self.due.cancel(timer);
                self.dial_at_last(peer);
            }
        }
    }
}

/// An error with all that it was caused by; it is not ours to keep.
fn chain(error: &DialError) -> String {
    let causes = iter::successors(error.source(), |&error| error.source());
    causes.fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        // Some say themselves what they were caused by.
        if text.contains(&cause) {
            text
        } else {
            format!("{text}: {cause}")
        }
    })
}
