//! A task outside the behaviour that merges duplicate connections, with events and a control.

use std::time::Duration;

use libp2p::{PeerId, StreamProtocol};
use libp2p_stream_migration::ConnectionKey;
use libp2p_stream_migration::{
    Behaviour, Config, ConnectionInfo, Control, Event, Outside, Verdict, designated_peer,
};
use tokio::sync::mpsc;

use crate::{
    Fallible, Outcome,
    node::{Node, say},
    traffic::{Talks, echo},
};

const TALK: StreamProtocol = StreamProtocol::new("/talk/1.0.0");

/// Keeps one connection to each peer: the oldest that the designated peer dialed, which is the same one
/// for both. Only the designated peer moves streams; the other accepts what goes to such a connection.
struct Merger {
    name: &'static str,
    local: PeerId,
    control: Control,
}

impl Merger {
    async fn run(mut self, mut events: mpsc::Receiver<Event>) -> usize {
        let mut moved = 0;
        while let Some(event) = events.recv().await {
            moved += usize::from(say(self.name, &event));
            match event {
                // Whatever may have put a stream where it should not be.
                Event::ConnectionEstablished(ConnectionInfo { peer, .. })
                | Event::StreamNegotiated { peer, .. }
                | Event::MigrationCompleted { peer, .. } => self.merge(peer).await,
                Event::MigrationRequested { peer, key, to, .. } => {
                    let connections = self.control.connections(peer).await;
                    let good = connections
                        .iter()
                        .any(|it| it.key == to && self.is_good(it));
                    let verdict = if good {
                        Verdict::Accept
                    } else {
                        Verdict::NotNow
                    };
                    // It may have been taken back.
                    let _ = self.control.answer(key, to, verdict).await;
                }
                Event::ConnectionFree {
                    peer, connection, ..
                } => self.free(peer, connection).await,
                _ => {}
            }
        }
        moved
    }

    /// Nothing is on this connection any more.
    async fn free(&mut self, peer: PeerId, connection: ConnectionKey) {
        if self.kept(peer).await.is_some_and(|kept| kept != connection) {
            self.control.close_when_free(peer, connection).await;
        }
    }

    fn is_good(&self, connection: &ConnectionInfo) -> bool {
        connection.dialer == self.is_designated(connection.peer)
    }

    fn is_designated(&self, peer: PeerId) -> bool {
        designated_peer(self.local, peer) == self.local
    }

    /// Which connection is kept, if that is for us to say.
    async fn kept(&mut self, peer: PeerId) -> Option<ConnectionKey> {
        if !self.is_designated(peer) {
            return None;
        }
        let connections = self.control.connections(peer).await;
        let good = connections.iter().filter(|info| self.is_good(info));
        Some(good.min_by_key(|info| info.established)?.key)
    }

    async fn merge(&mut self, peer: PeerId) {
        let Some(kept) = self.kept(peer).await else {
            return;
        };
        for stream in self.control.streams(peer).await {
            if stream.connection != Some(kept) && !stream.migrating {
                // Its outcome comes as an event. A real one would try again later if it fails.
                let mut control = self.control.clone();
                tokio::spawn(async move { control.migrate(stream.key, kept).await });
            }
        }
    }
}

pub async fn run() -> Fallible<Outcome> {
    // Half a minute after anything has been said there is soon enough to close a connection, but long to wait
    // for somebody who watches.
    let config = || Config::default().with_old_leg_linger(Duration::from_secs(2));
    let node = || Node::start(|id| Behaviour::with_policy(id, config(), Outside));
    let (mut here, events_here) = node().await?;
    let (mut there, events_there) = node().await?;
    let mergers = [
        ("here", &here, events_here),
        ("there", &there, events_there),
    ]
    .map(|(name, node, events)| {
        let merger = Merger {
            name,
            local: node.id,
            control: node.control.clone(),
        };
        tokio::spawn(merger.run(events))
    });
    for node in [&mut here, &mut there] {
        tokio::spawn(echo(node.control.accept(TALK)?));
    }

    // Both dial, and open two streams each on their own connection.
    let mut talks = Talks::new();
    let one = here.dial(there.id, &there.tcp).await?;
    let other = there.dial(here.id, &here.tcp).await?;
    println!("here dialed connection {one}, there dialed connection {other}");
    for (node, peer, connection) in [(&here, there.id, one), (&there, here.id, other)] {
        let mut control = node.control.clone();
        for _ in 0..2 {
            let opening = control.open_stream_on(peer, connection, TALK);
            talks.start(opening.await?);
        }
    }
    for (node, peer) in [(&here, there.id), (&there, here.id)] {
        node.until(peer, |connections, streams| {
            let one = connections.len() == 1 && streams.len() == 4;
            one && streams.iter().all(|stream| !stream.migrating)
        })
        .await?;
    }
    let lost = talks.end().await?;
    // Their swarms stop, and their events end.
    drop((here, there));
    let mut moved = 0;
    for merger in mergers {
        moved += merger.await?;
    }
    Ok(Outcome { moved, lost })
}
