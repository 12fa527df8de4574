//! The shipped policies on made-up views, alone and in all their chains.

use std::{
    cmp::Ordering::{self, Equal, Greater, Less},
    time::Duration,
};

use crate::key::ConnectionKey;
use libp2p_core::Multiaddr;
use libp2p_identity::PeerId;
use proptest::{
    collection::vec,
    prelude::*,
    sample::select,
    test_runner::{RngAlgorithm, TestRng, TestRunner},
};
use web_time::Instant;

use super::*;
use crate::{
    protocol::roles::is_designated,
    stream::LegKind,
    view::{Mobility, Streams, Transport},
};

// ---- Made-up views ---------------------------------------------------------------------------------

struct NoStreams;

impl Streams for NoStreams {
    fn one(&self, _: StreamKey) -> Option<StreamInfo> {
        None
    }

    fn of_peer(&self, _: PeerId) -> Vec<StreamInfo> {
        Vec::new()
    }
}

/// Two peers, the designated one first.
fn peers() -> (PeerId, PeerId) {
    let (a, b) = (PeerId::random(), PeerId::random());
    if is_designated(&a, &b) {
        (a, b)
    } else {
        (b, a)
    }
}

fn id(number: usize) -> ConnectionKey {
    ConnectionKey::new(number as u64)
}

/// A direct TCP connection that we dialed.
fn connection(number: usize) -> ConnectionInfo {
    ConnectionInfo {
        key: id(number),
        peer: PeerId::random(),
        address: Multiaddr::empty(),
        relayed: false,
        transport: Transport::Tcp,
        leg_kind: LegKind::Yamux,
        dialer: true,
        established: Instant::now(),
        streams: 0,
        opening: 0,
        capacity: 192,
        draining: false,
        closing: false,
        suspected: false,
        proven: true,
        new_port: false,
        homes: Vec::new(),
    }
}

fn over(number: usize, transport: Transport) -> ConnectionInfo {
    ConnectionInfo {
        transport,
        ..connection(number)
    }
}

fn relayed(number: usize) -> ConnectionInfo {
    ConnectionInfo {
        relayed: true,
        ..connection(number)
    }
}

fn draining(number: usize) -> ConnectionInfo {
    ConnectionInfo {
        draining: true,
        ..connection(number)
    }
}

fn stream_on(connection: ConnectionKey) -> StreamInfo {
    StreamInfo::new(StreamKey(1), PeerId::random(), connection)
}

fn view<'a>((local, peer): (PeerId, PeerId), connections: &'a [ConnectionInfo]) -> PeerView<'a> {
    PeerView {
        designated: None,
        local,
        peer,
        connections,
        streams: &NoStreams,
    }
}

/// How `policy` orders the two, asked both ways round and by either peer; it must not matter.
fn compared(policy: &impl Policy, a: &ConnectionInfo, b: &ConnectionInfo) -> Ordering {
    let (designated, other) = peers();
    let both = [a.clone(), b.clone()];
    let ask = |pair| {
        let view = view(pair, &both);
        let order = policy.compare(a, b, &view);
        assert_eq!(order.reverse(), policy.compare(b, a, &view));
        order
    };
    let order = ask((designated, other));
    assert_eq!(order, ask((other, designated)));
    order
}

fn placed(policy: &mut dyn Policy, stream: &StreamInfo, all: &[ConnectionInfo]) -> Placement {
    place(policy, stream, &view(peers(), all))
}

// ---- Each policy -----------------------------------------------------------------------------------

#[test]
fn direct_is_better_than_relayed_over_whatever_transport() {
    let quic = over(1, Transport::Quic);
    assert_eq!(compared(&PreferDirect, &connection(1), &relayed(2)), Less);
    assert_eq!(compared(&PreferDirect, &relayed(1), &quic), Greater);
    assert_eq!(compared(&PreferDirect, &connection(1), &quic), Equal);
    assert_eq!(compared(&PreferDirect, &relayed(1), &relayed(2)), Equal);
}

#[test]
fn transports_come_in_the_given_order() {
    let order = [Transport::WebSocket, Transport::Tcp];
    let policy = PreferTransport::new(order);
    let [ws, tcp, quic, memory] = [
        Transport::WebSocket,
        Transport::Tcp,
        Transport::Quic,
        Transport::Memory,
    ]
    .map(|transport| over(1, transport));
    assert_eq!(compared(&policy, &ws, &tcp), Less);
    assert_eq!(compared(&policy, &tcp, &quic), Less);
    assert_eq!(compared(&policy, &ws, &memory), Less);
    // Not in the order: last, and equal.
    assert_eq!(compared(&policy, &quic, &memory), Equal);
    assert_eq!(compared(&policy, &tcp, &tcp), Equal);
    // The first mention counts.
    let policy = PreferTransport::new([Transport::Tcp, Transport::Quic, Transport::Tcp]);
    assert_eq!(compared(&policy, &tcp, &quic), Less);
    // Nothing is better than anything else in no order.
    assert_eq!(compared(&PreferTransport::new([]), &ws, &tcp), Equal);
}

#[test]
fn the_default_order_of_transports() {
    let policy = PreferTransport::default();
    let order = [
        Transport::Quic,
        Transport::Tcp,
        Transport::WebSocket,
        Transport::Memory,
    ];
    for (at, better) in order.into_iter().enumerate() {
        for worse in order.into_iter().skip(at + 1) {
            assert_eq!(compared(&policy, &over(1, better), &over(2, worse)), Less);
        }
    }
}

#[test]
fn transport_says_nothing_of_what_is_relayed_or_not_known() {
    let relayed_over = |transport| ConnectionInfo {
        relayed: true,
        ..over(1, transport)
    };
    let policy = PreferTransport::default();
    let quic = relayed_over(Transport::Quic);
    assert_eq!(compared(&policy, &quic, &connection(2)), Equal);
    // What carries the hop to the relay is another matter at the other peer.
    let tcp = relayed_over(Transport::Tcp);
    assert_eq!(compared(&policy, &quic, &tcp), Equal);
    let unknown = over(1, Transport::Unknown);
    for other in [Transport::Quic, Transport::Memory, Transport::Unknown] {
        assert_eq!(compared(&policy, &unknown, &over(2, other)), Equal);
        assert_eq!(compared(&MergeDuplicates, &unknown, &over(2, other)), Equal);
    }
}

#[test]
fn anything_is_better_than_what_is_drained() {
    assert_eq!(compared(&Drain, &connection(1), &draining(2)), Less);
    assert_eq!(compared(&Drain, &connection(1), &connection(2)), Equal);
    assert_eq!(compared(&Drain, &draining(1), &draining(2)), Equal);
    assert_eq!(compared(&Drain, &relayed(1), &draining(2)), Less);
}

#[test]
fn those_without_a_policy_of_their_own_move_nothing() {
    let all = [relayed(1), connection(2), over(3, Transport::Quic)];
    let stream = stream_on(id(1));
    let view = view(peers(), &all);
    for (policy, verdict) in [
        (&mut Stay as &mut dyn Policy, Verdict::Accept),
        (&mut Outside, Verdict::Ask),
    ] {
        assert_eq!(place(policy, &stream, &view), Placement::Here);
        assert_eq!(policy.verdict(&stream, &all[1], &view), verdict);
        assert_eq!(policy.changed(&Change::Called, &view), []);
    }
}

// ---- Duplicates ------------------------------------------------------------------------------------

/// One connection as its two ends see it: opposite dialers, and each with its own time and ID.
fn two_ends(designated_dialed: bool, here: usize, there: usize) -> [ConnectionInfo; 2] {
    let start = Instant::now();
    let end = |number: usize, dialer| ConnectionInfo {
        established: start + Duration::from_secs(number as u64),
        dialer,
        ..connection(number)
    };
    [end(here, designated_dialed), end(there, !designated_dialed)]
}

#[test]
fn both_peers_keep_the_one_that_the_designated_peer_dialed() {
    let (designated, other) = peers();
    for there in [[1, 2], [2, 1]] {
        for here in [[1, 2], [2, 1]] {
            let good = two_ends(true, here[0], there[0]);
            let bad = two_ends(false, here[1], there[1]);
            for (side, pair) in [(designated, other), (other, designated)]
                .into_iter()
                .enumerate()
            {
                let view = view(pair, &[]);
                assert_eq!(
                    MergeDuplicates.compare(&good[side], &bad[side], &view),
                    Less
                );
                let order = MergeDuplicates.compare(&bad[side], &good[side], &view);
                assert_eq!(order, Greater);
            }
        }
    }
}

#[test]
fn among_those_of_one_dialer_only_the_designated_peer_chooses() {
    let (designated, other) = peers();
    for designated_dialed in [true, false] {
        // Established in another order at the other end.
        let old = two_ends(designated_dialed, 1, 2);
        let new = two_ends(designated_dialed, 2, 1);
        let here = view((designated, other), &[]);
        assert_eq!(MergeDuplicates.compare(&old[0], &new[0], &here), Less);
        assert_eq!(MergeDuplicates.compare(&new[0], &old[0], &here), Greater);
        assert_eq!(MergeDuplicates.compare(&old[0], &old[0], &here), Equal);
        let there = view((other, designated), &[]);
        assert_eq!(MergeDuplicates.compare(&old[1], &new[1], &there), Equal);
        assert_eq!(MergeDuplicates.compare(&new[1], &old[1], &there), Equal);
    }
}

#[test]
fn those_established_at_the_same_moment_are_told_by_their_ids() {
    let now = Instant::now();
    let [a, b] = [1, 2].map(|number| ConnectionInfo {
        established: now,
        ..connection(number)
    });
    let view = view(peers(), &[]);
    assert_eq!(MergeDuplicates.compare(&a, &b, &view), Less);
    assert_eq!(MergeDuplicates.compare(&b, &a, &view), Greater);
}

#[test]
fn relayed_ones_and_those_over_different_transports_are_not_duplicates() {
    let remote_dialed = |info| ConnectionInfo {
        dialer: false,
        ..info
    };
    for (a, b) in [
        (relayed(1), remote_dialed(relayed(2))),
        (relayed(1), remote_dialed(connection(2))),
        (connection(1), remote_dialed(over(2, Transport::Quic))),
    ] {
        assert_eq!(compared(&MergeDuplicates, &a, &b), Equal);
    }
}

// ---- Chains ----------------------------------------------------------------------------------------

/// Says the same whenever it is asked.
struct Says(Placement, Verdict, Vec<Action>);

impl Policy for Says {
    fn place(&mut self, _: &StreamInfo, _: &PeerView<'_>) -> Placement {
        self.0
    }

    fn verdict(&mut self, _: &StreamInfo, _: &ConnectionInfo, _: &PeerView<'_>) -> Verdict {
        self.1
    }

    fn changed(&mut self, _: &Change, _: &PeerView<'_>) -> Vec<Action> {
        self.2.clone()
    }
}

#[test]
fn a_chain_asks_the_next_where_the_first_sees_no_difference() {
    let quic_first = Chain::new(PreferDirect).then(PreferTransport::default());
    let relayed_quic = ConnectionInfo {
        relayed: true,
        ..over(2, Transport::Quic)
    };
    assert_eq!(compared(&quic_first, &connection(1), &relayed_quic), Less);
    let quic = over(2, Transport::Quic);
    assert_eq!(compared(&quic_first, &connection(1), &quic), Greater);
    assert_eq!(compared(&quic_first, &connection(1), &connection(2)), Equal);
    // A chain may be part of another.
    let nested = Chain::new(Drain).then(quic_first);
    assert_eq!(compared(&nested, &connection(1), &quic), Greater);
    let drained_quic = ConnectionInfo {
        draining: true,
        ..quic
    };
    assert_eq!(compared(&nested, &connection(1), &drained_quic), Less);
}

#[test]
fn the_default_chain() {
    let chain = Chain::default();
    // What is drained is worse than anything else, even a relayed one.
    assert_eq!(compared(&chain, &relayed(1), &draining(2)), Less);
    assert_eq!(compared(&chain, &connection(1), &relayed(2)), Less);
    let quic = over(2, Transport::Quic);
    assert_eq!(compared(&chain, &connection(1), &quic), Equal);
    let (designated, other) = peers();
    let dialed_by_other = ConnectionInfo {
        dialer: false,
        ..connection(1)
    };
    let view = view((designated, other), &[]);
    let order = chain.compare(&connection(2), &dialed_by_other, &view);
    assert_eq!(order, Less);
}

#[test]
fn the_first_of_a_chain_that_is_not_indifferent_decides() {
    let all = [connection(1), connection(2)];
    let stream = stream_on(id(1));
    let view = view(peers(), &all);
    let indifferent = || Says(Placement::Indifferent, Verdict::Accept, Vec::new());
    let wait = Placement::AskAgain(Duration::from_secs(1));

    let mut chain = Chain::new(indifferent())
        .then(Says(wait, Verdict::NotNow, Vec::new()))
        .then(Says(Placement::On(id(2)), Verdict::Deny, Vec::new()));
    assert_eq!(chain.place(&stream, &view), wait);
    assert_eq!(chain.verdict(&stream, &all[1], &view), Verdict::NotNow);

    let mut chain = Chain::new(indifferent()).then(indifferent());
    assert_eq!(chain.place(&stream, &view), Placement::Indifferent);
    assert_eq!(chain.verdict(&stream, &all[1], &view), Verdict::Accept);

    let here = Says(Placement::Here, Verdict::Ask, Vec::new());
    let mut chain = Chain::new(here).then(Says(Placement::On(id(2)), Verdict::Deny, Vec::new()));
    assert_eq!(chain.place(&stream, &view), Placement::Here);
    assert_eq!(chain.verdict(&stream, &all[1], &view), Verdict::Ask);
}

#[test]
fn a_chain_wants_what_all_of_it_want() {
    let says = |actions| Says(Placement::Indifferent, Verdict::Accept, actions);
    let all = [
        Action::Replace,
        Action::CallIn(Duration::from_secs(1)),
        Action::Close(id(1)),
    ];
    let mut chain = Chain::new(says(all[..2].to_vec()))
        .then(PreferDirect)
        .then(says(all[2..].to_vec()));
    let wanted = chain.changed(&Change::Called, &view(peers(), &[]));
    assert_eq!(wanted, all);
}

// ---- Places ----------------------------------------------------------------------------------------

#[test]
fn never_between_equals() {
    let all = [connection(1), connection(2), over(3, Transport::Quic)];
    for here in &all {
        let stream = stream_on(here.key);
        assert_eq!(placed(&mut PreferDirect, &stream, &all), Placement::Here);
    }
    // Of several that are better, the first that no other is better than.
    let all = [
        relayed(1),
        connection(2),
        over(3, Transport::Quic),
        over(4, Transport::Quic),
    ];
    let stream = stream_on(id(1));
    let to = placed(&mut PreferDirect, &stream, &all);
    assert_eq!(to, Placement::On(id(2)));
    let mut chain = Chain::new(PreferDirect).then(PreferTransport::default());
    let to = placed(&mut chain, &stream, &all);
    assert_eq!(to, Placement::On(id(3)));
}

#[test]
fn not_back_onto_a_relay() {
    let all = [relayed(1), draining(2)];
    let mut stream = stream_on(id(2));
    assert_eq!(placed(&mut Drain, &stream, &all), Placement::On(id(1)));
    stream.left_relay = true;
    assert_eq!(placed(&mut Drain, &stream, &all), Placement::Here);
}

#[test]
fn not_back_to_where_the_remote_does_not_want_it() {
    let all = [
        connection(1),
        over(2, Transport::Quic),
        over(3, Transport::Quic),
    ];
    let mut policy = PreferTransport::default();
    let mut stream = stream_on(id(1));
    stream.moved_off_by_remote = vec![id(2)];
    let to = placed(&mut policy, &stream, &all);
    assert_eq!(to, Placement::On(id(3)));
    stream.moved_off_by_remote = vec![id(2), id(3)];
    assert_eq!(placed(&mut policy, &stream, &all), Placement::Here);
    // Unless the application says so itself.
    stream.mobility = Mobility::PinnedTo(id(2));
    let to = placed(&mut policy, &stream, &all);
    assert_eq!(to, Placement::On(id(2)));
}

#[test]
fn not_onto_what_is_drained() {
    let drained_quic = ConnectionInfo {
        draining: true,
        ..over(2, Transport::Quic)
    };
    let all = [connection(1), drained_quic];
    let mut policy = PreferTransport::default();
    let stream = stream_on(id(1));
    assert_eq!(placed(&mut policy, &stream, &all), Placement::Here);
    // With no other place, it stays.
    let all = [draining(1), draining(2)];
    assert_eq!(placed(&mut Drain, &stream, &all), Placement::Here);
}

#[test]
fn each_mobility_is_kept_to() {
    let all = [draining(1), relayed(2), connection(3)];
    // Better, in this order: relayed, then direct.
    struct PreferRelayed;
    impl Policy for PreferRelayed {
        fn compare(&self, a: &ConnectionInfo, b: &ConnectionInfo, _: &PeerView<'_>) -> Ordering {
            let worth = |info: &ConnectionInfo| (info.draining, !info.relayed);
            worth(a).cmp(&worth(b))
        }
    }
    for (mobility, expected) in [
        (Mobility::Free, Placement::On(id(2))),
        (Mobility::NeverRelayed, Placement::On(id(3))),
        (Mobility::Pinned, Placement::Here),
        (Mobility::PinnedTo(id(3)), Placement::On(id(3))),
        (Mobility::PinnedTo(id(1)), Placement::Here),
        (Mobility::PinnedTo(id(9)), Placement::Here),
    ] {
        let stream = StreamInfo {
            mobility,
            ..stream_on(id(1))
        };
        let to = placed(&mut PreferRelayed, &stream, &all);
        assert_eq!(to, expected, "{mobility:?}");
    }
}

#[test]
fn a_stream_whose_connection_is_gone_stays() {
    let stream = stream_on(id(9));
    let all = [relayed(1), connection(2)];
    assert_eq!(placed(&mut PreferDirect, &stream, &all), Placement::Here);
}

#[test]
fn what_a_policy_says_itself_comes_before_its_order() {
    let all = [relayed(1), connection(2), connection(3)];
    let stream = stream_on(id(1));
    for said in [
        Placement::Here,
        Placement::On(id(3)),
        Placement::AskAgain(Duration::from_secs(1)),
    ] {
        let mut policy = Chain::new(Says(said, Verdict::Accept, Vec::new())).then(PreferDirect);
        assert_eq!(placed(&mut policy, &stream, &all), said);
    }
}

// ---- No flapping -----------------------------------------------------------------------------------

/// A connection of two peers as neither of them sees it alone. Its number is its place in the list.
#[derive(Debug, Clone)]
struct Link {
    relayed: bool,
    transport: Transport,
    /// Whether each of the two does not know it.
    unknown: [bool; 2],
    designated_dialed: bool,
    /// Its place in the order of establishment, as each of the two saw it: the designated peer first.
    order: [u8; 2],
    draining: [bool; 2],
    /// What one side knows, and the other does not.
    suspected: [bool; 2],
    proven: [bool; 2],
    full: [bool; 2],
}

/// Something that one side finds out about a link.
#[derive(Debug, Clone, Copy)]
enum News {
    /// It does not answer.
    Silent,
    /// It answers.
    Answered,
    /// What has left it may return.
    QuarantineOver,
    Full,
    Room,
}

#[derive(Debug, Clone)]
struct World {
    links: Vec<Link>,
    on: usize,
    left_relay: bool,
    moved_off_by_remote: [Vec<usize>; 2],
    barred: [Vec<usize>; 2],
    mobility: [Mobility; 2],
    /// In this order, each once both are at rest.
    news: Vec<(usize, usize, News)>,
}

fn link() -> impl Strategy<Value = Link> {
    let transport = select(vec![
        Transport::Tcp,
        Transport::Quic,
        Transport::WebSocket,
        Transport::Memory,
    ]);
    let draining = || prop::bool::weighted(0.2);
    let flags = (any::<bool>(), any::<bool>(), draining(), draining());
    let unknown = [prop::bool::weighted(0.2), prop::bool::weighted(0.2)];
    let link = (transport, flags, unknown, any::<[u8; 2]>());
    link.prop_map(|(transport, flags, unknown, order)| Link {
        relayed: flags.0,
        transport,
        unknown,
        designated_dialed: flags.1,
        order,
        draining: [flags.2, flags.3],
        suspected: [false; 2],
        proven: [true; 2],
        full: [false; 2],
    })
}

fn news(links: usize) -> impl Strategy<Value = Vec<(usize, usize, News)>> {
    let what = select(vec![
        News::Silent,
        News::Silent,
        News::Answered,
        News::QuarantineOver,
        News::Full,
        News::Room,
    ]);
    vec((0..2_usize, 0..links, what), 0..12)
}

fn world() -> impl Strategy<Value = World> {
    let mobility = || {
        prop_oneof![
            4 => Just(Mobility::Free),
            1 => Just(Mobility::NeverRelayed),
            1 => Just(Mobility::Pinned),
        ]
    };
    let stream = (
        any::<prop::sample::Index>(),
        any::<bool>(),
        [mobility(), mobility()],
    );
    let links = vec(link(), 1..8).prop_flat_map(|links| (news(links.len()), Just(links)));
    (links, stream).prop_map(|((news, links), (on, left_relay, mobility))| World {
        on: on.index(links.len()),
        links,
        left_relay,
        moved_off_by_remote: Default::default(),
        barred: Default::default(),
        mobility,
        news,
    })
}

impl World {
    /// The connections as one of the two sees them, the oldest first as in any view.
    fn seen_by(&self, side: usize, start: Instant) -> Vec<ConnectionInfo> {
        let links = self.links.iter().enumerate();
        let mut seen: Vec<_> = links
            .map(|(number, link)| ConnectionInfo {
                relayed: link.relayed,
                dialer: link.designated_dialed == (side == 0),
                established: start + Duration::from_secs(link.order[side].into()),
                draining: link.draining[side],
                suspected: link.suspected[side],
                proven: link.proven[side],
                capacity: if link.full[side] { 0 } else { 192 },
                ..over(
                    number,
                    match link.unknown[side] {
                        true => Transport::Unknown,
                        false => link.transport,
                    },
                )
            })
            .collect();
        seen.sort_by_key(|info| info.established);
        seen
    }

    /// Where one of the two would move the stream.
    fn place(&self, policy: &mut dyn Policy, pair: (PeerId, PeerId), side: usize) -> Option<usize> {
        let seen = self.seen_by(side, Instant::now());
        let pair = [pair, (pair.1, pair.0)][side];
        let moved_off_by_remote = self.moved_off_by_remote[side].iter().copied().map(id);
        let stream = StreamInfo {
            left_relay: self.left_relay,
            moved_off_by_remote: moved_off_by_remote.collect(),
            barred: self.barred[side].iter().copied().map(id).collect(),
            mobility: self.mobility[side],
            ..stream_on(id(self.on))
        };
        match place(policy, &stream, &view(pair, &seen)) {
            Placement::On(to) => (0..self.links.len()).find(|number| id(*number) == to),
            _ => None,
        }
    }

    /// One side finds out something, as the behaviour would note it.
    fn hear(&mut self, side: usize, number: usize, news: News) {
        let link = &mut self.links[number];
        match news {
            News::Silent => (link.suspected[side], link.proven[side]) = (true, false),
            News::Answered => link.suspected[side] = false,
            News::QuarantineOver => self.barred[side].retain(|barred| *barred != number),
            News::Full => link.full[side] = true,
            News::Room => link.full[side] = false,
        }
    }

    /// One side tries to move the stream there. Returns whether the other goes along: it does, unless it
    /// suspects that connection.
    fn tries(&mut self, to: usize, by: usize) -> bool {
        if self.links[to].full[by] {
            // It waits for room.
            return false;
        }
        if self.links[to].suspected[1 - by] {
            // "Not now": it is not tried again at once.
            self.barred[by].push(to);
            return false;
        }
        if self.links[self.on].suspected[by] {
            self.barred[by].push(self.on);
        }
        self.moved(to, by);
        true
    }

    fn moved(&mut self, to: usize, by: usize) {
        self.moved_off_by_remote[1 - by].push(self.on);
        self.left_relay |= self.links[self.on].relayed && !self.links[to].relayed;
        self.on = to;
    }
}

/// Every order of every choice of the shipped policies that order anything, within what they say of
/// themselves: [`Drain`] comes first, and [`PreferTransport`] after [`PreferDirect`].
fn chains() -> Vec<Vec<usize>> {
    let mut chains = vec![Vec::new()];
    let mut next = 0;
    while next < chains.len() {
        for policy in 0..5 {
            let chain: &Vec<usize> = &chains[next];
            if !chain.contains(&policy) {
                let longer = [&chain[..], &[policy]].concat();
                chains.push(longer);
            }
        }
        next += 1;
    }
    chains.retain(|chain| {
        let place = |policy| chain.iter().position(|member| *member == policy);
        let after_direct = |policy| place(policy).is_none_or(|at| place(1) < Some(at));
        place(0).unwrap_or(0) == 0 && after_direct(3) && after_direct(4)
    });
    chains
}

struct Indifferent;

impl Policy for Indifferent {}

fn chain(members: &[usize]) -> Chain {
    members
        .iter()
        .fold(Chain::new(Indifferent), |chain, member| match member {
            0 => chain.then(Drain),
            1 => chain.then(PreferDirect),
            2 => chain.then(MergeDuplicates),
            3 => chain.then(PreferTransport::default()),
            _ => chain.then(PreferTransport::new([Transport::Tcp])),
        })
}

/// Runs the check with many worlds, each with all chains. `PROPTEST_SEED` replays a run.
fn for_all_worlds(
    check: impl Fn(World, &mut Chain, (PeerId, PeerId)) -> Result<(), TestCaseError>,
) {
    let seed = match std::env::var("PROPTEST_SEED") {
        Ok(seed) => seed.parse().expect("PROPTEST_SEED is a number"),
        Err(_) => std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0),
    };
    println!("PROPTEST_SEED={seed}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&u64::to_le_bytes(seed));
    let config = ProptestConfig {
        cases: 100,
        failure_persistence: None,
        ..Default::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let (chains, pair) = (chains(), peers());
    let result = runner.run(&world(), |world| {
        for members in &chains {
            check(world.clone(), &mut chain(members), pair)
                .map_err(|error| TestCaseError::fail(format!("chain {members:?}: {error}")))?;
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// Whoever moves a stream is content with where it is then.
#[test]
fn nobody_moves_a_stream_twice() {
    for_all_worlds(|world, chain, pair| {
        for side in [0, 1] {
            let mut world = world.clone();
            if let Some(to) = world.place(chain, pair, side) {
                prop_assert_ne!(to, world.on);
                world.moved(to, side);
                prop_assert_eq!(world.place(chain, pair, side), None);
            }
        }
        Ok(())
    });
}

/// Two peers with the same policy, who know and drain the same connections and have the same streams free. Where
/// the designated peer has put a stream, the other is content too: one move. If the other comes first,
/// the designated peer may still choose among what is equal to the other, and then both are content.
#[test]
fn two_peers_with_one_policy_come_to_rest() {
    for_all_worlds(|mut world, chain, pair| {
        world.mobility[1] = world.mobility[0];
        for link in &mut world.links {
            link.draining[1] = link.draining[0];
            link.unknown[1] = link.unknown[0];
        }
        let mut first = world.clone();
        if let Some(to) = first.place(chain, pair, 0) {
            first.moved(to, 0);
        }
        prop_assert_eq!(first.place(chain, pair, 1), None, "designated first");
        for side in [1, 0] {
            if let Some(to) = world.place(chain, pair, side) {
                world.moved(to, side);
            }
        }
        for side in [0, 1] {
            prop_assert_eq!(world.place(chain, pair, side), None, "the other first");
        }
        Ok(())
    });
}

/// Two peers with the same policy, each of whom knows the transports of some connections only. Nobody takes
/// back what the other has done, even if it may: every move is to a better place, as who knew all would
/// see it.
#[test]
fn two_peers_of_whom_each_knows_less_come_to_rest() {
    for_all_worlds(|mut world, chain, pair| {
        world.mobility[1] = world.mobility[0];
        for link in &mut world.links {
            link.draining[1] = link.draining[0];
        }
        let mut been = vec![world.on];
        loop {
            let before = been.len();
            for side in [1, 0] {
                if let Some(to) = world.place(chain, pair, side) {
                    prop_assert!(!been.contains(&to), "back to {}", to);
                    been.push(to);
                    world.moved(to, side);
                    world.moved_off_by_remote = Default::default();
                }
            }
            if been.len() == before {
                return Ok(());
            }
        }
    });
}

/// Two peers who agree on nothing: other policies, other streams that may move, other connections that
/// are drained. Each gives way where the other has overruled it.
#[test]
fn two_peers_that_disagree_come_to_rest() {
    let chains = chains();
    let next = std::cell::Cell::new(0);
    for_all_worlds(|mut world, ours, pair| {
        next.set((next.get() + 7) % chains.len());
        let mut theirs = chain(&chains[next.get()]);
        let mut moves = 0;
        loop {
            let before = moves;
            for side in [0, 1] {
                let policy = if side == 0 { &mut *ours } else { &mut theirs };
                if let Some(to) = world.place(policy, pair, side) {
                    world.moved(to, side);
                    moves += 1;
                }
            }
            if moves == before {
                return Ok(());
            }
            prop_assert!(moves <= 2 * world.links.len());
        }
    });
}

/// Two peers, each of whom suspects connections that the other thinks well of, and finds some full: they
/// disagree about that, too, and come to rest after each piece of news. A stream does not stay on a
/// connection that does not answer if there is one to which both let it go.
#[test]
fn two_peers_of_whom_each_suspects_others_come_to_rest() {
    let chains = chains();
    let next = std::cell::Cell::new(0);
    for_all_worlds(|mut world, ours, pair| {
        next.set((next.get() + 7) % chains.len());
        let mut theirs = chain(&chains[next.get()]);
        let news = std::mem::take(&mut world.news);
        for at in 0..=news.len() {
            let mut tries = 0;
            loop {
                let before = (world.on, world.barred.clone());
                for side in [0, 1] {
                    let policy = if side == 0 { &mut *ours } else { &mut theirs };
                    if let Some(to) = world.place(policy, pair, side) {
                        prop_assert!(!world.links[to].suspected[side], "onto a suspected one");
                        world.tries(to, side);
                        tries += 1;
                    }
                }
                if (world.on, world.barred.clone()) == before {
                    break;
                }
                prop_assert!(
                    tries <= 8 * world.links.len(),
                    "no rest after {:?}",
                    &news[..at]
                );
            }
            if let Some(&(side, number, what)) = news.get(at) {
                world.hear(side, number, what);
            }
        }
        Ok(())
    });
}

/// Both peers with the default policy, one of whom suspects what it will: as soon as it does not any more,
/// and its quarantine is over, both are content with one connection, and it is not moved again.
#[test]
fn one_sided_suspicions_that_pass_leave_both_on_one_connection() {
    for_all_worlds(|mut world, _, pair| {
        world.mobility = [Mobility::Free; 2];
        let news = std::mem::take(&mut world.news);
        for (_, number, what) in news {
            world.hear(0, number, what);
            for side in [0, 1] {
                if let Some(to) = world.place(&mut Chain::default(), pair, side) {
                    world.tries(to, side);
                }
            }
        }
        for number in 0..world.links.len() {
            for what in [News::Answered, News::QuarantineOver, News::Room] {
                world.hear(0, number, what);
            }
        }
        let mut moves = 0;
        loop {
            let on = world.on;
            for side in [0, 1] {
                if let Some(to) = world.place(&mut Chain::default(), pair, side) {
                    world.tries(to, side);
                    moves += 1;
                }
            }
            if world.on == on {
                return Ok(());
            }
            prop_assert!(moves <= 2 * world.links.len());
        }
    });
}
