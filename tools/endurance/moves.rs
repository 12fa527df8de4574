//! What happens to the connections between two nodes: they are made, filled, emptied, and now and then
//! closed under their streams, or silent.

use std::{sync::Arc, time::Duration};

use libp2p::{
    Multiaddr,
    core::transport::PortUse,
    multiaddr::Protocol,
    swarm::dial_opts::{DialOpts, PeerCondition},
};
use libp2p_stream_migration::{ConnectionKey, ConnectionName as _, MigrateError, StreamKey};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use testing::Random;

use crate::{
    links::End,
    node::Command,
    policy::Mover,
    proxy::{Path, Proxy},
    restart,
    world::{RESTARTED, World},
};

/// At most so many connections between two nodes.
const MOST: usize = 5;
/// At most so many of them are silent, one after the other, in a round.
const MOST_SILENT: usize = 2;
const PATIENCE: Duration = Duration::from_secs(15);

/// One pair of nodes.
pub struct Pair {
    pub world: Arc<World>,
    pub slots: [usize; 2],
    pub random: Random,
    pub mover: Mover,
    /// How many paths may still go silent.
    pub silences: usize,
    /// Whether its first peer is still to be restarted.
    pub restarts: bool,
}

impl Pair {
    pub fn new(world: Arc<World>, slots: [usize; 2], random: Random, mover: Mover) -> Self {
        Self {
            world,
            slots,
            random,
            mover,
            silences: if mover.has_silences() { MOST_SILENT } else { 0 },
            restarts: mover.has_restarts() && slots[0] == RESTARTED,
        }
    }

    /// Goes on until told to stop.
    pub async fn run(mut self, stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            let links = self.links();
            let staying = self.staying();
            match self.random.below(1000) {
                _ if staying.len() < 2 => self.dial().await,
                0..40 if links.len() < MOST => self.dial().await,
                40..65 if staying.len() > 2 => self.retire(&staying),
                65..69 => self.chaos().await,
                // It would close what is silent.
                69 if !self.mover.has_silences() && self.random.chance(200) => {
                    self.disconnect().await;
                }
                70..75 if self.silences > 0 => self.silence(&staying),
                75..77 if self.restarts => {
                    self.restarts = false;
                    restart::restart(&self.world, &mut self.random).await;
                }
                77.. if self.mover.by_hand() => self.migrate(&links).await,
                _ => {}
            }
            sleep(Duration::from_micros(self.random.size(60_000))).await;
        }
    }

    pub async fn dial(&mut self) {
        let [from, to] = self.one_way();
        let mut addresses = self.world.node(to).addresses.clone();
        if self.slots.contains(&RESTARTED) {
            addresses.retain(|address| matches!(kind(address), "TCP" | "WebSocket"));
        }
        let Some(address) = self.random.one_of(&addresses) else {
            return;
        };
        let through = match self.random.chance(600) {
            true => Proxy::to(address).await.ok().flatten(),
            false => None,
        };
        let (proxy, address) = match through {
            Some((proxy, address)) => (Some(proxy), address),
            None => (None, address.clone()),
        };
        // Two TCP sockets between the same two ports would be one connection.
        dial(&self.world, [from, to], &address, PortUse::New, proxy).await;
    }

    /// Empties a connection, and has it closed.
    fn retire(&mut self, staying: &[[End; 2]]) {
        let Some(link) = self.random.one_of(staying).copied() else {
            return;
        };
        self.world.ledger.note(|known| known.links.leave(link[0]));
        let both = self.random.chance(300);
        let first = usize::from(self.random.chance(500));
        for (node, id) in [link[first], link[1 - first]]
            .into_iter()
            .take(1 + usize::from(both))
        {
            let peer = self.world.node(self.other(node)).id;
            let (mut control, mut close) = (self.world.control(node), self.world.control(node));
            let world = self.world.clone();
            tokio::spawn(async move {
                close.close_when_free(peer, id).await;
                let drained = match control.drain(peer, id).await {
                    Ok(()) => "free".to_owned(),
                    Err(error) => plain(&format!("{error:?}")),
                };
                world
                    .ledger
                    .note(|known| known.counts.other(format!("drained: {drained}")));
            });
        }
    }

    /// Closes a connection under its streams. Nobody closes one that is silent: streams have to get off it.
    async fn chaos(&mut self) {
        let lives = self.world.lives(self.slots);
        let links = self.world.ledger.known().links.audible(lives);
        let Some(link) = self.random.one_of(&links) else {
            return;
        };
        let (node, id) = link[usize::from(self.random.chance(500))];
        if self.mover.by_hand() && self.random.chance(500) {
            self.flee(node, id).await;
        }
        let layer = self.world.layer;
        self.world.ledger.note(|known| {
            let other = |ends: &[End; 2]| !ends.contains(&(node, id));
            if known.links.resumes && known.links.healthy(lives).iter().any(other) {
                // Its streams go on there.
                known.links.leave((node, id));
                return known
                    .counts
                    .other("chaos: connections closed beside others");
            } else if known.links.resumes {
                known.links.chaos_between(lives);
            }
            known.links.chaos((node, id));
            // Another one may be about to be closed.
            if layer && known.links.between(lives).len() <= 2 {
                known.links.chaos_between(lives);
            }
            known.counts.other("chaos: connections closed");
        });
        self.world.node(node).command(Command::Close(id)).await;
    }

    /// Has the path of a connection go silent, for good or for a while.
    fn silence(&mut self, staying: &[[End; 2]]) {
        let path = match self.random.below(10) {
            0 => Path::HalfSilent { outwards: true },
            1 => Path::HalfSilent { outwards: false },
            _ => Path::Silent,
        };
        let mut begin = self.random.below(staying.len() as u64) as usize;
        let world = &self.world;
        let end = world.ledger.note(|known| {
            // Mostly there is one of which we can say so.
            for _ in staying {
                let end = staying[begin][0];
                if known.links.silence(end, path) {
                    known.counts.other(format!("paths silent: {path:?}"));
                    return Some(end);
                }
                begin = (begin + 1) % staying.len();
            }
            None
        });
        let Some(end) = end else { return };
        self.silences -= 1;
        if self.random.chance(400) {
            let (world, long) = (world.clone(), self.random.below(6_000));
            tokio::spawn(async move {
                sleep(Duration::from_millis(long)).await;
                world.ledger.note(|known| known.links.speak(end));
            });
        }
    }

    /// Has all streams of a connection leave it, and gives them too little time.
    async fn flee(&mut self, node: usize, from: ConnectionKey) {
        let peer = self.world.node(self.other(node)).id;
        let elsewhere: Vec<_> = self
            .staying()
            .into_iter()
            .filter(|link| !link.contains(&(node, from)))
            .collect();
        for stream in self.world.control(node).streams(peer).await {
            if stream.connection == Some(from) {
                self.start(node, stream.key, &elsewhere);
            }
        }
        sleep(Duration::from_micros(self.random.size(4_000))).await;
    }

    async fn disconnect(&mut self) {
        let [node, other] = self.one_way();
        let (links, layer) = (self.links(), self.world.layer);
        self.world.ledger.note(|known| {
            for link in links {
                known.links.chaos(link[0]);
            }
            if layer || known.links.resumes {
                known.links.chaos_between([node, other]);
            }
            known.counts.other("chaos: peers disconnected");
        });
        let peer = self.world.node(other).id;
        self.world
            .node(node)
            .command(Command::Disconnect(peer))
            .await;
    }

    /// Moves a stream, or two sides move it at once.
    async fn migrate(&mut self, links: &[[End; 2]]) {
        let [node, other] = self.one_way();
        let peer = self.world.node(other).id;
        let streams = self.world.control(node).streams(peer).await;
        // A remote takes so many migrations of a stream per second, and no more.
        if self.random.below(20) >= streams.len() as u64 {
            return;
        }
        let Some(stream) = self.random.one_of(&streams) else {
            return;
        };
        // Mostly where it can go: a refusal leaves the stream in doubt.
        let mut links = links.to_vec();
        if self.random.chance(950) {
            links = self.staying();
            links.retain(|link| {
                stream
                    .connection
                    .is_none_or(|on| !link.contains(&(node, on)))
            });
        }
        self.start(node, stream.key, &links);
        if self.random.chance(200) {
            let key = self.world.ledger.known().other_end(node, stream.key);
            if let Some(key) = key {
                self.start(other, key, &links);
            }
        }
    }

    fn start(&mut self, node: usize, key: StreamKey, links: &[[End; 2]]) {
        let ends: Vec<_> = links.iter().flatten().filter(|end| end.0 == node).collect();
        let Some((_, to)) = self.random.one_of(&ends) else {
            return;
        };
        let (mut control, world, to) = (self.world.control(node), self.world.clone(), *to);
        tokio::spawn(async move {
            let answer = control.migrate(key, to).await;
            world.ledger.note(|known| {
                let name = match &answer {
                    Ok(()) => "moved".to_owned(),
                    Err(error) => plain(&format!("{error:?}")),
                };
                if let Err(error) = answer
                    && !matches!(
                        error,
                        MigrateError::Failed(_) | MigrateError::NoLeg(_) | MigrateError::Aborted(_)
                    )
                {
                    known.counts.refused += 1;
                }
                *known.counts.migrations.entry(name).or_default() += 1;
            });
        });
    }

    fn links(&self) -> Vec<[End; 2]> {
        let lives = self.world.lives(self.slots);
        self.world.ledger.known().links.between(lives)
    }

    fn staying(&self) -> Vec<[End; 2]> {
        let lives = self.world.lives(self.slots);
        self.world.ledger.known().links.staying(lives)
    }

    /// The lives of the two.
    fn one_way(&mut self) -> [usize; 2] {
        let [a, b] = self.world.lives(self.slots);
        if self.random.chance(500) {
            [a, b]
        } else {
            [b, a]
        }
    }

    fn other(&self, node: usize) -> usize {
        let lives = self.world.lives(self.slots);
        lives[usize::from(node == lives[0])]
    }
}

/// Makes one more connection; one at a time between two nodes, or nobody knows whose end is whose.
pub async fn dial(
    world: &World,
    [from, to]: [usize; 2],
    address: &Multiaddr,
    port: PortUse,
    proxy: Option<Proxy>,
) {
    let (dialer, listener) = (world.node(from), world.node(to));
    let mut opts = DialOpts::peer_id(listener.id)
        .condition(PeerCondition::Always)
        .addresses(vec![address.clone()]);
    if port == PortUse::New {
        opts = opts.allocate_new_port();
    }
    let opts = opts.build();
    let ours = (from, opts.connection_id().key());
    dialer.command(Command::Dial(opts)).await;
    let local = dialer.id;
    let both = world.ledger.until(|known| {
        if known.has_failed(ours) {
            return Some(None);
        }
        let theirs = known.links.unmatched(to, local)?;
        known.links.is_open(ours).then_some(Some([ours, theirs]))
    });
    match timeout(PATIENCE, both).await {
        Ok(Some(ends)) => world.ledger.note(|known| {
            known.links.join(ends, proxy);
            known
                .counts
                .other(format!("connections made: {}", kind(address)));
        }),
        Ok(None) => {}
        Err(_) => {
            dialer.command(Command::Close(ours.1)).await;
            world
                .ledger
                .note(|known| known.counts.other("dials that came to nothing"));
        }
    }
}

fn kind(address: &Multiaddr) -> &'static str {
    let has = |wanted: &dyn Fn(&Protocol<'_>) -> bool| address.iter().any(|part| wanted(&part));
    if has(&|part| matches!(part, Protocol::P2pCircuit)) {
        "relayed"
    } else if has(&|part| matches!(part, Protocol::QuicV1)) {
        "QUIC"
    } else if has(&|part| matches!(part, Protocol::Ws(_))) {
        "WebSocket"
    } else {
        "TCP"
    }
}

/// Without the numbers, which are different each time.
fn plain(text: &str) -> String {
    text.chars().filter(|it| !it.is_ascii_digit()).collect()
}
