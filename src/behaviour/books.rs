//! Invariants between the behaviour's books, which hold whenever its `poll` has nothing more to do,
//! and random sequences of whatever can happen that look whether it does.

use std::collections::BTreeSet;

use libp2p_identity::PeerId;

use super::{Behaviour, Due};

impl Behaviour {
    /// Panics unless all books agree with each other.
    fn check(&self) {
        self.hub.check();
        let there = self.hub.there();
        let peers: BTreeSet<_> = there.values().copied().collect();
        self.dials.check(&peers);
        assert!(self.outside.peers().all(|peer| peers.contains(peer)));
        // Nothing is due for what is over.
        for due in self.due.iter() {
            match due {
                Due::Redial(peer) => assert!(self.dials.waits(peer)),
                Due::HeadStart(open) | Due::OpenOver(open) => {
                    assert!(self.opens.contains(*open), "{due:?}");
                }
                Due::Accept(_) | Due::Unheard(_) => {}
            }
        }
        self.opens.check(&there);
    }

    /// Panics if anything is kept, though nobody is there.
    fn check_empty(&self) {
        self.check();
        self.hub.check_empty();
        assert!(self.opens.is_empty() && self.dials.is_empty());
        assert!(self.tasks.is_empty());
    }

    fn is_idle(&self) -> bool {
        self.hub.is_idle() && self.tasks.is_empty() && self.dials.is_empty()
    }
}

mod tests {
    use std::{
        num::NonZeroUsize,
        pin::Pin,
        task::{Context, Poll},
        time::Duration,
    };

    use futures::{
        AsyncRead, AsyncWrite, Future, StreamExt, future::BoxFuture, task::noop_waker_ref,
    };
    use libp2p::{
        Multiaddr, Swarm, Transport as _,
        core::{transport::MemoryTransport, upgrade::Version},
        identity::Keypair,
        noise,
        swarm::{
            self,
            dial_opts::{DialOpts, PeerCondition},
        },
        yamux,
    };
    use libp2p_swarm::{ConnectionId, StreamProtocol, SwarmEvent};

    use super::*;
    use crate::{
        Action, Change, Config, ConnectionInfo, ConnectionKey, ConnectionName, Control, Event,
        IncomingStreams, Initiate, Mobility, OpenStreamError, PeerView, Placement, Policy, Side,
        Stream, StreamInfo, StreamKey, Verdict,
    };

    const PROTOCOL: StreamProtocol = StreamProtocol::new("/books/1.0.0");

    /// Numbers as if at random, the same for the same seed.
    #[derive(Clone)]
    struct Dice(u64);

    impl Dice {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }

        fn below(&mut self, n: usize) -> usize {
            (self.next() % n.max(1) as u64) as usize
        }

        fn of<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
            let n = self.below(all.len());
            all.get(n)
        }
    }

    /// A policy that wants now this, now that.
    struct Whims(Dice);

    impl Policy for Whims {
        fn place(&mut self, _: &StreamInfo, peer: &PeerView<'_>) -> Placement {
            match self.0.below(8) {
                0..3 => Placement::Indifferent,
                3 => Placement::Here,
                4 => Placement::AskAgain(Duration::from_millis(self.0.next() % 5)),
                _ => match self.0.of(peer.connections()) {
                    Some(info) => Placement::On(info.key),
                    None => Placement::Here,
                },
            }
        }

        fn verdict(&mut self, _: &StreamInfo, _: &ConnectionInfo, _: &PeerView<'_>) -> Verdict {
            match self.0.below(16) {
                0 => Verdict::Deny,
                1 | 2 => Verdict::NotNow,
                3 | 4 => Verdict::Ask,
                _ => Verdict::Accept,
            }
        }

        fn changed(&mut self, change: &Change, peer: &PeerView<'_>) -> Vec<Action> {
            let connection = self.0.of(peer.connections()).map(|info| info.key);
            match (self.0.below(24), change, connection) {
                (0, Change::StreamChanged(key), Some(to)) => vec![Action::Move(*key, to)],
                (1, Change::Migrated(key), Some(to)) => vec![Action::Move(*key, to)],
                (2, _, Some(connection)) if peer.connections().len() > 2 => {
                    vec![Action::Close(connection)]
                }
                (3, _, _) => vec![Action::CallIn(Duration::from_millis(self.0.next() % 20))],
                (4, Change::Called, _) => vec![Action::Replace],
                _ => Vec::new(),
            }
        }
    }

    struct Node {
        swarm: Swarm<Behaviour>,
        control: Control,
        incoming: IncomingStreams,
        streams: Vec<Stream>,
        opening: Vec<BoxFuture<'static, Result<Stream, OpenStreamError>>>,
        /// Calls that were made, and are waited for.
        wishes: Vec<BoxFuture<'static, ()>>,
        asked: Vec<(StreamKey, ConnectionKey)>,
        /// Migrations of ours that have begun.
        moving: BTreeSet<StreamKey>,
        address: Multiaddr,
    }

    impl Node {
        fn new(seed: u64) -> Self {
            let mut bytes = [7; 32];
            bytes[..8].copy_from_slice(&seed.to_le_bytes());
            let keypair = Keypair::ed25519_from_bytes(bytes).unwrap();
            let id = keypair.public().to_peer_id();
            let patience = Duration::from_millis(3);
            let config = Config::default()
                .with_answer_timeout(Duration::from_millis(60))
                .with_progress_timeout(Duration::from_millis(60))
                .with_old_leg_linger(Duration::from_millis(10))
                .with_prune_grace(Some(Duration::from_millis(5)))
                .with_initiate(Initiate::Designated { patience })
                .with_max_migrations_per_peer(3)
                .with_max_streams_per_connection(6)
                .with_max_streams_per_peer(24)
                // Each pair of nodes has the numbers 2n and 2n + 1.
                .with_resume(seed / 2 % 2 == 1)
                .with_resume_timeout(Duration::from_millis(200));
            let behaviour = Behaviour::with_policy(id, config, Whims(Dice(seed)));
            let mut control = behaviour.new_control();
            let incoming = control.accept(PROTOCOL).unwrap();
            let transport = MemoryTransport::default()
                .upgrade(Version::V1)
                .authenticate(noise::Config::new(&keypair).unwrap())
                .multiplex(yamux::Config::default())
                .boxed();
            // All is polled here, in an order of ours.
            // A swarm whose handlers are not done with what they were told does not poll its behaviour.
            let config = swarm::Config::without_executor()
                .with_notify_handler_buffer_size(NonZeroUsize::new(1 << 14).unwrap())
                .with_idle_connection_timeout(Duration::from_secs(3600));
            let mut swarm = Swarm::new(transport, behaviour, id, config);
            swarm.listen_on("/memory/0".parse().unwrap()).unwrap();
            Self {
                swarm,
                control,
                incoming,
                streams: Vec::new(),
                opening: Vec::new(),
                wishes: Vec::new(),
                asked: Vec::new(),
                moving: BTreeSet::new(),
                address: Multiaddr::empty(),
            }
        }

        fn id(&self) -> PeerId {
            *self.swarm.local_peer_id()
        }

        /// Returns whether anything has happened.
        fn poll(&mut self) -> bool {
            let cx = &mut Context::from_waker(noop_waker_ref());
            let mut progress = false;
            while let Poll::Ready(Some(event)) = self.swarm.poll_next_unpin(cx) {
                progress = true;
                match event {
                    SwarmEvent::NewListenAddr { address, .. } => self.address = address,
                    SwarmEvent::Behaviour(event) => self.hear(event),
                    _ => {}
                }
            }
            self.swarm.behaviour().check();
            while let Poll::Ready(Some((_, stream))) = self.incoming.poll_next_unpin(cx) {
                self.streams.push(stream);
            }
            self.opening
                .retain_mut(|opening| match opening.as_mut().poll(cx) {
                    Poll::Pending => true,
                    Poll::Ready(opened) => {
                        progress = true;
                        self.streams.extend(opened);
                        false
                    }
                });
            let before = self.wishes.len();
            self.wishes
                .retain_mut(|wish| wish.as_mut().poll(cx).is_pending());
            progress | (self.wishes.len() < before)
        }

        /// Hears of an event: what is begun comes to an end, once.
        fn hear(&mut self, event: Event) {
            match event {
                Event::MigrationRequested { key, to, .. } => self.asked.push((key, to)),
                Event::MigrationStarted { key, .. } => {
                    assert!(self.moving.insert(key), "{key} starts in the middle");
                }
                Event::MigrationCompleted {
                    key,
                    initiator: Side::Local,
                    ..
                }
                | Event::MigrationFailed {
                    key,
                    initiator: Side::Local,
                    ..
                } => {
                    assert!(self.moving.remove(&key), "{key} ends twice: {event:?}");
                }
                Event::StreamEnded { key, .. } => drop(self.moving.remove(&key)),
                _ => {}
            }
        }

        fn wish(&mut self, wish: impl Future<Output = ()> + Send + 'static) {
            self.wishes.push(Box::pin(wish));
        }

        fn connections(&self) -> Vec<ConnectionId> {
            let there = self.swarm.behaviour().hub.there();
            there.keys().map(ConnectionName::id).collect()
        }

        /// Does a thing that an application, a network or time may do.
        fn act(&mut self, dice: &mut Dice, other: PeerId, address: Multiaddr) {
            let cx = &mut Context::from_waker(noop_waker_ref());
            let connections = self.connections();
            let connection = dice.of(&connections).copied();
            let n = dice.below(self.streams.len());
            let key = self.streams.get(n).map(Stream::key);
            let mut control = self.control.clone();
            match (dice.below(40), connection) {
                (0..5, _) if connections.len() < 5 => {
                    let opts = DialOpts::peer_id(other)
                        .condition(PeerCondition::Always)
                        .addresses(vec![address]);
                    let _ = self.swarm.dial(opts.build());
                }
                (5..7, Some(connection)) if connections.len() > 2 || dice.below(8) == 0 => {
                    self.swarm.close_connection(connection);
                }
                (7..12, _) if self.streams.len() < 20 => {
                    let opening = async move { control.open_stream(other, PROTOCOL).await };
                    self.opening.push(Box::pin(opening));
                }
                (12, Some(connection)) => {
                    let opening =
                        async move { control.open_stream_on(other, connection, PROTOCOL).await };
                    self.opening.push(Box::pin(opening));
                }
                (13..21, Some(connection)) => {
                    if let Some(key) = key {
                        self.wish(async move {
                            let _ = control.migrate(key, connection).await;
                        });
                    }
                }
                (21, Some(connection)) => self.wish(async move {
                    let _ = control.drain(other, connection).await;
                }),
                (22, Some(connection)) => self.wish(async move {
                    control.close_when_free(other, connection).await;
                }),
                (23..25, Some(connection)) => {
                    let mobility = match dice.below(6) {
                        0 => Mobility::Pinned,
                        1 => Mobility::PinnedTo(connection.key()),
                        2 => Mobility::NeverRelayed,
                        _ => Mobility::Free,
                    };
                    if let Some(key) = key {
                        self.wish(async move {
                            let _ = control.set_mobility(key, mobility).await;
                        });
                    }
                }
                (25..27, _) => {
                    let verdict = [Verdict::Accept, Verdict::NotNow, Verdict::Deny];
                    let verdict = verdict[dice.below(3)];
                    if let Some((key, to)) = self.asked.pop() {
                        self.wish(async move {
                            let _ = control.answer(key, to, verdict).await;
                        });
                    }
                }
                // Whoever has asked has given up.
                (27, _) if !self.wishes.is_empty() => {
                    let n = dice.below(self.wishes.len());
                    drop(self.wishes.swap_remove(n));
                }
                (28, _) if !self.opening.is_empty() => {
                    let n = dice.below(self.opening.len());
                    drop(self.opening.swap_remove(n));
                }
                (29, _) if n < self.streams.len() => {
                    drop(self.streams.swap_remove(n));
                }
                (30..32, _) => {
                    if let Some(stream) = self.streams.get_mut(n) {
                        let _ = Pin::new(stream).poll_close(cx);
                    }
                }
                // Time.
                (32, _) => std::thread::sleep(Duration::from_millis(dice.next() % 8)),
                _ => {
                    for stream in &mut self.streams {
                        let _ = Pin::new(&mut *stream).poll_write(cx, &[0; 300]);
                        let _ = Pin::new(&mut *stream).poll_flush(cx);
                        let _ = Pin::new(&mut *stream).poll_read(cx, &mut [0; 1000]);
                    }
                }
            }
        }
    }

    /// Polls until nothing happens, or not so long.
    fn settle(nodes: &mut [Node; 2], rounds: usize) {
        for _ in 0..rounds {
            if !nodes
                .iter_mut()
                .fold(false, |progress, node| node.poll() | progress)
            {
                break;
            }
        }
    }

    fn run(seed: u64, steps: usize) {
        let mut dice = Dice(seed);
        let mut nodes = [Node::new(2 * seed), Node::new(2 * seed + 1)];
        settle(&mut nodes, 100);
        for _ in 0..steps {
            let n = dice.below(2);
            let (other, address) = (nodes[1 - n].id(), nodes[1 - n].address.clone());
            nodes[n].act(&mut dice, other, address);
            let rounds = [0, 1, 2, 5, 30][dice.below(5)];
            settle(&mut nodes, rounds);
        }
        // All let go of everything.
        for node in &mut nodes {
            node.streams.clear();
            node.opening.clear();
        }
        let start = web_time::Instant::now();
        while start.elapsed() < Duration::from_secs(20) {
            settle(&mut nodes, 100);
            for node in &mut nodes {
                node.streams.clear();
                for connection in node.connections() {
                    node.swarm.close_connection(connection);
                }
            }
            let free = |node: &Node| node.swarm.behaviour().is_idle();
            if nodes.iter().all(free) && !nodes.iter().any(|node| !node.wishes.is_empty()) {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        settle(&mut nodes, 100);
        for node in &nodes {
            assert_eq!(node.wishes.len(), 0, "somebody waits for ever");
            assert!(
                node.moving.is_empty(),
                "neither well nor badly: {:?}",
                node.moving
            );
            node.swarm.behaviour().check_empty();
        }
    }

    /// Books that balance whatever happens in whatever order: all that is kept fits together after
    /// every poll, nobody who asked for something waits for ever, and in the end nothing is left.
    #[test]
    fn they_balance() {
        let (from, count) = match std::env::var("BOOKS") {
            // "BOOKS=seed" for one that failed, "BOOKS=from,count" to look for more.
            Ok(seeds) => {
                let mut seeds = seeds.split(',').map(|n| n.parse().unwrap());
                (seeds.next().unwrap(), seeds.next().unwrap_or(1))
            }
            Err(_) => (0, 12),
        };
        for seed in from..from + count {
            println!("BOOKS={seed}");
            run(seed, 300);
        }
    }
}
