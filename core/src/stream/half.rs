//! The application's half of a stream.

use std::{
    io::{self, IoSlice, IoSliceMut},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures::{AsyncRead, AsyncWrite};

use super::{Io, Shared, core::Core, wakers::Party};
use crate::machine::{Abort, Input, ReadFrom, Slot, WriteTo};

/// The application's end of a stream, which it reads and writes.
///
/// Dropping it before `poll_close` returned aborts the stream, unless both directions have ended;
/// dropping it afterwards detaches it, and what is open is finished in the background.
pub struct Migratable<L: Io> {
    shared: Arc<Shared<L>>,
}

/// Why reads and writes fail.
#[derive(Debug, thiserror::Error)]
#[error("the stream was aborted: {0}")]
struct Aborted(Abort);

/// The one place where the machine's words become an [`io::Error`].
fn aborted(abort: Abort) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, Aborted(abort))
}

enum Target<'a, 'b> {
    Plain(&'a mut [u8]),
    Vectored(&'a mut [IoSliceMut<'b>]),
}

impl<L: Io> Migratable<L> {
    pub fn new(shared: Arc<Shared<L>>) -> Self {
        Self { shared }
    }

    /// Polls, and registers only if that has to wait: mostly there is room to write, and often something
    /// to read.
    fn poll<T>(
        &self,
        party: Party,
        cx: &Context<'_>,
        mut f: impl FnMut(&mut Core<L>, &mut Context<'_>, &mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let wakers = &self.shared.wakers;
        let wakes = wakers.wakes();
        let polled = self.poll_once(party, cx, &mut f);
        if polled.is_ready() {
            return polled;
        }
        wakers.register(party, cx);
        if wakers.wakes() == wakes {
            return Poll::Pending;
        }
        // Who was to be woken in between, may have been we.
        self.poll_once(party, cx, &mut f)
    }

    #[inline]
    fn poll_once<T>(
        &self,
        party: Party,
        cx: &Context<'_>,
        f: &mut impl FnMut(&mut Core<L>, &mut Context<'_>, &mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let wakers = &self.shared.wakers;
        let (mut read, mut write) = wakers.contexts();
        self.shared.with(|core| {
            core.settle_end(&mut write);
            if core.has_background_work() {
                // The migration moves on by whoever is here first.
                wakers.register_both(party, cx);
                core.pump(&mut read, &mut write);
            }
            f(core, &mut read, &mut write)
        })
    }

    fn poll_read_into(
        &self,
        cx: &Context<'_>,
        mut target: Target<'_, '_>,
    ) -> Poll<io::Result<usize>> {
        self.poll(Party::Reader, cx, |core, read, write| {
            loop {
                if !core.read_ahead.is_empty() {
                    let n = core.read_ahead.read(match &mut target {
                        Target::Plain(buf) => buf,
                        Target::Vectored(bufs) => match bufs.iter_mut().find(|b| !b.is_empty()) {
                            Some(buf) => buf,
                            None => &mut [],
                        },
                    });
                    core.touch();
                    // There is room again for the rest of the old leg.
                    core.pump(read, write);
                    return Poll::Ready(Ok(n));
                }
                let slot = match core.machine.read_from() {
                    ReadFrom::Ended => return Poll::Ready(Ok(0)),
                    ReadFrom::Aborted(abort) => return Poll::Ready(Err(aborted(abort))),
                    ReadFrom::Hold => return Poll::Pending,
                    ReadFrom::Leg(slot) => slot,
                };
                let Some(leg) = core.leg(slot) else {
                    return Poll::Ready(Err(aborted(Abort::LegLost)));
                };
                let polled = match &mut target {
                    Target::Plain([]) => return Poll::Ready(Ok(0)),
                    Target::Plain(buf) => leg.poll_read(read, buf),
                    Target::Vectored(bufs) if bufs.iter().all(|buf| buf.is_empty()) => {
                        return Poll::Ready(Ok(0));
                    }
                    Target::Vectored(bufs) => leg.poll_read_vectored(read, bufs),
                };
                match ready!(polled) {
                    Ok(0) => {
                        // The empty write may have to wait for the write side.
                        self.shared.wakers.register_both(Party::Reader, cx);
                        ready!(core.poll_end(slot, write));
                        core.pump(read, write);
                    }
                    Ok(n) => {
                        core.has_read(n);
                        return Poll::Ready(Ok(n));
                    }
                    Err(error) => {
                        core.read_failed(slot, &error);
                        core.pump(read, write);
                    }
                }
            }
        })
    }

    /// Ready once the remote has said that it has all that was written.
    pub fn poll_delivered(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        self.poll(Party::Writer, cx, |core, _, _| {
            if core.machine.is_done_with() {
                return Poll::Ready(Ok(()));
            }
            match core.machine.write_to() {
                WriteTo::Aborted(abort) => Poll::Ready(Err(aborted(abort))),
                WriteTo::Failed => writable(core).map_ok(|_| ()),
                _ if core.machine.may_speak() => Poll::Pending,
                _ => Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "the remote does not say what has arrived",
                ))),
            }
        })
    }

    fn poll_write_from(&self, cx: &Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.poll(Party::Writer, cx, |core, _, write| {
            let to = core.machine.write_to();
            if matches!(to, WriteTo::Leg(_) | WriteTo::Keep) && core.machine.keeps() {
                return poll_write_kept(core, write, to, bufs);
            }
            let slot = ready!(writable(core))?;
            let Some(leg) = core.leg(slot) else {
                return Poll::Ready(Err(aborted(Abort::LegLost)));
            };
            match ready!(leg.poll_write(write, bufs)) {
                Ok(n) => {
                    core.machine.wrote(n as u64);
                    Poll::Ready(Ok(n))
                }
                Err(error) => write_failed(core, slot, error).map(Err),
            }
        })
    }
}

/// Writes what is kept until the remote has it: to the leg, if that is the next thing that it takes.
fn poll_write_kept<L: Io>(
    core: &mut Core<L>,
    write: &mut Context<'_>,
    to: WriteTo,
    bufs: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    let wanted: usize = bufs.iter().map(|buf| buf.len()).sum();
    let space = core.space();
    if space == 0 && wanted > 0 {
        return Poll::Pending;
    }
    // Not more than may be kept.
    let cut;
    let bufs = match bufs.iter().find(|buf| !buf.is_empty()) {
        Some(first) if wanted > space => {
            cut = [IoSlice::new(&first[..first.len().min(space)])];
            &cut[..]
        }
        _ => bufs,
    };
    let n = match to {
        WriteTo::Leg(slot) => {
            let Some(leg) = core.leg(slot) else {
                return Poll::Ready(Err(aborted(Abort::LegLost)));
            };
            match ready!(leg.poll_write(write, bufs)) {
                Ok(n) => n,
                Err(error) => match write_failed(core, slot, error) {
                    Poll::Ready(error) => return Poll::Ready(Err(error)),
                    // The stream goes on without the leg.
                    Poll::Pending if core.machine.is_legless() => wanted.min(core.space()),
                    Poll::Pending => return Poll::Pending,
                },
            }
        }
        _ => wanted.min(space),
    };
    if n == 0 && wanted > 0 {
        return Poll::Pending;
    }
    core.keep(bufs, n);
    core.machine.wrote(n as u64);
    Poll::Ready(Ok(n))
}

/// The leg to write to, or why there is none.
fn writable<L: Io>(core: &Core<L>) -> Poll<io::Result<Slot>> {
    Poll::Ready(match core.machine.write_to() {
        WriteTo::Leg(slot) => Ok(slot),
        WriteTo::Hold | WriteTo::Keep => return Poll::Pending,
        WriteTo::Aborted(abort) => Err(aborted(abort)),
        WriteTo::Closed => Err(io::Error::new(
            io::ErrorKind::BrokenPipe,
            "the stream was closed for writing",
        )),
        WriteTo::Failed => Err(io::Error::new(
            io::ErrorKind::BrokenPipe,
            "the remote takes no more data",
        )),
    })
}

/// A write error as a plain stream would report it, unless it costs the whole stream; or nothing, if the
/// new leg of a migration will do what the old one has failed to.
fn write_failed<L: Io>(core: &mut Core<L>, slot: Slot, error: io::Error) -> Poll<io::Error> {
    core.write_failed(slot, &error);
    match core.machine.write_to() {
        WriteTo::Aborted(abort) => Poll::Ready(aborted(abort)),
        _ if core.machine.will_write_elsewhere() || core.machine.is_legless() => Poll::Pending,
        _ => Poll::Ready(error),
    }
}

impl<L: Io> AsyncRead for Migratable<L> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_read_into(cx, Target::Plain(buf))
    }

    fn poll_read_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_read_into(cx, Target::Vectored(bufs))
    }
}

impl<L: Io> AsyncWrite for Migratable<L> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_from(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_from(cx, bufs)
    }

    /// Flushes the leg that carries what was written last. An old leg that is being closed is flushed
    /// by that, in the background: a writer never waits for a migration.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(Party::Writer, cx, |core, _, write| {
            let slot = match core.machine.write_to() {
                // What was written goes out with the end, and whether it has, closing tells.
                WriteTo::Closed if core.close_reported => return Poll::Ready(Ok(())),
                // What is kept for another leg has arrived, or will be written on that.
                WriteTo::Closed | WriteTo::Keep if core.machine.waits_for_leg() => {
                    return match core.machine.is_delivered() {
                        true => Poll::Ready(Ok(())),
                        false => Poll::Pending,
                    };
                }
                WriteTo::Closed if core.machine.will_write_elsewhere() => return Poll::Pending,
                WriteTo::Closed => core.machine.closes(),
                _ => ready!(writable(core))?,
            };
            let Some(leg) = core.leg(slot) else {
                return Poll::Ready(match core.machine.write_to() {
                    WriteTo::Closed => Ok(()),
                    _ => Err(aborted(Abort::LegLost)),
                });
            };
            match ready!(leg.poll_flush(write)) {
                Ok(()) => Poll::Ready(Ok(())),
                Err(error) => write_failed(core, slot, error).map(Err),
            }
        })
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(Party::Writer, cx, |core, _, write| {
            if core.close_reported {
                return Poll::Ready(Ok(()));
            }
            match core.machine.write_to() {
                WriteTo::Closed => {}
                WriteTo::Hold | WriteTo::Keep => core.close_write(),
                _ => {
                    ready!(writable(core))?;
                    core.close_write();
                }
            }
            if core.machine.will_write_elsewhere() {
                return Poll::Pending;
            }
            if core.machine.waits_for_leg() {
                core.close_reported = core.machine.is_delivered();
                return match core.close_reported {
                    true => Poll::Ready(Ok(())),
                    false => Poll::Pending,
                };
            }
            let slot = core.machine.closes();
            let Some(leg) = core.leg(slot) else {
                // The migration that carried the FIN is over, and the stream with it.
                core.close_reported = true;
                return Poll::Ready(Ok(()));
            };
            match ready!(leg.poll_close(write)) {
                Ok(()) => {
                    core.handle(Input::Closed(slot));
                    core.close_reported = true;
                    Poll::Ready(Ok(()))
                }
                Err(error) => write_failed(core, slot, error).map(Err),
            }
        })
    }
}

impl<L: Io> Drop for Migratable<L> {
    fn drop(&mut self) {
        self.shared.wakers.forget(Party::Reader);
        self.shared.wakers.forget(Party::Writer);
        self.shared.with(Core::let_go);
    }
}
