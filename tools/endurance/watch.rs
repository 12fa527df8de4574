//! What the process uses.

use std::fs;

use crate::alloc;

/// Blocks up to this size are what objects are made of. Larger ones are buffers and tables, which double.
const SMALL: usize = 512;

#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Bytes that are allocated.
    pub heap: u64,
    /// Of these, bytes in small blocks.
    pub small: u64,
    /// How many larger blocks there are.
    pub large: usize,
    /// Bytes that are in memory; 0 where the system does not tell.
    pub resident: u64,
    /// Open files and sockets; 0 where the system does not tell.
    pub descriptors: usize,
    /// Of tokio.
    pub tasks: usize,
    /// Of all swarms together.
    pub connections: usize,
}

impl Usage {
    pub fn now(connections: usize) -> Self {
        let (small, large) = alloc::parts(SMALL);
        Self {
            heap: alloc::live(),
            small,
            large,
            resident: resident().unwrap_or_default(),
            descriptors: descriptors().unwrap_or_default(),
            tasks: tokio::runtime::Handle::current()
                .metrics()
                .num_alive_tasks(),
            connections,
        }
    }
}

/// Of which sizes there are more blocks than there were, those that make the most of it first.
pub fn grown(before: &[usize], now: &[usize]) -> Vec<(usize, isize)> {
    let more = before
        .iter()
        .zip(now)
        .enumerate()
        .map(|(place, (before, now))| (alloc::size_at(place), now.wrapping_sub(*before) as isize));
    let mut grown: Vec<_> = more.filter(|(_, more)| *more != 0).collect();
    grown.sort_by_key(|(size, more)| std::cmp::Reverse(more.unsigned_abs() * size));
    grown
}

fn descriptors() -> Option<usize> {
    // The directory is one of them while it is read.
    Some(
        fs::read_dir("/proc/self/fd")
            .ok()?
            .count()
            .saturating_sub(1),
    )
}

fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
