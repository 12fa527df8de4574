//! Streams that move between real connections of real swarms on loopback.

mod harness;
mod moves;
mod scenarios;
