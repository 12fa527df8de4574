//! One side without its swarm: what a behaviour does for one stream, but that the script answers
//! for the policy.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::{
    AsyncRead, AsyncWrite,
    future::BoxFuture,
    task::{ArcWake, noop_waker_ref, waker},
};

use crate::{
    key::{ConnectionKey, StreamKey},
    leg::{FaultLeg, Kind},
    machine::{
        Question, Setup, StreamId,
        rules::{Rule, without},
    },
    protocol::codec::{Reader, Request},
    script::{End, Read, name},
    sleep::Nap,
    stream::{Budget, Drive, Leg, Migratable, Note, ReadyQueue, Shared, Timeouts},
};

#[derive(Default)]
struct Flag(AtomicBool);

impl ArcWake for Flag {
    fn wake_by_ref(flag: &Arc<Self>) {
        flag.0.store(true, Ordering::Relaxed);
    }
}

impl Flag {
    fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

/// A leg that the remote has opened, before its first message.
struct Inbound {
    io: FaultLeg,
    connection: ConnectionKey,
    reader: Reader,
}

/// One side: the stream, what a behaviour does for it, and its application.
pub struct Peer {
    side: usize,
    pub shared: Arc<Shared<FaultLeg>>,
    ready: Arc<ReadyQueue>,
    drive: Option<Drive<FaultLeg, Nap>>,
    drive_flag: Arc<Flag>,
    behaviour_flag: Arc<Flag>,
    inbound: Vec<Inbound>,
    denials: Vec<BoxFuture<'static, std::io::Result<()>>>,
    lingering: Vec<Leg<FaultLeg>>,
    next_id: u64,
    /// Rule 5, which is the table's.
    pub denies_ended: bool,
    /// The policy has been asked, and has not answered.
    pub asked: Option<Question>,
    pub notes: Vec<Note>,
    stream: Option<Migratable<FaultLeg>>,
    /// What the application has read.
    pub read: Read,
}

impl Peer {
    pub fn new(side: usize, leg: Leg<FaultLeg>, setup: Setup, disobeyed: Option<Rule>) -> Self {
        let ready = Arc::<ReadyQueue>::default();
        let key = StreamKey::new(side as u64);
        // Reading ahead is not what is looked at here.
        let budget = Budget::new(1000, 1000);
        without(disobeyed);
        let shared = Shared::new(key, StreamId(0), setup, leg, None, budget, ready.clone());
        without(None);
        Self {
            side,
            ready,
            drive: None,
            drive_flag: Arc::default(),
            behaviour_flag: Arc::new(Flag(true.into())),
            inbound: Vec::new(),
            denials: Vec::new(),
            lingering: Vec::new(),
            next_id: 2 + side as u64,
            denies_ended: true,
            asked: None,
            notes: Vec::new(),
            stream: Some(Migratable::new(shared.clone())),
            shared,
            read: (String::new(), End::Not),
        }
    }

    pub fn timeouts(side: usize) -> Timeouts {
        // Only names: see `sleep`.
        let name = |n: usize| Duration::from_secs((10 * side + n) as u64);
        Timeouts {
            answer: name(1),
            progress: name(2),
            explain: name(3),
            resume: name(4),
        }
    }

    /// Starts a migration onto this leg.
    pub fn start(&mut self, leg: Leg<FaultLeg>) {
        let id = StreamId(self.next_id);
        self.next_id += 2;
        let started = self.shared.start(leg, id);
        assert!(started.is_ok(), "{} cannot start", name(self.side));
    }

    /// The remote has opened this leg.
    pub fn accept(&mut self, io: FaultLeg, connection: ConnectionKey) {
        self.inbound.push(Inbound {
            io,
            connection,
            reader: Reader::default(),
        });
        ArcWake::wake_by_ref(&self.behaviour_flag);
    }

    /// Polls what has been woken, until nothing is.
    pub fn run(&mut self, kinds: &[Kind]) {
        for _ in 0..1000 {
            if self.drive_flag.take() {
                let waker = waker(self.drive_flag.clone());
                let mut cx = Context::from_waker(&waker);
                if let Some(drive) = &mut self.drive
                    && Pin::new(drive).poll(&mut cx).is_ready()
                {
                    self.drive = None;
                    // It may have been claimed again in the meantime.
                    ArcWake::wake_by_ref(&self.behaviour_flag);
                }
            } else if self.behaviour_flag.take() {
                let waker = waker(self.behaviour_flag.clone());
                self.behave(&mut Context::from_waker(&waker), kinds);
            } else {
                return;
            }
        }
        panic!("{} spins", name(self.side));
    }

    fn behave(&mut self, cx: &mut Context<'_>, kinds: &[Kind]) {
        let _ = self.ready.collect(cx);
        self.hear_notes();
        for mut leg in std::mem::take(&mut self.inbound) {
            match leg.reader.poll_read::<Request>(&mut leg.io, cx) {
                Poll::Pending => self.inbound.push(leg),
                Poll::Ready(Ok(Request::Migrate { id, from, verify })) => {
                    let kind = kinds[leg.connection.number() as usize].into();
                    let leg = Leg::new(leg.io, leg.connection, kind);
                    if let Err((leg, over)) = self.shared.migrate(leg, id, from, verify)
                        && over.is_ok()
                        && self.denies_ended
                    {
                        self.denials.push(Box::pin(leg.deny()));
                    }
                }
                // Lost before its first message.
                Poll::Ready(_) => {}
            }
        }
        self.hear_notes();
        self.denials
            .retain_mut(|denial| denial.as_mut().poll(cx).is_pending());
        if self.shared.claim_drive() {
            self.drive = Some(Drive::new(self.shared.clone(), Self::timeouts(self.side)));
            ArcWake::wake_by_ref(&self.drive_flag);
        }
    }

    fn hear_notes(&mut self) {
        let notes = self.shared.take_notes();
        for note in &notes {
            if let Note::Ask { question, .. } = note {
                self.asked = Some(*question);
            }
        }
        self.notes.extend(notes);
        self.lingering.extend(self.shared.take_lingering());
    }

    fn app(&mut self) -> (Pin<&mut Migratable<FaultLeg>>, Context<'static>) {
        let stream = self.stream.as_mut().expect("it was not dropped");
        // The script polls the application by itself.
        (Pin::new(stream), Context::from_waker(noop_waker_ref()))
    }

    pub fn write(&mut self, what: &[u8]) -> Poll<std::io::Result<usize>> {
        let (stream, mut cx) = self.app();
        stream.poll_write(&mut cx, what)
    }

    pub fn close(&mut self) -> Poll<std::io::Result<()>> {
        let (stream, mut cx) = self.app();
        stream.poll_close(&mut cx)
    }

    pub fn drop_stream(&mut self) {
        self.stream = None;
    }

    /// Reads once. Whether there may be more.
    pub fn read(&mut self) -> bool {
        if self.read.1 != End::Not {
            return false;
        }
        let mut buf = [0; 16];
        let (stream, mut cx) = self.app();
        match stream.poll_read(&mut cx, &mut buf) {
            Poll::Pending => return false,
            Poll::Ready(Ok(0)) => self.read.1 = End::Clean,
            Poll::Ready(Ok(n)) => {
                let text = buf[..n].escape_ascii().to_string();
                self.read.0.push_str(&text);
            }
            Poll::Ready(Err(error)) => {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
                self.read.1 = End::Reset;
            }
        }
        true
    }
}
