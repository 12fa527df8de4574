//! The course of a run, with all three nodes in this process.

use std::{
    error::Error,
    time::{Duration, Instant},
};

use futures::StreamExt;
use libp2p::{PeerId, identity::Keypair, multiaddr::Protocol as Part};

use crate::{
    args::{Args, By},
    bulk::{self, STREAM},
    course::{Course, Stage},
    node::{AtFirst, Node},
    paths::Paths,
    payload::mix,
    relay::Relay,
    tally::{Book, Protocol, Seen, Side, Tally},
};

/// Without the layer, what is lost is waited for until nothing else has come for so long.
const QUIET: Duration = Duration::from_secs(3);

pub struct Run {
    pub book: Book,
    pub paths: [Paths; 2],
    /// What happened when.
    pub chronicle: Vec<(Duration, &'static str)>,
    course: Course,
    relay: Option<Relay>,
    begun: Instant,
}

/// An identity that the seed decides, so that it also decides who starts migrations.
fn keypair(seed: u64, number: u64) -> Result<Keypair, Box<dyn Error>> {
    let words = (0..4).map(|word| mix(mix(seed) ^ (number * 4 + word)));
    let mut bytes: Vec<u8> = words.flat_map(u64::to_be_bytes).collect();
    Ok(Keypair::ed25519_from_bytes(&mut bytes)?)
}

impl Run {
    /// A relay, a listener that has a reservation there, and a dialer on its way to it.
    pub async fn set_up(args: &Args) -> Result<Self, Box<dyn Error>> {
        let (here, there) = Book::pair();
        let book = here.clone();
        let course = Course::default();
        let listen = args.transport.listen_address();
        let relay = Relay::start(keypair(args.seed, 0)?, listen.clone()).await?;
        let keys = [keypair(args.seed, 1)?, keypair(args.seed, 2)?];
        let ids = keys.each_ref().map(|key| PeerId::from(key.public()));
        let mut dialer = Node::new(&keys[0], ids[1], args, here, course.clone())?;
        let mut listener = Node::new(&keys[1], ids[0], args, there, course.clone())?;
        let mut addresses = Vec::new();
        for node in [&mut dialer, &mut listener] {
            // What the relay sees is then what can be punched.
            addresses.push(node.listen(listen.clone()).await?);
            node.meet(&relay).await?;
        }
        let circuit = relay.address.clone().with(Part::P2pCircuit);
        listener.listen(circuit.clone()).await?;
        let circuit = circuit.with(Part::P2p(listener.id));

        let [dialer_address, listener_address] =
            <[_; 2]>::try_from(addresses).map_err(|_| "two nodes, and not two addresses")?;
        dialer.to_dial = (args.by() == By::Dial).then_some(listener_address);
        dialer.at_first = Some(AtFirst {
            address: circuit.clone(),
            ask: None,
        });
        listener.at_first = Some(AtFirst {
            address: dialer_address,
            ask: Some(args.response()),
        });
        stream(args, &course, &dialer, &listener)?;
        dialer.dial(circuit);
        let paths = [dialer.paths.clone(), listener.paths.clone()];
        tokio::spawn(dialer.run());
        tokio::spawn(listener.run());
        Ok(Self {
            book,
            paths,
            chronicle: Vec::new(),
            course,
            relay: Some(relay),
            begun: Instant::now(),
        })
    }

    pub async fn go(&mut self, args: &Args) {
        let book = self.book.clone();
        book.until(|tally| tally.both(|seen| seen.relayed.opened > 0))
            .await;
        self.say("the relayed connection is there");
        book.until(|tally| not_loaded(args, tally).is_empty()).await;
        self.say("everything is under way on it");
        self.course.go(Stage::Direct);
        book.until(|tally| tally.both(|seen| seen.direct.opened > 0))
            .await;
        self.say("the direct connection is there");
        if args.without {
            // Nothing leaves the relayed connection: it goes with the relay, when most is sent.
            let enough = args.messages / 4 * 3;
            let sent = |seen: &Seen| seen.line(Protocol::Gossipsub).sent >= enough;
            book.until(|tally| tally.both(sent)).await;
        } else {
            book.until(relayed_links_are_gone).await;
            self.say("the relayed link is closed");
        }
        if let Some(relay) = self.relay.take() {
            relay.stop().await;
        }
        self.say("the relay has stopped");
        book.until(relayed_links_are_gone).await;
        self.course.go(Stage::Alone);
        book.until(|tally| tally.both(|seen| seen.load_over)).await;
        self.say("the load is over");
        let all = book.until(|tally| outstanding(tally).is_empty());
        if args.without {
            tokio::select! {
                () = all => {}
                () = until_quiet(&book) => {}
            }
        } else {
            all.await;
        }
        self.say("the end");
    }

    fn say(&mut self, what: &'static str) {
        self.chronicle.push((self.begun.elapsed(), what));
        eprintln!("{:6.2} s: {what}", self.begun.elapsed().as_secs_f64());
    }

    /// What an unfinished run still waits for.
    pub fn missing(&self, args: &Args) -> Vec<String> {
        self.book.read(|tally| {
            let mut missing = Vec::new();
            let mut check = |holds: bool, what: &str| {
                if !holds {
                    missing.push(what.to_owned());
                }
            };
            check(
                tally.both(|seen| seen.relayed.opened > 0),
                "a relayed connection",
            );
            check(
                tally.both(|seen| seen.direct.opened > 0),
                "a direct connection",
            );
            check(relayed_links_are_gone(tally), "the end of the relayed link");
            check(tally.both(|seen| seen.load_over), "the end of the load");
            missing.extend(not_loaded(args, tally));
            missing.extend(outstanding(tally));
            if missing.is_empty() {
                missing.push("the end".to_owned());
            }
            missing
        })
    }
}

/// The two ends of the stream of `libp2p-stream`.
fn stream(
    args: &Args,
    course: &Course,
    dialer: &Node,
    listener: &Node,
) -> Result<(), Box<dyn Error>> {
    let what = (args.seed, args.stream());
    let mut incoming = listener
        .swarm
        .behaviour()
        .stream
        .new_control()
        .accept(STREAM)?;
    let (book, at) = (listener.book.clone(), course.clone());
    tokio::spawn(async move {
        if let Some((_, stream)) = incoming.next().await {
            bulk::exchange(stream, what, &book, &at).await;
        }
    });
    let mut control = dialer.swarm.behaviour().stream.new_control();
    let (book, at, peer) = (dialer.book.clone(), course.clone(), dialer.peer);
    tokio::spawn(async move {
        // Opened earlier, it would dial.
        book.until(|tally| tally.both(|seen| seen.subscribed)).await;
        match control.open_stream(peer, STREAM).await {
            Ok(stream) => bulk::exchange(stream, what, &book, &at).await,
            Err(error) => book.line(Protocol::Stream, |line| line.error(error)),
        }
    });
    Ok(())
}

fn relayed_links_are_gone(tally: &Tally) -> bool {
    tally.both(|seen| seen.relayed.all_closed())
}

/// What has not carried enough for the direct connection to come. Each side receives all of this,
/// but for the response.
fn not_loaded(args: &Args, tally: &Tally) -> Vec<String> {
    let enough = |protocol, side| match protocol {
        Protocol::Gossipsub => args.messages / 10,
        Protocol::Response if side == Side::Listener => args.response() / 16,
        Protocol::Response => 0,
        Protocol::Stream => args.stream() / 16,
        Protocol::Requests | Protocol::Kad | Protocol::Identify | Protocol::Ping => 1,
    };
    let mut lacking = Vec::new();
    for side in Side::BOTH {
        for protocol in Protocol::ALL {
            if tally.side(side).line(protocol).received < enough(protocol, side) {
                let (side, name) = (side.name(), protocol.name());
                lacking.push(format!("{name} under way at the {side}"));
            }
        }
    }
    lacking
}

/// What has been sent and may still come.
fn outstanding(tally: &Tally) -> Vec<String> {
    let outstanding = Protocol::ALL.map(|protocol| (tally.outstanding(protocol), protocol));
    let outstanding = outstanding.iter().filter(|(number, _)| *number > 0);
    let tell = |(number, protocol): &(u64, Protocol)| {
        format!("{number} {} of {}", protocol.unit(), protocol.name())
    };
    outstanding.map(tell).collect()
}

/// Waits until nothing has come for a while, but for what always comes.
async fn until_quiet(book: &Book) {
    let came = |tally: &Tally| -> u64 {
        let always = |it: &Protocol| matches!(it, Protocol::Identify | Protocol::Ping);
        let loads = Protocol::ALL.into_iter().filter(|it| !always(it));
        loads.map(|it| tally.sum(it, |line| line.received)).sum()
    };
    loop {
        let before = book.read(came);
        let more = book.until(|tally| came(tally) != before);
        if tokio::time::timeout(QUIET, more).await.is_err() {
            return;
        }
    }
}
