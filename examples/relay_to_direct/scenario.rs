//! The dialer's side of a run, and a run with all three nodes in this process.

use std::{
    error::Error,
    future::Future,
    io::IsTerminal,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use futures::StreamExt;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use libp2p::{Multiaddr, PeerId, identity::Keypair, multiaddr::Protocol};
use libp2p_stream_migration::ConnectionKey;
use libp2p_stream_migration::Event;
use tokio::sync::Notify;

use crate::{
    args::{Direct, Run, Transport},
    node::{Happened, Node, Role},
    report::{Direction, Report},
    transfer::{self, Outcome, Progress},
};

/// How long the relayed connection may take to go.
const CLOSING: Duration = Duration::from_secs(10);

/// How long the behaviour may take to tell of a migration when its stream has ended.
const TELLING: Duration = Duration::from_secs(2);

/// All three nodes in this process.
pub async fn all_in_one(run: &Run) -> Result<Report, Box<dyn Error>> {
    let punch = match run.direct {
        Some(direct) => direct == Direct::Dcutr,
        // Hole punching needs a port that is reused, which a WebSocket's is not.
        None => run.transport != Transport::Ws,
    };
    let relay = Node::start(Keypair::generate_ed25519(), Role::Relay).await?;
    let peer = Role::Peer { dcutr: punch };
    let dialer = Node::start(Keypair::generate_ed25519(), peer).await?;
    let mut listener = Node::start(Keypair::generate_ed25519(), peer).await?;

    // Behind the relay over the same transport, so that what the relay sees is what can be punched.
    let relay_address = relay.listen(run.transport.listen_address()).await?;
    for node in [&dialer, &listener] {
        if punch {
            node.listen(run.transport.listen_address()).await?;
        }
        node.dial(relay.id, relay_address.clone()).await?;
        node.known_to(relay.id).await;
    }
    let circuit = listener
        .listen(relay_address.with(Protocol::P2pCircuit))
        .await?;

    let mut incoming = listener.control.accept(transfer::PROTOCOL)?;
    let there = Arc::new(Progress::default());
    let listening = tokio::spawn({
        let there = there.clone();
        async move {
            let (_, stream) = incoming.next().await.ok_or("no stream")?;
            transfer::run(stream, None, &there)
                .await
                .map_err(|error| format!("the listener: {error}"))
        }
    });
    // A direct address that nobody knows until it is time.
    let direct = async {
        Ok(match punch {
            true => None,
            false => Some(listener.listen(run.transport.listen_address()).await?),
        })
    };
    let mut side = Side {
        node: &dialer,
        peer: listener.id,
        total: run.size.bytes(),
        bars: !run.size.json && std::io::stderr().is_terminal(),
    };
    let switched = async {
        listener.wait(|_, happened| agreed(happened)).await;
        there.switched.store(true, Ordering::Relaxed);
        // If the stream does not move, it is the dialer's side that finds out.
        std::future::pending().await
    };
    let mut report = tokio::select! {
        report = side.run(circuit, direct) => report?,
        () = switched => unreachable!("it waits for ever"),
    };
    let outcome: Outcome = listening.await??;
    report.dial_to_listen.received = outcome.received;
    report.listen_to_dial.sent = outcome.sent;
    let relayed_there = listener
        .wait(|_, happened| match happened {
            Happened::Stream(Event::StreamStarted { connection, .. }) => Some(*connection),
            _ => None,
        })
        .await;
    if report.relayed_connection_closed {
        report.relayed_connection_closed = closed(&listener, relayed_there).await;
    }
    let migrations = completed(&listener);
    if migrations != report.migrations {
        return Err(format!(
            "the sides disagree: {} migrations here, {migrations} there",
            report.migrations
        )
        .into());
    }
    Ok(report)
}

/// The dialer's side.
pub struct Side<'a> {
    pub node: &'a Node,
    pub peer: PeerId,
    pub total: u64,
    pub bars: bool,
}

impl Side<'_> {
    /// Dials through the relay, transfers, dials `direct` when a quarter is through if there is one
    /// to dial, and sees the stream move and the relayed connection go.
    pub async fn run(
        &mut self,
        circuit: Multiaddr,
        direct: impl Future<Output = Result<Option<Multiaddr>, String>>,
    ) -> Result<Report, Box<dyn Error>> {
        let relayed = self.node.dial(self.peer, circuit).await?;
        let mut control = self.node.control.clone();
        let stream = control
            .open_stream_on(self.peer, relayed, transfer::PROTOCOL)
            .await?;
        if !stream.is_migratable() {
            return Err("the remote does not speak stream migration".into());
        }
        let progress = Progress::default();
        let over = Notify::new();
        let transfer = async {
            let outcome = transfer::run(stream, Some(self.total), &progress).await?;
            over.notify_one();
            Ok(outcome)
        };
        let moving = async {
            tokio::select! {
                moved = self.see_it_move(&progress, direct) => moved.map(Some),
                () = over.notified() => {
                    // What has been agreed is complete by now, and has only to be told.
                    Ok(tokio::time::timeout(TELLING, self.moved()).await.ok())
                }
            }
        };
        let (outcome, moved) = self
            .with_bars(&progress, futures::future::try_join(transfer, moving))
            .await?;
        let relayed_connection_closed = moved.is_some() && closed(self.node, relayed).await;
        // Without a move, all of it went over the first leg.
        let moved = moved.unwrap_or(Moved {
            old_leg_sent: outcome.bytes_out,
            old_leg_received: outcome.bytes_in,
            path: "relayed".to_owned(),
            switch: None,
            took: None,
        });
        let [sent_on_old, received_on_old] = [
            moved.old_leg_sent.saturating_sub(outcome.lead_out),
            moved.old_leg_received.saturating_sub(outcome.lead_in),
        ]
        .map(|bytes| bytes.min(self.total));
        Ok(Report {
            dial_to_listen: Direction {
                sent: outcome.sent,
                received: outcome.receipt.ok_or("the listener sent no receipt")?,
                old_leg: sent_on_old,
                new_leg: self.total - sent_on_old,
            },
            listen_to_dial: Direction {
                sent: self.total,
                received: outcome.received,
                old_leg: received_on_old,
                new_leg: self.total - received_on_old,
            },
            migrations: completed(self.node),
            path_before: "relayed".to_owned(),
            path_after: moved.path,
            switch: moved.switch,
            took: moved.took,
            relayed_connection_closed,
        })
    }

    async fn see_it_move(
        &self,
        progress: &Progress,
        direct: impl Future<Output = Result<Option<Multiaddr>, String>>,
    ) -> Result<Moved, Box<dyn Error>> {
        // Dialing, if that is what brings the direct connection about, when a quarter is through.
        let dialing = async {
            while progress.received.load(Ordering::Relaxed) < self.total / 4 {
                progress.news.notified().await;
            }
            if let Some(address) = direct.await? {
                self.node.dial(self.peer, address).await?;
            }
            Ok::<_, Box<dyn Error>>(())
        };
        let switching = async {
            let to = self.node.wait(|_, happened| agreed(happened)).await;
            let (_, path) = self.path(to).await;
            let _ = progress.path.set(path);
            progress.switched.store(true, Ordering::Relaxed);
            Ok(self.moved().await)
        };
        let (moved, ()) = futures::future::try_join(switching, dialing).await?;
        Ok(moved)
    }

    async fn moved(&self) -> Moved {
        let (at, to, took, old_leg_sent, old_leg_received) = self
            .node
            .wait(|at, happened| match happened {
                Happened::Stream(Event::MigrationCompleted {
                    to,
                    took,
                    old_leg_sent,
                    old_leg_received,
                    ..
                }) => Some((at, *to, *took, *old_leg_sent, *old_leg_received)),
                _ => None,
            })
            .await;
        let (since, path) = self.path(to).await;
        Moved {
            old_leg_sent,
            old_leg_received,
            path,
            switch: Some(at - since),
            took: Some(took),
        }
    }

    /// Since when a connection is there, and what it is.
    async fn path(&self, connection: ConnectionKey) -> (Instant, String) {
        self.node
            .wait(|at, happened| match happened {
                Happened::Connected(id, address) if *id == connection => {
                    Some((at, path_name(address)))
                }
                _ => None,
            })
            .await
    }

    /// A bar per direction while this goes on, naming the path in use.
    async fn with_bars<T>(&self, progress: &Progress, work: impl Future<Output = T>) -> T {
        if !self.bars {
            return work.await;
        }
        let bars = MultiProgress::new();
        let style = ProgressStyle::with_template(
            "{prefix:14} {bar:40} {bytes:>10}/{total_bytes} {bytes_per_sec:>12} {msg}",
        )
        .unwrap_or_else(|_| ProgressStyle::default_bar());
        let new_bar = |name| {
            bars.add(ProgressBar::new(self.total).with_style(style.clone()))
                .with_prefix(name)
        };
        let (out, r#in) = (new_bar("dial → listen"), new_bar("listen → dial"));
        let show = async {
            let mut ticks = tokio::time::interval(Duration::from_millis(100));
            loop {
                ticks.tick().await;
                let path = progress.path.get().map_or("relayed", String::as_str);
                for (bar, bytes) in [(&out, &progress.sent), (&r#in, &progress.received)] {
                    bar.set_message(path.to_owned());
                    bar.set_position(bytes.load(Ordering::Relaxed));
                }
            }
        };
        let result = tokio::select! {
            result = work => result,
            () = show => unreachable!("the bars are shown for ever"),
        };
        out.finish();
        r#in.finish();
        result
    }
}

struct Moved {
    old_leg_sent: u64,
    old_leg_received: u64,
    path: String,
    /// From the direct connection to the end of the migration.
    switch: Option<Duration>,
    /// From the agreement to the end of the migration.
    took: Option<Duration>,
}

/// Whether this says that both sides have agreed on moving the stream.
/// It is to be on this connection.
pub fn agreed(happened: &Happened) -> Option<ConnectionKey> {
    match happened {
        Happened::Stream(Event::MigrationAgreed { to, .. }) => Some(*to),
        _ => None,
    }
}

fn path_name(address: &Multiaddr) -> String {
    match address.iter().any(|part| part == Protocol::P2pCircuit) {
        true => "relayed".to_owned(),
        false => format!("direct {}", Transport::of(address).name()),
    }
}

fn completed(node: &Node) -> usize {
    node.happened(|happened| {
        let events = happened.iter().map(|(_, what)| what);
        events
            .filter(|what| matches!(what, Happened::Stream(Event::MigrationCompleted { .. })))
            .count()
    })
}

async fn closed(node: &Node, connection: ConnectionKey) -> bool {
    let closing = node.wait(|_, happened| match happened {
        Happened::Closed(id) if *id == connection => Some(()),
        _ => None,
    });
    tokio::time::timeout(CLOSING, closing).await.is_ok()
}
