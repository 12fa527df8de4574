//! Streams that move between real connections of real swarms on loopback.

mod dcutr;
mod direct;
mod facts;
mod failures;
mod hostile;
mod limits;
mod moves;
mod policies;
mod prune;
mod raw;
mod resume;
mod returns;
mod scenarios;
mod silence;
