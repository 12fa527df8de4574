//! What a run has shown, as a table or as JSON.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};

use crate::{
    args::Args,
    paths::Written,
    picture,
    scenario::Run,
    tally::{Protocol, Side, Tally},
};

/// One protocol, both sides together.
pub struct Row {
    pub protocol: Protocol,
    pub sent: u64,
    pub received: u64,
    lost: u64,
    doubled: u64,
    errors: Vec<String>,
    pub longest_gap: Duration,
    pub written: Written,
}

pub struct Report {
    rows: Vec<Row>,
    /// The layer's own, relaying, hole punching.
    rest: Written,
    migrations: u32,
    /// Connections that the swarms have seen closed, and why.
    closed: Vec<String>,
    complaints: Vec<String>,
    chronicle: Vec<(Duration, &'static str)>,
    missing: Vec<String>,
    args: Args,
}

impl Report {
    pub fn new(args: &Args, run: &Run, missing: Vec<String>) -> Self {
        let mut written = BTreeMap::<_, Written>::new();
        for paths in &run.paths {
            for (protocol, more) in paths.written() {
                let written = written.entry(protocol).or_default();
                written.relayed += more.relayed;
                written.direct += more.direct;
                written.moves += more.moves;
            }
        }
        let mut of = |protocol| written.remove(&protocol).unwrap_or_default();
        run.book.read(|tally| {
            let sides = || Side::BOTH.map(|side| tally.side(side));
            let row = |protocol| row(tally, protocol, of(Some(protocol)));
            Self {
                rows: Protocol::ALL.map(row).into(),
                rest: of(None),
                migrations: sides().map(|seen| seen.migrations).iter().sum(),
                closed: sides().map(|seen| seen.closed.clone()).concat(),
                complaints: sides().map(|seen| seen.complaints.clone()).concat(),
                chronicle: run.chronicle.clone(),
                missing,
                args: args.clone(),
            }
        })
    }

    /// What is not as it should be with the layer. Without it, the table is the report.
    pub fn faults(&self) -> Vec<String> {
        let missing = self.missing.iter().map(|it| format!("missing: {it}"));
        let mut faults: Vec<String> = missing.collect();
        if self.args.without {
            return faults;
        }
        for row in &self.rows {
            let (name, unit) = (row.protocol.name(), row.protocol.unit());
            let mut check = |fine: bool, what: String| {
                if !fine {
                    faults.push(format!("{name}: {what}"));
                }
            };
            check(row.lost == 0, format!("{} {unit} lost", row.lost));
            check(row.doubled == 0, format!("{} {unit} doubled", row.doubled));
            let written = row.written;
            check(written.relayed > 0, "nothing went over the relay".into());
            check(written.direct > 0, "nothing went directly".into());
            faults.extend(errors(row));
        }
        faults.extend_from_slice(&self.complaints);
        faults
    }

    pub fn json(&self) -> Value {
        let protocols = self.rows.iter().map(|row| {
            let value = json!({
                "unit": row.protocol.unit(),
                "sent": row.sent,
                "received": row.received,
                "lost": row.lost,
                "doubled": row.doubled,
                "errors": row.errors,
                "longest_gap_ms": milliseconds(row.longest_gap),
                "bytes_relayed": row.written.relayed,
                "bytes_direct": row.written.direct,
                "moves": row.written.moves,
            });
            (row.protocol.name().to_owned(), value)
        });
        let chronicle = self.chronicle.iter().map(|(at, what)| {
            let what = (*what).to_owned();
            (what, milliseconds(*at).into())
        });
        let total = self.total();
        json!({
            "layer": !self.args.without,
            "transport": self.args.transport.name(),
            "by": self.args.by().name(),
            "seed": self.args.seed,
            "protocols": protocols.collect::<serde_json::Map<_, Value>>(),
            "bytes_relayed": total.relayed,
            "bytes_direct": total.direct,
            "moves": total.moves,
            "migrations": self.migrations,
            "connections_closed": self.closed,
            "complaints": self.complaints,
            "when_ms": chronicle.collect::<serde_json::Map<_, Value>>(),
            "faults": self.faults(),
        })
    }

    pub fn svg(&self) -> String {
        let how = match self.args.without {
            true => "Without the layer",
            false => "Unmodified behaviours, the transport wrapped",
        };
        let title = format!("{how}: a direct connection comes, then the relay stops");
        picture::svg(&self.rows, &title)
    }

    fn total(&self) -> Written {
        let all = self.rows.iter().map(|row| row.written);
        all.fold(self.rest, |sum, more| Written {
            relayed: sum.relayed + more.relayed,
            direct: sum.direct + more.direct,
            moves: sum.moves + more.moves,
        })
    }

    pub fn table(&self) -> String {
        let mut lines = vec![format!(
            "{:20}{:>10}{:>10}{:>9}{:>8}{:>7}{:>12}{:>12}{:>12}{:>7}",
            "",
            "sent",
            "received",
            "lost",
            "doubled",
            "errors",
            "longest gap",
            "relayed, B",
            "direct, B",
            "moves"
        )];
        for row in &self.rows {
            let name = format!("{}, {}", row.protocol.name(), row.protocol.unit());
            lines.push(format!(
                "{name:20}{:>10}{:>10}{:>9}{:>8}{:>7}{:>9.1} ms{}",
                row.sent,
                row.received,
                row.lost,
                row.doubled,
                row.errors.len(),
                milliseconds(row.longest_gap),
                cells(row.written),
            ));
        }
        lines.push(format!("{:76}{}", "what else there is", cells(self.rest)));
        lines.push(format!("{:76}{}", "all", cells(self.total())));
        let closed = self.closed.iter();
        lines.extend(closed.map(|it| format!("closed for the swarm: {it}")));
        if self.closed.is_empty() {
            lines.push("neither swarm has seen a connection between the two closed".to_owned());
        }
        if self.args.without {
            lines.push(WITHOUT.to_owned());
            lines.extend(self.rows.iter().flat_map(errors));
        }
        lines.join("\n")
    }
}

const WITHOUT: &str = "Without the layer, what began on the relayed connection stays there, though \
    there is a direct one beside it, and dies with the relay:";

fn row(tally: &Tally, protocol: Protocol, written: Written) -> Row {
    let lines = Side::BOTH.map(|side| tally.side(side).line(protocol));
    let gaps = lines.map(|line| line.longest_gap);
    Row {
        protocol,
        sent: tally.sum(protocol, |line| line.sent),
        received: tally.sum(protocol, |line| line.received),
        lost: tally.lost(protocol),
        doubled: tally.sum(protocol, |line| line.doubled),
        errors: lines.map(|line| line.errors.clone()).concat(),
        longest_gap: gaps.into_iter().max().unwrap_or_default(),
        written,
    }
}

/// A protocol's errors, each once.
fn errors(row: &Row) -> Vec<String> {
    let mut numbers = BTreeMap::<_, usize>::new();
    for error in &row.errors {
        *numbers.entry(error).or_default() += 1;
    }
    let name = row.protocol.name();
    let tell = |(error, number): (&String, usize)| match number {
        1 => format!("{name}: {error}"),
        number => format!("{name}: {error} ({number} times)"),
    };
    numbers.into_iter().map(tell).collect()
}

fn cells(written: Written) -> String {
    let Written {
        relayed,
        direct,
        moves,
    } = written;
    format!("{relayed:>12}{direct:>12}{moves:>7}")
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e4).round() / 10.0
}
