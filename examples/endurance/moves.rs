//! What happens to the connections between two nodes: they are made, filled, emptied, and now and then
//! closed under their streams.

use std::{sync::Arc, time::Duration};

use libp2p::{
    Multiaddr,
    core::transport::PortUse,
    multiaddr::Protocol,
    swarm::{
        ConnectionId,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use libp2p_stream_migration::{MigrateError, StreamKey};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::{World, links::End, node::Command, policy::Mover, random::Random};

/// At most so many connections between two nodes.
const MOST: usize = 5;
const PATIENCE: Duration = Duration::from_secs(15);

/// One pair of nodes.
pub struct Pair {
    pub world: Arc<World>,
    pub nodes: [usize; 2],
    pub random: Random,
    pub mover: Mover,
    /// These are being emptied.
    pub retired: Vec<End>,
}

impl Pair {
    /// Goes on until told to stop.
    pub async fn run(mut self, stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            let links = self.links();
            match self.random.below(1000) {
                _ if self.staying(&links).len() < 2 => self.dial().await,
                0..40 if links.len() < MOST => self.dial().await,
                40..65 if self.staying(&links).len() > 2 => self.retire(&links),
                65..69 => self.chaos(&links).await,
                69 if self.random.chance(200) => self.disconnect().await,
                70.. if self.mover.by_hand() => self.migrate(&links).await,
                _ => {}
            }
            sleep(Duration::from_micros(self.random.size(60_000))).await;
        }
    }

    pub async fn dial(&mut self) {
        let [from, to] = self.one_way();
        let addresses = &self.world.peers[to].addresses;
        if let Some(address) = self.random.one_of(addresses) {
            // Two TCP sockets between the same two ports would be one connection.
            dial(&self.world, [from, to], address, PortUse::New).await;
        }
    }

    /// Empties a connection, and has it closed.
    fn retire(&mut self, links: &[[End; 2]]) {
        let staying = self.staying(links);
        let Some(link) = self.random.one_of(&staying) else {
            return;
        };
        self.retired.extend(link);
        let both = self.random.chance(300);
        let first = usize::from(self.random.chance(500));
        for (node, id) in [link[first], link[1 - first]]
            .into_iter()
            .take(1 + usize::from(both))
        {
            let peer = self.world.peers[self.other(node)].id;
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

    /// Closes a connection under its streams.
    async fn chaos(&mut self, links: &[[End; 2]]) {
        let Some(link) = self.random.one_of(links) else {
            return;
        };
        let (node, id) = link[usize::from(self.random.chance(500))];
        if self.mover.by_hand() && self.random.chance(500) {
            self.flee(node, id, links).await;
        }
        self.world.ledger.note(|known| {
            known.links.chaos((node, id));
            known.counts.other("chaos: connections closed");
        });
        self.world.peers[node].command(Command::Close(id)).await;
    }

    /// Has all streams of a connection leave it, and gives them too little time.
    async fn flee(&mut self, node: usize, from: ConnectionId, links: &[[End; 2]]) {
        let peer = self.world.peers[self.other(node)].id;
        let elsewhere: Vec<_> = self
            .staying(links)
            .into_iter()
            .filter(|link| !link.contains(&(node, from)))
            .collect();
        for stream in self.world.control(node).streams(peer).await {
            if stream.connection == from {
                self.start(node, stream.key, &elsewhere);
            }
        }
        sleep(Duration::from_micros(self.random.size(4_000))).await;
    }

    async fn disconnect(&mut self) {
        let [node, other] = self.one_way();
        let links = self.links();
        self.world.ledger.note(|known| {
            for link in links {
                known.links.chaos(link[0]);
            }
            known.counts.other("chaos: peers disconnected");
        });
        let peer = self.world.peers[other].id;
        self.world.peers[node]
            .command(Command::Disconnect(peer))
            .await;
    }

    /// Moves a stream, or two sides move it at once.
    async fn migrate(&mut self, links: &[[End; 2]]) {
        let [node, other] = self.one_way();
        let peer = self.world.peers[other].id;
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
            links = self.staying(&links);
            links.retain(|link| !link.contains(&(node, stream.connection)));
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
        self.world.ledger.known().links.between(self.nodes)
    }

    fn staying(&self, links: &[[End; 2]]) -> Vec<[End; 2]> {
        let stays = |link: &&[End; 2]| link.iter().all(|end| !self.retired.contains(end));
        links.iter().filter(stays).copied().collect()
    }

    fn one_way(&mut self) -> [usize; 2] {
        let [a, b] = self.nodes;
        if self.random.chance(500) {
            [a, b]
        } else {
            [b, a]
        }
    }

    fn other(&self, node: usize) -> usize {
        self.nodes[usize::from(node == self.nodes[0])]
    }
}

/// Makes one more connection; one at a time between two nodes, or nobody knows whose end is whose.
pub async fn dial(world: &World, [from, to]: [usize; 2], address: &Multiaddr, port: PortUse) {
    let mut opts = DialOpts::peer_id(world.peers[to].id)
        .condition(PeerCondition::Always)
        .addresses(vec![address.clone()]);
    if port == PortUse::New {
        opts = opts.allocate_new_port();
    }
    let opts = opts.build();
    let ours = (from, opts.connection_id());
    world.peers[from].command(Command::Dial(opts)).await;
    let local = world.peers[from].id;
    let both = world.ledger.until(|known| {
        if known.has_failed(ours) {
            return Some(None);
        }
        let theirs = known.links.unmatched(to, local)?;
        known.links.is_open(ours).then_some(Some([ours, theirs]))
    });
    match timeout(PATIENCE, both).await {
        Ok(Some(ends)) => world.ledger.note(|known| {
            known.links.join(ends);
            known
                .counts
                .other(format!("connections made: {}", kind(address)));
        }),
        Ok(None) => {}
        Err(_) => {
            world.peers[from].command(Command::Close(ours.1)).await;
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
