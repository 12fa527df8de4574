//! A line through what was counted at many rests, which may be broken by steps: does it rise?

use std::fmt::{self, Display, Formatter};

/// What swings about a line leaves no more than this many residuals' worth of doubt in a slope, if there are
/// many rests; a few more if there are few (as of Student's distribution, one in some thousands).
const DOUBT: f64 = 4.0;
const DOUBT_OF_FEW: f64 = 30.0;
/// A step has to explain so many times what is left unexplained per rest. The best of all places does that by
/// chance in one of twenty runs, which costs a little certainty; one that is missed would pass for a slope.
const STEP: f64 = 12.0;
/// There is no step within fewer rests than these. Two are seen: a buffer grows, and is given back soon.
const SHORTEST: usize = 2;
/// One step for so many rests at most, or everything would be one. Half an hour had eight within 76 rests.
const RESTS_PER_STEP: usize = 7;
/// Fewer rests than these tell nothing: a few steps among them would be a slope. A run of half an hour has more.
pub const LEAST: usize = 56;

/// A straight line with steps. A leak rises from rest to rest; a table that doubles does so once.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// Per rest.
    pub slope: f64,
    /// The slope is within this of the truth, as good as certainly.
    pub error: f64,
    /// What the steps make together.
    pub steps: f64,
}

/// The sums of a part between two steps, about its own middle.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    xx: f64,
    xy: f64,
    yy: f64,
}

impl Display for Fit {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self {
            slope,
            error,
            steps,
        } = self;
        write!(f, "{slope:.2} ± {error:.2} ({steps:+.0} in steps)")
    }
}

impl Fit {
    /// `None` if there are too few to tell a slope from what swings.
    pub fn of(heights: &[f64]) -> Option<Self> {
        if heights.len() < LEAST {
            return None;
        }
        let starts = starts(heights)?;
        let unexplained = unexplained(heights, &starts)?;
        let sums = sums(heights, &starts);
        let slope = sums.xy / sums.xx;
        let freedom = freedom(heights, &starts)?;
        let follows = likeness(heights, &starts, slope);
        let deviation = (unexplained / freedom / sums.xx).sqrt() * follows;
        // From one part's line to the next one's, as they would be in the middle between two rests.
        let lines: f64 = parts(heights, &starts)
            .collect::<Vec<_>>()
            .windows(2)
            .map(|two| {
                let ([(at, a), (next, b)], middle) =
                    ([two[0], two[1]], |len: usize| (len as f64 - 1.0) / 2.0);
                let apart = next as f64 + middle(b.len()) - at as f64 - middle(a.len());
                mean(b) - mean(a) - slope * apart
            })
            .sum();
        Some(Self {
            slope,
            error: deviation * (DOUBT + DOUBT_OF_FEW / freedom),
            steps: lines,
        })
    }

    /// Whether it is certain that something becomes more.
    pub fn rises(&self, grain: f64) -> bool {
        self.slope > self.error + grain
    }
}

/// Where a part begins. As many steps as there may be, from which those are taken away again that explain
/// too little: often two explain much, and one of them nothing.
fn starts(heights: &[f64]) -> Option<Vec<usize>> {
    let mut starts = vec![0];
    for _ in 0..heights.len() / RESTS_PER_STEP {
        let mut best = None;
        for at in SHORTEST..heights.len().saturating_sub(SHORTEST - 1) {
            if starts.iter().any(|start| at.abs_diff(*start) < SHORTEST) {
                continue;
            }
            let mut more = starts.clone();
            more.push(at);
            more.sort_unstable();
            let left = unexplained(heights, &more)?;
            if best.as_ref().is_none_or(|(least, _)| left < *least) {
                best = Some((left, more));
            }
        }
        let Some((_, more)) = best else { break };
        starts = more;
    }
    loop {
        let with = unexplained(heights, &starts)?;
        let per_rest = with / freedom(heights, &starts)?;
        let without = (1..starts.len()).filter_map(|which| {
            let mut fewer = starts.clone();
            fewer.remove(which);
            Some((unexplained(heights, &fewer)?, fewer))
        });
        match without.min_by(|(a, _), (b, _)| a.total_cmp(b)) {
            Some((left, fewer)) if left - with <= STEP * per_rest.max(1.0) => starts = fewer,
            _ => return Some(starts),
        }
    }
}

fn parts<'a>(heights: &'a [f64], starts: &'a [usize]) -> impl Iterator<Item = (usize, &'a [f64])> {
    let ends = starts.iter().skip(1).copied().chain([heights.len()]);
    let part = |(start, end): (&usize, usize)| (*start, &heights[*start..end]);
    starts.iter().zip(ends).map(part)
}

fn mean(heights: &[f64]) -> f64 {
    heights.iter().sum::<f64>() / heights.len() as f64
}

fn sums(heights: &[f64], starts: &[usize]) -> Sums {
    let mut sums = Sums::default();
    for (_, part) in parts(heights, starts) {
        let (middle, mean) = ((part.len() as f64 - 1.0) / 2.0, mean(part));
        for (x, y) in part.iter().enumerate() {
            let (x, y) = (x as f64 - middle, y - mean);
            sums.xx += x * x;
            sums.xy += x * y;
            sums.yy += y * y;
        }
    }
    sums
}

/// The squares that are left of lines with one slope.
fn unexplained(heights: &[f64], starts: &[usize]) -> Option<f64> {
    let sums = sums(heights, starts);
    (sums.xx > 0.0).then(|| (sums.yy - sums.xy * sums.xy / sums.xx).max(0.0))
}

/// How many rests there are beyond what the lines need.
fn freedom(heights: &[f64], starts: &[usize]) -> Option<f64> {
    let beyond = heights.len().checked_sub(1 + starts.len())?;
    (beyond >= 3).then_some(beyond as f64)
}

/// How much less is known because each rest is like the one before: 1 if none is.
fn likeness(heights: &[f64], starts: &[usize], slope: f64) -> f64 {
    let mut left = Vec::with_capacity(heights.len());
    for (_, part) in parts(heights, starts) {
        let (middle, mean) = ((part.len() as f64 - 1.0) / 2.0, mean(part));
        let of = |(x, y): (usize, &f64)| y - mean - slope * (x as f64 - middle);
        left.extend(part.iter().enumerate().map(of));
    }
    let squares: f64 = left.iter().map(|it| it * it).sum();
    let next: f64 = left.windows(2).map(|two| two[0] * two[1]).sum();
    let like = if squares > 0.0 { next / squares } else { 0.0 };
    let like = like.clamp(0.0, 0.9);
    ((1.0 + like) / (1.0 - like)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rests::tests::small_blocks;
    use testing::Random;

    fn accused(number: usize, leak: f64) -> usize {
        let seeds = 0..1000;
        let rises =
            |seed: &u64| Fit::of(&small_blocks(*seed, number, leak)).is_some_and(|f| f.rises(32.0));
        seeds.filter(rises).count()
    }

    #[test]
    fn a_small_leak_is_caught_over_many_rests() {
        for (number, leak, least) in [(LEAST, 160.0, 975), (72, 160.0, 990), (LEAST, 320.0, 998)] {
            let caught = accused(number, leak);
            assert!(caught >= least, "{caught} of 1000 over {number} rests");
        }
    }

    #[test]
    fn a_run_without_a_leak_is_not_accused() {
        for (number, most) in [(LEAST, 10), (72, 4), (150, 1)] {
            let accused = accused(number, 0.0);
            assert!(accused <= most, "{accused} of 1000 over {number} rests");
        }
    }

    /// As half an hour had them once, in KiB: rest upon rest the same, but for steps in both directions.
    #[test]
    fn many_steps_are_no_slope() {
        let lasting = [
            (16, 8),
            (16, 11),
            (2, -3),
            (4, 6),
            (2, 17),
            (16, 23),
            (6, 17),
            (6, 23),
            (8, 26),
        ];
        let rises = |seed: &u64| {
            let mut random = Random::of(*seed, 6);
            let plateaus = lasting.iter().flat_map(|(rests, kib)| vec![*kib; *rests]);
            let swing = |kib: i32| 1024.0 * f64::from(kib) + random.below(1000) as f64;
            let heights: Vec<_> = plateaus.map(swing).collect();
            Fit::of(&heights).is_some_and(|fit| fit.rises(32.0))
        };
        let accused = (0..200).filter(rises).count();
        assert!(accused <= 2, "{accused} of 200");
    }

    #[test]
    fn a_few_rests_tell_nothing() {
        assert_eq!(Fit::of(&[1.0; LEAST - 1]), None);
        assert_eq!(Fit::of(&[]), None);
    }

    #[test]
    fn a_line_is_a_line_and_a_step_is_a_step() {
        let line: Vec<_> = (0..120).map(|rest| 160.0 * f64::from(rest)).collect();
        let fit = Fit::of(&line).expect("enough rests");
        assert!(
            (fit.slope - 160.0).abs() < 1e-6 && fit.error < 1e-3,
            "{fit:?}"
        );
        let step: Vec<_> = (0..120).map(|rest| f64::from(rest / 40) * 4096.0).collect();
        let fit = Fit::of(&step).expect("enough rests");
        assert!(
            fit.slope.abs() < 1e-6 && (fit.steps - 8192.0).abs() < 1e-3,
            "{fit:?}"
        );
    }
}
