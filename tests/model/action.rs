//! What can happen next.

use crate::{
    config::{Closes, Config, Mutant},
    leg::{Hold, Item, Kind, Leg, Write},
    machine::{Eof, Input, Proof, ReadFrom, Slot, StreamId, Verdict, WriteTo},
    world::{Cut, Left, Log, SLOTS, Violation, World, name},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// The next item.
    Item,
    /// The next item is a FIN, and the empty write says this.
    Fin(Proof),
    /// A reset, or the connection's loss.
    Cut,
}

/// Sides are 0 (A, designated) and 1 (B).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    // What the applications, the policies and the world do or leave undone.
    Write(usize),
    Close(usize),
    Drop(usize),
    Start(usize, u8),
    Lose(u8),
    /// A silent loss, with what was in flight or without.
    Silence(u8, bool),
    Prune(usize, u8),
    Timeout(usize),
    Verdict(usize, Verdict),
    /// On a `Migrate` whose place another has taken.
    LateVerdict(usize, Verdict),
    /// What is held is given up.
    HeldTooLong(usize),
    // What happens sooner or later.
    Deliver(usize, u8),
    /// A leg whose first message never arrives.
    Vanish(usize, u8),
    Read(usize, Slot, Seen),
    WriteFails(usize, Slot),
    Flush(usize, Slot),
    FlushFails(usize, Slot),
    WriteAck(usize),
    AckFails(usize),
    Probed(usize, Slot, bool),
    Say(usize),
    Hear(usize),
    /// It is heard that the other side gives its word.
    Learn(usize),
    /// The connection of a leg is known to be lost whose end nothing explains.
    Inexplicable(usize),
    // Between two that resume.
    /// One side gives up a connection that is fine.
    Alarm(usize, u8),
    /// A leg ends by itself.
    Break(u8),
    /// The answer to a resume takes too long.
    AttemptOver(bool),
    /// One side hears that a connection is lost.
    Tell(usize, u8),
    /// The opener asks that the stream go on there.
    Regain(u8),
    Replay(usize),
    /// A connection is there that was not; nobody has another.
    Dial(u8, bool),
}

impl Action {
    /// Whether it happens even if nobody wants anything and nothing fails.
    pub(crate) fn is_progress(self) -> bool {
        match self {
            Self::Verdict(_, verdict) => verdict == Verdict::Accept,
            Self::Write(_)
            | Self::Close(_)
            | Self::Drop(_)
            | Self::Start(..)
            | Self::Lose(_)
            | Self::Silence(..)
            | Self::Prune(..)
            | Self::LateVerdict(..)
            | Self::HeldTooLong(_)
            | Self::Alarm(..)
            | Self::Break(_)
            | Self::Timeout(_) => false,
            Self::AttemptOver(due) | Self::Dial(_, due) => due,
            _ => true,
        }
    }
}

impl World {
    pub(crate) fn actions(&self, config: &Config) -> Vec<Action> {
        let mut actions = Vec::with_capacity(16);
        for side in [0, 1] {
            self.of_application(config, side, &mut actions);
            self.of_io(config, side, &mut actions);
        }
        if config.resume() {
            self.of_resume(config, &mut actions);
        }
        if self.budgets.losses > 0 {
            for (connection, _) in config.connections.iter().enumerate() {
                if self.lost[connection] {
                    continue;
                }
                let connection = connection as u8;
                if config.silent {
                    actions.extend([true, false].map(|keep| Action::Silence(connection, keep)));
                } else {
                    actions.push(Action::Lose(connection));
                }
            }
        }
        actions
    }

    fn of_resume(&self, config: &Config, actions: &mut Vec<Action>) {
        let opener = &self.peers[0].machine;
        for connection in 0..config.connections.len() as u8 {
            let index = usize::from(connection);
            let dialed = index + usize::from(self.budgets.dials) >= config.connections.len();
            if dialed && index + usize::from(self.budgets.dials) == config.connections.len() {
                actions.push(Action::Dial(connection, self.is_cut_off(config)));
            }
            if dialed {
                continue;
            }
            for side in [0, 1] {
                let there = self.has_leg_on(side, connection);
                let knows = self.peers[side].told[index];
                let tries = side == 0 && self.silent[index];
                if self.lost[index] && !knows && (there || tries) {
                    actions.push(Action::Tell(side, connection));
                }
                if self.budgets.alarms > 0 && there && !self.lost[index] {
                    actions.push(Action::Alarm(side, connection));
                }
            }
            let seems_fine = match self.silent[index] {
                true => !self.peers[0].told[index],
                false => !self.lost[index],
            };
            if opener.wants_leg() && seems_fine {
                actions.push(Action::Regain(connection));
            }
        }
        for (index, leg) in self.legs.iter().enumerate() {
            let held = leg
                .seats
                .iter()
                .all(|seat| seat.hold != Hold::Gone && !seat.ended);
            if self.budgets.breaks > 0 && held && !self.is_lost(index) {
                actions.push(Action::Break(index as u8));
            }
        }
        for side in [0, 1] {
            if self.peers[side].again.is_some() {
                actions.push(Action::Replay(side));
            }
        }
        if opener.is_legless()
            && opener.awaits_answer()
            && let Some(leg) = self.leg_in(0, Slot::Ours)
        {
            let due = self.is_silent(leg);
            if due || self.budgets.timeouts > 0 {
                actions.push(Action::AttemptOver(due));
            }
        }
    }

    fn has_leg_on(&self, side: usize, connection: u8) -> bool {
        self.legs
            .iter()
            .any(|leg| leg.connection == connection && leg.seats[side].hold != Hold::Gone)
    }

    fn of_application(&self, config: &Config, side: usize, actions: &mut Vec<Action>) {
        let peer = &self.peers[side];
        let machine = &peer.machine;
        let over = machine.over().is_some();
        let writable = matches!(machine.write_to(), WriteTo::Leg(_) | WriteTo::Keep);
        if !peer.dropped && !over {
            if peer.writes > 0 && writable {
                actions.push(Action::Write(side));
            }
            if config.closes[side] && writable {
                actions.push(Action::Close(side));
            }
            if self.budgets.drops > 0 {
                actions.push(Action::Drop(side));
            }
            if peer.starts > 0 && machine.may_start().is_ok() {
                for connection in 0..config.connections.len() as u8 {
                    if self.may_move_to(config, side, connection) {
                        actions.push(Action::Start(side, connection));
                    }
                }
            }
        }
        // The time for a word is longer than any word takes.
        let patient = machine.awaits_word() || machine.is_legless();
        if peer.timer.is_some() && self.budgets.timeouts > 0 && !patient {
            actions.push(Action::Timeout(side));
        }
        if config.prune && self.may_prune(config, side) {
            actions.push(Action::Prune(side, 0));
        }
        if peer.late.is_some() {
            let verdicts = [Verdict::Accept, Verdict::Deny, Verdict::NotNow];
            actions.extend(verdicts.map(|verdict| Action::LateVerdict(side, verdict)));
        }
        if config.late && self.budgets.not_nows > 0 && machine.holds_theirs() {
            actions.push(Action::HeldTooLong(side));
        }
        if peer.asked.is_some() {
            actions.push(Action::Verdict(side, Verdict::Accept));
            if self.budgets.denies > 0 {
                actions.push(Action::Verdict(side, Verdict::Deny));
            }
            if self.budgets.not_nows > 0 {
                actions.push(Action::Verdict(side, Verdict::NotNow));
            }
        }
    }

    fn may_move_to(&self, config: &Config, side: usize, connection: u8) -> bool {
        let index = usize::from(connection);
        let current = self.leg_in(side, Slot::Current);
        let here = current.is_none_or(|leg| self.legs[leg].connection == connection);
        // Rule 8. Without pruning, going back is nothing special.
        let returns = config.prune
            && index == 0
            && self.peers[side].left[0] != Left::No
            && config.without != Some(Mutant::Return);
        !here && !self.lost[index] && !returns
    }

    fn may_prune(&self, config: &Config, side: usize) -> bool {
        let heard = match self.peers[side].left[0] {
            Left::Heard => true,
            Left::Unheard(_) => config.without == Some(Mutant::PruneUnheard),
            Left::No | Left::ByOther => false,
        };
        // Nothing of ours uses it. What the other side is only about to use, we cannot know.
        let used = self
            .legs
            .iter()
            .any(|leg| leg.connection == 0 && leg.seats[side].hold == Hold::Held);
        heard && !used && !self.lost[0]
    }

    /// Whether this side's I/O polls the leg in this slot for reading.
    fn polls(&self, side: usize, slot: Slot) -> bool {
        let peer = &self.peers[side];
        let machine = &peer.machine;
        match slot {
            Slot::Ours => machine.awaits_answer(),
            Slot::Theirs => true,
            Slot::Current | Slot::New => {
                machine.read_from() == ReadFrom::Leg(slot)
                    || machine.check() == Some(slot)
                    || slot == Slot::New && machine.awaits_count()
            }
        }
    }

    fn of_io(&self, config: &Config, side: usize, actions: &mut Vec<Action>) {
        let peer = &self.peers[side];
        if !self.is_cut_off(config) {
            // One message at a time; the next says all that has changed meanwhile.
            if peer.to_say && peer.word.is_none() {
                actions.push(Action::Say(side));
            }
            // Whoever gives its word says hello first, in order.
            if self.peers[1 - side].word.is_some() && !peer.asking {
                actions.push(Action::Hear(side));
            }
            if peer.asking {
                actions.push(Action::Learn(side));
            }
        }
        let current = self.leg_in(side, Slot::Current);
        if !config.resume()
            && peer.machine.awaits_word()
            && current.is_some_and(|leg| self.is_lost(leg))
        {
            actions.push(Action::Inexplicable(side));
        }
        if peer.ack.is_some() {
            actions.push(Action::WriteAck(side));
        }
        for slot in SLOTS {
            if peer.probes[slot as usize] {
                let lost = self.leg_in(side, slot).is_none_or(|leg| self.is_lost(leg));
                actions.push(Action::Probed(side, slot, !lost));
            }
            let Some(index) = self.leg_in(side, slot) else {
                continue;
            };
            let leg = &self.legs[index];
            let loud = self.is_lost(index) && !self.is_silent(index);
            let refuses = leg.refuses(side, loud) && !self.is_silent(index);
            let seat = &leg.seats[side];
            if peer.ack.is_some() && slot == Slot::New && refuses {
                actions.push(Action::AckFails(side));
            }
            if seat.void {
                actions.push(Action::WriteFails(side, slot));
            }
            let closing = matches!(seat.write, Write::Closing | Write::Sent);
            if closing && config.closing != Closes::AtOnce {
                actions.push(Action::Flush(side, slot));
                if refuses {
                    actions.push(Action::FlushFails(side, slot));
                }
            }
            if self.polls(side, slot) {
                self.of_reader(config, side, slot, leg, loud, actions);
            }
        }
        for (index, leg) in self.legs.iter().enumerate() {
            if leg.seats[side].hold == Hold::Unseen {
                let loud = self.lost[usize::from(leg.connection)]
                    && !self.silent[usize::from(leg.connection)];
                let told = self.peers[side].told[usize::from(leg.connection)];
                if leg.pipes[1 - side].first().is_some() && !told {
                    actions.push(Action::Deliver(side, index as u8));
                }
                if loud || told || leg.pipes[1 - side].reset {
                    actions.push(Action::Vanish(side, index as u8));
                }
            }
        }
    }

    fn of_reader(
        &self,
        config: &Config,
        side: usize,
        slot: Slot,
        leg: &Leg,
        loud: bool,
        actions: &mut Vec<Action>,
    ) {
        let pipe = &leg.pipes[1 - side];
        let seat = &leg.seats[side];
        match pipe.first() {
            Some(Item::Fin) => {
                let open = seat.write == Write::Open && !seat.failed;
                let asks = leg.kind == Kind::Yamux || self.peers[side].machine.needs_proof();
                let gone = leg.seats[1 - side].hold == Hold::Gone;
                if !open || !asks || slot == Slot::Ours || slot == Slot::Theirs {
                    actions.push(Action::Read(side, slot, Seen::Fin(Proof::Unavailable)));
                } else {
                    // A drop's FIN comes with a STOP_SENDING; after a close, it may come later.
                    if !pipe.dropped || config.late_stop {
                        actions.push(Action::Read(side, slot, Seen::Fin(Proof::Agrees)));
                    }
                    if loud || pipe.dropped || gone && leg.kind != Kind::Yamux {
                        actions.push(Action::Read(side, slot, Seen::Fin(Proof::Disagrees)));
                    }
                }
            }
            Some(_) => actions.push(Action::Read(side, slot, Seen::Item)),
            None => {}
        }
        let ends = pipe.reset || loud && !seat.ended;
        if ends && (config.overtake || pipe.first().is_none()) {
            actions.push(Action::Read(side, slot, Seen::Cut));
        }
    }

    /// Carries out an action.
    pub(crate) fn apply(
        &mut self,
        config: &Config,
        action: Action,
        log: &mut Log<'_>,
    ) -> Result<(), Violation> {
        match action {
            Action::Write(side) => {
                let to = self.peers[side].machine.write_to();
                if config.slides {
                    let peer = &mut self.peers[side];
                    let (sent, acknowledged) =
                        (peer.machine.counts().0, peer.machine.acknowledged());
                    if sent > acknowledged {
                        peer.slid = sent as u8;
                        peer.machine.slid_to(sent);
                    }
                }
                let slot = match to {
                    WriteTo::Leg(slot) => slot,
                    WriteTo::Keep => {
                        self.peers[side].machine.wrote(1);
                        self.peers[side].writes -= 1;
                        return Ok(());
                    }
                    _ => return Err("written nowhere".into()),
                };
                let n = self.peers[side].machine.counts().0 as u8;
                let leg = self.leg_in(side, slot).ok_or("written to no leg")?;
                if self.legs[leg].seats[side].write != Write::Open {
                    return Err("written to a closed leg".into());
                }
                self.peers[side].machine.wrote(1);
                self.peers[side].writes -= 1;
                self.write(leg, side, Item::Data(n));
                Ok(())
            }
            Action::Close(side) => {
                self.peers[side].closed = true;
                self.input(config, side, Input::CloseWrite, log)
            }
            Action::Drop(side) => {
                self.budgets.drops -= 1;
                self.peers[side].dropped = true;
                let closed = self.peers[side].close_reported;
                self.budgets.rude |= !closed && !self.peers[side].machine.has_ended();
                let dropped = Input::Dropped {
                    closed,
                    answered: !config.unanswered,
                };
                self.input(config, side, dropped, log)
            }
            Action::Start(side, connection) => {
                let kind = config.connections[usize::from(connection)];
                let leg = self.add_leg(Leg::opened(connection, kind, side));
                let peer = &mut self.peers[side];
                peer.slots[Slot::Ours as usize] = leg;
                peer.starts -= 1;
                let id = StreamId(u64::from(peer.counter) << 1 | side as u64);
                peer.counter += 1;
                self.input(config, side, Input::Start { id }, log)
            }
            Action::Lose(connection) => {
                self.budgets.losses -= 1;
                self.lose(connection);
                if config.words_lost {
                    self.lose_words();
                }
                Ok(())
            }
            Action::Silence(connection, keep) => {
                self.budgets.losses -= 1;
                self.lose(connection);
                self.silent[usize::from(connection)] = true;
                for leg in self
                    .legs
                    .iter_mut()
                    .filter(|leg| leg.connection == connection)
                {
                    for pipe in &mut leg.pipes {
                        if !keep {
                            self.budgets.lossy |=
                                pipe.first().is_some_and(|item| item != Item::Fin);
                            pipe.clear();
                        }
                    }
                    leg.seats.iter_mut().for_each(|seat| seat.void = false);
                }
                Ok(())
            }
            Action::Say(side) => {
                self.say(side);
                Ok(())
            }
            Action::Hear(side) => self.hear(config, side, log),
            Action::Learn(side) => {
                self.peers[side].asking = false;
                self.input(config, side, Input::Speaks(config.speech[1]), log)
            }
            Action::Alarm(side, connection) => {
                self.budgets.alarms -= 1;
                self.tell(config, side, connection, log)
            }
            Action::Break(leg) => {
                self.budgets.breaks -= 1;
                self.legs[usize::from(leg)].break_off();
                Ok(())
            }
            Action::Tell(side, connection) => {
                self.peers[side].told[usize::from(connection)] = true;
                self.tell(config, side, connection, log)
            }
            Action::AttemptOver(due) => {
                if !due {
                    self.budgets.timeouts -= 1;
                } else if let Some(leg) = self.leg_in(0, Slot::Ours) {
                    // Ranked last from now on.
                    let connection = usize::from(self.legs[leg].connection);
                    self.peers[0].told[connection] = true;
                }
                self.input(config, 0, Input::ReadFailed(Slot::Ours), log)
            }
            Action::Regain(connection) => {
                let kind = config.connections[usize::from(connection)];
                let leg = self.add_leg(Leg::opened(connection, kind, 0));
                let peer = &mut self.peers[0];
                peer.slots[Slot::Ours as usize] = leg;
                let id = StreamId(u64::from(peer.counter) << 1);
                peer.counter += 1;
                self.input(config, 0, Input::Start { id }, log)
            }
            Action::Replay(side) => self.replay(config, side, log),
            Action::Dial(connection, _) => {
                self.budgets.dials -= 1;
                self.lost[usize::from(connection)] = false;
                self.lose_words();
                Ok(())
            }
            Action::Inexplicable(side) => {
                self.input(config, side, Input::ReadFailed(Slot::Current), log)
            }
            Action::Prune(_, connection) => {
                self.lose(connection);
                Ok(())
            }
            Action::Timeout(side) => {
                self.budgets.timeouts -= 1;
                self.fire(config, side, log)
            }
            Action::Verdict(side, verdict) => self.verdict(config, side, verdict, log),
            Action::LateVerdict(side, verdict) => self.late_verdict(config, side, verdict, log),
            Action::HeldTooLong(side) => {
                self.budgets.not_nows -= 1;
                self.input(config, side, Input::HeldTooLong, log)
            }
            Action::Deliver(side, leg) => self.deliver(config, side, usize::from(leg), log),
            Action::Vanish(side, leg) => {
                self.drop_leg(usize::from(leg), side);
                Ok(())
            }
            Action::Read(side, slot, seen) => self.read(config, side, slot, seen, log),
            Action::WriteFails(side, slot) => self.write_fails(config, side, slot, log),
            Action::FlushFails(side, slot) => {
                if let Some(leg) = self.leg_in(side, slot) {
                    self.legs[leg].seats[side].write = Write::Closed;
                }
                self.write_fails(config, side, slot, log)
            }
            Action::Flush(side, slot) => {
                self.flush_close(side, slot);
                self.input(config, side, Input::Closed(slot), log)
            }
            Action::WriteAck(side) => {
                self.write_ack(side);
                self.input(config, side, Input::AnswerWritten, log)
            }
            Action::AckFails(side) => {
                self.peers[side].ack = None;
                self.input(config, side, Input::WriteFailed(Slot::New), log)
            }
            Action::Probed(side, slot, answered) => {
                self.peers[side].probes[slot as usize] = false;
                let input = match answered {
                    true => Input::ProbeAnswered,
                    false => Input::ProbeFailed(slot),
                };
                self.input(config, side, input, log)
            }
        }
    }

    /// The armed timer fires.
    pub(crate) fn fire(
        &mut self,
        config: &Config,
        side: usize,
        log: &mut Log<'_>,
    ) -> Result<(), Violation> {
        // A timer that has fired is armed again by whoever polls it (`Drive`).
        self.input(config, side, Input::Timeout, log)
    }

    fn lose(&mut self, connection: u8) {
        self.lost[usize::from(connection)] = true;
    }

    fn write_fails(
        &mut self,
        config: &Config,
        side: usize,
        slot: Slot,
        log: &mut Log<'_>,
    ) -> Result<(), Violation> {
        if let Some(leg) = self.leg_in(side, slot) {
            let seat = &mut self.legs[leg].seats[side];
            seat.void = false;
            seat.failed = true;
        }
        self.input(config, side, Input::WriteFailed(slot), log)
    }

    fn read(
        &mut self,
        config: &Config,
        side: usize,
        slot: Slot,
        seen: Seen,
        log: &mut Log<'_>,
    ) -> Result<(), Violation> {
        let index = self.leg_in(side, slot).ok_or("read from no leg")?;
        let leg = &mut self.legs[index];
        let kind = leg.kind;
        let seat = &mut leg.seats[side];
        if seat.ended {
            return Err(format!("{} reads {slot:?} again after its end", name(side)));
        }
        let pipe = &mut leg.pipes[1 - side];
        let machine = &self.peers[side].machine;
        seat.heard |= machine.is_agreed() && slot == Slot::New
            || !machine.is_agreed() && slot == Slot::Current;
        if seat.heard {
            for left in &mut self.peers[side].left {
                if *left == Left::Unheard(index as u8) {
                    *left = Left::Heard;
                }
            }
        }
        let input = match seen {
            Seen::Cut => {
                pipe.clear();
                pipe.reset = false;
                seat.ended = true;
                let proof = match seat.write {
                    Write::Open if !seat.failed => Proof::Disagrees,
                    _ => Proof::Unavailable,
                };
                if kind == Kind::Yamux {
                    Input::End(slot, Eof::new(proof, true))
                } else {
                    Input::ReadFailed(slot)
                }
            }
            Seen::Fin(proof) => {
                pipe.pop();
                seat.ended = true;
                Input::End(slot, Eof::new(proof, kind == Kind::Yamux))
            }
            Seen::Item => {
                let item = pipe.first().ok_or("nothing to read")?;
                pipe.pop();
                match self.understand(side, slot, item)? {
                    Some(input) => input,
                    None => return Ok(()),
                }
            }
        };
        self.input(config, side, input, log)?;
        let cut = seen == Seen::Cut && slot == Slot::Current && kind == Kind::Yamux;
        if cut && config.verify != [true, true] && self.peers[side].cut == Cut::No {
            let there = self.leg_in(side, Slot::Current) == Some(index);
            self.peers[side].cut = if there { Cut::Current } else { Cut::Earlier };
        }
        Ok(())
    }

    /// What an item is, where it was read. Property 1: a byte is the next one.
    fn understand(
        &mut self,
        side: usize,
        slot: Slot,
        item: Item,
    ) -> Result<Option<Input>, Violation> {
        let machine = &mut self.peers[side].machine;
        // What has arrived is said, a little later.
        let keeps = machine.keeps();
        let stream = matches!(slot, Slot::Current | Slot::New)
            && !(slot == Slot::New && machine.awaits_count());
        Ok(Some(match (slot, item) {
            (Slot::Ours, Item::Resumed) if machine.is_legless() => {
                let leg = self.leg_in(side, slot).ok_or("answered on no leg")?;
                let facts = self.legs[leg].words[1 - side].ok_or("an answer without facts")?;
                Input::Resumed(facts.into())
            }
            (Slot::Ours, Item::Ack | Item::AckVerify | Item::Deny) => Input::Answered {
                deny: item == Item::Deny,
                verify: item == Item::AckVerify,
            },
            (Slot::Theirs | Slot::New, Item::Cancelled) if !stream => Input::Cancelled(slot),
            (Slot::New, Item::Switched(n)) if !stream => Input::Switched(n.into()),
            (_, Item::Data(n)) if stream => {
                if machine.read_from() != ReadFrom::Leg(slot) {
                    return Err(format!("byte {n} in a direction that has ended"));
                }
                if u64::from(n) != machine.counts().1 {
                    return Err(format!("byte {n} is not the next one"));
                }
                machine.read(1);
                self.peers[side].to_say |= keeps;
                let machine = &self.peers[side].machine;
                return Ok(machine.has_read_all().then_some(Input::ReadAll));
            }
            _ => return Err(format!("{item:?} read on {slot:?}")),
        }))
    }
}
