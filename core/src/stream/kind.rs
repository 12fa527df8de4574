//! The kinds of leg: how an end, a reset and a loss look on each. The table, with the tests that measured
//! it, is `docs/legs.md`; what the code needs of it is here, in one place.

/// The way in which streams end on a connection, which depends on what multiplexes it. A behaviour
/// cannot see that, so it is told by the connection's address, or by `Config::with_leg_kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LegKind {
    /// rust-yamux: TCP, WebSocket, the memory transport, and everything that is relayed. A reset and a loss
    /// read as an end; as long as we have not closed the stream ourselves, an empty write tells them apart,
    /// and the remote's application never sees it.
    Yamux,
    /// QUIC and WebTransport. A loss is an error; a stream that was dropped reads as one that was closed.
    /// An empty write tells these two apart.
    Quic,
    /// WebRTC's data channels. An empty write is a message that the remote takes for an end, so there is
    /// none. A reset is an error once the end is read again, a loss reads as an end, and two writes that
    /// are larger together than a message must not be sent as one.
    WebRtc,
    /// A kind that is not known: nothing is written that the application did not write, an end is
    /// believed as on a stream without migration, and wherever the other kinds disagree, the worse
    /// is assumed.
    Unknown,
}

/// The largest packet that a data channel takes. What is written without a flush in between goes into one.
/// The specification allows 16 KiB; libp2p-webrtc 0.10.0-alpha cannot read more than half of that.
pub(super) const WEBRTC_PACKET: usize = 8 * 1024;

/// The bytes that the framing of a data channel's message adds to what was written, at most.
pub(super) const WEBRTC_FRAME: usize = 8;

impl LegKind {
    /// True if a reset or a loss may read as an end, so that a write that has failed speaks against
    /// one.
    pub(super) fn is_ambiguous(self) -> bool {
        !matches!(self, Self::Quic)
    }

    /// True if an empty write is no more than a question.
    pub(super) fn takes_empty_writes(self) -> bool {
        matches!(self, Self::Yamux | Self::Quic)
    }

    /// True if an empty write that waits has found the stream alive: yamux looks at that first,
    /// QUIC at the connection's window.
    pub(super) fn is_alive_if_it_waits(self) -> bool {
        matches!(self, Self::Yamux)
    }

    /// True if a remote that still writes may be told of a drop after our close: then what it
    /// writes fails.
    pub(super) fn may_tell_of_drops(self) -> bool {
        matches!(self, Self::Quic | Self::Unknown)
    }

    /// True if an end has to be read again to be one.
    pub(super) fn repeats_ends(self) -> bool {
        matches!(self, Self::WebRtc)
    }

    /// True if writes without a flush in between become one packet, which may be too large.
    pub(super) fn packs_writes(self) -> bool {
        matches!(self, Self::WebRtc)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        io::{self, ErrorKind},
        pin::Pin,
        task::{Context, Poll, Waker},
    };

    use futures::{AsyncRead, AsyncWrite};

    use super::*;
    use crate::{key::ConnectionKey, machine::Proof, stream::Leg};

    /// The script of a leg: what it is to read, and what it has done.
    #[derive(Default)]
    struct Script {
        /// Nothing more is that there is nothing yet.
        reads: VecDeque<io::Result<&'static [u8]>>,
        reads_made: usize,
        /// Writes of so many bytes, and flushes.
        done: Vec<Option<usize>>,
    }

    impl AsyncRead for Script {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            self.reads_made += 1;
            match self.reads.pop_front() {
                Some(read) => Poll::Ready(read.map(|bytes| {
                    buf[..bytes.len()].copy_from_slice(bytes);
                    bytes.len()
                })),
                None => Poll::Pending,
            }
        }
    }

    impl AsyncWrite for Script {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.done.push(Some(buf.len()));
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.done.push(None);
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    fn leg(
        kind: LegKind,
        reads: impl IntoIterator<Item = io::Result<&'static [u8]>>,
    ) -> Leg<Script> {
        let reads = reads.into_iter().collect();
        let script = Script {
            reads,
            ..Default::default()
        };
        Leg::new(script, ConnectionKey::new(0), kind)
    }

    fn read(leg: &mut Leg<Script>) -> Poll<Result<usize, ErrorKind>> {
        let mut cx = Context::from_waker(Waker::noop());
        let polled = leg.poll_read(&mut cx, &mut [0; 8]);
        polled.map_err(|error| error.kind())
    }

    fn write(leg: &mut Leg<Script>, length: usize) -> usize {
        let mut cx = Context::from_waker(Waker::noop());
        let bytes = vec![0; length];
        match leg.poll_write(&mut cx, &[io::IoSlice::new(&bytes)]) {
            Poll::Ready(Ok(n)) => n,
            polled => panic!("{polled:?}"),
        }
    }

    #[test]
    fn an_end_on_webrtc_is_read_again() {
        let empty = || Ok(&b""[..]);
        let failed = |kind: ErrorKind| Err(io::Error::from(kind));
        for (reads, seen) in [
            (
                vec![empty(), failed(ErrorKind::BrokenPipe)],
                Poll::Ready(Ok(0)),
            ),
            (
                vec![empty(), failed(ErrorKind::ConnectionReset)],
                Poll::Ready(Err(ErrorKind::ConnectionReset)),
            ),
            // A message without data, and then a reset.
            (
                vec![empty(), empty(), failed(ErrorKind::ConnectionReset)],
                Poll::Ready(Err(ErrorKind::ConnectionReset)),
            ),
            (vec![empty(), Ok(b"more")], Poll::Ready(Ok(4))),
            (vec![empty()], Poll::Pending),
            // Somebody else's streams, whose ends stay ends.
            ((0..100).map(|_| empty()).collect(), Poll::Ready(Ok(0))),
        ] {
            let mut leg = leg(LegKind::WebRtc, reads);
            assert_eq!(read(&mut leg), seen);
            if seen == Poll::Ready(Ok(0)) {
                assert_eq!(read(&mut leg), seen, "an end stays one");
            }
        }
    }

    #[test]
    fn an_end_that_comes_during_our_close_is_not_read_again() {
        let mut leg = leg(LegKind::WebRtc, [Ok(&b""[..])]);
        leg.close();
        assert_eq!(read(&mut leg), Poll::Ready(Ok(0)));
    }

    #[test]
    fn an_end_on_another_kind_of_leg_is_one() {
        for kind in [LegKind::Yamux, LegKind::Quic, LegKind::Unknown] {
            let mut leg = leg(kind, [Ok(&b""[..]), Ok(&b"more"[..])]);
            for _ in 0..2 {
                assert_eq!(read(&mut leg), Poll::Ready(Ok(0)));
            }
            assert_eq!(leg.into_io().reads_made, 1);
        }
    }

    #[test]
    fn an_empty_write_is_made_where_it_is_no_more_than_a_question() {
        for (kind, proof, done) in [
            (LegKind::Yamux, Proof::Agrees, &[None, Some(0)][..]),
            (LegKind::Quic, Proof::Agrees, &[None, Some(0)]),
            (LegKind::WebRtc, Proof::Unavailable, &[]),
            (LegKind::Unknown, Proof::Unavailable, &[]),
        ] {
            let mut leg = leg(kind, []);
            let mut cx = Context::from_waker(Waker::noop());
            assert_eq!(leg.poll_empty_write(&mut cx), Poll::Ready(proof));
            assert_eq!(leg.into_io().done, done);
        }
    }

    #[test]
    fn no_packet_is_too_large() {
        for (writes, most) in [
            (vec![100_000], 1),
            (vec![10, 100_000], 1),
            (vec![10, 20, 8_140, 10], 3),
            (vec![4_000, 4_000, 4_000, 4_000, 1], 3),
            (vec![1; 10_000], 1_000),
        ] {
            let mut leg = leg(LegKind::WebRtc, []);
            for length in writes {
                let mut left = length;
                while left > 0 {
                    left -= write(&mut leg, left);
                }
            }
            let done = leg.into_io().done;
            for packet in done.split(Option::is_none) {
                let framed = packet.iter().flatten().map(|n| n + WEBRTC_FRAME);
                assert!(framed.sum::<usize>() <= WEBRTC_PACKET);
                assert!(packet.len() <= most, "{} in a packet", packet.len());
            }
        }
    }
}
