//! The receiver: where transfers come from, and what is said about them. `inbox.rs` has the
//! transfers.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, StreamExt, stream::FuturesUnordered};
use libp2p::{PeerId, multiaddr::Protocol};
use libp2p_stream_migration::Stream;

use crate::{
    Failure, args, chain,
    inbox::{Inbox, ReceiveError},
    node::{Node, Role},
    progress::{Progress, Screen},
    say,
    send::finish,
    staging,
    tally::Tally,
    wire::{self, Frame, Offer, PROTOCOL},
};

/// More transfers than this wait for their turn.
const AT_ONCE: usize = 8;

/// How long a sender may take to hear that it is to stop.
const STOPPING: Duration = Duration::from_secs(5);

pub async fn run(args: args::Receive) -> Result<(), Failure> {
    let into = directory(&args.into)?;
    for path in staging::remove_leftovers(&into)? {
        eprintln!("{path:?} belongs to another receiver; remove it if none is running");
    }
    let node = Node::start(Role::Peer { dcutr: true }).await?;
    let mut direct = args.direct;
    if direct.is_empty() {
        direct.push(args::beside(&args.relay));
    }
    for address in direct {
        say(&format!("direct address {}", node.listen(address).await?))?;
    }
    node.behind(args::peer_of(&args.relay)?, args.relay.clone())
        .await?;
    let mut incoming = node.control.clone().accept(PROTOCOL)?;
    let circuit = node.listen(args.relay.with(Protocol::P2pCircuit)).await?;
    say(&format!("listening on {circuit}"))?;

    let receiver = Receiver {
        node: &node,
        inbox: Inbox {
            into,
            limit: args.max_mib.saturating_mul(1 << 20),
        },
        screen: Screen::new(),
    };
    let at_once = if args.once { 1 } else { AT_ONCE };
    let mut transfers = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some((peer, stream)) = incoming.next(), if transfers.len() < at_once => {
                transfers.push(receiver.receive(peer, stream));
            }
            Some(received) = transfers.next() => {
                if args.once {
                    return received;
                }
            }
            // Whoever has come through the relay may be on a direct connection by now.
            lost = node.wait(|state| state.lost.is_some()), if transfers.is_empty() => {
                lost?;
                return Err(node.look(|state| state.lost.clone()).unwrap_or_default().into());
            }
        }
    }
}

fn directory(path: &Path) -> Result<PathBuf, String> {
    let complain = |why: &dyn std::fmt::Display| {
        format!("cannot receive into {path:?}: {why}; name a directory that is there")
    };
    let full = path.canonicalize().map_err(|error| complain(&error))?;
    match full.is_dir() {
        true => Ok(full),
        false => Err(complain(&"it is no directory")),
    }
}

struct Receiver<'a> {
    node: &'a Node,
    inbox: Inbox,
    screen: Screen,
}

impl Receiver<'_> {
    async fn receive(&self, peer: PeerId, stream: Stream) -> Result<(), Failure> {
        let key = stream.key();
        let progress = Progress::default();
        let (mut reader, mut writer) = stream.split();
        let work = self.exchange(peer, &mut reader, &mut writer, &progress);
        let received = self
            .screen
            .show("receiving", &progress, self.node, key, work)
            .await;
        let stream = reader.reunite(writer)?;
        match received {
            Ok((path, tally)) => {
                let way = self
                    .node
                    .way(&stream, stream.bytes_in(), |(_, read)| read)
                    .await;
                self.screen
                    .say(&format!("received {path:?} from {peer}: {tally}"));
                self.screen.say(&format!("on the way: {way}"));
                Ok(())
            }
            Err(error) => {
                let why = chain(&error);
                self.screen.say(&format!(
                    "transfer from {peer} failed: {why}; nothing is kept of it"
                ));
                Err(error.into())
            }
        }
    }

    async fn exchange(
        &self,
        peer: PeerId,
        reader: &mut (impl AsyncRead + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
        progress: &Progress,
    ) -> Result<(PathBuf, Tally), ReceiveError> {
        let offered = |offer: &Offer| {
            self.screen.say(&format!(
                "receiving {:?} from {peer}: {} bytes in {} files",
                offer.name, offer.bytes, offer.files
            ));
        };
        let result = self.inbox.receive(reader, writer, progress, offered).await;
        let last = match &result {
            Ok((_, tally)) => Frame::Done {
                bytes: tally.bytes,
                hash: tally.hash(),
            },
            Err(error) => Frame::Failed(chain(error)),
        };
        // A sender that hears nothing of it takes it for failed, which is the safe side to err on.
        // What it still sends is read, so that it comes to read what we say.
        let ending = async {
            wire::write(writer, last).await?;
            finish(reader, writer).await
        };
        let _ = tokio::time::timeout(STOPPING, ending).await;
        result
    }
}
