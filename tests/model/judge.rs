//! What must hold, and words for what happened.

use crate::{
    action::{Action, Seen},
    config::Config,
    machine::{Machine, ReadFrom, Slot, Timer, WriteTo},
    world::{Violation, World, name},
};

impl World {
    /// Property 5 and the rest: what must hold when nothing more happens by itself.
    pub(crate) fn judge_rest(&self, config: &Config) -> Result<(), Violation> {
        if config.resume() {
            return self.judge_rest_of_resume(config);
        }
        let budgets = &self.budgets;
        let unbroken = budgets.losses == config.losses
            && budgets.timeouts == config.timeouts
            && budgets.not_nows == config.not_nows
            && !budgets.waited;
        let unfailing = unbroken && !budgets.rude;
        for side in [0, 1] {
            if unbroken && !config.overtake {
                self.judge_drop(side)?;
            }
            let peer = &self.peers[side];
            let machine = &peer.machine;
            let name = name(side);
            if machine.is_migrating() {
                if unfailing {
                    return Err(format!("{name} migrates for ever, though nothing failed"));
                }
                if self.is_stuck_in_promise(side) {
                    continue;
                }
                if peer.timer.is_none() {
                    return Err(format!("{name} migrates without a timer"));
                }
                continue;
            }
            if self.slots_left(side) {
                return Err(format!("{name} does not migrate, but has a leg left over"));
            }
            if machine.over().is_some() || machine.read_from() == ReadFrom::Ended {
                continue;
            }
            let other = &self.peers[1 - side];
            if other.machine.is_migrating() {
                continue;
            }
            let Some(leg) = self.leg_in(side, Slot::Current) else {
                return Err(format!("{name} has no leg"));
            };
            if self.leg_in(1 - side, Slot::Current) != Some(leg) && !self.is_silent(leg) {
                return Err(format!("{name} waits for a leg on which nobody writes"));
            }
            if unfailing && other.closed {
                return Err(format!("{name} never reads the other side's end"));
            }
        }
        if config.speak() && !self.is_cut_off(config) {
            self.judge_word(0)?;
            self.judge_word(1)?;
        }
        let [a, b] = &self.peers;
        let stable = |machine: &Machine| {
            machine.over().is_none() && !machine.is_migrating() && !machine.has_ended()
        };
        if stable(&a.machine) && stable(&b.machine) && a.machine.id() != b.machine.id() {
            return Err("they do not agree on the stream's ID".into());
        }
        Ok(())
    }

    /// Between two that resume, everything arrives as long as there is a connection.
    fn judge_rest_of_resume(&self, config: &Config) -> Result<(), Violation> {
        if self.is_cut_off(config) {
            return Ok(());
        }
        let [a, b] = &self.peers;
        let waits = |timer| a.timer == Some(timer) || b.timer == Some(timer);
        let migrates = a.machine.is_migrating() || b.machine.is_migrating();
        for side in [0, 1] {
            let (peer, name) = (&self.peers[side], name(side));
            if peer.machine.over().is_some() {
                continue;
            }
            if peer.machine.is_migrating() {
                if peer.timer.is_none() {
                    return Err(format!("{name} migrates without a timer"));
                }
                continue;
            }
            // What waits for an end to be explained, will not for ever.
            if self.slots_left(side) && peer.timer != Some(Timer::Explain) {
                return Err(format!("{name} does not migrate, but has a leg left over"));
            }
            if peer.machine.waits_for_leg() {
                return Err(format!("{name} waits for a leg for ever"));
            }
        }
        if migrates || waits(Timer::Explain) {
            return Ok(());
        }
        self.judge_word(0)?;
        self.judge_word(1)?;
        if a.machine.over().is_some() || b.machine.over().is_some() {
            return Ok(());
        }
        for side in [0, 1] {
            let (peer, name) = (&self.peers[side], name(side));
            let other = &self.peers[1 - side];
            if let WriteTo::Hold | WriteTo::Failed = peer.machine.write_to() {
                return Err(format!("{name} cannot write, for ever"));
            }
            if peer.dropped || peer.machine.read_from() == ReadFrom::Ended {
                continue;
            }
            let leg = self.leg_in(side, Slot::Current);
            if leg.is_none() || leg != self.leg_in(1 - side, Slot::Current) {
                return Err(format!("{name} waits for a leg on which nobody writes"));
            }
            if peer.machine.counts().1 != other.machine.counts().0 {
                return Err(format!("{name} never reads all that was written"));
            }
            if other.closed {
                return Err(format!("{name} never reads the other side's end"));
            }
        }
        if !a.machine.has_ended() && !b.machine.has_ended() && a.machine.id() != b.machine.id() {
            return Err("they do not agree on the stream's ID".into());
        }
        Ok(())
    }

    /// Between two that speak, nobody is left alone with a stream.
    fn judge_word(&self, side: usize) -> Result<(), Violation> {
        let [peer, other] = [&self.peers[side], &self.peers[1 - side]];
        let alone = other.machine.over().is_some() && peer.machine.over().is_none();
        // Whose close has failed, has been told.
        let told = peer.machine.read_from() == ReadFrom::Ended
            && matches!(peer.machine.write_to(), WriteTo::Closed | WriteTo::Failed);
        // Whose path is about to be probed, will be.
        let probes = match peer.machine.is_migrating() {
            true => peer.timer.is_some(),
            false => peer.timer == Some(Timer::Explain),
        };
        match alone && (peer.dropped || !(told || probes)) {
            true => Err(format!(
                "{} is left alone with the stream: {:?}",
                name(side),
                other.machine.over()
            )),
            false => Ok(()),
        }
    }

    /// What was written before a drop arrives, as it would on a plain stream.
    fn judge_drop(&self, side: usize) -> Result<(), Violation> {
        let [peer, other] = [&self.peers[side], &self.peers[1 - side]];
        let (read, written) = (peer.machine.counts().1, other.machine.counts().0);
        if !peer.dropped && other.dropped && other.machine.over().is_some() && read < written {
            let [name, other] = [side, 1 - side].map(name);
            return Err(format!(
                "{other} wrote {written} bytes and let go of the stream, and {name} never reads but {read}"
            ));
        }
        Ok(())
    }

    /// A responder that has acked an attempt which its initiator gave up, without the verified switch:
    /// it cannot know, and the old leg goes on until one side closes it.
    pub(crate) fn is_stuck_in_promise(&self, side: usize) -> bool {
        let [peer, other] = [&self.peers[side].machine, &self.peers[1 - side].machine];
        peer.is_agreed()
            && !peer.awaits_count()
            && peer.read_from() == ReadFrom::Leg(Slot::Current)
            && other.over().is_none()
            && !other.is_agreed()
            && self.leg_in(0, Slot::Current) == self.leg_in(1, Slot::Current)
    }

    /// The application has let go of the stream; the other side's holds it, and may.
    pub(crate) fn waits_for_a_holder(&self, side: usize) -> bool {
        let [peer, other] = [&self.peers[side], &self.peers[1 - side]];
        let holds = !other.dropped && !other.closed && other.machine.over().is_none();
        peer.dropped && holds && !peer.machine.is_migrating()
    }

    fn slots_left(&self, side: usize) -> bool {
        [Slot::Ours, Slot::Theirs, Slot::New]
            .iter()
            .any(|slot| self.leg_in(side, *slot).is_some())
    }
}

impl World {
    /// Whether both sides are on the same other leg than at first.
    pub(crate) fn both_moved(&self) -> bool {
        let [a, b] = &self.peers;
        a.machine.id().0 != 0 && a.machine.id() == b.machine.id()
    }

    fn where_is(&self, side: usize, slot: Slot) -> String {
        match self.leg_in(side, slot) {
            Some(leg) => format!("{slot:?} (C{})", self.legs[leg].connection),
            None => format!("{slot:?}"),
        }
    }

    pub(crate) fn describe(&self, action: Action) -> String {
        let connection = |leg: u8| self.legs[usize::from(leg)].connection;
        match action {
            Action::Write(side) => {
                format!(
                    "{} writes byte {}",
                    name(side),
                    self.peers[side].machine.counts().0
                )
            }
            Action::Close(side) => format!("{} closes its write side", name(side)),
            Action::Drop(side) => format!(
                "{} drops the stream, {}closed",
                name(side),
                if self.peers[side].close_reported {
                    ""
                } else {
                    "not "
                }
            ),
            Action::Start(side, to) => format!("{} starts a migration onto C{to}", name(side)),
            Action::Lose(lost) => format!("C{lost} is lost"),
            Action::Silence(lost, keep) => {
                let flight = if keep { "still arrives" } else { "is lost" };
                format!("C{lost} goes silent; what is in flight {flight}")
            }
            Action::Prune(side, pruned) => format!("{} prunes C{pruned}", name(side)),
            Action::Timeout(side) => format!("{}'s timer fires early", name(side)),
            Action::Verdict(side, verdict) => format!("{}'s policy says {verdict:?}", name(side)),
            Action::LateVerdict(side, verdict) => {
                format!("{}'s policy says {verdict:?}, late", name(side))
            }
            Action::HeldTooLong(side) => format!("{} holds Migrate no longer", name(side)),
            Action::Deliver(side, leg) => {
                format!(
                    "{} reads {} on a leg of C{}",
                    name(side),
                    match self.legs[usize::from(leg)].resume {
                        Some((_, generation)) => format!("Resume {generation}"),
                        None => "Migrate".to_owned(),
                    },
                    connection(leg)
                )
            }
            Action::Vanish(side, leg) => {
                format!(
                    "{} never hears of a leg of C{}",
                    name(side),
                    connection(leg)
                )
            }
            Action::Read(side, slot, seen) => {
                let what = match seen {
                    Seen::Item => {
                        let leg = self.leg_in(side, slot);
                        let first = leg.and_then(|leg| self.legs[leg].pipes[1 - side].first());
                        first.map_or_else(String::new, |item| format!("{item:?}"))
                    }
                    Seen::Fin(proof) => format!("FIN, proof: {proof:?}"),
                    Seen::Cut => "a reset or loss".to_owned(),
                };
                format!(
                    "{} reads {what} on {}",
                    name(side),
                    self.where_is(side, slot)
                )
            }
            Action::WriteFails(side, slot) => {
                format!(
                    "{}'s write on {} has failed",
                    name(side),
                    self.where_is(side, slot)
                )
            }
            Action::Flush(side, slot) => {
                format!("{} has closed {}", name(side), self.where_is(side, slot))
            }
            Action::FlushFails(side, slot) => {
                format!("{} cannot close {}", name(side), self.where_is(side, slot))
            }
            Action::Say(side) => {
                format!("{} says {:?}", name(side), self.peers[side].machine.facts())
            }
            Action::Hear(side) => format!("{} hears {:?}", name(side), self.peers[1 - side].word),
            Action::Learn(side) => format!("{} learns that the other gives its word", name(side)),
            Action::Inexplicable(side) => {
                format!("{} knows that its last leg is lost", name(side))
            }
            Action::Alarm(side, connection) => {
                format!("{} gives up C{connection}, which is fine", name(side))
            }
            Action::Break(leg) => format!("a leg of C{} ends by itself", connection(leg)),
            Action::AttemptOver(_) => "A waits no longer for the answer".to_owned(),
            Action::Tell(side, connection) => {
                format!("{} hears that C{connection} is lost", name(side))
            }
            Action::Regain(connection) => format!("A opens a leg on C{connection}, to resume"),
            Action::Replay(side) => format!("{} writes again", name(side)),
            Action::Dial(connection, _) => format!("C{connection} comes"),
            Action::WriteAck(side) => format!("{} writes its ack", name(side)),
            Action::AckFails(side) => format!("{} cannot write its ack", name(side)),
            Action::Probed(side, slot, answered) => format!(
                "{}'s probe of {} {}",
                name(side),
                self.where_is(side, slot),
                if answered { "is answered" } else { "fails" }
            ),
        }
    }
}
