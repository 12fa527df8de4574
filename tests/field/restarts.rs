//! Peers that come back with their key.
