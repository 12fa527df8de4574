//! The example's dashboard, against a scrape of the example.

use std::{
    collections::{BTreeSet, HashSet},
    io::{Read, Write},
    net::TcpStream,
    process::Command,
};

use serde_json::Value;
use testing::process::{Process, example_with};

use super::{
    PREFIX,
    exposition::Exposition,
    promql::{self, Selector},
};

const DASHBOARD: &str = include_str!("../../examples/metrics/dashboard.json");
/// What Prometheus itself adds to all it scrapes.
const OF_THE_SCRAPER: [&str; 2] = ["instance", "job"];

/// What the example serves.
fn scrape(url: &str) -> Exposition {
    let rest = url.strip_prefix("http://").unwrap();
    let (host, path) = rest.split_at(rest.find('/').unwrap());
    let mut tcp = TcpStream::connect(host).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    tcp.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    tcp.read_to_string(&mut response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(
        head.contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{head}"
    );
    Exposition::parse(body)
}

fn panels(dashboard: &Value) -> &[Value] {
    dashboard["panels"].as_array().unwrap()
}

/// All expressions, with where they are.
fn expressions(dashboard: &Value) -> Vec<(&str, &str)> {
    let panels = panels(dashboard).iter();
    let expressions = panels.flat_map(|panel| {
        let title = panel["title"].as_str().unwrap();
        let targets = panel["targets"].as_array().unwrap().iter();
        targets.map(move |target| (title, target["expr"].as_str().unwrap()))
    });
    expressions.collect()
}

/// Whether the scrape has what the selector names.
fn exists(scrape: &Exposition, selector: &Selector) -> bool {
    let known = selector.labels.iter();
    let labels = known.filter(|(label, _)| !OF_THE_SCRAPER.contains(&label.as_str()));
    scrape.samples.iter().any(|sample| {
        sample.name == selector.name
            && labels.clone().all(|(label, value)| match value {
                Some(value) => sample.has(&[(label, value)]),
                None => sample.labels.contains_key(label),
            })
    })
}

#[test]
fn every_panel_names_what_exists() {
    let program = example_with("metrics", &["metrics"]);
    let mut example = Process::spawn(Command::new(program).args(["--seconds", "3"]));
    let url = example.line("address", |line| {
        Some(line.strip_prefix("metrics at ")?.to_owned())
    });
    let there = url.replace("/metrics", "/there/metrics");
    let scrapes = [scrape(&url), scrape(&there)];
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let mut shown = BTreeSet::new();
    for scrape in &scrapes {
        for (title, expression) in expressions(&dashboard) {
            let names = promql::names(expression);
            assert!(!names.selectors.is_empty(), "{title}: {expression}");
            for selector in &names.selectors {
                assert!(exists(scrape, selector), "{title}: no {selector:?}");
                let of_it = scrape.samples.iter().filter(|it| it.name == selector.name);
                let has: BTreeSet<_> = of_it.flat_map(|it| it.labels.keys()).collect();
                for label in &names.labels {
                    assert!(has.contains(label), "{title}: no label {label}");
                }
                shown.insert(selector.name.clone());
            }
        }
        // Nor is a metric left out.
        for metric in scrape.metrics.keys() {
            let suffixes = ["", "_bucket", "_sum", "_count"];
            let mut names = suffixes.iter().map(|suffix| format!("{metric}{suffix}"));
            assert!(
                names.any(|name| shown.contains(&name)),
                "no panel shows {metric}"
            );
        }
    }

    let (migrations, rest) = example.line("last line", |line| {
        let rest = line.strip_prefix("migrations: ")?;
        let (migrations, rest) = rest.split_once(", ")?;
        Some((migrations.parse::<u64>().unwrap(), rest.to_owned()))
    });
    assert!(migrations > 0);
    let mean = rest
        .strip_prefix("lost bytes: 0, mean duration: ")
        .and_then(|rest| rest.strip_suffix(" ms"));
    assert!(mean.unwrap().parse::<f64>().unwrap() > 0.0, "{rest}");
    assert_eq!(example.exit_code(), Some(0));
}

/// What Grafana needs to show it.
#[test]
fn the_dashboard_is_one() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    for name in ["title", "uid"] {
        assert!(!dashboard[name].as_str().unwrap().is_empty());
    }
    // Longer ones are refused.
    assert!(dashboard["uid"].as_str().unwrap().len() <= 40);
    assert!(dashboard["schemaVersion"].is_u64());
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let variable = |name: &str| variables.iter().find(|it| it["name"] == name).unwrap();
    assert_eq!(variable("datasource")["type"], "datasource");
    assert_eq!(variable("datasource")["query"], "prometheus");
    let query = variable("instance")["query"]["query"].as_str().unwrap();
    assert_eq!(query, format!("label_values({PREFIX}streams, instance)"));

    let (mut ids, mut taken) = (HashSet::new(), HashSet::new());
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}");
        assert!(["timeseries", "stat"].contains(&panel["type"].as_str().unwrap()));
        let at = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(at("x") + at("w") <= 24, "{title}");
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(taken.insert((x, y)), "{title} lies on another panel");
            }
        }
        let mut refs = HashSet::new();
        for target in panel["targets"].as_array().unwrap() {
            assert!(refs.insert(target["refId"].as_str().unwrap()), "{title}");
        }
        let sources = panel["targets"].as_array().unwrap().iter().chain([panel]);
        for source in sources {
            assert_eq!(source["datasource"]["type"], "prometheus", "{title}");
            assert_eq!(source["datasource"]["uid"], "${datasource}", "{title}");
        }
    }
}
