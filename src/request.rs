//! Streams that somebody waits for.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use futures::channel::oneshot;
use libp2p_swarm::StreamProtocol;

use crate::{
    offer::{Held, Reopening},
    open_error::OpenStreamError,
    stream::Stream,
};

/// A stream that somebody waits for. Each attempt to open it has one of its own.
#[derive(Debug)]
pub(crate) struct StreamRequest {
    pub(crate) protocol: StreamProtocol,
    pub(crate) reply: Reply,
    /// The number of the open that this is an attempt of; a stream that becomes a plain one has
    /// none.
    pub(crate) number: Option<u64>,
    /// The connection has to show that it is alive.
    pub(crate) prove: bool,
    /// The peer was dialed for it because its last connection was closed under it, which is done once.
    pub(crate) redialed: bool,
    /// The remote's service of the protocol inside the prefix, as far as it is known.
    pub(crate) inside: Inside,
    /// True if it is tried a second time, because the first offer was not answered.
    pub(crate) again: bool,
    /// The rest of the stream that was opened for it before.
    pub(crate) held: Option<Held>,
}

/// The knowledge of a protocol inside the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inside {
    Unknown,
    /// A protocol that was refused there some time ago, and served on a plain stream.
    Remembered,
    /// A protocol that was refused there just now.
    Refused,
}

/// The caller who waits for a stream.
#[derive(Debug)]
pub(crate) enum Reply {
    Caller(Caller),
    /// A stream that the application holds already, and that becomes a plain one.
    Reopening(Reopening),
}

type Opened = Result<Stream, OpenStreamError>;

/// A caller, shared by the attempts on several connections: the first to send serves.
#[derive(Debug, Clone)]
pub(crate) struct Caller(
    /// Protects the sender, which the first takes, and who wants to know when it is gone. Wakers are woken
    /// after it is released.
    Arc<Mutex<Waiting>>,
);

#[derive(Debug)]
struct Waiting {
    sender: Option<oneshot::Sender<Opened>>,
    wakers: Vec<Waker>,
}

impl Caller {
    pub(crate) fn new(sender: oneshot::Sender<Opened>) -> Self {
        Self(Arc::new(Mutex::new(Waiting {
            sender: Some(sender),
            wakers: Vec::new(),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True if the caller has been served or has given up.
    fn is_gone(&self) -> bool {
        let waiting = self.lock();
        let sender = waiting.sender.as_ref();
        sender.is_none_or(oneshot::Sender::is_canceled)
    }

    fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut waiting = self.lock();
        let Some(sender) = &mut waiting.sender else {
            return Poll::Ready(());
        };
        // The sender wakes the last of those who ask, who tells the others by letting go of it.
        if sender.poll_canceled(cx).is_ready() {
            return Poll::Ready(());
        }
        if !waiting
            .wakers
            .iter()
            .any(|waker| waker.will_wake(cx.waker()))
        {
            waiting.wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Serves the caller, if nobody has yet; with nothing, lets go of it.
    pub(crate) fn serve(&self, result: Option<Opened>) {
        let mut waiting = self.lock();
        let sender = waiting.sender.take();
        let wakers = std::mem::take(&mut waiting.wakers);
        drop(waiting);
        wakers.into_iter().for_each(Waker::wake);
        if let (Some(sender), Some(result)) = (sender, result) {
            // Whoever has given up drops the stream, which aborts it.
            drop(sender.send(result));
        }
    }
}

impl StreamRequest {
    pub(crate) fn new(protocol: StreamProtocol, reply: Reply) -> Self {
        Self {
            protocol,
            reply,
            number: None,
            prove: false,
            redialed: false,
            inside: Inside::Unknown,
            again: false,
            held: None,
        }
    }

    /// An attempt to open what this asks for, of which nothing has come yet.
    pub(crate) fn attempt(&self) -> Option<Self> {
        let Reply::Caller(caller) = &self.reply else {
            return None;
        };
        Some(Self {
            number: self.number,
            ..Self::new(self.protocol.clone(), Reply::Caller(caller.clone()))
        })
    }

    /// True if nobody waits for it any more.
    pub(crate) fn is_canceled(&self) -> bool {
        match &self.reply {
            Reply::Caller(caller) => caller.is_gone(),
            Reply::Reopening(reopening) => reopening.is_canceled(),
        }
    }

    /// Ready when nobody waits for it any more.
    pub(crate) fn poll_canceled(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.reply {
            Reply::Caller(caller) => caller.poll_gone(cx),
            Reply::Reopening(_) => Poll::Pending,
        }
    }

    /// Tells whoever waits that there will be no stream.
    pub(crate) fn fail(self, error: OpenStreamError) {
        match self.reply {
            Reply::Caller(caller) => caller.serve(Some(Err(error))),
            Reply::Reopening(reopening) => {
                reopening.reopened(Err(error));
            }
        }
    }
}
