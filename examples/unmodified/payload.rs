//! Contents that are functions of the seed, of what they are for, and of their number or position:
//! whoever receives them knows what they have to be.

use crate::tally::{Protocol, Side};

const WORD: usize = 8;
/// An odd factor, so that every position has another word, and a word tells its position.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
/// Positions take the lower bits of a word before it is multiplied.
const POSITION_BITS: u32 = 48;

/// Well mixed: neighbouring numbers have nothing in common.
pub fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(FACTOR);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What one side sends in one protocol.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    base: u64,
}

impl Source {
    pub fn new(seed: u64, protocol: Protocol, from: Side) -> Self {
        let purpose = 2 * protocol as u64 + from as u64;
        Self {
            base: mix(mix(seed) ^ purpose) << POSITION_BITS,
        }
    }

    /// The message with this number, which is its first 8 bytes.
    pub fn message(self, number: u64) -> Vec<u8> {
        let length = 64 + mix(self.base ^ number) % 960;
        let contents = self.bytes(number << 10, length / 8 * 8);
        [number.to_be_bytes().to_vec(), contents].concat()
    }

    /// The number of a message that is just what it has to be.
    pub fn number_of(self, message: &[u8]) -> Option<u64> {
        let number = u64::from_be_bytes(*message.first_chunk()?);
        (number < 1 << 32 && self.message(number) == message).then_some(number)
    }

    /// Bytes from a position on. Both are multiples of 8.
    pub fn bytes(self, from: u64, length: u64) -> Vec<u8> {
        let words = from / WORD as u64..(from + length) / WORD as u64;
        let word = |index: u64| index.wrapping_add(self.base).wrapping_mul(FACTOR);
        words.flat_map(|index| word(index).to_le_bytes()).collect()
    }
}

/// Compares what comes with what belongs at its position.
pub struct Check {
    base: u64,
    inverse: u64,
    next: u64,
    total: u64,
    partial: Vec<u8>,
}

/// What some bytes were.
#[derive(Debug, Default)]
pub struct Found {
    /// Bytes that were next, or come after some that are missing.
    pub new: u64,
    /// Bytes that had been there before.
    pub doubled: u64,
    /// Bytes that nobody has sent.
    pub foreign: u64,
}

impl Check {
    pub fn new(source: Source, total: u64) -> Self {
        // Newton's iteration: each round doubles the number of right bits of the inverse modulo
        // 2^64.
        let mut inverse = FACTOR;
        for _ in 0..6 {
            inverse = inverse.wrapping_mul(2_u64.wrapping_sub(FACTOR.wrapping_mul(inverse)));
        }
        Self {
            base: source.base,
            inverse,
            next: 0,
            total: total / WORD as u64,
            partial: Vec::new(),
        }
    }

    /// Whether the last bytes have come, whatever was missing before.
    pub fn at_the_end(&self) -> bool {
        self.next == self.total && self.partial.is_empty()
    }

    pub fn read(&mut self, bytes: &[u8]) -> Found {
        let mut found = Found::default();
        self.partial.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(word) = self.partial[at..].first_chunk() {
            let word = u64::from_le_bytes(*word).wrapping_mul(self.inverse);
            let index = word.wrapping_sub(self.base);
            if index >= self.total {
                // Not a word of ours, or not the beginning of one: look for the next.
                found.foreign += 1;
                at += 1;
                continue;
            }
            at += WORD;
            if index < self.next {
                found.doubled += WORD as u64;
            } else {
                found.new += WORD as u64;
                self.next = index + 1;
            }
        }
        self.partial.drain(..at);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_there_twice_or_foreign_is_told() {
        let source = Source::new(1, Protocol::Stream, Side::Dialer);
        let all = source.bytes(0, 800);
        for pieces in [1, 7, 8, 13, 4096] {
            let read = |parts: &[&[u8]]| {
                let mut check = Check::new(source, 800);
                let found = parts.concat().chunks(pieces).fold([0; 3], |sum, piece| {
                    let found = check.read(piece);
                    [
                        sum[0] + found.new,
                        sum[1] + found.doubled,
                        sum[2] + found.foreign,
                    ]
                });
                (found, check.at_the_end())
            };
            assert_eq!(read(&[&all]), ([800, 0, 0], true));
            assert_eq!(read(&[&all[..80], &all[160..]]), ([720, 0, 0], true));
            assert_eq!(read(&[&all[..160], &all[80..]]), ([800, 80, 0], true));
            assert_eq!(read(&[&all[..640]]), ([640, 0, 0], false));
            assert_eq!(
                read(&[&all[..80], &[0; 8], &all[80..]]),
                ([800, 0, 8], true)
            );
        }
        let other = Source::new(1, Protocol::Stream, Side::Listener);
        assert_eq!(Check::new(other, 800).read(&all[..8]).new, 0);
    }

    #[test]
    fn a_message_is_known_by_all_of_it() {
        let source = Source::new(1, Protocol::Gossipsub, Side::Dialer);
        let mut message = source.message(7);
        assert_eq!(source.number_of(&message), Some(7));
        *message.last_mut().unwrap() ^= 1;
        assert_eq!(source.number_of(&message), None);
        assert_eq!(source.number_of(&[]), None);
    }
}
