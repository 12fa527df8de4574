//! Everything that is known, of all nodes: what was written, what was read, what the behaviours tell,
//! and what this program did to its connections.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use libp2p_stream_migration::{Event, StreamKey};
use tokio::sync::Notify;

use crate::{
    flow::{Flows, Side},
    known::{Known, Record},
    side::Outcome,
};

/// How long a moment is, for whoever looks now and then.
pub const MOMENT: Duration = Duration::from_millis(250);

pub struct Ledger {
    seed: u64,
    /// Protects all that is known. Held for no longer than it takes to note something.
    known: Mutex<Known>,
    news: Notify,
}

impl Ledger {
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            known: Mutex::default(),
            news: Notify::new(),
        }
    }

    pub fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes something, and tells those who wait.
    pub fn note<T>(&self, note: impl FnOnce(&mut Known) -> T) -> T {
        let noted = note(&mut self.known());
        self.news.notify_waiters();
        noted
    }

    /// Waits until something is so.
    pub async fn until<T>(&self, mut is: impl FnMut(&Known) -> Option<T>) -> T {
        loop {
            let mut news = std::pin::pin!(self.news.notified());
            news.as_mut().enable();
            if let Some(so) = is(&self.known()) {
                return so;
            }
            news.await;
        }
    }

    pub fn open(&self, of_burst: bool) -> Arc<Flows> {
        let mut known = self.known();
        known.next += 1;
        let flows = Arc::new(Flows::new(self.seed, known.next, of_burst));
        let record = Record {
            flows: flows.clone(),
            keys: [None; 2],
            pinned: false,
            outcomes: [None, None],
        };
        known.records.insert(flows.number, record);
        flows
    }

    /// It could not be opened.
    pub fn not_opened(&self, number: u64, why: &str) {
        self.note(|known| {
            known.records.remove(&number);
            known.counts.other(format!("not opened: {why}"));
        });
    }

    /// The application has a stream, and will say whose it is. It may have it before the behaviour tells.
    pub fn hold(&self, node: usize, key: StreamKey) {
        self.known().histories.entry((node, key)).or_default();
    }

    /// This key is one side of that stream.
    pub fn claim(
        &self,
        number: u64,
        side: Side,
        node: usize,
        key: StreamKey,
    ) -> Option<Arc<Flows>> {
        let mut known = self.known();
        let record = known.records.get_mut(&number)?;
        record.keys[side as usize] = Some((node, key));
        let flows = record.flows.clone();
        known.counts.opened += u64::from(side == Side::Opener);
        Some(flows)
    }

    /// Whose it is did not come.
    pub fn orphan(&self, node: usize, key: StreamKey, why: &str) {
        self.note(|known| {
            known.histories.remove(&(node, key));
            known
                .counts
                .other(format!("accepted without a header: {why}"));
        });
    }

    pub fn finish(&self, number: u64, side: Side, outcome: Outcome) {
        self.note(|known| {
            known.counts.bytes += outcome.read;
            if let Some(record) = known.records.get_mut(&number) {
                record.outcomes[side as usize] = Some(outcome);
                record.flows.progressed();
                known.settle(number);
            }
        });
    }

    /// What a node's behaviour tells.
    pub fn tell(&self, node: usize, event: &Event) {
        self.note(|known| known.tell(node, event));
    }

    /// Looks after those that stand still; to be called now and then.
    pub fn look(&self) {
        self.note(Known::look);
    }
}
