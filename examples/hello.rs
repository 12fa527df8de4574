//! A stream that was opened over TCP moves to QUIC while it is used.

use std::error::Error;

use futures::{AsyncReadExt, AsyncWriteExt, FutureExt, StreamExt, io::copy};
use libp2p::swarm::{
    StreamProtocol, Swarm, SwarmEvent,
    dial_opts::{DialOpts, PeerCondition},
};
use libp2p::{Multiaddr, PeerId, SwarmBuilder, noise, tcp, yamux};
use libp2p_stream_migration::{Behaviour, Config, Control, Event, PreferTransport};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const ECHO: StreamProtocol = StreamProtocol::new("/echo/1.0.0");

/// A node that speaks TCP and QUIC, and prefers QUIC.
fn node() -> Result<Swarm<Behaviour>> {
    let (tcp, yamux) = (tcp::Config::new(), yamux::Config::default);
    let builder = SwarmBuilder::with_new_identity().with_tokio();
    let builder = builder.with_tcp(tcp, noise::Config::new, yamux)?;
    let builder = builder.with_quic().with_behaviour(|key| {
        let local = key.public().to_peer_id();
        Behaviour::with_policy(local, Config::default(), PreferTransport::default())
    })?;
    Ok(builder.build())
}

async fn listen(node: &mut Swarm<Behaviour>, on: &str) -> Result<Multiaddr> {
    node.listen_on(on.parse()?)?;
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = node.select_next_some().await {
            return Ok(address);
        }
    }
}

/// Echoes what comes on every stream, wherever it moves.
async fn serve(mut node: Swarm<Behaviour>) -> Result<()> {
    let mut incoming = node.behaviour().new_control().accept(ECHO)?;
    tokio::spawn(async move { while node.next().await.is_some() {} });
    while let Some((_, stream)) = incoming.next().await {
        let (from, mut to) = stream.split();
        tokio::spawn(async move { copy(from, &mut to).await.and(to.close().await) });
    }
    Ok(())
}

/// Talks until the stream is elsewhere, and a while longer.
async fn talk(mut control: Control, peer: PeerId) -> Result<()> {
    let mut stream = control.open_stream(peer, ECHO).await?;
    let (begun_on, mut heard, mut since) = (stream.connection(), [0; 4096], 0);
    while since < 100 {
        stream.write_all(&[7; 4096]).await?;
        stream.flush().await?;
        stream.read_exact(&mut heard).await?;
        since += i32::from(stream.connection() != begun_on);
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
        let opts = DialOpts::peer_id(peer).condition(PeerCondition::Always);
        opts.addresses(vec![to])
    };
    here.dial(dial(tcp).build())?;
    let mut talking = Box::pin(talk(here.behaviour().new_control(), peer)).fuse();
    let sent = loop {
        let event = tokio::select! {
            event = here.select_next_some() => event,
            talked = &mut talking => { talked?; continue }
        };
        let SwarmEvent::Behaviour(event) = event else {
            continue;
        };
        match event {
            Event::ConnectionEstablished(it) => println!("{}: over {:?}", it.key, it.transport),
            // There is a stream; when there is a better connection, the policy does the rest.
            Event::StreamNegotiated { .. } => here.dial(dial(quic.clone()).build())?,
            Event::MigrationAgreed { from, to, .. } => println!("moving from {from} to {to}"),
            Event::MigrationCompleted { old_leg_sent, .. } => {
                println!("after {old_leg_sent} bytes")
            }
            Event::StreamEnded { sent, .. } => break sent,
            _ => {}
        }
    };
    println!("of {sent} in all");
    Ok(())
}
