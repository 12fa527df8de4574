//! The remote's word on the stream, beside its legs: between two that speak, only that is believed (*Facts*).

use super::*;

/// The remote's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Word {
    /// None: it does not speak.
    None,
    /// An answer is awaited on whether it speaks.
    Awaited,
    /// Everything that it has said.
    Said(Said),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Said {
    pub(super) done: bool,
    total: Option<u64>,
    /// The bytes that it wrote on the legs of a stream that it has let go of.
    pub(super) gone: Option<u64>,
    /// True if it resumes; `None` until it has said so.
    pub(super) resumes: Option<bool>,
}

impl From<Speech> for Word {
    fn from(speech: Speech) -> Self {
        match speech {
            Speech::No => Self::None,
            Speech::Asked => Self::Awaited,
            Speech::Yes => Self::Said(Said::default()),
            Speech::Resumes => Self::Said(Said {
                resumes: Some(true),
                ..Said::default()
            }),
        }
    }
}

impl Word {
    /// The count at which something is to be done.
    #[inline]
    pub(super) fn bound(self) -> u64 {
        match self {
            Self::Said(said) => said.total.or(said.gone).unwrap_or(u64::MAX),
            Self::None | Self::Awaited => u64::MAX,
        }
    }
}

impl Machine {
    /// Our word on the stream.
    #[must_use]
    pub fn facts(&self) -> Facts {
        let known = self.word.bound() == self.received;
        let gone = match self.phase {
            Phase::Aborted(_) => true,
            Phase::Finished => !self.in_ended,
            _ => false,
        };
        Facts {
            received: self.received,
            done: self.in_ended && known,
            total: (self.out == Out::Closed).then_some(self.sent),
            lost: self.has_lost(),
            gone,
            sent: gone.then_some(self.sent),
        }
    }

    /// True if the remote says and believes facts.
    #[must_use]
    pub fn is_spoken_to(&self) -> bool {
        matches!(self.word, Word::Said(_))
    }

    /// True if the remote says and believes facts, or may yet say so.
    #[must_use]
    pub fn may_speak(&self) -> bool {
        self.word != Word::None
    }

    /// True if an end has been read that the remote has still to explain.
    #[must_use]
    pub fn is_unexplained(&self) -> bool {
        self.unexplained.is_some() && self.is_spoken_to()
    }

    /// True if the remote has said that it holds nothing of the stream any more.
    #[inline]
    pub(super) fn is_written_in_vain(&self) -> bool {
        matches!(self.word, Word::Said(Said { gone: Some(_), .. }))
    }

    pub(super) fn say(&mut self) {
        if self.is_spoken_to() {
            self.put(Output::Say);
        }
    }

    /// The answer on whether the remote gives its word; if not, ends are judged as they always were.
    pub(super) fn speaks(&mut self, speech: Speech) {
        match (&mut self.word, speech) {
            (_, Speech::Asked) => {}
            (Word::Said(said), speech) => {
                said.resumes.get_or_insert(speech == Speech::Resumes);
            }
            (Word::None | Word::Awaited, Speech::Yes | Speech::Resumes) => {
                self.word = Word::Said(Said {
                    resumes: Some(speech == Speech::Resumes),
                    ..Said::default()
                });
                self.doubt = false;
                self.peer_verifies = true;
                if self.out == Out::Closed {
                    self.say();
                }
                self.wait_for_word();
            }
            (Word::Awaited, Speech::No) => {
                self.word = Word::None;
                if let Some(eof) = self.unexplained.take() {
                    match self.phase {
                        Phase::Stable => self.judge(eof),
                        _ => self.accept_end(eof),
                    }
                    self.consider_theirs();
                }
            }
            (Word::None, Speech::No) => {}
        }
    }

    pub(super) fn said(&mut self, facts: Facts) {
        let Word::Said(mut said) = self.word else {
            return;
        };
        let other = said
            .total
            .is_some_and(|total| facts.total.is_some_and(|it| it != total));
        let early = facts.done && (self.out == Out::Open || facts.received != self.sent);
        if facts.received > self.sent || other || early {
            return self.abort(Abort::Violation);
        }
        said.total = said.total.or(facts.total);
        said.done |= facts.done;
        if facts.gone {
            if self.has_ended() {
                // It had nothing more to hear of us either, so it has forgotten.
                said.done = true;
            } else {
                said.gone = Some(facts.sent.unwrap_or(self.received));
            }
        }
        self.word = Word::Said(said);
        self.kept.acknowledge(facts.received);
        self.read_all();
        self.wait_for_rest();
        self.said_of_legs(facts);
    }

    /// As much has been read as some count says.
    pub(super) fn read_all(&mut self) {
        self.advance();
        let Word::Said(said) = self.word else {
            return;
        };
        if self.in_ended || self.over().is_some() {
            return self.lose_interest(said);
        }
        match said.total {
            Some(total) if total < self.received => self.abort(Abort::Violation),
            Some(total) if total == self.received || !obeys!(self, TotalIsCompared) => {
                self.in_ended = true;
                self.say();
                if self.unexplained.take().is_some() && self.phase == Phase::Stable {
                    if !self.detached {
                        self.put(Output::Disarm);
                    }
                    self.consider_theirs();
                }
                self.lose_interest(said);
            }
            _ if said.gone.is_some_and(|sent| sent <= self.received) => self.abort(Abort::Gone),
            // What is missing will not come.
            _ if self.unexplained.is_some() => self.end_unexplained(),
            _ => {}
        }
    }

    /// Nobody reads what we write.
    fn lose_interest(&mut self, said: Said) {
        if said.gone.is_some() && self.over().is_none() {
            self.abort(Abort::Gone);
        }
    }

    /// An end by itself says no more than that nothing further comes on this leg. Returns whether it waits for the
    /// remote's word.
    pub(super) fn waits_for_word(&mut self, eof: Eof) -> bool {
        let waits = self.word != Word::None && obeys!(self, EndNeedsWord);
        if waits {
            self.unexplained = Some(eof);
            self.wait_for_word();
        }
        waits
    }

    /// True if the remote has let go of the stream, and what it wrote before is still to be read. The reader may take
    /// its time; but is the path there?
    pub(super) fn waits_for_rest(&self) -> bool {
        self.is_written_in_vain() && self.phase == Phase::Stable && !self.detached
    }

    pub(super) fn wait_for_rest(&mut self) {
        if self.waits_for_rest() {
            self.put(Output::Arm(Timer::Explain));
        }
    }

    /// Goes on waiting for the word on an end, where one has been read.
    pub(super) fn wait_for_word(&mut self) {
        if !self.is_unexplained() {
            return self.wait_for_rest();
        }
        self.read_all();
        if self.unexplained.is_some() && self.phase == Phase::Stable {
            // Whoever has forgotten the stream says so when it hears of it.
            self.say();
            if !self.detached {
                self.put(Output::Arm(Timer::Explain));
            }
        }
    }

    /// An end that is known to be none.
    fn end_unexplained(&mut self) {
        if let Word::Said(said) = self.word
            && self.over().is_none()
        {
            match said {
                Said { gone: Some(_), .. } => self.abort(Abort::Gone),
                Said { total: Some(_), .. } => self.fail(Abort::Cut),
                _ => {}
            }
        }
    }
}
