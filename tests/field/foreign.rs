//! Peers written by others, byte by byte.
