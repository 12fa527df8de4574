//! The two peers of a case, the relays between them, their connections and their stream.

use std::collections::HashMap;

use libp2p::PeerId;
use serde_json::{Value, json};

use crate::{
    case::{Case, Impl, Knows, Scenario, Side, Transport},
    identity,
    process::{Check, Peer, Place, Refusal, text},
};

/// Something that each side has its own name for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names([String; 2]);

impl Names {
    pub fn at(&self, side: Side) -> &str {
        &self.0[side as usize]
    }
}

/// A stream as its two ends know it.
#[derive(Debug, Clone)]
pub struct Stream {
    pub names: Names,
    pub opener: Side,
    pub migratable: bool,
}

impl Stream {
    /// With which seed this side writes.
    pub fn seed(&self, writer: Side) -> u32 {
        if writer == self.opener { 1 } else { 2 }
    }
}

pub struct World<'a> {
    pub case: &'a Case,
    place: &'a Place,
    peers: [Peer; 2],
    ids: [PeerId; 2],
    relays: HashMap<Impl, (Peer, String)>,
    /// Where the listener, or for mixed security the dialer, can be reached.
    addresses: HashMap<(Side, Transport), String>,
}

impl<'a> World<'a> {
    pub async fn start(case: &'a Case, place: &'a Place) -> Check<Self> {
        Self::with(case, place, true).await
    }

    /// The same peers, without what is counted.
    pub async fn without_layer(case: &'a Case, place: &'a Place) -> Check<Self> {
        Self::with(case, place, false).await
    }

    async fn with(case: &'a Case, place: &'a Place, layer: bool) -> Check<Self> {
        let seeds = identity::seeds(case);
        let start = async |side: Side| {
            let mut flags = flags(case, side, layer);
            flags.extend(["--seed".to_owned(), seeds[side as usize].to_string()]);
            Peer::start(case.peer(side), side.name(), &flags, place).await
        };
        let (dialer, listener) = tokio::try_join!(start(Side::Dialer), start(Side::Listener))?;
        let ids = seeds.map(identity::peer_id);
        let peers = [dialer, listener];
        for (peer, id) in peers.iter().zip(ids) {
            if peer.id != id.to_string() {
                return Err(format!("{} is not the peer of its seed, {id}", peer.id));
            }
        }
        Ok(Self {
            case,
            place,
            peers,
            ids,
            relays: HashMap::new(),
            addresses: HashMap::new(),
        })
    }

    pub fn peer(&self, side: Side) -> &Peer {
        &self.peers[side as usize]
    }

    /// The lowest bit of the IDs that this side gives.
    pub fn parity(&self, side: Side) -> u64 {
        identity::parity(self.ids[side as usize], self.ids[side.other() as usize])
    }

    // ---- Connections -------------------------------------------------------------------------------

    /// The connection on which the stream begins, and the one to which it goes.
    pub async fn connect_both(&mut self) -> Check<[Names; 2]> {
        Ok([self.connect_old().await?, self.connect_new().await?])
    }

    /// Has the listener listen for both, before there is any.
    pub async fn listen_both(&mut self) -> Check {
        for transport in [self.case.old, self.case.new] {
            self.address(transport, Side::Listener).await?;
        }
        Ok(())
    }

    pub async fn connect_old(&mut self) -> Check<Names> {
        self.connect(self.case.old, Side::Dialer).await
    }

    pub async fn connect_new(&mut self) -> Check<Names> {
        self.connect(self.case.new, new_dialer(self.case)).await
    }

    async fn connect(&mut self, transport: Transport, by: Side) -> Check<Names> {
        let there = by.other();
        let address = self.address(transport, there).await?;
        let dialed = json!({ "cmd": "dial", "addr": address });
        let dialed = self.peer(by).call(dialed).await?;
        let here = text(&dialed, "conn")?.to_owned();
        let mut names = [String::new(), String::new()];
        for side in Side::BOTH {
            let peer = &self.peer(side.other()).id;
            let what = format!("connected to {peer} by {transport}");
            let event = self.peer(side).event(&what, |event| {
                event["event"] == "connected"
                    && event["peer"] == **peer
                    && (side == there || event["conn"] == *here)
            });
            let event = event.await?;
            let expected = json!([side == by, transport.is_relayed()]);
            if json!([event["dialer"], event["relayed"]]) != expected {
                return Err(format!("[dialer, relayed] is not {expected} in {event}"));
            }
            names[side as usize] = text(&event, "conn")?.to_owned();
        }
        Ok(Names(names))
    }

    /// Where this side can be reached by this transport; it is made to listen if it does not yet.
    async fn address(&mut self, transport: Transport, side: Side) -> Check<String> {
        if let Some(address) = self.addresses.get(&(side, transport)) {
            return Ok(address.clone());
        }
        let wanted = match transport {
            Transport::Relayed(relay) => format!("{}/p2p-circuit", self.relay(relay).await?),
            direct => direct.listen().unwrap_or_default().to_owned(),
        };
        let address = listen(self.peer(side), &wanted).await?;
        self.addresses.insert((side, transport), address.clone());
        Ok(address)
    }

    /// The address of a relay of this implementation, started if need be.
    async fn relay(&mut self, which: Impl) -> Check<String> {
        if let Some((_, address)) = self.relays.get(&which) {
            return Ok(address.clone());
        }
        // Two relays are two peers.
        let seed = which as u64 + 1;
        let mut flags = vec!["--relay".to_owned(), "--seed".to_owned(), seed.to_string()];
        flags.extend(security(self.case, Side::Dialer));
        let relay = Peer::start(which, "relay", &flags, self.place).await?;
        let address = listen(&relay, "/ip4/127.0.0.1/tcp/0").await?;
        self.relays.insert(which, (relay, address.clone()));
        Ok(address)
    }

    /// Has both sides say hello on a connection, and waits until each knows that the other has. The Rust peer does so
    /// by itself, and waits with what it opens.
    pub async fn greet(&self, connection: &Names) -> Check {
        for side in Side::BOTH {
            if self.case.peer(side) == Impl::Rust {
                continue;
            }
            let name = connection.at(side);
            let hello = json!({ "cmd": "hello", "conn": name });
            self.peer(side).call(hello).await?;
            let what = format!("{name} is ready");
            let is = |event: &Value| event["event"] == "link_ready" && event["conn"] == *name;
            self.peer(side).event(&what, is).await?;
        }
        Ok(())
    }

    /// Closes a connection and waits until both have seen it.
    pub async fn close(&self, connection: &Names, by: Side) -> Check {
        let close = json!({ "cmd": "close_connection", "conn": connection.at(by) });
        self.peer(by).call(close).await?;
        for side in Side::BOTH {
            let name = connection.at(side);
            let what = format!("disconnected {name}");
            let is = |event: &Value| event["event"] == "disconnected" && event["conn"] == *name;
            self.peer(side).event(&what, is).await?;
        }
        Ok(())
    }

    // ---- The stream --------------------------------------------------------------------------------

    pub async fn open(&self, connection: &Names) -> Check<Stream> {
        self.open_by(connection, self.case.opener).await
    }

    pub async fn open_by(&self, connection: &Names, opener: Side) -> Check<Stream> {
        let acceptor = opener.other();
        let opened = self.peer(opener).call(json!({
            "cmd": "open",
            "peer": self.peer(acceptor).id,
            "conn": connection.at(opener),
            // A stream of no connection in particular.
            "layer": self.case.scenario == Scenario::Layered,
            "unrouted": true,
        }));
        let accepted = self
            .peer(acceptor)
            .event("the stream is accepted", |event| {
                event["event"] == "accepted"
            });
        let (opened, accepted) = tokio::try_join!(opened, accepted)?;
        if accepted["conn"] != *connection.at(acceptor) {
            return Err(format!("accepted on another connection: {accepted}"));
        }
        if opened["migratable"] != accepted["migratable"] {
            return Err(format!("migratable at one end only: {opened}, {accepted}"));
        }
        let mut names = [text(&opened, "stream")?, text(&accepted, "stream")?].map(str::to_owned);
        if opener == Side::Listener {
            names.reverse();
        }
        Ok(Stream {
            names: Names(names),
            opener,
            migratable: opened["migratable"] == true,
        })
    }

    /// Sends a `migrate`, now.
    pub fn migrate(
        &self,
        stream: &Stream,
        to: &Names,
        by: Side,
    ) -> impl Future<Output = Check<Result<Value, Refusal>>> + use<> {
        self.peer(by).send(json!({
            "cmd": "migrate",
            "stream": stream.names.at(by),
            "conn": to.at(by),
        }))
    }

    /// Waits until both sides tell of a migration that is complete, and checks what they tell.
    pub async fn migrated(&self, stream: &Stream, legs: [&Names; 2], by: Side) -> Check {
        let told = async |side: Side| {
            let name = stream.names.at(side);
            let is = |event: &Value| event["event"] == "migrated" && event["stream"] == *name;
            let event = self.peer(side).event("migrated", is).await?;
            let [from, to] = legs.map(|leg| leg.at(side));
            let expected = json!([from, to, side == by]);
            if json!([event["from"], event["to"], event["initiator"]]) != expected {
                return Err(format!(
                    "{}: [from, to, initiator] is not {expected} in {event}",
                    side.name()
                ));
            }
            Ok(())
        };
        tokio::try_join!(told(Side::Dialer), told(Side::Listener))?;
        Ok(())
    }

    /// The same, where either may have been first; returns who was.
    pub async fn migrated_by_either(&self, stream: &Stream, legs: [&Names; 2]) -> Check<Side> {
        let name = stream.names.at(Side::Dialer);
        let is = |event: &Value| event["event"] == "migrated" && event["stream"] == *name;
        let first = self.peer(Side::Dialer).first_event("migrated", is).await?;
        let by = if first["initiator"] == true {
            Side::Dialer
        } else {
            Side::Listener
        };
        self.migrated(stream, legs, by).await?;
        Ok(by)
    }

    /// Moves the stream, which has to succeed.
    pub async fn moves(&self, stream: &Stream, legs: [&Names; 2], by: Side) -> Check {
        let answer = self.migrate(stream, legs[1], by).await?;
        answer.map_err(|it| format!("the migration failed: {}: {}", it.kind, it.text))?;
        self.migrated(stream, legs, by).await
    }

    /// The stream as this side lists it.
    pub async fn listed(&self, stream: &Stream, side: Side) -> Check<Value> {
        let list = self.peer(side).call(json!({ "cmd": "streams" })).await?;
        let mut all = list["streams"].as_array().into_iter().flatten();
        let found = all.find(|it| it["stream"] == *stream.names.at(side));
        found
            .cloned()
            .ok_or_else(|| format!("{} does not list the stream: {list}", side.name()))
    }

    /// Both list the stream on this connection, with one ID, which `allocator` has given.
    pub async fn lists(&self, stream: &Stream, on: &Names, allocator: Side) -> Check {
        let mut ids = Vec::new();
        for side in Side::BOTH {
            let listed = self.listed(stream, side).await?;
            let expected = json!([on.at(side), side == stream.opener]);
            if json!([listed["conn"], listed["opener"]]) != expected {
                return Err(format!("[conn, opener] is not {expected} in {listed}"));
            }
            let id = &listed["id"];
            let id = id.as_u64().or_else(|| id.as_str()?.parse().ok());
            ids.push(id.ok_or_else(|| format!("no ID in {listed}"))?);
        }
        if ids[0] != ids[1] || ids[0] & 1 != self.parity(allocator) {
            let allocator = allocator.name();
            return Err(format!("IDs {ids:?} are not one that the {allocator} gave"));
        }
        Ok(())
    }

    /// Nothing failed that should not have; the peers quit in order.
    pub async fn finish(self, failures: bool) -> Check {
        for side in Side::BOTH {
            let failed = |event: &Value| event["event"] == "migration_failed";
            let failed = self.peer(side).events(failed);
            if !failures && !failed.is_empty() {
                return Err(format!("{}: {failed:?}", side.name()));
            }
        }
        for peer in self.peers {
            peer.quit().await?;
        }
        for (relay, _) in self.relays.into_values() {
            relay.quit().await?;
        }
        Ok(())
    }
}

async fn listen(peer: &Peer, wanted: &str) -> Check<String> {
    let listening = json!({ "cmd": "listen", "addr": wanted });
    let listening = peer.call(listening).await?;
    let addresses = listening["addrs"].as_array().into_iter().flatten();
    // Some tell all that they listen on.
    let prefix = wanted.split("/tcp/0").next().unwrap_or(wanted);
    let protocol = wanted.rsplit('/').next().unwrap_or_default();
    let fits = |address: &&str| {
        let segments: Vec<_> = address.split('/').collect();
        address.starts_with(prefix.split("/udp/0").next().unwrap_or(prefix))
            && (protocol == "0" || segments.contains(&protocol))
            && (wanted.contains("/ws") == segments.contains(&"ws"))
    };
    let mut addresses = addresses.filter_map(Value::as_str);
    let address = addresses.find(fits);
    let address = address.ok_or_else(|| format!("no address for {wanted} in {listening}"))?;
    Ok(address.to_owned())
}

/// Who dials the new connection. A peer dials with one security, so where old and new differ in it
/// each side dials one.
fn new_dialer(case: &Case) -> Side {
    match (case.old.security(), case.new.security()) {
        (Some(old), Some(new)) if old != new => Side::Listener,
        _ => Side::Dialer,
    }
}

/// With which security this side dials.
fn security(case: &Case, side: Side) -> Vec<String> {
    let (old, new) = (case.old.security(), case.new.security());
    let security = if new_dialer(case) == side {
        new.or(old)
    } else {
        old.or(new)
    };
    let flags = security.map(|security| ["--security", security]);
    flags.into_iter().flatten().map(str::to_owned).collect()
}

fn flags(case: &Case, side: Side, layer: bool) -> Vec<String> {
    let initiates = side == case.mover;
    let flags: &[&str] = match case.scenario {
        Scenario::Fallback(plain) if plain == side => &["--no-migration"],
        Scenario::Unverified(at) if at.is_none_or(|at| at == side) => &["--no-verify"],
        Scenario::BareAccept | Scenario::BareDeny if !initiates => &["--ack", "bare"],
        Scenario::Nested if initiates => &["--nested"],
        Scenario::Layered => &["--layer"],
        Scenario::LayeredBeside(layered, _) if layered == side => &["--layer"],
        Scenario::LayeredBeside(_, Knows::Nothing) => &["--no-migration"],
        Scenario::LayeredCount if case.peer(side) != Impl::Rust => &["--no-migration"],
        Scenario::LayeredCount if layer => &["--layer", "--as-needed"],
        _ => &[],
    };
    let mut all = security(case, side);
    all.extend(flags.iter().map(|flag| (*flag).to_owned()));
    all
}
