//! The two peers, their connections, and the I/O that carries out what the machines say.

use crate::{
    config::{Acks, Closes, Config, Mutant},
    leg::{Hold, Item, Leg, Write},
    machine::{
        Abort, Facts, Failure, Input, Machine, Output, Question, ReadFrom, Setup, Slot, Speech,
        StreamId, Timer, Verdict,
        rules::{Rule, Rules},
    },
};

pub(crate) const LEGS: usize = 8;
pub(crate) const NOBODY: u8 = u8::MAX;
pub(crate) const SLOTS: [Slot; 4] = [Slot::Current, Slot::Ours, Slot::Theirs, Slot::New];

/// What has been broken, or why a history is no longer free of failures.
pub(crate) type Violation = String;

/// Whether a connection was left by a completed migration, as its initiator sees it (*Pruning*).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Left {
    No,
    /// We initiated, and nothing was read yet on this leg.
    Unheard(u8),
    Heard,
    /// The other side initiated.
    ByOther,
}

/// Whether a cut leg was taken for one that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Cut {
    No,
    /// It is the current leg.
    Current,
    /// It was an earlier one.
    Earlier,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Peer {
    pub(crate) machine: Machine,
    /// The leg in each slot.
    pub(crate) slots: [u8; 4],
    pub(crate) timer: Option<Timer>,
    /// The policy has been asked this.
    pub(crate) asked: Option<Question>,
    /// It was asked this before, about a `Migrate` that is gone, and will yet answer.
    pub(crate) late: Option<Question>,
    /// An accepting ack is to be written.
    pub(crate) ack: Option<bool>,
    /// The slots whose connections are being probed.
    pub(crate) probes: [bool; 4],
    pub(crate) writes: u8,
    pub(crate) starts: u8,
    pub(crate) counter: u8,
    /// The application closed its write side.
    pub(crate) closed: bool,
    pub(crate) close_reported: bool,
    pub(crate) dropped: bool,
    pub(crate) left: [Left; 3],
    /// An unverified yamux leg was cut, and that was taken for its end.
    pub(crate) cut: Cut,
    /// *Doubt*, kept apart from the machine's.
    pub(crate) doubt: bool,
    /// Its word has changed, and is to be said.
    pub(crate) to_say: bool,
    /// Its word, on its way to the other side.
    pub(crate) word: Option<Facts>,
    /// Whether it waits to hear if the other gives its word.
    pub(crate) asking: bool,
    /// The lost connections that it knows of.
    pub(crate) told: [bool; 3],
    /// The byte from which on it has to write again.
    pub(crate) again: Option<u8>,
    /// It keeps nothing before this byte.
    pub(crate) slid: u8,
}

/// How often failures may still happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Budgets {
    pub(crate) losses: u8,
    pub(crate) timeouts: u8,
    pub(crate) denies: u8,
    pub(crate) not_nows: u8,
    pub(crate) drops: u8,
    pub(crate) alarms: u8,
    pub(crate) breaks: u8,
    /// Connections that may yet be dialed.
    pub(crate) dials: u8,
    /// Resumes that were asked for.
    pub(crate) resumes: u64,
    /// A timer has fired because nothing else could happen.
    pub(crate) waited: bool,
    /// An application dropped its stream before it was closed.
    pub(crate) rude: bool,
    /// An abort was excused; what it does to the other side is, too.
    pub(crate) excused: bool,
    /// Something but an end was lost with a connection that went silent.
    pub(crate) lossy: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) peers: [Peer; 2],
    pub(crate) legs: [Leg; LEGS],
    pub(crate) lost: [bool; 3],
    pub(crate) silent: [bool; 3],
    pub(crate) budgets: Budgets,
    /// A clean end that is not one, and is known to be unavoidable. Not part of the state.
    pub(crate) exception: Option<&'static str>,
}

/// What happened on the way, for the reader of a trace.
pub(crate) type Log<'a> = Option<&'a mut Vec<String>>;

pub(crate) fn name(side: usize) -> &'static str {
    ["A", "B"][side]
}

impl World {
    pub(crate) fn new(config: &Config) -> Self {
        let peer = |side: usize| {
            let machine = Machine::new(
                StreamId(0),
                Setup {
                    designated: side == 0,
                    verify: config.verify[side],
                    peer_verifies: config.known[side] && config.verify[1 - side],
                    speech: config.speech[side],
                    opener: side == 0,
                    keeps: config.resume(),
                },
            );
            let without = match config.without {
                Some(Mutant::Machine(rule)) => Some(rule),
                Some(Mutant::OfA(rule)) if side == 0 => Some(rule),
                _ if side == 1 && config.forgetful => Some(Rule::DenyIsForGood),
                _ => None,
            };
            Peer {
                machine: machine.with_rules(Rules::without(without)),
                slots: [0, NOBODY, NOBODY, NOBODY],
                timer: None,
                asked: None,
                late: None,
                ack: None,
                probes: [false; 4],
                writes: config.writes[side],
                starts: config.starts[side],
                counter: 1,
                closed: false,
                close_reported: false,
                dropped: false,
                left: [Left::No; 3],
                cut: Cut::No,
                doubt: false,
                to_say: false,
                word: None,
                asking: config.speech[side] == Speech::Asked,
                told: [false; 3],
                again: None,
                slid: 0,
            }
        };
        let mut legs = [Leg::NONE; LEGS];
        legs[0] = Leg::first(0, config.connections[0]);
        let mut lost = [false; 3];
        let there = config.connections.len() - usize::from(config.dialed);
        lost[there..config.connections.len()].fill(true);
        Self {
            peers: [peer(0), peer(1)],
            legs,
            lost,
            silent: [false; 3],
            budgets: Budgets {
                losses: config.losses,
                timeouts: config.timeouts,
                denies: config.denies,
                not_nows: config.not_nows,
                drops: config.drops,
                alarms: config.alarms,
                breaks: config.breaks,
                dials: config.dialed,
                resumes: 0,
                waited: false,
                rude: false,
                excused: false,
                lossy: false,
            },
            exception: None,
        }
    }

    pub(crate) fn leg_in(&self, side: usize, slot: Slot) -> Option<usize> {
        let leg = self.peers[side].slots[slot as usize];
        (leg != NOBODY).then_some(usize::from(leg))
    }

    pub(crate) fn is_lost(&self, leg: usize) -> bool {
        self.lost[usize::from(self.legs[leg].connection)]
    }

    pub(crate) fn is_silent(&self, leg: usize) -> bool {
        self.silent[usize::from(self.legs[leg].connection)]
    }

    /// Takes a free place; forgotten legs have left theirs.
    pub(crate) fn add_leg(&mut self, leg: Leg) -> u8 {
        let index = self
            .legs
            .iter()
            .position(Leg::is_gone)
            .expect("too many legs");
        self.legs[index] = leg;
        index as u8
    }

    pub(crate) fn write(&mut self, leg: usize, side: usize, item: Item) {
        let lost = self.is_lost(leg);
        let silent = self.is_silent(leg);
        self.legs[leg].write(side, item, lost);
        if silent {
            self.legs[leg].seats[side].void = false;
            self.budgets.lossy |= item != Item::Fin;
        }
    }

    pub(crate) fn drop_leg(&mut self, leg: usize, side: usize) {
        let lost = self.is_lost(leg);
        self.legs[leg].drop_seat(side, lost);
        for slot in &mut self.peers[side].slots {
            if usize::from(*slot) == leg {
                *slot = NOBODY;
            }
        }
        for left in &mut self.peers[side].left {
            if *left == Left::Unheard(leg as u8) {
                *left = Left::No;
            }
        }
        if self.legs[leg].is_gone() {
            self.legs[leg] = Leg::NONE;
        }
    }

    fn drop_slot(&mut self, side: usize, slot: Slot) {
        if let Some(leg) = self.leg_in(side, slot) {
            self.drop_leg(leg, side);
        }
    }

    /// Gives the machine an input, carries out its outputs, and judges what has come of it.
    pub(crate) fn input(
        &mut self,
        config: &Config,
        side: usize,
        input: Input,
        log: &mut Log<'_>,
    ) -> Result<(), Violation> {
        let peer = &mut self.peers[side];
        let ended = peer.machine.read_from() == ReadFrom::Ended;
        let was_over = peer.machine.over().is_some();
        let doubtful = peer.machine.is_in_doubt() || peer.machine.awaits_answer();
        let agreed = peer.machine.is_agreed();
        let legs_lost = [Slot::Current, Slot::New]
            .map(|slot| self.leg_in(side, slot).is_none_or(|leg| self.is_lost(leg)));
        let peer = &mut self.peers[side];
        let close = match input {
            Input::Closed(slot) if peer.closed => slot == peer.machine.closes(),
            _ => false,
        };
        peer.machine.handle(input);
        while let Some(output) = self.peers[side].machine.poll_output() {
            if let Some(log) = log {
                log.push(format!("      {} ← {input:?} → {output:?}", name(side)));
            }
            self.carry_out(config, side, output)?;
        }
        self.peers[side].close_reported |= close || self.closes_without_leg(side);
        let machine = &self.peers[side].machine;
        if !ended && machine.read_from() == ReadFrom::Ended && !self.peers[side].dropped {
            self.judge_end(config, side, input)?;
        }
        if let (false, Some(Err(abort))) = (was_over, self.peers[side].machine.over()) {
            if agreed && legs_lost == [true, false] {
                self.judge_silence(config, side, abort)?;
            }
            self.judge_abort(config, side, abort, doubtful, input)?;
        }
        if config.acks == Acks::AtOnce && self.peers[side].ack.is_some() {
            self.write_ack(side);
            self.input(config, side, Input::AnswerWritten, log)?;
        }
        while config.closing == Closes::AtOnce
            && let Some(slot) = self.closing(side)
        {
            self.flush_close(side, slot);
            self.input(config, side, Input::Closed(slot), log)?;
        }
        Ok(())
    }

    /// The close of a stream is done when all has arrived, too.
    fn closes_without_leg(&self, side: usize) -> bool {
        let machine = &self.peers[side].machine;
        let closed = self.peers[side].closed && machine.over().is_none();
        closed
            && match machine.waits_for_leg() {
                true => machine.is_delivered(),
                false => self.leg_in(side, machine.closes()).is_none(),
            }
    }

    pub(crate) fn write_ack(&mut self, side: usize) {
        let item = match self.peers[side].ack.take() {
            Some(true) => Item::AckVerify,
            Some(false) => Item::Ack,
            None => return,
        };
        if let Some(leg) = self.leg_in(side, Slot::New) {
            self.write(leg, side, item);
        }
    }

    fn closing(&self, side: usize) -> Option<Slot> {
        let closing = |slot: &Slot| {
            let leg = self.leg_in(side, *slot);
            leg.is_some_and(|leg| self.legs[leg].seats[side].write == Write::Closing)
        };
        SLOTS.into_iter().find(closing)
    }

    /// The FIN goes out, unless it is out already.
    pub(crate) fn flush_close(&mut self, side: usize, slot: Slot) {
        if let Some(leg) = self.leg_in(side, slot) {
            if self.legs[leg].seats[side].write == Write::Closing {
                self.write(leg, side, Item::Fin);
            }
            self.legs[leg].seats[side].write = Write::Closed;
        }
    }

    /// `slot`'s leg says a last word and is forgotten.
    fn farewell(&mut self, side: usize, slot: Slot, item: Item) -> Result<(), Violation> {
        let leg = self
            .leg_in(side, slot)
            .ok_or("a farewell on an empty slot")?;
        self.write(leg, side, item);
        self.write(leg, side, Item::Fin);
        self.legs[leg].seats[side].write = Write::Closed;
        self.drop_leg(leg, side);
        Ok(())
    }

    fn carry_out(&mut self, config: &Config, side: usize, output: Output) -> Result<(), Violation> {
        match output {
            Output::SendMigrate { id, from, verify } => {
                let leg = self.leg_in(side, Slot::Ours).ok_or("Migrate on no leg")?;
                self.legs[leg].migrate = Some((id.0 as u8, from.0 as u8, verify));
                self.write(leg, side, Item::Migrate);
            }
            Output::Ask(question) => self.peers[side].asked = Some(question),
            Output::Accept { verify } => {
                self.rename(side, Slot::Theirs, Slot::New)?;
                self.peers[side].asked = None;
                self.peers[side].ack = Some(verify);
            }
            Output::Deny => {
                self.peers[side].asked = None;
                self.farewell(side, Slot::Theirs, Item::Deny)?;
            }
            Output::Cancel => self.farewell(side, Slot::Ours, Item::Cancelled)?,
            Output::Drop(slot) => {
                let leg = self.leg_in(side, slot).ok_or("the drop of an empty slot")?;
                self.drop_leg(leg, side);
                match slot {
                    Slot::Theirs => self.peers[side].asked = None,
                    Slot::New => self.peers[side].ack = None,
                    _ => {}
                }
            }
            Output::Agreed { initiator, .. } => {
                if initiator {
                    self.peers[side].doubt = false;
                    self.rename(side, Slot::Ours, Slot::New)?;
                }
            }
            Output::SendSwitched(n) => {
                let leg = self.leg_in(side, Slot::New).ok_or("a count on no leg")?;
                self.write(leg, side, Item::Switched(n as u8));
            }
            Output::Close(slot) => {
                let leg = self.leg_in(side, slot).ok_or("the closing of no leg")?;
                let seat = &mut self.legs[leg].seats[side];
                if seat.write != Write::Open {
                    return Err("a leg is closed twice".into());
                }
                seat.write = Write::Closing;
                if config.closing == Closes::Reported {
                    self.write(leg, side, Item::Fin);
                    self.legs[leg].seats[side].write = Write::Sent;
                }
            }
            Output::Complete { initiator } => self.complete(side, initiator)?,
            Output::Failed(failure) => {
                let doubts = failure != Failure::Denied && !config.resume();
                self.peers[side].doubt |= doubts;
            }
            Output::TheirsFailed(_) => {}
            Output::Arm(timer) => self.peers[side].timer = Some(timer),
            Output::Disarm => self.peers[side].timer = None,
            Output::Probe(slot) => self.peers[side].probes[slot as usize] = true,
            Output::Say => self.peers[side].to_say = true,
            Output::Suspend => {
                for slot in [Slot::Current, Slot::Ours, Slot::New] {
                    self.drop_slot(side, slot);
                }
                let peer = &mut self.peers[side];
                (peer.ack, peer.again) = (None, None);
                peer.probes = [false; 4];
            }
            Output::SendResume { id, generation } => {
                if generation > config.resumes {
                    return Err(format!("resume {generation}, though little has failed"));
                }
                self.budgets.resumes = generation;
                let leg = self.leg_in(side, Slot::Ours).ok_or("a resume on no leg")?;
                self.legs[leg].resume = Some((id.0 as u8, generation as u8));
                self.legs[leg].words[side] = Some(self.peers[side].machine.facts().into());
                self.write(leg, side, Item::Resume);
            }
            Output::Resume { slot, from } => {
                self.rename(side, slot, Slot::Current)?;
                let leg = self
                    .leg_in(side, Slot::Current)
                    .ok_or("resumed on no leg")?;
                if slot == Slot::Theirs {
                    self.legs[leg].words[side] = Some(self.peers[side].machine.facts().into());
                    self.write(leg, side, Item::Resumed);
                }
                self.peers[side].again = Some(from as u8);
            }
            Output::Abort(_) | Output::Leave | Output::Finish => {
                for slot in SLOTS {
                    self.drop_slot(side, slot);
                }
                let peer = &mut self.peers[side];
                (peer.asked, peer.ack, peer.timer) = (None, None, None);
                peer.again = None;
                peer.probes = [false; 4];
            }
        }
        Ok(())
    }

    fn rename(&mut self, side: usize, from: Slot, to: Slot) -> Result<(), Violation> {
        let slots = &mut self.peers[side].slots;
        if slots[from as usize] == NOBODY || slots[to as usize] != NOBODY {
            return Err(format!("{from:?} cannot become {to:?}"));
        }
        slots[to as usize] = std::mem::replace(&mut slots[from as usize], NOBODY);
        Ok(())
    }

    fn complete(&mut self, side: usize, initiator: bool) -> Result<(), Violation> {
        let old = self.leg_in(side, Slot::Current).ok_or("no old leg")?;
        let new = self.leg_in(side, Slot::New).ok_or("no new leg")?;
        let connection = usize::from(self.legs[old].connection);
        let heard = self.legs[new].seats[side].heard;
        let left = &mut self.peers[side].left[connection];
        *left = match (initiator, *left) {
            (false, _) | (_, Left::ByOther) => Left::ByOther,
            (true, _) if heard => Left::Heard,
            (true, _) => Left::Unheard(new as u8),
        };
        self.drop_leg(old, side);
        if self.peers[side].cut == Cut::Current {
            self.peers[side].cut = Cut::Earlier;
        }
        self.peers[side].probes = [false; 4];
        self.peers[side].doubt = false;
        self.rename(side, Slot::New, Slot::Current)
    }

    /// Property 2: a clean end is one.
    fn judge_end(&mut self, config: &Config, side: usize, input: Input) -> Result<(), Violation> {
        let other = &self.peers[1 - side];
        let (written, read) = (
            other.machine.counts().0,
            self.peers[side].machine.counts().1,
        );
        if other.closed && written == read {
            return Ok(());
        }
        let what = format!(
            "{} reads a clean end after {read} of {written} bytes, and {} has {}closed",
            name(side),
            name(1 - side),
            if other.closed { "" } else { "not " },
        );
        self.exception = config.exception(self, side, input);
        match self.exception {
            Some(_) => Ok(()),
            None => Err(what),
        }
    }

    /// A stream that was quiet when the connection of its old leg went silent has lost nothing, and goes
    /// on.
    fn judge_silence(&self, config: &Config, side: usize, abort: Abort) -> Result<(), Violation> {
        let budgets = &self.budgets;
        let both = config.verify == [true, true];
        if !both || !config.silent || budgets.lossy || budgets.rude || budgets.excused {
            return Ok(());
        }
        let name = name(side);
        Err(format!(
            "{name}: {abort:?}, though nothing was lost with the old leg"
        ))
    }

    /// Nothing is aborted that did not have to be.
    fn judge_abort(
        &mut self,
        config: &Config,
        side: usize,
        abort: Abort,
        doubtful: bool,
        input: Input,
    ) -> Result<(), Violation> {
        let alone = self.is_cut_off(config) && input == Input::Timeout;
        let slid = self.peers.iter().any(|peer| peer.slid > 0);
        let read_all = self.peers[side].machine.read_from() == ReadFrom::Ended;
        let budgets = &mut self.budgets;
        if abort == Abort::Violation {
            return Err(format!("{} blames an honest peer", name(side)));
        }
        // Whoever drops a stream that it has closed does not want what the other writes.
        let in_vain = abort == Abort::Gone && self.peers[1 - side].dropped;
        if in_vain && (read_all || !config.resume()) {
            return Ok(());
        }
        if config.resume() {
            budgets.excused |= alone || slid;
            return match budgets.rude || budgets.excused {
                true => Ok(()),
                false => Err(format!(
                    "{}: {abort:?}, between two that resume",
                    name(side)
                )),
            };
        }
        if budgets.rude || budgets.losses < config.losses || budgets.excused {
            return Ok(());
        }
        let attempts_failed = budgets.timeouts < config.timeouts
            || budgets.not_nows < config.not_nows
            || budgets.waited;
        if attempts_failed {
            let verifies = config.verify == [true, true] && config.known == [true, true];
            let doubtful = doubtful && !config.speak();
            // What *Doubt* costs: a false reset.
            if !verifies || (doubtful && abort == Abort::Unproven) {
                budgets.excused = true;
                return Ok(());
            }
            return Err(format!(
                "{}: {abort:?}, though only an attempt failed",
                name(side)
            ));
        }
        Err(format!("{}: {abort:?}, though nothing failed", name(side)))
    }

    /// The word is said, as it is now.
    pub(crate) fn say(&mut self, side: usize) {
        let peer = &mut self.peers[side];
        peer.to_say = false;
        peer.word = Some(peer.machine.facts());
    }

    /// The other side's word is heard. Whoever holds nothing of the stream says so.
    pub(crate) fn hear(
        &mut self,
        config: &Config,
        side: usize,
        log: &mut Log<'_>,
    ) -> Result<(), Violation> {
        let facts = self.peers[1 - side].word.take().ok_or("nothing is said")?;
        let peer = &mut self.peers[side];
        if peer.machine.over().is_none() {
            return self.input(config, side, Input::Said(facts), log);
        }
        if !facts.gone && peer.word.is_none() {
            peer.word = Some(Facts::GONE);
        }
        Ok(())
    }

    /// What was being said is lost, and whoever still holds the stream says it again.
    pub(crate) fn lose_words(&mut self) {
        for peer in &mut self.peers {
            peer.word = None;
            peer.to_say = peer.machine.is_spoken_to() && peer.machine.over().is_none();
        }
    }

    /// Nothing that is said arrives.
    pub(crate) fn is_cut_off(&self, config: &Config) -> bool {
        self.lost[..config.connections.len()]
            .iter()
            .all(|lost| *lost)
    }

    /// What has not been received is written again.
    pub(crate) fn replay(
        &mut self,
        config: &Config,
        side: usize,
        log: &mut Log<'_>,
    ) -> Result<(), Violation> {
        let peer = &mut self.peers[side];
        let from = peer.again.take().ok_or("nothing is to be written again")?;
        let (sent, acknowledged) = (peer.machine.counts().0, peer.machine.acknowledged());
        if u64::from(from) < acknowledged {
            return Err(format!("byte {from} has arrived, and is wanted again"));
        }
        if from < peer.slid {
            return self.input(config, side, Input::WriteFailed(Slot::Current), log);
        }
        let leg = self
            .leg_in(side, Slot::Current)
            .ok_or("written again on no leg")?;
        for n in from..sent as u8 {
            self.write(leg, side, Item::Data(n));
        }
        self.input(config, side, Input::Replayed, log)
    }

    /// A connection is lost, or given up, as far as this side knows (`Core::connection_lost`).
    pub(crate) fn tell(
        &mut self,
        config: &Config,
        side: usize,
        connection: u8,
        log: &mut Log<'_>,
    ) -> Result<(), Violation> {
        let there = |world: &Self, slot| {
            let leg = world.leg_in(side, slot);
            leg.is_some_and(|leg| world.legs[leg].connection == connection)
        };
        for slot in [Slot::Ours, Slot::Theirs, Slot::New, Slot::Current] {
            if there(self, slot) {
                self.input(config, side, Input::Lost(slot), log)?;
            }
        }
        for slot in [Slot::Ours, Slot::Theirs] {
            if there(self, slot) {
                self.input(config, side, Input::ReadFailed(slot), log)?;
            }
        }
        let from = self.peers[side].machine.read_from();
        let reads = [ReadFrom::Leg(Slot::New), ReadFrom::Ended].contains(&from);
        if there(self, Slot::New) && !reads {
            self.input(config, side, Input::ReadFailed(Slot::New), log)?;
        }
        Ok(())
    }

    /// The remote's table reads that a stream is to go on.
    fn deliver_resume(
        &mut self,
        config: &Config,
        side: usize,
        leg: usize,
        (id, generation): (u8, u8),
        log: &mut Log<'_>,
    ) -> Result<(), Violation> {
        let facts = self.legs[leg].words[1 - side].ok_or("a resume without facts")?;
        let machine = &self.peers[side].machine;
        if machine.over().is_some() {
            self.legs[leg].words[side] = Some(Facts::GONE.into());
            self.write(leg, side, Item::Resumed);
            self.write(leg, side, Item::Fin);
            self.legs[leg].seats[side].write = Write::Closed;
            self.drop_leg(leg, side);
        } else if machine.admits(generation.into()) {
            self.drop_slot(side, Slot::Theirs);
            self.peers[side].asked = None;
            self.peers[side].slots[Slot::Theirs as usize] = leg as u8;
            let resume = Input::Resume {
                id: StreamId(id.into()),
                generation: generation.into(),
                facts: facts.into(),
            };
            self.input(config, side, resume, log)?;
        } else {
            self.drop_leg(leg, side);
        }
        Ok(())
    }

    /// The remote's table reads the first message of a new leg.
    pub(crate) fn deliver(
        &mut self,
        config: &Config,
        side: usize,
        leg: usize,
        log: &mut Log<'_>,
    ) -> Result<(), Violation> {
        if let Some(resume) = self.legs[leg].resume {
            self.legs[leg].pipes[1 - side].pop();
            self.legs[leg].seats[side].hold = Hold::Held;
            return self.deliver_resume(config, side, leg, resume, log);
        }
        let (id, from, verify) = self.legs[leg].migrate.expect("a leg begins with Migrate");
        let [id, from] = [id, from].map(|id| StreamId(id.into()));
        self.legs[leg].pipes[1 - side].pop();
        self.legs[leg].seats[side].hold = Hold::Held;
        match self.peers[side].machine.over() {
            Some(Ok(())) if config.without != Some(Mutant::DenyEnded) => {
                self.write(leg, side, Item::Deny);
                self.write(leg, side, Item::Fin);
                self.legs[leg].seats[side].write = Write::Closed;
                self.drop_leg(leg, side);
            }
            Some(_) => self.drop_leg(leg, side),
            None => {
                self.drop_slot(side, Slot::Theirs);
                if config.late {
                    self.peers[side].late = self.peers[side].asked;
                }
                self.peers[side].slots[Slot::Theirs as usize] = leg as u8;
                self.input(config, side, Input::Migrate { id, from, verify }, log)?;
            }
        }
        Ok(())
    }

    pub(crate) fn verdict(
        &mut self,
        config: &Config,
        side: usize,
        verdict: Verdict,
        log: &mut Log<'_>,
    ) -> Result<(), Violation> {
        match verdict {
            Verdict::Accept => {}
            Verdict::Deny => self.budgets.denies -= 1,
            Verdict::NotNow => self.budgets.not_nows -= 1,
        }
        let question = self.peers[side].asked.take().ok_or("nobody was asked")?;
        self.input(config, side, Input::Verdict(question, verdict), log)
    }

    /// The policy answers what has become of no interest.
    pub(crate) fn late_verdict(
        &mut self,
        config: &Config,
        side: usize,
        verdict: Verdict,
        log: &mut Log<'_>,
    ) -> Result<(), Violation> {
        let question = self.peers[side].late.take().ok_or("nobody was asked")?;
        let before = self.peers[side].machine.clone();
        self.input(config, side, Input::Verdict(question, verdict), log)?;
        match self.peers[side].machine == before {
            true => Ok(()),
            false => Err(format!("{}: a verdict on another Migrate", name(side))),
        }
    }
}
