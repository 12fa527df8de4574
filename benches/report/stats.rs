//! Medians, bootstrap intervals, and the report's lines.

use serde_json::json;
use testing::Random;

/// Resamples for an interval.
const RESAMPLES: usize = 2000;

/// One measurement of each, taken in turns: ours, plain.
pub type Pair = (f64, f64);

pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

/// The 95 % interval of a statistic of these samples, by the percentile bootstrap.
fn interval(samples: &[Pair], statistic: impl Fn(&[Pair]) -> f64) -> (f64, f64) {
    // The same samples have the same interval.
    let mut random = Random::new(samples.len() as u64);
    let mut resample = Vec::with_capacity(samples.len());
    let mut values: Vec<_> = (0..RESAMPLES)
        .map(|_| {
            resample.clear();
            resample.extend((0..samples.len()).map(|_| samples[random.index(samples.len())]));
            statistic(&resample)
        })
        .collect();
    values.sort_unstable_by(f64::total_cmp);
    (
        values[RESAMPLES / 40],
        values[RESAMPLES - 1 - RESAMPLES / 40],
    )
}

fn ratio(samples: &[Pair]) -> f64 {
    median(samples.iter().map(|(ours, plain)| ours / plain))
}

fn difference(samples: &[Pair]) -> f64 {
    median(samples.iter().map(|(ours, plain)| ours - plain))
}

/// Ours alone; the other member of each pair is not looked at.
fn alone(samples: &[Pair]) -> f64 {
    median(samples.iter().map(|(ours, _)| *ours))
}

/// The medians' ratio, where nothing pairs the samples.
fn unpaired(samples: &[Pair]) -> f64 {
    alone(samples) / median(samples.iter().map(|(_, plain)| *plain))
}

/// Of the ratio, the difference or the value, whichever the line is about.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Goal {
    None,
    AtLeast(f64),
    AtMost(f64),
    Below(f64),
}

impl Goal {
    fn met(self, (low, high): (f64, f64)) -> Option<bool> {
        match self {
            Self::None => None,
            Self::AtLeast(goal) => Some(high >= goal),
            Self::AtMost(goal) => Some(low <= goal),
            Self::Below(goal) => Some(low < goal),
        }
    }

    fn text(self, of: &str) -> Option<String> {
        match self {
            Self::None => None,
            Self::AtLeast(goal) => Some(format!("{of} ≥ {goal}")),
            Self::AtMost(goal) => Some(format!("{of} ≤ {goal}")),
            Self::Below(goal) => Some(format!("{of} < {goal}")),
        }
    }
}

/// A line.
#[derive(Debug)]
pub struct Row {
    section: &'static str,
    name: String,
    ours: Option<f64>,
    plain: Option<f64>,
    ratio: Option<f64>,
    interval: Option<(f64, f64)>,
    pairs: usize,
    goal: Option<String>,
    met: Option<bool>,
}

impl Row {
    fn of(
        section: &'static str,
        name: String,
        samples: &[Pair],
        goal: Goal,
        what: &str,
        statistic: fn(&[Pair]) -> f64,
    ) -> Self {
        let interval = interval(samples, statistic);
        Self {
            section,
            name,
            ours: Some(alone(samples)),
            plain: Some(median(samples.iter().map(|(_, plain)| *plain))),
            ratio: Some(ratio(samples)).filter(|ratio| ratio.is_finite()),
            interval: Some(interval),
            pairs: samples.len(),
            goal: goal.text(what),
            met: goal.met(interval),
        }
    }

    /// The goal and the interval are of the ratio of ours to plain, pair by pair.
    pub fn ratio(section: &'static str, name: String, samples: &[Pair], goal: Goal) -> Self {
        Self::of(section, name, samples, goal, "ratio", ratio)
    }

    /// The goal and the interval are of the ratio of the medians.
    pub fn unpaired(section: &'static str, name: String, samples: &[Pair], goal: Goal) -> Self {
        Self {
            ratio: Some(unpaired(samples)),
            ..Self::of(section, name, samples, goal, "ratio", unpaired)
        }
    }

    /// The goal and the interval are of the difference, ours less plain.
    pub fn difference(section: &'static str, name: String, samples: &[Pair], goal: Goal) -> Self {
        Self {
            ratio: None,
            ..Self::of(section, name, samples, goal, "ours − plain", difference)
        }
    }

    /// The goal and the interval are of ours; plain is there to compare.
    pub fn value(section: &'static str, name: String, samples: &[Pair], goal: Goal) -> Self {
        Self {
            ratio: None,
            ..Self::of(section, name, samples, goal, "ours", alone)
        }
    }

    /// There is nothing to compare with.
    pub fn ours(section: &'static str, name: String, samples: &[f64], goal: Goal) -> Self {
        let samples: Vec<_> = samples.iter().map(|ours| (*ours, f64::NAN)).collect();
        Self {
            plain: None,
            ..Self::value(section, name, &samples, goal)
        }
    }

    pub fn not_measured(section: &'static str, name: String, why: &str) -> Self {
        Self {
            section,
            name: format!("{name}: not measured, {why}"),
            ours: None,
            plain: None,
            ratio: None,
            interval: None,
            pairs: 0,
            goal: None,
            met: None,
        }
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "section": self.section,
            "name": self.name,
            "ours": self.ours,
            "plain": self.plain,
            "ratio": self.ratio,
            "low": self.interval.map(|(low, _)| low),
            "high": self.interval.map(|(_, high)| high),
            "pairs": self.pairs,
            "goal": self.goal,
            "met": self.met,
        })
    }

    fn print(&self) {
        let number = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), short);
        let interval = self.interval.map_or_else(String::new, |(low, high)| {
            format!("[{}, {}]", short(low), short(high))
        });
        let goal = match (&self.goal, self.met) {
            (Some(goal), Some(true)) => format!("{goal}: met"),
            (Some(goal), _) => format!("{goal}: MISSED"),
            (None, _) => String::new(),
        };
        println!(
            "{:<12} {:<72} {:>9} {:>9} {:>7} {:<18} {:>3} {goal}",
            self.section,
            self.name,
            number(self.ours),
            number(self.plain),
            number(self.ratio),
            interval,
            self.pairs,
        );
    }
}

fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 100.0 => format!("{value:.1}"),
        size if size >= 10.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[derive(Debug, Default)]
pub struct Report(Vec<Row>);

impl Report {
    pub fn add(&mut self, row: Row) {
        if self.0.is_empty() {
            println!(
                "{:<12} {:<72} {:>9} {:>9} {:>7} {:<18} {:>3} goal",
                "section", "quantity", "ours", "plain", "ratio", "95 % interval", "n"
            );
        }
        row.print();
        self.0.push(row);
    }

    pub fn json(&self) -> String {
        let rows: Vec<_> = self.0.iter().map(Row::json).collect();
        let mut text = serde_json::to_string_pretty(&rows).unwrap_or_default();
        text.push('\n');
        text
    }
}
