//! Connections that others make for a moment, and duplicates that somebody else closes.
