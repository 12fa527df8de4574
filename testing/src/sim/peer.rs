//! One side without its swarm: what a behaviour does for one stream.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};

use futures::{future::BoxFuture, task::ArcWake};

use crate::Random;

use super::{
    key::{ConnectionKey, StreamKey},
    leg::{FaultLeg, Kind},
    machine::{Abort, Facts, Question, Setup, Speech, StreamId, Verdict},
    protocol::codec::{Reader, Request, Resume, Resumed},
    sleep::Nap,
    stream::{Budget, Drive, Later, Leg, Migratable, Note, ReadyQueue, Room, Shared, Timeouts},
    world::Case,
};

/// A task's waker: set when it has been woken.
#[derive(Debug)]
pub struct Flag(AtomicBool);

impl Flag {
    pub fn new() -> Arc<Self> {
        Arc::new(Self(AtomicBool::new(true)))
    }

    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }

    pub fn waker(self: &Arc<Self>) -> Waker {
        futures::task::waker(self.clone())
    }
}

impl ArcWake for Flag {
    fn wake_by_ref(flag: &Arc<Self>) {
        flag.set();
    }
}

/// The connection of this number.
pub fn key(connection: u8) -> ConnectionKey {
    ConnectionKey::new(connection.into())
}

/// A leg that the remote has opened, before its first message.
struct Inbound {
    io: FaultLeg,
    connection: ConnectionKey,
    reader: Reader,
}

/// A `Migrate` that waits for the ID that it names.
struct Early {
    leg: Leg<FaultLeg>,
    id: StreamId,
    from: StreamId,
    verify: bool,
}

pub struct Peer {
    pub shared: Arc<Shared<FaultLeg>>,
    ready: Arc<ReadyQueue>,
    drive: Option<Drive<FaultLeg, Nap>>,
    pub drive_flag: Arc<Flag>,
    pub behaviour_flag: Arc<Flag>,
    inbound: Vec<Inbound>,
    early: Vec<Early>,
    denials: Vec<BoxFuture<'static, std::io::Result<()>>>,
    lingering: Vec<Leg<FaultLeg>>,
    /// What the policy has not answered yet.
    asked: Vec<(Question, Verdict)>,
    /// Whether it takes its time.
    late: bool,
    given_up: Vec<usize>,
    /// A verdict has done something to an attempt that it was not about.
    pub mistaken: bool,
    next_id: u64,
    /// Its word on the stream has changed, and is to be said.
    has_word: bool,
    /// Whether remote attempts may be refused.
    refuses: bool,
    pub over: Option<Result<(), Abort>>,
    pub completed: usize,
    pub failed: usize,
}

impl Peer {
    pub fn new(side: u64, leg: Leg<FaultLeg>, case: &Case) -> Self {
        let ready = Arc::<ReadyQueue>::default();
        let setup = Setup {
            designated: side == 0,
            verify: case.verify[side as usize],
            peer_verifies: false,
            speech: match case.resumes {
                true => Speech::Resumes,
                false => Speech::No,
            },
            opener: side == 0,
            keeps: case.resumes,
        };
        // More than anybody writes here.
        let room = Arc::new(Room::new(1 << 20, 1 << 24));
        let budget = Budget::new(case.read_ahead.0, case.read_ahead.1).with_room(room);
        let key = StreamKey::new(side);
        let shared = Shared::new(key, StreamId(0), setup, leg, None, budget, ready.clone());
        Self {
            shared,
            ready,
            drive: None,
            drive_flag: Flag::new(),
            behaviour_flag: Flag::new(),
            inbound: Vec::new(),
            early: Vec::new(),
            denials: Vec::new(),
            lingering: Vec::new(),
            asked: Vec::new(),
            late: case.late,
            given_up: Vec::new(),
            mistaken: false,
            next_id: 2 + side,
            has_word: false,
            refuses: case.refusals,
            over: None,
            completed: 0,
            failed: 0,
        }
    }

    /// The connection that carries what is written now.
    pub fn connection(&self) -> Option<usize> {
        let connection = self.shared.status().connection;
        connection.map(|key| key.number() as usize)
    }

    pub fn stream(&self) -> Migratable<FaultLeg> {
        Migratable::new(self.shared.clone())
    }

    /// Starts a migration on this leg; returns whether it did.
    pub fn start(&mut self, leg: Leg<FaultLeg>) -> bool {
        let id = StreamId(self.next_id);
        self.next_id += 2;
        let started = self.shared.start(leg, id).is_ok();
        self.behaviour_flag.set();
        started
    }

    /// Takes what it has to say of the stream, if that is anything new.
    pub fn take_word(&mut self) -> Option<Facts> {
        std::mem::take(&mut self.has_word).then(|| self.shared.facts())
    }

    /// Hears the other's word. Returns whether it holds nothing of the stream, which is then the answer.
    pub fn hear(&mut self, facts: Facts) -> bool {
        if self.over.is_some() {
            return !facts.gone;
        }
        self.shared.said(facts);
        self.behaviour_flag.set();
        false
    }

    /// What was being said got lost, and is said again.
    pub fn say_again(&mut self) {
        self.has_word |= self.over.is_none();
    }

    /// Asks on this leg that the stream go on there.
    pub fn resume(&mut self, leg: Leg<FaultLeg>) {
        let id = StreamId(self.next_id);
        self.next_id += 2;
        // The processes have no names here.
        self.shared.ask_to_resume(leg, id, (0, None));
        self.behaviour_flag.set();
    }

    pub fn accept(&mut self, io: FaultLeg, connection: u8) {
        let connection = key(connection);
        self.inbound.push(Inbound {
            io,
            connection,
            reader: Reader::default(),
        });
        self.behaviour_flag.set();
    }

    pub fn connection_lost(&mut self, connection: u8) {
        let connection = key(connection);
        self.shared.connection_lost(connection);
        self.inbound.retain(|leg| leg.connection != connection);
        self.early
            .retain(|early| early.leg.connection() != connection);
        self.lingering.retain(|leg| leg.connection() != connection);
        self.behaviour_flag.set();
    }

    /// Nothing has come on this connection for long, while others answer.
    pub fn give_up(&mut self, connection: usize) {
        self.given_up.push(connection);
        self.shared.connection_lost(key(connection as u8));
        self.behaviour_flag.set();
    }

    pub fn has_given_up(&self, connection: usize) -> bool {
        self.given_up.contains(&connection)
    }

    /// Whether the policy has something to answer.
    pub fn is_asked(&self) -> bool {
        !self.asked.is_empty()
    }

    /// The policy answers something that it was asked, which may be of no interest any more.
    pub fn answer(&mut self, rng: &mut Random) {
        let (question, verdict) = self.asked.swap_remove(rng.index(self.asked.len()));
        let before = self.shared.status();
        let in_time = self.shared.verdict(question, verdict);
        let after = self.shared.status();
        self.mistaken |=
            !in_time && (before.asked, before.migrating) != (after.asked, after.migrating);
        self.behaviour_flag.set();
    }

    /// Whether the remote wants nothing of which the machine has not heard.
    pub fn has_nothing_inbound(&self) -> bool {
        self.inbound.is_empty() && self.early.is_empty()
    }

    /// Gives up on labels that do not come. Returns whether there was one to give up.
    pub fn expire_early(&mut self) -> bool {
        !std::mem::take(&mut self.early).is_empty()
    }

    pub fn poll_drive(&mut self, cx: &mut Context<'_>) {
        if let Some(drive) = &mut self.drive
            && Pin::new(drive).poll(cx).is_ready()
        {
            self.drive = None;
            self.behaviour_flag.set();
        }
    }

    pub fn poll_behaviour(
        &mut self,
        cx: &mut Context<'_>,
        kinds: &[Kind],
        lost: &[bool],
        rng: &mut Random,
    ) {
        let _ = self.ready.collect(cx);
        let mut index = 0;
        while let Some(leg) = self.inbound.get_mut(index) {
            match leg.reader.poll_read::<Request>(&mut leg.io, cx) {
                Poll::Pending => index += 1,
                Poll::Ready(request) => {
                    let Inbound { io, connection, .. } = self.inbound.swap_remove(index);
                    let kind = kinds[connection.number() as usize].into();
                    let leg = Leg::new(io, connection, kind);
                    match request {
                        Ok(Request::Migrate { id, from, verify }) => self.early.push(Early {
                            leg,
                            id,
                            from,
                            verify,
                        }),
                        Ok(Request::Resume { id, resume }) => self.resumed(leg, id, resume),
                        _ => {}
                    }
                }
            }
        }
        self.heard_from(lost, rng);
        self.look_up();
        self.heard_from(lost, rng);
        self.denials
            .retain_mut(|denial| denial.as_mut().poll(cx).is_pending());
        if self.shared.claim_drive() {
            let timeouts = Timeouts {
                answer: std::time::Duration::ZERO,
                progress: std::time::Duration::ZERO,
                explain: std::time::Duration::ZERO,
                resume: std::time::Duration::ZERO,
            };
            self.drive = Some(Drive::new(self.shared.clone(), timeouts));
            self.drive_flag.set();
        }
    }

    /// The other side asks that the stream go on.
    fn resumed(&mut self, leg: Leg<FaultLeg>, id: StreamId, resume: Resume) {
        if self.over.is_none() {
            return self.shared.resume(leg, id, resume.generation, resume.facts);
        }
        let answer = leg.answer(Resumed::Facts(resume.origin, Facts::GONE));
        self.denials.push(Box::pin(answer));
    }

    /// The table's part: whose stream a `Migrate` names.
    fn look_up(&mut self) {
        let mut index = 0;
        while let Some(early) = self.early.get(index) {
            match self.over {
                // A deny proves that nothing was switched; after an abort it would prove too much.
                Some(Ok(())) => {
                    let early = self.early.remove(index);
                    self.denials.push(Box::pin(early.leg.deny()));
                }
                Some(Err(_)) => drop(self.early.remove(index)),
                None if self.shared.ids().contains(&early.from) => {
                    let Early {
                        leg,
                        id,
                        from,
                        verify,
                    } = self.early.remove(index);
                    match self.shared.migrate(leg, id, from, verify) {
                        Ok(()) | Err((_, Err(_))) => {}
                        Err((leg, Ok(()))) => self.denials.push(Box::pin(leg.deny())),
                    }
                }
                None => index += 1,
            }
        }
    }

    fn heard_from(&mut self, lost: &[bool], rng: &mut Random) {
        loop {
            let notes = self.shared.take_notes();
            self.lingering.extend(self.shared.take_lingering());
            if notes.is_empty() {
                return;
            }
            for note in notes {
                match note {
                    Note::Ask { question, .. } => {
                        let verdict = match rng.index(10) {
                            0 if self.refuses => Verdict::Deny,
                            1 | 2 if self.refuses => Verdict::NotNow,
                            _ => Verdict::Accept,
                        };
                        match self.late {
                            true => self.asked.push((question, verdict)),
                            false => {
                                self.shared.verdict(question, verdict);
                            }
                        }
                    }
                    Note::Probe { connection } => {
                        self.shared
                            .probed(connection, !lost[connection.number() as usize]);
                    }
                    Note::Say => self.has_word = true,
                    Note::Later(Later::Say) => {
                        self.has_word |= self.shared.is_later(Later::Say);
                    }
                    // There is room for all.
                    Note::Later(Later::Slide) => {}
                    Note::Completed(_) => self.completed += 1,
                    Note::Failed { .. } => self.failed += 1,
                    Note::Over(result) => self.over = Some(result),
                    Note::Agreed { .. }
                    | Note::Confirmed { .. }
                    | Note::Resumed { .. }
                    | Note::Waits
                    | Note::Suspended
                    | Note::GoesOn { .. }
                    | Note::Violation => {}
                }
            }
        }
    }
}
