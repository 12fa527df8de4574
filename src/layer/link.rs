//! A link: a physical connection, what is said on its control substreams, and what is being opened on it.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use futures::{
    FutureExt, StreamExt,
    channel::oneshot,
    future::{BoxFuture, Either, select},
    stream::FuturesUnordered,
};
use libp2p_core::{
    ConnectedPoint, Multiaddr,
    muxing::{StreamMuxer, StreamMuxerBox, StreamMuxerEvent},
};
use multistream_select::{Negotiated, NegotiationError, Version, dialer_select_proto};
use web_time::Instant;

use super::{
    io::{Lazy, Load, Physical},
    peek::{self, CONTROL, Peeked},
    wakers::PeerWaker,
};
use crate::{
    conversation::{self, Ours, Said, Theirs},
    hub::Purpose,
    migratable::after,
    permits::Permits,
    protocol::codec::{Control, Hello, Request},
};

/// Inbound substreams that are looked at, at once.
const MAX_PEEKS: usize = 128;

/// The time that an inbound substream has to say what it is.
const PEEK_TIMEOUT: Duration = Duration::from_secs(10);

/// Legs that wait for the remote's hello, which they have overtaken.
pub(super) const MAX_EARLY: usize = 128;

/// A substream that is to be opened.
pub(super) enum Open {
    /// Our control substream.
    Control,
    /// A substream that the hub wants.
    Hub(Purpose),
    /// One that belongs to the link itself.
    Plain(oneshot::Sender<Physical>),
}

/// A thing that has happened on a link.
pub(super) enum LinkEvent {
    /// The remote speaks on its control substream.
    Said(Control),
    /// The remote has said what it should not.
    Violation,
    /// Our control substream is refused, or gone.
    Silenced,
    Peeked(Peeked),
    /// The substream that the hub wanted; or `None`, and whether the remote has answered.
    Opened(Purpose, Result<Negotiated<Physical>, (String, bool)>),
    Moved(Multiaddr),
    Lost(io::Error),
    /// The link is closed, as we wanted.
    Closed,
}

/// Limits and our hello, with which a link is polled.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) hello: Hello,
    pub(super) answer_timeout: Duration,
    /// Substreams of either side that the muxer carries.
    pub(super) limit: usize,
}

type Opening = BoxFuture<'static, LinkEvent>;

pub(super) struct Link {
    muxer: StreamMuxerBox,
    pub(super) endpoint: ConnectedPoint,
    ours: Option<Ours<Lazy>>,
    theirs: Option<Theirs>,
    /// Connections of ours that are closed, which the remote has still to hear.
    pub(super) closed: Vec<u64>,
    opens: VecDeque<Open>,
    opening: FuturesUnordered<Opening>,
    peeks: FuturesUnordered<BoxFuture<'static, Peeked>>,
    /// Legs that have overtaken the remote's hello.
    pub(super) early: Vec<(Physical, Request)>,
    pub(super) load: Arc<Load>,
    /// Reasons for keeping it, of the hub's.
    pub(super) alive: Permits,
    /// Whoever waits for it to be known whether there is a layer.
    waiting: Vec<Waker>,
    /// The hub wants to know when it is unused, which may not be before this.
    pub(super) watch: Option<Option<Instant>>,
    /// The time since when nothing uses it.
    pub(super) unused_since: Option<Instant>,
    pub(super) closing: bool,
}

impl Link {
    pub(super) fn new(
        muxer: StreamMuxerBox,
        endpoint: ConnectedPoint,
        waker: &Arc<PeerWaker>,
    ) -> Self {
        Self {
            muxer,
            endpoint,
            ours: None,
            theirs: None,
            closed: Vec::new(),
            opens: VecDeque::new(),
            opening: FuturesUnordered::new(),
            peeks: FuturesUnordered::new(),
            early: Vec::new(),
            load: Load::new(waker.clone()),
            alive: Permits::default(),
            waiting: Vec::new(),
            watch: None,
            unused_since: None,
            closing: false,
        }
    }

    pub(super) fn open(&mut self, open: Open) {
        match open {
            // It waits for nobody's room.
            Open::Control => self.opens.push_front(open),
            Open::Hub(_) | Open::Plain(_) => self.opens.push_back(open),
        }
    }

    /// True if nothing is on its way here that the hub does not know of.
    pub(super) fn is_quiet(&self) -> bool {
        self.load.plain() == 0
            && self.peeks.is_empty()
            && self.early.is_empty()
            && self.opens.is_empty()
            && self.alive.taken() == 0
    }

    /// True if all that was to be said has been.
    pub(super) fn is_said(&self) -> bool {
        self.closed.is_empty() && self.ours.as_ref().is_none_or(Ours::is_said)
    }

    /// Waits for it to be known whether there is a layer.
    pub(super) fn wait(&mut self, waker: &Waker) {
        if !self.waiting.iter().any(|waiting| waiting.will_wake(waker)) {
            self.waiting.push(waker.clone());
        }
    }

    /// Takes out who waits to know whether there is a layer, to be woken without the lock.
    pub(super) fn settled(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.waiting)
    }

    /// There is no layer, and nothing to be said.
    pub(super) fn fall_silent(&mut self) {
        self.ours = None;
        self.early.clear();
    }

    /// A substream for somebody who has asked just now. yamux wants to be polled after that, or what is written on
    /// it first waits for something else to happen on the link; a swarm polls its muxers each time round.
    pub(super) fn poll_outbound(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Physical>> {
        let io = ready!(Pin::new(&mut self.muxer).poll_outbound(cx))?;
        cx.waker().wake_by_ref();
        Poll::Ready(Ok(Physical::new(io, self.load.place())))
    }

    /// The next thing that happens.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, terms: Terms) -> Poll<LinkEvent> {
        if self.closing {
            let polled = Pin::new(&mut self.muxer).poll_close(cx);
            return polled.map(|_| LinkEvent::Closed);
        }
        match Pin::new(&mut self.muxer).poll(cx) {
            Poll::Ready(Ok(StreamMuxerEvent::AddressChange(address))) => {
                return Poll::Ready(LinkEvent::Moved(address));
            }
            Poll::Ready(Err(error)) => return Poll::Ready(LinkEvent::Lost(error)),
            Poll::Pending => {}
        }
        while self.peeks.len() < MAX_PEEKS {
            match Pin::new(&mut self.muxer).poll_inbound(cx) {
                Poll::Ready(Ok(io)) => {
                    let io = Physical::new(io, self.load.place());
                    self.peeks.push(peek_in_time(io).boxed());
                }
                Poll::Ready(Err(error)) => return Poll::Ready(LinkEvent::Lost(error)),
                Poll::Pending => break,
            }
        }
        if let Err(error) = self.open_next(cx, terms) {
            return Poll::Ready(LinkEvent::Lost(error));
        }
        if let Poll::Ready(event) = self.poll_control(cx) {
            return Poll::Ready(event);
        }
        if let Poll::Ready(Some(peeked)) = self.peeks.poll_next_unpin(cx) {
            return Poll::Ready(match peeked {
                Peeked::Control(io) => {
                    self.theirs = Some(Theirs::new(io));
                    // What has come with it already is heard in the next round.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                peeked => LinkEvent::Peeked(peeked),
            });
        }
        match self.opening.poll_next_unpin(cx) {
            Poll::Ready(Some(event)) => Poll::Ready(event),
            _ => Poll::Pending,
        }
    }

    fn poll_control(&mut self, cx: &mut Context<'_>) -> Poll<LinkEvent> {
        if let Some(ours) = &mut self.ours {
            for message in conversation::closed(&std::mem::take(&mut self.closed)) {
                ours.say(&message);
            }
            if ours.poll(cx).is_ready() {
                self.ours = None;
                return Poll::Ready(LinkEvent::Silenced);
            }
        }
        let Some(theirs) = &mut self.theirs else {
            return Poll::Pending;
        };
        match theirs.poll(cx) {
            Poll::Ready(Said::Control(control)) => Poll::Ready(LinkEvent::Said(control)),
            Poll::Ready(Said::Violation) => {
                self.theirs = None;
                Poll::Ready(LinkEvent::Violation)
            }
            Poll::Ready(Said::End) => {
                self.theirs = None;
                Poll::Pending
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn open_next(&mut self, cx: &mut Context<'_>, terms: Terms) -> io::Result<()> {
        while let Some(next) = self.opens.front() {
            // What is more than the muxer carries ends all that it carries.
            if !matches!(next, Open::Control) && !self.load.has_room(terms.limit) {
                break;
            }
            let Poll::Ready(io) = self.poll_outbound(cx)? else {
                break;
            };
            match self.opens.pop_front() {
                Some(Open::Control) => {
                    let hello = Control {
                        hello: Some(terms.hello),
                        ..Control::default()
                    };
                    self.ours = Some(Ours::new(io.leg().propose(CONTROL), &hello));
                }
                Some(Open::Hub(purpose)) => {
                    let opening = open_leg(io.leg(), purpose, terms.answer_timeout);
                    self.opening.push(opening.boxed());
                }
                Some(Open::Plain(reply)) => drop(reply.send(io)),
                None => {}
            }
        }
        Ok(())
    }

    /// Takes out what waits to be opened, of a link that is gone.
    pub(super) fn take_wanted(&mut self) -> Vec<Purpose> {
        let purpose = |open| match open {
            Open::Hub(purpose) => Some(purpose),
            Open::Control | Open::Plain(_) => None,
        };
        self.opens.drain(..).filter_map(purpose).collect()
    }
}

async fn peek_in_time(io: Physical) -> Peeked {
    match select(Box::pin(peek::peek(io)), after(PEEK_TIMEOUT)).await {
        Either::Left((peeked, _)) => peeked,
        Either::Right(_) => Peeked::Gone,
    }
}

/// Negotiates a leg, so that the remote's answer is there: a `Migrate` to nobody would leave a doubt.
async fn open_leg(io: Physical, purpose: Purpose, timeout: Duration) -> LinkEvent {
    let select_protocol = dialer_select_proto(io, vec![peek::LINK], Version::V1);
    let result = match select(select_protocol, after(timeout)).await {
        Either::Left((Ok((_, io)), _)) => Ok(io),
        Either::Left((Err(NegotiationError::Failed), _)) => Err(("refused".to_owned(), true)),
        Either::Left((Err(error), _)) => Err((error.to_string(), false)),
        Either::Right(_) => Err(("no answer in time".to_owned(), false)),
    };
    LinkEvent::Opened(purpose, result)
}
