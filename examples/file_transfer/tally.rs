//! What has gone over, and the hash of it, counted in the same way on both sides.

use std::fmt;

use indicatif::HumanBytes;
use sha2::{Digest, Sha256};

use crate::path::SafePath;

pub type Hash = [u8; 32];

/// A count of entries, in their order on the wire.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    pub files: u64,
    pub directories: u64,
    pub bytes: u64,
    tree: Sha256,
    last: Hash,
}

impl Tally {
    pub fn directory(&mut self, path: &SafePath) {
        self.directories += 1;
        self.entry(b'd', path);
    }

    pub fn file(&mut self, path: &SafePath, length: u64, hash: Hash) {
        self.files += 1;
        self.bytes += length;
        self.entry(b'f', path);
        self.tree.update(length.to_be_bytes());
        self.tree.update(hash);
        self.last = hash;
    }

    /// With its length before it, so that no two lists of entries read the same.
    fn entry(&mut self, kind: u8, path: &SafePath) {
        let path = path.as_str().as_bytes();
        self.tree.update([kind]);
        self.tree.update((path.len() as u64).to_be_bytes());
        self.tree.update(path);
    }

    /// A file's own hash, as `sha256sum` has it; or one over the names, lengths and hashes of a
    /// tree.
    pub fn hash(&self) -> Hash {
        match (self.files, self.directories) {
            (1, 0) => self.last,
            _ => self.tree.clone().finalize().into(),
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |n: u64| if n == 1 { "" } else { "s" };
        write!(f, "{} file{}", self.files, plural(self.files))?;
        match self.directories {
            0 => {}
            1 => write!(f, " in 1 directory")?,
            n => write!(f, " in {n} directories")?,
        }
        write!(f, ", {}, SHA-256 ", HumanBytes(self.bytes))?;
        self.hash()
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(path: &str) -> SafePath {
        SafePath::new(path).unwrap()
    }

    #[test]
    fn a_file_has_its_own_hash_and_a_tree_one_of_everything_in_it() {
        let mut file = Tally::default();
        file.file(&path("a"), 1, [7; 32]);
        assert_eq!(file.hash(), [7; 32]);

        let tree = |names: [&str; 2], length, hash| {
            let mut tally = Tally::default();
            tally.directory(&path(names[0]));
            tally.file(&path(names[1]), length, hash);
            tally.hash()
        };
        let all = [
            tree(["a", "a/b"], 1, [7; 32]),
            tree(["c", "a/b"], 1, [7; 32]),
            tree(["a", "a/c"], 1, [7; 32]),
            tree(["a", "a/b"], 2, [7; 32]),
            tree(["a", "a/b"], 1, [8; 32]),
        ];
        for (index, hash) in all.iter().enumerate() {
            assert!(!all[..index].contains(hash), "{index}");
        }
    }
}
