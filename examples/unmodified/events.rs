//! What a node's events say about what was sent and received.

use libp2p::{
    gossipsub, identify, kad, ping,
    request_response::{self, Message},
    swarm::SwarmEvent,
};
use libp2p_stream_migration::Event as Migration;

use crate::{
    behaviour::BehaviourEvent,
    node::Node,
    tally::{Line, Protocol},
};

impl Node {
    pub fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour_event(event),
            SwarmEvent::ConnectionEstablished { peer_id, .. } if peer_id == self.peer => {
                // The first, which is the relayed one.
                if let Some(first) = self.at_first.take() {
                    self.begin(first);
                }
            }
            SwarmEvent::ConnectionClosed {
                peer_id,
                connection_id,
                cause,
                ..
            } if peer_id == self.peer => {
                let cause = cause.map_or("no error".to_owned(), |cause| cause.to_string());
                let side = self.book.side.name();
                let closed = format!("the {side}'s connection {connection_id}: {cause}");
                self.book.note(|seen| seen.closed.push(closed));
            }
            event => tracing::debug!(side = self.book.side.name(), ?event),
        }
    }

    fn on_behaviour_event(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Gossipsub(event) => self.on_gossip(event),
            BehaviourEvent::Response(event) => self.on_response(event),
            BehaviourEvent::Requests(event) => self.on_requests(event),
            BehaviourEvent::Kad(event) => self.on_kad(event),
            BehaviourEvent::Identify(event) => self.on_identify(event),
            BehaviourEvent::Ping(ping::Event { peer, result, .. }) if peer == self.peer => {
                self.book.line(Protocol::Ping, |line| {
                    line.sent += 1;
                    match result {
                        Ok(_) => line.received(1),
                        Err(error) => line.failed(error),
                    }
                });
            }
            BehaviourEvent::Migration(event) => self.on_migration(event),
            event => tracing::debug!(side = self.book.side.name(), ?event),
        }
    }

    fn on_gossip(&mut self, event: gossipsub::Event) {
        match event {
            gossipsub::Event::Message { message, .. } => {
                let source = self.source(Protocol::Gossipsub, self.book.side.other());
                let number = source.number_of(&message.data);
                let new = number.is_some_and(|number| self.heard.insert(number));
                self.book.line(Protocol::Gossipsub, |line| match number {
                    Some(_) if new => line.received(1),
                    Some(_) => line.doubled += 1,
                    None => line.error("a message that nobody has published"),
                });
            }
            gossipsub::Event::Subscribed { peer_id, .. } if peer_id == self.peer => {
                self.book.note(|seen| seen.subscribed = true);
            }
            // The relay does not speak it.
            gossipsub::Event::GossipsubNotSupported { peer_id } if peer_id != self.peer => {}
            event => self
                .book
                .line(Protocol::Gossipsub, |line| line.error(format!("{event:?}"))),
        }
    }

    fn on_response(&mut self, event: request_response::Event<u64, u64>) {
        let book = self.book.clone();
        let line = |note: &dyn Fn(&mut Line)| book.line(Protocol::Response, note);
        match event {
            request_response::Event::Message { message, .. } => match message {
                Message::Request {
                    request, channel, ..
                } => {
                    let response = &mut self.swarm.behaviour_mut().response;
                    if response.send_response(channel, request).is_err() {
                        line(&|line| line.error("nobody waits for the response"));
                    }
                }
                // Compared, and counted, as it came.
                Message::Response { .. } => line(&|line| line.ended(None)),
            },
            request_response::Event::OutboundFailure { error, .. } => {
                line(&|line| line.ended(Some(format!("asking: {error}"))));
            }
            request_response::Event::InboundFailure { error, .. } => {
                line(&|line| line.error(format!("responding: {error}")));
            }
            request_response::Event::ResponseSent { .. } => {}
        }
    }

    /// A request is a message of the side that asks, and the answer that of the other side with the
    /// same number.
    fn on_requests(&mut self, event: request_response::Event<Vec<u8>, Vec<u8>>) {
        let side = self.book.side;
        let [ours, theirs] = [side, side.other()].map(|it| self.source(Protocol::Requests, it));
        match event {
            request_response::Event::Message { message, .. } => match message {
                Message::Request {
                    request, channel, ..
                } => {
                    let Some(number) = theirs.number_of(&request) else {
                        let wrong = "a request that nobody has made";
                        self.book.line(Protocol::Requests, |line| line.error(wrong));
                        return;
                    };
                    if !self.served.insert(number) {
                        self.book.line(Protocol::Requests, |line| line.doubled += 1);
                    }
                    let requests = &mut self.swarm.behaviour_mut().requests;
                    // It fails when nobody waits any more; who has asked knows that, and counts it.
                    let _ = requests.send_response(channel, ours.message(number));
                }
                Message::Response {
                    request_id,
                    response,
                } => {
                    let right = theirs.number_of(&response);
                    let number = self.asked.remove(&request_id);
                    self.book.line(Protocol::Requests, |line| match number {
                        Some(_) if number == right => line.received(1),
                        Some(_) => line.failed("an answer to another request"),
                        None => line.doubled += 1,
                    });
                }
            },
            request_response::Event::OutboundFailure {
                request_id, error, ..
            } => {
                self.asked.remove(&request_id);
                self.book
                    .line(Protocol::Requests, |line| line.failed(error));
            }
            request_response::Event::InboundFailure { error, .. } => {
                let error = format!("answering: {error}");
                self.book.line(Protocol::Requests, |line| line.error(error));
            }
            request_response::Event::ResponseSent { .. } => {}
        }
    }

    fn on_kad(&mut self, event: kad::Event) {
        let kad::Event::OutboundQueryProgressed {
            id, result, step, ..
        } = event
        else {
            return;
        };
        // Not one of kad's own, such as its bootstrap.
        let (kad::QueryResult::GetRecord(result), Some(&number)) = (result, self.sought.get(&id))
        else {
            return;
        };
        let source = self.source(Protocol::Kad, self.book.side.other());
        let found = match &result {
            Ok(kad::GetRecordOk::FoundRecord(found)) => {
                Some(found.record.value == source.message(number))
            }
            _ => None,
        };
        if found.is_none() && !step.last {
            return;
        }
        self.sought.remove(&id);
        self.book.line(Protocol::Kad, |line| match found {
            Some(true) => line.received(1),
            Some(false) => line.failed("another record"),
            None => line.failed(result.err().map_or("no record".into(), |it| it.to_string())),
        });
    }

    fn on_identify(&mut self, event: identify::Event) {
        let line = |note: &dyn Fn(&mut Line)| self.book.line(Protocol::Identify, note);
        match event {
            // A push does not count: libp2p-identify makes nothing of one that comes before what it asks
            // for at first, on another stream, and does not say of what it has received whether it was one.
            identify::Event::Sent { peer_id, .. } if peer_id == self.peer => {
                line(&|line| line.sent += 1);
            }
            identify::Event::Received { peer_id, .. } if peer_id == self.peer => {
                line(&|line| line.received(1));
            }
            identify::Event::Error { peer_id, error, .. } if peer_id == self.peer => {
                line(&|line| line.error(&error));
            }
            // With the relay.
            _ => {}
        }
    }

    fn on_migration(&self, event: Migration) {
        tracing::debug!(side = self.book.side.name(), ?event);
        match event {
            Migration::MigrationCompleted { .. } => self.book.note(|seen| seen.migrations += 1),
            Migration::Violation { .. } | Migration::Refused { .. } => {
                self.complain(format!("{}: {event:?}", self.book.side.name()));
            }
            _ => {}
        }
    }
}
