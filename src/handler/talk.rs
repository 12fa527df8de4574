//! The two control substreams of a connection, where no layer has them (*Facts*).

use std::{
    collections::BTreeMap,
    task::{Context, Poll},
};

use libp2p_swarm::Stream;
use web_time::Instant;

use crate::{
    conversation::{Ours, Said, Theirs},
    inbox::Slit,
    machine::{Facts, StreamId},
    protocol::codec::{Control, Hello},
    pulse::Pulse,
};

/// Words in one message, each of which takes 51 bytes at most.
const FACTS_PER_MESSAGE: usize = 64;

/// Pings that are answered in a second; the rest are ignored.
const PONGS_PER_SECOND: u32 = 10;

/// Something that the behaviour has to know.
pub(super) enum Heard {
    Violation,
    /// Our own substream is refused, or gone.
    Mute,
}

/// The words that are said on a connection, and heard.
pub(super) struct Talk {
    ours: Option<Ours<Stream>>,
    /// The word on each stream that is still to be said: the newest contains all older ones.
    facts: BTreeMap<StreamId, Facts>,
    /// A question of ours, and an answer to the remote's, that are still to be said.
    ping: Option<u64>,
    pong: Option<u64>,
    /// The answers in the second that began then.
    pongs: (Option<Instant>, u32),
    theirs: Option<Theirs>,
    slit: Slit,
    pulse: Pulse,
}

impl Talk {
    pub(super) fn new(slit: Slit, pulse: Pulse) -> Self {
        Self {
            ours: None,
            facts: BTreeMap::new(),
            ping: None,
            pong: None,
            pongs: (None, 0),
            theirs: None,
            slit,
            pulse,
        }
    }

    /// Asks whether anybody is there; a later question takes an earlier one's place.
    pub(super) fn ping(&mut self, number: u64) {
        self.ping = Some(number);
    }

    fn pinged(&mut self, number: u64) {
        let (since, answers) = &mut self.pongs;
        if since.is_none_or(|since| since.elapsed().as_secs() >= 1) {
            (*since, *answers) = (Some(Instant::now()), 0);
        }
        *answers += 1;
        if *answers <= PONGS_PER_SECOND {
            self.pong = Some(number);
        }
    }

    pub(super) fn say(&mut self, origin: StreamId, facts: Facts) {
        self.facts.insert(origin, facts);
    }

    /// Our substream is open.
    pub(super) fn opened(&mut self, mut stream: Stream, hello: Hello) {
        stream.ignore_for_keep_alive();
        let hello = Control {
            hello: Some(hello),
            ..Control::default()
        };
        self.ours = Some(Ours::new(stream, &hello));
    }

    /// We close the connection on purpose, and say so, if anything can still be said.
    pub(super) fn say_bye(&mut self) {
        if let Some(ours) = &mut self.ours {
            ours.say(&Control {
                bye: true,
                ..Control::default()
            });
        }
    }

    /// True if both sides' words are at an end.
    pub(super) fn is_over(&self) -> bool {
        self.ours.is_none() || self.theirs.is_none()
    }

    /// Nothing can be said any more; what was to be, is said elsewhere.
    pub(super) fn mute(&mut self) {
        self.ours = None;
        self.facts.clear();
        (self.ping, self.pong) = (None, None);
    }

    /// The remote's substream; a new one takes the old one's place.
    pub(super) fn accepted(&mut self, mut stream: Stream) {
        stream.ignore_for_keep_alive();
        self.theirs = Some(Theirs::new(stream));
    }

    /// Puts what is said through the slit, and answers what is asked.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Heard> {
        // What comes first, so that it is answered in the same turn.
        if self.poll_theirs(cx).is_ready() {
            return Poll::Ready(Heard::Violation);
        }
        if let Some(ours) = &mut self.ours {
            loop {
                if ours.poll(cx).is_ready() {
                    self.mute();
                    return Poll::Ready(Heard::Mute);
                }
                let nothing = self.facts.is_empty() && self.ping.is_none() && self.pong.is_none();
                if nothing || !ours.is_said() {
                    return Poll::Pending;
                }
                let number = self.facts.len().min(FACTS_PER_MESSAGE);
                let facts = (0..number).filter_map(|_| self.facts.pop_first());
                ours.say(&Control {
                    facts: facts.collect(),
                    ping: self.ping.take(),
                    pong: self.pong.take(),
                    ..Control::default()
                });
            }
        }
        Poll::Pending
    }

    /// Ready if the remote has said what no peer says.
    fn poll_theirs(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(theirs) = &mut self.theirs
            && self.slit.has_room(cx)
        {
            match theirs.poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Said::Control(mut control)) => {
                    self.pulse.beat();
                    if control.bye {
                        // That it was heard, the remote sees by this.
                        self.mute();
                    }
                    if let Some(number) = control.ping.take() {
                        self.pinged(number);
                    }
                    if control != Control::default() {
                        self.slit.put(control);
                    }
                }
                Poll::Ready(Said::Violation) => {
                    self.theirs = None;
                    return Poll::Ready(());
                }
                Poll::Ready(Said::End) => self.theirs = None,
            }
        }
        Poll::Pending
    }
}
