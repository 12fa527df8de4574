//! The counterexamples of `docs/rules.md`, each replayed as a script against the crate's own stream,
//! machine and driver, over the soak's legs (`testing::sim`).
//!
//! A script says what crosses which leg when, and what that is; which timer fires; what
//! applications and policies do. Nothing is left to chance: [`script::Script`]. Each trace is
//! replayed twice: as the crate is, and with the rule that it is about removed. The second has to
//! end as the table's last column says, or the first would prove nothing. 3 and 9 say why they end
//! in another bad way by now; 1, 5 and 8 are not the machine's rules, and the script obeys them.
//!
//! A is the designated peer; L0 is the old leg. Where an end is said to be clean and bytes are
//! lost, what the other side wrote is asserted to be in flight on a leg that nobody reads.

mod doubt;
mod endings;
mod peer;
mod pruning;
mod script;
mod simultaneous;
mod verified;

use libp2p_stream_migration_core::{key, machine, protocol, stream};
use testing::sim::{leg, sleep};
