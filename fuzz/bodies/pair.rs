//! Two machines, connected by legs that lose nothing, in any order of events.
//!
//! `tests/model` visits every state of a few events; this goes on for longer, along one path.

use std::collections::VecDeque;

use super::Source;
use crate::machine::{
    Abort, Eof, Input, Machine, Output, Proof, Question, ReadFrom, Setup, Slot, Speech, StreamId,
    Verdict, WriteTo,
};

const SLOTS: [Slot; 4] = [Slot::Current, Slot::Ours, Slot::Theirs, Slot::New];
const MAX_OPERATIONS: usize = 2048;

/// The first byte is the setup, and whether things may go wrong; the rest are events.
pub(crate) fn pair(data: &[u8]) {
    let mut source = Source(data);
    let flags = source.byte();
    let mut pair = Pair::new(flags);
    for _ in 0..MAX_OPERATIONS {
        if source.is_empty() {
            break;
        }
        pair.operate(source.byte(), flags & 0x10 != 0);
    }
    pair.settle();
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Item {
    /// So many bytes from this position on.
    Data {
        position: u64,
        n: u64,
    },
    Ack {
        deny: bool,
        verify: bool,
    },
    Switched(u64),
    Cancelled,
    Fin,
    Reset,
}

#[derive(Debug, Clone, Copy)]
struct Migrate {
    leg: usize,
    id: StreamId,
    from: StreamId,
    verify: bool,
}

/// One substream, both ends.
#[derive(Debug)]
struct Link {
    /// By writer.
    pipes: [VecDeque<Item>; 2],
    held: [bool; 2],
    closing: [bool; 2],
    finished: [bool; 2],
}

impl Link {
    fn new() -> Self {
        Self {
            pipes: [VecDeque::new(), VecDeque::new()],
            held: [true; 2],
            closing: [false; 2],
            finished: [false; 2],
        }
    }

    fn write(&mut self, side: usize, item: Item) {
        assert!(!self.finished[side], "{item:?} after the end");
        self.finished[side] = matches!(item, Item::Fin | Item::Reset);
        if self.held[1 - side] {
            self.pipes[side].push_back(item);
        }
    }

    /// What was written still arrives; then, unless the end was written, a reset.
    fn drop_by(&mut self, side: usize) {
        self.held[side] = false;
        self.pipes[1 - side].clear();
        if !self.finished[side] {
            self.write(side, Item::Reset);
        }
    }
}

struct Side {
    machine: Machine,
    slots: [Option<usize>; 4],
    asked: Option<Question>,
    ack: Option<bool>,
    timer: bool,
    closed: bool,
    close_reported: bool,
    dropped: bool,
    /// `Migrate`s on their way here, each on a connection of its own.
    incoming: Vec<Migrate>,
}

struct Pair {
    sides: [Side; 2],
    links: Vec<Link>,
    next_id: u64,
    /// Something happened after which not every migration has to succeed.
    failing: bool,
}

impl Pair {
    fn new(flags: u8) -> Self {
        let verify = [flags & 1 != 0, flags & 2 != 0];
        let known = [flags & 4 != 0, flags & 8 != 0];
        let sides = [0, 1].map(|side| Side {
            machine: Machine::new(
                StreamId(0),
                Setup {
                    designated: side == 0,
                    verify: verify[side],
                    peer_verifies: known[side] && verify[1 - side],
                    speech: Speech::No,
                    opener: side == 0,
                    keeps: false,
                },
            ),
            slots: [Some(0), None, None, None],
            asked: None,
            ack: None,
            timer: false,
            closed: false,
            close_reported: false,
            dropped: false,
            incoming: Vec::new(),
        });
        Self {
            sides,
            links: vec![Link::new()],
            next_id: 1,
            failing: false,
        }
    }

    fn link(&mut self, side: usize, slot: Slot) -> Option<&mut Link> {
        self.sides[side].slots[slot as usize].map(|leg| &mut self.links[leg])
    }

    fn operate(&mut self, operation: u8, may_fail: bool) {
        let side = usize::from(operation >> 7);
        let slot = SLOTS[usize::from(operation >> 4 & 3)];
        match operation & 0xf {
            0..3 => self.write(side, u64::from(operation & 0x33)),
            3..8 => drop(self.read(side, slot)),
            8 => self.start(side),
            9 => drop(self.arrive(side, usize::from(operation >> 4 & 7))),
            10 => drop(self.answer(side, Verdict::Accept)),
            11 => drop(self.write_ack(side)),
            12 => drop(self.flush(side, slot)),
            13 if operation & 0x30 == 0 => self.close(side),
            14 if may_fail => self.fail(side, operation >> 4 & 7),
            _ => {}
        }
    }

    fn fail(&mut self, side: usize, how: u8) {
        self.failing = true;
        match how {
            0..3 if self.sides[side].timer => self.input(side, Input::Timeout),
            3 => drop(self.answer(side, Verdict::Deny)),
            4 => drop(self.answer(side, Verdict::NotNow)),
            5 if !self.sides[side].dropped => {
                self.sides[side].dropped = true;
                let closed = self.sides[side].close_reported;
                let dropped = Input::Dropped {
                    closed,
                    answered: true,
                };
                self.input(side, dropped);
            }
            _ => {}
        }
    }

    fn write(&mut self, side: usize, n: u64) {
        let peer = &mut self.sides[side];
        if peer.dropped || peer.closed || n == 0 {
            return;
        }
        if let WriteTo::Leg(slot) = peer.machine.write_to() {
            let position = peer.machine.counts().0;
            peer.machine.wrote(n);
            let link = self.link(side, slot).expect("bytes go to a leg");
            link.write(side, Item::Data { position, n });
        }
    }

    fn close(&mut self, side: usize) {
        if !self.sides[side].closed && !self.sides[side].dropped {
            self.sides[side].closed = true;
            self.input(side, Input::CloseWrite);
        }
    }

    fn start(&mut self, side: usize) {
        if self.sides[side].machine.may_start().is_err() {
            return;
        }
        self.links.push(Link::new());
        self.sides[side].slots[Slot::Ours as usize] = Some(self.links.len() - 1);
        self.next_id += 1;
        let id = StreamId(self.next_id);
        self.input(side, Input::Start { id });
    }

    /// A `Migrate` arrives: connections have no order between them.
    fn arrive(&mut self, side: usize, nth: usize) -> bool {
        let peer = &mut self.sides[side];
        if peer.incoming.is_empty() {
            return false;
        }
        let nth = nth % peer.incoming.len();
        let Migrate {
            leg,
            id,
            from,
            verify,
        } = peer.incoming.remove(nth);
        match peer.machine.over() {
            Some(Ok(())) => {
                // *Overtaking*: a stream that has ended cleanly.
                let (deny, verify) = (true, false);
                self.links[leg].write(side, Item::Ack { deny, verify });
                self.links[leg].write(side, Item::Fin);
                self.links[leg].drop_by(side);
            }
            Some(Err(_)) => self.links[leg].drop_by(side),
            // An older one, overtaken by its successor.
            None if !peer.machine.replaces_theirs(from) => self.links[leg].drop_by(side),
            None => {
                peer.asked = None;
                self.forget(side, Slot::Theirs);
                self.sides[side].slots[Slot::Theirs as usize] = Some(leg);
                self.input(side, Input::Migrate { id, from, verify });
            }
        }
        true
    }

    fn answer(&mut self, side: usize, verdict: Verdict) -> bool {
        let asked = self.sides[side].asked.take();
        if let Some(question) = asked {
            self.input(side, Input::Verdict(question, verdict));
        }
        asked.is_some()
    }

    fn write_ack(&mut self, side: usize) -> bool {
        let Some(verify) = self.sides[side].ack.take() else {
            return false;
        };
        let link = self.link(side, Slot::New).expect("an ack has a leg");
        let deny = false;
        link.write(side, Item::Ack { deny, verify });
        self.input(side, Input::AnswerWritten);
        true
    }

    fn flush(&mut self, side: usize, slot: Slot) -> bool {
        let Some(link) = self.link(side, slot) else {
            return false;
        };
        if !link.closing[side] || link.finished[side] {
            return false;
        }
        link.write(side, Item::Fin);
        let machine = &self.sides[side].machine;
        let reported = self.sides[side].closed && slot == machine.closes();
        self.sides[side].close_reported |= reported;
        self.input(side, Input::Closed(slot));
        true
    }

    /// Reads one thing, if anybody would.
    fn read(&mut self, side: usize, slot: Slot) -> bool {
        let machine = &self.sides[side].machine;
        let data = machine.read_from() == ReadFrom::Leg(slot);
        let checked = machine.check() == Some(slot);
        let message = match slot {
            Slot::Current => false,
            Slot::Ours => machine.awaits_answer(),
            Slot::Theirs => true,
            Slot::New => machine.awaits_count(),
        };
        let closed = match slot {
            Slot::Current => machine.has_closed_current(),
            _ => machine.has_closed_new(),
        };
        let asks = !closed && machine.needs_proof();
        if !data && !checked && !message {
            return false;
        }
        let Some(link) = self.link(side, slot) else {
            return false;
        };
        let proof = match link.held[1 - side] {
            _ if !asks => Proof::Unavailable,
            true => Proof::Agrees,
            false => Proof::Disagrees,
        };
        let Some(item) = link.pipes[1 - side].pop_front() else {
            return false;
        };
        match item {
            Item::Data { position, n } => {
                assert!(data && !message, "data in {slot:?}, which has ended");
                let machine = &mut self.sides[side].machine;
                assert_eq!(position, machine.counts().1, "lost, repeated or reordered");
                machine.read(n);
                if machine.has_read_all() {
                    self.input(side, Input::ReadAll);
                }
            }
            Item::Fin if message => self.input(side, Input::ReadFailed(slot)),
            Item::Fin => self.input(side, Input::End(slot, Eof::new(proof, false))),
            Item::Reset => self.input(side, Input::ReadFailed(slot)),
            Item::Ack { deny, verify } if message => {
                self.input(side, Input::Answered { deny, verify })
            }
            Item::Switched(sent) if message => self.input(side, Input::Switched(sent)),
            Item::Cancelled if message => self.input(side, Input::Cancelled(slot)),
            _ => panic!("{item:?} among the stream's bytes"),
        }
        true
    }

    fn input(&mut self, side: usize, input: Input) {
        let had_ended = self.sides[side].machine.read_from() == ReadFrom::Ended;
        self.sides[side].machine.handle(input);
        while let Some(output) = self.sides[side].machine.poll_output() {
            self.carry_out(side, output);
        }
        let [this, other] = [&self.sides[side], &self.sides[1 - side]];
        if !had_ended && this.machine.read_from() == ReadFrom::Ended && !this.dropped {
            let (read, written) = (this.machine.counts().1, other.machine.counts().0);
            assert!(other.closed, "a clean end, though nobody closed: {input:?}");
            assert_eq!(read, written, "cut, and a clean end: {input:?}");
        }
        if let Some(Err(abort)) = this.machine.over() {
            assert_ne!(
                abort,
                Abort::Violation,
                "an honest peer is blamed: {input:?}"
            );
            assert!(self.failing, "{abort:?}, though nothing failed: {input:?}");
        }
    }

    fn forget(&mut self, side: usize, slot: Slot) {
        if let Some(leg) = self.sides[side].slots[slot as usize].take() {
            self.links[leg].drop_by(side);
        }
    }

    fn rename(&mut self, side: usize, from: Slot, to: Slot) {
        let leg = self.sides[side].slots[from as usize].take();
        assert!(leg.is_some(), "no leg in {from:?}");
        let replaced = std::mem::replace(&mut self.sides[side].slots[to as usize], leg);
        assert_eq!(replaced, None, "{to:?} is taken");
    }

    /// The leg says a last word.
    fn farewell(&mut self, side: usize, slot: Slot, item: Item) {
        let link = self.link(side, slot).expect("a farewell has a leg");
        link.write(side, item);
        link.write(side, Item::Fin);
        self.forget(side, slot);
    }

    fn carry_out(&mut self, side: usize, output: Output) {
        match output {
            Output::SendMigrate { id, from, verify } => {
                let leg = self.sides[side].slots[Slot::Ours as usize].expect("a leg is ready");
                self.sides[1 - side].incoming.push(Migrate {
                    leg,
                    id,
                    from,
                    verify,
                });
            }
            Output::Ask(question) => self.sides[side].asked = Some(question),
            Output::Accept { verify } => {
                self.rename(side, Slot::Theirs, Slot::New);
                self.sides[side].asked = None;
                self.sides[side].ack = Some(verify);
            }
            Output::Deny => {
                self.sides[side].asked = None;
                let (deny, verify) = (true, false);
                self.farewell(side, Slot::Theirs, Item::Ack { deny, verify });
            }
            Output::Cancel => self.farewell(side, Slot::Ours, Item::Cancelled),
            Output::Drop(slot) => {
                match slot {
                    Slot::Theirs => self.sides[side].asked = None,
                    Slot::New => self.sides[side].ack = None,
                    _ => {}
                }
                self.forget(side, slot);
            }
            Output::Agreed { initiator, .. } => {
                if initiator {
                    self.rename(side, Slot::Ours, Slot::New);
                }
            }
            Output::SendSwitched(sent) => {
                let link = self.link(side, Slot::New).expect("a count has a leg");
                link.write(side, Item::Switched(sent));
            }
            Output::Close(slot) => {
                let link = self.link(side, slot).expect("a leg to close");
                assert!(
                    !std::mem::replace(&mut link.closing[side], true),
                    "closed twice"
                );
            }
            Output::Complete { .. } => {
                self.forget(side, Slot::Current);
                self.rename(side, Slot::New, Slot::Current);
            }
            Output::Arm(_) => self.sides[side].timer = true,
            Output::Disarm => self.sides[side].timer = false,
            Output::Suspend | Output::SendResume { .. } | Output::Resume { .. } => {
                unreachable!("nobody keeps anything here")
            }
            Output::Say | Output::Failed(_) | Output::TheirsFailed(_) | Output::Probe(_) => {}
            Output::Abort(_) | Output::Leave | Output::Finish => {
                for slot in SLOTS {
                    self.forget(side, slot);
                }
                let peer = &mut self.sides[side];
                (peer.asked, peer.ack) = (None, None);
            }
        }
    }

    /// Everything that is under way happens.
    fn settle(&mut self) {
        while [0, 1].into_iter().any(|side| {
            SLOTS
                .iter()
                .any(|slot| self.read(side, *slot) || self.flush(side, *slot))
                || self.arrive(side, 0)
                || self.answer(side, Verdict::Accept)
                || self.write_ack(side)
        }) {}
        if self.failing {
            return;
        }
        let [a, b] = [&self.sides[0], &self.sides[1]];
        for (this, other) in [(a, b), (b, a)] {
            let machine = &this.machine;
            assert!(
                !machine.is_migrating(),
                "a migration never completes: {machine:?}"
            );
            assert_eq!(machine.over(), None);
            assert_eq!(
                machine.counts().1,
                other.machine.counts().0,
                "bytes never come"
            );
            assert_eq!(machine.read_from() == ReadFrom::Ended, other.closed);
            let left = &this.slots[1..];
            assert_eq!(left, [None; 3], "a leg is left over: {machine:?}");
        }
        // A migration may begin with the stream's last bytes; who has ended by then need not know.
        assert_eq!(a.machine.id(), b.machine.id());
        assert_eq!(a.slots[0], b.slots[0]);
    }
}
