//! One of the two that talk: its swarm, and the loop that publishes, asks and answers.

use std::{
    collections::{HashMap, HashSet},
    error::Error,
    time::Duration,
};

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm, identify,
    identity::Keypair,
    kad, relay,
    request_response::OutboundRequestId,
    swarm::{
        SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use tokio::time::Interval;

use crate::{
    args::Args,
    behaviour::{self, Behaviour, BehaviourEvent},
    course::{Course, Stage},
    paths::{Counted, Paths},
    payload::Source,
    relay::Relay,
    tally::{Book, Protocol, Side},
    wiring,
};

/// 250 messages a second; requests and queries are fewer.
const TICK: Duration = Duration::from_millis(4);
const TICKS_PER_REQUEST: u64 = 10;
const TICKS_PER_QUERY: u64 = 25;
const LONG: Duration = Duration::from_secs(3600);

/// What is done when there is a connection.
pub struct AtFirst {
    /// The other side's address, for kad. Known earlier, it would be dialed.
    pub address: Multiaddr,
    /// The size of the response to ask for.
    pub ask: Option<u64>,
}

pub struct Node {
    pub id: PeerId,
    pub peer: PeerId,
    pub book: Book,
    pub paths: Paths,
    pub swarm: Swarm<Behaviour>,
    pub seed: u64,
    /// What was asked and is not answered yet, and which number it has.
    pub asked: HashMap<OutboundRequestId, u64>,
    pub sought: HashMap<kad::QueryId, u64>,
    course: Course,
    ticks: Interval,
    ticked: u64,
    /// So many messages are to be published, at least; and a quarter of that when the relayed
    /// connection is gone, after which this is the last.
    messages: u64,
    last: Option<u64>,
    /// Who has published what, so that nothing is counted twice.
    pub heard: HashSet<u64>,
    /// Requests of the other side's, likewise.
    pub served: HashSet<u64>,
    /// What is to be done when there is a connection.
    pub at_first: Option<AtFirst>,
    /// An address of the other side, to be dialed when it is time.
    pub to_dial: Option<Multiaddr>,
}

impl Node {
    pub fn new(
        keypair: &Keypair,
        peer: PeerId,
        args: &Args,
        book: Book,
        course: Course,
    ) -> Result<Self, Box<dyn Error>> {
        let id = keypair.public().to_peer_id();
        let paths = Paths::new(peer, book.clone());
        let (relayed, relay) = relay::client::new(id);
        let base = wiring::base(keypair, relayed)?;
        let counted = Counted::new(base, paths.clone(), course.clone());
        let (transport, migration) = wiring::layered(counted, id, args.without);
        let behaviour = Behaviour::new(keypair, args, (&book, &course), relay, migration)?;
        let config = libp2p::swarm::Config::with_tokio_executor();
        let config = config.with_idle_connection_timeout(LONG);
        Ok(Self {
            id,
            peer,
            book,
            paths,
            swarm: Swarm::new(transport, behaviour, id, config),
            seed: args.seed,
            asked: HashMap::new(),
            sought: HashMap::new(),
            course,
            ticks: tokio::time::interval(TICK),
            ticked: 0,
            messages: args.messages,
            last: None,
            heard: HashSet::new(),
            served: HashSet::new(),
            at_first: None,
            to_dial: None,
        })
    }

    /// Listens, and tells the address that comes of it, with our ID.
    pub async fn listen(&mut self, on: Multiaddr) -> Result<Multiaddr, Box<dyn Error>> {
        self.swarm.listen_on(on)?;
        loop {
            match self.swarm.select_next_some().await {
                SwarmEvent::NewListenAddr { address, .. } => {
                    return Ok(address.with_p2p(self.id).unwrap_or_else(|address| address));
                }
                SwarmEvent::ListenerClosed { reason, .. } => {
                    reason?;
                    return Err("a listener has closed".into());
                }
                _ => {}
            }
        }
    }

    /// Dials the relay, and waits until it has said as what it sees us: before that, no hole can be
    /// punched.
    pub async fn meet(&mut self, relay: &Relay) -> Result<(), Box<dyn Error>> {
        self.swarm.dial(relay.address.clone())?;
        loop {
            match self.swarm.select_next_some().await {
                SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                    peer_id,
                    ..
                })) if peer_id == relay.id => return Ok(()),
                SwarmEvent::OutgoingConnectionError { error, .. } => return Err(error.into()),
                _ => {}
            }
        }
    }

    /// Makes one more connection to the other side.
    pub fn dial(&mut self, address: Multiaddr) {
        let opts = DialOpts::peer_id(self.peer)
            .condition(PeerCondition::Always)
            .addresses(vec![address])
            .build();
        if let Err(error) = self.swarm.dial(opts) {
            self.complain(format!("dialing: {error}"));
        }
    }

    pub fn begin(&mut self, first: AtFirst) {
        let behaviour = self.swarm.behaviour_mut();
        behaviour.kad.add_address(&self.peer, first.address);
        if let Some(bytes) = first.ask {
            behaviour.response.send_request(&self.peer, bytes);
            self.book.line(Protocol::Response, |line| line.sent = bytes);
        }
    }

    pub fn complain(&self, complaint: String) {
        self.book.note(|seen| seen.complaints.push(complaint));
    }

    pub fn source(&self, protocol: Protocol, from: Side) -> Source {
        Source::new(self.seed, protocol, from)
    }

    /// Runs for ever.
    pub async fn run(mut self) {
        let course = self.course.clone();
        loop {
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_event(event),
                _ = self.ticks.tick() => self.load(),
                () = course.reached(Stage::Direct), if self.to_dial.is_some() => {
                    if let Some(address) = self.to_dial.take() {
                        self.dial(address);
                    }
                }
            }
        }
    }

    /// One tick's share of the load.
    fn load(&mut self) {
        let subscribed = self.book.read(|tally| tally.both(|seen| seen.subscribed));
        let (number, side) = (self.ticked, self.book.side);
        if self.last.is_none() && self.course.stage() == Stage::Alone {
            self.last = Some(self.messages.max(number + self.messages / 4));
        }
        if !subscribed || self.last == Some(number) {
            self.book.note(|seen| seen.load_over = subscribed);
            return;
        }
        self.ticked += 1;
        self.publish(self.source(Protocol::Gossipsub, side).message(number));
        if number.is_multiple_of(TICKS_PER_REQUEST) {
            let number = number / TICKS_PER_REQUEST;
            let request = self.source(Protocol::Requests, side).message(number);
            let requests = &mut self.swarm.behaviour_mut().requests;
            let id = requests.send_request(&self.peer, request);
            self.asked.insert(id, number);
            self.book.line(Protocol::Requests, |line| line.sent += 1);
        }
        if number.is_multiple_of(TICKS_PER_QUERY) {
            let record = number / TICKS_PER_QUERY % behaviour::RECORDS;
            let key = behaviour::key(self.source(Protocol::Kad, side.other()), record);
            let id = self.swarm.behaviour_mut().kad.get_record(key);
            self.sought.insert(id, record);
            self.book.line(Protocol::Kad, |line| line.sent += 1);
        }
    }

    fn publish(&mut self, message: Vec<u8>) {
        let gossip = &mut self.swarm.behaviour_mut().gossipsub;
        let published = gossip.publish(behaviour::topic(), message);
        self.book.line(Protocol::Gossipsub, |line| match published {
            Ok(_) => line.sent += 1,
            Err(error) => line.error(format!("publishing: {error}")),
        });
    }
}
