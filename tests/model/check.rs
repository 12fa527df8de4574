//! Breadth-first search over fingerprints, with the way back for counterexamples.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    hash::{BuildHasherDefault, Hash, Hasher},
    time::{Duration, Instant},
};

use crate::{
    action::Action,
    config::Config,
    world::{Log, Violation, World, name},
};

/// A multiply-and-rotate hasher: the standard one is too slow for a hundred million states.
#[derive(Default)]
pub(crate) struct Fast(u64);

impl Hasher for Fast {
    fn finish(&self) -> u64 {
        let mut x = self.0;
        x ^= x >> 32;
        x = x.wrapping_mul(0xd6e8_feb8_6659_fd93);
        x ^= x >> 29;
        x = x.wrapping_mul(0x9fb2_1c65_1e98_df25);
        x ^ x >> 32
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, n: u64) {
        let mixed = u128::from(self.0 ^ n ^ 0x9e37_79b9_7f4a_7c15) * 0xa076_1d64_78bd_642f_u128;
        self.0 = (mixed as u64) ^ ((mixed >> 64) as u64).rotate_left(23);
    }

    fn write_u8(&mut self, n: u8) {
        self.write_u64(n.into());
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }

    fn write_isize(&mut self, n: isize) {
        self.write_u64(n as u64);
    }
}

/// Fingerprints are hashes already.
#[derive(Default)]
pub(crate) struct Same(u64);

impl Hasher for Same {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only u64 are hashed");
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
}

type Map = HashMap<u64, u64, BuildHasherDefault<Same>>;

fn fingerprint(world: &World) -> u64 {
    let mut hasher = Fast::default();
    world.hash(&mut hasher);
    hasher.finish()
}

/// A state that breaks a property, and how it came about.
pub(crate) struct Counterexample {
    pub(crate) what: Violation,
    pub(crate) trace: Vec<String>,
}

pub(crate) struct Report {
    pub(crate) states: usize,
    pub(crate) exhausted: bool,
    pub(crate) time: Duration,
    /// Clean ends that are none, by reason.
    pub(crate) exceptions: BTreeMap<&'static str, usize>,
    /// States in which both are on a later leg.
    pub(crate) moved: usize,
    /// The most resumes.
    pub(crate) resumes: u64,
    pub(crate) counterexample: Option<Counterexample>,
}

/// What leads from a state to the next one.
#[derive(Debug, Clone, Copy)]
enum Step {
    Action(Action),
    /// An armed timer fires because nothing else happens.
    Fire(usize),
}

impl Step {
    fn take(self, world: &World, config: &Config, log: &mut Log<'_>) -> (World, Outcome) {
        let mut next = world.clone();
        let outcome = match self {
            Self::Action(action) => next.apply(config, action, log),
            Self::Fire(side) => {
                next.budgets.waited = true;
                next.fire(config, side, log)
            }
        };
        (next, outcome)
    }

    /// All steps from here; at rest, the state itself is judged.
    fn all(world: &World, config: &Config) -> Result<Vec<Self>, Violation> {
        let actions = world.actions(config);
        let rests = !actions.iter().any(|action| action.is_progress());
        let mut steps: Vec<_> = actions.into_iter().map(Self::Action).collect();
        if rests {
            world.judge_rest(config)?;
            let timers = [0, 1]
                .into_iter()
                .filter(|side| world.peers[*side].timer.is_some());
            let fires: Vec<_> = timers.map(Self::Fire).collect();
            if !fires.is_empty() && world.budgets.waited {
                let before = fingerprint(world);
                let excused = (0..2)
                    .any(|side| world.is_stuck_in_promise(side) || world.waits_for_a_holder(side));
                if !excused
                    && fires
                        .iter()
                        .all(|fire| fire.leads_back(world, config, before))
                {
                    return Err("timers fire for ever, and nothing comes of it".into());
                }
            }
            steps.extend(fires);
        }
        Ok(steps)
    }

    /// Whether a fired timer, and the probe that it may ask for, change nothing.
    fn leads_back(self, world: &World, config: &Config, before: u64) -> bool {
        let (mut next, outcome) = self.take(world, config, &mut None);
        let Self::Fire(side) = self else { return false };
        if outcome.is_err() {
            return false;
        }
        while next.peers[side].probes.contains(&true) {
            let probed = |action: &Action| matches!(action, Action::Probed(of, ..) if *of == side);
            let Some(action) = next.actions(config).into_iter().find(probed) else {
                return false;
            };
            let (after, outcome) = Self::Action(action).take(&next, config, &mut None);
            if outcome.is_err() {
                return false;
            }
            next = after;
        }
        fingerprint(&next) == before
    }
}

const PIECE: usize = 256;

type Outcome = Result<(), Violation>;

/// Explores everything, or until a property is broken or there are too many states.
pub(crate) fn explore(config: &Config, limit: usize) -> Report {
    let started = Instant::now();
    let first = World::new(config);
    let mut parents = Map::default();
    parents.insert(fingerprint(&first), 0);
    let mut report = Report {
        states: 0,
        exhausted: false,
        time: Duration::ZERO,
        exceptions: BTreeMap::new(),
        moved: 0,
        resumes: 0,
        counterexample: None,
    };
    // In pieces, which are given back one by one.
    let mut frontier = vec![vec![first.clone()]];
    'search: while !frontier.is_empty() && parents.len() < limit {
        let mut next: Vec<Vec<World>> = Vec::new();
        for world in frontier.into_iter().flatten() {
            let here = fingerprint(&world);
            let steps = match Step::all(&world, config) {
                Ok(steps) => steps,
                Err(what) => {
                    report.counterexample = Some(retrace(config, &first, &parents, here, what));
                    frontier = Vec::new();
                    break 'search;
                }
            };
            for step in steps {
                let (mut after, outcome) = step.take(&world, config, &mut None);
                let exception = after.exception.take();
                if let Err(what) = outcome {
                    let mut example = retrace(config, &first, &parents, here, what);
                    show(step, &world, config, &mut example.trace);
                    report.counterexample = Some(example);
                    frontier = Vec::new();
                    break 'search;
                }
                let there = fingerprint(&after);
                if let Entry::Vacant(place) = parents.entry(there) {
                    place.insert(here);
                    if let Some(exception) = exception {
                        *report.exceptions.entry(exception).or_default() += 1;
                    }
                    report.resumes = report.resumes.max(after.budgets.resumes);
                    report.moved += usize::from(after.both_moved());
                    match next.last_mut() {
                        Some(piece) if piece.len() < PIECE => piece.push(after),
                        _ => {
                            let mut piece = Vec::with_capacity(PIECE);
                            piece.push(after);
                            next.push(piece);
                        }
                    }
                }
            }
        }
        frontier = next;
    }
    report.states = parents.len();
    report.exhausted = frontier.is_empty() && report.counterexample.is_none();
    report.time = started.elapsed();
    report
}

/// Carries a step out once more, with words.
fn show(step: Step, world: &World, config: &Config, trace: &mut Vec<String>) -> World {
    trace.push(match step {
        Step::Action(action) => world.describe(action),
        Step::Fire(side) => format!("nothing happens; {}'s timer fires", name(side)),
    });
    let (mut after, _) = step.take(world, config, &mut Some(trace));
    after.exception = None;
    after
}

/// The way from the first state to one with this fingerprint.
fn retrace(
    config: &Config,
    first: &World,
    parents: &Map,
    to: u64,
    what: Violation,
) -> Counterexample {
    let mut path = vec![to];
    while let Some(&parent) = path.last().and_then(|last| parents.get(last)) {
        if parent == 0 {
            break;
        }
        path.push(parent);
    }
    path.reverse();
    let mut world = first.clone();
    let mut trace = Vec::new();
    for wanted in &path[1..] {
        let steps = Step::all(&world, config).expect("this way was taken before");
        let step = steps
            .into_iter()
            .find(|step| {
                let (mut after, _) = step.take(&world, config, &mut None);
                after.exception = None;
                fingerprint(&after) == *wanted
            })
            .expect("this step was taken before");
        world = show(step, &world, config, &mut trace);
    }
    Counterexample { what, trace }
}
