//! Streams of unmodified behaviours, below the swarm: real swarms whose transport is wrapped.

mod books;
mod hostile;
mod moves;
