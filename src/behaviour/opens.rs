//! Streams that are being opened: on the best connection, and on the next one if that does not answer
//! soon; never in vain on one that is full, closing or not allowed.

#[cfg(all(test, stream_migration_mutants))]
use std::collections::BTreeMap;
use std::collections::{HashMap, VecDeque};

use libp2p_identity::PeerId;

use super::{Behaviour, Due};
use crate::{
    Mobility, OpenStreamError,
    handler::{self, Purpose},
    hub::{Choice, TimerKey},
    key::ConnectionKey,
    request::{Reply, StreamRequest},
    stream::Stream,
};

/// A stream that somebody waits for.
#[derive(Debug)]
struct Opening {
    peer: PeerId,
    request: StreamRequest,
    mobility: Mobility,
    /// The connection on which it has to be, whatever speaks against it.
    only: Option<ConnectionKey>,
    tried: Vec<ConnectionKey>,
    /// Connections on which an attempt is under way.
    running: Vec<ConnectionKey>,
    /// Why the last attempt has failed.
    error: Option<OpenStreamError>,
    /// The timers for all of it, and for the last attempt to be alone.
    timers: [TimerKey; 2],
}

/// The opens that are under way.
#[derive(Debug, Default)]
pub(super) struct Opens {
    opening: HashMap<u64, Opening>,
    /// Per peer, those that wait for a connection that has room and that they may use, in order. An
    /// attempt of theirs may be under way meanwhile, on one that does not answer.
    waiting: HashMap<PeerId, VecDeque<u64>>,
    next_number: u64,
}

impl Opens {
    fn wait(&mut self, peer: PeerId, number: u64) {
        let waiting = self.waiting.entry(peer).or_default();
        if !waiting.contains(&number) {
            waiting.push_back(number);
        }
    }

    fn leave(&mut self, peer: PeerId, number: u64) {
        if let Some(waiting) = self.waiting.get_mut(&peer) {
            waiting.retain(|waiting| *waiting != number);
            if waiting.is_empty() {
                self.waiting.remove(&peer);
            }
        }
    }

    /// The opens whose attempt on this connection is under way.
    pub(super) fn running_on(&self, connection: ConnectionKey) -> Vec<u64> {
        let mut numbers: Vec<_> = self
            .opening
            .iter()
            .filter(|(_, opening)| opening.running.contains(&connection))
            .map(|(number, _)| *number)
            .collect();
        numbers.sort_unstable();
        numbers
    }
}

#[cfg(all(test, stream_migration_mutants))]
impl Opens {
    /// Checks the books: who waits is being opened, and who is being opened runs or waits.
    pub(super) fn check(&self, there: &BTreeMap<ConnectionKey, PeerId>) {
        for (peer, waiting) in &self.waiting {
            assert!(!waiting.is_empty(), "{peer}");
            assert!(
                waiting
                    .iter()
                    .all(|number| self.opening[number].peer == *peer)
            );
        }
        for (number, opening) in &self.opening {
            let waiting = self.waiting.get(&opening.peer);
            let waits = waiting.is_some_and(|waiting| waiting.contains(number));
            assert!(
                waits || !opening.running.is_empty(),
                "open {number} is forgotten"
            );
            assert!(
                opening
                    .running
                    .iter()
                    .all(|running| there.contains_key(running))
            );
        }
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        self.opening.contains_key(&number)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.opening.is_empty() && self.waiting.is_empty()
    }
}

impl Behaviour {
    /// Opens a stream on this connection, or on the best.
    pub(super) fn open(
        &mut self,
        peer: PeerId,
        only: Option<ConnectionKey>,
        request: StreamRequest,
    ) {
        let number = self.begin_open(peer, only, request);
        self.try_to_open(number);
    }

    fn begin_open(
        &mut self,
        peer: PeerId,
        only: Option<ConnectionKey>,
        mut request: StreamRequest,
    ) -> u64 {
        let number = self.opens.next_number;
        self.opens.next_number += 1;
        request.number = Some(number);
        let mobility = self.config.mobility_of(&request.protocol);
        // A substream, then a negotiation on it.
        let over = self.config.negotiation_timeout.saturating_mul(2);
        let over = self.due.add(over, Due::OpenOver(number));
        let opening = Opening {
            peer,
            request,
            mobility,
            only,
            tried: Vec::new(),
            running: Vec::new(),
            error: None,
            timers: [over, None],
        };
        self.opens.opening.insert(number, opening);
        number
    }

    /// An attempt for the handler of a connection that is about to be.
    pub(super) fn adopt(
        &mut self,
        peer: PeerId,
        connection: ConnectionKey,
        request: StreamRequest,
    ) -> Option<StreamRequest> {
        let number = self.begin_open(peer, None, request);
        self.note_attempt(number, connection)
    }

    /// The connection will not be: gives back what its handler was to open.
    pub(super) fn give_back(&mut self, connection: ConnectionKey) -> Vec<StreamRequest> {
        let numbers = self.opens.running_on(connection).into_iter();
        let opening = numbers.filter_map(|number| self.forget_open(number));
        opening.map(|opening| opening.request).collect()
    }

    /// The place where the next attempt can be made.
    fn next_choice(&self, opening: &Opening) -> Choice {
        let (peer, tried) = (opening.peer, &opening.tried);
        let places = self.places(peer);
        let Some(only) = opening.only else {
            return self.hub.choose(peer, &places, opening.mobility, tried);
        };
        let place = places.iter().find(|info| info.key == only);
        match place.or_else(|| self.hub.connection(peer, only)) {
            Some(info) if info.closing || tried.contains(&only) => Choice::None,
            // Who names a connection knows of its limit, but may not know of its muxer's.
            Some(info) if info.streams + info.opening >= self.config.muxer_limit => Choice::Full,
            Some(_) => Choice::On(only),
            None => Choice::None,
        }
    }

    /// Starts the next attempt, if there is anything left to try.
    fn try_to_open(&mut self, number: u64) {
        let Some(opening) = self.opens.opening.get(&number) else {
            return;
        };
        if opening.request.is_canceled() {
            return self.end_open(number, None);
        }
        match self.next_choice(opening) {
            Choice::On(connection) => self.attempt(number, connection),
            Choice::Full => self.wait_for_room(number),
            Choice::None => self.nothing_left(number),
        }
    }

    fn attempt(&mut self, number: u64, connection: ConnectionKey) {
        let Some(peer) = self.opens.opening.get(&number).map(|opening| opening.peer) else {
            return;
        };
        let prove = self.hub.must_prove(peer, connection);
        if let Some(mut request) = self.note_attempt(number, connection) {
            request.prove = prove;
            request.inside = self.outside.find(peer, &request.protocol);
            self.start_attempt(peer, connection, request);
        }
    }

    /// An attempt on this connection is under way from now on.
    fn note_attempt(&mut self, number: u64, connection: ConnectionKey) -> Option<StreamRequest> {
        let head_start = self.config.open_head_start;
        let alone = self.due.add(head_start, Due::HeadStart(number));
        let opening = self.opens.opening.get_mut(&number)?;
        opening.tried.push(connection);
        opening.running.push(connection);
        let (peer, request) = (opening.peer, opening.request.attempt());
        let before = std::mem::replace(&mut opening.timers[1], alone);
        self.due.cancel(before);
        self.opens.leave(peer, number);
        request
    }

    /// Asks for a substream for it, which counts until there is one, or none.
    pub(super) fn start_attempt(
        &mut self,
        peer: PeerId,
        connection: ConnectionKey,
        request: StreamRequest,
    ) {
        self.hub.count_opening(peer, connection, 1);
        let owner = self.layer.as_ref().map(|it| it.owner(peer, connection));
        let alive = owner.and_then(|owner| self.hub.keep_alive(owner));
        self.open_attempt(peer, connection, request, alive);
    }

    /// Opens a substream for it through the connection's handler.
    pub(super) fn ask_handler(
        &mut self,
        peer: PeerId,
        connection: ConnectionKey,
        request: StreamRequest,
    ) {
        if self.hub.connection(peer, connection).is_none() {
            // A link whose connection is closed has no handler.
            self.attempt_settled(peer, connection);
            return self.not_opened(connection, request, OpenStreamError::ConnectionLost);
        }
        let purpose = Purpose::Stream(request);
        self.notify(peer, connection, handler::Command::Open(purpose));
    }

    /// The attempt has had its time alone: the next connection has a go, too, as soon as there is one.
    pub(super) fn head_start_over(&mut self, number: u64) {
        let Some(opening) = self.opens.opening.get(&number) else {
            return;
        };
        let (peer, running) = (opening.peer, opening.running.clone());
        let choice = self.next_choice(opening);
        for connection in running {
            self.with_hub_at(peer, connection, |hub| hub.probe(peer, connection, None));
        }
        match choice {
            Choice::On(connection) => self.attempt(number, connection),
            Choice::Full | Choice::None => self.opens.wait(peer, number),
        }
    }

    fn wait_for_room(&mut self, number: u64) {
        let Some(opening) = self.opens.opening.get(&number) else {
            return;
        };
        let peer = opening.peer;
        let limit = self.config.max_pending_opens;
        let waiting = self.opens.waiting.get(&peer).map_or(0, VecDeque::len);
        if waiting < limit || !opening.running.is_empty() {
            return self.opens.wait(peer, number);
        }
        self.end_open(number, Some(Err(OpenStreamError::TooManyWaiting(waiting))));
    }

    /// Decides about an open that has no connection to try, or none any more.
    fn nothing_left(&mut self, number: u64) {
        let Some(opening) = self.opens.opening.get_mut(&number) else {
            return;
        };
        if !opening.running.is_empty() {
            return;
        }
        let (peer, mobility) = (opening.peer, opening.mobility);
        let usable = self.hub.connections(peer).iter().any(|info| !info.closing);
        let failed = opening.error.is_some();
        if !usable && opening.only.is_none() && !(failed && opening.request.redialed) {
            opening.request.redialed |= failed;
            if let Some(opening) = self.forget_open(number) {
                self.dial(peer, opening.request);
            }
            return;
        }
        if let Some(error) = opening.error.take() {
            return self.end_open(number, Some(Err(error)));
        }
        if let Some(only) = opening.only {
            let error = OpenStreamError::UnknownConnection(only);
            return self.end_open(number, Some(Err(error)));
        }
        // There are connections, and this stream may use none of them.
        let wait = self.config.wait_for_direct;
        if mobility == Mobility::NeverRelayed && !wait.is_zero() {
            let over = self.due.add(wait, Due::OpenOver(number));
            if let Some(opening) = self.opens.opening.get_mut(&number) {
                let before = std::mem::replace(&mut opening.timers[0], over);
                self.due.cancel(before);
            }
            return self.wait_for_room(number);
        }
        self.end_open(number, Some(Err(OpenStreamError::NotAllowed(mobility))));
    }

    /// Ends an open that has had all the time that there is.
    pub(super) fn open_over(&mut self, number: u64) {
        let Some(opening) = self.opens.opening.get(&number) else {
            return;
        };
        let (peer, running) = (opening.peer, opening.running.clone());
        let error = if !running.is_empty() {
            OpenStreamError::TimedOut
        } else if self.next_choice(opening) == Choice::None {
            OpenStreamError::NotAllowed(opening.mobility)
        } else {
            OpenStreamError::NoRoom
        };
        self.end_open(number, Some(Err(error)));
        for connection in running {
            self.with_hub_at(peer, connection, |hub| hub.suspect(peer, connection));
        }
    }

    /// Serves the caller, or with nothing lets go of it.
    fn end_open(&mut self, number: u64, result: Option<Result<Stream, OpenStreamError>>) {
        if let Some(opening) = self.forget_open(number)
            && let Reply::Caller(caller) = opening.request.reply
        {
            caller.serve(result);
        }
    }

    fn forget_open(&mut self, number: u64) -> Option<Opening> {
        let opening = self.opens.opening.remove(&number)?;
        self.opens.leave(opening.peer, number);
        for timer in opening.timers {
            self.due.cancel(timer);
        }
        Some(opening)
    }

    /// An attempt has found out that its caller has given up, or was served by another one.
    pub(super) fn nobody_waits(&mut self, request: &StreamRequest) {
        if let Some(number) = request.number {
            self.end_open(number, None);
        }
    }

    /// An attempt has a substream, or will have none: it does not count as being opened any more.
    pub(super) fn attempt_settled(&mut self, peer: PeerId, connection: ConnectionKey) {
        self.hub.count_opening(peer, connection, -1);
    }

    /// An attempt has come to an end: hands the stream over, or tries the next connection.
    pub(super) fn attempted(
        &mut self,
        connection: ConnectionKey,
        number: Option<u64>,
        result: Result<Stream, OpenStreamError>,
    ) {
        let Some(number) = number else { return };
        let Some(opening) = self.opens.opening.get_mut(&number) else {
            // Somebody else was first; what was opened here is dropped, which aborts it.
            return;
        };
        opening.running.retain(|running| *running != connection);
        match result {
            // The peer has answered, and would say the same on any other connection.
            Ok(_) | Err(OpenStreamError::UnsupportedProtocol(_)) => {
                self.end_open(number, Some(result));
            }
            Err(error) => {
                opening.error = Some(error);
                self.try_to_open(number);
            }
        }
    }

    /// Takes note that there will be no stream on this connection.
    pub(super) fn not_opened(
        &mut self,
        connection: ConnectionKey,
        request: StreamRequest,
        error: OpenStreamError,
    ) {
        match request.reply {
            Reply::Caller(_) => self.attempted(connection, request.number, Err(error)),
            Reply::Reopening(_) => request.fail(error),
        }
    }

    /// Sends what was being opened there elsewhere.
    pub(super) fn opens_lost(&mut self, connection: ConnectionKey) {
        for number in self.opens.running_on(connection) {
            let error = OpenStreamError::ConnectionLost;
            self.attempted(connection, Some(number), Err(error));
        }
    }

    /// Dials though there are connections, if streams wait and none of those answers.
    pub(super) fn dial_if_none_answers(&mut self, peer: PeerId) {
        let places = self.places(peer);
        let none_answers = places.iter().all(|info| info.suspected || info.closing);
        if none_answers && self.opens.waiting.contains_key(&peer) {
            self.dial_beside(peer);
        }
    }

    /// Serves those that wait for room or for another connection.
    pub(super) fn serve_waiting(&mut self, peer: PeerId) {
        let waiting = self.opens.waiting.get(&peer);
        for number in waiting.into_iter().flatten().copied().collect::<Vec<_>>() {
            let Some(opening) = self.opens.opening.get(&number) else {
                continue;
            };
            let connected = !self.hub.connections(peer).is_empty();
            // An attempt may be under way, and then nothing else to try is no failure.
            match self.next_choice(opening) {
                Choice::Full => {}
                Choice::None if !opening.running.is_empty() => {}
                Choice::None if opening.mobility == Mobility::NeverRelayed && connected => {}
                Choice::On(_) | Choice::None => self.try_to_open(number),
            }
        }
    }
}
