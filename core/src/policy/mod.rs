//! The decision what moves: the trait, and one file per shipped policy.
//!
//! A policy sees read-only views and answers with places; it never touches a stream.
#![warn(missing_docs)]

mod chain;
mod drain;
mod merge_duplicates;
mod outside;
mod prefer_direct;
mod prefer_transport;

use std::{cmp::Ordering, time::Duration};

pub use self::{
    chain::Chain,
    drain::Drain,
    merge_duplicates::MergeDuplicates,
    outside::{Outside, Stay},
    prefer_direct::PreferDirect,
    prefer_transport::PreferTransport,
};
use crate::{
    key::{ConnectionKey, StreamKey},
    machine::Failure,
    view::{ConnectionInfo, Mobility, PeerView, StreamInfo},
};

/// Decides where streams should be.
///
/// Four questions, each with an answer that leaves things as they are; most policies answer the first
/// only. The behaviour does the rest, and no policy need care for it: it starts what is asked for when it
/// is our turn ([`Initiate`](crate::hub::Initiate)), one migration of a stream at a time, so many of a peer
/// (`Config::with_max_migrations_per_peer`), so many
/// streams on a connection
/// (`Config::with_max_streams_per_connection`); waits
/// longer and longer after each failure; keeps pinned streams where they are
/// ([`Mobility`]), streams that have left a relayed connection off such ones, and those
/// that the remote has moved off a connection off that one, so that two policies that disagree come to
/// rest.
///
/// Everything is called from the behaviour's `poll` and must not block.
pub trait Policy: Send + 'static {
    /// The order of two connections to the same peer, as places for streams: `Less` is better.
    ///
    /// A stream is moved to the best connection that is strictly better than its own, and never between
    /// equals; a new stream is opened on the best. It has to be an order of those that it does not call
    /// equal, and has to give the same answer as long as both connections are there, or streams will
    /// wander. Default: all are equal.
    fn compare(&self, a: &ConnectionInfo, b: &ConnectionInfo, peer: &PeerView<'_>) -> Ordering {
        let _ = (a, b, peer);
        Ordering::Equal
    }

    /// The place where this stream should be, if that is not just a matter of
    /// [`compare`](Self::compare).
    ///
    /// Asked when the stream starts, agrees on its protocol, has been moved, failed to be moved or is
    /// given another [`Mobility`], and for all streams of a peer when one of its
    /// connections appears, changes or goes. Not asked while the stream is being migrated. Default:
    /// [`Placement::Indifferent`].
    fn place(&mut self, stream: &StreamInfo, peer: &PeerView<'_>) -> Placement {
        let _ = (stream, peer);
        Placement::Indifferent
    }

    /// The answer to the remote, which asks to move the stream onto this connection. Default:
    /// accept.
    fn verdict(
        &mut self,
        stream: &StreamInfo,
        to: &ConnectionInfo,
        peer: &PeerView<'_>,
    ) -> Verdict {
        let _ = (stream, to, peer);
        Verdict::Accept
    }

    /// Something has changed. Answers with what is to be done, beside what
    /// [`place`](Self::place) says when it is asked, which is after this. Default: nothing.
    fn changed(&mut self, change: &Change, peer: &PeerView<'_>) -> Vec<Action> {
        let _ = (change, peer);
        Vec::new()
    }
}

impl<P: Policy + ?Sized> Policy for Box<P> {
    fn compare(&self, a: &ConnectionInfo, b: &ConnectionInfo, peer: &PeerView<'_>) -> Ordering {
        (**self).compare(a, b, peer)
    }

    fn place(&mut self, stream: &StreamInfo, peer: &PeerView<'_>) -> Placement {
        (**self).place(stream, peer)
    }

    fn verdict(
        &mut self,
        stream: &StreamInfo,
        to: &ConnectionInfo,
        peer: &PeerView<'_>,
    ) -> Verdict {
        (**self).verdict(stream, to, peer)
    }

    fn changed(&mut self, change: &Change, peer: &PeerView<'_>) -> Vec<Action> {
        (**self).changed(change, peer)
    }
}

/// The place where a stream should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// The place that [`Policy::compare`] says; in a [`Chain`], that the next policy says.
    Indifferent,
    /// The place where it is.
    Here,
    /// This connection. Naming the one on which it is, or one that is not there, leaves it.
    On(ConnectionKey),
    /// The place where it is, for now; ask again after this time.
    AskAgain(Duration),
}

/// A policy's answer to a `Migrate` of the remote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Move.
    Accept,
    /// Never move this stream: the remote will not ask again.
    Deny,
    /// No answer: drop the leg, which means "try again later". The remote cannot tell this from a
    /// lost answer, and while it is in doubt it takes a clean end of a stream that it has closed
    /// itself for a reset. So it is for times of need.
    NotNow,
    /// Ask outside: [`Event::MigrationRequested`](crate::event::Event::MigrationRequested) is emitted, and
    /// `Control::answer` gives the verdict. Without one within the
    /// answer timeout, it is "not now".
    Ask,
}

/// A change of what is known of a peer. The view shows how it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// A connection was established.
    Connected(ConnectionKey),
    /// A connection has another address, is to be drained, is suspected or not any more, or has proven
    /// itself.
    ConnectionChanged(ConnectionKey),
    /// A connection is gone; what was on it has failed.
    Disconnected(ConnectionKey),
    /// A stream has been labelled. Its protocol may still be under negotiation.
    StreamStarted(StreamKey),
    /// A stream has agreed on its protocol, or has been given another [`Mobility`].
    StreamChanged(StreamKey),
    /// A stream is over.
    StreamEnded(StreamKey),
    /// A migration of the stream, ours or the remote's, is complete.
    Migrated(StreamKey),
    /// A migration of the stream, ours or the remote's, has come to nothing.
    MigrationFailed(StreamKey, Failure),
    /// The time that [`Action::CallIn`] asked for has passed.
    Called,
}

/// A policy's wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Move this stream onto this connection: now, whichever peer is designated, or as soon as it is its
    /// turn. If that fails, the next [`Change`] says so, and it is not tried again by itself. What may not
    /// even be begun, because the stream or the connection is gone, or the stream's mobility or what
    /// [`Policy`] says the behaviour cares for forbids it, is left; why is logged at debug level.
    Move(StreamKey, ConnectionKey),
    /// Close this connection as soon as no migratable stream is on it, nothing else uses it, and nothing
    /// of what has left it can be lost; see *Pruning*. If the remote has moved streams off it, the close
    /// is left to it, or to the idle timeout.
    Close(ConnectionKey),
    /// Call [`Policy::changed`] with [`Change::Called`] after this time. There is one such time for each
    /// peer, the earliest that was asked for; whoever is called early asks again.
    CallIn(Duration),
    /// Ask [`Policy::place`] about all streams of the peer.
    Replace,
}

/// The place where the policy wants the stream to be: what [`Policy::place`] says, or else the best
/// connection that is strictly better than the stream's own; of those, one that has room. From a
/// connection that does not answer, anything that does is better.
pub fn place(policy: &mut dyn Policy, stream: &StreamInfo, peer: &PeerView<'_>) -> Placement {
    let placement = policy.place(stream, peer);
    if placement != Placement::Indifferent {
        return placement;
    }
    let Some(here) = peer.connection_of(stream) else {
        return Placement::Here;
    };
    let all = peer.connections().iter();
    let better: Vec<_> = all
        .filter(|there| is_better(policy, stream, here, there, peer))
        .collect();
    let has_room = better.iter().copied().filter(|there| !there.is_full());
    let there = best(policy, has_room, peer).or_else(|| best(policy, better.into_iter(), peer));
    there.map_or(Placement::Here, |there| Placement::On(there.key))
}

/// True if the stream is better off there than here.
fn is_better(
    policy: &dyn Policy,
    stream: &StreamInfo,
    here: &ConnectionInfo,
    there: &ConnectionInfo,
    peer: &PeerView<'_>,
) -> bool {
    may_go(stream, Some(here), there)
        && (here.suspected || policy.compare(there, here, peer) == Ordering::Less)
}

/// True if the policy still wants the stream to go where it wanted it to go. Room there does not
/// count: it has been given.
pub(crate) fn is_wanted(
    policy: &mut dyn Policy,
    stream: &StreamInfo,
    to: ConnectionKey,
    peer: &PeerView<'_>,
) -> bool {
    match policy.place(stream, peer) {
        Placement::On(there) => there == to,
        Placement::Here | Placement::AskAgain(_) => false,
        Placement::Indifferent => {
            let here = peer.connection_of(stream);
            let ends = here.zip(peer.connection(to));
            ends.is_some_and(|(here, to)| is_better(policy, stream, here, to, peer))
        }
    }
}

/// True if a policy may put the stream there, from where it is. Having no room is no reason: the
/// stream waits for it.
pub(crate) fn may_go(
    stream: &StreamInfo,
    here: Option<&ConnectionInfo>,
    to: &ConnectionInfo,
) -> bool {
    let suspected_here = here.is_some_and(|here| here.suspected);
    // The remote may be closing a relayed connection that the stream has left (*Who starts*). That is
    // better than one that does not answer.
    let back_to_relay = to.relayed && stream.left_relay && !suspected_here;
    // Whoever disagrees with the remote gives way; but what the application says counts for more.
    let pinned_there = stream.mobility == Mobility::PinnedTo(to.key);
    let overruled =
        stream.moved_off_by_remote.contains(&to.key) && !pinned_there && !suspected_here;
    stream.connection != Some(to.key)
        && !to.closing
        && !to.suspected
        && !to.draining
        && !stream.barred.contains(&to.key)
        && !back_to_relay
        && !overruled
        && stream.mobility.allows(to)
}

/// The best of these; of equals, the first.
pub(crate) fn best<'a>(
    policy: &dyn Policy,
    connections: impl Iterator<Item = &'a ConnectionInfo>,
    peer: &PeerView<'_>,
) -> Option<&'a ConnectionInfo> {
    connections.reduce(|best, other| match policy.compare(other, best, peer) {
        Ordering::Less => other,
        Ordering::Equal | Ordering::Greater => best,
    })
}

#[cfg(test)]
mod tests;
