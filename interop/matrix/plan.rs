//! Which cases there are: every combination of transports, opener and mover for the plain move under
//! load, and every other scenario on transports that represent the rest.

use crate::case::{Case, Impl, Knows, Role, Scenario, Side, Transport, When};

use Transport::{Quic, Relayed, TcpNoise, TcpTls, Ws};

const OVER_GO: Transport = Relayed(Impl::Go);
const OVER_RUST: Transport = Relayed(Impl::Rust);

/// All cases, by pair.
pub fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for dialer in Impl::ALL {
        for listener in Impl::ALL {
            Pair { dialer, listener }.plan(&mut cases);
        }
    }
    cases
}

/// A part of them that takes little time and has something of everything, for `cargo test`.
pub const SMOKE: [&str; 13] = [
    "rust-go/load/relay-go_to_quic/dialer-opens/dialer-moves",
    "rust-go/load/tcp-noise_to_ws/listener-opens/listener-moves",
    "go-rust/load/relay-rust_to_tcp-tls/dialer-opens/listener-moves",
    "go-rust/load/quic_to_tcp-noise/listener-opens/dialer-moves",
    "rust-go/four-moves/tcp-noise_to_quic/dialer-opens/dialer-moves",
    "go-rust/idle/relay-rust_to_quic/listener-opens/listener-moves",
    "rust-go/deny/tcp-noise_to_quic/dialer-opens/dialer-moves",
    "go-rust/retry/tcp-noise_to_quic/dialer-opens/dialer-moves",
    "rust-go/reset-by-responder-after-ack/tcp-noise_to_quic/dialer-opens/dialer-moves",
    "rust-js/load/tcp-noise_to_ws/dialer-opens/dialer-moves",
    "js-rust/load/tcp-noise_to_ws/dialer-opens/dialer-moves",
    "rust-go/layered/plain/count/relay-go_to_tcp-noise/dialer-opens/dialer-moves",
    "js-rust/layered/plain/count/ws_to_relay-rust/listener-opens/listener-moves",
];

#[derive(Clone, Copy)]
struct Pair {
    dialer: Impl,
    listener: Impl,
}

impl Pair {
    fn js(self) -> bool {
        [self.dialer, self.listener].contains(&Impl::Js)
    }

    fn plan(self, cases: &mut Vec<Case>) {
        self.load(cases);
        let routes: &[_] = if self.js() {
            &[(TcpNoise, Ws)]
        } else {
            &[(TcpNoise, Quic), (OVER_GO, Ws)]
        };
        for &route in routes {
            self.rest(route, cases);
        }
        // Where it matters what the old connection is.
        let more: &[_] = if self.js() {
            &[(OVER_GO, TcpNoise)]
        } else {
            &[(OVER_RUST, Quic), (Ws, TcpTls)]
        };
        for &route in more {
            self.over(Scenario::Idle, route, cases);
            self.over(Scenario::FourMoves, route, cases);
        }
        self.count(cases);
        let relays: &[_] = if self.js() {
            &[(OVER_GO, TcpNoise), (OVER_RUST, Ws)]
        } else {
            &[(OVER_GO, Quic), (OVER_RUST, TcpNoise)]
        };
        for &route in relays {
            for side in Side::BOTH {
                self.over(Scenario::RelayedCloses(side), route, cases);
            }
        }
    }

    /// A plain move under load.
    fn load(self, cases: &mut Vec<Case>) {
        for old in Transport::ALL {
            for new in Transport::ALL {
                if !self.js() || speaks_js(old, new) {
                    for opener in Side::BOTH {
                        self.movers(Scenario::Load, (old, new), opener, cases);
                    }
                }
            }
        }
    }

    fn rest(self, route: (Transport, Transport), cases: &mut Vec<Case>) {
        let mut scenarios = vec![
            Scenario::Idle,
            Scenario::FourMoves,
            Scenario::Deny,
            Scenario::Retry,
            Scenario::BareAccept,
            Scenario::BareDeny,
            Scenario::Nested,
            Scenario::Unverified(None),
        ];
        for side in Side::BOTH {
            scenarios.extend([
                Scenario::HalfBefore(side),
                Scenario::HalfDuring(side),
                Scenario::Simultaneous(side),
                Scenario::Unverified(Some(side)),
            ]);
        }
        for role in [Role::Initiator, Role::Responder] {
            scenarios.extend([When::Before, When::After].map(|when| Scenario::Reset(role, when)));
        }
        for scenario in scenarios {
            self.over(scenario, route, cases);
        }
        self.over(Scenario::Layered, route, cases);
        for layered in Side::BOTH {
            self.over(
                Scenario::LayeredBeside(layered, Knows::Streams),
                route,
                cases,
            );
            for opener in Side::BOTH {
                let scenario = Scenario::LayeredBeside(layered, Knows::Nothing);
                cases.push(self.case(scenario, route, opener, layered));
            }
        }
        // Only the side that knows the protocol can try to move.
        for plain in Side::BOTH {
            for opener in Side::BOTH {
                let scenario = Scenario::Fallback(plain);
                cases.push(self.case(scenario, route, opener, plain.other()));
            }
        }
    }

    /// A plain peer and a layered one of Rust's, on direct connections and on relayed ones.
    fn count(self, cases: &mut Vec<Case>) {
        let rust = [self.dialer, self.listener].map(|it| it == Impl::Rust);
        let layered = match rust {
            [true, false] => Side::Dialer,
            [false, true] => Side::Listener,
            _ => return,
        };
        let routes: &[_] = if self.js() {
            &[
                (TcpNoise, Ws),
                (OVER_GO, TcpNoise),
                (OVER_RUST, OVER_GO),
                (Ws, OVER_RUST),
            ]
        } else {
            &[
                (TcpNoise, Quic),
                (OVER_GO, TcpNoise),
                (OVER_RUST, OVER_GO),
                (Quic, OVER_RUST),
            ]
        };
        for &route in routes {
            cases.push(self.case(Scenario::LayeredCount, route, layered, layered));
        }
    }

    /// Moved by either. Over a relay the stream is opened by the one that was dialed, so that both come
    /// up with both.
    fn over(self, scenario: Scenario, route: (Transport, Transport), cases: &mut Vec<Case>) {
        let opener = if route.0.is_relayed() {
            Side::Listener
        } else {
            Side::Dialer
        };
        self.movers(scenario, route, opener, cases);
    }

    fn movers(
        self,
        scenario: Scenario,
        route: (Transport, Transport),
        opener: Side,
        cases: &mut Vec<Case>,
    ) {
        cases.extend(Side::BOTH.map(|mover| self.case(scenario, route, opener, mover)));
    }

    fn case(
        self,
        scenario: Scenario,
        (old, new): (Transport, Transport),
        opener: Side,
        mover: Side,
    ) -> Case {
        Case {
            dialer: self.dialer,
            listener: self.listener,
            scenario,
            old,
            new,
            opener,
            mover,
        }
    }
}

/// With js-libp2p, whose peer takes its time: all moves between TCP and WebSocket, those off relays, and
/// one each for TLS and QUIC.
fn speaks_js(old: Transport, new: Transport) -> bool {
    let common = [TcpNoise, Ws];
    common.contains(&new) && (old.is_relayed() || common.contains(&old))
        || [(TcpTls, Ws), (TcpNoise, Quic)].contains(&(old, new))
}
