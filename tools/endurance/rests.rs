//! What is left when everything has ended: it must not become more from round to round.
//!
//! Bytes alone would not tell: a table that doubles, or a buffer that is given back, is a step of kibibytes, in which
//! a small leak drowns. So small blocks are counted by their bytes, and larger ones by their number.

use crate::{
    fit::{self, Fit},
    watch::Usage,
};

/// The first round fills what has a bound: pools, and tables that keep their size.
pub const WARM_UP: usize = 1;
/// Bytes that may be added once, between one third of the run and the next: tables of tokio's, rustls's and ours
/// double now and then, and the buffers of connections to the relay become as large as they ever were needed.
/// Some 170 KiB were seen, for one node.
const ONCE: f64 = 262_144.0;
/// Bytes that may be added by each round, of some 500 streams and 2,000 migrations, where there are too few
/// rests for a fit.
const EACH: f64 = 2048.0;

/// Something of which there may be too much, at each round a little more.
struct Kept {
    unit: &'static str,
    of: fn(&Usage) -> f64,
    /// So much more per round is this program's own: the names of what it counts are few, but come one by one.
    grain: f64,
    /// A leak of so much per round has to be told from noise before a run may be called fine: a small allocation in
    /// each round, of twenty lost connections and more; a large one in each fourth.
    fine: f64,
}

const KEPT: [Kept; 2] = [
    Kept {
        unit: "bytes in small blocks",
        of: |usage| usage.small as f64,
        grain: 32.0,
        fine: 160.0,
    },
    Kept {
        unit: "larger blocks",
        of: |usage| usage.large as f64,
        grain: 0.05,
        fine: 0.25,
    },
];

/// Something that is counted at rest.
type Kind = (&'static str, fn(&Usage) -> usize);

#[derive(Debug)]
pub struct Rests(Vec<Usage>);

impl Rests {
    /// With room for so many, so as not to grow itself.
    pub fn new(most: usize) -> Self {
        Self(Vec::with_capacity(most))
    }

    pub fn add(&mut self, usage: Usage) {
        self.0.push(usage);
    }

    pub fn show(&self) {
        println!("\nat rest:  heap, B      RSS, KiB  descriptors  tasks  connections");
        for (round, usage) in self.0.iter().enumerate() {
            println!(
                "{:>5} {:>12} {:>13} {:>12} {:>6} {:>12}",
                round + 1,
                usage.heap,
                usage.resident / 1024,
                usage.descriptors,
                usage.tasks,
                usage.connections,
            );
        }
    }

    /// A line through the warm rests: those after the first fifth, as the pools fill slowly.
    fn fit(&self, kept: &Kept) -> Option<Fit> {
        let warm = self.0.len() / 5;
        let rests = self.0.iter().skip(warm.max(WARM_UP));
        Fit::of(&rests.map(kept.of).collect::<Vec<_>>())
    }

    /// What is to be said of the heap's growth.
    pub fn statement(&self) -> String {
        let mut verdict = "none";
        let mut told = Vec::new();
        for kept in &KEPT {
            let Some(fit) = self.fit(kept) else {
                let (rests, needed) = (self.0.len(), (fit::LEAST * 5).div_ceil(4));
                let least = self.bound();
                return format!(
                    "unknown ({rests} rests, of {needed} that a fit takes; more than {least:.0} bytes \
                     per round would have been seen)"
                );
            };
            if fit.rises(kept.grain) {
                verdict = "yes";
            } else if fit.error + kept.grain > kept.fine && verdict == "none" {
                verdict = "unknown";
            }
            told.push(format!("{fit} {} per round", kept.unit));
        }
        format!("{verdict} ({})", told.join("; "))
    }

    /// Bytes of heap per round, if there are enough rounds: from the middle third's median to the last's.
    fn growth(&self) -> Option<f64> {
        let third = self.third();
        if third == 0 {
            return None;
        }
        let heaps: Vec<_> = self.0.iter().map(|usage| usage.heap).collect();
        let last = median(&heaps[heaps.len() - third..]);
        let middle = median(&heaps[heaps.len() - 2 * third..heaps.len() - third]);
        Some((last - middle) / third as f64)
    }

    /// How many rests a third of the warm ones are.
    fn third(&self) -> usize {
        self.0.len().saturating_sub(WARM_UP) / 3
    }

    /// Growth that means nothing.
    fn bound(&self) -> f64 {
        EACH + ONCE / self.third().max(1) as f64
    }

    /// What has become more.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let warm = &self.0[self.0.len().min(WARM_UP)..];
        let kinds: [Kind; 3] = [
            ("descriptors", |usage| usage.descriptors),
            ("tasks", |usage| usage.tasks),
            ("connections", |usage| usage.connections),
        ];
        let third = self.third();
        for (name, of) in kinds {
            let [first, last] = [&warm[..third], &warm[warm.len() - third..]];
            let most = first.iter().map(of).max();
            let least = last.iter().map(of).min();
            // Something may still be about to end at a rest; not at all of them.
            if let (Some(most), Some(least)) = (most, least)
                && least > most
            {
                faults.push(format!("{name} at rest: {most}, then {least}"));
            }
        }
        for kept in &KEPT {
            if let Some(fit) = self.fit(kept)
                && fit.rises(kept.grain)
            {
                faults.push(format!("each round leaves {fit} {}", kept.unit));
            }
        }
        // What is so much needs no fit, nor many rests.
        if let Some(growth) = self.growth()
            && growth > self.bound()
        {
            let bound = self.bound();
            faults.push(format!(
                "the heap grows by {growth:.0} bytes per round, of which {bound:.0} are noise"
            ));
        }
        faults
    }
}

fn median(numbers: &[u64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        0 => (sorted[middle - 1] + sorted[middle]) as f64 / 2.0,
        _ => sorted[middle] as f64,
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use testing::Random;

    /// Small blocks as they are at rest: they swing by some of them, and a few times a pool grows for good, or one
    /// is given back.
    pub fn small_blocks(seed: u64, number: usize, leak: f64) -> Vec<f64> {
        let mut random = Random::of(seed, 5);
        let swing = 100 + random.below(400);
        let steps: Vec<_> = (0..random.below(4))
            .map(|_| {
                let height = 64.0 * (1 + random.below(24)) as f64;
                let up = if random.chance(700) { 1.0 } else { -1.0 };
                (random.below(number as u64) as usize, up * height)
            })
            .collect();
        let height = |rest: usize| {
            let steps: f64 = steps
                .iter()
                .filter(|(at, _)| *at <= rest)
                .map(|(_, height)| height)
                .sum();
            let swing = (random.below(swing) + random.below(swing)) as f64;
            250_000.0 + steps + swing + leak * rest as f64
        };
        (0..number).map(height).collect()
    }

    /// Of a hundred runs, how many are called flat, and how many are accused. In each round so many bytes leak in
    /// small blocks, and so many larger ones.
    fn verdicts(number: usize, small: f64, large: f64) -> [usize; 2] {
        let runs = (0..100).map(|seed| {
            let mut random = Random::of(seed, 7);
            let blocks = small_blocks(seed, number, small).into_iter().enumerate();
            let usages = blocks.map(|(rest, small)| Usage {
                small: small as u64,
                // Some rests have one more, or two.
                large: 1_150 + random.below(3) as usize + (large * rest as f64) as usize,
                ..Default::default()
            });
            Rests(usages.collect())
        });
        runs.fold([0, 0], |[flat, accused], rests| {
            let is_flat = rests.statement().starts_with("none");
            let is_accused = !rests.faults().is_empty();
            [
                flat + usize::from(is_flat),
                accused + usize::from(is_accused),
            ]
        })
    }

    /// As many rests as half an hour has at the least.
    const HALF_AN_HOUR: usize = 72;

    #[test]
    fn half_an_hour_tells_flat_books_from_small_leaks() {
        let [flat, accused] = verdicts(HALF_AN_HOUR, 0.0, 0.0);
        assert!(flat >= 97 && accused <= 1, "{flat} flat, {accused} accused");
        // A small allocation in each round.
        let [flat, accused] = verdicts(HALF_AN_HOUR, 160.0, 0.0);
        assert!(flat <= 1 && accused >= 97, "{flat} flat, {accused} accused");
        // A large one in each third.
        let [flat, accused] = verdicts(HALF_AN_HOUR, 0.0, 1.0 / 3.0);
        assert!(flat <= 1 && accused >= 97, "{flat} flat, {accused} accused");
        // A small allocation for each connection that is lost, of which a round has twenty or more.
        assert_eq!(verdicts(HALF_AN_HOUR, 20.0 * 160.0, 0.0), [0, 100]);
    }

    fn rests(heap: impl Fn(u64) -> u64, tasks: impl Fn(u64) -> usize) -> Rests {
        Rests(
            (0..14)
                .map(|round| Usage {
                    heap: heap(round),
                    tasks: tasks(round),
                    ..Default::default()
                })
                .collect(),
        )
    }

    #[test]
    fn growth_is_told_from_noise() {
        // What the first rounds fill, and what swings, is no growth.
        let filled = rests(
            |round| 1_000_000 + 50_000 * round.min(2) + round % 3 * 5_000,
            |_| 7,
        );
        assert_eq!(filled.faults(), Vec::<String>::new());
        assert_eq!(rests(|_| 1_000_000, |_| 7).growth(), Some(0.0));
        let growing = rests(|round| 1_000_000 + 100_000 * round, |_| 7);
        assert_eq!(growing.growth(), Some(100_000.0));
        assert_eq!(growing.faults().len(), 1);
    }

    #[test]
    fn one_task_too_many_is_seen() {
        assert_eq!(
            rests(|_| 0, |round| 7 + usize::from(round > 9))
                .faults()
                .len(),
            1
        );
    }
}
