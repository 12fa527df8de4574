//! The choice among connections that are as good as each other, the same one on both sides.

use std::cmp::Ordering;

use super::Policy;
use crate::view::{ConnectionInfo, PeerView, Transport};

/// Keeps one of several direct connections over the same transport. Both peers come to the same one
/// without talking, by what both know:
///
/// 1. A connection that the designated peer dialed (the hash rule of *Who moves the stream*; in a hole
///    punch, on which it took the dialer's role) is better than one that the other dialed.
/// 2. Connections that the same peer dialed cannot be told apart by both: their order of establishment
///    may differ, and so may their addresses. There, the older is better *to the designated peer*, and to
///    the other they are equal. So only the designated peer moves streams, and the other goes along.
///
/// A connection that has not [proven](ConnectionInfo::proven) itself here is not better than another one:
/// who made it, for a moment or by a rule of its own, may be about to close it.
///
/// Relayed connections are not merged: they may go through different relays, with limits of their own. Nor
/// is one whose transport is not known here ([`Transport::Unknown`]): if the other peer knows it, and it is
/// a duplicate, the other peer may move streams, and this one goes along.
#[derive(Debug, Clone, Copy, Default)]
pub struct MergeDuplicates;

impl Policy for MergeDuplicates {
    fn compare(&self, a: &ConnectionInfo, b: &ConnectionInfo, peer: &PeerView<'_>) -> Ordering {
        // An unknown one that was equal to each of two that differ would lead in circles.
        let unknown = a.transport == Transport::Unknown;
        if a.relayed || b.relayed || a.transport != b.transport || unknown {
            return Ordering::Equal;
        }
        let designated = peer.is_designated();
        let by_designated = |info: &ConnectionInfo| info.dialer == designated;
        let by_age = match designated {
            true => (a.established, a.key).cmp(&(b.established, b.key)),
            false => Ordering::Equal,
        };
        match by_designated(b).cmp(&by_designated(a)).then(by_age) {
            // What one side knows takes a connection off its list, and makes no other one better.
            Ordering::Less if !a.proven => Ordering::Equal,
            Ordering::Greater if !b.proven => Ordering::Equal,
            order => order,
        }
    }
}
