//! Collections that had many things once, and keep the room for them: gives it back, seldom enough to cost
//! next to nothing.
#![warn(missing_docs)]

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
};

/// The capacity that is not worth giving back.
const SMALL: usize = 64;

/// Gives memory back once most of it is unused: called after something was taken out.
pub fn map<K: Eq + Hash, V>(map: &mut HashMap<K, V>) {
    if map.capacity() > SMALL && map.len() < map.capacity() / 8 {
        map.shrink_to(2 * map.len());
    }
}

/// Gives memory back once it is empty: called after something was taken out.
pub fn queue<T>(queue: &mut VecDeque<T>) {
    if queue.capacity() > SMALL && queue.is_empty() {
        *queue = VecDeque::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_empty_again_is_small_again() {
        let mut table: HashMap<_, _> = (0..10_000).map(|i| (i, i)).collect();
        let mut line: VecDeque<_> = (0..10_000).collect();
        for i in 0..10_000 {
            assert_eq!(table.remove(&i), Some(i));
            map(&mut table);
            assert_eq!(line.pop_front(), Some(i));
            queue(&mut line);
        }
        assert!(table.capacity() <= SMALL && line.capacity() <= SMALL);
    }
}
