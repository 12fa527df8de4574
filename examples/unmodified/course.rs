//! The stages of a run. Everybody in this process knows at which it is.

use std::sync::Arc;

use tokio::sync::watch;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// There is a relayed connection, and everything gets under way on it.
    Relayed,
    /// There may be a direct one beside it.
    Direct,
    /// The relayed one is gone. What is still to be sent goes as fast as it can.
    Alone,
}

#[derive(Clone)]
pub struct Course(Arc<watch::Sender<Stage>>);

impl Default for Course {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Stage::Relayed)))
    }
}

impl Course {
    pub fn stage(&self) -> Stage {
        *self.0.borrow()
    }

    pub fn go(&self, to: Stage) {
        self.0.send_replace(to);
    }

    pub async fn reached(&self, stage: Stage) {
        let mut stages = self.0.subscribe();
        // It fails only when there is no sender any more, and we hold one.
        let _ = stages.wait_for(|now| *now >= stage).await;
    }
}
