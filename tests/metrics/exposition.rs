//! The OpenMetrics text format, as far as it is used here.

use std::collections::{BTreeMap, BTreeSet};

/// One line of a scrape.
#[derive(Debug)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Sample {
    fn parse(line: &str) -> Self {
        let (name, mut rest) = line.split_at(line.find(['{', ' ']).unwrap());
        let mut labels = BTreeMap::new();
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside;
            while !rest.starts_with('}') {
                let (label, value) = rest.split_once("=\"").unwrap();
                // No value here has an escape.
                let (value, after) = value.split_once('"').unwrap();
                assert!(!value.contains('\\'), "{line}");
                assert_eq!(labels.insert(label.to_owned(), value.to_owned()), None);
                rest = after.strip_prefix(',').unwrap_or(after);
            }
            rest = &rest[1..];
        }
        Self {
            name: name.to_owned(),
            labels,
            value: rest.trim().parse().unwrap(),
        }
    }

    pub fn has(&self, labels: &[(impl AsRef<str>, impl AsRef<str>)]) -> bool {
        labels.iter().all(|(name, value)| {
            self.labels.get(name.as_ref()).map(String::as_str) == Some(value.as_ref())
        })
    }
}

/// A scrape.
#[derive(Debug)]
pub struct Exposition {
    pub samples: Vec<Sample>,
    /// What the lines of each metric are called, and the metric's labels.
    pub metrics: BTreeMap<String, BTreeSet<String>>,
}

impl Exposition {
    pub fn parse(text: &str) -> Self {
        let body = text.strip_suffix("# EOF\n").expect("it is whole");
        let mut samples = Vec::new();
        let mut types = BTreeMap::new();
        for line in body.lines() {
            match line.strip_prefix("# TYPE ") {
                Some(kind) => {
                    let (name, kind) = kind.split_once(' ').unwrap();
                    assert_eq!(types.insert(name, kind), None, "{name} is there twice");
                }
                None if line.starts_with('#') => {}
                None => samples.push(Sample::parse(line)),
            }
        }
        let metrics = types.into_iter().map(|(name, kind)| {
            let (called, sample) = match kind {
                "counter" => (format!("{name}_total"), format!("{name}_total")),
                "histogram" => (name.to_owned(), format!("{name}_count")),
                "gauge" => (name.to_owned(), name.to_owned()),
                _ => panic!("{name} is a {kind}"),
            };
            let of_it = samples.iter().filter(|it: &&Sample| it.name == sample);
            let labels = of_it.flat_map(|it| it.labels.keys().cloned()).collect();
            (called, labels)
        });
        Self {
            metrics: metrics.collect(),
            samples,
        }
    }

    /// The sum of the series of this metric of ours that have these labels, among others. There has
    /// to be one.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let name = format!("{}{name}", super::PREFIX);
        let mut wanted = self
            .samples
            .iter()
            .filter(|sample| sample.name == name && sample.has(labels))
            .peekable();
        assert!(
            wanted.peek().is_some(),
            "there is no {name} with {labels:?}"
        );
        wanted.map(|sample| sample.value).sum()
    }
}
