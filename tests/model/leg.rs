//! One substream of the model: two ordered pipes, and what each end knows of it.

use std::hash::{Hash, Hasher};

use crate::machine::Facts;

/// How a leg shows a reset and a loss (`docs/legs.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// A loss is a read error; an object that is dropped sends FIN and STOP_SENDING.
    Quic,
    /// A loss and a reset read as an EOF; an object that is dropped sends RST, or nothing if its
    /// write side is closed.
    Yamux,
    /// A loss and a reset are read errors.
    Reset,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Item {
    Data(u8),
    Migrate,
    Ack,
    AckVerify,
    Deny,
    Switched(u8),
    Cancelled,
    /// What it says is kept with the leg, as with `Migrate`.
    Resume,
    Resumed,
    Fin,
}

/// Facts that are written on a leg, in a state's space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Word {
    received: u8,
    total: Option<u8>,
    lost: Option<u8>,
    sent: Option<u8>,
    done: bool,
    gone: bool,
}

impl From<Facts> for Word {
    fn from(facts: Facts) -> Self {
        let small = |n: Option<u64>| n.map(|n| n as u8);
        Self {
            received: facts.received as u8,
            total: small(facts.total),
            lost: small(facts.lost),
            sent: small(facts.sent),
            done: facts.done,
            gone: facts.gone,
        }
    }
}

impl From<Word> for Facts {
    fn from(word: Word) -> Self {
        Self {
            received: word.received.into(),
            done: word.done,
            total: word.total.map(u64::from),
            lost: word.lost.map(u64::from),
            gone: word.gone,
            sent: word.sent.map(u64::from),
        }
    }
}

const ROOM: usize = 8;

/// What one side has written and the other has not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pipe {
    items: [Item; ROOM],
    len: u8,
    /// The writer's object has reset it.
    pub(crate) reset: bool,
    /// The FIN comes from a drop, not from a close.
    pub(crate) dropped: bool,
}

impl Hash for Pipe {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.len, self.reset, self.dropped).hash(state);
        self.items[..usize::from(self.len)]
            .iter()
            .for_each(|item| item.hash(state));
    }
}

impl Pipe {
    const EMPTY: Self = Self {
        items: [Item::Fin; ROOM],
        len: 0,
        reset: false,
        dropped: false,
    };

    pub(crate) fn push(&mut self, item: Item) {
        self.items[usize::from(self.len)] = item;
        self.len += 1;
    }

    pub(crate) fn first(&self) -> Option<Item> {
        (self.len > 0).then(|| self.items[0])
    }

    pub(crate) fn pop(&mut self) {
        self.items.copy_within(1.., 0);
        self.items[ROOM - 1] = Item::Fin;
        self.len -= 1;
    }

    pub(crate) fn clear(&mut self) {
        self.items = [Item::Fin; ROOM];
        self.len = 0;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Hold {
    /// The remote opened it, and nothing of it has been read here.
    Unseen,
    Held,
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Write {
    Open,
    /// To be closed, not done yet.
    Closing,
    /// The FIN is out, and that has not been reported.
    Sent,
    Closed,
}

/// One end of a leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Seat {
    pub(crate) hold: Hold,
    pub(crate) write: Write,
    /// Something was written that went nowhere: the failure may be noticed.
    pub(crate) void: bool,
    /// The failure of a write has been noticed.
    pub(crate) failed: bool,
    /// The remote's end has been read.
    pub(crate) ended: bool,
    /// Our drop tells the remote that its writes are in vain.
    pub(crate) stopped: bool,
    /// Something was read here after the agreement (*Pruning*).
    pub(crate) heard: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leg {
    pub(crate) connection: u8,
    pub(crate) kind: Kind,
    /// What its `Migrate` says: ID, from, verify.
    pub(crate) migrate: Option<(u8, u8, bool)>,
    /// What its `Resume` says beside the facts: ID and generation.
    pub(crate) resume: Option<(u8, u8)>,
    /// The facts of a `Resume` and of the answer, by writer.
    pub(crate) words: [Option<Word>; 2],
    /// By writer.
    pub(crate) pipes: [Pipe; 2],
    pub(crate) seats: [Seat; 2],
}

impl Hash for Leg {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.is_gone().hash(state);
        if self.is_gone() {
            return;
        }
        (self.connection, self.kind).hash(state);
        (self.migrate, self.resume, self.words).hash(state);
        (self.pipes, self.seats).hash(state);
    }
}

impl Leg {
    const SEAT: Seat = Seat {
        hold: Hold::Held,
        write: Write::Open,
        void: false,
        failed: false,
        ended: false,
        stopped: false,
        heard: false,
    };

    /// A place without a leg.
    pub(crate) const NONE: Self = Self {
        connection: 0,
        kind: Kind::Quic,
        migrate: None,
        resume: None,
        words: [None; 2],
        pipes: [Pipe::EMPTY; 2],
        seats: [Seat {
            hold: Hold::Gone,
            ..Self::SEAT
        }; 2],
    };

    /// The stream's first leg, labelled and accepted.
    pub(crate) fn first(connection: u8, kind: Kind) -> Self {
        Self {
            connection,
            kind,
            seats: [Self::SEAT; 2],
            ..Self::NONE
        }
    }

    /// A leg that `side` has just opened.
    pub(crate) fn opened(connection: u8, kind: Kind, side: usize) -> Self {
        let mut leg = Self::first(connection, kind);
        leg.seats[1 - side].hold = Hold::Unseen;
        leg
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.seats.iter().all(|seat| seat.hold == Hold::Gone)
    }

    /// Whether writes of this side are known, somewhere on this side, to be in vain.
    pub(crate) fn refuses(&self, side: usize, lost: bool) -> bool {
        lost || self.seats[1 - side].stopped
    }

    /// This side writes something.
    pub(crate) fn write(&mut self, side: usize, item: Item, lost: bool) {
        if self.refuses(side, lost) {
            self.seats[side].void = true;
        } else if self.seats[1 - side].hold != Hold::Gone {
            self.pipes[side].push(item);
        }
    }

    /// Both sides are to find that it is gone.
    pub(crate) fn break_off(&mut self) {
        for side in [0, 1] {
            self.seats[side].stopped = true;
            self.pipes[side].reset = self.seats[1 - side].hold != Hold::Gone;
        }
    }

    /// This side drops its object.
    pub(crate) fn drop_seat(&mut self, side: usize, lost: bool) {
        let ended = self.seats[side].ended;
        if self.seats[side].hold == Hold::Gone {
            return;
        }
        let open = matches!(self.seats[side].write, Write::Open | Write::Closing);
        let mut stopped = !ended;
        if !lost {
            match self.kind {
                Kind::Quic if open => {
                    self.pipes[side].dropped = true;
                    self.write(side, Item::Fin, lost);
                }
                // After the remote's FIN a drop sends FIN.
                Kind::Yamux if open && ended => self.write(side, Item::Fin, lost),
                Kind::Yamux | Kind::Reset if open => {
                    self.pipes[side].reset = self.seats[1 - side].hold != Hold::Gone;
                    stopped = true;
                }
                Kind::Yamux => stopped = false,
                Kind::Quic | Kind::Reset => {}
            }
        }
        self.seats[side] = Seat {
            hold: Hold::Gone,
            write: Write::Closed,
            stopped,
            ..Leg::NONE.seats[0]
        };
        self.pipes[1 - side].clear();
        self.pipes[1 - side].reset = false;
    }
}
