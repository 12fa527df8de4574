//! The processes, and the paths between them.

use std::{
    collections::HashMap,
    error::Error,
    net::SocketAddr,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, multiaddr::Protocol};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, Command},
    sync::watch,
};

use crate::{
    args::Args,
    path::Path,
    process::Order,
    proxy::{Proxy, State, Switch},
    world::{Who, World, wait},
};

/// Anything on the way to a running node.
const PATIENCE: Duration = Duration::from_secs(20);

/// Cellular takes longer.
const CELLULAR: Duration = Duration::from_millis(20);

struct Process {
    child: Child,
    stdin: ChildStdin,
}

/// All of it. The processes end with it.
pub struct Stage {
    pub world: Arc<watch::Sender<World>>,
    args: Args,
    seed: u64,
    relay: Process,
    receiver: Process,
    sender: Process,
    switches: HashMap<Path, Switch>,
    /// From the two sides to the relay.
    to_relay: [Proxy; 2],
    mark: u64,
}

impl Stage {
    pub async fn new(args: &Args) -> Result<Self, Box<dyn Error>> {
        let world = Arc::new(watch::Sender::new(World::default()));
        // Another relay each time, and the same one after a restart.
        let seed = std::time::SystemTime::UNIX_EPOCH.elapsed()?.as_nanos() as u64;
        let relay = start(&world, args, Who::Relay, seed)?;
        let receiver = start(&world, args, Who::Receiver, seed)?;
        let sender = start(&world, args, Who::Sender, seed)?;
        wait(&world, "all processes", PATIENCE, |world| {
            let listen = |view: &crate::world::View, n| view.listening.len() == n;
            listen(&world.relay, 1) && listen(&world.receiver, 2) && listen(&world.sender, 1)
        })
        .await?;
        let switch = Switch::new(State::Open);
        let target = relay_target(&world)?;
        let to_relay = [
            Proxy::tcp(switch.clone(), target, Duration::ZERO).await?,
            Proxy::tcp(switch.clone(), target, Duration::ZERO).await?,
        ];
        let mut stage = Self {
            world,
            args: args.clone(),
            seed,
            relay,
            receiver,
            sender,
            switches: HashMap::from([(Path::Relay, switch)]),
            to_relay,
            mark: 0,
        };
        let relay = stage.relay_address(1)?;
        stage.order(Who::Receiver, &Order::Reserve(relay)).await?;
        let reserved = |world: &World| world.receiver.reserved;
        wait(
            &stage.world,
            "the receiver's reservation",
            PATIENCE,
            reserved,
        )
        .await?;
        for (path, address) in stage.networks().await? {
            stage
                .order(Who::Sender, &Order::Dial(path, address))
                .await?;
        }
        let circuit = stage.relay_address(0)?.with(Protocol::P2pCircuit);
        let circuit = circuit.with(Protocol::P2p(stage.peer(Who::Receiver)?.parse()?));
        stage
            .order(Who::Sender, &Order::Dial(Path::Relay, circuit))
            .await?;
        stage.are_up(&Path::ALL).await?;
        Ok(stage)
    }

    /// The sender sends.
    pub async fn begin(&mut self) -> Result<(), Box<dyn Error>> {
        let peer = self.peer(Who::Receiver)?.parse()?;
        self.order(Who::Sender, &Order::Start(peer)).await?;
        let flows = |world: &World| world.receiver.bytes > 64 << 10;
        Ok(wait(&self.world, "the first bytes", PATIENCE, flows).await?)
    }

    pub fn state(&self, path: Path) -> State {
        self.switches.get(&path).map_or(State::Cut, Switch::state)
    }

    pub fn set(&self, path: Path, state: State) {
        if let Some(switch) = self.switches.get(&path) {
            switch.set(state);
            let line = format!("Conductor: {path} is {state:?}");
            self.world.send_modify(|world| world.line(line));
        }
    }

    pub fn set_all(&self, state: State) {
        for path in Path::ALL {
            self.set(path, state);
        }
    }

    /// Makes Wi-Fi and cellular anew, with other ports. What was stays in the state in which it is.
    pub async fn networks(&mut self) -> Result<[(Path, Multiaddr); 2], Box<dyn Error>> {
        let (quic, tcp, peer) = {
            let world = self.world.borrow();
            let find = |name: &str| {
                let of = |it: &&String| it.contains(name);
                let found = world.receiver.listening.iter().find(of);
                found.cloned().unwrap_or_default()
            };
            (find("/quic-v1"), find("/tcp/"), world.receiver.peer.clone())
        };
        let wifi = Switch::new(State::Open);
        let cellular = Switch::new(State::Open);
        let udp = Proxy::udp(wifi.clone(), socket(&quic)?).await?.port;
        let tcp = Proxy::tcp(cellular.clone(), socket(&tcp)?, CELLULAR)
            .await?
            .port;
        self.switches.insert(Path::Wifi, wifi);
        self.switches.insert(Path::Cellular, cellular);
        Ok([
            (
                Path::Wifi,
                format!("/ip4/127.0.0.1/udp/{udp}/quic-v1/p2p/{peer}").parse()?,
            ),
            (
                Path::Cellular,
                format!("/ip4/127.0.0.1/tcp/{tcp}/p2p/{peer}").parse()?,
            ),
        ])
    }

    /// A way from the receiver to the sender, Wi-Fi too, of which the receiver knows.
    pub async fn way_back(&mut self) -> Result<Switch, Box<dyn Error>> {
        let (quic, peer) = {
            let world = self.world.borrow();
            let quic = world.sender.listening.first().cloned();
            (quic.unwrap_or_default(), world.sender.peer.clone())
        };
        let switch = Switch::new(State::Cut);
        let port = Proxy::udp(switch.clone(), socket(&quic)?).await?.port;
        let address = format!("/ip4/127.0.0.1/udp/{port}/quic-v1/p2p/{peer}");
        self.order(Who::Receiver, &Order::Knows(address.parse()?))
            .await?;
        Ok(switch)
    }

    /// Kills the relay.
    pub async fn kill_relay(&mut self) -> Result<(), Box<dyn Error>> {
        self.world.send_modify(|world| {
            world.relay = crate::world::View::default();
            world.line("Conductor: the relay is killed".to_owned());
        });
        Ok(self.relay.child.kill().await?)
    }

    /// Starts it again. It is the same one, and listens elsewhere.
    pub async fn restart_relay(&mut self) -> Result<(), Box<dyn Error>> {
        self.relay = start(&self.world, &self.args, Who::Relay, self.seed)?;
        let listens = |world: &World| !world.relay.listening.is_empty();
        wait(&self.world, "the relay again", PATIENCE, listens).await?;
        let target = relay_target(&self.world)?;
        for proxy in &self.to_relay {
            proxy.aim(target);
        }
        let line = "Conductor: the relay is there again".to_owned();
        self.world.send_modify(|world| world.line(line));
        Ok(())
    }

    /// Waits until both sides have reported, and the receiver measures anew.
    pub async fn mark(&mut self) -> Result<(), Box<dyn Error>> {
        self.mark += 1;
        let mark = self.mark;
        for who in [Who::Receiver, Who::Sender] {
            self.order(who, &Order::Mark(mark)).await?;
        }
        let marked = |world: &World| world.receiver.mark == mark && world.sender.mark == mark;
        Ok(wait(&self.world, "a report of each side", PATIENCE, marked).await?)
    }

    /// Waits until the sender has a connection on each of these paths.
    pub async fn are_up(&self, paths: &[Path]) -> Result<(), String> {
        let names: Vec<_> = paths.iter().map(|path| path.name()).collect();
        let what = format!("{} to be up", names.join(", "));
        let up = |world: &World| {
            names
                .iter()
                .all(|name| world.sender.up.iter().any(|up| up == name))
        };
        wait(&self.world, &what, PATIENCE, up).await
    }

    pub async fn order(&mut self, who: Who, order: &Order) -> Result<(), Box<dyn Error>> {
        let process = match who {
            Who::Relay => &mut self.relay,
            Who::Receiver => &mut self.receiver,
            Who::Sender => &mut self.sender,
        };
        process
            .stdin
            .write_all(format!("{}\n", order.line()).as_bytes())
            .await?;
        Ok(process.stdin.flush().await?)
    }

    fn peer(&self, who: Who) -> Result<String, String> {
        let world = self.world.borrow();
        let peer = match who {
            Who::Relay => &world.relay.peer,
            Who::Receiver => &world.receiver.peer,
            Who::Sender => &world.sender.peer,
        };
        match peer.is_empty() {
            true => Err(format!("the {who:?} has not said who it is")),
            false => Ok(peer.clone()),
        }
    }

    /// The relay's address for the sender, 0, or the receiver, 1.
    fn relay_address(&self, side: usize) -> Result<Multiaddr, Box<dyn Error>> {
        let (port, peer) = (self.to_relay[side].port, self.peer(Who::Relay)?);
        Ok(format!("/ip4/127.0.0.1/tcp/{port}/p2p/{peer}").parse()?)
    }
}

fn relay_target(world: &watch::Sender<World>) -> Result<SocketAddr, Box<dyn Error>> {
    let address = world.borrow().relay.listening.first().cloned();
    socket(&address.unwrap_or_default())
}

/// The socket that a direct address stands for.
fn socket(address: &str) -> Result<SocketAddr, Box<dyn Error>> {
    let parsed: Multiaddr = address.parse()?;
    let port = parsed.iter().find_map(|part| match part {
        Protocol::Tcp(port) | Protocol::Udp(port) => Some(port),
        _ => None,
    });
    let port = port.ok_or_else(|| format!("no port in {address}"))?;
    Ok(SocketAddr::from(([127, 0, 0, 1], port)))
}

/// Starts this program as another part.
fn start(
    world: &Arc<watch::Sender<World>>,
    args: &Args,
    who: Who,
    seed: u64,
) -> Result<Process, Box<dyn Error>> {
    let mut command = Command::new(std::env::current_exe()?);
    match who {
        Who::Relay => drop(command.args(["relay", "--seed", &seed.to_string()])),
        Who::Receiver => drop(command.arg("receiver")),
        Who::Sender => {
            let (mib, seed, pace) = (args.mib, args.seed, args.pace);
            command.arg("sender").args([
                format!("--mib={mib}"),
                format!("--seed={seed}"),
                format!("--pace={pace}"),
            ]);
            if args.script {
                command.arg("--script");
            }
            if let Some(file) = &args.file {
                command.arg("--file").arg(file);
            }
        }
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let stdin = child.stdin.take().ok_or("no stdin")?;
    let stdout = child.stdout.take().ok_or("no stdout")?;
    let (world, trace, begun) = (world.clone(), args.trace, Instant::now());
    tokio::spawn(async move {
        let mut lines = BufReader::new(stdout).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let Ok(report) = serde_json::from_str::<Value>(&line) else {
                continue;
            };
            if let (true, Some(said)) = (trace, report["said"].as_str()) {
                eprintln!("{:9.3} s {who:?}: {said}", begun.elapsed().as_secs_f64());
            }
            world.send_modify(|world| world.take(who, &report));
        }
        // The relay may be killed; the others go on to the end.
        if who != Who::Relay {
            world.send_modify(|world| {
                world
                    .failed
                    .get_or_insert_with(|| format!("the {who:?} has ended"));
            });
        }
    });
    Ok(Process { child, stdin })
}
