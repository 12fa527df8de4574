//! The room that decides, per peer, what moves where and when. It knows connections by their keys, streams by
//! theirs, and no swarm.
//!
//! Inputs are methods; what it wants done comes out of [`Hub::poll`]. Whoever owns the connections tells it
//! of each ([`Hub::connected`], [`Hub::moved`], [`Hub::disconnected`]), hands over the substreams that
//! [`Output::Open`] asks for ([`Hub::leg_opened`], [`Hub::probe_over`]) and what the remote says on the others
//! ([`Hub::requested`]), and says what it sees of a connection's health ([`Hub::heard`], [`Hub::seen`],
//! [`Hub::suspect`]).

mod attempts;
mod beat;
#[cfg(any(test, stream_migration_mutants))]
mod check;
mod choose;
mod connections;
mod health;
mod placing;
mod prune;
mod queue;
mod rate;
mod record;
mod requests;
mod resume;
mod settings;
mod streams;
mod tasks;
mod timers;
mod word;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{StreamExt, channel::oneshot};
use libp2p_identity::PeerId;
use web_time::Instant;

pub use self::settings::Initiate;
pub use self::{
    choose::Choice,
    settings::Settings,
    timers::{TimerKey, Timers},
};
use self::{
    connections::Connections,
    queue::{MigrationQueue, Origin},
    record::Record,
    tasks::Tasks,
};
use crate::{
    error::MigrateError,
    event::{Event, Limit, Side, Violation},
    key::{ConnectionKey, StreamKey},
    machine::{Facts, StreamId},
    policy::{Change, Policy},
    protocol::roles,
    shrink,
    stream::{Drive, Io, Later, ReadyQueue, Room, Timeouts},
    table::{Caps, Table},
    view::{ConnectionInfo, ProtocolName, StreamInfo, Streams},
};

/// A thing that the hub wants done, or told.
#[derive(Debug)]
pub enum Output {
    /// Tell the application.
    Event(Event),
    /// Open a substream on which the prefix is agreed, or which at least is answered.
    Open(PeerId, ConnectionKey, Purpose),
    /// Call [`Hub::unused`] once nothing but the hub's own legs has used the connection for the prune
    /// grace, and nothing of what did can still be on its way, which it is before this point in time, if
    /// there is one.
    Watch(PeerId, ConnectionKey, Option<Instant>),
    /// See whether the connection is idle: something of ours on it has been dropped.
    Wake(PeerId, ConnectionKey),
    /// Close the connection: nothing uses it.
    Close(PeerId, ConnectionKey),
    /// Serve those that wait for room on a connection of this peer's, or for another one.
    Room(PeerId),
    /// Open our control substream there, and say hello on it; say so if that is refused, or when it has ended:
    /// [`Hub::mute`].
    Converse(PeerId, ConnectionKey),
    /// Say this there of the stream with this origin; it takes the place of what has not been said of it yet.
    Say(PeerId, ConnectionKey, StreamId, Facts),
    /// Dial: streams wait for a connection, and there is none, or none that answers.
    Dial(PeerId),
    /// Ask the remote there, on our control substream, to answer with this number: [`Hub::ponged`].
    Ping(PeerId, ConnectionKey, u64),
}

/// The hub's purpose for a substream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A new leg for a stream.
    Leg(StreamKey),
    /// A question whether anybody answers: the probe of this number.
    Probe {
        /// The number, to be given back.
        number: u64,
        /// True if it is for the sake of a stream, and not only to know: it has to do with our
        /// protocol.
        for_stream: bool,
    },
}

/// Something that is due later.
#[derive(Debug)]
enum Due {
    /// Ask the policy about a stream again, as it wished.
    Ask(StreamKey),
    /// Try again after a failure.
    Retry(StreamKey, ConnectionKey),
    /// The designated peer has had its time to start.
    Patience(StreamKey),
    /// Call the policy, as it wished.
    Call(PeerId),
    /// Nobody outside has answered the remote's question.
    Unanswered(StreamKey),
    /// The label that a `Migrate` waits for has not come.
    Early(PeerId, u64),
    /// An old leg may have lingered long enough.
    Linger(PeerId, ConnectionKey),
    /// The leg of our migration should be open.
    LegOverdue(StreamKey),
    /// A probe of this number has been unanswered for long enough to look for another connection.
    ProbeLate(PeerId, ConnectionKey, u64),
    /// A probe that has been unanswered for long enough to give the connection up.
    ProbeOver(PeerId, ConnectionKey, u64),
    /// A suspected connection may be well again.
    ProbeAgain(PeerId, ConnectionKey),
    /// The end of a quarantine: what has left the connection may return.
    QuarantineOver(PeerId, ConnectionKey),
    /// A connection has been there for long enough to be chosen among duplicates.
    Proven(PeerId, ConnectionKey),
    /// A connection may have carried streams and brought nothing.
    LookAfter(PeerId, ConnectionKey),
    /// The remote should have said whether it speaks.
    Mute(PeerId, ConnectionKey),
    /// Say how much has been read of a stream.
    Say(StreamKey),
    /// A writer may have waited for long enough.
    Slide(StreamKey),
    /// An attempt to get a stream another leg has had its time.
    ResumeOver(StreamKey),
    /// The next.
    ResumeAgain(StreamKey),
    /// Streams may still wait for a connection.
    Redial(PeerId),
    /// A connection is looked after.
    Beat(PeerId, ConnectionKey),
}

/// The time for a word on an end, where the remedy is another leg.
const EXPLAIN: Duration = Duration::from_secs(1);

/// Decides what moves; generic over the substream.
pub struct Hub<L: Io> {
    settings: Settings,
    local: PeerId,
    policy: Box<dyn Policy>,
    /// The times at which the policy wants to be called about a peer.
    calls: HashMap<PeerId, (Instant, TimerKey)>,
    connections: Connections,
    queue: MigrationQueue,
    table: Table<L, Record>,
    ready: Arc<ReadyQueue>,
    /// Peers of whose connections one may have room for something that waits.
    changed: BTreeSet<PeerId>,
    /// Peers of which that was told, and whose own migrations are next.
    told: BTreeSet<PeerId>,
    tasks: Tasks<L>,
    due: Timers<Due>,
    next_probe: u64,
    /// Our process, to those who speak.
    epoch: u64,
    early: word::Early,
    suspended: resume::Suspended,
    /// The room for what is kept of all streams, to be written again.
    room: Arc<Room>,
    outputs: VecDeque<Output>,
}

impl<L: Io + Send + 'static> Hub<L> {
    pub fn new(local: PeerId, settings: Settings, policy: Box<dyn Policy>) -> Self {
        let caps = Caps {
            streams_per_peer: settings.max_streams_per_peer,
            unanswered_per_peer: settings.max_unanswered_per_peer,
            ended_ids_per_peer: settings.max_ended_ids_per_peer,
            ended_id_memory: settings.ended_id_memory,
            read_ahead_per_stream: settings.read_ahead_per_stream,
            read_ahead_per_peer: settings.read_ahead_per_peer,
        };
        Self {
            local,
            policy,
            calls: HashMap::new(),
            connections: Connections::default(),
            queue: MigrationQueue::default(),
            table: Table::new(local, caps, settings.first_id, settings.first_key),
            ready: Arc::default(),
            changed: BTreeSet::new(),
            told: BTreeSet::new(),
            tasks: Tasks::default(),
            due: Timers::default(),
            next_probe: 0,
            epoch: roles::new_epoch(),
            early: word::Early::default(),
            suspended: resume::Suspended::default(),
            room: Arc::new(Room::new(
                settings.max_replay_per_stream,
                settings.max_replay,
            )),
            outputs: VecDeque::new(),
            settings,
        }
    }

    pub fn local_peer(&self) -> PeerId {
        self.local
    }

    // ---- What is there -----------------------------------------------------------------------------

    pub fn connection(&self, peer: PeerId, key: ConnectionKey) -> Option<&ConnectionInfo> {
        self.connections.get(peer, key)
    }

    /// The peer's connections, the oldest first.
    pub fn connections(&self, peer: PeerId) -> &[ConnectionInfo] {
        self.connections.of(peer)
    }

    /// The peer's live migratable streams.
    pub fn streams(&self, peer: PeerId) -> Vec<StreamInfo> {
        Streams::of_peer(&self.table, peer)
    }

    /// True if there is a stream, be it one whose connections are gone and that its application still holds.
    pub fn has_streams(&self) -> bool {
        self.table.has_streams()
    }

    /// All peers that are connected, in order.
    pub fn peers(&self) -> Vec<PeerId> {
        self.connections.peers()
    }

    // ---- What the application wants ----------------------------------------------------------------

    /// Moves a stream on the application's wish.
    pub fn migrate(
        &mut self,
        key: StreamKey,
        to: ConnectionKey,
        reply: oneshot::Sender<Result<(), MigrateError>>,
    ) {
        self.begin(key, to, Origin::Control(reply));
    }

    // ---- The loop ----------------------------------------------------------------------------------

    /// Tells that a stream without migration was opened, in order with all that the hub tells.
    pub fn tell_of_plain(
        &mut self,
        peer: PeerId,
        connection: ConnectionKey,
        protocol: ProtocolName,
        opener: Side,
    ) {
        self.event(Event::PlainStream {
            peer,
            connection,
            protocol,
            opener,
        });
    }

    /// Tells that something of the remote's was refused.
    pub fn refused(&mut self, peer: PeerId, connection: Option<ConnectionKey>, limit: Limit) {
        self.event(Event::Refused {
            peer,
            connection,
            limit,
        });
    }

    /// Tells that the remote broke the protocol.
    pub fn violated(&mut self, peer: PeerId, connection: Option<ConnectionKey>, what: Violation) {
        self.event(Event::Violation {
            peer,
            connection,
            what,
        });
    }

    fn event(&mut self, event: Event) {
        tracing::debug!(local = %self.local, ?event);
        self.output(Output::Event(event));
    }

    fn output(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    /// Looks again at those that wait, since there may be room, or another connection. They are
    /// served once all that has happened is told.
    pub fn room_changed(&mut self, peer: PeerId) {
        self.changed.insert(peer);
    }

    fn is_due(&mut self, due: Due) {
        match due {
            Due::Ask(key) => {
                if let Some(entry) = self.table.get_mut(key) {
                    entry.record.moves().asking_again = None;
                }
                self.place(key);
            }
            Due::Retry(key, to) => self.backed_off(key, to),
            Due::Patience(key) => self.patience_over(key),
            Due::Call(peer) => {
                self.calls.remove(&peer);
                self.tell(peer, &Change::Called);
            }
            Due::Unanswered(key) => self.unanswered(key),
            Due::Early(peer, number) => drop(self.table.expire_early(peer, number)),
            Due::Linger(peer, connection) => self.lingered(peer, connection),
            Due::LegOverdue(key) => self.leg_overdue(key),
            Due::ProbeLate(peer, connection, number) => {
                self.probe_is_late(peer, connection, number);
            }
            Due::ProbeOver(peer, connection, number) => {
                self.probe_over(peer, connection, number, false);
            }
            Due::ProbeAgain(peer, connection) => self.probe_again(peer, connection),
            Due::QuarantineOver(peer, connection) => self.quarantine_over(peer, connection),
            Due::Proven(peer, connection) => self.proven(peer, connection),
            Due::LookAfter(peer, connection) => self.look_after(peer, connection),
            Due::Mute(peer, connection) => self.mute(peer, connection),
            Due::Say(key) => self.is_later(key, Later::Say),
            Due::Slide(key) => self.is_later(key, Later::Slide),
            Due::ResumeOver(key) => self.resume_over(key),
            Due::ResumeAgain(key) => self.resume_again(key),
            Due::Redial(peer) => self.redial(peer),
            Due::Beat(peer, connection) => self.beat(peer, connection),
        }
    }

    /// Runs a driver for the stream if it needs one.
    fn drive(&mut self, key: StreamKey) {
        if let Some(entry) = self.table.get(key)
            && entry.shared.claim_drive()
        {
            let timeouts = Timeouts {
                answer: self.settings.answer_timeout,
                progress: self.settings.progress_timeout,
                explain: match entry.shared.status().resumable {
                    true => EXPLAIN.min(self.settings.answer_timeout),
                    // Nothing but a reset follows.
                    false => self.settings.answer_timeout,
                },
                resume: self.settings.resume_timeout,
            };
            let drive = Drive::new(entry.shared.clone(), timeouts);
            self.tasks.drives.push(drive);
        }
    }

    /// Begins a round: what becomes due in the course of it waits for the next, so that it ends.
    pub fn begin_round(&mut self) {
        self.due.begin_round();
        self.queue.begin_round();
    }

    /// The next thing that is to be done.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Output> {
        loop {
            // What has happened first, then what follows from it.
            if let Some(output) = self.outputs.pop_front() {
                return Poll::Ready(output);
            }
            shrink::queue(&mut self.outputs);
            let progress = self.work(cx);
            if !self.outputs.is_empty() {
                continue;
            }
            if let Some(peer) = self.told.pop_first() {
                self.take_turns(peer);
            } else if let Some(peer) = self.changed.pop_first() {
                // Whoever opens streams comes first.
                self.told.insert(peer);
                self.output(Output::Room(peer));
            } else if !progress {
                return Poll::Pending;
            }
        }
    }

    /// Goes round everything that may be ready. Returns whether anything was.
    fn work(&mut self, cx: &mut Context<'_>) -> bool {
        let mut progress = false;
        for key in self.ready.collect(cx) {
            progress = true;
            self.heard_from(key);
        }
        while let Poll::Ready(Some(_)) = self.tasks.drives.poll_next_unpin(cx) {
            progress = true;
        }
        while let Poll::Ready(Some(early)) = self.tasks.early.poll_next_unpin(cx) {
            progress = true;
            self.early_gone(early);
        }
        while let Poll::Ready(Some(())) = self.tasks.denials.poll_next_unpin(cx) {}
        while let Poll::Ready(Some((peer, connection))) = self.tasks.kept.poll_next_unpin(cx) {
            progress = true;
            self.released(peer, connection);
        }
        while let Poll::Ready(due) = self.due.poll_next(cx) {
            progress = true;
            self.is_due(due);
        }
        progress
    }
}
