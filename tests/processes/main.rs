//! Examples as programs: what they print, and how they exit.

mod channels;
mod file_transfer;
mod rate_limited;
mod relay_to_direct;
mod roam;
