//! The rate at which the remote may ask to move one stream (*Hostile or broken peers*).

use std::time::Duration;

use web_time::Instant;

/// Allows so many per second, and as many at once.
#[derive(Debug, Default)]
pub(super) struct Rate {
    /// The time at which all that was allowed so far will have been paid for.
    paid: Option<Instant>,
}

impl Rate {
    /// True if one more is allowed now; if so, it counts.
    pub(super) fn allows(&mut self, per_second: u32, now: Instant) -> bool {
        const SECOND: Duration = Duration::from_secs(1);
        let Some(price) = SECOND.checked_div(per_second) else {
            return false;
        };
        let paid = self.paid.unwrap_or(now).max(now) + price;
        let allowed = paid <= now + SECOND;
        if allowed {
            self.paid = Some(paid);
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_at_once_as_per_second() {
        let start = Instant::now();
        for per_second in [1, 3, 7, 10, 1_000] {
            let mut rate = Rate::default();
            for _ in 0..per_second {
                assert!(rate.allows(per_second, start));
            }
            assert!(!rate.allows(per_second, start));
            let price = Duration::from_secs(1) / per_second;
            // What was refused has not been counted.
            assert!(!rate.allows(per_second, start + price / 2));
            assert!(rate.allows(per_second, start + price));
            assert!(!rate.allows(per_second, start + price));
            let later = start + Duration::from_secs(100);
            for _ in 0..per_second {
                assert!(rate.allows(per_second, later));
            }
            assert!(!rate.allows(per_second, later));
        }
    }

    #[test]
    fn none_is_none() {
        assert!(!Rate::default().allows(0, Instant::now()));
    }
}
