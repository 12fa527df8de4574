//! Between the books and what there is: tells them what is in use, and carries out what they say.

use std::{collections::HashSet, io, task::Poll, time::Duration};

use futures::channel::oneshot;
use web_time::Instant;

use super::{ConnectionKey, Due, HELLO_TIMEOUT, Instance, SETTLING, State};
use crate::{
    Violation,
    layer::{link::Open, wakers::Task},
    links::{self, Timer, Usage, Why},
};

impl State {
    /// Looks whether anything follows from what has happened. Returns whether anything did.
    pub(super) fn keep_books(&mut self) -> bool {
        let mut progress = false;
        while let Some((number, error)) = self.lost.pop_front() {
            progress = true;
            self.link_lost(number, error);
        }
        self.say_what_is_in_use();
        if self.books.seeks_homes() {
            let best = self.best();
            self.books.rehome(&best);
        }
        self.books
            .look(self.links.values().all(|link| link.is_said()));
        progress |= self.carry_out();
        self.close_unused();
        progress |= self.carry_out();
        self.forget_instances();
        progress
    }

    fn say_what_is_in_use(&mut self) {
        let id = self.id;
        for (number, link) in &self.links {
            let key = ConnectionKey::new(*number);
            let mut hubs = self.instances.iter().map(|instance| &instance.hub);
            let hub = hubs.find(|hub| hub.connection(id, key).is_some());
            let info = hub.and_then(|hub| hub.connection(id, key));
            let usage = Usage {
                legs: info.is_some_and(|info| info.streams > 0),
                others: !link.is_quiet(),
            };
            self.books.set_usage(*number, usage);
            let unwanted = hub.is_some_and(|hub| hub.is_unwanted(id, key));
            self.books.set_unwanted(*number, unwanted);
        }
        for (number, connection) in &self.connections {
            let in_use = connection.shared.live() > 0 || !connection.inbound.is_empty();
            self.books.set_in_use(*number, in_use);
        }
        let closed: Vec<_> = self.books.closed().collect();
        if closed.is_empty() {
            return;
        }
        let on_their_way: HashSet<_> = self.routes.values().copied().collect();
        for number in closed {
            let in_use = on_their_way.contains(&number);
            self.books.set_in_use(number, in_use);
        }
    }

    /// The links that are ready and well, the best first.
    fn best(&self) -> Vec<u64> {
        let hubs = self.instances.iter().map(|instance| &instance.hub);
        let ranked = hubs.flat_map(|hub| hub.ranked(self.id));
        let usable = ranked.filter(|it| !it.closing && !it.suspected && !it.draining);
        usable.map(|info| info.key.number()).collect()
    }

    /// Carries out what the books say. Returns whether that was anything.
    pub(super) fn carry_out(&mut self) -> bool {
        let mut progress = false;
        while let Some(output) = self.books.next_output() {
            progress = true;
            self.carry_out_one(output);
        }
        if progress {
            self.waker.rouse();
        }
        progress
    }

    fn carry_out_one(&mut self, output: links::Output) {
        let id = self.id;
        match output {
            links::Output::Hello(number) => {
                if let Some(link) = self.links.get_mut(&number) {
                    link.open(Open::Control);
                }
            }
            links::Output::Ready { link, epoch } => self.is_ready(link, epoch),
            links::Output::Plain(number) => {
                if let Some(link) = self.links.get_mut(&number) {
                    link.fall_silent();
                    self.wakes.extend(link.settled());
                }
                self.layer.outbox.room(id);
            }
            links::Output::Silent(number) => {
                if let Some(link) = self.links.get_mut(&number) {
                    self.wakes.extend(link.settled());
                }
                self.layer.outbox.room(id);
            }
            links::Output::Home {
                connection,
                from,
                to,
            } => {
                let [connection, from, there] = [connection, from, to].map(ConnectionKey::new);
                if let Some(hub) = self.hub_of(to) {
                    hub.rehomed(id, connection, from, there);
                }
                // What waits for room on the old home need not any more.
                self.waker.wake_tasks();
            }
            links::Output::Failed { connection, why } => {
                if let Some(connection) = self.connections.get_mut(&connection) {
                    let lost = connection.lost.take();
                    connection.error = Some(match why {
                        Why::Lost => lost.unwrap_or_else(|| io::ErrorKind::NotConnected.into()),
                        Why::Closed => {
                            io::Error::new(io::ErrorKind::ConnectionAborted, "closed by the remote")
                        }
                    });
                    self.wakes.extend(connection.waker());
                }
            }
            links::Output::Close(number) => {
                if let Some(link) = self.links.get_mut(&number) {
                    link.closing = true;
                }
            }
            links::Output::SayClosed { link, connection } => {
                if let Some(link) = self.links.get_mut(&link)
                    && !link.closed.contains(&connection)
                {
                    link.closed.push(connection);
                }
            }
            links::Output::Violation(link) => {
                let key = ConnectionKey::new(link);
                if let Some(hub) = self.hub_of(link) {
                    hub.violated(id, Some(key), Violation::Message);
                }
            }
            links::Output::Arm(timer) => {
                let delay = match timer {
                    Timer::Hello(_) => HELLO_TIMEOUT,
                    Timer::Settled(_) => SETTLING,
                    Timer::Closed(_) | Timer::Told(_) | Timer::Orphaned => {
                        self.layer.config.hub.old_leg_linger
                    }
                };
                let key = self.due.add(delay, Due::Books(timer));
                let before = self.armed.insert(timer, key);
                self.due.cancel(before.flatten());
            }
            links::Output::Disarm(timer) => {
                let key = self.armed.remove(&timer);
                self.due.cancel(key.flatten());
            }
        }
    }

    /// There is a layer at the other end of a link.
    fn is_ready(&mut self, number: u64, epoch: u64) {
        let Some(link) = self.links.get_mut(&number) else {
            return;
        };
        let alive = link.alive.downgrade();
        self.wakes.extend(link.settled());
        let early = std::mem::take(&mut link.early);
        if self.instance(epoch).is_none() {
            self.new_instance(epoch);
        }
        let (id, info) = (self.id, self.info(number));
        if let (Some(instance), Some(info)) = (self.instance(epoch), info) {
            instance.hub.connected(info);
            instance.hub.born(id, ConnectionKey::new(number), alive);
        }
        tracing::debug!(peer = %id, link = number, "a layer is at the other end");
        for (io, request) in early {
            self.requested(number, io, request);
        }
    }

    /// A link is gone, and all that was on it.
    pub(super) fn link_lost(&mut self, number: u64, error: io::Error) {
        let Some(mut link) = self.links.remove(&number) else {
            return;
        };
        let (id, key) = (self.id, ConnectionKey::new(number));
        tracing::debug!(peer = %id, link = number, %error, "a link is gone");
        let epoch = self.books.epoch(number);
        let wanted = link.take_wanted();
        self.wakes.extend(link.settled());
        drop(link);
        if let Some(instance) = epoch.and_then(|epoch| self.instance(epoch)) {
            for purpose in wanted {
                Self::not_opened(&mut instance.hub, id, key, purpose);
            }
            instance.hub.disconnected(id, key, true);
        }
        for connection in self.books.at_home(number) {
            if let Some(connection) = self.connections.get_mut(&connection) {
                connection.lost = Some(io::Error::new(error.kind(), error.to_string()));
            }
        }
        let best = self.best();
        self.books.lost(number, &best);
        self.carry_out();
        self.waker.wake_tasks();
    }

    /// Nothing is kept of a process to which there is no link, once the application has let go of its streams.
    fn forget_instances(&mut self) {
        let (links, books) = (&self.links, &self.books);
        let over = |it: &Instance| {
            let linked = links
                .keys()
                .any(|link| books.said_epoch(*link) == Some(it.epoch));
            !linked && !it.hub.has_streams()
        };
        for instance in self.instances.extract_if(.., |it| over(it)) {
            self.layer.unregister(instance.number);
        }
    }

    /// Closes links that nothing needs: those that the hub wants closed, after its grace; those whose connection
    /// is closed, as it would be without a layer; the others when nothing can be on its way there any more.
    fn close_unused(&mut self) {
        let settings = &self.layer.config.hub;
        let grace = settings.prune_grace.unwrap_or(Duration::from_secs(1));
        let linger = settings.old_leg_linger.saturating_add(grace);
        let (id, now) = (self.id, Instant::now());
        for number in self.links.keys().copied().collect::<Vec<_>>() {
            let unused = self.books.is_unused(number);
            let Some(link) = self.links.get_mut(&number) else {
                continue;
            };
            if !unused {
                link.unused_since = None;
                continue;
            }
            let began = link.unused_since.is_none();
            let unused = now - *link.unused_since.get_or_insert(now);
            let watch = link.watch;
            if began {
                self.due.add(grace, Due::Unused);
                self.due.add(linger, Due::Unused);
                if let Some(Some(quiet_from)) = watch {
                    let quiet = quiet_from.saturating_duration_since(now);
                    self.due.add(quiet, Due::Unused);
                }
            }
            let leftover = self.books.is_leftover(number) && watch.is_none();
            // Whoever wants it closed tells of it, and so comes first.
            if let Some(quiet_from) = watch
                && unused >= grace
                && quiet_from.is_none_or(|at| at <= now)
            {
                link.watch = None;
                if let Some(hub) = self.hub_of(number) {
                    hub.unused(id, ConnectionKey::new(number));
                }
                self.waker.rouse();
            } else if unused >= linger || leftover && unused >= grace {
                self.books.close_link(number);
            }
        }
    }

    // ---- The swarm's connections -------------------------------------------------------------------

    /// The swarm closes the connection, or drops it: `deliberately`, or because nobody uses it.
    pub(in crate::layer) fn close_connection(&mut self, number: u64, deliberately: bool) {
        if !self.take_connection(number) {
            return;
        }
        self.waker.forget(Task::Connection(number));
        let in_use = self.routes.values().any(|of| *of == number);
        self.books.close(number, deliberately, in_use);
        self.carry_out();
        self.waker.rouse();
    }

    /// Ready once nothing is left of the last connection.
    pub(in crate::layer) fn poll_closed(&self) -> Poll<()> {
        let last = !self.books.has_connections() && !self.books.is_orphaned();
        match last && !self.links.is_empty() {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    }

    // ---- For tests ---------------------------------------------------------------------------------

    /// Begins to move every stream all the time, if that is wanted.
    pub(super) fn start_restlessness(&mut self) {
        if let Some(interval) = self.layer.config.restless_layer
            && !std::mem::replace(&mut self.restless, true)
        {
            self.due.add(interval, Due::Restless);
        }
    }

    /// Moves each stream to the next link, or to a new leg on its own.
    pub(super) fn move_all(&mut self) {
        let Some(interval) = self.layer.config.restless_layer else {
            return;
        };
        self.due.add(interval, Due::Restless);
        let id = self.id;
        for instance in &mut self.instances {
            let keys = instance.hub.connections(id).iter().map(|info| info.key);
            let keys: Vec<_> = keys.collect();
            for stream in instance.hub.streams(id) {
                let here = keys.iter().position(|key| Some(*key) == stream.connection);
                if let Some(here) = here {
                    let (reply, _) = oneshot::channel();
                    instance
                        .hub
                        .migrate(stream.key, keys[(here + 1) % keys.len()], reply);
                }
            }
        }
    }
}
