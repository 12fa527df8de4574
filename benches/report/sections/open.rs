//! Round trips from `open_stream` to the first of the application's bytes at the other side, on a path
//! that takes 50 ms each way.

use std::time::{Duration, Instant};

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};

use super::on_runtime;
use crate::{
    Effort,
    net::{Incoming, Io, Kind, Net, OURS, PLAIN, Setup},
    path::Path,
    stats::{Goal, Pair, Report, Row},
};

const SECTION: &str = "open";
const EACH_WAY: Duration = Duration::from_millis(50);
const ROUND_TRIP_MS: f64 = 100.0;

/// What the dialer knows of the listener, and what is true.
#[derive(Debug, Clone, Copy)]
struct Case {
    kind: Kind,
    lazy: bool,
    identify: bool,
    supported: bool,
}

impl Case {
    fn name(self) -> String {
        let support = match (self.supported, self.identify) {
            (true, true) => "support known",
            (true, false) => "support unknown",
            (false, true) => "absent, known",
            (false, false) => "absent, unknown",
        };
        let version = if self.lazy { "V1Lazy" } else { "V1" };
        format!("{}, {version}, {support}", self.kind.name())
    }

    /// In round trips, ours and plain.
    async fn run(self, pairs: usize) -> Vec<Pair> {
        let setup = Setup {
            identify: self.identify,
            lazy: self.lazy,
            ..Default::default()
        };
        let listener = Setup {
            migration: self.supported,
            ..setup.clone()
        };
        let mut net = Net::with(&setup, &listener);
        // A listener that knows nothing of migration serves the protocol as a plain one.
        let mut served = (!self.supported).then(|| {
            let accepted = net.listener.plain.accept(OURS);
            accepted.expect("registered once")
        });
        let path = Path::new(EACH_WAY);
        let connection = net.connect_by(self.kind, &path).await;
        if self.identify {
            net.identified(1).await;
        }
        let peer = net.listener.id;
        let mut samples = Vec::new();
        for _ in 0..pairs {
            let start = Instant::now();
            let control = &mut net.dialer.control;
            let open = async {
                let opened = control.open_stream_on(peer, connection, OURS).await;
                say(opened.expect("a stream")).await
            };
            let listen = async {
                match &mut served {
                    Some(served) => {
                        let (_, stream) = served.next().await.expect("a stream");
                        hear(stream).await
                    }
                    None => hear(accepted(&mut net.incoming).await).await,
                }
            };
            let (ours, (heard, _accepted)) = futures::join!(open, listen);
            let ours_took = heard - start;
            drop(ours);

            let start = Instant::now();
            let plain = &mut net.dialer.plain;
            let open = async {
                let opened = plain.open_stream(peer, PLAIN).await;
                say(opened.expect("a stream")).await
            };
            let listen = async {
                let (_, stream) = net.plain_incoming.next().await.expect("a stream");
                hear(stream).await
            };
            let (plain, (heard, _accepted)) = futures::join!(open, listen);
            let plain_took = heard - start;
            drop(plain);
            samples.push((
                1000.0 * ours_took.as_secs_f64() / ROUND_TRIP_MS,
                1000.0 * plain_took.as_secs_f64() / ROUND_TRIP_MS,
            ));
        }
        samples
    }
}

async fn accepted(incoming: &mut Incoming) -> libp2p_stream_migration::Stream {
    let (_, stream) = incoming.next().await.expect("a stream");
    stream
}

async fn say<T: Io>(mut stream: T) -> T {
    stream.write_all(&[1]).await.expect("writing");
    stream.flush().await.expect("flushing");
    stream
}

/// When it came; and the stream, whatever it is, so that it is not dropped at once.
async fn hear<T: Io>(mut stream: T) -> (Instant, Box<dyn Send>) {
    stream.read_exact(&mut [0]).await.expect("reading");
    (Instant::now(), Box::new(stream))
}

pub fn run(effort: Effort, report: &mut Report) {
    let mut cases = Vec::new();
    for kind in [Kind::Tcp, Kind::Quic] {
        for lazy in [false, true] {
            for (supported, identify) in
                [(true, true), (true, false), (false, true), (false, false)]
            {
                cases.push(Case {
                    kind,
                    lazy,
                    identify,
                    supported,
                });
            }
        }
    }
    // They wait and do little else, so all at once.
    let results = on_runtime(async {
        let tasks: Vec<_> = cases
            .iter()
            .map(|case| tokio::spawn(case.run(effort.pairs)))
            .collect();
        futures::future::join_all(tasks).await
    });
    for (case, pairs) in cases.into_iter().zip(results) {
        let pairs = pairs.expect("a case");
        // To whole flights of half a round trip.
        let flights = |trips: f64| (2.0 * trips).round() / 2.0;
        let rounded: Vec<_> = pairs
            .iter()
            .map(|(ours, plain)| (flights(*ours), flights(*plain)))
            .collect();
        let goal = if case.identify { 0.0 } else { 1.0 };
        let name = format!("{}: round trips", case.name());
        report.add(Row::difference(SECTION, name, &rounded, Goal::AtMost(goal)));
        let name = format!("{}: time / 100 ms", case.name());
        report.add(Row::ratio(SECTION, name, &pairs, Goal::None));
    }
}
