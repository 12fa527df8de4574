//! The books of one peer below the swarm, without I/O: which link is whose home, who has said hello, and who closes
//! what when (docs/protocol.md, *Below the swarm*).
//!
//! Inputs are methods, what follows comes out of [`Links::next_output`]. Every interleaving of two of them is
//! enumerated (`tests/model`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::protocol::codec::Hello;

/// Connections that are closed, and of which nobody could be told; then the oldest are forgotten.
const MAX_CLOSED: usize = 1024;

/// Knowledge of the other end of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Readiness {
    /// Nobody has asked: its substreams are plain, for now.
    #[default]
    Unasked,
    /// We have said hello, or are about to.
    Asked,
    /// We have said hello, and wait no longer: substreams are plain until the remote says its own.
    Silent,
    /// There is a layer: its process, and its number of the connection that came with the link.
    Ready { epoch: u64, connection: u64 },
    /// There is none, or none that answers.
    Plain,
}

/// Use that is made of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Usage {
    /// Legs of streams, by the hub's count.
    pub legs: bool,
    /// Plain substreams, and what has still to say what it is.
    pub others: bool,
}

impl Usage {
    fn is_none(self) -> bool {
        self == Self::default()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Link {
    relayed: bool,
    readiness: Readiness,
    /// The remote's hello.
    hello: Option<Hello>,
    usage: Usage,
    /// No connection is to be at home there, as long as there is another link.
    unwanted: bool,
    closing: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Connection {
    /// The link on which its streams are opened.
    home: u64,
    /// The counterpart: its process, and its number there.
    remote: Option<(u64, u64)>,
    /// Its home is lost, and it may yet be known of another link that it can be one.
    homeless: bool,
    /// The remote has closed the counterpart.
    closed_by_remote: bool,
    /// True once all that was on its way when that was heard has come.
    settled: bool,
    /// The swarm has streams of it, or is to take some.
    in_use: bool,
    /// True once it is over, and the swarm told so.
    failed: bool,
}

/// A rule that can be removed, to see that the model catches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// A connection's home is a link to the process of its counterpart.
    OneProcess,
    /// Whoever closes a connection says so, if a link stays.
    ClosedIsSaid,
    /// That a connection is closed is kept until it is known which.
    EarlyIsKept,
    /// Nor before what was on its way has come.
    SettlesFirst,
    /// A connection that the remote has closed ends when its streams have.
    StreamsEndFirst,
    /// A link lives while it is some connection's home.
    HomesLive,
    /// A connection whose home is lost goes to another link, if there is one.
    HomeIsReplaced,
    /// One whose home is lost waits for what is not known of another link.
    HomelessWait,
    /// The last connection takes the links along.
    LastTakesLinks,
    /// A link without a layer goes with its connection.
    PlainGoesAlong,
    /// A hello that comes late is heard.
    LateIsHeard,
}

/// Something that is due later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Timer {
    /// The remote should have said hello on the link.
    Hello(u64),
    /// The counterpart of this connection was closed, and what was on its way on other links has come.
    Settled(u64),
    /// The counterpart of this connection was closed long enough ago.
    Closed(u64),
    /// The last bytes of a connection that is closed have had their time to arrive.
    Told(u64),
    /// The last connection is gone, and what was written for it has had its time to arrive.
    Orphaned,
}

/// Why a connection is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Why {
    /// Its last link is lost.
    Lost,
    /// The remote has closed it.
    Closed,
}

/// A thing to be done.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Output {
    /// Say hello on this link.
    Hello(u64),
    /// There is a layer at the other end of this link.
    Ready {
        link: u64,
        epoch: u64,
    },
    /// There is none.
    Plain(u64),
    /// Nobody has said so in time.
    Silent(u64),
    /// The connection has another home.
    Home {
        connection: u64,
        from: u64,
        to: u64,
    },
    /// The connection is over.
    Failed {
        connection: u64,
        why: Why,
    },
    /// Close this link.
    Close(u64),
    /// Say on this link that this connection of ours is closed.
    SayClosed {
        link: u64,
        connection: u64,
    },
    /// The remote has said what it should not.
    Violation(u64),
    Arm(Timer),
    Disarm(Timer),
}

/// The books.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Links {
    links: BTreeMap<u64, Link>,
    connections: BTreeMap<u64, Connection>,
    /// Connections of ours that are closed, and of which the remote is to hear when their last bytes have arrived;
    /// true of one as long as streams of it are on their way, and have time.
    closed: BTreeMap<u64, bool>,
    /// Counterparts that are closed, and whose connection is not known yet: what is said on one link may overtake
    /// what is said on another.
    closed_early: BTreeSet<(u64, u64)>,
    /// The last connection is gone; what was written for it may be on its way.
    orphaned: bool,
    /// Hello is said on every link.
    always: bool,
    outputs: VecDeque<Output>,
    #[cfg(stream_migration_mutants)]
    pub without: Option<Rule>,
}

impl Links {
    /// Books of nothing; with `always`, hello is said on every link.
    pub fn new(always: bool) -> Self {
        Self {
            always,
            ..Self::default()
        }
    }

    /// The next thing to be done.
    pub fn next_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn output(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    /// True, but in tests that remove the rule.
    fn obeys(&self, rule: Rule) -> bool {
        #[cfg(stream_migration_mutants)]
        return self.without != Some(rule);
        #[cfg(not(stream_migration_mutants))]
        {
            let _ = rule;
            true
        }
    }

    // ---- What is there -----------------------------------------------------------------------------

    pub fn readiness(&self, link: u64) -> Option<Readiness> {
        Some(self.links.get(&link)?.readiness)
    }

    /// The process at the other end of a link that is ready.
    pub fn epoch(&self, link: u64) -> Option<u64> {
        match self.readiness(link)? {
            Readiness::Ready { epoch, .. } => Some(epoch),
            _ => None,
        }
    }

    /// The process at the other end of a link, as soon as it has said so.
    pub fn said_epoch(&self, link: u64) -> Option<u64> {
        Some(self.links.get(&link)?.hello?.epoch)
    }

    /// Connections that are closed, and of which the remote has still to hear.
    pub fn closed(&self) -> impl Iterator<Item = u64> + '_ {
        self.closed.keys().copied()
    }

    /// The connection's home.
    pub fn home(&self, connection: u64) -> Option<u64> {
        Some(self.connections.get(&connection)?.home)
    }

    /// The connection's counterpart: its process, and its number there.
    pub fn remote(&self, connection: u64) -> Option<(u64, u64)> {
        self.connections.get(&connection)?.remote
    }

    /// True if streams may be opened for the connection.
    pub fn is_open(&self, connection: u64) -> bool {
        let connection = self.connections.get(&connection);
        connection.is_some_and(|it| !it.closed_by_remote && !it.failed && !it.homeless)
    }

    pub fn has_connections(&self) -> bool {
        !self.connections.is_empty()
    }

    pub fn is_orphaned(&self) -> bool {
        self.orphaned
    }

    /// The connections that are at home on this link.
    pub fn at_home(&self, link: u64) -> impl Iterator<Item = u64> + '_ {
        let at_home = self
            .connections
            .iter()
            .filter(move |(_, it)| it.home == link);
        at_home.map(|(number, _)| *number)
    }

    /// The connections of which this is true.
    fn those(&self, is: impl Fn(&Connection) -> bool) -> Vec<u64> {
        let those = self.connections.iter().filter(|(_, it)| is(it));
        those.map(|(number, _)| *number).collect()
    }

    /// True if a stream of that process's may be for this connection.
    pub fn has_route(&self, connection: u64, epoch: u64) -> bool {
        let connection = self.connections.get(&connection);
        let remote = connection.map(|connection| connection.remote);
        remote.is_some_and(|remote| remote.is_none_or(|(of, _)| of == epoch))
    }

    /// True if a stream that begins on this link, of the connection that came with it, may be to move: it is
    /// relayed, or there is another direct one of the kind.
    pub fn may_move(&self, number: u64) -> bool {
        let Some(link) = self.links.get(&number) else {
            return true;
        };
        match link.readiness {
            Readiness::Unasked | Readiness::Silent | Readiness::Plain => false,
            _ if self.always || link.relayed => true,
            Readiness::Asked => false,
            Readiness::Ready { epoch, .. } => self.links.iter().any(|(other, link)| {
                let twin = self.epoch(*other) == Some(epoch);
                *other != number && twin && !link.relayed && !link.closing
            }),
        }
    }

    // ---- Links -------------------------------------------------------------------------------------

    /// A link is there, with the connection of the swarm's that comes with it.
    pub fn adopt(&mut self, number: u64, relayed: bool) {
        self.orphaned = false;
        let link = Link {
            relayed,
            ..Link::default()
        };
        self.links.insert(number, link);
        let connection = Connection {
            home: number,
            ..Connection::default()
        };
        self.connections.insert(number, connection);
        self.greet();
    }

    /// Says hello where that is due: on relayed links, and on direct ones beside a link that is ready.
    fn greet(&mut self) {
        let ready = self.links.keys().any(|link| self.epoch(*link).is_some());
        let everywhere = ready || self.always;
        let due = self.links.iter().filter(|(_, link)| {
            let unasked = link.readiness == Readiness::Unasked && !link.closing;
            unasked && (link.relayed || everywhere)
        });
        for number in due.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.say_hello(number);
        }
    }

    fn say_hello(&mut self, number: u64) {
        if let Some(link) = self.links.get_mut(&number) {
            link.readiness = Readiness::Asked;
            self.output(Output::Arm(Timer::Hello(number)));
            self.output(Output::Hello(number));
        }
    }

    /// The remote says who it is. It may have lost its control substream, and say so again.
    pub fn greeted(&mut self, number: u64, hello: Hello) {
        let Some(link) = self.links.get(&number) else {
            return;
        };
        let same = link.hello.is_none_or(|before| before == hello);
        let readiness = link.readiness;
        let connection = match hello.connection {
            _ if !same => return self.violated(number),
            Some(connection) => connection,
            // Somebody who only wants to know whether we speak, which we do not.
            None => {
                if let Some(link) = self.links.get_mut(&number) {
                    link.hello = Some(hello);
                }
                if readiness == Readiness::Unasked {
                    self.say_hello(number);
                }
                return self.has_no_layer(number);
            }
        };
        if let Some(link) = self.links.get_mut(&number) {
            link.hello = Some(hello);
        }
        match readiness {
            Readiness::Unasked => self.say_hello(number),
            Readiness::Asked | Readiness::Silent => {}
            Readiness::Ready { .. } | Readiness::Plain => return,
        }
        let epoch = hello.epoch;
        if let Some(link) = self.links.get_mut(&number) {
            link.readiness = Readiness::Ready { epoch, connection };
        }
        if let Some(own) = self.connections.get_mut(&number) {
            own.remote = Some((epoch, connection));
        }
        if self.closed_early.remove(&(epoch, connection)) {
            self.closed_by_remote(epoch, connection);
        }
        self.output(Output::Disarm(Timer::Hello(number)));
        self.output(Output::Ready {
            link: number,
            epoch,
        });
        self.greet();
    }

    /// The remote has said what it should not.
    pub fn violated(&mut self, number: u64) {
        self.output(Output::Violation(number));
        self.has_no_layer(number);
    }

    /// Our hello is refused, or our control substream is gone: there is no layer, unless there has been one.
    pub fn has_no_layer(&mut self, number: u64) {
        if let Some(link) = self.links.get_mut(&number)
            && !matches!(link.readiness, Readiness::Ready { .. } | Readiness::Plain)
        {
            link.readiness = Readiness::Plain;
            self.output(Output::Disarm(Timer::Hello(number)));
            self.output(Output::Plain(number));
        }
    }

    /// The remote has had its time to say hello. It may be slow, and believe ours when it comes: so what it says
    /// late is heard, too.
    fn not_greeted(&mut self, number: u64) {
        let silent = match self.obeys(Rule::LateIsHeard) {
            true => Readiness::Silent,
            false => Readiness::Plain,
        };
        if let Some(link) = self.links.get_mut(&number)
            && link.readiness == Readiness::Asked
        {
            link.readiness = silent;
            self.output(Output::Silent(number));
        }
    }

    /// Use that is made of a link.
    pub fn set_usage(&mut self, number: u64, usage: Usage) {
        if let Some(link) = self.links.get_mut(&number) {
            link.usage = usage;
        }
    }

    /// Says whether a link is to be emptied, or closed.
    pub fn set_unwanted(&mut self, number: u64, unwanted: bool) {
        if let Some(link) = self.links.get_mut(&number) {
            link.unwanted = unwanted;
        }
    }

    /// True if nothing needs the link: it is nobody's home, and carries nothing. Its owner waits a while, and
    /// closes it.
    pub fn is_unused(&self, number: u64) -> bool {
        let link = self.links.get(&number);
        let idle = link.is_some_and(|link| !link.closing && link.usage.is_none());
        let home = self.at_home(number).next().is_some() && self.obeys(Rule::HomesLive);
        idle && self.has_connections() && !home
    }

    /// True if the connection that came with the link is closed.
    pub fn is_leftover(&self, number: u64) -> bool {
        !self.connections.contains_key(&number)
    }

    /// Closes a link.
    pub fn close_link(&mut self, number: u64) {
        if let Some(link) = self.links.get_mut(&number)
            && !std::mem::replace(&mut link.closing, true)
        {
            self.output(Output::Close(number));
        }
    }

    fn close_all_links(&mut self) {
        for number in self.links.keys().copied().collect::<Vec<_>>() {
            self.close_link(number);
        }
    }

    /// A link is gone, and all that was on it. `best` is the order in which others are to be tried.
    pub fn lost(&mut self, number: u64, best: &[u64]) {
        if self.links.remove(&number).is_none() {
            return;
        }
        self.output(Output::Disarm(Timer::Hello(number)));
        for connection in self.connections.values_mut() {
            connection.homeless |= connection.home == number;
        }
        self.house(best);
    }

    /// Finds a home for those who have lost theirs. The remote closes a link when all that is its own has left
    /// it, and may have been the first to know of the other one.
    fn house(&mut self, best: &[u64]) {
        let asked = self
            .links
            .values()
            .any(|it| it.readiness == Readiness::Asked && !it.closing);
        for number in self.those(|it| it.homeless && !it.failed) {
            let known = self.remote(number).is_some();
            match self.best_home(number, best, false) {
                Some(home) if self.obeys(Rule::HomeIsReplaced) => self.set_home(number, home),
                None if asked && known && self.obeys(Rule::HomelessWait) => {}
                _ => self.fail(number, Why::Lost),
            }
        }
    }

    // ---- Homes -------------------------------------------------------------------------------------

    /// True if a connection may be to have another home: [`Links::rehome`] needs the order of links.
    pub fn seeks_homes(&self) -> bool {
        self.connections.iter().any(|(number, it)| {
            it.homeless && !it.failed || self.may_leave(it) || self.may_return(*number, it)
        })
    }

    /// True if a connection has left the direct link that it came with, which was unwanted, and is not any more.
    fn may_return(&self, number: u64, connection: &Connection) -> bool {
        let own = self.links.get(&number);
        let good = own.is_some_and(|it| !(it.relayed || it.unwanted || it.closing));
        good && connection.home != number && self.epoch(number).is_some()
    }

    fn may_leave(&self, connection: &Connection) -> bool {
        let home = self.links.get(&connection.home);
        let leaves = home.is_some_and(|it| it.relayed || it.unwanted);
        leaves && self.epoch(connection.home).is_some() && self.links.len() > 1
    }

    /// Gives connections that are at home on a relayed link, or on one that is unwanted, the best direct one, if
    /// there is any; `best` is the order of links.
    pub fn rehome(&mut self, best: &[u64]) {
        self.house(best);
        for number in self.those(|it| self.may_leave(it)) {
            let home = self.home(number).and_then(|home| self.links.get(&home));
            let from_relay = home.is_some_and(|it| it.relayed && it.unwanted);
            if let Some(better) = self.best_home(number, best, !from_relay) {
                self.set_home(number, better);
            }
        }
        let connections = self.connections.iter();
        let back = connections.filter(|(number, it)| self.may_return(**number, it));
        for number in back.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.set_home(number, number);
        }
    }

    /// The best link to the process of the connection's counterpart, other than its home.
    fn best_home(&self, number: u64, best: &[u64], direct_only: bool) -> Option<u64> {
        let connection = self.connections.get(&number)?;
        let (home, (epoch, _)) = (connection.home, connection.remote?);
        let usable = |number: &u64| {
            let of = self
                .epoch(*number)
                .is_some_and(|of| of == epoch || !self.obeys(Rule::OneProcess));
            let link = self.links.get(number);
            let link = link.is_some_and(|it| !(it.closing || it.relayed && direct_only));
            *number != home && of && link
        };
        let unwanted = |number: &u64| self.links.get(number).is_some_and(|it| it.unwanted);
        let mut all = best.iter().copied().filter(usable);
        // Whoever has no home takes what there is.
        let rest = connection.homeless.then(|| all.clone().next()).flatten();
        all.find(|number| !unwanted(number)).or(rest)
    }

    fn set_home(&mut self, connection: u64, to: u64) {
        if let Some(it) = self.connections.get_mut(&connection) {
            it.homeless = false;
            let from = std::mem::replace(&mut it.home, to);
            self.output(Output::Home {
                connection,
                from,
                to,
            });
        }
    }

    fn fail(&mut self, number: u64, why: Why) {
        if let Some(connection) = self.connections.get_mut(&number)
            && !std::mem::replace(&mut connection.failed, true)
        {
            self.output(Output::Failed {
                connection: number,
                why,
            });
        }
    }

    // ---- Connections -------------------------------------------------------------------------------

    /// Says whether the swarm has streams of a connection; of one that is closed, whether any are on their way.
    pub fn set_in_use(&mut self, number: u64, in_use: bool) {
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.in_use = in_use;
        }
        if let Some(closed) = self.closed.get_mut(&number) {
            *closed = in_use;
        }
    }

    /// The swarm closes the connection, or drops it: `deliberately`, or because nobody uses it. The last one
    /// takes all links along, at once or when what was written on them has arrived.
    pub fn close(&mut self, number: u64, deliberately: bool, in_use: bool) {
        let Some(connection) = self.connections.remove(&number) else {
            return;
        };
        if self.connections.is_empty() && self.obeys(Rule::LastTakesLinks) {
            if deliberately {
                return self.close_all_links();
            }
            self.orphaned = true;
            return self.output(Output::Arm(Timer::Orphaned));
        }
        let own = self.readiness(number);
        let said = matches!(own, Some(Readiness::Asked | Readiness::Silent));
        let known = said || connection.remote.is_some();
        if known && !connection.failed && self.obeys(Rule::ClosedIsSaid) {
            while self.closed.len() >= MAX_CLOSED {
                self.closed.pop_first();
            }
            self.closed.insert(number, in_use);
            self.output(Output::Arm(Timer::Told(number)));
        }
    }

    /// The remote has closed a connection: what is its counterpart here ends, too, once its streams have.
    pub fn closed_by_remote(&mut self, epoch: u64, remote: u64) {
        let at_once = !self.obeys(Rule::SettlesFirst);
        let mut all = self.connections.iter_mut();
        let ours = all.find(|(_, it)| it.remote == Some((epoch, remote)));
        let Some((&number, connection)) = ours else {
            if self.obeys(Rule::EarlyIsKept) {
                self.closed_early.insert((epoch, remote));
            }
            if self.closed_early.len() > MAX_CLOSED {
                self.closed_early.pop_first();
            }
            return;
        };
        connection.settled |= at_once;
        if !std::mem::replace(&mut connection.closed_by_remote, true) {
            self.output(Output::Arm(Timer::Settled(number)));
            self.output(Output::Arm(Timer::Closed(number)));
        }
    }

    /// A stream for a connection that is not here: says so.
    pub fn unknown_route(&mut self, link: u64, route: u64) {
        self.output(Output::SayClosed {
            link,
            connection: route,
        });
    }

    /// A timer that was armed has fired.
    pub fn fired(&mut self, timer: Timer) {
        match timer {
            Timer::Hello(link) => self.not_greeted(link),
            Timer::Settled(connection) => {
                if let Some(connection) = self.connections.get_mut(&connection) {
                    connection.settled = true;
                }
            }
            Timer::Closed(connection) => self.fail(connection, Why::Closed),
            Timer::Told(connection) => self.set_in_use(connection, false),
            Timer::Orphaned if self.orphaned => self.close_all_links(),
            Timer::Orphaned => {}
        }
    }

    /// Says that a connection is closed, on every link that is ready: one may be lost with it. Or waits until one
    /// is.
    fn tell_closed(&mut self, connection: u64) {
        let mut told = Vec::new();
        let mut later = false;
        for (number, link) in self.links.iter().filter(|(_, link)| !link.closing) {
            match link.readiness {
                Readiness::Ready { .. } => told.push(*number),
                Readiness::Plain => {}
                Readiness::Unasked | Readiness::Asked | Readiness::Silent => later = true,
            }
        }
        if told.is_empty() && later {
            return;
        }
        self.closed.remove(&connection);
        self.output(Output::Disarm(Timer::Told(connection)));
        for link in told {
            self.output(Output::SayClosed { link, connection });
        }
    }

    /// Looks whether anything follows from what is in use. `said` is whether all that was to be said has been.
    pub fn look(&mut self, said: bool) {
        let told = self.closed.iter().filter(|(_, in_use)| !**in_use);
        for number in told.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.tell_closed(number);
        }
        let early = !self.obeys(Rule::StreamsEndFirst);
        for number in self.those(|it| it.settled && (!it.in_use || early)) {
            self.fail(number, Why::Closed);
        }
        let carries = self.links.values().any(|link| link.usage.legs);
        if self.orphaned && !carries && said {
            self.close_all_links();
        }
        // As without a layer: it goes with its connection.
        let gone = self.links.keys().filter(|link| {
            let goes_along = self.obeys(Rule::PlainGoesAlong);
            goes_along && self.is_unused(**link) && self.epoch(**link).is_none()
        });
        for number in gone.copied().collect::<Vec<_>>() {
            self.close_link(number);
        }
    }
}
