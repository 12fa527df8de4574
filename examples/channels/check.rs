//! Messages that can be told from one another, and what has become of them.

use std::collections::BTreeSet;

use crate::messages::Packet;

/// One in so many messages is as large as may be.
const LARGE: u64 = 16;
/// The largest of the others.
const SMALL: u64 = 8 << 10;
/// What a packet has beside its data, at most.
const OVERHEAD: u64 = 16;

/// The messages of one direction of one channel: each position has another one.
#[derive(Debug, Clone, Copy)]
pub struct Pattern {
    pub seed: u64,
    /// The largest message that may be sent.
    pub max_message: u32,
}

impl Pattern {
    pub fn packet(self, sequence: u64) -> Packet {
        let mixed = (sequence ^ self.seed << 48).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let most = u64::from(self.max_message) - OVERHEAD;
        let length = match sequence % LARGE {
            0 => most,
            _ => (mixed >> 32) % most.min(SMALL),
        };
        let words = (0..length.div_ceil(8)).map(|word| mixed.rotate_left(word as u32 % 64) ^ word);
        let mut data: Vec<u8> = words.flat_map(u64::to_be_bytes).collect();
        data.truncate(length as usize);
        Packet { sequence, data }
    }
}

/// What a receiver has seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Check {
    pub received: u64,
    pub repeated: u64,
    pub reordered: u64,
    pub altered: u64,
    next: u64,
    missing: BTreeSet<u64>,
}

impl Check {
    pub fn note(&mut self, packet: &Packet, pattern: Pattern) {
        let sequence = packet.sequence;
        self.received += 1;
        if *packet != pattern.packet(sequence) {
            self.altered += 1;
        } else if sequence >= self.next {
            self.missing.extend(self.next..sequence);
            self.next = sequence + 1;
        } else if self.missing.remove(&sequence) {
            self.reordered += 1;
        } else {
            self.repeated += 1;
        }
    }

    /// How many of so many sent have not come.
    pub fn lost(&self, sent: u64) -> u64 {
        self.missing.len() as u64 + sent.saturating_sub(self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATTERN: Pattern = Pattern {
        seed: 3,
        max_message: 100,
    };

    fn seen(sequences: &[u64]) -> (u64, u64, u64) {
        let mut check = Check::default();
        for sequence in sequences {
            check.note(&PATTERN.packet(*sequence), PATTERN);
        }
        assert_eq!(check.altered, 0);
        (check.lost(5), check.repeated, check.reordered)
    }

    #[test]
    fn faults_are_told_apart() {
        assert_eq!(seen(&[0, 1, 2, 3, 4]), (0, 0, 0));
        assert_eq!(seen(&[0, 1, 3, 4]), (1, 0, 0));
        assert_eq!(seen(&[0, 1]), (3, 0, 0));
        assert_eq!(seen(&[0, 1, 1, 2, 3, 4, 0]), (0, 2, 0));
        assert_eq!(seen(&[0, 2, 1, 3, 4]), (0, 0, 1));

        let mut packet = PATTERN.packet(0);
        packet.data[50] ^= 1;
        let mut check = Check::default();
        check.note(&packet, PATTERN);
        assert_eq!((check.altered, check.lost(1)), (1, 1));
    }

    #[test]
    fn messages_fit_and_differ() {
        use quick_protobuf::MessageWrite;

        let sizes: Vec<_> = (0..64).map(|n| PATTERN.packet(n).get_size()).collect();
        assert!(sizes.iter().all(|size| *size <= 100));
        assert!(sizes.iter().any(|size| *size > 85));
        let other = Pattern { seed: 4, ..PATTERN };
        assert_ne!(PATTERN.packet(16).data, other.packet(16).data);
        assert_ne!(PATTERN.packet(16).data, PATTERN.packet(32).data);
    }
}
