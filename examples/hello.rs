//! A stream of an unmodified behaviour moves from TCP to QUIC while it is used.

use std::error::Error;

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt, io::copy};
use libp2p::swarm::{
    Config as SwarmConfig, NetworkBehaviour, StreamProtocol, Swarm, SwarmEvent,
    dial_opts::{DialOpts, PeerCondition},
};
use libp2p::{Multiaddr, PeerId, identity::Keypair, relay};
use libp2p_stream_migration::{Behaviour, Config, Event, PreferTransport, transport};
use tokio::sync::watch;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const ECHO: StreamProtocol = StreamProtocol::new("/echo/1.0.0");

#[derive(NetworkBehaviour)]
struct Node {
    streams: libp2p_stream::Behaviour,
    relay_client: relay::client::Behaviour,
    migration: Behaviour,
}

/// A node that speaks TCP and QUIC, and prefers QUIC. Its transport is wrapped: that is all.
fn node() -> Result<Swarm<Node>> {
    let config = Config::default().with_layer_always(true);
    let key = Keypair::generate_ed25519();
    let stack = transport::stack_with_policy(&key, config, PreferTransport::default())?;
    let node = Node {
        streams: libp2p_stream::Behaviour::new(),
        relay_client: stack.relay_client,
        migration: stack.migration,
    };
    let (local, config) = (stack.local_peer_id, SwarmConfig::with_tokio_executor());
    Ok(Swarm::new(stack.transport, node, local, config))
}

async fn listen(node: &mut Swarm<Node>, on: &str) -> Result<Multiaddr> {
    node.listen_on(on.parse()?)?;
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = node.select_next_some().await {
            return Ok(address);
        }
    }
}

/// Echoes what comes on a stream, wherever it moves.
async fn serve(mut node: Swarm<Node>) -> Result<()> {
    let mut incoming = node.behaviour().streams.new_control().accept(ECHO)?;
    tokio::spawn(async move { while node.next().await.is_some() {} });
    let (_, stream) = incoming.next().await.ok_or("no stream")?;
    let (from, mut to) = stream.split();
    copy(from, &mut to).await?;
    Ok(to.close().await?)
}

/// Talks until the stream has moved, and a while longer.
async fn talk(
    mut by: libp2p_stream::Control,
    to: PeerId,
    moved: watch::Receiver<bool>,
) -> Result<()> {
    let mut stream = by.open_stream(to, ECHO).await?;
    let (mut heard, mut since) = ([0; 4096], 0);
    while since < 100 {
        stream.write_all(&[7; 4096]).await?;
        stream.flush().await?;
        stream.read_exact(&mut heard).await?;
        since += i32::from(*moved.borrow());
    }
    Ok(stream.close().await?)
}

#[tokio::main]
async fn main() -> Result<()> {
    let (mut here, mut there) = (node()?, node()?);
    let peer = *there.local_peer_id();
    let tcp = listen(&mut there, "/ip4/127.0.0.1/tcp/0").await?;
    let quic = listen(&mut there, "/ip4/127.0.0.1/udp/0/quic-v1").await?;
    tokio::spawn(serve(there));

    let dial = |to| {
        DialOpts::peer_id(peer)
            .condition(PeerCondition::Always)
            .addresses(vec![to])
    };
    here.dial(dial(tcp).build())?;
    let (moved, watched) = watch::channel(false);
    tokio::spawn(talk(here.behaviour().streams.new_control(), peer, watched));
    loop {
        let SwarmEvent::Behaviour(NodeEvent::Migration(event)) = here.select_next_some().await
        else {
            continue;
        };
        match event {
            Event::ConnectionEstablished(it) => println!("{}: over {:?}", it.key, it.transport),
            // There is a stream; when there is a better connection, the policy does the rest.
            Event::StreamNegotiated { .. } => here.dial(dial(quic.clone()).build())?,
            Event::MigrationCompleted {
                to, old_leg_sent, ..
            } => {
                println!("moved to {to} after {old_leg_sent} bytes");
                moved.send_replace(true);
            }
            Event::StreamEnded { sent, .. } => break println!("of {sent} in all"),
            _ => {}
        }
    }
    Ok(())
}
