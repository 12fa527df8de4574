//! The IDs that a process of a peer's has used, so that a stream whose label was lost can be told from one that is
//! over (*Resume*).

use std::collections::BTreeMap;

use crate::machine::StreamId;

/// Intervals of one peer. Beyond that, the lowest gap counts as seen.
const MAX_INTERVALS: usize = 256;

/// The IDs of one process that were seen. They are given out in order, so those below the lowest count as seen, too:
/// they may have been before we knew it.
#[derive(Debug, Default)]
pub struct Seen {
    epoch: Option<u64>,
    /// From the first to the last of each interval. IDs of one side are two apart.
    intervals: BTreeMap<u64, u64>,
}

impl Seen {
    /// This process has used this ID.
    pub fn insert(&mut self, epoch: u64, id: StreamId) {
        if self.epoch != Some(epoch) {
            self.epoch = Some(epoch);
            self.intervals.clear();
        }
        let StreamId(id) = id;
        if self.has(id) {
            return;
        }
        let mut last = id;
        if let Some((next, end)) = self.following(id) {
            self.intervals.remove(&next);
            last = end;
        }
        match self.intervals.range_mut(..id).next_back() {
            Some((_, end)) if *end == id.wrapping_sub(2) => *end = last,
            _ => drop(self.intervals.insert(id, last)),
        }
        if self.intervals.len() > MAX_INTERVALS
            && let Some((first, _)) = self.intervals.pop_first()
            && let Some(entry) = self.intervals.first_entry()
        {
            let (_, end) = entry.remove_entry();
            self.intervals.insert(first, end);
        }
    }

    /// The interval that begins right after it.
    fn following(&self, id: u64) -> Option<(u64, u64)> {
        let next = id.checked_add(2)?;
        Some((next, *self.intervals.get(&next)?))
    }

    fn has(&self, id: u64) -> bool {
        let before = self.intervals.range(..=id).next_back();
        before.is_some_and(|(_, end)| id <= *end)
    }

    /// True if this process has certainly not used this ID here.
    pub fn is_new(&self, epoch: u64, id: StreamId) -> bool {
        let StreamId(id) = id;
        let first = self.intervals.keys().next();
        self.epoch == Some(epoch) && first.is_some_and(|first| *first < id) && !self.has(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_is_not_new() {
        let mut seen = Seen::default();
        assert!(!seen.is_new(1, StreamId(10)), "nothing is known yet");
        for id in [10, 14, 12, 20, 10] {
            seen.insert(1, StreamId(id));
        }
        assert_eq!(seen.intervals, BTreeMap::from([(10, 14), (20, 20)]));
        let new = |id| seen.is_new(1, StreamId(id));
        assert_eq!(
            [8, 12, 16, 18, 20, 22].map(new),
            [false, false, true, true, false, true]
        );
        assert!(!seen.is_new(2, StreamId(16)), "of another process");
        seen.insert(2, StreamId(4));
        assert!(!seen.is_new(1, StreamId(16)), "that one is over");
    }

    /// However the IDs come, the memory is bounded, and what was seen stays seen.
    #[test]
    fn gaps_are_bounded() {
        let mut seen = Seen::default();
        let ids: Vec<u64> = (0..2_000).map(|n| n * 4).collect();
        for id in &ids {
            seen.insert(1, StreamId(*id));
            assert!(seen.intervals.len() <= MAX_INTERVALS);
        }
        assert!(ids.iter().all(|id| !seen.is_new(1, StreamId(*id))));
        assert!(seen.is_new(1, StreamId(4 * 1_999 - 2)));
    }
}
