//! What is left of connections and links once they are gone: nothing. Alone in its process, whose memory, tasks and
//! descriptors are counted.

use std::{
    sync::atomic::{AtomicIsize, Ordering::Relaxed},
    time::Duration,
};

use futures::{AsyncWriteExt, StreamExt, join};
use libp2p::{Multiaddr, identity::Keypair};
use libp2p_stream_migration::{Chain, Config, Event, IncomingStreams, Initiate, Stream};
use testing::{
    alloc::{Counter, Counting},
    *,
};
use tokio::{runtime::Handle, task::yield_now};

/// Counts the bytes that are allocated now.
struct Live(AtomicIsize);

#[global_allocator]
static ALLOCATOR: Counting<Live> = Counting(Live(AtomicIsize::new(0)));

impl Counter for Live {
    fn taken(&self, size: usize) {
        self.0.fetch_add(size.cast_signed(), Relaxed);
    }

    fn given_back(&self, size: usize) {
        self.0.fetch_sub(size.cast_signed(), Relaxed);
    }
}

/// Rounds after which all is there that is made once.
const WARM_UP: usize = 2;

/// Bytes by which the tables and queues of nodes that live on may be larger than before, with as much in them.
const SLACK: isize = 1024;

/// The same after a crowd: 26 KB come and go there, and in a hundred rounds nothing stays.
const CROWD: isize = 32 << 10;

/// The same where each round has a new relay: about 400 bytes stay of each, also without any of this crate.
const RELAYS: isize = 4096;

/// Longer than all of this takes.
const BUSY: Duration = Duration::from_secs(600);

/// The process's holdings.
#[derive(Debug, Clone, Copy)]
struct Held {
    bytes: isize,
    tasks: usize,
    descriptors: usize,
}

impl Held {
    fn now() -> Self {
        Self {
            bytes: ALLOCATOR.0.0.load(Relaxed),
            tasks: Handle::current().metrics().num_alive_tasks(),
            descriptors: std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
        }
    }

    /// The least of each, as long as what goes on by itself does.
    async fn least() -> Self {
        let mut least = Self::now();
        for _ in 0..1000 {
            yield_now().await;
            let now = Self::now();
            least.bytes = least.bytes.min(now.bytes);
            least.tasks = least.tasks.min(now.tasks);
            least.descriptors = least.descriptors.min(now.descriptors);
        }
        least
    }

    fn is_within(&self, before: &Self, slack: isize) -> bool {
        self.bytes <= before.bytes + slack
            && self.tasks <= before.tasks
            && self.descriptors <= before.descriptors
    }
}

/// A layered node; its unmodified behaviour is request-response, as libp2p-stream keeps a note of each connection for
/// good.
fn setup() -> Setup {
    Setup {
        layer: true,
        requests: true,
        idle: BUSY,
        config: Config::default()
            .with_initiate(Initiate::Either)
            .with_layer_always(true),
        policy: Box::new(Chain::default()),
        ..Default::default()
    }
}

/// Two nodes, the addresses of one of them, and a stream of the other's to somebody else. Without QUIC, where about a
/// kilobyte stays of each connection, also without any of this crate.
struct Scene {
    net: Net,
    relayed: Multiaddr,
    tcp: Multiaddr,
    incoming: IncomingStreams,
    _other: Node,
    bystander: (Stream, Stream),
    /// Words that have been said, and bytes of the bystander's.
    said: u64,
}

impl Scene {
    async fn new(dialer: Setup, listener: Setup) -> Self {
        let mut net = Net::with(Node::with(dialer), Node::with(listener));
        let relayed = net.address(Kind::Relayed).await;
        let tcp = net.address(Kind::Tcp).await;
        let accepted = net.listener.control.accept(PROTOCOL).unwrap();
        let mut other = Node::with(setup());
        let mut incoming = other.control.accept(PROTOCOL).unwrap();
        let address = other.listen("/ip4/127.0.0.1/tcp/0").await;
        let pair = net.dialer.dial(&other, address).await;
        let bystander = open(&mut net.dialer, other.id, &mut incoming, pair.here).await;
        Self {
            net,
            relayed,
            tcp,
            incoming: accepted,
            _other: other,
            bystander,
            said: 0,
        }
    }

    async fn dial(&self, address: &Multiaddr) -> Pair {
        let address = address.clone();
        self.net.dialer.dial(&self.net.listener, address).await
    }

    /// A relayed and a direct connection, both at home on the direct link, to which what was on the relayed one has
    /// moved.
    async fn two(&mut self) -> [Pair; 2] {
        let relayed = self.dial(&self.relayed).await;
        self.words().await;
        let direct = self.dial(&self.tcp).await;
        let rehomed = |event: &Event| match event {
            Event::ConnectionRehomed { connection, .. } if *connection == relayed.here => Some(()),
            _ => None,
        };
        self.net.dialer.event("a new home", rehomed).await;
        self.words().await;
        [relayed, direct]
    }

    /// A word each way, which is answered; a stream of `Control`'s; and bytes for the bystander.
    async fn words(&mut self) {
        let (from, to) = (self.said, self.said + 100);
        self.said = to;
        let word = from.to_be_bytes();
        let (dialer, listener) = (&self.net.dialer, &self.net.listener);
        let there = listener.id;
        for (node, other) in [(dialer, listener), (listener, dialer)] {
            node.request(other.id, &word);
            node.wait("the answer", |seen| match seen {
                Seen::Response(answer) if *answer == word => Some(()),
                _ => None,
            })
            .await;
        }
        let incoming = &mut self.incoming;
        let opened = self.net.dialer.control.open_stream(there, PROTOCOL);
        within("a stream of our own", async {
            let (ours, theirs) = join!(opened, incoming.next());
            let (mut ours, (_, mut theirs)) = (ours.unwrap(), theirs.unwrap());
            ours.close().await.unwrap();
            theirs.close().await.unwrap();
            join!(read_end(&mut ours), read_end(&mut theirs));
        })
        .await;
        let (ours, theirs) = &mut self.bystander;
        within("the bystander's bytes", async {
            write(ours, 1, from, to).await;
            read(theirs, 1, from, to).await;
        })
        .await;
    }

    async fn close(&self, pair: Pair, here: bool) {
        match here {
            true => self.net.dialer.close(pair.here),
            false => self.net.listener.close(pair.there),
        }
        self.closed(pair).await;
    }

    async fn closed(&self, pair: Pair) {
        let (dialer, listener) = (&self.net.dialer, &self.net.listener);
        for (node, connection) in [(dialer, pair.here), (listener, pair.there)] {
            node.wait("a connection's end", |seen| match seen {
                Seen::Closed(it) if *it == connection => Some(()),
                _ => None,
            })
            .await;
        }
    }

    fn disconnect(&self) {
        self.net.dialer.disconnect(self.net.listener.id);
    }

    /// Waits until nothing is left between the two, and forgets what has happened.
    async fn over(&mut self) {
        let (dialer, listener) = (&mut self.net.dialer, &mut self.net.listener);
        let [here, there] = [dialer.id, listener.id];
        for (node, peer) in [(dialer, there), (listener, here)] {
            within("the books", async {
                while !node.control.connections(peer).await.is_empty()
                    || !node.control.streams(peer).await.is_empty()
                {
                    yield_now().await;
                }
            })
            .await;
        }
        // The relay's log, too, has grown.
        self.net.forget();
    }
}

/// Does this over and over, and sees that nothing grows.
async fn repeat(
    what: &str,
    (rounds, slack): (usize, isize),
    scene: &mut Scene,
    mut round: impl AsyncFnMut(&mut Scene, usize),
) {
    let mut before = Held::now();
    for number in 0..WARM_UP + rounds {
        round(scene, number).await;
        scene.over().await;
        if number < WARM_UP {
            before = Held::least().await;
            continue;
        }
        let as_before = async {
            while !Held::now().is_within(&before, slack) {
                yield_now().await;
                // The connection to the relay may have ended only now.
                scene.net.forget();
            }
        };
        let settled = tokio::time::timeout(HANG, as_before).await;
        let now = Held::now();
        assert!(
            settled.is_ok(),
            "{what}, round {number}: {before:?} {now:?}"
        );
    }
}

/// "My node meets the same peers over and over, for months, and each time it is a bit larger."
#[tokio::test]
async fn nothing_is_left() {
    let mut scene = Scene::new(setup(), setup()).await;
    repeat(
        "closed by hand",
        (4, SLACK),
        &mut scene,
        async |scene, number| {
            let mut pairs = scene.two().await;
            pairs.rotate_left(number % 2);
            for pair in pairs {
                scene.close(pair, number / 2 % 2 == 0).await;
            }
        },
    )
    .await;
    repeat(
        "three links",
        (2, SLACK),
        &mut scene,
        async |scene, number| {
            let [relayed, direct] = scene.two().await;
            let mut pairs = [relayed, direct, scene.dial(&scene.tcp).await];
            pairs.rotate_left(number % 3);
            for (turn, pair) in pairs.into_iter().enumerate() {
                scene.words().await;
                scene.close(pair, (number + turn) % 2 == 0).await;
            }
        },
    )
    .await;
    repeat("disconnected", (12, SLACK), &mut scene, async |scene, _| {
        scene.two().await;
        scene.disconnect();
    })
    .await;
    repeat("blocked", (12, SLACK), &mut scene, async |scene, number| {
        let pairs = scene.two().await;
        let (dialer, listener) = (&scene.net.dialer, &scene.net.listener);
        let (node, peer) = match number % 2 {
            0 => (dialer, listener.id),
            _ => (listener, dialer.id),
        };
        node.block(peer);
        for pair in pairs {
            scene.closed(pair).await;
        }
        node.unblock(peer);
    })
    .await;
    repeat("many", (4, CROWD), &mut scene, async |scene, _| {
        scene.dial(&scene.relayed).await;
        for _ in 1..30 {
            scene.dial(&scene.tcp).await;
        }
        scene.words().await;
        scene.disconnect();
    })
    .await;
    repeat(
        "the relay dies",
        (6, RELAYS),
        &mut scene,
        async |scene, _| {
            scene.net.stop_relay();
            scene.net.listener.forget();
            scene.relayed = scene.net.address(Kind::Relayed).await;
            let pairs = scene.two().await;
            scene.net.stop_relay();
            let (dialer, listener) = (&scene.net.dialer, &scene.net.listener);
            for (node, ours) in [
                (dialer, pairs.map(|pair| pair.here)),
                (listener, pairs.map(|pair| pair.there)),
            ] {
                node.wait("the relay's end", |seen| match seen {
                    Seen::Closed(it) if !ours.contains(it) => Some(()),
                    _ => None,
                })
                .await;
            }
            scene.words().await;
            scene.disconnect();
        },
    )
    .await;
    drop(scene);

    for by_dialer in [true, false] {
        let limited = Setup {
            per_peer: Some(1),
            ..setup()
        };
        let mut scene = match by_dialer {
            true => Scene::new(limited, setup()).await,
            false => Scene::new(setup(), limited).await,
        };
        repeat(
            "a second one denied",
            (2, SLACK),
            &mut scene,
            async |scene, _| {
                scene.dial(&scene.relayed).await;
                scene.words().await;
                let (dialer, listener) = (&scene.net.dialer, &scene.net.listener);
                for _ in 0..2 {
                    dialer.dial_in_vain(listener, scene.tcp.clone());
                }
                // What one denies, the other may have had for a moment.
                let over = |seen: &&Seen| matches!(seen, Seen::Failed | Seen::Closed(_));
                for node in [dialer, listener] {
                    let both = |log: &[Seen]| log.iter().filter(over).count() >= 2;
                    node.until("the denials", both).await;
                }
                scene.words().await;
                scene.disconnect();
            },
        )
        .await;
    }

    let brief = || Setup {
        idle: Duration::from_secs(1),
        ..setup()
    };
    let mut scene = Scene::new(brief(), brief()).await;
    repeat("idle", (2, SLACK), &mut scene, async |scene, _| {
        for pair in scene.two().await {
            scene.closed(pair).await;
        }
    })
    .await;

    let keypair = Keypair::generate_ed25519();
    let again = || Setup {
        keypair: keypair.clone(),
        ..setup()
    };
    let mut scene = Scene::new(setup(), again()).await;
    repeat("restarted", (6, SLACK), &mut scene, async |scene, _| {
        let mut pairs = Vec::new();
        for _ in 0..2 {
            pairs.push(scene.dial(&scene.tcp).await);
        }
        scene.words().await;
        scene.net.listener = Node::with(again());
        scene.incoming = scene.net.listener.control.accept(PROTOCOL).unwrap();
        for pair in pairs {
            scene
                .net
                .dialer
                .wait("the end of a life", |seen| match seen {
                    Seen::Closed(it) if *it == pair.here => Some(()),
                    _ => None,
                })
                .await;
        }
        scene.tcp = scene.net.address(Kind::Tcp).await;
        scene.dial(&scene.tcp).await;
        scene.words().await;
        scene.disconnect();
    })
    .await;
}
