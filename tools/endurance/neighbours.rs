//! Behaviours that know nothing of a layer, on the swarms that have one: questions and answers that are checked byte by
//! byte, and ping.

use std::time::Duration;

use libp2p::{
    PeerId, StreamProtocol, ping,
    request_response::{self, Event, Message, ProtocolSupport},
    swarm::NetworkBehaviour,
};
use testing::Random;
use tokio::time::{Instant, sleep};

use crate::{content::Content, known::Known, ledger::Ledger, node::Command, world::World};

/// The largest question, and the largest answer.
const LARGEST: u64 = 200_000;

/// A number, the bytes that are made of it, and how many are wanted in return.
pub type Question = (u64, Vec<u8>, u64);

/// The question's number, and what was wanted.
type Answer = (u64, Vec<u8>);

/// The bytes of a question, or of the answer to the one before.
fn bytes_of(number: u64, length: u64) -> Vec<u8> {
    let mut bytes = vec![0; length as usize];
    Content::of_accepter(0, number).fill(0, &mut bytes);
    bytes
}

type Requests = request_response::cbor::Behaviour<Question, Answer>;

#[derive(NetworkBehaviour)]
pub struct Behaviour {
    requests: Requests,
    ping: ping::Behaviour,
}

impl Behaviour {
    pub fn new() -> Self {
        let protocol = StreamProtocol::new("/endurance/questions");
        Self {
            requests: Requests::new([(protocol, ProtocolSupport::Full)], Default::default()),
            ping: ping::Behaviour::new(ping::Config::new().with_interval(Duration::from_secs(1))),
        }
    }

    pub fn ask(&mut self, peer: PeerId, question: Question) {
        self.requests.send_request(&peer, question);
    }

    pub fn hear(&mut self, event: BehaviourEvent, ledger: &Ledger) {
        let BehaviourEvent::Requests(event) = event else {
            return;
        };
        match event {
            Event::Message { message, .. } => match message {
                Message::Request {
                    request, channel, ..
                } => {
                    let (number, bytes, wanted) = request;
                    if bytes != bytes_of(number, bytes.len() as u64) {
                        ledger.note(|known| known.violation("a question that nobody asked"));
                    }
                    let answer = (number, bytes_of(number + 1, wanted.min(LARGEST)));
                    // Nobody waits any more where the connection is closed.
                    let _ = self.requests.send_response(channel, answer);
                }
                Message::Response { response, .. } => {
                    let (number, bytes) = response;
                    ledger.note(|known| {
                        if bytes != bytes_of(number + 1, bytes.len() as u64) {
                            known.violation("an answer that nobody gave");
                        }
                        known.counts.other("questions answered");
                        known.unanswered -= 1;
                    });
                }
            },
            // Of connections that are closed, also while the protocol is negotiated.
            Event::OutboundFailure { error, .. } => ledger.note(|known| {
                known.counts.other(format!("question failed: {error}"));
                known.unanswered -= 1;
            }),
            Event::InboundFailure { .. } | Event::ResponseSent { .. } => {}
        }
    }
}

/// Has peers ask one another until then.
pub async fn ask(world: &World, round: u64, until: Instant) {
    let mut random = Random::of(world.seed, 8_000_000 + round);
    while Instant::now() < until {
        // The one that comes and goes leaves its questions behind.
        let from = random.below(3) as usize;
        let to = (from + 1 + random.below(2) as usize) % 3;
        let (number, length) = (random.below(1 << 40), random.size(LARGEST));
        let question = (number, bytes_of(number, length), random.size(LARGEST));
        world.ledger.note(|known| known.unanswered += 1);
        let peer = world.node(to).id;
        let ask = Command::Request(peer, question);
        world.node(from).command(ask).await;
        sleep(Duration::from_micros(random.size(20_000))).await;
    }
    let answered = |known: &Known| (known.unanswered == 0).then_some(());
    let all = tokio::time::timeout(Duration::from_secs(60), world.ledger.until(answered));
    if all.await.is_err() {
        let what = "questions of which nothing is heard";
        world.ledger.note(|known| known.violation(what));
    }
}
