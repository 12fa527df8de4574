//! The behaviours of the two that talk, as they come with rust-libp2p. Nothing of this is there for
//! the layer's sake, but for the field that tells what moves.

use std::{error::Error, time::Duration};

use libp2p::{
    PeerId, StreamProtocol, dcutr, gossipsub, identify,
    identity::Keypair,
    kad::{self, store::RecordStore},
    ping, relay,
    request_response::{self, ProtocolSupport},
    swarm::{NetworkBehaviour, behaviour::toggle::Toggle},
};
use libp2p_stream_migration as stream_migration;

use crate::{
    args::{Args, By},
    bulk::Codec,
    course::Course,
    payload::Source,
    tally::{Book, Protocol},
};

#[derive(NetworkBehaviour)]
pub struct Behaviour {
    pub relay: relay::client::Behaviour,
    pub dcutr: Toggle<dcutr::Behaviour>,
    pub identify: identify::Behaviour,
    pub ping: ping::Behaviour,
    pub gossipsub: gossipsub::Behaviour,
    pub response: request_response::Behaviour<Codec>,
    pub requests: request_response::cbor::Behaviour<Vec<u8>, Vec<u8>>,
    pub kad: kad::Behaviour<kad::store::MemoryStore>,
    pub stream: libp2p_stream::Behaviour,
    /// The layer's own.
    pub migration: Toggle<stream_migration::Behaviour>,
}

const RESPONSE: StreamProtocol = StreamProtocol::new("/unmodified/response/1.0.0");
const REQUESTS: StreamProtocol = StreamProtocol::new("/unmodified/requests/1.0.0");
const KAD: StreamProtocol = StreamProtocol::new("/unmodified/kad/1.0.0");

/// Often enough for a short run to show how the move is for these.
const PING: Duration = Duration::from_millis(100);
const IDENTIFY: Duration = Duration::from_millis(500);
/// The response is meant to take long.
const RESPONDING: Duration = Duration::from_secs(60);
/// So many records are there to ask for.
pub const RECORDS: u64 = 256;

pub fn topic() -> gossipsub::IdentTopic {
    gossipsub::IdentTopic::new("unmodified")
}

impl Behaviour {
    pub fn new(
        keypair: &Keypair,
        args: &Args,
        (book, course): (&Book, &Course),
        relay: relay::client::Behaviour,
        migration: Option<stream_migration::Behaviour>,
    ) -> Result<Self, Box<dyn Error>> {
        let id = keypair.public().to_peer_id();
        let identify = identify::Config::new("/unmodified/1.0.0".to_owned(), keypair.public());
        let codec = Codec {
            seed: args.seed,
            book: book.clone(),
            course: course.clone(),
        };
        let full = ProtocolSupport::Full;
        let config = request_response::Config::default();
        let responding = config.clone().with_request_timeout(RESPONDING);
        Ok(Self {
            relay,
            dcutr: (args.by() == By::Dcutr)
                .then(|| dcutr::Behaviour::new(id))
                .into(),
            identify: identify::Behaviour::new(identify.with_interval(IDENTIFY)),
            ping: ping::Behaviour::new(ping::Config::new().with_interval(PING)),
            gossipsub: gossip(keypair)?,
            response: request_response::Behaviour::with_codec(
                codec,
                [(RESPONSE, full.clone())],
                responding,
            ),
            requests: request_response::cbor::Behaviour::new([(REQUESTS, full)], config),
            kad: records(id, Source::new(args.seed, Protocol::Kad, book.side))?,
            stream: libp2p_stream::Behaviour::new(),
            migration: migration.into(),
        })
    }
}

fn gossip(keypair: &Keypair) -> Result<gossipsub::Behaviour, Box<dyn Error>> {
    let signed = gossipsub::MessageAuthenticity::Signed(keypair.clone());
    let mut gossip = gossipsub::Behaviour::new(signed, gossipsub::Config::default())?;
    gossip.subscribe(&topic())?;
    Ok(gossip)
}

/// A node that has records for the other to find.
fn records(
    id: PeerId,
    source: Source,
) -> Result<kad::Behaviour<kad::store::MemoryStore>, Box<dyn Error>> {
    let mut config = kad::Config::new(KAD);
    // What is found is not to be kept, or it would be asked for but once.
    config.set_caching(kad::Caching::Disabled);
    let store = kad::store::MemoryStore::new(id);
    let mut kad = kad::Behaviour::with_config(id, store, config);
    kad.set_mode(Some(kad::Mode::Server));
    for number in 0..RECORDS {
        let record = kad::Record::new(key(source, number), source.message(number));
        kad.store_mut().put(record)?;
    }
    Ok(kad)
}

/// The key of the record with this number.
pub fn key(source: Source, number: u64) -> kad::RecordKey {
    kad::RecordKey::from(source.message(number)[..16].to_vec())
}
