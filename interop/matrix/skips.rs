//! The cases that cannot work, each with its reason, in `skips.txt`.

use crate::case::Case;

const FILE: &str = include_str!("skips.txt");

#[derive(Debug)]
struct Skip {
    pattern: &'static str,
    reason: &'static str,
}

#[derive(Debug)]
pub struct Skips(Vec<Skip>);

impl Skips {
    /// Reads the file. Fails on what is no skip, and on a skip that fits none of these cases.
    pub fn read(cases: &[Case]) -> Result<Self, String> {
        let mut skips = Vec::new();
        let lines = FILE.lines().map(str::trim);
        for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (pattern, reason) = line
                .split_once(char::is_whitespace)
                .ok_or_else(|| format!("skips.txt: a skip without a reason: {line}"))?;
            let reason = reason.trim();
            if !cases.iter().any(|case| fits(pattern, &case.to_string())) {
                return Err(format!("skips.txt: no case fits {pattern}"));
            }
            skips.push(Skip { pattern, reason });
        }
        Ok(Self(skips))
    }

    /// Why the case is skipped, if it is.
    pub fn reason(&self, case: &Case) -> Option<&'static str> {
        let name = case.to_string();
        let skip = self.0.iter().find(|skip| fits(skip.pattern, &name));
        skip.map(|skip| skip.reason)
    }
}

/// Whether the pattern is the whole name; each `*` stands for anything.
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|name| {
            let ends = name.char_indices().map(|(at, _)| at).chain([name.len()]);
            ends.into_iter().any(|at| fits(rest, &name[at..]))
        }),
    }
}
