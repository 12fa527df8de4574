//! What has happened, in numbers.

use std::collections::BTreeMap;

use crate::judge::Exception;

#[derive(Debug, Clone, Default)]
pub struct Counts {
    pub opened: u64,
    pub ended: u64,
    /// Of those, the ones of which something but a complete stream was expected.
    pub harmed: u64,
    pub bytes: u64,
    pub exceptions: BTreeMap<Exception, u64>,
    pub violations: u64,
    /// What `Control::migrate` and the behaviours said, by name.
    pub migrations: BTreeMap<String, u64>,
    pub completed: u64,
    pub failed: u64,
    pub refused: u64,
    /// Whatever else is worth a number.
    pub others: BTreeMap<String, u64>,
}

impl Counts {
    pub fn other(&mut self, name: impl Into<String>) {
        *self.others.entry(name.into()).or_default() += 1;
    }

    /// A table of all that has a name.
    pub fn show(&self) {
        let exceptions = self.exceptions.iter();
        let exceptions = exceptions.map(|(what, number)| (format!("exception: {what:?}"), number));
        let migrations = self.migrations.iter();
        let migrations = migrations.map(|(what, number)| (format!("migration: {what}"), number));
        let others = self.others.iter();
        let others = others.map(|(what, number)| (what.clone(), number));
        println!("{:>10}  streams harmed by a drop or by chaos", self.harmed);
        for (what, number) in exceptions.chain(migrations).chain(others) {
            println!("{number:>10}  {what}");
        }
    }
}
