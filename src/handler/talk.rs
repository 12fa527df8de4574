//! The two control substreams of a connection, where no layer has them (*Facts*).

use std::{
    collections::BTreeMap,
    task::{Context, Poll},
};

use libp2p_swarm::Stream;

use crate::{
    conversation::{Ours, Said, Theirs},
    machine::{Facts, StreamId},
    protocol::codec::{Control, Hello},
};

/// Words in one message, each of which takes 51 bytes at most.
const FACTS_PER_MESSAGE: usize = 64;

/// Something that is said there.
pub(super) enum Heard {
    Control(Control),
    Violation,
    /// Our own substream is refused, or gone.
    Mute,
}

/// The words that are said on a connection, and heard.
#[derive(Default)]
pub(super) struct Talk {
    ours: Option<Ours<Stream>>,
    /// The word on each stream that is still to be said: the newest contains all older ones.
    facts: BTreeMap<StreamId, Facts>,
    theirs: Option<Theirs>,
}

impl Talk {
    pub(super) fn say(&mut self, origin: StreamId, facts: Facts) {
        self.facts.insert(origin, facts);
    }

    /// Our substream is open.
    pub(super) fn opened(&mut self, mut stream: Stream, epoch: u64) {
        stream.ignore_for_keep_alive();
        let hello = Control {
            hello: Some(Hello {
                epoch,
                connection: None,
                facts: true,
            }),
            ..Control::default()
        };
        self.ours = Some(Ours::new(stream, &hello));
    }

    /// Nothing can be said any more; what was to be, is said elsewhere.
    pub(super) fn mute(&mut self) {
        self.ours = None;
        self.facts.clear();
    }

    /// The remote's substream; a new one takes the old one's place.
    pub(super) fn accepted(&mut self, mut stream: Stream) {
        stream.ignore_for_keep_alive();
        self.theirs = Some(Theirs::new(stream));
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Heard> {
        if let Some(ours) = &mut self.ours {
            loop {
                if ours.poll(cx).is_ready() {
                    self.mute();
                    return Poll::Ready(Heard::Mute);
                }
                if self.facts.is_empty() || !ours.is_said() {
                    break;
                }
                let number = self.facts.len().min(FACTS_PER_MESSAGE);
                let facts = (0..number).filter_map(|_| self.facts.pop_first());
                ours.say(&Control {
                    facts: facts.collect(),
                    ..Control::default()
                });
            }
        }
        let Some(theirs) = &mut self.theirs else {
            return Poll::Pending;
        };
        match theirs.poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Said::Control(control)) => Poll::Ready(Heard::Control(control)),
            Poll::Ready(Said::Violation) => {
                self.theirs = None;
                Poll::Ready(Heard::Violation)
            }
            Poll::Ready(Said::End) => {
                self.theirs = None;
                Poll::Pending
            }
        }
    }
}
