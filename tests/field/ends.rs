//! Ends of streams: what they look like, and what they prove.
