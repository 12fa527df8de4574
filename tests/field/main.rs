//! Situations that users of libp2p have reported, each as a test: one room a kind. A test's first line is
//! the situation in a user's words, its last the public report that it came from.

mod books;
mod browser;
mod closing;
mod crowds;
mod dead_paths;
mod dialing;
mod ends;
mod ends_of_swarms;
mod foreign;
mod kinds;
mod probes;
mod relays;
mod restarts;
mod upgrades;
