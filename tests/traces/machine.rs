//! The crate's machine under the name by which the stream knows it, but with a rule that can be
//! removed.

use std::{
    cell::Cell,
    ops::{Deref, DerefMut},
};

pub(crate) use crate::genuine::*;
use crate::genuine::{
    self,
    rules::{Rule, Rules},
};

thread_local! {
    /// The stream makes its machine itself, so what the next one does not obey is said here.
    static WITHOUT: Cell<Option<Rule>> = const { Cell::new(None) };
}

/// The machines made from now on, by this thread, do not obey this rule.
pub(crate) fn without(rule: Option<Rule>) {
    WITHOUT.set(rule);
}

#[derive(Debug)]
pub(crate) struct Machine {
    genuine: genuine::Machine,
    without: Option<Rule>,
    gives_up_count: bool,
}

impl Machine {
    pub(crate) fn new(id: StreamId, setup: Setup) -> Self {
        let without = WITHOUT.get();
        Self {
            genuine: genuine::Machine::new(id, setup).with_rules(Rules { without }),
            without,
            gives_up_count: false,
        }
    }

    /// Rule 10 is obeyed twice: who waits for a message takes a leg's end for a failed read, so the
    /// machine does not get to see that it was an EOF.
    pub(crate) fn handle(&mut self, input: Input) {
        let ignores = self.without == Some(Rule::EndBeforeCountAborts);
        if input == Input::ReadFailed(Slot::New) && ignores && self.awaits_count() {
            self.gives_up_count = true;
            let eof = Eof::new(Proof::Unavailable, true);
            return self.genuine.handle(Input::End(Slot::New, eof));
        }
        self.genuine.handle(input);
    }

    pub(crate) fn awaits_count(&self) -> bool {
        self.genuine.awaits_count() && !self.gives_up_count
    }
}

impl Deref for Machine {
    type Target = genuine::Machine;

    fn deref(&self) -> &genuine::Machine {
        &self.genuine
    }
}

impl DerefMut for Machine {
    fn deref_mut(&mut self) -> &mut genuine::Machine {
        &mut self.genuine
    }
}
