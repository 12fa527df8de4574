//! What is left when everything has ended: it must not become more from round to round.

use crate::watch::Usage;

/// The first round fills what has a bound: pools, and tables that keep their size.
pub const WARM_UP: usize = 1;
/// Fewer rests than this, the warm-up aside, tell nothing about the heap.
const FEWEST: usize = 6;
/// Bytes per round. A stream that is forgotten costs more than 1 KiB, and a round has hundreds.
pub const BOUND: f64 = 4096.0;

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

    /// Bytes of heap per round, if there are enough rounds: from the middle third's median to the last's.
    pub fn growth(&self) -> Option<f64> {
        let heaps: Vec<_> = self
            .0
            .iter()
            .skip(WARM_UP)
            .map(|usage| usage.heap)
            .collect();
        if heaps.len() < FEWEST {
            return None;
        }
        let third = heaps.len() / 3;
        let last = median(&heaps[heaps.len() - third..]);
        let middle = median(&heaps[heaps.len() - 2 * third..heaps.len() - third]);
        Some((last - middle) / third as f64)
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
        for (name, of) in kinds {
            if let [first, .., last] = warm
                && of(last) > of(first)
            {
                faults.push(format!("{name} at rest: {}, then {}", of(first), of(last)));
            }
        }
        if let Some(growth) = self.growth()
            && growth > BOUND
        {
            faults.push(format!("the heap grows by {growth:.0} bytes per round"));
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
mod tests {
    use super::*;

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
        let growing = rests(|round| 1_000_000 + 10_000 * round, |_| 7);
        assert_eq!(growing.growth(), Some(10_000.0));
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
