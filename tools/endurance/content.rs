//! What the streams carry: of each direction of each stream, every byte is known by its position.

use testing::mix;

/// The first bytes of what the opener writes are the stream's number.
pub const HEADER: u64 = 8;

/// The bytes of one direction.
#[derive(Debug, Clone, Copy)]
pub struct Content {
    key: u64,
    header: Option<u64>,
}

impl Content {
    /// What the opener of this stream writes.
    pub fn of_opener(seed: u64, number: u64) -> Self {
        Self {
            key: mix(seed ^ mix(2 * number)),
            header: Some(number),
        }
    }

    /// What the accepter of this stream writes.
    pub fn of_accepter(seed: u64, number: u64) -> Self {
        Self {
            key: mix(seed ^ mix(2 * number + 1)),
            header: None,
        }
    }

    /// The bytes from this position on.
    pub fn fill(&self, position: u64, buf: &mut [u8]) {
        let mut at = position;
        let mut rest = buf;
        while !rest.is_empty() {
            let skip = (at % 8) as usize;
            let n = rest.len().min(8 - skip);
            let (now, later) = rest.split_at_mut(n);
            now.copy_from_slice(&self.word(at / 8).to_le_bytes()[skip..skip + n]);
            rest = later;
            at += n as u64;
        }
    }

    /// Where these bytes, which were read at this position, differ from what was written there.
    pub fn differs(&self, position: u64, buf: &[u8]) -> Option<u64> {
        let mut expected = [0; 4096];
        for (block, bytes) in buf.chunks(expected.len()).enumerate() {
            let at = position + (block * expected.len()) as u64;
            let expected = &mut expected[..bytes.len()];
            self.fill(at, expected);
            if expected != bytes {
                let same = expected.iter().zip(bytes).take_while(|(a, b)| a == b);
                return Some(at + same.count() as u64);
            }
        }
        None
    }

    fn word(&self, index: u64) -> u64 {
        match self.header {
            Some(number) if index == 0 => number,
            _ => mix(self.key ^ index.wrapping_mul(0xd134_2543_de82_ef95)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pieces_are_those_of_the_whole() {
        let content = Content::of_opener(1, 7);
        let mut whole = vec![0; 10_000];
        content.fill(0, &mut whole);
        assert_eq!(whole[..8], 7_u64.to_le_bytes());
        for (from, to) in [(0, 3), (3, 4), (5, 8), (1, 9_999), (4_095, 4_097)] {
            let mut piece = vec![0; to - from];
            content.fill(from as u64, &mut piece);
            assert_eq!(piece, whole[from..to]);
            assert_eq!(content.differs(from as u64, &piece), None);
        }
    }

    #[test]
    fn what_is_lost_repeated_or_reordered_is_seen() {
        let content = Content::of_accepter(1, 7);
        let mut whole = vec![0; 10_000];
        content.fill(0, &mut whole);
        let mut lost = whole.clone();
        lost.remove(5_000);
        let mut repeated = whole.clone();
        repeated.insert(5_000, whole[4_999]);
        let mut swapped = whole.clone();
        swapped.swap(5_000, 5_001);
        for wrong in [lost, repeated, swapped] {
            assert!(content.differs(0, &wrong).is_some());
        }
        // The other direction and the next stream are something else.
        assert_eq!(Content::of_opener(1, 7).differs(8, &whole[8..]), Some(8));
        assert!(Content::of_accepter(1, 8).differs(0, &whole).is_some());
    }
}
