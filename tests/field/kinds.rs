//! Kinds of legs: what an end, a reset and a loss look like on each muxer and transport.
