//! A swarm in a task of its own, and a log of what happens there.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt, channel::mpsc};
use libp2p::{
    Swarm, SwarmBuilder,
    identity::Keypair,
    noise,
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use tokio::sync::{Notify, oneshot};

use crate::within;

/// A swarm over TCP and QUIC, with an identity of its own.
pub fn swarm<B: NetworkBehaviour>(
    idle: Duration,
    behaviour: impl FnOnce(&Keypair) -> B,
) -> Swarm<B> {
    SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(
            tcp::Config::default().nodelay(true),
            noise::Config::new,
            yamux::Config::default,
        )
        .unwrap()
        .with_quic()
        .with_behaviour(behaviour)
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(idle))
        .build()
}

type Job<B> = Box<dyn FnOnce(&mut Swarm<B>) + Send>;

/// A swarm that runs in the background, until the last of these is dropped.
pub struct Background<B: NetworkBehaviour>(mpsc::UnboundedSender<Job<B>>);

impl<B: NetworkBehaviour> Clone for Background<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<B: NetworkBehaviour<ToSwarm: Send> + Send> Background<B> {
    /// Runs this swarm, whose events go to `event`.
    pub fn run(
        mut swarm: Swarm<B>,
        mut event: impl FnMut(&mut Swarm<B>, SwarmEvent<B::ToSwarm>) + Send + 'static,
    ) -> Self {
        let (sender, mut jobs) = mpsc::unbounded::<Job<B>>();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    job = jobs.next() => match job {
                        Some(job) => job(&mut swarm),
                        None => return,
                    },
                    happened = swarm.select_next_some() => event(&mut swarm, happened),
                }
            }
        });
        Self(sender)
    }

    /// Has the swarm do something, after all that it has been told before.
    pub fn tell(&self, job: impl FnOnce(&mut Swarm<B>) + Send + 'static) {
        self.0
            .unbounded_send(Box::new(job))
            .expect("the swarm runs");
    }

    /// The same, which is done when this returns.
    pub async fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Swarm<B>) -> T + Send + 'static,
    ) -> T {
        let (done, is_done) = oneshot::channel();
        self.tell(move |swarm| {
            let _ = done.send(job(swarm));
        });
        within("the swarm", is_done).await.unwrap()
    }
}

/// Something that changes, and that can be waited for. Clones share it.
pub struct Log<T>(Arc<(Mutex<T>, Notify)>);

impl<T> Clone for Log<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Default> Default for Log<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: fmt::Debug> fmt::Debug for Log<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.read().fmt(f)
    }
}

impl<T> Log<T> {
    /// The log as it is now. Nobody writes meanwhile.
    pub fn read(&self) -> MutexGuard<'_, T> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes it, and wakes who waits.
    pub fn write(&self, change: impl FnOnce(&mut T)) {
        change(&mut self.read());
        self.0.1.notify_waiters();
    }

    /// Waits until `find` makes something of it.
    pub async fn until<R>(&self, mut find: impl FnMut(&T) -> Option<R>) -> R {
        loop {
            let news = self.0.1.notified();
            let mut news = std::pin::pin!(news);
            news.as_mut().enable();
            let found = find(&self.read());
            match found {
                Some(found) => return found,
                None => news.await,
            }
        }
    }
}
