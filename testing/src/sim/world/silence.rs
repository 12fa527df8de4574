//! Connections on which nothing arrives any more, and verdicts that take their time.

use super::World;
use libp2p_stream_migration_core::machine::Abort;

/// Which connections are silent, and whom that may harm.
#[derive(Debug, Default)]
pub(super) struct Silences {
    pub(super) now: [bool; 3],
    /// How many there have been.
    pub(super) count: usize,
    /// The stream was there, or on its way from or to there.
    harmed: bool,
}

impl World {
    /// A connection goes silent, and what is in flight on it stays there.
    pub(super) fn silence(&mut self) {
        let connection = self.rng.index(3);
        if self.lost[connection] {
            return;
        }
        self.silences.count += 1;
        self.silences.now[connection] = true;
        self.silences.harmed |= !self.is_settled_beside(connection);
    }

    /// Whether both sides are on another connection, and nobody wants to be elsewhere.
    fn is_settled_beside(&self, connection: usize) -> bool {
        self.peers.iter().all(|peer| {
            let status = peer.shared.status();
            let at_rest = !status.migrating && !status.asked && peer.has_nothing_inbound();
            at_rest && peer.connection().is_some_and(|on| on != connection)
        })
    }

    /// The behaviour gives up what waits on a silent connection, once nothing else will help: what is being
    /// moved is left to the stream's own timers and probes. Returns whether there was anything.
    pub(super) fn give_up_silent(&mut self) -> bool {
        for side in 0..2 {
            let peer = &mut self.peers[side];
            let status = peer.shared.status();
            if let Some(connection) = peer.connection()
                && self.silences.now[connection]
                && !status.migrating
                && peer.over.is_none()
                && (self.case.resumes || !peer.has_given_up(connection))
            {
                peer.give_up(connection);
                return true;
            }
        }
        false
    }

    /// A policy answers something that it was asked. Returns whether there was anything.
    pub(super) fn answer(&mut self) -> bool {
        let first = self.rng.index(2);
        let mut sides = [first, 1 - first].into_iter();
        let Some(side) = sides.find(|side| self.peers[*side].is_asked()) else {
            return false;
        };
        self.peers[side].answer(&mut self.rng);
        true
    }

    /// What is wrong if a stream has failed that was on no connection which failed, nor on its way. A side
    /// whose attempt was not answered may not be able to prove its end; and a verdict may come when whoever
    /// asked has just given up.
    pub(super) fn astray(&self, unfailed: bool) -> Option<String> {
        let alone = self.kills == 0 && !self.case.early_timeouts && !self.case.refusals;
        let left = self.apps.iter().any(|app| app.dropped_early);
        let excused = left || self.case.late && !unfailed;
        if self.silences.count == 0 || self.silences.harmed || !alone || excused {
            return None;
        }
        let ends = self.peers.each_ref().map(|peer| peer.over);
        let unproven = ends.contains(&Some(Err(Abort::Unproven)));
        let failed = ends.iter().any(|over| matches!(over, Some(Err(_))));
        (failed && !unproven)
            .then(|| format!("a stream failed that was beside a silent connection: {ends:?}"))
    }

    /// What is wrong if a verdict was taken for another's.
    pub(super) fn mistaken(&self) -> Option<String> {
        let mistaken = self.peers.iter().any(|peer| peer.mistaken);
        mistaken.then(|| "a late verdict was taken for one on another attempt".to_owned())
    }
}
