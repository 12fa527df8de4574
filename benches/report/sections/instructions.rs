//! What a read and a write of ours cost above the leg's own: instructions, counted by callgrind, and
//! allocations. Over legs in memory, both ends ours, so that all of it is ours or a copy.

use std::{
    env,
    process::{Command, Stdio},
    str::FromStr,
};

use crate::{
    Effort,
    alloc::Counter,
    pipe::{End, Sides, pass},
    stats::{Goal, Report, Row},
};

const SECTION: &str = "instructions";
const MIB: usize = 1 << 20;

/// What is to be counted: `wrapped:PIECE:MIB` or `unwrapped:PIECE:MIB`.
#[derive(Debug, Clone, Copy)]
pub struct Child {
    wrapped: bool,
    piece: usize,
    mib: usize,
}

impl FromStr for Child {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse().map_err(|_| format!("{text} is no number"));
        match text.split(':').collect::<Vec<_>>()[..] {
            [wrapped, piece, mib] => Ok(Self {
                wrapped: wrapped == "wrapped",
                piece: number(piece)?,
                mib: number(mib)?,
            }),
            _ => Err("it has three parts".to_owned()),
        }
    }
}

impl Child {
    pub fn run(self) {
        let passes = self.mib * MIB / self.piece;
        let (piece, mut buf) = (vec![0x5a; self.piece], vec![0; self.piece]);
        if self.wrapped {
            let Sides {
                mut opener,
                mut acceptor,
            } = Sides::new(End::pair());
            for _ in 0..passes {
                pass(&mut opener.io, &mut acceptor.io, &piece, &mut buf);
            }
        } else {
            let (mut opener, mut acceptor) = End::pair();
            for _ in 0..passes {
                pass(&mut opener, &mut acceptor, &piece, &mut buf);
            }
        }
    }

    /// Instructions of a process that does it.
    fn count(self) -> Result<f64, String> {
        let program = env::current_exe().map_err(|error| error.to_string())?;
        let wrapped = if self.wrapped { "wrapped" } else { "unwrapped" };
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(program)
            .arg("--child")
            .arg(format!("{wrapped}:{}:{}", self.piece, self.mib))
            .stdin(Stdio::null())
            .output()
            .map_err(|_| "there is no valgrind".to_owned())?;
        let said = String::from_utf8_lossy(&output.stderr);
        let collected = said.lines().find_map(|line| {
            let (_, counts) = line.split_once("Collected :")?;
            counts.trim().parse().ok()
        });
        collected.ok_or_else(|| "valgrind counted nothing".to_owned())
    }

    /// Instructions per MiB, without what starting costs.
    fn per_mib(wrapped: bool, piece: usize) -> Result<f64, String> {
        const LITTLE: usize = 1;
        const MUCH: usize = 9;
        let count = |mib| {
            let child = Self {
                wrapped,
                piece,
                mib,
            };
            child.count()
        };
        Ok((count(MUCH)? - count(LITTLE)?) / (MUCH - LITTLE) as f64)
    }
}

pub fn run(_: Effort, report: &mut Report) {
    for (piece, name) in [(64 * 1024, "64 KiB"), (1024, "1 KiB")] {
        let counts = [true, false].map(|wrapped| Child::per_mib(wrapped, piece));
        let per_mib = format!("{name} pieces, in memory: instructions per MiB");
        let added = format!("{name} pieces, in memory: instructions added to a write and a read");
        match counts {
            [Ok(ours), Ok(plain)] => {
                report.add(Row::ratio(SECTION, per_mib, &[(ours, plain)], Goal::None));
                let each = (ours - plain) / (MIB / piece) as f64;
                report.add(Row::ours(SECTION, added, &[each], Goal::None));
            }
            [Err(error), _] | [_, Err(error)] => {
                report.add(Row::not_measured(SECTION, per_mib, &error));
            }
        }
        allocations(piece, name, report);
    }
}

fn allocations(piece: usize, name: &str, report: &mut Report) {
    const PASSES: usize = 10_000;
    let (bytes, mut buf) = (vec![0x5a; piece], vec![0; piece]);
    let Sides {
        mut opener,
        mut acceptor,
    } = Sides::new(End::pair());
    let mut plain = End::pair();
    let mut count = |pass: &mut dyn FnMut(&[u8], &mut [u8])| {
        (0..10).for_each(|_| pass(&bytes, &mut buf));
        let counter = Counter::start();
        let before = counter.calls();
        (0..PASSES).for_each(|_| pass(&bytes, &mut buf));
        (counter.calls() - before) as f64 / PASSES as f64
    };
    let ours = count(&mut |piece, buf| pass(&mut opener.io, &mut acceptor.io, piece, buf));
    let plain = count(&mut |piece, buf| pass(&mut plain.0, &mut plain.1, piece, buf));
    let name = format!("{name} pieces, in memory: allocations per write and read");
    report.add(Row::value(
        SECTION,
        name,
        &[(ours, plain)],
        Goal::AtMost(0.0),
    ));
}
