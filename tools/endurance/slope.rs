//! The slope of what was counted at many rests: Theil and Sen's, the median of the slopes of all pairs, which a few
//! steps and swings do not move; and Sen's interval for it, from how many pairs rise (Kendall's count).

/// Fewer rests than these tell nothing.
pub const LEAST: usize = 30;

/// The interval is as wide as so many standard deviations of Kendall's count: one in a thousand is outside.
const DEVIATIONS: f64 = 3.3;

/// A slope per rest, and between what it is as good as certainly.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slope {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

impl Slope {
    /// `None` if there are too few to tell a slope from what swings.
    pub fn of(heights: &[f64]) -> Option<Self> {
        let rests = heights.len();
        if rests < LEAST {
            return None;
        }
        let pairs = (0..rests).flat_map(|a| (a + 1..rests).map(move |b| (a, b)));
        let slope = |(a, b): (usize, usize)| (heights[b] - heights[a]) / (b - a) as f64;
        let mut slopes: Vec<_> = pairs.map(slope).collect();
        slopes.sort_by(f64::total_cmp);
        let n = rests as f64;
        let wide = DEVIATIONS * (n * (n - 1.0) * (2.0 * n + 5.0) / 18.0).sqrt();
        let middle = slopes.len() / 2;
        let away = (wide / 2.0).ceil() as usize + 1;
        Some(Self {
            median: slopes[middle],
            least: slopes[middle.saturating_sub(away)],
            most: slopes[(middle + away).min(slopes.len() - 1)],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rests::tests::heaps;

    /// The last rests of a run of half an hour (seed 31), in bytes.
    const SEEN: [f64; 49] = [
        12_956_322.0,
        12_956_782.0,
        12_956_186.0,
        12_956_234.0,
        12_956_812.0,
        12_956_207.0,
        12_956_684.0,
        12_955_774.0,
        12_956_329.0,
        12_956_760.0,
        12_956_878.0,
        12_956_161.0,
        12_956_241.0,
        12_956_845.0,
        12_956_327.0,
        12_956_208.0,
        12_955_712.0,
        12_960_359.0,
        12_956_252.0,
        12_955_754.0,
        12_956_187.0,
        12_956_841.0,
        12_956_312.0,
        12_956_305.0,
        12_961_011.0,
        12_956_358.0,
        12_956_824.0,
        12_956_407.0,
        12_956_371.0,
        12_956_284.0,
        12_961_028.0,
        12_956_343.0,
        12_955_684.0,
        12_961_217.0,
        12_960_733.0,
        12_960_128.0,
        12_960_197.0,
        12_952_479.0,
        12_951_943.0,
        12_960_744.0,
        12_960_156.0,
        12_950_444.0,
        12_950_422.0,
        12_950_416.0,
        12_950_407.0,
        12_958_279.0,
        12_957_309.0,
        12_957_785.0,
        12_958_270.0,
    ];

    fn leaking(bytes: f64) -> Option<Slope> {
        let rests = SEEN.iter().zip(0_u32..);
        Slope::of(
            &rests
                .map(|(heap, at)| heap + bytes * f64::from(at))
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn what_was_seen_is_flat_and_would_not_be_with_a_leak() {
        let flat = leaking(0.0).expect("enough rests");
        assert!(flat.most <= 160.0 && flat.least <= 0.0, "{flat:?}");
        let leaks = leaking(160.0).expect("enough rests");
        assert!(leaks.most > 160.0 && leaks.least > 0.0, "{leaks:?}");
    }

    /// No leak of 160 bytes a round passes for none.
    #[test]
    fn a_small_leak_is_not_acquitted() {
        let acquitted = |seed: &u64| {
            let slope = Slope::of(&heaps(*seed, 48, 160.0));
            slope.is_some_and(|slope| slope.most <= 160.0)
        };
        let acquitted = (0..300).filter(acquitted).count();
        assert!(acquitted <= 6, "{acquitted} of 300");
    }

    #[test]
    fn a_line_is_its_own_slope() {
        let line: Vec<_> = (0..48_u32).map(|at| 3.0 * f64::from(at)).collect();
        let slope = Slope::of(&line).expect("enough rests");
        assert_eq!((slope.least, slope.median, slope.most), (3.0, 3.0, 3.0));
        assert_eq!(Slope::of(&line[..LEAST - 1]), None);
    }
}
