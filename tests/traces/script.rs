//! Two peers whose every event is scripted.
//!
//! A peer's driver and behaviour run, if they have been woken, right after an event that concerns
//! the peer, and until nothing more comes of it; so what is in flight, who was asked and where the
//! stream stands can be asserted between any two events. Applications read only when the script
//! says so.

use std::{sync::Arc, task::Poll};

use crate::{
    key::ConnectionKey,
    leg::{Item, Kind, Wire},
    machine::{Failure, Question, Setup, Speech, StreamId, Verdict, rules::Rule},
    peer::Peer,
    protocol::codec::{Ack, Message, Request, Switched, frame},
    sleep,
    stream::{Leg, Note, Status},
};

/// The connection of the leg of this number.
pub fn key(leg: u8) -> ConnectionKey {
    ConnectionKey::new(leg.into())
}

/// The designated peer.
pub const A: usize = 0;
pub const B: usize = 1;

pub const KINDS: [Kind; 2] = [Kind::Yamux, Kind::Quic];

/// What crosses a leg. IDs: A's first is 2, its next 4; B's 3 and 5; the stream begins as 0.
#[derive(Debug, Clone, Copy)]
pub enum What {
    Data(&'static str),
    Migrate { id: u64, from: u64 },
    Ack,
    Deny,
    Switched(u64),
    Cancelled,
    Fin,
    Rst,
}

/// How an application's input has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Not,
    Clean,
    /// With `ConnectionReset`.
    Reset,
}

/// What an application has read, and the end of it.
pub type Read = (String, End);

/// What is given to both sides alike unless the trace needs it otherwise.
pub struct Scene<'a> {
    /// L0 and the legs to come; each is on a connection of its own, of the same number.
    pub legs: &'a [Kind],
    pub verify: bool,
    /// Who knows from the start that the other verifies.
    pub known: [bool; 2],
    /// What each machine does not obey.
    pub without: [Option<Rule>; 2],
}

impl<'a> Scene<'a> {
    pub fn verified(legs: &'a [Kind], without: Option<Rule>) -> Self {
        Self {
            legs,
            verify: true,
            known: [true; 2],
            without: [without; 2],
        }
    }

    pub fn unverified(legs: &'a [Kind], without: Option<Rule>) -> Self {
        Self {
            legs,
            verify: false,
            known: [false; 2],
            without: [without; 2],
        }
    }
}

pub fn name(side: usize) -> &'static str {
    ["A", "B"][side]
}

pub struct Script {
    legs: Vec<Kind>,
    verify: bool,
    peers: [Peer; 2],
    wires: Vec<Arc<Wire>>,
}

impl Script {
    pub fn new(scene: &Scene<'_>) -> Self {
        let (one, other, wire) = Wire::new(scene.legs[0]);
        let mut ends = [Some(one), Some(other)];
        let peers = [A, B].map(|side| {
            let io = ends[side].take().expect("each side once");
            let leg = Leg::new(io, key(0), scene.legs[0].into());
            let setup = Setup {
                designated: side == A,
                verify: scene.verify,
                peer_verifies: scene.known[side],
                speech: Speech::No,
                opener: side == 0,
                keeps: false,
            };
            Peer::new(side, leg, setup, scene.without[side])
        });
        let mut script = Self {
            legs: scene.legs.to_vec(),
            verify: scene.verify,
            peers,
            wires: vec![wire],
        };
        script.run(A);
        script.run(B);
        script
    }

    // ---- What applications do -------------------------------------------------------------------

    /// Writes all of it, to wherever the stream has its out side.
    pub fn writes(&mut self, side: usize, what: &str) {
        let written = self.peers[side].write(what.as_bytes());
        assert!(
            matches!(written, Poll::Ready(Ok(n)) if n == what.len()),
            "{} writes: {written:?}",
            name(side)
        );
        self.run(side);
    }

    /// Whether the stream takes a byte.
    pub fn can_write(&mut self, side: usize) -> bool {
        let written = self.peers[side].write(b"x");
        self.run(side);
        matches!(written, Poll::Ready(Ok(_)))
    }

    /// Half-closes. Whether that was done at once.
    pub fn closes(&mut self, side: usize) -> bool {
        let closed = self.peers[side].close();
        assert!(!matches!(closed, Poll::Ready(Err(_))), "{closed:?}");
        self.run(side);
        closed.is_ready()
    }

    pub fn drops(&mut self, side: usize) {
        self.peers[side].drop_stream();
        self.run(side);
    }

    /// Reads as far as possible; returns all that was read so far.
    pub fn reads(&mut self, side: usize) -> Read {
        while self.peers[side].read() {
            self.run(side);
        }
        self.peers[side].read.clone()
    }

    // ---- What peers do --------------------------------------------------------------------------

    /// Opens the next leg and sends `Migrate` on it.
    pub fn starts(&mut self, side: usize, leg: u8) {
        assert_eq!(self.wires.len(), usize::from(leg), "legs are used in order");
        let kind = self.legs[usize::from(leg)];
        let (one, other, wire) = Wire::new(kind);
        self.wires.push(wire);
        let (ours, theirs) = match side {
            A => (one, other),
            _ => (other, one),
        };
        self.peers[side].start(Leg::new(ours, key(leg), kind.into()));
        self.run(side);
        self.peers[1 - side].accept(theirs, key(leg));
        self.run(1 - side);
    }

    /// What the policy was asked last, and has not answered.
    pub fn question(&self, side: usize) -> Question {
        let asked = self.peers[side].asked;
        asked.unwrap_or_else(|| panic!("{}'s policy was not asked", name(side)))
    }

    pub fn says(&mut self, side: usize, question: Question, verdict: Verdict) {
        self.peers[side].asked.take_if(|asked| *asked == question);
        self.peers[side].shared.verdict(question, verdict);
        self.run(side);
    }

    pub fn accepts(&mut self, side: usize) {
        self.says(side, self.question(side), Verdict::Accept);
    }

    pub fn denies(&mut self, side: usize) {
        self.says(side, self.question(side), Verdict::Deny);
    }

    /// Rule 5 is removed: a `Migrate` for a stream that has ended is dropped unanswered.
    pub fn forgets_what_has_ended(&mut self, side: usize) {
        self.peers[side].denies_ended = false;
    }

    /// The wait for an answer is over.
    pub fn times_out(&mut self, side: usize) {
        let timers = sleep::wake(Peer::timeouts(side).answer);
        assert_eq!(timers, 1, "{} waits for an answer", name(side));
        self.run(side);
    }

    /// Lets a side act on what it can see by now, without anything new.
    pub fn run(&mut self, side: usize) {
        self.peers[side].run(&self.legs);
    }

    // ---- What the network does ------------------------------------------------------------------

    fn items(&self, what: &[What]) -> Vec<Item> {
        let verify = self.verify;
        let message = |bytes: &[u8]| bytes.iter().copied().map(Item::Byte).collect::<Vec<_>>();
        fn framed(message: &impl Message) -> Vec<u8> {
            frame(message).to_vec()
        }
        let items = what.iter().flat_map(|what| match *what {
            What::Data(data) => message(data.as_bytes()),
            What::Migrate { id, from } => message(&framed(&Request::Migrate {
                id: StreamId(id),
                from: StreamId(from),
                verify,
            })),
            What::Ack => message(&framed(&Ack {
                deny: false,
                verify,
            })),
            What::Deny => message(&framed(&Ack {
                deny: true,
                verify: false,
            })),
            What::Switched(n) => message(&framed(&Switched::Sent(n))),
            What::Cancelled => message(&framed(&Switched::Cancelled)),
            What::Fin => vec![Item::Fin],
            What::Rst => vec![Item::Reset],
        });
        items.collect()
    }

    /// The end that an object's drop puts on a leg whose write side is open.
    pub fn drop_on(&self, leg: u8) -> What {
        match self.legs[usize::from(leg)] {
            Kind::Yamux => What::Rst,
            Kind::Quic => What::Fin,
        }
    }

    /// This, and nothing else, is in flight on this leg, from this side.
    #[track_caller]
    pub fn in_flight(&self, leg: u8, from: usize, what: &[What]) {
        assert_eq!(
            self.wires[usize::from(leg)].peek(from),
            self.items(what),
            "in flight on L{leg} from {}: {what:?}",
            name(from)
        );
    }

    /// This, which is what is in flight there first, arrives.
    #[track_caller]
    pub fn cross(&mut self, leg: u8, from: usize, what: &[What]) {
        let items = self.items(what);
        let wire = &self.wires[usize::from(leg)];
        let flight = wire.peek(from);
        assert!(
            flight.starts_with(&items),
            "on L{leg} from {}: {what:?} of {flight:?}",
            name(from)
        );
        wire.deliver(from, items.len(), false);
        self.run(1 - from);
    }

    /// A reset arrives, and what it has overtaken never does.
    #[track_caller]
    pub fn overtakes(&mut self, leg: u8, from: usize) {
        let wire = &self.wires[usize::from(leg)];
        assert_eq!(wire.peek(from).last(), Some(&Item::Reset));
        assert_eq!(wire.deliver(from, 1, true), 1);
        self.run(1 - from);
    }

    /// The connection is lost with what is in flight on it. Neither side has looked yet:
    /// [`Self::run`].
    pub fn lose(&mut self, leg: u8) {
        self.wires[usize::from(leg)].kill();
    }

    /// Closing this side's end of the leg takes time, or no longer.
    pub fn stall(&mut self, leg: u8, side: usize, stalled: bool) {
        self.wires[usize::from(leg)].stall(side, stalled);
        self.run(side);
    }

    /// All that is in flight arrives, and all that comes of it, until nothing more does.
    pub fn all_arrives(&mut self) {
        while self.wires.iter().any(|wire| wire.in_flight() > 0) {
            for wire in self.wires.clone() {
                for from in [A, B] {
                    wire.deliver(from, usize::MAX, false);
                    self.run(1 - from);
                }
            }
        }
    }

    // ---- What can be seen -----------------------------------------------------------------------

    pub fn status(&self, side: usize) -> Status {
        self.peers[side].shared.status()
    }

    pub fn in_doubt(&self, side: usize) -> bool {
        self.status(side).in_doubt
    }

    pub fn asked(&self, side: usize) -> bool {
        self.peers[side].asked.is_some()
    }

    pub fn notes(&self, side: usize) -> &[Note] {
        &self.peers[side].notes
    }

    /// How attempts have failed: what came of them, and whose they were.
    pub fn failures(&self, side: usize) -> Vec<(Failure, bool)> {
        let notes = self.notes(side).iter();
        notes
            .filter_map(|note| match note {
                Note::Failed {
                    failure, initiator, ..
                } => Some((*failure, initiator.is_local())),
                _ => None,
            })
            .collect()
    }

    /// How many migrations are complete.
    pub fn completed(&self, side: usize) -> usize {
        let completed = |note: &&Note| matches!(note, Note::Completed(_));
        self.notes(side).iter().filter(completed).count()
    }

    /// Whether this side has an unanswered `Migrate` to this ID, about which nobody has been asked.
    pub fn holds(&self, side: usize, id: u64) -> bool {
        let ids = self.peers[side].shared.ids();
        self.peers[side].asked.is_none() && ids.contains(&StreamId(id))
    }
}

pub fn read(what: &str, end: End) -> Read {
    (what.to_owned(), end)
}
