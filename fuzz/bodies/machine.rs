//! The machine, and whatever may be said to it, in any order.

use super::Source;
use crate::machine::{
    Eof, Facts, Input, Machine, Output, Proof, Question, ReadFrom, Setup, Slot, Speech, StreamId,
    Timer, Verdict, WriteTo,
};

const SLOTS: [Slot; 4] = [Slot::Current, Slot::Ours, Slot::Theirs, Slot::New];

/// More than enough for a few migrations; a longer list would only be slower.
const MAX_OPERATIONS: usize = 512;

/// The first byte is the setup, and whether only such inputs come as the I/O around the machine
/// gives; the rest are operations.
pub(crate) fn machine(data: &[u8]) {
    let mut source = Source(data);
    let flags = source.byte();
    let setup = Setup {
        designated: flags & 1 != 0,
        verify: flags & 2 != 0,
        peer_verifies: flags & 4 != 0,
        speech: match flags >> 4 & 3 {
            0 if flags & 128 != 0 => Speech::Resumes,
            0 => Speech::Yes,
            1 => Speech::Asked,
            _ => Speech::No,
        },
        opener: flags & 64 != 0,
        keeps: flags & 128 != 0,
    };
    let mut driver = Driver::new(setup, flags & 8 != 0);
    for _ in 0..MAX_OPERATIONS {
        if source.is_empty() {
            break;
        }
        driver.operate(&mut source);
    }
    driver.end();
}

#[derive(Debug, Clone, Copy, Default)]
struct Leg {
    /// `Close` was put out.
    closing: bool,
    /// The closing was reported as done.
    closed: bool,
    /// Its end, or a failure, was read.
    ended: bool,
    /// Our count was put out.
    counted: bool,
}

/// The I/O around a machine, as far as the machine can tell.
struct Driver {
    machine: Machine,
    /// Only what the I/O may say is said. Otherwise anything is, as a hostile peer, a late timer or
    /// a mistake of ours might have it.
    strict: bool,
    legs: [Option<Leg>; 4],
    timer: Option<Timer>,
    asked: Option<Question>,
    probing: [bool; 4],
    /// Whether the migration that is agreed is verified.
    verified: bool,
    over: bool,
    detached: bool,
    close_reported: bool,
    next_id: u64,
}

impl Driver {
    fn new(setup: Setup, strict: bool) -> Self {
        Self {
            machine: Machine::new(StreamId(0), setup),
            strict,
            legs: [Some(Leg::default()), None, None, None],
            timer: None,
            asked: None,
            probing: [false; 4],
            verified: false,
            over: false,
            detached: false,
            close_reported: false,
            next_id: 1,
        }
    }

    fn leg(&mut self, slot: Slot) -> &mut Option<Leg> {
        &mut self.legs[slot as usize]
    }

    fn operate(&mut self, source: &mut Source<'_>) {
        let operation = source.byte();
        if operation & 0xf == 0xf {
            return self.move_data(source);
        }
        let input = self.input(operation, source);
        if self.strict && !self.makes_sense(input) {
            return;
        }
        match input {
            Input::Start { .. } => {
                self.leg(Slot::Ours).get_or_insert_default();
            }
            Input::Migrate { .. } | Input::Resume { .. } => {
                // The one that was there has been dropped, and the question about it with it.
                *self.leg(Slot::Theirs) = Some(Leg::default());
                self.asked = None;
            }
            Input::Verdict(..) => self.asked = None,
            Input::End(slot, _) | Input::ReadFailed(slot) => {
                if let Some(leg) = self.leg(slot) {
                    leg.ended = true;
                }
            }
            Input::Closed(slot) => {
                self.close_reported |= slot == self.machine.closes();
                if let Some(leg) = self.leg(slot) {
                    leg.closed = true;
                }
            }
            Input::ProbeFailed(slot) => self.probing[slot as usize] = false,
            Input::ProbeAnswered => self.probing = [false; 4],
            _ => {}
        }
        self.handle(input);
    }

    fn move_data(&mut self, source: &mut Source<'_>) {
        let before = self.machine.counts();
        let n = source.number();
        if n & 1 == 0 {
            if let WriteTo::Leg(_) = self.machine.write_to() {
                self.machine.wrote(n >> 1);
            }
        } else if let ReadFrom::Leg(_) = self.machine.read_from() {
            self.machine.read(n >> 1);
            if self.machine.has_read_all() {
                self.handle(Input::ReadAll);
            }
        }
        let after = self.machine.counts();
        assert!(before.0 <= after.0 && before.1 <= after.1);
    }

    fn input(&mut self, operation: u8, source: &mut Source<'_>) -> Input {
        let slot = SLOTS[usize::from(operation >> 4 & 3)];
        let [one, other] = [operation & 0x40 != 0, operation & 0x80 != 0];
        match operation & 0xf {
            0 => Input::Start {
                id: self.id(source),
            },
            1 => Input::Answered {
                deny: one && operation & 0x30 == 0,
                verify: other,
            },
            2 => {
                let (id, from) = (self.id(source), self.known_id(source));
                let verify = one;
                Input::Migrate { id, from, verify }
            }
            3 if operation & 0x30 == 0x30 => Input::HeldTooLong,
            3 => Input::Verdict(
                self.asked.unwrap_or(Question(0)),
                match operation >> 4 {
                    0 => Verdict::Deny,
                    1 => Verdict::NotNow,
                    _ => Verdict::Accept,
                },
            ),
            4 => Input::AnswerWritten,
            5 => Input::Switched(match operation >> 6 {
                0 => source.number(),
                _ => self.machine.counts().1,
            }),
            6 if one && other => Input::Speaks(match operation & 0x30 {
                0 => Speech::Resumes,
                0x10 => Speech::Yes,
                _ => Speech::No,
            }),
            6 if one => Input::Said(self.facts(operation, source)),
            6 => Input::Cancelled(slot),
            7 | 8 => {
                let proof = match operation >> 6 {
                    0 => Proof::Disagrees,
                    1 => Proof::Unavailable,
                    _ => Proof::Agrees,
                };
                Input::End(slot, Eof::new(proof, operation & 0xf == 7))
            }
            9 => match operation >> 6 {
                0 => Input::ReadFailed(slot),
                1 => Input::WriteFailed(slot),
                2 => Input::Unexpected(slot),
                _ => Input::ProbeFailed(slot),
            },
            10 => Input::Closed(slot),
            11 => Input::CloseWrite,
            12 => Input::Dropped {
                closed: match self.strict {
                    true => self.close_reported,
                    false => one,
                },
                answered: operation & 0x80 == 0,
            },
            13 => Input::Timeout,
            14 => Input::ReadAll,
            _ if !one => Input::ProbeAnswered,
            _ => match operation >> 4 & 3 {
                0 => Input::Lost(SLOTS[usize::from(source.byte() & 3)]),
                1 => Input::Resume {
                    id: self.id(source),
                    generation: source.number(),
                    facts: self.facts(operation, source),
                },
                2 => Input::Resumed(self.facts(operation, source)),
                _ => Input::Replayed,
            },
        }
    }

    /// A word that may be true.
    fn facts(&self, operation: u8, source: &mut Source<'_>) -> Facts {
        let (sent, received) = self.machine.counts();
        let flags = source.byte();
        let mut number = |is: u64, bit: u8| match flags & bit {
            0 => is,
            _ => source.number(),
        };
        Facts {
            received: number(sent, 1),
            done: flags & 2 != 0,
            total: (flags & 4 != 0).then(|| number(received, 8)),
            lost: (operation & 0x40 != 0).then(|| number(1, 64)),
            gone: operation & 0x20 != 0,
            sent: (flags & 16 != 0).then(|| number(received, 32)),
        }
    }

    /// An ID that may be any; if the I/O makes sense, nobody has it.
    fn id(&mut self, source: &mut Source<'_>) -> StreamId {
        if !self.strict {
            return StreamId(source.number());
        }
        self.next_id += 1;
        StreamId(self.next_id)
    }

    /// One to which the stream answers, mostly.
    fn known_id(&self, source: &mut Source<'_>) -> StreamId {
        let number = source.number();
        let nth = usize::try_from(number >> 1).unwrap_or(usize::MAX);
        let known = self.machine.ids().nth(nth);
        known.unwrap_or(StreamId(number))
    }

    /// Whether the I/O can say this now: see `src/stream/pump.rs`.
    fn makes_sense(&mut self, input: Input) -> bool {
        if self.over {
            return matches!(input, Input::Migrate { .. } | Input::Resume { .. });
        }
        let machine = &self.machine;
        let is_read = |slot: Slot| {
            machine.read_from() == ReadFrom::Leg(slot)
                || machine.check() == Some(slot)
                || slot == Slot::New && machine.awaits_count()
        };
        let leg = |slot: Slot| self.legs[slot as usize];
        match input {
            Input::Start { .. } => machine.may_start().is_ok() || machine.wants_leg(),
            Input::Answered { .. } => machine.awaits_answer() && !machine.is_legless(),
            Input::Migrate { from, .. } => machine.replaces_theirs(from),
            Input::Verdict(question, _) => self.asked == Some(question),
            Input::HeldTooLong => machine.holds_theirs(),
            Input::AnswerWritten => machine.awaits_ack_written(),
            Input::Switched(_) | Input::Cancelled(Slot::New) => machine.awaits_count(),
            Input::ReadAll => machine.has_read_all(),
            Input::Cancelled(slot) => slot == Slot::Theirs && leg(slot).is_some(),
            Input::End(slot, _) => matches!(slot, Slot::Current | Slot::New) && is_read(slot),
            Input::ReadFailed(slot) | Input::Unexpected(slot) => match slot {
                Slot::Current | Slot::New => is_read(slot),
                Slot::Ours | Slot::Theirs => leg(slot).is_some(),
            },
            Input::WriteFailed(slot) => leg(slot).is_some_and(|leg| !leg.closed),
            Input::Closed(slot) => leg(slot).is_some_and(|leg| leg.closing && !leg.closed),
            Input::CloseWrite | Input::Dropped { .. } => !self.detached,
            Input::Timeout => self.timer.is_some(),
            Input::Speaks(_) | Input::Said(_) => true,
            Input::Lost(slot) => leg(slot).is_some(),
            Input::Resume { generation, .. } => machine.admits(generation),
            Input::Resumed(_) => machine.awaits_answer() && machine.is_legless(),
            Input::Replayed => machine.is_replaying(),
            Input::ProbeAnswered => self.probing.contains(&true),
            Input::ProbeFailed(slot) => self.probing[slot as usize] && leg(slot).is_some(),
        }
    }

    fn handle(&mut self, input: Input) {
        let before = self.machine.clone();
        let mut twin = before.clone();
        self.machine.handle(input);
        twin.handle(input);
        // `Eq`, by which the model tells states apart, sees all of it.
        assert_eq!(self.machine, twin);

        let mut outputs = Vec::new();
        while let Some(output) = self.machine.poll_output() {
            outputs.push(output);
        }
        if self.over {
            let refused = matches!(input, Input::Migrate { .. } | Input::Resume { .. });
            let expected = if refused {
                &[Output::Drop(Slot::Theirs)][..]
            } else {
                &[]
            };
            assert_eq!(outputs, expected);
        }
        assert_eq!(before.counts(), self.machine.counts());
        self.detached |= matches!(input, Input::Dropped { .. });
        for output in outputs {
            if !matches!(output, Output::Drop(Slot::Theirs)) {
                assert!(!self.over, "{output:?} after the end");
            }
            self.carry_out(output);
        }
        assert_eq!(self.over, self.machine.over().is_some());
        self.check(&before, input);
    }

    fn carry_out(&mut self, output: Output) {
        let strict = self.strict;
        match output {
            Output::SendMigrate { from, .. } => {
                assert_eq!(from, self.machine.id());
                assert!(self.leg(Slot::Ours).is_some());
            }
            Output::Ask(question) => {
                assert!(!strict || self.asked.is_none());
                self.asked = Some(question);
            }
            Output::Accept { .. } => {
                self.asked = None;
                self.rename(Slot::Theirs, Slot::New);
            }
            Output::Deny => {
                self.asked = None;
                self.take(Slot::Theirs);
            }
            Output::Cancel => self.take(Slot::Ours),
            Output::Drop(slot) => {
                self.asked.take_if(|_| slot == Slot::Theirs);
                self.take(slot);
            }
            Output::Agreed { verify, initiator } => {
                self.verified = verify;
                if initiator {
                    self.rename(Slot::Ours, Slot::New);
                }
            }
            Output::SendSwitched(sent) => {
                assert!(self.verified);
                assert_eq!(sent, self.machine.counts().0);
                let leg = self.existing(Slot::New);
                assert!(!leg.counted && !leg.closing);
                leg.counted = true;
            }
            Output::Close(slot) => {
                let uncounted = slot == Slot::New && self.verified;
                let leg = self.existing(slot);
                assert!(!leg.closing, "{slot:?} is closed twice");
                assert!(leg.counted || !uncounted, "the end comes before the count");
                leg.closing = true;
            }
            Output::Complete { .. } => {
                self.take(Slot::Current);
                self.rename(Slot::New, Slot::Current);
                self.probing = [false; 4];
            }
            Output::Arm(timer) => self.timer = Some(timer),
            Output::Disarm => self.timer = None,
            Output::Probe(slot) => self.probing[slot as usize] = true,
            Output::Suspend => {
                for slot in [Slot::Current, Slot::Ours, Slot::New] {
                    *self.leg(slot) = None;
                }
                self.probing = [false; 4];
            }
            Output::SendResume { .. } => assert!(self.leg(Slot::Ours).is_some()),
            Output::Resume { slot, .. } => self.rename(slot, Slot::Current),
            Output::Say | Output::Failed(_) | Output::TheirsFailed(_) => {}
            Output::Abort(_) | Output::Leave | Output::Finish => {
                self.over = true;
                self.asked = None;
                self.legs = [None; 4];
            }
        }
    }

    /// The leg in a slot, which is there, if what was said made sense.
    fn existing(&mut self, slot: Slot) -> &mut Leg {
        let strict = self.strict;
        let leg = self.leg(slot);
        assert!(leg.is_some() || !strict, "no leg in {slot:?}");
        leg.get_or_insert_default()
    }

    fn take(&mut self, slot: Slot) {
        let over = self.over;
        let leg = self.leg(slot).take();
        assert!(leg.is_some() || !self.strict || over, "no leg in {slot:?}");
    }

    fn rename(&mut self, from: Slot, to: Slot) {
        let leg = *self.existing(from);
        *self.leg(from) = None;
        let replaced = self.leg(to).replace(leg);
        assert!(replaced.is_none() || !self.strict, "{to:?} is taken");
    }

    /// What holds after every input.
    fn check(&self, before: &Machine, input: Input) {
        let machine = &self.machine;
        assert!(machine.ids().any(|id| id == machine.id()));
        match (before.read_from(), machine.read_from()) {
            (ReadFrom::Ended, now) => assert_eq!(now, ReadFrom::Ended),
            (ReadFrom::Aborted(abort), now) => assert_eq!(now, ReadFrom::Aborted(abort)),
            _ => {}
        }
        let failing = matches!(
            before.write_to(),
            WriteTo::Aborted(_) | WriteTo::Closed | WriteTo::Failed
        );
        assert!(!failing || !matches!(machine.write_to(), WriteTo::Leg(_)));
        if self.over {
            assert_eq!(self.timer, None, "a timer outlives the stream");
            return;
        }
        // Whoever waits for a remote does so for a bounded time.
        let waits_for_answer = machine.awaits_answer() || machine.awaits_ack_written();
        if machine.is_legless() {
            assert_eq!(self.timer, Some(Timer::Resume), "after {input:?}");
        } else if waits_for_answer {
            assert_eq!(self.timer, Some(Timer::Answer), "after {input:?}");
        } else if machine.is_agreed() || self.detached {
            assert_eq!(self.timer, Some(Timer::Progress), "after {input:?}");
        }
        if !self.strict {
            return;
        }
        if let WriteTo::Leg(slot) = machine.write_to() {
            let leg = self.legs[slot as usize].expect("bytes go to a leg that is there");
            assert!(!leg.closing, "bytes go to {slot:?} after its end");
        }
        let check = machine.check().map(ReadFrom::Leg);
        for from in [Some(machine.read_from()), check] {
            if let Some(ReadFrom::Leg(slot)) = from {
                let leg = self.legs[slot as usize].expect("bytes come from a leg that is there");
                assert!(!leg.ended, "{slot:?} is read after its end");
            }
        }
        assert_eq!(
            self.legs[Slot::New as usize].is_some(),
            machine.is_agreed() || machine.awaits_ack_written(),
        );
        assert_eq!(
            self.legs[Slot::Ours as usize].is_some(),
            machine.awaits_answer()
        );
    }

    /// Whatever has happened, a stream that nobody holds goes away by its timer alone, if nobody is there.
    fn end(&mut self) {
        let closed = self.close_reported;
        self.handle(Input::Dropped {
            closed,
            answered: true,
        });
        for _ in 0..3 {
            if !self.over {
                self.handle(Input::Timeout);
            }
            for slot in SLOTS {
                if std::mem::take(&mut self.probing[slot as usize]) && !self.over {
                    self.handle(Input::ProbeFailed(slot));
                }
            }
        }
        assert!(self.over, "the stream never ends: {:?}", self.machine);
    }
}
