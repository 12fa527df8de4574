//! The three nodes as three processes.

use std::{
    error::Error,
    io::{self, IsTerminal},
    sync::{Arc, atomic::Ordering},
};

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::{Multiaddr, StreamProtocol, identity::Keypair, multiaddr::Protocol};
use libp2p_stream_migration::{Event, Stream};

use crate::{
    args::{Size, Transport, peer_of},
    node::{Happened, Node, Role},
    report::Report,
    say,
    scenario::Side,
    transfer::{self, Progress},
};

const ECHO: StreamProtocol = StreamProtocol::new("/echo/1.0.0");

async fn until_interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        // No signals here: run until killed.
        std::future::pending::<()>().await;
    }
}

pub async fn relay(keypair: Keypair, mut listen: Vec<Multiaddr>) -> Result<(), Box<dyn Error>> {
    let node = Node::start(keypair, Role::Relay).await?;
    if listen.is_empty() {
        listen = [Transport::Tcp, Transport::Quic, Transport::Ws]
            .map(Transport::listen_address)
            .to_vec();
    }
    let serving = async {
        for address in listen {
            node.listen(address).await?;
        }
        // Where an address stands for several, as 0.0.0.0 does, all of them are told.
        let mut said = Vec::new();
        loop {
            let address = node
                .wait(|_, happened| match happened {
                    Happened::Listening(address) if !said.contains(address) => {
                        Some(address.clone())
                    }
                    _ => None,
                })
                .await;
            let full = address.clone().with_p2p(node.id).unwrap_or(address.clone());
            say(&format!("listening on {full}"))?;
            said.push(address);
        }
    };
    tokio::select! {
        () = until_interrupted() => Ok(()),
        done = serving => done,
    }
}

pub async fn listen(
    keypair: Keypair,
    relay: Multiaddr,
    mut direct: Vec<Multiaddr>,
) -> Result<(), Box<dyn Error>> {
    tokio::select! {
        () = until_interrupted() => Ok(()),
        done = async {
            let mut node = Node::start(keypair, Role::Peer { dcutr: true }).await?;
            if direct.is_empty() {
                direct.push(Transport::of(&relay).listen_address());
            }
            for address in direct {
                say(&format!("direct address {}", node.listen(address).await?))?;
            }
            let relay_id = peer_of(&relay).ok_or("the relay's address has no peer ID")?;
            node.dial(relay_id, relay.clone()).await?;
            node.known_to(relay_id).await;
            let mut transfers = node.control.accept(transfer::PROTOCOL)?;
            let mut echoes = node.control.accept(ECHO)?;
            let circuit = node.listen(relay.with(Protocol::P2pCircuit)).await?;
            say(&format!("listening on {circuit}"))?;
            let node = Arc::new(node);
            loop {
                tokio::select! {
                    Some((peer, stream)) = transfers.next() => {
                        say(&format!("transfer from {peer}"))?;
                        tokio::spawn(accept_transfer(node.clone(), stream));
                    }
                    Some((_, stream)) = echoes.next() => {
                        tokio::spawn(echo(stream));
                    }
                    lost = node.wait(|_, happened| match happened {
                        Happened::ListenerClosed(addresses, why) => {
                            Some(format!("no longer listening on {addresses:?}: {why}"))
                        }
                        _ => None,
                    }) => return Err(lost.into()),
                    else => return Ok(()),
                }
            }
        } => done,
    }
}

async fn accept_transfer(node: Arc<Node>, stream: Stream) {
    // Nobody reads what we say any more: the next one will find out.
    let _ = transfer_of(&node, stream).await;
}

async fn transfer_of(node: &Node, stream: Stream) -> io::Result<()> {
    let key = stream.key();
    let (peer, relayed) = (stream.peer(), stream.connection());
    let progress = Progress::default();
    let switched = async {
        node.wait(|_, happened| match happened {
            Happened::Stream(Event::MigrationAgreed { key: moved, .. }) => {
                (*moved == key).then_some(())
            }
            _ => None,
        })
        .await;
        progress.switched.store(true, Ordering::Relaxed);
        std::future::pending::<()>().await;
    };
    let outcome = tokio::select! {
        outcome = transfer::run(stream, None, &progress) => outcome,
        () = switched => return Ok(()),
    };
    match outcome {
        Ok(outcome) => {
            let received = outcome.received;
            say(&format!(
                "transfer from {peer} done: {} bytes, {} lost, {} duplicated, SHA-256 {}",
                received.bytes,
                received.lost,
                received.duplicated,
                if received.sha256_match {
                    "equal"
                } else {
                    "differs"
                },
            ))?;
        }
        Err(error) => say(&format!("transfer from {peer} failed: {error}"))?,
    }
    node.wait(|_, happened| match happened {
        Happened::Closed(id) if Some(*id) == relayed => Some(()),
        _ => None,
    })
    .await;
    say(&format!("relayed connection to {peer} closed"))
}

/// Echoes bytes, and a half-close.
async fn echo(mut stream: Stream) {
    let mut buf = vec![0; 64 * 1024];
    loop {
        let n = match stream.read(&mut buf).await {
            Ok(0) => break,
            Ok(n) => n,
            // A reset is not mirrored as an end: dropping the stream resets it.
            Err(_) => return,
        };
        let echoed = async {
            stream.write_all(&buf[..n]).await?;
            stream.flush().await
        };
        if echoed.await.is_err() {
            return;
        }
    }
    let _ = stream.close().await;
}

pub async fn dial(
    keypair: Keypair,
    circuit: Multiaddr,
    direct: Option<Multiaddr>,
    size: &Size,
) -> Result<Report, Box<dyn Error>> {
    let peer = peer_of(&circuit).ok_or("the circuit's address has no peer ID")?;
    // What comes before `/p2p-circuit` is the relay.
    let relay: Multiaddr = circuit
        .iter()
        .take_while(|part| *part != Protocol::P2pCircuit)
        .collect();
    let relay_id = peer_of(&relay).ok_or("the relay's address has no peer ID")?;
    let punch = direct.is_none();
    let running = async {
        let node = Node::start(keypair, Role::Peer { dcutr: punch }).await?;
        if punch {
            node.listen(Transport::of(&relay).listen_address()).await?;
        }
        node.dial(relay_id, relay).await?;
        node.known_to(relay_id).await;
        let mut side = Side {
            node: &node,
            peer,
            total: size.bytes(),
            bars: !size.json && std::io::stderr().is_terminal(),
        };
        side.run(circuit, async { Ok(direct) }).await
    };
    tokio::select! {
        () = until_interrupted() => Err("interrupted".into()),
        report = running => report,
    }
}
