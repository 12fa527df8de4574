//! All that there is.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use libp2p_stream_migration::Control;

use testing::Random;

use crate::{
    Fallible,
    args::Args,
    ledger::Ledger,
    node::{self, Moving, Node, Place},
    policy::{ByTurns, Mode, Mover},
    traffic,
    watch::Usage,
};

/// Peers that there are at a time.
pub const SLOTS: usize = 4;
/// The one that goes and comes back. It has no QUIC, whose TLS sessions each of its lives would have to
/// collect anew before a rest is like the one before, and no place at the relay.
pub const RESTARTED: usize = 3;
/// Those that speak to each other. The last is the only one of the peer that is restarted, so that nobody
/// dials that one meanwhile.
pub const PAIRS: [[usize; 2]; 4] = [[0, 1], [1, 2], [2, 0], [RESTARTED, 0]];

/// The interval at which every stream is moved, if they are all the time.
const RESTLESS: Duration = Duration::from_millis(20);

pub struct World {
    pub seed: u64,
    /// By slot. Not held while anything is waited for.
    peers: Mutex<Vec<Arc<Node>>>,
    relay: Node,
    pub ledger: Arc<Ledger>,
    pub mode: Mode,
    /// Whether there is a layer below the swarms.
    pub layer: bool,
    /// Whether they say how many bytes there are.
    facts: bool,
    /// Whether streams outlive their connections.
    resume: bool,
    /// Whether every stream below the swarms is moved all the time.
    restless: bool,
}

impl World {
    pub async fn new(seed: u64, args: &Args) -> Fallible<Arc<Self>> {
        let ledger = Arc::new(Ledger::new(seed));
        ledger.note(|known| {
            known.links.layered = args.layer;
            known.links.resumes = args.resume;
            known.proven = args.facts || args.resume;
        });
        let relay = Node::relay(ledger.clone()).await?;
        let world = Arc::new(Self {
            seed,
            peers: Mutex::default(),
            relay,
            ledger,
            mode: Mode::new(Mover::Hand),
            layer: args.layer,
            facts: args.facts,
            resume: args.resume,
            restless: args.restless,
        });
        for slot in 0..SLOTS {
            let node = world.make(slot, None).await?;
            world.peers().push(Arc::new(node));
            traffic::accept(&world, slot)?;
        }
        Ok(world)
    }

    fn peers(&self) -> MutexGuard<'_, Vec<Arc<Node>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A peer, new or, with the key of its last life, in its next one.
    async fn make(&self, slot: usize, before: Option<&Node>) -> Fallible<Node> {
        let life = before.map_or(slot, |before| before.life + SLOTS);
        let policy = ByTurns::new(self.mode.clone(), Random::of(self.seed, 1000 + life as u64));
        let keypair = before.map(|before| before.keypair.clone());
        // Over TCP: a QUIC connection keeps what it has once allocated for each of 256 streams, and those to the
        // relay live as long as the program, so that circuits over QUIC would look like growth for hours.
        let hop = &self.relay.addresses[0];
        let place = match slot {
            RESTARTED => Place::Plain,
            _ => Place::Everywhere(hop),
        };
        let ledger = self.ledger.clone();
        let moving = Moving {
            config: node::config(life)
                .with_resume(self.resume)
                .with_facts(self.facts || self.resume)
                .with_restless_layer(self.restless.then_some(RESTLESS)),
            policy,
            layer: self.layer,
        };
        Node::peer(life, keypair, place, moving, ledger).await
    }

    /// Has a peer come back with its key, after its end.
    pub async fn make_again(self: &Arc<Self>, slot: usize) -> Fallible<()> {
        let before = self.node(slot);
        let node = Arc::new(self.make(slot, Some(&before)).await?);
        let life = node.life;
        self.peers()[slot] = node;
        traffic::accept(self, life)
    }

    /// Who is there now of those who live in this one's slot.
    pub fn node(&self, life: usize) -> Arc<Node> {
        self.peers()[life % SLOTS].clone()
    }

    pub fn nodes(&self) -> Vec<Arc<Node>> {
        self.peers().clone()
    }

    pub fn control(&self, life: usize) -> Control {
        let control = self.node(life).control.clone();
        control.expect("peers have one, and only relays have none")
    }

    /// The present lives in these slots.
    pub fn lives(&self, slots: [usize; 2]) -> [usize; 2] {
        slots.map(|slot| self.node(slot).life)
    }

    pub fn usage(&self) -> Usage {
        let peers: usize = self.nodes().iter().map(|node| node.connections()).sum();
        Usage::now(peers + self.relay.connections())
    }
}
