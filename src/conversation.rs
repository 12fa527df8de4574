//! The two control substreams of a connection, or of a link: ours, on which we only write, and the remote's, on which
//! we only read.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures::{AsyncRead, AsyncWrite, Stream, StreamExt, stream::BoxStream};

use crate::protocol::codec::{self, Control, ReadError};

/// Connections in one message, of which each takes eleven bytes at most.
const CLOSED_PER_MESSAGE: usize = 256;

/// Our control substream.
#[derive(Debug)]
pub(crate) struct Ours<Io> {
    io: Io,
    /// The bytes that are still to be written.
    out: Vec<u8>,
    at: usize,
    unflushed: bool,
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Ours<Io> {
    pub(crate) fn new(io: Io, hello: &Control) -> Self {
        let mut this = Self {
            io,
            out: Vec::new(),
            at: 0,
            unflushed: false,
        };
        this.say(hello);
        this
    }

    pub(crate) fn say(&mut self, message: &Control) {
        self.out.extend_from_slice(&codec::frame(message));
    }

    /// True if all that was said has been handed over.
    pub(crate) fn is_said(&self) -> bool {
        self.out.is_empty() && !self.unflushed
    }

    /// Ready once the remote has refused it, or it has ended: then it is not to be used again.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.at < self.out.len() {
            match Pin::new(&mut self.io).poll_write(cx, &self.out[self.at..]) {
                Poll::Ready(Ok(n @ 1..)) => {
                    self.at += n;
                    self.unflushed = true;
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        if self.at == self.out.len() {
            self.out = Vec::new();
            self.at = 0;
        }
        if self.unflushed {
            match Pin::new(&mut self.io).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => {}
            }
        }
        // Nothing is to be read but its refusal, and its end.
        match Pin::new(&mut self.io).poll_read(cx, &mut [0; 1]) {
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// Messages that say that these connections are closed.
pub(crate) fn closed(numbers: &[u64]) -> impl Iterator<Item = Control> + '_ {
    numbers.chunks(CLOSED_PER_MESSAGE).map(|numbers| Control {
        closed: numbers.to_vec(),
        ..Control::default()
    })
}

/// The remote's control substream.
pub(crate) struct Theirs {
    messages: BoxStream<'static, Result<Control, ReadError>>,
    /// The first message, and it alone, says hello.
    greeted: bool,
}

/// A word of the remote's on its control substream.
pub(crate) enum Said {
    Control(Control),
    /// Something that no peer says.
    Violation,
    /// Nothing more.
    End,
}

impl Theirs {
    pub(crate) fn new(io: impl AsyncRead + Unpin + Send + 'static) -> Self {
        let messages = futures::stream::unfold(io, |mut io| async move {
            let message = codec::read::<Control>(&mut io).await;
            Some((message, io))
        });
        Self {
            messages: messages.boxed(),
            greeted: false,
        }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Said> {
        let message = match Pin::new(&mut self.messages).poll_next(cx) {
            Poll::Ready(Some(message)) => message,
            Poll::Ready(None) => return Poll::Ready(Said::End),
            Poll::Pending => return Poll::Pending,
        };
        Poll::Ready(match message {
            Ok(message)
                if message.hello.is_some() != std::mem::replace(&mut self.greeted, true) =>
            {
                Said::Control(message)
            }
            Err(error) if !error.is_violation() => Said::End,
            Ok(_) | Err(_) => Said::Violation,
        })
    }
}
