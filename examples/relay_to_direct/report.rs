//! What a transfer has shown, as a table or as JSON.

use std::time::Duration;

use serde_json::{Value, json};

use crate::transfer::{Received, longest_gap};

/// One direction.
#[derive(Debug, Clone)]
pub struct Direction {
    pub sent: u64,
    pub received: Received,
    /// Bytes of the transfer on each leg, without what goes before and after them.
    pub old_leg: u64,
    pub new_leg: u64,
}

impl Direction {
    /// The longest time between two of the last arrivals on the old leg and the first on the new
    /// one, if the receiver is in this process.
    fn gap_at_the_switch(&self) -> Option<Duration> {
        let arrivals = &self.received.arrivals;
        let first = arrivals.partition_point(|(_, position)| *position < self.old_leg);
        let around = arrivals.get(first.saturating_sub(2)..arrivals.len().min(first + 2))?;
        (around.len() > 1).then(|| longest_gap(around))
    }
}

/// The whole run.
#[derive(Debug, Clone)]
pub struct Report {
    pub dial_to_listen: Direction,
    pub listen_to_dial: Direction,
    pub migrations: usize,
    pub path_before: String,
    pub path_after: String,
    /// From the direct connection to the end of the migration.
    pub switch: Option<Duration>,
    /// From the agreement to the end of the migration.
    pub took: Option<Duration>,
    pub relayed_connection_closed: bool,
}

impl Report {
    /// What is not as it should be.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (name, direction) in self.directions() {
            let received = &direction.received;
            let mut check = |fine: bool, what: String| {
                if !fine {
                    faults.push(format!("{name}: {what}"));
                }
            };
            check(received.lost == 0, format!("{} bytes lost", received.lost));
            check(
                received.duplicated == 0,
                format!("{} bytes duplicated", received.duplicated),
            );
            check(
                received.bytes == direction.sent,
                format!("{} bytes received, {} sent", received.bytes, direction.sent),
            );
            check(received.sha256_match, "SHA-256 differs".to_owned());
            check(direction.old_leg > 0, "nothing on the old leg".to_owned());
            check(direction.new_leg > 0, "nothing on the new leg".to_owned());
        }
        // Hole punching over QUIC leaves two direct connections, and a run that takes long sees them merged.
        if self.migrations == 0 {
            faults.push("no migration".to_owned());
        }
        if !self.relayed_connection_closed {
            faults.push("the relayed connection was not closed within 10 s".to_owned());
        }
        faults
    }

    fn directions(&self) -> [(&'static str, &Direction); 2] {
        [
            ("dial_to_listen", &self.dial_to_listen),
            ("listen_to_dial", &self.listen_to_dial),
        ]
    }

    pub fn json(&self) -> Value {
        let both = |value: &dyn Fn(&Direction) -> Value| {
            let pairs = self
                .directions()
                .map(|(name, direction)| (name.to_owned(), value(direction)));
            Value::Object(pairs.into_iter().collect())
        };
        json!({
            "bytes_sent": both(&|d| d.sent.into()),
            "bytes_received": both(&|d| d.received.bytes.into()),
            "bytes_lost": both(&|d| d.received.lost.into()),
            "bytes_duplicated": both(&|d| d.received.duplicated.into()),
            "old_leg_bytes": both(&|d| d.old_leg.into()),
            "new_leg_bytes": both(&|d| d.new_leg.into()),
            "longest_gap_ms": both(&|d| milliseconds(d.received.longest_gap).into()),
            "switch_gap_ms": both(&|d| d.gap_at_the_switch().map(milliseconds).into()),
            "sha256_match": self.directions().iter().all(|(_, d)| d.received.sha256_match),
            "migrations": self.migrations,
            "path_before": self.path_before,
            "path_after": self.path_after,
            "switch_ms": self.switch.map(milliseconds),
            "agreed_to_switched_ms": self.took.map(milliseconds),
            "relayed_connection_closed": self.relayed_connection_closed,
        })
    }

    pub fn table(&self) -> String {
        let (one, other) = ("dial → listen", "listen → dial");
        let mut lines = vec![format!("{:34}{one:>16}{other:>16}", "")];
        let mut row = |name: &str, value: &dyn Fn(&Direction) -> String| {
            let [one, other] = self.directions().map(|(_, direction)| value(direction));
            lines.push(format!("{name:34}{one:>16}{other:>16}"));
        };
        row("bytes sent", &|d| d.sent.to_string());
        row("bytes received", &|d| d.received.bytes.to_string());
        row("lost, duplicated", &|d| {
            format!("{}, {}", d.received.lost, d.received.duplicated)
        });
        row("SHA-256", &|d| {
            if d.received.sha256_match {
                "equal"
            } else {
                "DIFFERS"
            }
            .to_owned()
        });
        row(&format!("on the old leg ({})", self.path_before), &|d| {
            d.old_leg.to_string()
        });
        row(&format!("on the new leg ({})", self.path_after), &|d| {
            d.new_leg.to_string()
        });
        row("longest gap", &|d| {
            format!("{:.1} ms", milliseconds(d.received.longest_gap))
        });
        row("gap at the switch", &|d| match d.gap_at_the_switch() {
            Some(gap) => format!("{:.1} ms", milliseconds(gap)),
            None => "not known here".to_owned(),
        });
        lines.push(format!("migrations: {}", self.migrations));
        if let Some(switch) = self.switch {
            lines.push(format!(
                "direct connection to switched: {:.1} ms",
                milliseconds(switch)
            ));
        }
        if let Some(took) = self.took {
            lines.push(format!("agreed to switched: {:.1} ms", milliseconds(took)));
        }
        lines.push(format!(
            "relayed connection closed: {}",
            self.relayed_connection_closed
        ));
        lines.join("\n")
    }
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
