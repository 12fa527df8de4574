//! The swarm's task: listens, dials, closes, and tells what happens to connections and streams.

use std::{
    collections::{BTreeMap, HashMap},
    error::Error as StdError,
    sync::Arc,
};

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm,
    core::{ConnectedPoint, transport::ListenerId},
    identify,
    multiaddr::Protocol,
    swarm::{
        ConnectionId, SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use libp2p_stream_migration::{ConnectionKey, ConnectionName as _};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::{
    node::{Behaviour, BehaviourEvent},
    output::{Error, Kind, Reply, say},
    streams::Streams,
};

/// What is asked of the swarm's task.
#[derive(Debug)]
pub enum Ask {
    Listen(Multiaddr, Reply),
    Dial(PeerId, Multiaddr, Reply),
    Close(ConnectionId, Reply),
    /// Whether relayed connections are closed when there is a direct one.
    CloseRelayed(bool, Reply),
    /// The connections to this peer, or to all.
    Connections(Option<PeerId>, oneshot::Sender<Vec<Connection>>),
}

#[derive(Debug, Clone)]
pub struct Connection {
    pub id: ConnectionId,
    pub peer: PeerId,
    address: Multiaddr,
    relayed: bool,
    dialer: bool,
}

impl Connection {
    fn new(id: ConnectionId, peer: PeerId, endpoint: &ConnectedPoint) -> Self {
        Self {
            id,
            peer,
            address: endpoint.get_remote_address().clone(),
            relayed: endpoint.is_relayed(),
            dialer: endpoint.is_dialer(),
        }
    }

    pub fn json(&self) -> Value {
        json!({
            "conn": name(self.id.key()),
            "peer": self.peer.to_string(),
            "addr": self.address.to_string(),
            "relayed": self.relayed,
            "dialer": self.dialer,
        })
    }

    fn say(&self, event: &str) {
        let mut line = self.json();
        line["event"] = event.into();
        say(&line);
    }
}

/// A connection's name in this program.
pub fn name(connection: ConnectionKey) -> String {
    format!("c{connection}")
}

/// The connection that is called so.
pub fn by_name(name: &str) -> Result<ConnectionKey, Error> {
    let number = name.strip_prefix('c').and_then(|id| id.parse().ok());
    number
        .map(ConnectionKey::new)
        .ok_or_else(|| Error::bad(format!("{name:?} is no connection")))
}

/// A swarm, and what is under way in it.
pub struct Swarming {
    pub swarm: Swarm<Behaviour>,
    pub streams: Arc<Streams>,
    pub relay: bool,
    listening: HashMap<ListenerId, (Multiaddr, Reply)>,
    dialing: HashMap<ConnectionId, (PeerId, Reply)>,
    closing: HashMap<ConnectionId, Reply>,
    connections: BTreeMap<ConnectionId, Connection>,
    close_relayed: bool,
    /// What identify has told there, and been told.
    identified: HashMap<ConnectionId, [bool; 2]>,
}

impl Swarming {
    pub fn new(swarm: Swarm<Behaviour>, streams: Arc<Streams>, relay: bool) -> Self {
        Self {
            swarm,
            streams,
            relay,
            listening: HashMap::new(),
            dialing: HashMap::new(),
            closing: HashMap::new(),
            connections: BTreeMap::new(),
            close_relayed: false,
            identified: HashMap::new(),
        }
    }

    pub async fn run(mut self, mut asks: mpsc::UnboundedReceiver<Ask>) {
        loop {
            tokio::select! {
                ask = asks.recv() => match ask {
                    Some(ask) => self.ask(ask),
                    None => return,
                },
                event = self.swarm.select_next_some() => self.event(event),
            }
        }
    }

    fn ask(&mut self, ask: Ask) {
        match ask {
            Ask::Listen(address, reply) => match self.swarm.listen_on(address.clone()) {
                Ok(id) => {
                    self.listening.insert(id, (address, reply));
                }
                Err(error) => reply.send(Err(Error::new(Kind::Other, chain(&error)))),
            },
            Ask::Dial(peer, address, reply) => {
                let opts = DialOpts::peer_id(peer)
                    .condition(PeerCondition::Always)
                    .addresses(vec![address])
                    // Two connections from one port to one address cannot be.
                    .allocate_new_port()
                    .build();
                let id = opts.connection_id();
                match self.swarm.dial(opts) {
                    Ok(()) => {
                        self.dialing.insert(id, (peer, reply));
                    }
                    Err(error) => reply.send(Err(Error::new(Kind::Other, chain(&error)))),
                }
            }
            Ask::Close(id, reply) => {
                if self.swarm.close_connection(id) {
                    self.closing.insert(id, reply);
                } else {
                    reply.send(Err(Error::bad("no such connection")));
                }
            }
            Ask::CloseRelayed(close, reply) => {
                self.close_relayed = close;
                reply.send(Ok(json!({})));
            }
            Ask::Connections(peer, reply) => {
                let all = self.connections.values();
                let wanted = all.filter(|it| peer.is_none_or(|peer| it.peer == peer));
                let _ = reply.send(wanted.cloned().collect());
            }
        }
    }

    fn event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::NewListenAddr {
                listener_id,
                address,
            } => {
                if self.relay {
                    // Reservations tell clients where the relay can be reached.
                    self.swarm.add_external_address(address.clone());
                }
                let Some((asked, reply)) = self.listening.remove(&listener_id) else {
                    return;
                };
                // A relay tells all its addresses; the one that we came by is the one to pass on.
                let circuit = asked.iter().any(|part| part == Protocol::P2pCircuit);
                let address = if circuit { asked } else { address };
                let local = *self.swarm.local_peer_id();
                let address = address.clone().with_p2p(local).unwrap_or(address);
                reply.send(Ok(json!({ "addrs": [address.to_string()] })));
            }
            SwarmEvent::ListenerClosed {
                listener_id,
                reason,
                ..
            } => {
                let why = match reason {
                    Ok(()) => "closed".to_owned(),
                    Err(error) => chain(&error),
                };
                eprintln!("a listener is over: {why}");
                if let Some((_, reply)) = self.listening.remove(&listener_id) {
                    reply.send(Err(Error::new(Kind::Other, why)));
                }
            }
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            } => self.connected(Connection::new(connection_id, peer_id, &endpoint)),
            SwarmEvent::OutgoingConnectionError {
                connection_id,
                error,
                ..
            } => {
                eprintln!("cannot dial: {}", chain(&error));
                if let Some((_, reply)) = self.dialing.remove(&connection_id) {
                    reply.send(Err(Error::new(Kind::Other, chain(&error))));
                }
            }
            SwarmEvent::ConnectionClosed {
                connection_id,
                cause,
                ..
            } => {
                if let Some(cause) = cause {
                    eprintln!("{} is lost: {}", name(connection_id.key()), chain(&cause));
                }
                if let Some(connection) = self.connections.remove(&connection_id) {
                    connection.say("disconnected");
                }
                if let Some(reply) = self.closing.remove(&connection_id) {
                    reply.send(Ok(json!({})));
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Streams(event)) => {
                eprintln!("{event:?}");
                self.streams.say_event(&event);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Identify(event)) => self.identified(&event),
            _ => {}
        }
    }

    /// Says so once both sides have told each other who they are.
    fn identified(&mut self, event: &identify::Event) {
        let (id, half) = match event {
            identify::Event::Sent { connection_id, .. } => (*connection_id, 0),
            identify::Event::Received { connection_id, .. } => (*connection_id, 1),
            _ => return,
        };
        let halves = self.identified.entry(id).or_default();
        let more = !std::mem::replace(&mut halves[half], true);
        if more && *halves == [true; 2] {
            say(&json!({ "event": "identified", "conn": name(id.key()) }));
        }
    }

    fn connected(&mut self, connection: Connection) {
        connection.say("connected");
        if let Some((peer, reply)) = self.dialing.remove(&connection.id) {
            let answer = json!({ "conn": name(connection.id.key()), "peer": peer.to_string() });
            reply.send(Ok(answer));
        }
        let (peer, relayed) = (connection.peer, connection.relayed);
        self.connections.insert(connection.id, connection);
        if !relayed && self.close_relayed {
            let all = self.connections.values();
            for old in all.filter(|it| it.peer == peer && it.relayed) {
                self.swarm.close_connection(old.id);
            }
        }
    }
}

/// An error with its causes.
pub fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
