//! Connections that are there and do not answer, beside ones that do.
