//! The handler of one connection: opens substreams for the behaviour, and reads the first message
//! of those that the remote opens.
//!
//! It leaves an upgrade as soon as the protocol is agreed, because the swarm counts upgrades that are
//! under way and a remote that never labels must not block other protocols.

mod talk;
mod upgrade;

use std::{
    cell::Cell,
    collections::{HashSet, VecDeque},
    io,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, Either, select},
    stream::FuturesUnordered,
};
use futures_timer::Delay;
use libp2p_swarm::{
    ConnectionHandler, ConnectionHandlerEvent, Stream, StreamProtocol, StreamUpgradeError,
    SubstreamProtocol,
    handler::{
        ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
        ProtocolsChange,
    },
};
use web_time::Instant;

use self::{
    talk::{Heard, Talk},
    upgrade::{Accept, Ask, Name, Refused},
};
use crate::{
    Config,
    accept::Acceptors,
    config::CONTROL_NAME,
    hub,
    inbox::Slit,
    machine::{Facts, StreamId},
    migratable::{LONGEST, after},
    permits::{Permit, Permits, WeakPermits},
    protocol::codec::{self, Hello, ReadError, Request},
    pulse::Pulse,
    request::{Inside, StreamRequest},
    shrink,
    substream::Substream,
};

/// Limits the outbound substreams that are asked of the connection at once. The swarm serves its
/// requests last in, first out, and their timers run while they wait; so the rest waits here, in
/// order.
const MAX_OPENING: usize = 64;

/// The time for which a connection that was named is watched before it is closed, if pruning is
/// off.
const PRUNE_GRACE: Duration = Duration::from_secs(1);

/// The behaviour's purpose for a substream.
#[derive(Debug)]
pub(crate) enum Purpose {
    /// A new stream.
    Stream(StreamRequest),
    /// Something of the hub's.
    Hub(hub::Purpose),
    /// Our control substream, on which we say hello.
    Control(Hello),
}

impl Purpose {
    fn is_probe(&self) -> bool {
        matches!(self, Self::Hub(hub::Purpose::Probe { .. }))
    }
}

/// A message of the behaviour to a handler.
#[derive(Debug)]
pub(crate) enum Command {
    /// Open a substream.
    Open(Purpose),
    /// Tell when nothing uses the connection any more and nothing of what did can still be on its way,
    /// which it is before this point in time, if there is one.
    Watch(Option<Instant>),
    /// Open our control substream, and say hello on it.
    Converse(Hello),
    /// Say this of a stream on our control substream.
    Say(StreamId, Facts),
    /// Ask with this number, on our control substream, whether anybody is there.
    Ping(u64),
    /// See whether the connection is idle: something of ours on it has been dropped. The swarm finds that
    /// out only when it polls the connection, and nothing but this wakes a QUIC connection for it.
    Wake,
}

/// Streams that a new connection is to open before anything else. The behaviour can have them back until
/// the handler is polled, which it is once the connection is established.
#[derive(Debug, Clone)]
pub(crate) struct Parcel(
    /// Protects the requests; nothing else is done under it.
    Arc<Mutex<Vec<StreamRequest>>>,
);

impl Parcel {
    pub(crate) fn new(requests: Vec<StreamRequest>) -> Self {
        Self(Arc::new(Mutex::new(requests)))
    }

    pub(crate) fn take(&self) -> Vec<StreamRequest> {
        let mut requests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut requests)
    }
}

/// A command of the behaviour's.
#[derive(Debug)]
pub struct FromBehaviour(pub(crate) Command);

/// A substream to be opened.
#[derive(Debug)]
pub struct Open {
    purpose: Purpose,
    offer: Offer,
}

impl Open {
    fn new(purpose: Purpose) -> Self {
        Self {
            purpose,
            offer: Offer::Undecided,
        }
    }

    /// True if nobody waits for it any more.
    fn is_canceled(&self) -> bool {
        matches!(&self.purpose, Purpose::Stream(request) if request.is_canceled())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Offer {
    /// An offer that is not decided yet.
    Undecided,
    Prefix,
    /// The prefix in both spellings. One protocol that is offered lazily is agreed without a byte; of two,
    /// the remote has to choose.
    Proof,
    Plain,
    Both,
    /// Two protocols that nobody speaks: the remote has to say so, and nothing there is any the wiser.
    Nothing,
    Control,
}

/// The protocols that a probe offers.
const PROBES: [StreamProtocol; 2] = [
    StreamProtocol::new("/libp2p/stream-migration/probe/a"),
    StreamProtocol::new("/libp2p/stream-migration/probe/b"),
];

/// An event for the behaviour.
#[derive(Debug)]
pub struct ToBehaviour(pub(crate) Event);

/// A message of a handler to the behaviour.
#[derive(Debug)]
pub(crate) enum Event {
    /// A substream is open for us.
    Opened {
        purpose: Purpose,
        stream: Substream,
        /// The protocol is the prefix, not the application's.
        prefix: bool,
        /// The remote is known to support the application's protocol.
        known: bool,
        /// The remote has answered, whatever the swarm's setting for lazy negotiation.
        answered: bool,
    },
    /// A substream that could not be opened.
    OpenFailed {
        purpose: Purpose,
        error: OpenFailure,
    },
    /// The remote opened a stream or a leg.
    Requested { stream: Substream, request: Request },
    /// The remote opened a plain stream.
    Plain {
        stream: Stream,
        protocol: StreamProtocol,
    },
    /// A change of what the remote says that it speaks.
    ProtocolsChanged,
    /// A stream that was to be opened before anything else, below the swarm if there is a layer; meanwhile the
    /// connection is kept alive.
    HandedBack {
        request: StreamRequest,
        alive: Permit,
    },
    /// The first of all: what keeps the connection from being idle as long as it is held.
    Born { legs: WeakPermits, pulse: Pulse },
    /// An unused connection: nothing has used it for so long that nothing can be on its way there.
    Unused,
    /// The remote opened more than may be waiting for its first message.
    Refused,
    /// Our control substream is refused, or gone.
    Mute,
    /// The remote's first message was none.
    Violation,
}

/// Why a substream could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenFailure {
    /// The remote supports nothing of what was offered.
    #[error("the remote does not support the protocol")]
    Refused,
    #[error("no answer in time")]
    TimedOut,
    /// So many wait already.
    #[error("{0} substreams wait already")]
    Full(usize),
    /// Nobody waits for it any more.
    #[error("nobody waits for it any more")]
    Cancelled,
    #[error("{0}")]
    Io(io::Error),
}

impl From<StreamUpgradeError<Refused>> for OpenFailure {
    fn from(error: StreamUpgradeError<Refused>) -> Self {
        match error {
            StreamUpgradeError::Apply(Refused) | StreamUpgradeError::NegotiationFailed => {
                Self::Refused
            }
            StreamUpgradeError::Timeout => Self::TimedOut,
            StreamUpgradeError::Io(error) => Self::Io(error),
        }
    }
}

/// `None` if it has not come in time.
type FirstMessage = Option<Result<(Stream, Request), ReadError>>;

/// The handler of one connection.
pub struct Handler {
    acceptors: Arc<Acceptors>,
    prefix: StreamProtocol,
    first_message_timeout: Duration,
    probe_timeout: Duration,
    leg_timeout: Duration,
    max_inbound: usize,
    max_queued: usize,
    /// The streams to open first, until it is polled for the first time.
    parcel: Option<Parcel>,
    queue: VecDeque<Open>,
    opening: usize,
    inbound: FuturesUnordered<BoxFuture<'static, FirstMessage>>,
    /// Taken by the legs on this connection, which keep it alive.
    legs: Permits,
    usage: Usage,
    /// Set while somebody wants to know when the connection is unused.
    watch: Option<Watch>,
    prune_grace: Duration,
    linger: Duration,
    /// The protocols that the remote speaks, by Identify's word; `None` if it has said nothing.
    remote: Option<HashSet<StreamProtocol>>,
    events: VecDeque<Event>,
    talk: Talk,
    farewell: Farewell,
    /// Beats whenever anything of ours is read.
    pulse: Pulse,
    /// Tells the connection's muxer whose it is, below the swarm.
    here: Option<Here>,
}

/// The last words on a connection that is being closed.
#[derive(Debug)]
enum Farewell {
    /// None yet; the muxer carries them while the close waits, or it does not.
    Unsaid {
        carried: bool,
    },
    /// Words on their way, for no longer than this.
    Said(Delay),
    Over,
}

/// The time for the remote to hear that the connection is closed on purpose.
const FAREWELL: Duration = Duration::from_secs(1);

/// Says which connection's handler is being polled.
pub(crate) type Here = Box<dyn Fn() + Send>;

impl Handler {
    pub(crate) fn new(
        acceptors: Arc<Acceptors>,
        config: &Config,
        parcel: Option<Parcel>,
        here: Option<Here>,
        slit: Slit,
        quic: bool,
    ) -> Self {
        let pulse = Pulse::default();
        let legs = Permits::default();
        let born = Event::Born {
            legs: legs.downgrade(),
            pulse: pulse.clone(),
        };
        Self {
            acceptors,
            prefix: config.protocol_name.clone(),
            first_message_timeout: config.negotiation_timeout,
            // The swarm makes delays of these two.
            probe_timeout: config.hub.progress_timeout.min(LONGEST),
            leg_timeout: config.hub.answer_timeout.min(LONGEST),
            max_inbound: config.max_inbound_requests,
            max_queued: config.max_pending_opens,
            parcel,
            queue: VecDeque::new(),
            opening: 0,
            inbound: FuturesUnordered::new(),
            legs,
            usage: Usage::default(),
            watch: None,
            prune_grace: config.hub.prune_grace.unwrap_or(PRUNE_GRACE),
            linger: config.hub.old_leg_linger,
            remote: None,
            events: VecDeque::from([born]),
            talk: Talk::new(slit, pulse.clone()),
            pulse,
            farewell: Farewell::Unsaid { carried: quic },
            here,
        }
    }

    fn knows(&self, protocol: &StreamProtocol) -> Option<bool> {
        self.remote.as_ref().map(|known| known.contains(protocol))
    }

    /// *Opening*: what Identify says decides; without it, the prefix and the protocol are offered
    /// together, so that a remote without the prefix costs nothing.
    fn offer(&self, purpose: &Purpose) -> Offer {
        let request = match purpose {
            Purpose::Stream(request) => request,
            Purpose::Hub(hub::Purpose::Probe {
                for_stream: false, ..
            }) => return Offer::Nothing,
            // `Migrate` on a leg that nobody has answered would leave a doubt.
            Purpose::Hub(_) => return Offer::Proof,
            Purpose::Control(_) => return Offer::Control,
        };
        match self.knows(&self.prefix) {
            _ if request.inside != Inside::Unknown => Offer::Plain,
            // What it said may be stale.
            _ if request.again => Offer::Both,
            Some(true) if request.prove => Offer::Proof,
            Some(true) => Offer::Prefix,
            Some(false) => Offer::Plain,
            None => Offer::Both,
        }
    }

    /// True if no more streams can wait. Whoever has given up holds no place.
    fn is_full(&mut self) -> bool {
        if self.queue.len() >= self.max_queued {
            for open in std::mem::take(&mut self.queue) {
                match open.is_canceled() {
                    true => self.passed_over(open),
                    false => self.queue.push_back(open),
                }
            }
        }
        self.queue.len() >= self.max_queued
    }

    /// The next open. Whoever has given up meanwhile is passed over.
    fn next(&mut self) -> Option<Open> {
        loop {
            let open = self.queue.pop_front()?;
            if !open.is_canceled() {
                return Some(open);
            }
            self.passed_over(open);
        }
    }

    /// Nobody waits for it any more, which the behaviour has to count.
    fn passed_over(&mut self, open: Open) {
        self.events.push_back(Event::OpenFailed {
            purpose: open.purpose,
            error: OpenFailure::Cancelled,
        });
    }

    fn request(&mut self, mut open: Open) -> SubstreamProtocol<Ask, Open> {
        if open.offer == Offer::Undecided {
            open.offer = self.offer(&open.purpose);
        }
        let protocol = match &open.purpose {
            Purpose::Stream(request) => Some(request.protocol.clone()),
            Purpose::Hub(_) | Purpose::Control(_) => None,
        };
        let name = |name: StreamProtocol| Name { name, last: false };
        let mut protocols: Vec<_> = match (open.offer, protocol) {
            (Offer::Plain, Some(protocol)) => vec![name(protocol)],
            (Offer::Both, Some(protocol)) => vec![name(self.prefix.clone()), name(protocol)],
            (Offer::Proof, _) => self.proof(),
            (Offer::Nothing, _) => PROBES.map(name).to_vec(),
            (Offer::Control, _) => vec![name(CONTROL_NAME)],
            _ => vec![name(self.prefix.clone())],
        };
        // A swarm that negotiates lazily does not wait for the answer to the last offer. Here it has to,
        // if nobody knows it, and so there is one more.
        if let Purpose::Stream(request) = &open.purpose
            && open.offer != Offer::Prefix
            && self.knows(&request.protocol) != Some(true)
        {
            protocols.push(Name {
                name: request.protocol.clone(),
                last: true,
            });
        }
        self.opening += 1;
        let timeout = match open.purpose {
            Purpose::Hub(hub::Purpose::Probe { .. }) => Some(self.probe_timeout),
            Purpose::Hub(hub::Purpose::Leg(_)) | Purpose::Control(_) => Some(self.leg_timeout),
            Purpose::Stream(_) => None,
        };
        let protocol = SubstreamProtocol::new(Ask(protocols), open);
        match timeout {
            Some(timeout) => protocol.with_timeout(timeout),
            None => protocol,
        }
    }

    /// The prefix in both spellings, and so that the remote has to answer each.
    fn proof(&self) -> Vec<Name> {
        let names = self.acceptors.prefixes().iter().cloned();
        let names = names.map(|name| Name { name, last: false });
        let last = Name {
            name: self.prefix.clone(),
            last: true,
        };
        names.chain([last]).collect()
    }

    fn opened(&mut self, open: Open, stream: Stream, protocol: &StreamProtocol) {
        let known = match &open.purpose {
            Purpose::Stream(request) if request.is_canceled() => return self.passed_over(open),
            Purpose::Stream(request) => self.knows(&request.protocol) == Some(true),
            Purpose::Hub(_) => false,
            Purpose::Control(hello) => return self.talk.opened(stream, *hello),
        };
        let prefix = self.acceptors.is_prefix(protocol);
        let stream = match prefix {
            true => Substream::leg(stream, &self.legs, &self.pulse),
            false => Substream::plain(stream),
        };
        self.events.push_back(Event::Opened {
            answered: !matches!(open.offer, Offer::Prefix | Offer::Plain),
            prefix,
            purpose: open.purpose,
            stream,
            known,
        });
    }

    fn open_failed(&mut self, mut open: Open, error: OpenFailure) {
        if let Purpose::Control(_) = open.purpose {
            self.talk.mute();
        }
        let refused = matches!(error, OpenFailure::Refused);
        let narrowed = matches!(open.offer, Offer::Prefix | Offer::Proof | Offer::Plain);
        if refused
            && narrowed
            && let Purpose::Stream(request) = &mut open.purpose
            && request.inside != Inside::Refused
        {
            // What Identify said, or what was seen before, was stale.
            request.inside = Inside::Unknown;
            open.offer = Offer::Both;
            self.queue.push_front(open);
            return;
        }
        self.events.push_back(Event::OpenFailed {
            purpose: open.purpose,
            error,
        });
    }

    fn accepted(&mut self, mut stream: Stream, protocol: StreamProtocol) {
        if protocol == CONTROL_NAME {
            self.talk.accepted(stream);
        } else if !self.acceptors.is_prefix(&protocol) {
            self.events.push_back(Event::Plain { stream, protocol });
        } else if self.inbound.len() >= self.max_inbound {
            self.events.push_back(Event::Refused);
        } else {
            let timeout = after(self.first_message_timeout);
            self.inbound.push(
                async move {
                    let request = match select(Box::pin(codec::read(&mut stream)), timeout).await {
                        Either::Left((request, _)) => request,
                        Either::Right(_) => return None,
                    };
                    Some(request.map(|request| (stream, request)))
                }
                .boxed(),
            );
        }
    }

    /// Tells when nothing has used the connection for so long that nothing of it can be on its way.
    fn poll_unused(&mut self, cx: &mut Context<'_>) {
        let Some(watch) = &mut self.watch else {
            return;
        };
        while watch.delay.poll_unpin(cx).is_ready() {
            let now = Instant::now();
            let left = match self.usage.unused_since.get() {
                Some(since) => self.linger.saturating_sub(now - since),
                // If that ends at once, it is to have ended so long ago.
                None => self.linger,
            };
            let quiet = watch.quiet_from.map(|at| at.saturating_duration_since(now));
            let left = left.max(quiet.unwrap_or_default());
            if left.is_zero() {
                self.watch = None;
                self.events.push_back(Event::Unused);
                return;
            }
            watch.delay = after(left);
        }
    }
}

/// Somebody wants to know when the connection is unused.
#[derive(Debug)]
struct Watch {
    /// The time before which something may be on its way that the swarm does not know of.
    quiet_from: Option<Instant>,
    /// The delay until the connection may be unused; looked at again then, and not at every poll.
    delay: Delay,
}

/// The use of a connection by anybody but this crate.
///
/// The swarm asks for [`ConnectionHandler::connection_keep_alive`] only if no substream is counted or
/// under negotiation, and for [`ConnectionHandler::listen_protocol`] after it in any case. Legs are not
/// counted ([`Substream`]), but under negotiation they are anybody's.
#[derive(Debug, Default)]
struct Usage {
    asked: Cell<bool>,
    /// `None` while somebody does.
    unused_since: Cell<Option<Instant>>,
}

impl Usage {
    fn keep_alive_asked(&self) {
        self.asked.set(true);
    }

    fn protocols_asked(&self) {
        if !self.asked.take() {
            self.unused_since.set(None);
        } else if self.unused_since.get().is_none() {
            self.unused_since.set(Some(Instant::now()));
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = FromBehaviour;
    type ToBehaviour = ToBehaviour;
    type InboundProtocol = Accept;
    type OutboundProtocol = Ask;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Open;

    fn listen_protocol(&self) -> SubstreamProtocol<Accept> {
        self.usage.protocols_asked();
        SubstreamProtocol::new(Accept(self.acceptors.protocols()), ())
    }

    /// A migration's target has to stay until its substream is open.
    fn connection_keep_alive(&self) -> bool {
        self.usage.keep_alive_asked();
        self.legs.taken() > 0
            || self.parcel.is_some()
            || !self.queue.is_empty()
            || self.opening > 0
            || !self.events.is_empty()
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Ask, Open, ToBehaviour>> {
        self.here.iter().for_each(|here| here());
        if let Some(parcel) = self.parcel.take() {
            for request in parcel.take() {
                match self.here {
                    // Whether it is opened below the swarm, is not for the handler to say.
                    Some(_) => {
                        let alive = self.legs.acquire();
                        self.events.push_back(Event::HandedBack { request, alive });
                    }
                    None => self.queue.push_back(Open::new(Purpose::Stream(request))),
                }
            }
        }
        self.poll_unused(cx);
        if let Poll::Ready(heard) = self.talk.poll(cx) {
            self.events.push_back(match heard {
                Heard::Violation => Event::Violation,
                Heard::Mute => Event::Mute,
            });
        }
        if let Some(event) = self.events.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(ToBehaviour(event)));
        }
        // There is one probe at a time, and it waits for nothing.
        let first = self.queue.front();
        let ready = self.opening < MAX_OPENING || first.is_some_and(|open| open.purpose.is_probe());
        if ready && let Some(open) = self.next() {
            let protocol = self.request(open);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        shrink::queue(&mut self.events);
        shrink::queue(&mut self.queue);
        while let Poll::Ready(Some(first)) = self.inbound.poll_next_unpin(cx) {
            let event = match first {
                Some(Ok((stream, request))) => Event::Requested {
                    stream: Substream::leg(stream, &self.legs, &self.pulse),
                    request,
                },
                Some(Err(error)) if error.is_violation() => Event::Violation,
                Some(Err(error)) => {
                    tracing::debug!(%error, "no first message on an inbound substream");
                    continue;
                }
                None => {
                    tracing::debug!("no first message on an inbound substream in time");
                    continue;
                }
            };
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(ToBehaviour(event)));
        }
        Poll::Pending
    }

    /// Also called when the connection is lost: what the remote has said last may tell why.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Option<ToBehaviour>> {
        loop {
            if self.talk.poll(cx).is_ready() {
                continue;
            }
            match &mut self.farewell {
                Farewell::Unsaid { carried } => {
                    self.farewell = match *carried {
                        true => Farewell::Said(after(FAREWELL)),
                        false => Farewell::Over,
                    };
                    self.talk.say_bye();
                }
                Farewell::Said(delay) => {
                    if !self.talk.is_over() && delay.poll_unpin(cx).is_pending() {
                        return Poll::Pending;
                    }
                    return Poll::Ready(None);
                }
                Farewell::Over => return Poll::Ready(None),
            }
        }
    }

    fn on_behaviour_event(&mut self, FromBehaviour(command): FromBehaviour) {
        let open = match command {
            Command::Open(purpose) => Open::new(purpose),
            Command::Watch(quiet_from) => {
                let delay = after(self.prune_grace);
                self.watch = Some(Watch { quiet_from, delay });
                return;
            }
            Command::Converse(epoch) => Open::new(Purpose::Control(epoch)),
            Command::Say(origin, facts) => return self.talk.say(origin, facts),
            Command::Ping(number) => return self.talk.ping(number),
            Command::Wake => return,
        };
        match open.purpose {
            // Migrations are bounded by the number of streams; they are not refused.
            Purpose::Hub(hub::Purpose::Leg(_)) | Purpose::Control(_) => self.queue.push_back(open),
            Purpose::Hub(hub::Purpose::Probe { .. }) => self.queue.push_front(open),
            Purpose::Stream(_) if self.is_full() => {
                self.open_failed(open, OpenFailure::Full(self.max_queued));
            }
            Purpose::Stream(_) => self.queue.push_back(open),
        }
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Accept, Ask, (), Open>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, protocol),
                info: (),
            }) => self.accepted(stream, protocol),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: (stream, protocol),
                info,
            }) => {
                self.opening = self.opening.saturating_sub(1);
                self.opened(info, stream, &protocol);
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                self.opening = self.opening.saturating_sub(1);
                self.open_failed(info, error.into());
            }
            ConnectionEvent::RemoteProtocolsChange(change) => {
                let known = self.remote.get_or_insert_default();
                match change {
                    ProtocolsChange::Added(added) => known.extend(added.cloned()),
                    ProtocolsChange::Removed(removed) => {
                        for protocol in removed {
                            known.remove(protocol);
                        }
                    }
                }
                self.events.push_back(Event::ProtocolsChanged);
            }
            _ => {}
        }
    }
}
