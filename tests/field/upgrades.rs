//! Rolling upgrades: nodes that serve a protocol in different ways.
