//! Where a transfer is until it is complete: in a hidden directory of its own, in the directory
//! that is received into, so that a rename is all that is left to do.
//!
//! That directory is made for one transfer, so nothing in it, such as a symbolic link, was there
//! before: what is created in it is in it. It is removed with whatever it holds if the transfer
//! does not get to its end, and by the next receiver if this process does not either.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process,
};

use crate::path::{OURS, SafePath};

/// What cannot be done to the disk.
#[derive(Debug, thiserror::Error)]
pub enum StagingError {
    #[error(
        "{0:?} is there already, and nothing is overwritten; move it away, or receive elsewhere"
    )]
    Exists(PathBuf),
    #[error("{0:?} comes twice, or is the same as another name to this file system; rename one")]
    Duplicate(String),
    #[error("{0:?} comes before the directory that it is in")]
    NoParent(String),
    #[error("cannot {what} {path:?}")]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StagingError {
    let path = path.to_owned();
    move |source| StagingError::Io { what, path, source }
}

/// A transfer that is not complete; removed when dropped.
#[derive(Debug)]
pub struct Staging {
    /// Where it is to be.
    complete: PathBuf,
    hidden: PathBuf,
    name: SafePath,
}

impl Staging {
    pub fn new(into: &Path, name: SafePath) -> Result<Self, StagingError> {
        let complete = name.under(into);
        // A symbolic link counts, too, wherever it points.
        if complete.symlink_metadata().is_ok() {
            return Err(StagingError::Exists(complete));
        }
        let mut number = 0;
        loop {
            let hidden = into.join(format!("{OURS}{}-{number}", process::id()));
            match private_directory(&hidden) {
                Ok(()) => {
                    return Ok(Self {
                        complete,
                        hidden,
                        name,
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(io_error("make", &hidden)(error)),
            }
        }
    }

    pub fn directory(&self, path: &SafePath) -> Result<(), StagingError> {
        let full = path.under(&self.hidden);
        fs::create_dir(&full).map_err(|error| explain(error, path, &full))
    }

    pub fn file(&self, path: &SafePath) -> Result<fs::File, StagingError> {
        let full = path.under(&self.hidden);
        fs::File::create_new(&full).map_err(|error| explain(error, path, &full))
    }

    /// Gives it its name, when everything in it has been verified and synced.
    pub fn complete(self) -> Result<PathBuf, StagingError> {
        let from = self.name.under(&self.hidden);
        if from.is_dir() {
            sync_directories(&from)?;
            // Replaces nothing but an empty directory: see `rename(2)`.
            fs::rename(&from, &self.complete)
        } else {
            // Unlike a rename, a link never replaces what somebody has put there meanwhile.
            match fs::hard_link(&from, &self.complete) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    // A file system without links.
                    match self.complete.symlink_metadata() {
                        Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
                        Err(_) => fs::rename(&from, &self.complete),
                    }
                }
                linked => linked,
            }
        }
        .map_err(|error| match self.complete.symlink_metadata() {
            Ok(_) => StagingError::Exists(self.complete.clone()),
            Err(_) => io_error("rename to", &self.complete)(error),
        })?;
        if let Some(into) = self.complete.parent() {
            sync_directory(into)?;
        }
        Ok(self.complete.clone())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.hidden) {
            eprintln!(
                "cannot remove {:?}, which is not complete: {error}",
                self.hidden
            );
        }
    }
}

fn explain(error: io::Error, path: &SafePath, full: &Path) -> StagingError {
    match error.kind() {
        io::ErrorKind::AlreadyExists => StagingError::Duplicate(path.as_str().to_owned()),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            StagingError::NoParent(path.as_str().to_owned())
        }
        _ => io_error("make", full)(error),
    }
}

/// One that nobody else may look into.
fn private_directory(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

fn sync_directories(top: &Path) -> Result<(), StagingError> {
    let list = || fs::read_dir(top)?.collect::<io::Result<Vec<_>>>();
    for entry in list().map_err(io_error("list", top))? {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            sync_directories(&entry.path())?;
        }
    }
    sync_directory(top)
}

/// So that its names are on the disk, too. Only Unix can open a directory.
fn sync_directory(path: &Path) -> Result<(), StagingError> {
    if cfg!(unix) {
        fs::File::open(path)
            .and_then(|directory| directory.sync_all())
            .map_err(io_error("sync", path))?;
    }
    Ok(())
}

/// Removes what receivers that were killed have left. Returns what may belong to one that still
/// runs.
pub fn remove_leftovers(into: &Path) -> Result<Vec<PathBuf>, StagingError> {
    let mut left = Vec::new();
    for entry in fs::read_dir(into).map_err(io_error("list", into))? {
        let entry = entry.map_err(io_error("list", into))?;
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|name| name.strip_prefix(OURS)?.split('-').next()?.parse().ok());
        let Some(owner) = owner else { continue };
        // Not a symbolic link's target.
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if owner != process::id() && may_run(owner) {
            left.push(entry.path());
        } else {
            fs::remove_dir_all(entry.path()).map_err(io_error("remove", &entry.path()))?;
        }
    }
    Ok(left)
}

/// Whether there may be such a process. Where there is no way to know, there may.
fn may_run(process: u32) -> bool {
    let processes = Path::new("/proc");
    !processes.join("self").exists() || processes.join(process.to_string()).exists()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// An empty directory for one test.
    fn fresh(test: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("staging-{}-{test}", process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        directory
    }

    fn path(path: &str) -> SafePath {
        SafePath::new(path).unwrap()
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    }

    #[test]
    fn only_what_is_complete_has_a_name() {
        let into = fresh("complete");
        let staging = Staging::new(&into, path("a")).unwrap();
        staging.file(&path("a")).unwrap().write_all(b"1").unwrap();
        assert!(names(&into).iter().all(|name| name.starts_with(OURS)));
        drop(staging);
        assert_eq!(names(&into), [""; 0]);

        let staging = Staging::new(&into, path("a")).unwrap();
        staging.file(&path("a")).unwrap().write_all(b"2").unwrap();
        staging.complete().unwrap();
        let tree = Staging::new(&into, path("b")).unwrap();
        tree.directory(&path("b")).unwrap();
        tree.directory(&path("b/c")).unwrap();
        tree.file(&path("b/c/d")).unwrap();
        tree.complete().unwrap();
        assert_eq!(fs::read(into.join("a")).unwrap(), b"2");
        assert!(into.join("b/c/d").is_file());
        assert_eq!(names(&into).len(), 2);
        fs::remove_dir_all(&into).unwrap();
    }

    #[test]
    fn a_path_twice_and_one_without_its_directory_are_refused() {
        let into = fresh("twice");
        let staging = Staging::new(&into, path("a")).unwrap();
        staging.directory(&path("a")).unwrap();
        staging.file(&path("a/b")).unwrap();
        for again in [
            staging.directory(&path("a")).unwrap_err(),
            staging.directory(&path("a/b")).unwrap_err(),
            staging.file(&path("a/b")).map(drop).unwrap_err(),
        ] {
            assert!(matches!(again, StagingError::Duplicate(_)), "{again}");
        }
        for orphan in ["a/c/d", "a/b/c"] {
            let error = staging.file(&path(orphan)).map(drop).unwrap_err();
            assert!(matches!(error, StagingError::NoParent(_)), "{error}");
        }
        drop(staging);
        fs::remove_dir_all(&into).unwrap();
    }

    #[test]
    fn nothing_is_overwritten_whenever_it_appears() {
        let into = fresh("exists");
        let exists = |error| matches!(error, StagingError::Exists(_));
        fs::write(into.join("a"), "mine").unwrap();
        assert!(exists(Staging::new(&into, path("a")).unwrap_err()));

        let file = Staging::new(&into, path("b")).unwrap();
        file.file(&path("b")).unwrap();
        let tree = Staging::new(&into, path("c")).unwrap();
        tree.directory(&path("c")).unwrap();
        let over = Staging::new(&into, path("d")).unwrap();
        over.directory(&path("d")).unwrap();
        fs::write(into.join("b"), "mine").unwrap();
        fs::write(into.join("c"), "mine").unwrap();
        fs::create_dir(into.join("d")).unwrap();
        fs::write(into.join("d/e"), "mine").unwrap();
        for late in [file, tree, over] {
            assert!(exists(late.complete().unwrap_err()));
        }
        for mine in ["a", "b", "c", "d/e"] {
            assert_eq!(fs::read(into.join(mine)).unwrap(), b"mine");
        }
        assert_eq!(names(&into).len(), 4);
        fs::remove_dir_all(&into).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn a_symbolic_link_is_never_written_through() {
        use std::os::unix::fs::symlink;

        let into = fresh("links");
        let outside = fresh("outside");
        fs::write(outside.join("mine"), "mine").unwrap();
        symlink(&outside, into.join("directory")).unwrap();
        symlink(outside.join("mine"), into.join("file")).unwrap();
        symlink(outside.join("nothing"), into.join("dangling")).unwrap();
        for name in ["directory", "file", "dangling"] {
            let error = Staging::new(&into, path(name)).unwrap_err();
            assert!(matches!(error, StagingError::Exists(_)), "{error}");
        }
        let late = Staging::new(&into, path("late")).unwrap();
        late.file(&path("late")).unwrap().write_all(b"x").unwrap();
        symlink(outside.join("nothing"), into.join("late")).unwrap();
        let error = late.complete().unwrap_err();
        assert!(matches!(error, StagingError::Exists(_)), "{error}");
        // Nor is one taken for a leftover, or followed while leftovers are removed.
        symlink(&outside, into.join(format!("{OURS}0-0"))).unwrap();
        let dead = into.join(format!("{OURS}{}-0", process::id()));
        fs::create_dir(&dead).unwrap();
        symlink(&outside, dead.join("link")).unwrap();
        assert_eq!(remove_leftovers(&into).unwrap(), [""; 0].map(PathBuf::from));
        assert!(!dead.exists());
        assert_eq!(names(&outside), ["mine"]);
        for directory in [into, outside] {
            fs::remove_dir_all(directory).unwrap();
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn leftovers_of_the_dead_are_removed_and_those_of_the_living_are_not() {
        let into = fresh("leftovers");
        // More than any process has: see `pid_max` in proc(5).
        let dead = into.join(format!("{OURS}{}-0", u32::MAX));
        let living = into.join(format!("{OURS}1-0"));
        for hidden in [&dead, &living] {
            fs::create_dir(hidden).unwrap();
            fs::write(hidden.join("a"), "").unwrap();
        }
        fs::create_dir(into.join(format!("{OURS}x"))).unwrap();
        assert_eq!(remove_leftovers(&into).unwrap(), [living]);
        assert!(!dead.exists());
        assert_eq!(names(&into).len(), 2);
        fs::remove_dir_all(&into).unwrap();
    }
}
