//! Questions to the machine: where bytes come from and go to, what it waits for, and whether it is over.

use super::*;

impl Machine {
    /// The IDs that the stream answers to: its own, that of a migration under way, that of the
    /// remote's unanswered `Migrate`.
    pub fn ids(&self) -> impl Iterator<Item = StreamId> + use<> {
        let pending = match &self.phase {
            Phase::Requested { id, .. } | Phase::Answering { id, .. } => Some(*id),
            Phase::Agreed(agreed) => Some(agreed.id),
            Phase::Legless { id } => *id,
            _ => None,
        };
        [Some(self.id), pending, self.theirs.map(|theirs| theirs.id)]
            .into_iter()
            .flatten()
    }

    /// Stream bytes written and read so far, over all legs.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.sent, self.received)
    }

    /// The leg to which the application's bytes go.
    #[must_use]
    pub fn write_to(&self) -> WriteTo {
        match (&self.phase, self.out) {
            (Phase::Aborted(abort), _) => WriteTo::Aborted(*abort),
            (_, Out::Open) if self.is_written_in_vain() => WriteTo::Aborted(Abort::Gone),
            (_, Out::Closed) | (Phase::Finished, _) => WriteTo::Closed,
            (_, Out::Failed) => WriteTo::Failed,
            (Phase::Legless { .. }, Out::Open) => WriteTo::Keep,
            (_, Out::Open) if self.is_replaying() => WriteTo::Keep,
            (Phase::Agreed(agreed), Out::Open) if agreed.out_switched.is_some() => {
                WriteTo::Leg(Slot::New)
            }
            (_, Out::Open) if self.will_write_elsewhere() => WriteTo::Hold,
            (_, Out::Open) => WriteTo::Leg(Slot::Current),
        }
    }

    /// True if the old leg takes nothing more and the new one will, but does not yet.
    #[must_use]
    pub fn will_write_elsewhere(&self) -> bool {
        let agreed = matches!(&self.phase, Phase::Agreed(a) if a.out_switched.is_none());
        agreed && self.current.refused && self.out != Out::Failed
    }

    /// The leg from which the application's bytes come.
    #[must_use]
    pub fn read_from(&self) -> ReadFrom {
        if self.in_ended {
            return ReadFrom::Ended;
        }
        match &self.phase {
            Phase::Aborted(abort) => ReadFrom::Aborted(*abort),
            Phase::Finished => ReadFrom::Ended,
            Phase::Legless { .. } => ReadFrom::Hold,
            _ if self.unexplained.is_some() => ReadFrom::Hold,
            Phase::Requested { held: Some(_), .. } | Phase::Answering { held: Some(_), .. } => {
                ReadFrom::Hold
            }
            Phase::Agreed(agreed) if agreed.in_switched => ReadFrom::Leg(Slot::New),
            Phase::Agreed(agreed) if agreed.in_end.is_some() => ReadFrom::Hold,
            _ => ReadFrom::Leg(Slot::Current),
        }
    }

    /// A leg that has to be read although the application's input has ended, or is elsewhere: its end must
    /// come, and data on it is a violation (*Half-closed streams*).
    #[must_use]
    pub fn check(&self) -> Option<Slot> {
        match &self.phase {
            Phase::Agreed(agreed) if agreed.in_switched && agreed.in_end.is_none() => {
                Some(Slot::Current)
            }
            _ if !self.in_ended => None,
            Phase::Aborted(_) | Phase::Finished | Phase::Legless { .. } => None,
            Phase::Agreed(agreed) if agreed.in_switched => (!agreed.new.read).then_some(Slot::New),
            _ => (!self.current.read).then_some(Slot::Current),
        }
    }

    /// True if the first message on the new leg, the remote's count, is being waited for.
    #[must_use]
    pub fn awaits_count(&self) -> bool {
        #[cfg(any(test, stream_migration_mutants))]
        if self.gave_count_up() {
            return false;
        }
        self.needs_count()
    }

    pub(super) fn needs_count(&self) -> bool {
        matches!(&self.phase, Phase::Agreed(a) if a.verify && a.count.is_none())
    }

    /// True if what comes on the new leg is the application's, and it is not its turn.
    #[must_use]
    pub fn is_before_new(&self) -> bool {
        matches!(&self.phase, Phase::Agreed(a) if !a.in_switched) && !self.needs_count()
    }

    /// True if as much has been read as the remote's count says, or its word, and the machine has not been
    /// told: [`Input::ReadAll`].
    #[must_use]
    #[inline]
    pub fn has_read_all(&self) -> bool {
        self.received >= self.word.bound()
            || matches!(&self.phase, Phase::Agreed(a) if !a.in_switched && a.count == Some(self.received))
    }

    /// True if the answer on our attempt's leg is being waited for.
    #[must_use]
    pub fn awaits_answer(&self) -> bool {
        matches!(
            self.phase,
            Phase::Requested { .. } | Phase::Legless { id: Some(_) }
        )
    }

    /// True if our accepting ack is being written.
    #[must_use]
    pub fn awaits_ack_written(&self) -> bool {
        matches!(self.phase, Phase::Answering { .. })
    }

    /// True if an EOF needs the empty write on every kind of leg: because a failed attempt leaves,
    /// or may yet leave, the current one in doubt; or because of a verified switch.
    ///
    /// The latter is needed for QUIC. A side that has completed a migration cannot know whether
    /// the other will: if it aborts instead, because its own end of the old leg was cut, its drop of a
    /// QUIC leg is a FIN, and would be a clean end. The empty write tells the two apart, as long as an
    /// ordinary close and drop does not look the same; so a stream of ours that has switched reads on
    /// after such a drop, in the background, to the remote's end.
    #[must_use]
    pub fn needs_proof(&self) -> bool {
        !self.is_spoken_to() && (self.doubt || self.has_verified || self.phase != Phase::Stable)
    }

    /// True if what still comes in has to be read and thrown away.
    #[must_use]
    pub fn discards(&self) -> bool {
        self.detached && self.reads_on() && self.phase == Phase::Stable && !self.in_ended
    }

    /// True if a drop does not end reading.
    pub(super) fn reads_on(&self) -> bool {
        self.has_verified || self.listening || self.is_spoken_to()
    }

    /// True if an end has been read, and whether it is one has still to be heard.
    #[must_use]
    pub fn awaits_word(&self) -> bool {
        self.unexplained.is_some()
    }

    /// True if nothing that the remote has still to say is waited for.
    pub(super) fn is_heard_to_its_end(&self) -> bool {
        match self.word {
            Word::Said(said) => said.done,
            Word::Awaited => false,
            Word::None => self.current.read || !self.in_ended && !self.reads_on(),
        }
    }

    /// True if nothing but the rest of the old leg, in an agreed migration, is waited for.
    #[must_use]
    pub fn waits_for_reader(&self) -> bool {
        let Phase::Agreed(agreed) = &self.phase else {
            return false;
        };
        let closing = agreed.out_switched.is_some() && !self.current.closed;
        let reading = agreed.in_end.is_none() && !agreed.in_switched;
        reading && !closing && !self.awaits_count()
    }

    /// True if our FIN is, or may be, on the current leg.
    #[must_use]
    pub fn has_closed_current(&self) -> bool {
        self.current.fin
    }

    /// True if our FIN is, or may be, on the new leg.
    #[must_use]
    pub fn has_closed_new(&self) -> bool {
        matches!(&self.phase, Phase::Agreed(agreed) if agreed.new.fin)
    }

    /// The leg that carries the application's FIN.
    #[must_use]
    pub fn closes(&self) -> Slot {
        match &self.phase {
            Phase::Agreed(agreed) if agreed.out_switched.is_some() => Slot::New,
            _ => Slot::Current,
        }
    }

    /// True if a migration of this stream is under way, from `Migrate` to completion.
    #[must_use]
    pub fn is_migrating(&self) -> bool {
        matches!(
            self.phase,
            Phase::Requested { .. } | Phase::Answering { .. } | Phase::Agreed(_)
        )
    }

    /// True if both sides have agreed on a migration that is not complete.
    #[must_use]
    pub fn is_agreed(&self) -> bool {
        matches!(self.phase, Phase::Agreed(_))
    }

    /// True if there is anything left to do that the application does not do by reading or writing.
    #[must_use]
    pub fn has_background_work(&self) -> bool {
        match self.phase {
            Phase::Aborted(_) | Phase::Finished => false,
            Phase::Stable => {
                self.theirs.is_some()
                    || self.current.fin && !self.current.closed
                    || self.in_ended && !self.current.read
                    || self.detached
                    || self.is_unexplained()
                    || self.waits_for_rest()
                    || self.is_replaying()
            }
            Phase::Legless { .. } => true,
            Phase::Requested { .. } | Phase::Answering { .. } | Phase::Agreed(_) => true,
        }
    }

    /// True if both directions have ended for the application.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.in_ended && self.out == Out::Closed
    }

    /// The result of the stream, if it is over.
    #[must_use]
    pub fn over(&self) -> Option<Result<(), Abort>> {
        match self.phase {
            Phase::Aborted(abort) => Some(Err(abort)),
            Phase::Finished => Some(Ok(())),
            _ => None,
        }
    }

    /// The permission to start a migration, or why there is none.
    pub fn may_start(&self) -> Result<(), Refused> {
        if self.denied_by_them {
            return Err(Refused::Denied);
        }
        if self.has_ended() || self.out == Out::Failed || self.detached {
            return Err(Refused::Ended);
        }
        match self.phase {
            Phase::Stable
                if self.theirs.is_none() && self.unexplained.is_none() && !self.is_replaying() =>
            {
                Ok(())
            }
            Phase::Aborted(_) | Phase::Finished => Err(Refused::Ended),
            _ => Err(Refused::Migrating),
        }
    }

    /// True if a `Migrate` from this ID takes the place of the one that is unanswered, if there is
    /// one.
    ///
    /// The remote has one attempt at a time, so the newer one counts; but one may overtake the other on
    /// its way here. From the ID that the stream is about to have is newer than from the one it has, and
    /// that is newer than from any other.
    #[must_use]
    pub fn replaces_theirs(&self, from: StreamId) -> bool {
        let pending = match &self.phase {
            Phase::Requested { id, .. } | Phase::Answering { id, .. } => Some(*id),
            Phase::Agreed(agreed) => Some(agreed.id),
            Phase::Stable | Phase::Legless { .. } | Phase::Aborted(_) | Phase::Finished => None,
        };
        let age = |from| match from {
            from if Some(from) == pending => 0,
            from if from == self.id => 1,
            _ => 2,
        };
        self.theirs
            .is_none_or(|theirs| age(from) <= age(theirs.from))
    }

    /// True if the stream has this ID, or is about to: not one that an unanswered `Migrate` would
    /// give it.
    #[must_use]
    pub fn may_move_from(&self, from: StreamId) -> bool {
        let pending = match &self.phase {
            Phase::Requested { id, .. } | Phase::Answering { id, .. } => Some(*id),
            Phase::Agreed(agreed) => Some(agreed.id),
            Phase::Stable | Phase::Legless { .. } | Phase::Aborted(_) | Phase::Finished => None,
        };
        from == self.id || Some(from) == pending
    }

    /// True if the policy has been asked about a `Migrate` of the remote's and has not answered.
    #[must_use]
    pub fn is_asking(&self) -> bool {
        self.theirs.is_some_and(|theirs| theirs.asked.is_some())
    }

    /// True if the policy has been asked this and has not answered.
    #[must_use]
    pub fn has_asked(&self, question: Question) -> bool {
        self.theirs.is_some_and(|it| it.asked == Some(question))
    }

    /// True if a `Migrate` of the remote's waits until the policy can be asked about it.
    #[must_use]
    pub fn holds_theirs(&self) -> bool {
        self.theirs.is_some_and(|theirs| theirs.asked.is_none())
    }

    /// True if an attempt that failed has left the current leg in doubt.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.doubt
    }

    /// True if the remote is known to verify.
    #[must_use]
    pub fn peer_verifies(&self) -> bool {
        self.peer_verifies
    }
}
