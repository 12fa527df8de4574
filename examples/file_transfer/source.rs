//! What is to be sent, found out before anything is.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    path::{PathError, SafePath},
    wire::Offer,
};

/// The most entries of one transfer, on either side.
pub const MAX_ENTRIES: u64 = 100_000;

#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("cannot read {path:?}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{0:?} has no name to send it under; name a file or a directory")]
    NoName(PathBuf),
    #[error("the name of {0:?} is not UTF-8; rename it")]
    NotText(PathBuf),
    #[error("{0:?} is neither a file nor a directory")]
    Special(PathBuf),
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("there are more than {MAX_ENTRIES} files and directories in {0:?}; send a part of it")]
    TooMany(PathBuf),
}

#[derive(Debug)]
pub struct Entry {
    /// What it is called on the wire.
    pub name: SafePath,
    pub path: PathBuf,
    /// A file's length; a directory has none.
    pub length: Option<u64>,
}

/// A directory comes before what is in it.
#[derive(Debug)]
pub struct Source {
    pub entries: Vec<Entry>,
    /// What is left out: symbolic links, since they may lead anywhere, and what is no file.
    pub left_out: Vec<PathBuf>,
}

impl Source {
    pub fn new(path: &Path) -> Result<Self, SourceError> {
        let full = path.canonicalize().map_err(io_error(path))?;
        let name = full.file_name().ok_or(SourceError::NoName(full.clone()))?;
        let name = name.to_str().ok_or(SourceError::NotText(full.clone()))?;
        let mut source = Self {
            entries: Vec::new(),
            left_out: Vec::new(),
        };
        let mut waiting = vec![(name.to_owned(), full.clone())];
        while let Some((name, path)) = waiting.pop() {
            let kind = path.symlink_metadata().map_err(io_error(&path))?;
            let length = if kind.is_file() {
                Some(kind.len())
            } else if kind.is_dir() {
                let list = || fs::read_dir(&path)?.collect::<io::Result<Vec<_>>>();
                for entry in list().map_err(io_error(&path))? {
                    let within = entry.file_name();
                    let within = within.to_str().ok_or(SourceError::NotText(entry.path()))?;
                    waiting.push((format!("{name}/{within}"), entry.path()));
                }
                None
            } else if source.entries.is_empty() {
                return Err(SourceError::Special(path));
            } else {
                source.left_out.push(path);
                continue;
            };
            if (source.entries.len() + waiting.len()) as u64 >= MAX_ENTRIES {
                return Err(SourceError::TooMany(full));
            }
            let name = SafePath::new(&name)?;
            source.entries.push(Entry { name, path, length });
        }
        // A path sorts before those that go on from it.
        source
            .entries
            .sort_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
        Ok(source)
    }

    pub fn offer(&self) -> Offer {
        let files = self.entries.iter().filter_map(|entry| entry.length);
        let count = files.clone().count() as u64;
        Offer {
            files: count,
            directories: self.entries.len() as u64 - count,
            bytes: files.sum(),
            name: self.entries[0].name.as_str().to_owned(),
        }
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> SourceError {
    let path = path.to_owned();
    move |source| SourceError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_tree_is_listed_with_directories_first_and_without_links() {
        let top = std::env::temp_dir().join(format!("source-{}", std::process::id()));
        let _ = fs::remove_dir_all(&top);
        fs::create_dir_all(top.join("t/a/empty")).unwrap();
        fs::write(top.join("t/a/f"), "12").unwrap();
        fs::write(top.join("t/a.txt"), "3").unwrap();
        std::os::unix::fs::symlink("/etc", top.join("t/link")).unwrap();
        let source = Source::new(&top.join("t/a/..")).unwrap();
        let names: Vec<_> = source
            .entries
            .iter()
            .map(|entry| entry.name.as_str())
            .collect();
        assert_eq!(names, ["t", "t/a", "t/a.txt", "t/a/empty", "t/a/f"]);
        assert_eq!(source.left_out.len(), 1);
        let offer = source.offer();
        assert_eq!((offer.files, offer.directories, offer.bytes), (2, 3, 3));

        let single = Source::new(&top.join("t/a/f")).unwrap().offer();
        assert_eq!(
            (single.name.as_str(), single.files, single.bytes),
            ("f", 1, 2)
        );
        assert!(matches!(
            Source::new(Path::new("/")),
            Err(SourceError::NoName(_))
        ));
        let missing = Source::new(&top.join("missing")).unwrap_err();
        assert!(missing.to_string().contains("missing"), "{missing}");
        fs::write(top.join("t/a\\b"), "").unwrap();
        let error = Source::new(&top.join("t")).unwrap_err();
        assert!(matches!(error, SourceError::Path(PathError::Backslash(_))));
        fs::remove_dir_all(&top).unwrap();
    }
}
