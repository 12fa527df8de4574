//! Settings.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use libp2p_core::ConnectedPoint;
use libp2p_identity::PeerId;
use libp2p_swarm::StreamProtocol;

use crate::{ConnectionInfo, ConnectionKey, Initiate, LegKind, Mobility, hub::Settings, protocol};

/// The protocol's name: `/libp2p/stream-migration` (*Stream Migration Protocol ID*).
pub const PROTOCOL_NAME: StreamProtocol = StreamProtocol::new(protocol::PROTOCOL_NAME);

/// The name of the protocol on control substreams.
pub(crate) const CONTROL_NAME: StreamProtocol = StreamProtocol::new(protocol::CONTROL_NAME);

/// Protocols that are about the link on which they are spoken.
const LINK_PROTOCOLS: &[StreamProtocol] = &[
    StreamProtocol::new("/libp2p/dcutr"),
    StreamProtocol::new("/libp2p/circuit/relay/0.2.0/hop"),
    StreamProtocol::new("/libp2p/circuit/relay/0.2.0/stop"),
];

/// Settings of a [`Behaviour`](crate::Behaviour).
///
/// Each setter documents its default, unit, and what it bounds.
#[derive(Debug, Clone)]
pub struct Config {
    pub(crate) hub: Settings,
    pub(crate) protocol_name: StreamProtocol,
    pub(crate) negotiation_timeout: Duration,
    pub(crate) max_inbound_requests: usize,
    pub(crate) max_pending_opens: usize,
    pub(crate) accept_backlog: usize,
    pub(crate) accept_timeout: Duration,
    pub(crate) muxer_limit: usize,
    pub(crate) open_head_start: Duration,
    pub(crate) wait_for_direct: Duration,
    mobility: HashMap<StreamProtocol, Mobility>,
    leg_kind: Option<LegKinds>,
    pub(crate) link_protocols: Vec<StreamProtocol>,
    pub(crate) layer_always: bool,
    pub(crate) restless_layer: Option<Duration>,
}

/// The application's word on the connections that it knows better.
#[derive(Clone)]
struct LegKinds(Arc<LegKindOf>);

type LegKindOf = dyn Fn(&ConnectedPoint, LegKind) -> LegKind + Send + Sync;

impl fmt::Debug for LegKinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LegKinds")
    }
}

impl Config {
    /// The [`Mobility`] of streams of this protocol, until
    /// [`Control::set_mobility`](crate::Control::set_mobility) says otherwise of one of them.
    /// Default: [`Mobility::Free`]. On the accepting side it holds from when the protocol is
    /// agreed.
    #[must_use]
    pub fn with_mobility(mut self, protocol: StreamProtocol, mobility: Mobility) -> Self {
        self.mobility.insert(protocol, mobility);
        self
    }

    /// The number from which the IDs of our streams and legs are counted; each is twice its number, plus one
    /// if our peer ID is the higher. Default: a random one below 2^40, so that a process that was restarted
    /// with its key does not use the IDs of its former life again, which its peers may still hold. Counting
    /// wraps at 2^62. For tests that must be repeatable, and 0 for the proof of concept in Go, which breaks
    /// above 16,383.
    #[must_use]
    pub fn with_first_id(mut self, first_id: u64) -> Self {
        self.hub.first_id = Some(first_id);
        self
    }

    /// The kind of leg that a connection has, for transports and muxers that are not libp2p's own:
    /// asked once for each connection, with what its address tells, which is also the default.
    /// Called from the behaviour's `poll`, so it must not block; nothing is kept of it but the
    /// answer.
    ///
    /// It decides how an end is proven. [`LegKind::Unknown`] is right for whatever has not been measured;
    /// a kind that does not fit costs healthy streams, or bytes. See `docs/legs.md`.
    ///
    /// ```
    /// use libp2p_core::multiaddr::Protocol;
    /// use libp2p_stream_migration::{Config, LegKind};
    ///
    /// // A transport of our own, with yamux on top.
    /// let config = Config::default().with_leg_kind(|endpoint, told| {
    ///     let mut parts = endpoint.get_remote_address().iter();
    ///     match parts.any(|part| matches!(part, Protocol::Unix(_))) {
    ///         true => LegKind::Yamux,
    ///         false => told,
    ///     }
    /// });
    /// # drop(config);
    /// ```
    #[must_use]
    pub fn with_leg_kind(
        mut self,
        kind: impl Fn(&ConnectedPoint, LegKind) -> LegKind + Send + Sync + 'static,
    ) -> Self {
        self.leg_kind = Some(LegKinds(Arc::new(kind)));
        self
    }
}

impl Config {
    /// A protocol whose streams stay on the connection on which they are opened, below the swarm
    /// ([`transport`](crate::transport)): because it is about that connection, as DCUtR's and the relay's are,
    /// which need not be named; or to spare it what moving costs.
    #[must_use]
    pub fn with_link_protocol(mut self, protocol: StreamProtocol) -> Self {
        self.link_protocols.push(protocol);
        self
    }

    /// Lets streams outlive their connections (*Resume*), an extension on top of
    /// [`with_facts`](Self::with_facts), which it turns on, too. Default: `false`, while it is new.
    ///
    /// Between two peers that have it, what is written is kept until the remote says that it has it. A stream whose
    /// connection is lost goes on with another to the same peer, or waits while one is dialed
    /// ([`with_resume_timeout`](Self::with_resume_timeout)): the application notices a pause. What is closed on purpose
    /// stays closed. It costs one copy of each byte written, and what
    /// [`with_max_replay`](Self::with_max_replay) bounds.
    #[must_use]
    pub fn with_resume(mut self, resume: bool) -> Self {
        self.hub.resume = resume;
        self.hub.facts |= resume;
        self
    }

    /// A connection as its endpoint shows it.
    pub(crate) fn look_at(
        &self,
        key: ConnectionKey,
        peer: PeerId,
        endpoint: &ConnectedPoint,
    ) -> ConnectionInfo {
        let mut info = ConnectionInfo::new(key, peer, endpoint);
        if let Some(LegKinds(said)) = &self.leg_kind {
            info.leg_kind = said(endpoint, info.leg_kind);
        }
        info
    }

    /// The mobility of a protocol's streams.
    pub(crate) fn mobility_of(&self, protocol: &StreamProtocol) -> Mobility {
        self.mobility.get(protocol).copied().unwrap_or_default()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hub: Settings::default(),
            protocol_name: PROTOCOL_NAME,
            negotiation_timeout: Duration::from_secs(10),
            max_inbound_requests: 128,
            max_pending_opens: 256,
            accept_backlog: 256,
            accept_timeout: Duration::from_secs(30),
            muxer_limit: 448,
            open_head_start: Duration::from_secs(1),
            wait_for_direct: Duration::from_secs(10),
            mobility: HashMap::new(),
            leg_kind: None,
            link_protocols: LINK_PROTOCOLS.to_vec(),
            layer_always: false,
            restless_layer: None,
        }
    }
}

macro_rules! setters {
    ($($(#[$doc:meta])* $setter:ident: $([$hub:ident])? $field:ident: $type:ty;)*) => {
        impl Config {
            $(
                $(#[$doc])*
                #[must_use]
                pub fn $setter(mut self, $field: $type) -> Self {
                    self$(.$hub)?.$field = $field;
                    self
                }
            )*
        }
    };
}

setters! {
    /// The prefix protocol's name on the wire. Default: [`PROTOCOL_NAME`]. Both peers need the same.
    with_protocol_name: protocol_name: StreamProtocol;

    /// Offers the verified switch, an extension that peers without it ignore. Default: `true`.
    ///
    /// With it, no end of an old leg is trusted without the remote's count of bytes, so that an old leg
    /// that was cut cannot pass for one that was switched. It costs about 5 bytes on each new leg.
    with_verify: [hub] verify: bool;

    /// Says, and believes, facts about streams beside their legs (*Facts*), an extension that peers without it
    /// refuse once per connection. Default: `false`, while it is new. Between two peers that have it, an end is clean
    /// only if the writer has said so and everything was read; a stream that is aborted is aborted for both, on every
    /// muxer; a stream that was closed and dropped is delivered, or known not to be. It needs
    /// [`with_verify`](Self::with_verify), and is off below the swarm.
    /// Turned off, it turns [`with_resume`](Self::with_resume) off, which needs it.
    with_facts: [hub] facts: bool;

    /// The time that a stream waits for another connection when it has lost its own. Default: 30 s. Then it ends in
    /// an error. Bounds the time for which what it keeps is held.
    with_resume_timeout: [hub] resume_timeout: Duration;

    /// The longest time between two dials of a peer to which streams wait for a connection. Default: 2 s. The first
    /// comes at once, the second after 250 ms.
    with_redial_max: [hub] redial_max: Duration;

    /// The time without a sign of life after which a connection is asked for one because somebody reads there. Default:
    /// 15 s; 5 s if something came within the last minute. Who has written what has not arrived, asks after a round
    /// trip, 250 ms at least. `None`: readers do not ask, and may wait for as long as their transport does not notice
    /// that a path is silent.
    with_reader_probe: [hub] reader_probe: Option<Duration>;

    /// Limits the bytes of one stream that are kept until they have arrived. Default: 8 MiB; from 256 KiB on, it is
    /// doubled when the writer meets it while acknowledgements come. At the limit the writer waits for 1 s, then
    /// the oldest make room, and until they have arrived the stream does not outlive its connection.
    with_max_replay_per_stream: [hub] max_replay_per_stream: usize;

    /// Limits the bytes of all streams together that are kept until they have arrived. Default: 64 MiB. At the limit
    /// a stream that writes keeps nothing.
    with_max_replay: [hub] max_replay: usize;

    /// The moment at which the policy starts migrations. Default: [`Initiate::Designated`] with 5 s
    /// of patience.
    with_initiate: [hub] initiate: Initiate;

    /// Bounds the opening of a new leg, and the wait for the answer to the `Migrate` on it.
    /// Default: 10 s. When it has passed, the stream goes on where it is, and the policy tries
    /// again later.
    with_answer_timeout: [hub] answer_timeout: Duration;

    /// Bounds the time in which an agreed migration makes no progress, or a stream that was closed
    /// and dropped does not end, before the connection that it waits for is probed by opening a
    /// substream; and the wait for the answer. Default: 30 s. A connection that does not answer is
    /// given up, though its transport has not noticed; so a migration onto or off a path that has
    /// gone silent ends, one way or the other, within about twice this. A remote that is only slow
    /// answers, and is waited for.
    with_progress_timeout: [hub] progress_timeout: Duration;

    /// Bounds the opening of a stream once its substream is open, the time in which a remote labels
    /// one, and the wait of an open that finds somebody else dialing its peer. Default: 10 s.
    /// Bounds the time for which a remote can occupy a place of
    /// [`with_max_inbound_requests`](Self::with_max_inbound_requests).
    with_negotiation_timeout: negotiation_timeout: Duration;

    /// The time that what has ended on a connection is given to arrive, when nothing tells that it
    /// has. Default: 30 s. A connection off which the remote has moved a stream is kept from being
    /// idle for so long, since our last bytes may still be on their way on the old leg; that costs
    /// one substream, the last old leg, for each such connection. So is one on which a stream was
    /// closed and dropped here, until the remote has ended it too; what still comes on it is thrown
    /// away. And one on which any stream has ended, of this crate's or another behaviour's, is not
    /// closed by us before (*Pruning*). Should exceed the time in which a slow path carries what
    /// the buffers of sockets, relays and muxers hold.
    with_old_leg_linger: [hub] old_leg_linger: Duration;

    /// The time between our migrations' having emptied a relayed connection and its being closed.
    /// Default: 1 s. `None` never closes one. Only the initiator closes, only if it initiated every
    /// migration off the connection, and only after it has heard from the remote on each new leg,
    /// since closing discards what is in flight (*Pruning*); only if it is not the last to the
    /// peer; and only [so long](Self::with_old_leg_linger) after anything else has ended there, a
    /// negotiation included. Direct connections are left to the swarm's idle timeout.
    with_prune_grace: [hub] prune_grace: Option<Duration>;

    /// Limits the bytes of one stream that are read ahead of an application that does not read, so
    /// that a migration can complete. Default: 1 MiB. Past it, the migration waits for the reader
    /// and loses nothing.
    with_read_ahead_per_stream: [hub] read_ahead_per_stream: usize;

    /// Limits the bytes read ahead of all streams of one peer together. Default: 64 MiB. Bounds the
    /// memory that one peer can make us use.
    with_read_ahead_per_peer: [hub] read_ahead_per_peer: usize;

    /// Limits the labelled streams of one peer. Default: 16,384. What a remote labels beyond that
    /// is refused; opening one more is an error. A stream costs about 1 KiB, its substream aside.
    with_max_streams_per_peer: [hub] max_streams_per_peer: usize;

    /// Limits the unanswered `Migrate`s of one peer: those that wait because the label of their
    /// stream has not arrived, because another migration of their stream has to end first, or
    /// because a denial has not left yet. Default: 256. What does not fit is dropped unanswered,
    /// which means "try again later". Each holds a substream. None waits for a label longer than
    /// the [answer timeout](Self::with_answer_timeout).
    with_max_unanswered_per_peer: [hub] max_unanswered_per_peer: usize;

    /// Limits the unanswered `Migrate`s on one connection. Default: 128.
    with_max_unanswered_per_connection: [hub] max_unanswered_per_connection: usize;

    /// Limits the IDs of ended streams that are remembered for one peer, so that a `Migrate` that
    /// was on its way is answered, or dropped, at once and does not wait for a label
    /// (*Overtaking*). Default: 1024. The oldest are forgotten first. One costs 32 bytes.
    with_max_ended_ids_per_peer: [hub] max_ended_ids_per_peer: usize;

    /// The time for which the IDs of ended streams are remembered. Default: 60 s.
    with_ended_id_memory: [hub] ended_id_memory: Duration;

    /// Limits the remote's `Migrate`s for one stream: so many a second, and as many at once. The
    /// default is 10. What comes beyond that is dropped unanswered, which means "try again later".
    /// Bounds the work that a remote makes which moves its stream to and fro. Our own migrations
    /// are not limited.
    with_max_migration_rate: [hub] max_migration_rate: u32;

    /// Limits our unanswered migrations to one peer. Default: 64. More wait for their turn, whoever
    /// asked for them. One that is agreed does not count: it may take as long as its reader. A
    /// remote need not take more substreams at once than
    /// [`with_max_inbound_requests`](Self::with_max_inbound_requests), and a swarm negotiates no
    /// more than 128 inbound ones by default.
    with_max_migrations_per_peer: [hub] max_migrations_per_peer: usize;

    /// Limits the migratable streams that are put on one connection, by opening and by migrations;
    /// those that are on it count, whoever opened them, and so do those that are being opened.
    /// Default: 192. New streams and migrations go to the next best connection that has room, or
    /// wait until there is some. A yamux connection with more than 512 streams (its default) ends
    /// with all of them; a QUIC connection keeps the 257th waiting (its default); and other
    /// protocols need some, too. Raise both together.
    with_max_streams_per_connection: [hub] max_streams_per_connection: usize;

    /// Limits the migratable streams on one connection even if the application names it
    /// ([`Control::open_stream_on`](crate::Control::open_stream_on)). Default: 448, which leaves
    /// some of a yamux connection's 512 (its default) for other protocols. What is opened beyond it
    /// waits for room. Below the swarm ([`transport`](crate::transport)) it limits all substreams of a link, of either
    /// side; a muxer has to carry 256 more, as both may open before either has heard of the other's.
    with_muxer_limit: muxer_limit: usize;

    /// Limits the inbound substreams of one connection that are without their first message.
    /// Default: 128. What a remote opens beyond that is refused.
    with_max_inbound_requests: max_inbound_requests: usize;

    /// Limits the streams that wait for one peer to be dialed, or for one connection to open
    /// substreams. Default: 256. Opening one more is an error.
    with_max_pending_opens: max_pending_opens: usize;

    /// Limits the inbound streams of one protocol that wait for the application to accept them. The
    /// default is 256. What comes beyond that is refused.
    with_accept_backlog: accept_backlog: usize;

    /// Bounds an inbound stream's wait for the application to accept it. Default: 30 s. Then it is
    /// refused: dropped, and told of by [`Event::Refused`](crate::Event::Refused).
    with_accept_timeout: accept_timeout: Duration;

    /// The head start of an attempt to open a stream on the best connection, before the next best
    /// one has a go, too. Default: 1 s. A connection may be dead without anybody knowing. The first
    /// to answer serves, and the other is given up: who accepts there may see a stream begin and
    /// fail at once. Zero tries all at once, `Duration::MAX` waits for the attempt to fail.
    with_open_head_start: open_head_start: Duration;

    /// The time for which a connection may leave a probe unanswered before it is suspected: streams
    /// leave it, and new ones go elsewhere, if the peer has another connection. Default: 3 s. Not
    /// more than [`with_progress_timeout`](Self::with_progress_timeout). A slow connection that is
    /// suspected falsely loses its streams to others, and no bytes; what has left it stays away for
    /// 10 s after it has answered, twice as long each time. Connections are probed when an open, a
    /// migration or the end of an old leg is waited for, when another connection to the same peer
    /// comes, and every [`with_probe_interval`](Self::with_probe_interval).
    with_suspect_after: [hub] suspect_after: Duration;

    /// The age of a connection before streams are moved onto it from one that is as good
    /// ([`MergeDuplicates`](crate::MergeDuplicates)). Default: 1.2 s. Probes of reachability and
    /// applications with a rule of their own close duplicates soon, with all that is on them.
    with_proving_time: [hub] proving_time: Duration;

    /// The interval at which a connection is probed that carries streams, brings nothing, and is
    /// not the only one to its peer. Default: 15 s. A probe is a substream that is opened and
    /// dropped. `None`: never.
    with_probe_interval: [hub] probe_interval: Option<Duration>;

    /// Bounds the wait of a new stream whose protocol is [`Mobility::NeverRelayed`] for a direct
    /// connection when its peer is connected by relays only. Default: 10 s. Then, and at once if
    /// this is zero, opening fails with
    /// [`OpenStreamError::NotAllowed`](crate::OpenStreamError::NotAllowed).
    with_wait_for_direct: wait_for_direct: Duration;

    /// Makes streams on direct connections movable, too, below the swarm ([`transport`](crate::transport)):
    /// from one duplicate to the other, from Wi-Fi to cellular. Default: `false`; then those that begin on a
    /// relayed connection move, and those that begin beside another direct one to a peer that has been met
    /// over a relay. It costs one refused proposal on each connection to a peer without a layer, whose first
    /// streams wait for that, and about 1 KiB for each stream.
    with_layer_always: layer_always: bool;

    /// Moves every stream below the swarm at this interval, for the sake of it: for tests.
    #[doc(hidden)]
    with_restless_layer: restless_layer: Option<Duration>;
}
