//! Metrics as a scraper reads them.

use prometheus_client::{encoding::text, registry::Registry};

use crate::Fallible;

/// What all names of ours begin with.
const PREFIX: &str = "libp2p_stream_migration_";

/// A text in the OpenMetrics format.
pub struct Scrape(String);

impl Scrape {
    pub fn of(registry: &Registry) -> Fallible<Self> {
        let mut text = String::new();
        text::encode(&mut text, registry)?;
        Ok(Self(text))
    }

    pub fn into_text(self) -> String {
        self.0
    }

    /// The sum of the series of this name that have these labels, among others.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let values = self.0.lines().filter_map(|line| {
            let (series, value) = line.strip_prefix(PREFIX)?.rsplit_once(' ')?;
            let (found, rest) = series.split_once('{').unwrap_or((series, ""));
            let has = |(name, value): &(&str, &str)| rest.contains(&format!("{name}=\"{value}\""));
            let wanted = found == name && labels.iter().all(has);
            wanted.then(|| value.parse::<f64>().ok())?
        });
        values.sum()
    }
}
