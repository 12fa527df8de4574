//! The books below the swarm (`core/src/links.rs`), two sides of them, and every interleaving of what swarms,
//! streams, links and timers may do, within budgets.
//!
//! Links lose everything or nothing, in order; what is said on them is late. Each side hears of a link's end by
//! itself. A peer may restart: its later links name another epoch.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet, VecDeque},
    hash::{Hash, Hasher},
};

use libp2p_stream_migration_core::{
    links::{Links, Output, Readiness, Rule, Timer, Usage, Why},
    protocol::codec::Hello,
};

use crate::check::Fast;

/// What may happen.
#[derive(Debug, Clone, Copy)]
struct Config {
    /// Links, in the order in which they come: relayed or direct, and in which life of B's.
    links: &'static [(bool, u64)],
    /// B has a layer.
    layered: bool,
    losses: u8,
    closes: u8,
    /// Streams that are begun.
    streams: u8,
    /// Times that a side says of a link that it is to be emptied, or is not any more.
    drains: u8,
}

/// A message on a link.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Said {
    Hello(Hello),
    Refused,
    Closed(u64),
    /// The last bytes of a stream of this connection of the writer's.
    Bytes(u64),
}

/// A side's end of a link.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct End {
    /// The swarm has adopted it.
    adopted: bool,
    /// The link is gone, as far as this side knows.
    gone: bool,
    /// What is on its way to this side.
    inbox: VecDeque<Said>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Side {
    /// One of each life.
    books: BTreeMap<u64, Links>,
    armed: BTreeSet<(u64, Timer)>,
    ends: BTreeMap<u64, End>,
    /// Connections that the swarm has, and whether it closed those that it has not any more.
    open: BTreeSet<u64>,
    closed: BTreeSet<u64>,
    untold: BTreeSet<u64>,
    /// Connections whose streams have had their time.
    timed: BTreeSet<u64>,
    /// Streams: of which connection, and whether their last bytes are out.
    streams: BTreeMap<u64, u8>,
    /// Connections that have failed, and why.
    failed: BTreeMap<u64, Lost>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Lost {
    Home,
    Closed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    sides: [Side; 2],
    /// Links that have come.
    come: usize,
    losses: u8,
    closes: u8,
    streams: u8,
    drains: u8,
    /// The links that a side wants emptied.
    unwanted: BTreeSet<(usize, u64)>,
    /// Something that must not be has happened.
    broken: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// The next link is there.
    Link,
    /// The swarm polls it for the first time.
    Adopt(usize, u64),
    Hear(usize, u64),
    /// A link is lost.
    Lose(u64),
    /// A side hears of it.
    Notice(usize, u64),
    Close(usize, u64, bool),
    Begin(usize, u64),
    End(usize, u64),
    Fire(usize, u64, Timer),
    Unused(usize, u64),
    /// A side wants a link emptied, or does not any more.
    Drain(usize, u64),
}

/// The number of a link at one side: they are numbered apart.
fn number(side: usize, link: u64) -> u64 {
    10 * (side as u64 + 1) + link
}

fn link_of(number: u64) -> u64 {
    number % 10
}

impl World {
    fn new(config: &Config, without: Option<Rule>) -> Self {
        let side = || Side {
            books: BTreeMap::new(),
            armed: BTreeSet::new(),
            ends: BTreeMap::new(),
            open: BTreeSet::new(),
            closed: BTreeSet::new(),
            untold: BTreeSet::new(),
            timed: BTreeSet::new(),
            streams: BTreeMap::new(),
            failed: BTreeMap::new(),
        };
        let mut world = Self {
            sides: [side(), side()],
            come: 0,
            losses: config.losses,
            closes: config.closes,
            streams: config.streams,
            drains: config.drains,
            unwanted: BTreeSet::new(),
            broken: None,
        };
        for (index, side) in world.sides.iter_mut().enumerate() {
            for life in Self::lives(config, index) {
                let mut books = Links::new(false);
                books.without = without;
                side.books.insert(life, books);
            }
        }
        world
    }

    /// A lives once, B as often as its links say.
    fn lives(config: &Config, side: usize) -> BTreeSet<u64> {
        match side {
            0 => BTreeSet::from([0]),
            _ => config.links.iter().map(|(_, life)| *life).collect(),
        }
    }

    fn life(config: &Config, side: usize, link: u64) -> u64 {
        match side {
            0 => 0,
            _ => config.links[link as usize].1,
        }
    }

    fn actions(&self, config: &Config) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.come < config.links.len() {
            actions.push(Action::Link);
        }
        for (index, side) in self.sides.iter().enumerate() {
            for (link, end) in &side.ends {
                if end.gone {
                    continue;
                }
                if !end.adopted {
                    actions.push(Action::Adopt(index, *link));
                } else if !end.inbox.is_empty() {
                    actions.push(Action::Hear(index, *link));
                }
                let layered = index == 0 || config.layered;
                if end.adopted && layered && self.drains > 0 {
                    actions.push(Action::Drain(index, *link));
                }
                let other = &self.sides[1 - index].ends[link];
                if other.gone && end.inbox.is_empty() {
                    actions.push(Action::Notice(index, *link));
                }
                if index == 0 && self.losses > 0 && !other.gone {
                    actions.push(Action::Lose(*link));
                }
            }
            for number in &side.open {
                if side.failed.contains_key(number) {
                    // The swarm closes what has failed.
                    actions.push(Action::Close(index, *number, false));
                    continue;
                }
                let used = side.streams.get(number).is_some_and(|count| *count > 0);
                if self.closes > 0 {
                    actions.push(Action::Close(index, *number, true));
                    if !used {
                        actions.push(Action::Close(index, *number, false));
                    }
                }
                if self.streams > 0 {
                    actions.push(Action::Begin(index, *number));
                }
                if used {
                    actions.push(Action::End(index, *number));
                }
            }
            // The time that passes before is longer than any message's.
            let settled = self.sides.iter().zip([1, 0]).all(|(side, other)| {
                side.ends.iter().all(|(link, end)| {
                    let heard = end.inbox.is_empty() && !self.sides[other].ends[link].gone;
                    end.gone || end.adopted && heard
                })
            });
            for (life, timer) in &side.armed {
                // Whoever is slow to say hello may be so for longer; the other times are long enough for all that
                // ever ends.
                let due = match timer {
                    Timer::Hello(_) => true,
                    Timer::Settled(_) | Timer::Closed(_) => settled,
                    Timer::Told(_) | Timer::Orphaned => settled,
                };
                if due {
                    actions.push(Action::Fire(index, *life, *timer));
                }
            }
            for books in side.books.values().filter(|_| settled) {
                for link in side.ends.keys().map(|link| number(index, *link)) {
                    if books.readiness(link).is_some() && books.is_unused(link) {
                        actions.push(Action::Unused(index, link));
                    }
                }
            }
        }
        actions
    }

    fn apply(&mut self, config: &Config, action: Action) {
        match action {
            Action::Link => {
                for side in &mut self.sides {
                    side.ends.insert(self.come as u64, End::default());
                }
                self.come += 1;
            }
            Action::Adopt(index, link) => {
                let life = Self::life(config, index, link);
                let side = &mut self.sides[index];
                side.end(link).adopted = true;
                let number = number(index, link);
                side.open.insert(number);
                // What has a layer has one.
                if index == 0 || config.layered {
                    side.books(life)
                        .adopt(number, config.links[link as usize].0);
                    self.carry_out(config, index, life);
                }
            }
            Action::Hear(index, link) => self.hear(config, index, link),
            Action::Lose(link) => {
                self.losses -= 1;
                for index in 0..2 {
                    self.sides[index].end(link).inbox.clear();
                    self.gone(config, index, link);
                }
            }
            Action::Notice(index, link) => self.gone(config, index, link),
            Action::Close(index, number, deliberately) => {
                let failed = self.sides[index].failed.contains_key(&number);
                if !failed {
                    self.closes -= 1;
                    self.sides[index].closed.insert(number);
                    // With the last connection nobody is left to be told. Who has another link by then hears of it
                    // when it uses the counterpart.
                    if self.sides[index].open.len() == 1 {
                        self.sides[index].untold.insert(number);
                    }
                }
                self.close(config, index, number, deliberately && !failed);
            }
            Action::Begin(index, number) => {
                self.streams -= 1;
                let side = &mut self.sides[index];
                let books = side.books(Self::life(config, index, link_of(number)));
                if books.is_open(number) {
                    *side.streams.entry(number).or_default() += 1;
                }
            }
            Action::End(index, number) => self.end_stream(config, index, number),
            Action::Fire(index, life, timer) => {
                let side = &mut self.sides[index];
                side.armed.remove(&(life, timer));
                if let Timer::Closed(number) = timer {
                    side.timed.insert(number);
                }
                side.books(life).fired(timer);
                self.look(config, index, life);
            }
            Action::Drain(index, link) => {
                self.drains -= 1;
                let is = (index, link);
                let unwanted = !self.unwanted.remove(&is) && self.unwanted.insert(is);
                let life = Self::life(config, index, link);
                let books = self.sides[index].books(life);
                books.set_unwanted(number(index, link), unwanted);
                self.look(config, index, life);
            }
            Action::Unused(index, link) => {
                let life = Self::life(config, index, link_of(link));
                self.sides[index].books(life).close_link(link);
                self.look(config, index, life);
            }
        }
    }

    /// Its last bytes leave on the connection's home, and it is over here.
    fn end_stream(&mut self, config: &Config, index: usize, number: u64) {
        let life = Self::life(config, index, link_of(number));
        let side = &mut self.sides[index];
        if let Some(count) = side.streams.get_mut(&number) {
            *count -= 1;
        }
        side.streams.retain(|_, count| *count > 0);
        let home = side
            .books(life)
            .home(number)
            .map_or(link_of(number), link_of);
        self.say(index, home, Said::Bytes(number));
        self.look(config, index, life);
    }

    fn close(&mut self, config: &Config, index: usize, number: u64, deliberately: bool) {
        let life = Self::life(config, index, link_of(number));
        let layered = index == 0 || config.layered;
        let side = &mut self.sides[index];
        side.open.remove(&number);
        // What is open is aborted, and nobody waits for it.
        side.streams.remove(&number);
        if layered {
            side.books(life).close(number, deliberately, false);
            self.look(config, index, life);
        } else {
            self.gone(config, index, link_of(number));
        }
    }

    fn say(&mut self, from: usize, link: u64, said: Said) {
        let end = self.sides[1 - from].end(link);
        if !end.gone {
            end.inbox.push_back(said);
        }
    }

    fn hear(&mut self, config: &Config, index: usize, link: u64) {
        let life = Self::life(config, index, link);
        let number = number(index, link);
        let side = &mut self.sides[index];
        let Some(said) = side.end(link).inbox.pop_front() else {
            return;
        };
        if index == 1 && !config.layered {
            if let Said::Hello(_) = said {
                self.say(1, link, Said::Refused);
            }
            return;
        }
        let books = side.books(life);
        match said {
            Said::Hello(hello) => books.greeted(number, hello),
            Said::Refused => books.has_no_layer(number),
            Said::Closed(remote) => {
                let epoch = books.said_epoch(number);
                let epoch = epoch.unwrap_or_default();
                books.closed_by_remote(epoch, remote);
            }
            Said::Bytes(remote) => {
                // They are for the counterpart, which has not been closed before them.
                let ours = side.open.iter().find(|it| link_of(**it) == link_of(remote));
                let over = ours.and_then(|it| side.failed.get(it));
                let timed = ours.is_some_and(|it| side.timed.contains(it));
                if over == Some(&Lost::Closed) && !timed {
                    self.broken = Some("a connection was closed before its last bytes came");
                }
            }
        }
        self.look(config, index, life);
    }

    /// A side hears that a link is gone.
    fn gone(&mut self, config: &Config, index: usize, link: u64) {
        let life = Self::life(config, index, link);
        let side = &mut self.sides[index];
        let end = side.end(link);
        if std::mem::replace(&mut end.gone, true) || !end.adopted {
            return;
        }
        if index == 1 && !config.layered {
            side.open.remove(&number(index, link));
            return;
        }
        let best = side.best(config, index, life);
        side.books(life).lost(number(index, link), &best);
        self.look(config, index, life);
    }

    fn look(&mut self, config: &Config, index: usize, life: u64) {
        self.carry_out(config, index, life);
        let side = &mut self.sides[index];
        let best = side.best(config, index, life);
        for link in side.ends.keys().copied().collect::<Vec<_>>() {
            let number = number(index, link);
            let legs = side
                .streams
                .keys()
                .any(|of| side.books[&life].home(*of) == Some(number));
            let usage = Usage {
                legs,
                others: false,
            };
            side.books(life).set_usage(number, usage);
            let in_use = side.streams.get(&number).is_some_and(|count| *count > 0);
            side.books(life).set_in_use(number, in_use);
        }
        let books = side.books(life);
        if books.seeks_homes() {
            books.rehome(&best);
        }
        books.look(true);
        self.carry_out(config, index, life);
    }

    fn carry_out(&mut self, config: &Config, index: usize, life: u64) {
        while let Some(output) = self.sides[index].books(life).next_output() {
            match output {
                Output::Hello(link) => {
                    let hello = Hello {
                        epoch: 100 * (index as u64 + 1) + life,
                        connection: Some(link),
                        facts: false,
                        resume: false,
                    };
                    self.say(index, link_of(link), Said::Hello(hello));
                }
                Output::SayClosed { link, connection } => {
                    self.say(index, link_of(link), Said::Closed(connection));
                }
                Output::Close(link) => self.gone(config, index, link_of(link)),
                Output::Failed { connection, why } => {
                    let why = match why {
                        Why::Lost => Lost::Home,
                        Why::Closed => Lost::Closed,
                    };
                    self.fails(config, index, connection, why);
                }
                Output::Arm(timer) => drop(self.sides[index].armed.insert((life, timer))),
                Output::Disarm(timer) => drop(self.sides[index].armed.remove(&(life, timer))),
                Output::Ready { link, epoch } => {
                    let of = World::life(config, 1 - index, link_of(link));
                    if epoch != 100 * (2 - index as u64) + of {
                        self.broken = Some("a link is another process's");
                    }
                }
                Output::Home { connection, to, .. } => {
                    let lives =
                        [connection, to].map(|it| Self::life(config, 1 - index, link_of(it)));
                    if lives[0] != lives[1] {
                        self.broken = Some("a connection is at home with another process");
                    }
                }
                Output::Plain(_) | Output::Silent(_) | Output::Violation(_) => {}
            }
        }
    }

    fn fails(&mut self, config: &Config, index: usize, connection: u64, why: Lost) {
        let side = &mut self.sides[index];
        side.failed.insert(connection, why);
        let streams = side
            .streams
            .get(&connection)
            .is_some_and(|count| *count > 0);
        if why == Lost::Closed && streams && !side.timed.contains(&connection) {
            self.broken = Some("a connection was closed under its streams");
        }
        if why == Lost::Home && self.greeting_is_near(config, index, connection) {
            self.broken = Some("a connection was lost, and another link's hello was on its way");
        }
        let counterpart = number(1 - index, link_of(connection));
        let closed = self.sides[1 - index].closed.contains(&counterpart);
        if why == Lost::Closed && !closed {
            self.broken = Some("a connection was closed that nobody had closed");
        }
    }

    /// A connection whose counterpart is known could be at home on another link, on which the other side has said
    /// hello; this side waits for that, and has it before it.
    fn greeting_is_near(&self, config: &Config, index: usize, connection: u64) -> bool {
        let life = |side, link| Self::life(config, side, link);
        let of = life(1 - index, link_of(connection));
        let (side, other) = (&self.sides[index], &self.sides[1 - index]);
        let books = &side.books[&life(index, link_of(connection))];
        let near = |(link, end): (&u64, &End)| {
            let waits = books.readiness(number(index, *link)) == Some(Readiness::Asked);
            let said = end.inbox.iter().any(|said| matches!(said, Said::Hello(_)));
            life(1 - index, *link) == of && waits && said && !end.gone && !other.ends[link].gone
        };
        books.remote(connection).is_some() && side.ends.iter().any(near)
    }

    /// Nothing more happens by itself.
    fn judge(&self, config: &Config) -> Option<&'static str> {
        for (index, side) in self.sides.iter().enumerate() {
            for (link, _) in side.ends.iter().filter(|(_, end)| !end.gone) {
                let layered = index == 0 || config.layered;
                let life = Self::life(config, index, *link);
                let home = side.books[&life]
                    .at_home(number(index, *link))
                    .next()
                    .is_some();
                let here = home || !layered && side.open.contains(&number(index, *link));
                let other = &self.sides[1 - index];
                if !here && other.open.is_empty() {
                    return Some("a link is left that nobody needs");
                }
            }
            for connection in &side.open {
                let life = Self::life(config, index, link_of(*connection));
                if index == 1 && !config.layered {
                    continue;
                }
                let Some(home) = side.books[&life].home(*connection) else {
                    return Some("an open connection has no home");
                };
                if side.ends[&link_of(home)].gone {
                    return Some("an open connection's home is gone");
                }
                let counterpart = number(1 - index, link_of(*connection));
                let other = &self.sides[1 - index];
                // The word may have been lost with a link; then the first stream for the counterpart brings another.
                let lost = self.losses < config.losses;
                let untold = lost || other.untold.contains(&counterpart);
                if other.closed.contains(&counterpart) && !untold {
                    return Some("one side has closed a connection, and the other has it still");
                }
            }
            // Who has lost a connection that nobody closed, had no other link to that process.
            for (connection, why) in &side.failed {
                let never = config.losses == 0 && config.links.iter().all(|(_, life)| *life == 0);
                let closed = self.sides.iter().any(|side| {
                    side.closed
                        .iter()
                        .any(|it| link_of(*it) == link_of(*connection))
                });
                if *why == Lost::Home && never && !closed {
                    return Some("a connection was lost though no link was");
                }
            }
        }
        None
    }
}

impl Side {
    fn books(&mut self, life: u64) -> &mut Links {
        self.books.get_mut(&life).expect("it lives")
    }

    fn end(&mut self, link: u64) -> &mut End {
        self.ends.get_mut(&link).expect("it has come")
    }

    /// Direct links first, the older first.
    fn best(&self, config: &Config, index: usize, life: u64) -> Vec<u64> {
        let links = self.ends.keys().copied();
        let mut best: Vec<_> = links
            .filter(|it| World::life(config, index, *it) == life)
            .collect();
        best.sort_by_key(|link| config.links[*link as usize].0);
        best.into_iter().map(|link| number(index, link)).collect()
    }
}

/// Explores everything; returns the number of states, or what breaks and how.
fn explore(config: &Config, without: Option<Rule>) -> Result<usize, (&'static str, Vec<Action>)> {
    // Each with the state before it, by its place, and what led here.
    let mut worlds = vec![(World::new(config, without), 0, None)];
    let mut seen = HashSet::from([fingerprint(&worlds[0].0)]);
    let mut at = 0;
    while at < worlds.len() {
        let world = worlds[at].0.clone();
        let actions = world.actions(config);
        // What happens by itself, sooner or later; the rest may never.
        let by_itself = |action: &Action| match action {
            Action::Adopt(..) | Action::Hear(..) | Action::Notice(..) => true,
            Action::Fire(..) | Action::Unused(..) => true,
            Action::Close(index, number, _) => world.sides[*index].failed.contains_key(number),
            Action::Link | Action::Lose(_) | Action::Begin(..) | Action::End(..) => false,
            Action::Drain(..) => false,
        };
        let rests = !actions.iter().any(by_itself);
        let what = world
            .broken
            .or_else(|| rests.then(|| world.judge(config)).flatten());
        if let Some(what) = what {
            let mut trace = Vec::new();
            while let (_, before, Some(action)) = worlds[at] {
                trace.push(action);
                at = before;
            }
            trace.reverse();
            return Err((what, trace));
        }
        for action in actions {
            let mut next = world.clone();
            next.apply(config, action);
            if seen.insert(fingerprint(&next)) {
                worlds.push((next, at, Some(action)));
            }
        }
        at += 1;
    }
    Ok(worlds.len())
}

fn fingerprint(world: &World) -> u64 {
    let mut hasher = Fast::default();
    world.hash(&mut hasher);
    hasher.finish()
}

const BASE: Config = Config {
    links: &[(true, 0), (false, 0)],
    layered: true,
    losses: 0,
    closes: 0,
    streams: 0,
    drains: 0,
};

const CONFIGS: &[(&str, Config)] = &[
    ("two links", BASE),
    (
        "a close",
        Config {
            closes: 1,
            streams: 1,
            ..BASE
        },
    ),
    ("two closes", Config { closes: 2, ..BASE }),
    (
        "a drain",
        Config {
            drains: 1,
            closes: 1,
            streams: 1,
            ..BASE
        },
    ),
    (
        "drains, and a loss",
        Config {
            drains: 2,
            losses: 1,
            ..BASE
        },
    ),
    (
        "a loss",
        Config {
            losses: 1,
            closes: 1,
            ..BASE
        },
    ),
    (
        "two direct ones",
        Config {
            links: &[(true, 0), (false, 0), (false, 0)],
            closes: 1,
            ..BASE
        },
    ),
    (
        "a restart",
        Config {
            links: &[(true, 0), (false, 1)],
            closes: 1,
            ..BASE
        },
    ),
    (
        "a restart and a loss",
        Config {
            links: &[(true, 0), (false, 1)],
            losses: 1,
            ..BASE
        },
    ),
    (
        "no layer there",
        Config {
            layered: false,
            closes: 1,
            losses: 1,
            ..BASE
        },
    ),
];

#[test]
fn the_books_below_the_swarm() {
    for (name, config) in CONFIGS {
        match explore(config, None) {
            Ok(states) => println!("{name}: {states} states"),
            Err((what, trace)) => panic!("{name}: {what}: {trace:#?}"),
        }
    }
}

/// Without a rule there is more to explore.
#[test]
#[cfg_attr(debug_assertions, ignore = "in release only")]
fn each_rule_of_the_books_is_needed() {
    let rules = [
        Rule::OneProcess,
        Rule::ClosedIsSaid,
        Rule::EarlyIsKept,
        Rule::StreamsEndFirst,
        Rule::SettlesFirst,
        Rule::HomesLive,
        Rule::HomeIsReplaced,
        Rule::HomelessWait,
        Rule::LastTakesLinks,
        Rule::PlainGoesAlong,
        Rule::LateIsHeard,
    ];
    for rule in rules {
        let caught = CONFIGS.iter().find_map(|(name, config)| {
            let (what, trace) = explore(config, Some(rule)).err()?;
            Some((name, what, trace.len()))
        });
        match caught {
            Some((name, what, steps)) => println!("{rule:?}: {name}, {steps} steps: {what}"),
            None => panic!("nothing is wrong without {rule:?}"),
        }
    }
}
