//! Which paths of a remote's may become names on our disk.
//!
//! A path on the wire is UTF-8, relative, its names parted by `/`. Whatever is not plainly a name
//! below the directory is refused, and not repaired: a path that means one thing here and another
//! thing there is how files end up elsewhere. The sender asks the same questions, and so finds out
//! first.

use std::path::{Path, PathBuf};

/// The longest path, in bytes; well below what systems take, since the directory's own comes before
/// it.
pub const MAX_PATH: usize = 1024;
/// The longest name, in bytes: what common file systems take.
pub const MAX_NAME: usize = 255;
/// The deepest nesting.
pub const MAX_DEPTH: usize = 64;

/// What our own hidden names begin with.
pub const OURS: &str = ".file-transfer-";

/// What is wrong with a path. The path is shown escaped, so that it cannot play with a terminal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("the path {0:?} has an empty name in it; names are parted by one `/`")]
    EmptyName(String),
    #[error("the path {0:?} is absolute; it has to be relative to the directory received into")]
    Absolute(String),
    #[error("the path {0:?} has `.` or `..` in it, which could lead out of the directory")]
    Dots(String),
    #[error("the path {0:?} has a backslash in it, which parts names on some systems; rename it")]
    Backslash(String),
    #[error("the path {0:?} has a control character in it; rename it")]
    Control(String),
    #[error("the path {0:?} is no name on Windows; rename it")]
    NotOnWindows(String),
    #[error("a path of {0} bytes is longer than {MAX_PATH}; send a part of the tree")]
    TooLong(usize),
    #[error("the name {0:?} is longer than {MAX_NAME} bytes; rename it")]
    NameTooLong(String),
    #[error("the path {0:?} is deeper than {MAX_DEPTH}; send a part of the tree")]
    TooDeep(String),
    #[error("names that begin with {OURS}, such as {0:?}, are for unfinished transfers; rename it")]
    Ours(String),
    #[error("the path {path:?} is outside {top:?}, which is what was offered")]
    Elsewhere { path: String, top: String },
}

/// A path that has been looked at: at least one name, and all of them plain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SafePath(String);

impl SafePath {
    pub fn new(path: &str) -> Result<Self, PathError> {
        Self::on(path, cfg!(windows))
    }

    /// A path at or below `top`, which is a single name.
    pub fn below(top: &Self, path: &str) -> Result<Self, PathError> {
        let parsed = Self::new(path)?;
        let within = parsed.names().next() == Some(&top.0);
        match within {
            true => Ok(parsed),
            false => Err(PathError::Elsewhere {
                path: parsed.0,
                top: top.0.clone(),
            }),
        }
    }

    /// A path of a single name.
    pub fn name(name: &str) -> Result<Self, PathError> {
        let parsed = Self::new(name)?;
        let names = parsed.names().count();
        match names {
            1 => Ok(parsed),
            _ => Err(PathError::Elsewhere {
                path: parsed.0,
                top: ".".into(),
            }),
        }
    }

    fn on(path: &str, windows: bool) -> Result<Self, PathError> {
        if path.len() > MAX_PATH {
            return Err(PathError::TooLong(path.len()));
        }
        let wrong = |kind: fn(String) -> PathError| Err(kind(path.to_owned()));
        if path.chars().any(char::is_control) {
            return wrong(PathError::Control);
        }
        if path.contains('\\') {
            return wrong(PathError::Backslash);
        }
        if path.starts_with('/') {
            return wrong(PathError::Absolute);
        }
        for (depth, name) in path.split('/').enumerate() {
            match name {
                "" => return wrong(PathError::EmptyName),
                "." | ".." => return wrong(PathError::Dots),
                _ if name.len() > MAX_NAME => {
                    return Err(PathError::NameTooLong(name.to_owned()));
                }
                _ if name.starts_with(OURS) => return wrong(PathError::Ours),
                _ if windows && !windows_takes(name) => return wrong(PathError::NotOnWindows),
                _ if depth >= MAX_DEPTH => return wrong(PathError::TooDeep),
                _ => {}
            }
        }
        Ok(Self(path.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// Where it is, in this directory.
    pub fn under(&self, directory: &Path) -> PathBuf {
        let mut full = directory.to_owned();
        full.extend(self.names());
        full
    }
}

/// Windows drops dots and spaces at the end, takes `:` for a drive or a stream, and has devices in
/// every directory.
fn windows_takes(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or(name).trim_end();
    let numbered = stem.len() == 4 && stem.ends_with(|c: char| c.is_ascii_digit());
    let device = ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"]
        .iter()
        .any(|device| stem.eq_ignore_ascii_case(device))
        || numbered
            && ["COM", "LPT"]
                .iter()
                .any(|port| stem[..3].eq_ignore_ascii_case(port));
    !device && !name.ends_with(['.', ' ']) && !name.contains(['<', '>', ':', '"', '|', '?', '*'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(path: &str) -> PathError {
        SafePath::on(path, false).unwrap_err()
    }

    #[test]
    fn plain_paths_pass_as_they_are() {
        let long = "n".repeat(MAX_NAME);
        for path in [
            "a", "a/b", "...", "..a/b..", ".hidden", " a ", "ä/ß", "a:b", "CON", &long,
        ] {
            let safe = SafePath::on(path, false).unwrap();
            assert_eq!(safe.as_str(), path);
            assert!(safe.under(Path::new("/into")).starts_with("/into"));
        }
    }

    #[test]
    fn what_leads_out_of_the_directory_is_refused() {
        for path in ["/etc/passwd", "/", "//a"] {
            assert_eq!(refused(path), PathError::Absolute(path.into()));
        }
        for path in ["..", ".", "a/../../b", "../a", "a/..", "a/./b"] {
            assert_eq!(refused(path), PathError::Dots(path.into()));
        }
        for path in ["a\\b", "..\\a", "C:\\a", "\\\\server\\share"] {
            assert_eq!(refused(path), PathError::Backslash(path.into()));
        }
        for path in ["", "a//b", "a/"] {
            assert_eq!(refused(path), PathError::EmptyName(path.into()));
        }
        for path in ["a\0b", "a\nb", "\u{1b}[2J", "\u{9b}2J"] {
            assert_eq!(refused(path), PathError::Control(path.into()));
        }
    }

    #[test]
    fn lengths_and_depth_are_bounded() {
        let name = "n".repeat(MAX_NAME + 1);
        assert_eq!(refused(&name), PathError::NameTooLong(name.clone()));
        let name = "ß".repeat(MAX_NAME / 2 + 1);
        assert_eq!(refused(&name), PathError::NameTooLong(name.clone()));
        let path = vec!["n"; MAX_PATH].join("/");
        assert_eq!(refused(&path), PathError::TooLong(path.len()));
        let path = vec!["n"; MAX_DEPTH + 1].join("/");
        assert_eq!(refused(&path), PathError::TooDeep(path.clone()));
        assert!(SafePath::on(&path[2..], false).is_ok());
    }

    #[test]
    fn our_own_names_are_refused_at_any_depth() {
        for path in [".file-transfer-1-0", "a/.file-transfer-"] {
            assert_eq!(refused(path), PathError::Ours(path.into()));
        }
    }

    #[test]
    fn windows_has_more_to_refuse() {
        for path in [
            "C:a",
            "a/b:stream",
            "nul",
            "a/NUL.txt",
            "com1",
            "LPT9 .x",
            "a.",
            "a ",
            "a?",
        ] {
            let error = SafePath::on(path, true).unwrap_err();
            assert_eq!(error, PathError::NotOnWindows(path.into()));
        }
        for path in ["console", "com", "nulls/a", "lpt10", "a b"] {
            assert!(SafePath::on(path, true).is_ok(), "{path}");
        }
    }

    #[test]
    fn everything_is_below_what_was_offered() {
        let top = SafePath::name("top").unwrap();
        assert!(SafePath::below(&top, "top").is_ok());
        assert!(SafePath::below(&top, "top/a").is_ok());
        for path in ["other", "topmost/a", "a/top"] {
            let error = SafePath::below(&top, path).unwrap_err();
            assert!(matches!(error, PathError::Elsewhere { .. }), "{error}");
        }
        assert!(SafePath::name("a/b").is_err());
    }
}
