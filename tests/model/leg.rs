//! One substream of the model: two ordered pipes, and what each end knows of it.

use crate::machine::StreamId;

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
    Fin,
}

const ROOM: usize = 8;

/// What one side has written and the other has not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Pipe {
    items: [Item; ROOM],
    len: u8,
    /// The writer's object has reset it.
    pub(crate) reset: bool,
    /// The FIN comes from a drop, not from a close.
    pub(crate) dropped: bool,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Leg {
    pub(crate) connection: u8,
    pub(crate) kind: Kind,
    /// What its `Migrate` says: ID, from, verify.
    pub(crate) migrate: Option<(StreamId, StreamId, bool)>,
    /// By writer.
    pub(crate) pipes: [Pipe; 2],
    pub(crate) seats: [Seat; 2],
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
