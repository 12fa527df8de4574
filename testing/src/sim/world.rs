//! Two peers, connections between them, and an adversary that schedules everything: which task runs,
//! what arrives when and in what pieces, who migrates where, what is lost, which timer fires.
//!
//! A task runs only if its waker was called, so a waker that is lost shows as a hang.

use std::{sync::Arc, task::Context};

mod silence;

use self::silence::Silences;
use crate::Random;

use super::{
    app::{App, Close, Ending},
    leg::{Kind, Wire},
    machine::Facts,
    peer::{Flag, Peer, key},
    sleep,
    stream::Leg,
};

/// What may happen in a case.
#[derive(Debug, Clone)]
pub struct Case {
    pub seed: u64,
    pub kinds: [Kind; 3],
    pub verify: [bool; 2],
    pub migrations: usize,
    /// Whether each migration is followed by the next at once.
    pub constant: bool,
    pub kills: usize,
    pub refusals: bool,
    pub early_timeouts: bool,
    /// How much may be read ahead, of the stream and of the peer's streams together.
    pub read_ahead: (usize, usize),
    /// Where a side's reader stops for so long that every timer fires some times.
    pub sleeps: [Option<usize>; 2],
    /// How many connections go silent: nothing arrives any more, and nobody is told.
    pub silences: usize,
    /// Whether the policy takes its time, and may answer what nobody asks any more.
    pub late: bool,
    /// Write so much each way, migrate once from connection 0 to 1, and cut this connection when so many
    /// bytes, or ends, have crossed it.
    pub cut: Option<Cut>,
    /// Whether the stream outlives its connections.
    pub resumes: bool,
}

#[derive(Debug, Clone, Copy)]
pub struct Cut {
    pub total: usize,
    pub connection: u8,
    pub after: usize,
}

impl Case {
    pub fn from_seed(seed: u64) -> Self {
        let mut rng = super::random(seed);
        let kind = |rng: &mut Random| [Kind::Yamux, Kind::Quic][rng.index(2)];
        Self {
            kinds: [kind(&mut rng), kind(&mut rng), kind(&mut rng)],
            // Mostly both; else both not, or one only.
            verify: [rng.percent(75), rng.percent(75)],
            migrations: rng.index(7),
            kills: [0, 0, 1, 1, 2][rng.index(5)],
            refusals: rng.percent(20),
            early_timeouts: rng.percent(30),
            // Mostly small, so that the stream's bound is met; else so that the peer's is, or none at all.
            read_ahead: [(100, 1000), (100, 1000), (100, 60), (0, 0)][rng.index(4)],
            sleeps: [0, 1].map(|_| rng.percent(15).then(|| rng.index(300))),
            silences: [0, 0, 0, 1, 2][rng.index(5)],
            late: rng.percent(25),
            constant: rng.percent(10),
            cut: None,
            resumes: false,
            seed,
        }
    }
}

impl Case {
    /// The same, of a stream that outlives its connections. Its timers are long.
    #[must_use]
    pub fn resumable(self) -> Self {
        Self {
            resumes: true,
            verify: [true; 2],
            early_timeouts: false,
            ..self
        }
    }
}

/// What a case has shown.
#[derive(Debug, Default)]
pub struct Outcome {
    pub violation: Option<String>,
    /// Ends that look clean and are not, where nothing could tell: `docs/guarantees.md`.
    pub unprovable: usize,
    pub migrations: usize,
    pub aborted: bool,
    pub steps: usize,
    /// How much crossed the connection that was to be cut.
    pub crossed: usize,
    /// How both applications' inputs ended, and whether complete.
    pub ends: [Option<(Ending, bool)>; 2],
}

const READER: usize = 0;
const WRITER: usize = 1;
/// So often a stream is moved that never stands still. After that, who only wakes when nothing else happens does.
const CONSTANT: usize = 200;
/// More steps than any case needs.
const MAX_STEPS: usize = 200_000;
/// So many timers fire while a reader sleeps and nothing else happens.
const LONG: usize = 12;
/// More timers than any case needs when nothing else happens.
const MAX_IDLE_TIMERS: usize = 500;

struct World {
    case: Case,
    rng: Random,
    peers: [Peer; 2],
    apps: [App; 2],
    flags: [[Arc<Flag>; 2]; 2],
    /// All legs there have been, by connection.
    wires: Vec<(u8, Arc<Wire>)>,
    lost: [bool; 3],
    /// Losses that a side has not been told of.
    untold: Vec<(usize, u8)>,
    silences: Silences,
    migrations: usize,
    kills: usize,
    timers: usize,
    crossed: usize,
}

pub fn run(case: Case) -> Outcome {
    sleep::forget_all();
    let mut rng = super::random(case.seed ^ 0x5eed);
    let (one, other, wire) = Wire::new(case.kinds[0]);
    let mut side = 0;
    let peers = [one, other].map(|io| {
        let leg = Leg::new(io, key(0), case.kinds[0].into());
        let peer = Peer::new(side, leg, &case);
        side += 1;
        peer
    });
    let waits = rng.index(3);
    let mut apps = [0, 1].map(|side| {
        let close = if waits == side {
            Close::OnceEnded
        } else {
            Close::AtOnce
        };
        match case.cut {
            None => App::new(side, peers[side].stream(), &mut rng, close),
            Some(Cut { total, .. }) => {
                let close = Close::OnceRead(total);
                App::steady(side, peers[side].stream(), total, close)
            }
        }
    });
    for (app, sleeps_at) in apps.iter_mut().zip(case.sleeps) {
        app.sleeps_at = sleeps_at;
    }
    let mut world = World {
        rng,
        peers,
        apps,
        flags: [0, 1].map(|_| [Flag::new(), Flag::new()]),
        wires: vec![(0, wire)],
        lost: [false; 3],
        untold: Vec::new(),
        silences: Silences::default(),
        migrations: 0,
        kills: 0,
        timers: 0,
        crossed: 0,
        case,
    };
    if world.case.cut.is_some() {
        world.migrate_to(0, 1);
    }
    world.run()
}

impl World {
    fn run(&mut self) -> Outcome {
        let mut steps = 0;
        let mut idle_timers = 0;
        let mut slept = 0;
        let mut stuck = None;
        loop {
            steps += 1;
            if steps > MAX_STEPS {
                stuck = Some("too many steps");
                break;
            }
            if self.adversary() || self.run_a_task() || self.speak(30) || self.deliver() {
                continue;
            }
            if self.speak(100) || self.regain() {
                continue;
            }
            // Nothing can happen but that somebody is told of a loss, or that time passes.
            if let Some((side, connection)) = self.untold.pop() {
                self.tell(side, connection);
            } else if self.case.late && self.rng.percent(50) && sleep::wake_one(self.rng.index(8)) {
                self.timers += 1;
            } else if self.peers.iter().any(Peer::is_asked) {
                self.answer();
            } else if self.apps.iter().all(App::is_done)
                && self.peers.iter().all(|p| p.over.is_some())
            {
                break;
            } else if slept < LONG
                && self.apps.iter().any(App::sleeps)
                && sleep::wake_one(self.rng.index(8))
            {
                slept += 1;
                self.timers += 1;
            } else if let Some(side) = (0..2).find(|side| self.apps[*side].sleeps()) {
                self.apps[side].wake();
                self.flags[side][READER].set();
            } else if sleep::wake_one(self.rng.index(8)) && idle_timers < MAX_IDLE_TIMERS {
                idle_timers += 1;
                self.timers += 1;
            } else if self.peers.iter_mut().any(Peer::expire_early) {
                self.timers += 1;
            } else if !self.give_up_silent() {
                stuck = Some("hang");
                break;
            }
        }
        let mut outcome = self.judge(stuck);
        outcome.steps = steps;
        outcome
    }

    /// Does something unkind, sometimes.
    fn adversary(&mut self) -> bool {
        if self.case.constant && self.migrations < CONSTANT && self.migrate() {
            return true;
        }
        if !self.rng.percent(4) {
            return false;
        }
        match self.rng.index(8) {
            0..=3 if self.migrations < self.case.migrations => {
                self.migrate();
            }
            4 if self.kills < self.case.kills => {
                self.kills += 1;
                self.kill();
            }
            5 if !self.untold.is_empty() => {
                let (side, connection) = self.untold.swap_remove(self.rng.index(self.untold.len()));
                self.tell(side, connection);
            }
            6 if self.case.early_timeouts && self.rng.percent(20) => {
                if !sleep::wake_one(self.rng.index(8)) {
                    return false;
                }
                self.timers += 1;
            }
            // A spurious wake, which must do no harm.
            7 => self.flags[self.rng.index(2)][self.rng.index(2)].set(),
            5 if self.silences.count < self.case.silences => self.silence(),
            6 if self.case.late && self.rng.percent(30) => return self.answer(),
            _ => return false,
        }
        true
    }

    fn migrate(&mut self) -> bool {
        let side = self.rng.index(2);
        let to = self.rng.index(3) as u8;
        self.migrate_to(side, to)
    }

    /// Returns whether this could be begun.
    fn migrate_to(&mut self, side: usize, to: u8) -> bool {
        let peer = &mut self.peers[side];
        if self.lost[usize::from(to)]
            || peer.shared.may_start().is_err()
            || peer.connection() == Some(usize::from(to))
        {
            return false;
        }
        self.migrations += 1;
        let kind = self.case.kinds[usize::from(to)];
        let (one, other, wire) = Wire::new(kind);
        let (ours, theirs) = if side == 0 {
            (one, other)
        } else {
            (other, one)
        };
        self.wires.push((to, wire));
        peer.start(Leg::new(ours, key(to), kind.into()));
        self.peers[1 - side].accept(theirs, to);
        true
    }

    /// One of the two says its word, if it has one. It comes at once, but perhaps not soon.
    fn speak(&mut self, percent: u64) -> bool {
        if !self.case.resumes || self.lost == [true; 3] || !self.rng.percent(percent) {
            return false;
        }
        let first = self.rng.index(2);
        for side in [first, 1 - first] {
            if let Some(facts) = self.peers[side].take_word() {
                if self.peers[1 - side].hear(facts) {
                    self.peers[side].hear(Facts::GONE);
                }
                return true;
            }
        }
        false
    }

    /// The opener gets the stream another leg.
    fn regain(&mut self) -> bool {
        let opener = &self.peers[0];
        if !opener.shared.wants_leg() {
            return false;
        }
        let there: Vec<u8> = (0..3_u8)
            .filter(|it| !self.lost[usize::from(*it)] && !self.silences.now[usize::from(*it)])
            .collect();
        if there.is_empty() {
            self.peers.iter().for_each(|peer| peer.shared.give_up());
            return true;
        }
        let to = there[self.rng.index(there.len())];
        let kind = self.case.kinds[usize::from(to)];
        let (ours, theirs, wire) = Wire::new(kind);
        self.wires.push((to, wire));
        self.peers[0].resume(Leg::new(ours, key(to), kind.into()));
        self.peers[1].accept(theirs, to);
        true
    }

    fn kill(&mut self) {
        let connection = self.rng.index(3) as u8;
        for (on, wire) in &self.wires {
            if *on == connection {
                // A prefix of what is in flight may still arrive.
                wire.deliver(0, self.rng.index(20), false);
                wire.deliver(1, self.rng.index(20), false);
            }
        }
        self.cut(connection);
    }

    fn cut(&mut self, connection: u8) {
        if std::mem::replace(&mut self.lost[usize::from(connection)], true) {
            return;
        }
        for (on, wire) in &self.wires {
            if *on == connection {
                wire.kill();
            }
        }
        self.untold.extend([(0, connection), (1, connection)]);
        // Words on it are lost with it.
        self.peers.iter_mut().for_each(Peer::say_again);
    }

    fn tell(&mut self, side: usize, connection: u8) {
        self.peers[side].connection_lost(connection);
    }

    fn run_a_task(&mut self) -> bool {
        let first = self.rng.index(8);
        for offset in 0..8 {
            let number = (first + offset) % 8;
            let (side, task) = (number / 4, number % 4);
            let peer = &mut self.peers[side];
            match task {
                READER | WRITER => {
                    let flag = &self.flags[side][task];
                    if !flag.take() {
                        continue;
                    }
                    let waker = flag.waker();
                    let mut cx = Context::from_waker(&waker);
                    let app = &mut self.apps[side];
                    let waited = app.waits_for_reader();
                    let again = if task == READER {
                        app.poll_reader(&mut cx, &mut self.rng)
                    } else {
                        app.poll_writer(&mut cx, &mut self.rng)
                    };
                    if again {
                        flag.set();
                    }
                    if waited && !app.waits_for_reader() {
                        self.flags[side][WRITER].set();
                    }
                }
                2 => {
                    if !peer.drive_flag.take() {
                        continue;
                    }
                    let waker = peer.drive_flag.waker();
                    peer.poll_drive(&mut Context::from_waker(&waker));
                }
                _ => {
                    if !peer.behaviour_flag.take() {
                        continue;
                    }
                    let waker = peer.behaviour_flag.waker();
                    let mut cx = Context::from_waker(&waker);
                    let dead = [0, 1, 2].map(|it| self.lost[it] || self.silences.now[it]);
                    peer.poll_behaviour(&mut cx, &self.case.kinds, &dead, &mut self.rng);
                }
            }
            return true;
        }
        false
    }

    fn deliver(&mut self) -> bool {
        let busy: Vec<_> = self
            .wires
            .iter()
            .filter(|(on, wire)| wire.in_flight() > 0 && !self.silences.now[usize::from(*on)])
            .collect();
        if busy.is_empty() {
            return false;
        }
        let (connection, wire) = busy[self.rng.index(busy.len())];
        let connection = *connection;
        let mut n = 1 + self.rng.index(30);
        let cut = self.case.cut.filter(|cut| cut.connection == connection);
        if let Some(cut) = cut {
            n = n.min(cut.after.saturating_sub(self.crossed));
        }
        let overtake = cut.is_none() && self.rng.percent(30);
        let arrived = wire.deliver(self.rng.index(2), n, overtake);
        if let Some(cut) = cut {
            self.crossed += arrived;
            if self.crossed >= cut.after {
                self.kills += 1;
                self.cut(connection);
            }
        }
        true
    }

    fn judge(&self, stuck: Option<&str>) -> Outcome {
        let mut outcome = Outcome {
            migrations: self.peers.iter().map(|peer| peer.completed).sum(),
            aborted: self
                .peers
                .iter()
                .any(|peer| matches!(peer.over, Some(Err(_)))),
            crossed: self.crossed,
            ends: [0, 1].map(|side| {
                let (app, other) = (&self.apps[side], &self.apps[1 - side]);
                let complete = app.read == other.total && app.violation.is_none();
                app.ended.map(|ending| (ending, complete))
            }),
            ..Outcome::default()
        };
        // A timer is no fault of its own: it may find that somebody only sleeps.
        let unfailed = self.peers.iter().all(|peer| peer.failed == 0);
        let faultless = self.kills + self.silences.count == 0
            && (self.timers == 0 || unfailed && !self.case.early_timeouts)
            && (unfailed || !self.case.refusals)
            && !self.case.refusals
            && self.apps.iter().all(|app| !app.dropped_early);
        for side in [0, 1] {
            let (app, other) = (&self.apps[side], &self.apps[1 - side]);
            let verified = self.case.verify == [true, true];
            let wrong = match &app.violation {
                // Without the counts, an old yamux leg that was cut looks like the switch.
                Some(_) if !verified && self.kills + self.silences.count > 0 => {
                    outcome.unprovable += 1;
                    continue;
                }
                wrong => wrong.clone(),
            };
            let violation = wrong.or_else(|| {
                let complete = app.read == other.written && other.closing;
                match app.ended {
                    _ if app.read > other.written => Some(format!("side {side} read too much")),
                    Some(Ending::Clean) if !complete => {
                        if self.is_unprovable(side) {
                            outcome.unprovable += 1;
                            None
                        } else {
                            Some(format!(
                                "side {side} was told of an end after {} of {} bytes, closed: {}",
                                app.read, other.written, other.closing
                            ))
                        }
                    }
                    Some(Ending::Failed) if faultless => Some(format!(
                        "side {side} failed though nothing went wrong: {:?}",
                        [&self.peers[0].over, &self.peers[1].over]
                    )),
                    Some(Ending::Failed) if self.must_be_whole() => Some(format!(
                        "side {side} failed though there was another connection: {:?}",
                        [&self.peers[0].over, &self.peers[1].over]
                    )),
                    _ => None,
                }
            });
            outcome.violation = outcome.violation.take().or(violation);
        }
        let astray = self.astray(unfailed).or_else(|| self.mistaken());
        outcome.violation = outcome.violation.take().or(astray);
        let forsaken = [0, 1].map(|side| self.is_forsaken(side));
        if stuck.is_some() && (0..2).all(|side| forsaken[side] || self.apps[side].is_done()) {
            outcome.unprovable += 1;
        } else if let Some(stuck) = stuck {
            let states = [0, 1].map(|side| {
                let app = &self.apps[side];
                format!(
                    "wrote {}/{}, read {}, ended {:?}, closed {}, {:?}, over {:?}",
                    app.written,
                    app.total,
                    app.read,
                    app.ended,
                    app.closed,
                    self.peers[side].shared.status(),
                    self.peers[side].over
                )
            });
            outcome
                .violation
                .get_or_insert(format!("{stuck}: {states:?}"));
        }
        outcome
    }

    /// Whether nothing may fail: the stream outlives its connections, and there is one.
    fn must_be_whole(&self) -> bool {
        let early = self.apps.iter().any(|app| app.dropped_early);
        let dead = |it: &usize| self.lost[*it] || self.silences.now[*it];
        let gone = (0..3).filter(dead).count().max(self.silences.count);
        self.case.resumes && gone + usize::from(self.silences.count > 0) < 3 && !early
    }

    /// Whether a writer waits for a yamux leg that the other side has closed and then dropped: nothing is
    /// said on the wire then, and it waits for ever, as with any yamux stream.
    fn is_forsaken(&self, side: usize) -> bool {
        let app = &self.apps[side];
        let aborted = matches!(self.peers[1 - side].over, Some(Err(_)));
        let last = self.peers[side].connection();
        let yamux = last.is_some_and(|last| self.case.kinds[last] == Kind::Yamux);
        let waiting = app.ended.is_some() && !app.closed && !app.write_failed;
        aborted && yamux && waiting && self.apps[1 - side].closing
    }

    /// Whether a clean end that is none was beyond anybody's knowledge: see `docs/guarantees.md`.
    fn is_unprovable(&self, side: usize) -> bool {
        if self.case.resumes {
            return false;
        }
        let app = &self.apps[side];
        let aborted = matches!(self.peers[1 - side].over, Some(Err(_)));
        let last = self.peers[side].connection().unwrap_or_default();
        let verified = self.case.verify == [true, true];
        let switched = self.peers[side].completed > 0;
        let no_evidence = match self.case.kinds[last] {
            // The last leg was lost or reset, and our write side could not be asked.
            Kind::Yamux => app.closed_at_end && (self.lost[last] || aborted),
            // The other side dropped it, on a stream on which that may be an ordinary thing to do.
            Kind::Quic => aborted && (app.closed_at_end || !verified || !switched),
        };
        // Without the counts, an old leg that was cut looks like the switch.
        no_evidence || !verified && (self.kills + self.silences.count > 0 || aborted)
    }
}
