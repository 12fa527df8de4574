//! What is printed: a line for each case, totals for each pair, the sum.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    process::ExitCode,
    time::{Duration, Instant},
};

use crate::case::Case;

#[derive(Debug)]
pub enum Outcome {
    Passed,
    Failed(String),
    Skipped(&'static str),
}

#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    passed: usize,
    failed: usize,
    skipped: usize,
}

/// What came of the cases so far.
#[derive(Debug)]
pub struct Report {
    width: usize,
    begun: Instant,
    pairs: BTreeMap<String, Totals>,
    failed: Vec<String>,
}

impl Report {
    /// `width`: of the longest name.
    pub fn new(width: usize) -> Self {
        Self {
            width,
            begun: Instant::now(),
            pairs: BTreeMap::new(),
            failed: Vec::new(),
        }
    }

    /// Prints a case's line.
    pub fn tell(&mut self, case: &Case, outcome: &Outcome, took: Duration) {
        let totals = self.pairs.entry(case.pair()).or_default();
        let name = case.to_string();
        let took = took.as_secs_f64();
        let (word, detail) = match outcome {
            Outcome::Passed => {
                totals.passed += 1;
                ("ok  ", format!("{took:6.2} s"))
            }
            Outcome::Failed(why) => {
                totals.failed += 1;
                self.failed.push(name.clone());
                ("FAIL", format!("{took:6.2} s  {why}"))
            }
            Outcome::Skipped(reason) => {
                totals.skipped += 1;
                ("skip", (*reason).to_owned())
            }
        };
        say(&format!("{word}  {name:0$}  {detail}", self.width));
    }

    /// Something that is no case went wrong.
    pub fn broken(&mut self, why: &str) {
        self.failed.push(why.to_owned());
        say(&format!("FAIL  {why}"));
    }

    /// Prints the totals; the exit code tells whether all is well.
    pub fn end(self) -> ExitCode {
        say("");
        say("pair         passed  failed  skipped");
        let mut sum = Totals::default();
        for (pair, totals) in &self.pairs {
            let Totals {
                passed,
                failed,
                skipped,
            } = *totals;
            say(&format!("{pair:<11}  {passed:6}  {failed:6}  {skipped:7}"));
            sum.passed += passed;
            sum.skipped += skipped;
        }
        for name in &self.failed {
            say(&format!("failed: {name}"));
        }
        let took = self.begun.elapsed().as_secs_f64();
        say(&format!("{took:.0} s"));
        let failed = self.failed.len();
        say(&format!(
            "{} passed, {failed} failed, {} skipped",
            sum.passed, sum.skipped
        ));
        if failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

/// A line, at once; without a panic if nobody reads any more.
fn say(line: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
