//! Messages: an unsigned-varint length, then a protobuf (*Stream Migration Messages*).
//!
//! Reading takes exactly one message and not a byte more, because what follows belongs to the inner
//! negotiation or to the application.

use std::{
    borrow::Cow,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use asynchronous_codec::{BytesMut, Encoder};
use futures::{AsyncRead, AsyncReadExt};
use quick_protobuf::{BytesReader, MessageRead, MessageWrite, Writer};

use super::generated::streammigration::{self as proto, mod_StreamMigration::OneOftype_pb as Type};
use crate::machine::{Facts, StreamId};

/// The longest message on a leg.
pub const MAX_MESSAGE: usize = 256;

/// The first message on a leg, in the direction of its dialer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Labels a new stream.
    Label {
        id: StreamId,
        /// The opener says and believes facts (*Facts*): its process.
        control: Option<u64>,
        /// Between two layers (*Streams of a connection*): the receiver's connection.
        route: Option<u64>,
    },
    /// Asks to move the stream `from` onto this leg, under the new ID `id`.
    Migrate {
        id: StreamId,
        from: StreamId,
        verify: bool,
    },
    /// Asks that a stream that has lost its legs go on here, under the new ID `id` (*Resume*).
    Resume { id: StreamId, resume: Resume },
}

/// The stream that is to go on, and all that its opener knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resume {
    /// The opener's process.
    pub epoch: u64,
    /// The acceptor's, if it is known.
    pub remote: Option<u64>,
    /// The ID in its label.
    pub origin: StreamId,
    /// The number of the attempt.
    pub generation: u64,
    pub facts: Facts,
}

/// The answer to `Migrate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    pub deny: bool,
    pub verify: bool,
}

/// The verified switch: what the writer of the old leg wrote in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switched {
    /// Bytes written before the switch, since the label.
    Sent(u64),
    /// A migration taken back: nothing was switched, and the old leg goes on.
    Cancelled,
}

/// A fault of a message, or of its transport.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The transport failed, or ended in the middle of a message.
    #[error("the leg failed while a message was read")]
    Io(#[source] io::Error),
    /// The message is longer than [`Message::MAX`].
    #[error("a message of {0} bytes exceeds the limit")]
    TooLong(usize),
    /// The length prefix or the protobuf is malformed.
    #[error("a message is malformed")]
    Malformed,
    /// A field that the protocol requires is absent, or another message was sent in its place.
    #[error("a message lacks {0}")]
    Missing(&'static str),
    /// The remote does not want it now; it may be asked again.
    #[error("the remote says \"not now\"")]
    NotNow,
}

impl ReadError {
    /// True if the peer broke the protocol, as opposed to a transport that failed.
    pub fn is_violation(&self) -> bool {
        !matches!(self, Self::Io(_) | Self::NotNow)
    }
}

/// A message that can be written.
pub trait Message: Sized {
    /// The longest one accepted, in bytes, its length prefix not counted. Checked before anything is
    /// allocated, so a peer cannot make us reserve memory by announcing a long message.
    const MAX: usize = MAX_MESSAGE;

    /// Reads the body of a message.
    fn decode(body: &[u8]) -> Result<Self, ReadError>;
    /// The body as protobuf.
    fn encode(&self) -> Vec<u8>;
}

impl Message for Request {
    fn decode(body: &[u8]) -> Result<Self, ReadError> {
        match parse::<proto::StreamMigration>(body, INNER)?.type_pb {
            Type::label(label) => Ok(Self::Label {
                id: StreamId(label.id.ok_or(ReadError::Missing("Label.id"))?),
                control: label.control,
                route: label.route,
            }),
            Type::migrate(migrate) => {
                let id = StreamId(migrate.id.ok_or(ReadError::Missing("Migrate.id"))?);
                let from = StreamId(migrate.from.ok_or(ReadError::Missing("Migrate.from"))?);
                let verify = migrate.verify.unwrap_or(false);
                Ok(match migrate.resume {
                    Some(resume) => Self::Resume {
                        id,
                        resume: Resume::read(resume)?,
                    },
                    None => Self::Migrate { id, from, verify },
                })
            }
            Type::ack_migrate(_) | Type::None => Err(ReadError::Missing("label and migrate")),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let type_pb = match *self {
            Self::Label { id, control, route } => Type::label(proto::Label {
                id: Some(id.0),
                control,
                route,
            }),
            Self::Migrate { id, from, verify } => Type::migrate(proto::Migrate {
                id: Some(id.0),
                from: Some(from.0),
                verify: verify.then_some(true),
                resume: None,
            }),
            Self::Resume { id, resume } => Type::migrate(proto::Migrate {
                id: Some(id.0),
                from: Some(0),
                verify: None,
                resume: Some(resume.written()),
            }),
        };
        serialize(&proto::StreamMigration { type_pb })
    }
}

impl Resume {
    fn read(resume: proto::Resume) -> Result<Self, ReadError> {
        let facts = resume.facts.ok_or(ReadError::Missing("Resume.facts"))?;
        let (origin, facts) = facts_of(&facts)?;
        let generation = resume.generation;
        Ok(Self {
            epoch: resume.epoch.ok_or(ReadError::Missing("Resume.epoch"))?,
            remote: resume.remote,
            origin,
            generation: generation.ok_or(ReadError::Missing("Resume.generation"))?,
            facts,
        })
    }

    fn written(&self) -> proto::Resume {
        proto::Resume {
            epoch: Some(self.epoch),
            remote: self.remote,
            generation: Some(self.generation),
            facts: Some(written(&(self.origin, self.facts))),
        }
    }
}

/// The answer to [`Request::Resume`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resumed {
    /// The stream goes on, or, if it says `gone`, it does not; with the ID in its label.
    Facts(StreamId, Facts),
    /// Not there, or not now.
    NotNow,
}

impl Message for Resumed {
    fn decode(body: &[u8]) -> Result<Self, ReadError> {
        let Type::ack_migrate(ack) = parse::<proto::StreamMigration>(body, INNER)?.type_pb else {
            return Err(ReadError::Missing("ack_migrate"));
        };
        match (ack.resume, ack.deny_migrate.unwrap_or(false)) {
            (Some(facts), _) => {
                let (origin, facts) = facts_of(&facts)?;
                Ok(Self::Facts(origin, facts))
            }
            (None, true) => Ok(Self::NotNow),
            (None, false) => Err(ReadError::Missing("AckMigrate.resume")),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let ack = match *self {
            Self::Facts(origin, facts) => proto::AckMigrate {
                deny_migrate: facts.gone.then_some(true),
                resume: Some(written(&(origin, facts))),
                ..proto::AckMigrate::default()
            },
            Self::NotNow => proto::AckMigrate {
                deny_migrate: Some(true),
                not_now: Some(true),
                ..proto::AckMigrate::default()
            },
        };
        serialize(&proto::StreamMigration {
            type_pb: Type::ack_migrate(ack),
        })
    }
}

impl Message for Ack {
    /// Reads both forms: inside `StreamMigration` (head of the specification) and bare (earlier
    /// revision). No field number of one is known to the other, so they cannot be confused.
    fn decode(body: &[u8]) -> Result<Self, ReadError> {
        let ack = match parse::<proto::StreamMigration>(body, INNER)?.type_pb {
            Type::ack_migrate(ack) => ack,
            Type::None => parse::<proto::AckMigrate>(body, ACK)?,
            Type::label(_) | Type::migrate(_) => return Err(ReadError::Missing("ack_migrate")),
        };
        if ack.not_now == Some(true) {
            return Err(ReadError::NotNow);
        }
        Ok(Self {
            deny: ack.deny_migrate.unwrap_or(false),
            verify: ack.verify.unwrap_or(false),
        })
    }

    /// Writes the form of the specification's head.
    fn encode(&self) -> Vec<u8> {
        serialize(&proto::StreamMigration {
            type_pb: Type::ack_migrate(proto::AckMigrate {
                deny_migrate: self.deny.then_some(true),
                verify: self.verify.then_some(true),
                ..proto::AckMigrate::default()
            }),
        })
    }
}

impl Message for Switched {
    fn decode(body: &[u8]) -> Result<Self, ReadError> {
        let switched = parse::<proto::Switched>(body, FLAT)?;
        match (switched.sent, switched.cancelled.unwrap_or(false)) {
            (Some(sent), false) => Ok(Self::Sent(sent)),
            (None, true) => Ok(Self::Cancelled),
            _ => Err(ReadError::Missing("exactly one of sent and cancelled")),
        }
    }

    fn encode(&self) -> Vec<u8> {
        serialize(&match *self {
            Self::Sent(sent) => proto::Switched {
                sent: Some(sent),
                cancelled: None,
            },
            Self::Cancelled => proto::Switched {
                sent: None,
                cancelled: Some(true),
            },
        })
    }
}

/// A message on a control substream (*Control*).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Control {
    /// In the first message, and in no other.
    pub hello: Option<Hello>,
    /// The writer's word on streams, by their origins.
    pub facts: Vec<(StreamId, Facts)>,
    /// Connections of the writer's that are closed, or have never been.
    pub closed: Vec<u64>,
    /// A question, to be answered with the same number on the answerer's control substream of this connection.
    pub ping: Option<u64>,
    /// The answer.
    pub pong: Option<u64>,
    /// The writer closes this connection on purpose.
    pub bye: bool,
}

/// The writer's end of a link: who is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hello {
    /// The process.
    pub epoch: u64,
    /// The connection that came with the link; without it there is no layer.
    pub connection: Option<u64>,
    /// True if it says and believes facts.
    pub facts: bool,
    /// True if, beside, it goes on with streams that have lost their legs.
    pub resume: bool,
}

impl Message for Control {
    const MAX: usize = 4096;

    fn decode(body: &[u8]) -> Result<Self, ReadError> {
        let control = parse::<proto::Control>(body, CONTROL)?;
        let hello = |hello: proto::Hello| {
            Ok(Hello {
                epoch: hello.epoch.ok_or(ReadError::Missing("Hello.epoch"))?,
                connection: hello.connection,
                facts: hello.facts.unwrap_or(false),
                resume: hello.resume.unwrap_or(false),
            })
        };
        Ok(Self {
            hello: control.hello.map(hello).transpose()?,
            facts: control
                .facts
                .iter()
                .map(facts_of)
                .collect::<Result<_, _>>()?,
            closed: control.closed,
            ping: control.ping,
            pong: control.pong,
            bye: control.bye.unwrap_or(false),
        })
    }

    fn encode(&self) -> Vec<u8> {
        serialize(&proto::Control {
            hello: self.hello.map(|hello| proto::Hello {
                epoch: Some(hello.epoch),
                connection: hello.connection,
                facts: hello.facts.then_some(true),
                resume: hello.resume.then_some(true),
            }),
            facts: self.facts.iter().map(written).collect(),
            closed: self.closed.clone(),
            ping: self.ping,
            pong: self.pong,
            bye: self.bye.then_some(true),
        })
    }
}

fn facts_of(facts: &proto::Facts) -> Result<(StreamId, Facts), ReadError> {
    let origin = facts.origin.ok_or(ReadError::Missing("Facts.origin"))?;
    let facts = Facts {
        received: facts.received.unwrap_or(0),
        done: facts.done.unwrap_or(false),
        total: facts.total,
        lost: facts.lost,
        gone: facts.gone.unwrap_or(false),
        sent: facts.sent,
    };
    Ok((StreamId(origin), facts))
}

fn written((origin, facts): &(StreamId, Facts)) -> proto::Facts {
    proto::Facts {
        origin: Some(origin.0),
        received: (facts.received > 0).then_some(facts.received),
        done: facts.done.then_some(true),
        total: facts.total,
        lost: facts.lost,
        gone: facts.gone.then_some(true),
        sent: facts.sent,
    }
}

/// The tags of a message's fields that are messages themselves, and of theirs.
struct Inner(&'static [(u64, Inner)]);

const fn tag(field: u64) -> u64 {
    field << 3 | 2
}

const FLAT: Inner = Inner(&[]);
const CONTROL: Inner = Inner(&[(tag(1), FLAT), (tag(2), FLAT)]);
const ACK: Inner = Inner(&[(tag(1001), FLAT)]);
/// `StreamMigration`'s: a label; a `Migrate`, in which may be a resume with facts; an ack with facts.
const INNER: Inner = Inner(&[
    (tag(1), FLAT),
    (tag(2), Inner(&[(tag(1001), Inner(&[(tag(4), FLAT)]))])),
    (tag(3), ACK),
]);

fn parse<M: for<'a> MessageRead<'a>>(body: &[u8], inner: Inner) -> Result<M, ReadError> {
    let body = readable(body, &inner).ok_or(ReadError::Malformed)?;
    M::from_reader(&mut BytesReader::from_bytes(&body), &body).map_err(|_| ReadError::Malformed)
}

/// Makes of `body` what quick-protobuf can read: checks that no field, in it or in the messages that
/// `inner` tags, runs past the end of its message, and leaves out groups.
///
/// quick-protobuf 0.8 does not check: it skips an unknown field by how much is left, and after a field that
/// ran over the end of an inner message that is less than nothing. With overflow checks this panics;
/// without, a length near 2^64 sends the reader back to where it was, for ever. Groups, which no message
/// of ours has, are unknown fields like any other, and it cannot skip them.
fn readable<'a>(body: &'a [u8], inner: &Inner) -> Option<Cow<'a, [u8]>> {
    let mut rest = body;
    // What was left out has to be left out of a copy.
    let mut copy: Option<Vec<u8>> = None;
    while !rest.is_empty() {
        let start = body.len() - rest.len();
        let before = &body[..start];
        let tag = varint(&mut rest)?;
        if u32::try_from(tag).is_err() {
            return None;
        }
        if tag & 7 == GROUP {
            skip_group(&mut rest, tag >> 3)?;
            copy.get_or_insert_with(|| before.to_vec());
            continue;
        }
        let value = value(&mut rest, tag)?;
        let field = &body[start..body.len() - rest.len()];
        let value = match inner.0.iter().find(|(message, _)| *message == tag) {
            Some((_, inner)) => readable(value, inner)?,
            None => Cow::Borrowed(value),
        };
        if let Cow::Owned(value) = value {
            let copy = copy.get_or_insert_with(|| before.to_vec());
            for number in [tag, value.len() as u64] {
                let mut buffer = unsigned_varint::encode::u64_buffer();
                copy.extend_from_slice(unsigned_varint::encode::u64(number, &mut buffer));
            }
            copy.extend_from_slice(&value);
        } else if let Some(copy) = &mut copy {
            copy.extend_from_slice(field);
        }
    }
    Some(copy.map_or(Cow::Borrowed(body), Cow::Owned))
}

/// The wire types that begin and end a group.
const GROUP: u64 = 3;
const GROUP_END: u64 = 4;

/// Takes the value of a field that is no group; the bytes of one that has a length.
fn value<'a>(rest: &mut &'a [u8], tag: u64) -> Option<&'a [u8]> {
    let length = match tag & 7 {
        0 => {
            varint(rest)?;
            0
        }
        1 => 8,
        2 => usize::try_from(varint(rest)?).ok()?,
        5 => 4,
        _ => return None,
    };
    rest.split_off(..length)
}

/// Takes what is in a group, and its end. Groups in it are counted, not entered: how deep they go is for the
/// remote to say.
fn skip_group(rest: &mut &[u8], number: u64) -> Option<()> {
    let mut open = vec![number];
    while let Some(&innermost) = open.last() {
        let tag = varint(rest)?;
        match tag & 7 {
            GROUP => open.push(tag >> 3),
            GROUP_END if tag >> 3 == innermost => drop(open.pop()),
            _ => drop(value(rest, tag)?),
        }
    }
    Some(())
}

/// Reads a varint. Not by `unsigned_varint`, which refuses what is longer than it needs to be;
/// protobuf does not.
fn varint(body: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *body.split_off_first()?;
        if shift == 63 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn serialize(message: &impl MessageWrite) -> Vec<u8> {
    let mut body = Vec::with_capacity(message.get_size());
    message
        .write_message(&mut Writer::new(&mut body))
        .expect("writing to a Vec never fails");
    body
}

/// Frames messages for the wire.
#[derive(Debug, Default)]
pub struct Codec;

impl Encoder for Codec {
    type Item<'a> = Vec<u8>;
    type Error = io::Error;

    fn encode(&mut self, body: Self::Item<'_>, dst: &mut BytesMut) -> Result<(), Self::Error> {
        let mut length = unsigned_varint::encode::usize_buffer();
        dst.extend_from_slice(unsigned_varint::encode::usize(body.len(), &mut length));
        dst.extend_from_slice(&body);
        Ok(())
    }
}

/// A message with its length prefix.
pub fn frame(message: &impl Message) -> BytesMut {
    let mut bytes = BytesMut::new();
    Codec
        .encode(message.encode(), &mut bytes)
        .expect("the codec is infallible");
    bytes
}

/// Reads one message. Not cancel-safe: use [`Reader`] where the future may be dropped.
pub async fn read<M: Message>(mut io: impl AsyncRead + Unpin) -> Result<M, ReadError> {
    let length = read_length(&mut io).await?;
    if length > M::MAX {
        return Err(ReadError::TooLong(length));
    }
    let mut body = vec![0; length];
    io.read_exact(&mut body).await.map_err(ReadError::Io)?;
    M::decode(&body)
}

/// Reads a length: at most three bytes, and no more than are needed.
///
/// `unsigned_varint::aio::read_u16` is not used, which drops the bits that its type cannot hold: it
/// reads a length of 65540 as 4, and what follows as a message.
async fn read_length(io: &mut (impl AsyncRead + Unpin)) -> Result<usize, ReadError> {
    let mut length = 0;
    for shift in [0, 7, 14] {
        let mut byte = [0];
        io.read_exact(&mut byte).await.map_err(ReadError::Io)?;
        length |= usize::from(byte[0] & 0x7f) << shift;
        match byte[0] {
            0 if shift > 0 => break,
            0..0x80 => return Ok(length),
            _ => {}
        }
    }
    Err(ReadError::Malformed)
}

/// Reads one message across polls, so that the leg can be used for writing in between.
///
/// It keeps the bytes seen so far and lets [`read`] start anew at each poll; a message is at most
/// [`MAX_MESSAGE`] bytes, so starting anew costs next to nothing and there is one way to read.
#[derive(Debug, Default)]
pub struct Reader {
    seen: Vec<u8>,
}

impl Reader {
    /// True if it is between two messages.
    pub fn is_idle(&self) -> bool {
        self.seen.is_empty()
    }

    pub fn poll_read<M: Message>(
        &mut self,
        io: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<Result<M, ReadError>> {
        let replay = Replay {
            seen: &mut self.seen,
            position: 0,
            io,
        };
        let result = futures::ready!(std::pin::pin!(read::<M>(replay)).poll(cx));
        self.seen.clear();
        Poll::Ready(result)
    }
}

struct Replay<'a, R> {
    seen: &'a mut Vec<u8>,
    position: usize,
    io: &'a mut R,
}

impl<R: AsyncRead + Unpin> AsyncRead for Replay<'_, R> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.position == this.seen.len() {
            let n = futures::ready!(Pin::new(&mut *this.io).poll_read(cx, buf))?;
            this.seen.extend_from_slice(&buf[..n]);
            this.position += n;
            return Poll::Ready(Ok(n));
        }
        let n = buf.len().min(this.seen.len() - this.position);
        buf[..n].copy_from_slice(&this.seen[this.position..this.position + n]);
        this.position += n;
        Poll::Ready(Ok(n))
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, io::Cursor};

    use super::*;

    fn labels(id: StreamId) -> Request {
        Request::Label {
            id,
            control: None,
            route: None,
        }
    }

    fn read_now<M: Message>(bytes: &[u8]) -> (Result<M, ReadError>, usize) {
        let mut cursor = Cursor::new(bytes);
        let result = read(&mut cursor)
            .now_or_never()
            .expect("a cursor never waits");
        (result, usize::try_from(cursor.position()).unwrap())
    }

    #[test]
    fn vectors() {
        let id = StreamId(300);
        let from = StreamId(7);
        for (bytes, frame) in [
            (&[4, 0x0a, 2, 8, 0][..], frame(&labels(StreamId(0)))),
            (&[5, 0x0a, 3, 8, 0xac, 2][..], frame(&labels(id))),
            (
                &[7, 0x12, 5, 8, 0xac, 2, 16, 7][..],
                frame(&Request::Migrate {
                    id,
                    from,
                    verify: false,
                }),
            ),
            (
                &[10, 0x12, 8, 8, 0xac, 2, 16, 7, 0xc0, 0x3e, 1][..],
                frame(&Request::Migrate {
                    id,
                    from,
                    verify: true,
                }),
            ),
            (
                &[2, 0x1a, 0][..],
                frame(&Ack {
                    deny: false,
                    verify: false,
                }),
            ),
            (
                &[4, 0x1a, 2, 8, 1][..],
                frame(&Ack {
                    deny: true,
                    verify: false,
                }),
            ),
            (&[2, 8, 5][..], frame(&Switched::Sent(5))),
            (&[2, 16, 1][..], frame(&Switched::Cancelled)),
        ] {
            assert_eq!(bytes, &frame[..]);
        }
    }

    #[test]
    fn both_forms_of_the_ack_are_read() {
        for (bytes, deny, verify) in [
            (&[0][..], false, false),
            (&[2, 8, 1][..], true, false),
            (&[2, 8, 0][..], false, false),
            (&[3, 0xc0, 0x3e, 1][..], false, true),
            (&[2, 0x1a, 0][..], false, false),
            (&[4, 0x1a, 2, 8, 1][..], true, false),
            (&[5, 0x1a, 3, 0xc0, 0x3e, 1][..], false, true),
        ] {
            assert_eq!(read_now::<Ack>(bytes).0.unwrap(), Ack { deny, verify });
        }
        let label = frame(&labels(StreamId(0)));
        assert!(read_now::<Ack>(&label).0.is_err());
    }

    #[test]
    fn not_a_byte_past_the_message_is_read() {
        let mut bytes = frame(&labels(StreamId(5)));
        let length = bytes.len();
        bytes.extend_from_slice(b"\x13/multistream/1.0.0\n");
        let (request, position) = read_now::<Request>(&bytes);
        assert_eq!(request.unwrap(), labels(StreamId(5)));
        assert_eq!(position, length);
    }

    #[test]
    fn required_fields_are_required_and_unknown_ones_ignored() {
        for bytes in [
            &[2, 0x0a, 0][..],        // Label without id
            &[4, 0x12, 2, 8, 1][..],  // Migrate without from
            &[4, 0x12, 2, 16, 1][..], // Migrate without id
            &[0][..],                 // nothing
            &[2, 0x1a, 0][..],        // an ack where a request belongs
            &[3, 0x0a, 5, 8][..],     // a length beyond the message
        ] {
            let error = read_now::<Request>(bytes).0.unwrap_err();
            assert!(error.is_violation(), "{bytes:?}: {error}");
        }
        let bytes = [8, 0x0a, 4, 8, 1, 0x50, 9, 0x58, 3];
        let request = read_now::<Request>(&bytes).0.unwrap();
        assert_eq!(request, labels(StreamId(1)));
        for bytes in [&[0][..], &[2, 16, 0], &[4, 8, 1, 16, 1]] {
            assert!(read_now::<Switched>(bytes).0.unwrap_err().is_violation());
        }
    }

    #[test]
    fn a_field_ends_within_its_message() {
        // `Label` ends before its ID does. What follows is skipped as an unknown field of `Label`, in
        // the last case backwards onto the ID.
        let mut endless = vec![15, 0x0a, 1, 8, 0, 0x52, 0xf3];
        endless.resize(15, 0xff);
        endless.push(1);
        for bytes in [
            &[4, 0x0a, 1, 8, 0][..],
            &[9, 0x0a, 1, 8, 0, 0x5d, 0, 0, 0, 0][..],
            &[6, 0x0a, 0x80, 1, 8, 0, 0][..],
            &endless,
        ] {
            let error = read_now::<Request>(bytes).0.unwrap_err();
            assert!(matches!(error, ReadError::Malformed), "{bytes:?}: {error}");
            assert!(read_now::<Ack>(bytes).0.is_err());
        }
        // More bytes than a number needs are no fault, nor is an unknown field with the number of an
        // inner message.
        let label = read_now::<Request>(&[6, 0x0a, 0x84, 0, 8, 0x85, 0]).0;
        assert!(label.is_err(), "{label:?}");
        let label = read_now::<Request>(&[6, 0x0a, 0x83, 0, 8, 0x85, 0]).0;
        assert_eq!(label.unwrap(), labels(StreamId(5)));
        let count = read_now::<Switched>(&[5, 8, 5, 0x0a, 1, 0xff]).0;
        assert_eq!(count.unwrap(), Switched::Sent(5));
    }

    /// F1: gogo and prost skip a group that they do not know, wherever it is and whatever is in it.
    #[test]
    fn groups_are_unknown_fields() {
        let label = labels(StreamId(5));
        // Field 9 as a group: empty; with every kind of value; with groups in it, one of its own number.
        let empty = [0x4b, 0x4c].to_vec();
        let full = [
            &[
                0x4b, 0x08, 0x96, 0x01, 0x12, 2, 0x4c, 0x4c, 0x1d, 0, 0, 0, 0,
            ][..],
            &[0x21, 0, 0, 0, 0, 0, 0, 0, 0, 0x4c],
        ];
        let full = full.concat();
        let nested = [0x4b, 0x4b, 0x0b, 0x0c, 0x4c, 0x53, 0x54, 0x4c].to_vec();
        let deep = [[0x4b; 100], [0x4c; 100]].concat();
        for group in [&empty, &full, &nested, &deep] {
            let mut buffer = unsigned_varint::encode::usize_buffer();
            let length = unsigned_varint::encode::usize(group.len() + 2, &mut buffer);
            let outside = [&[0x0a, 2, 8, 5], &group[..]].concat();
            let inside = [&[0x0a], length, &group[..], &[8, 5]].concat();
            let first = [&group[..], &[0x0a, 2, 8, 5]].concat();
            for body in [outside, inside, first] {
                assert_eq!(Request::decode(&body).unwrap(), label, "{body:?}");
            }
            let count = [&[8, 5], &group[..]].concat();
            assert_eq!(Switched::decode(&count).unwrap(), Switched::Sent(5));
            // Field 1 as a group is no label, nor is what is in it.
            let wrapped = [&[0x0b, 0x0a, 2, 8, 5], &group[..], &[0x0c]].concat();
            let error = Request::decode(&wrapped).unwrap_err();
            assert!(matches!(error, ReadError::Missing(_)), "{error}");
        }
        let endless = [0x4b; MAX_MESSAGE];
        for broken in [
            &[0x4b][..],                  // not ended
            &[0x4c],                      // not begun
            &[0x4b, 0x54],                // another's end
            &[0x4b, 0x53, 0x4c, 0x54],    // ends crossed
            &[0x4b, 0x12, 5, 0x4c],       // a length beyond the message
            &[0x4b, 0x0e, 0x4c],          // no wire type
            &[0x0a, 3, 8, 5, 0x4b, 0x4c], // begun in one message, ended in another
            &endless,
        ] {
            let error = Request::decode(broken).unwrap_err();
            assert!(matches!(error, ReadError::Malformed), "{broken:?}: {error}");
        }
    }

    #[test]
    fn the_cap_holds_before_the_body_is_read() {
        let mut at_cap = vec![0x80, 2, 0x0a, 2, 8, 1, 0x62, 249, 1];
        at_cap.resize(2 + MAX_MESSAGE, 0);
        let request = read_now::<Request>(&at_cap).0.unwrap();
        assert_eq!(request, labels(StreamId(1)));

        let (result, position) = read_now::<Request>(&[0x81, 2, 0, 0, 0]);
        assert!(matches!(result, Err(ReadError::TooLong(257))));
        assert_eq!(position, 2);
        // Not a length of 4.
        let (result, position) = read_now::<Request>(&[0x84, 0x80, 4, 0x0a, 2, 8, 5]);
        assert!(matches!(result, Err(ReadError::TooLong(65540))));
        assert_eq!(position, 3);
        let (result, _) = read_now::<Request>(&[0x84, 0, 0x0a, 2, 8, 5]);
        assert!(matches!(result, Err(ReadError::Malformed)));
        let (result, _) = read_now::<Request>(&[0xff, 0xff, 0xff, 0xff]);
        assert!(matches!(result, Err(ReadError::Malformed)));
        let (result, _) = read_now::<Request>(&[4, 0x0a]);
        assert!(matches!(result, Err(ReadError::Io(_))));
    }

    #[test]
    fn a_message_split_byte_by_byte_is_read_across_polls() {
        struct Trickle<'a>(&'a [u8], bool);
        impl AsyncRead for Trickle<'_> {
            fn poll_read(
                mut self: Pin<&mut Self>,
                _: &mut Context<'_>,
                buf: &mut [u8],
            ) -> Poll<io::Result<usize>> {
                self.1 = !self.1;
                if self.1 {
                    return Poll::Pending;
                }
                buf[0] = self.0[0];
                self.0 = &self.0[1..];
                Poll::Ready(Ok(1))
            }
        }
        let migrate = Request::Migrate {
            id: StreamId(u64::MAX),
            from: StreamId(1 << 40),
            verify: true,
        };
        let mut bytes = frame(&migrate).to_vec();
        bytes.push(0xee);
        let mut io = Trickle(&bytes, false);
        let mut reader = Reader::default();
        let mut cx = Context::from_waker(futures::task::noop_waker_ref());
        let mut polls = 0;
        let request = loop {
            polls += 1;
            if let Poll::Ready(result) = reader.poll_read::<Request>(&mut io, &mut cx) {
                break result.unwrap();
            }
        };
        assert_eq!(request, migrate);
        assert_eq!(polls, bytes.len());
        assert_eq!(io.0, [0xee]);
    }
}
