//! What there is to know of a node's connections, and of the way that its streams take.

use std::collections::{HashMap, HashSet};

use libp2p::PeerId;
use libp2p_stream_migration::ConnectionKey;
use libp2p_stream_migration::{ConnectionInfo, Event, StreamKey, Transport};

/// What is to be known of a node at any time.
#[derive(Debug, Default)]
pub struct State {
    connections: HashMap<ConnectionKey, String>,
    routes: HashMap<StreamKey, Route>,
    /// Whom Identify has told how it sees us.
    pub seen_by: HashSet<PeerId>,
    /// A listener that is over, such as a reservation with a relay; and why.
    pub lost: Option<String>,
}

/// The way that a stream has taken.
#[derive(Debug, Clone, Default)]
pub struct Route {
    /// The path that carries what is written now.
    pub now: String,
    /// Those before it; with bytes written and read, once the migration is complete.
    pub before: Vec<(String, Option<(u64, u64)>)>,
}

impl State {
    /// What a connection is; nothing if it is gone.
    pub fn path(&self, connection: ConnectionKey) -> String {
        self.connections
            .get(&connection)
            .cloned()
            .unwrap_or_default()
    }

    pub fn route(&self, key: StreamKey) -> Option<&Route> {
        self.routes.get(&key)
    }

    pub fn note(&mut self, event: Event) {
        match event {
            Event::ConnectionEstablished(info) => {
                self.connections.insert(info.key, path_name(&info));
            }
            Event::ConnectionClosed { connection, .. } => {
                self.connections.remove(&connection);
            }
            Event::StreamStarted {
                key, connection, ..
            } => {
                let now = self.path(connection);
                let before = Vec::new();
                self.routes.insert(key, Route { now, before });
            }
            Event::MigrationAgreed { key, to, .. } => {
                let to = self.path(to);
                if let Some(route) = self.routes.get_mut(&key) {
                    route
                        .before
                        .push((std::mem::replace(&mut route.now, to), None));
                }
            }
            Event::MigrationCompleted {
                key,
                old_leg_sent,
                old_leg_received,
                ..
            } => {
                let route = self.routes.get_mut(&key);
                if let Some((_, bytes)) = route.and_then(|route| route.before.last_mut()) {
                    *bytes = Some((old_leg_sent, old_leg_received));
                }
            }
            Event::StreamEnded { key, .. } => {
                self.routes.remove(&key);
            }
            event => tracing::debug!(?event),
        }
    }
}

fn path_name(info: &ConnectionInfo) -> String {
    let transport = match info.transport {
        Transport::Tcp => "tcp",
        Transport::Quic => "quic",
        Transport::WebSocket => "ws",
        _ => "another transport",
    };
    let way = if info.relayed { "relayed" } else { "direct" };
    format!("{way} {transport}")
}
