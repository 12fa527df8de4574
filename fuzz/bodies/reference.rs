//! The messages, read by hand: a second opinion on what quick-protobuf says.

use crate::{
    machine::StreamId,
    protocol::codec::{Ack, Request, Switched},
};

/// What a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opinion<M> {
    /// This message.
    Is(M),
    /// Protobuf, and not this message.
    IsNot,
    /// No protobuf.
    Broken,
    /// Unusual, and open to interpretation.
    Unusual,
}

use Opinion::{Broken, Is, IsNot, Unusual};

impl<M> Opinion<M> {
    fn then<N>(self, next: impl FnOnce(M) -> Opinion<N>) -> Opinion<N> {
        match self {
            Is(message) => next(message),
            IsNot => IsNot,
            Broken => Broken,
            Unusual => Unusual,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed(u64),
    Other,
}

type Fields<'a> = Vec<(u64, Value<'a>)>;

fn varint(bytes: &mut &[u8]) -> Opinion<u64> {
    let mut value = 0u128;
    for i in 0..10 {
        let Some(byte) = bytes.split_off_first() else {
            return Broken;
        };
        value |= u128::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return u64::try_from(value).map_or(Unusual, Is);
        }
    }
    Broken
}

fn fields(mut bytes: &[u8]) -> Opinion<Fields<'_>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let field = varint(&mut bytes).then(|tag| {
            let value = match tag & 7 {
                0 => varint(&mut bytes).then(|number| Is(Value::Number(number))),
                2 => varint(&mut bytes).then(|length| {
                    let length = usize::try_from(length).ok();
                    match length.and_then(|length| bytes.split_off(..length)) {
                        Some(value) => Is(Value::Bytes(value)),
                        None => Broken,
                    }
                }),
                1 => match bytes.split_off(..8).map(<[u8; 8]>::try_from) {
                    Some(Ok(value)) => Is(Value::Fixed(u64::from_le_bytes(value))),
                    _ => Broken,
                },
                5 => bytes.split_off(..4).map_or(Broken, |_| Is(Value::Other)),
                3 => group(&mut bytes, tag >> 3).then(|()| Is(Value::Other)),
                // An end of nothing, and what has never been given a meaning.
                _ => Broken,
            };
            match tag >> 3 {
                1..=0x1fff_ffff => value.then(|value| Is((tag >> 3, value))),
                _ => Unusual,
            }
        });
        match field {
            Is(field) => fields.push(field),
            IsNot => return IsNot,
            Broken => return Broken,
            Unusual => return Unusual,
        }
    }
    Is(fields)
}

/// A group to its end. As deep as a body is long.
fn group(bytes: &mut &[u8], number: u64) -> Opinion<()> {
    // Numbers that no field may have are unusual, if the rest makes sense.
    let mut opinion = if (1..=0x1fff_ffff).contains(&number) {
        Is(())
    } else {
        Unusual
    };
    loop {
        let ended = varint(bytes).then(|tag| {
            if !(1..=0x1fff_ffff).contains(&(tag >> 3)) {
                opinion = Unusual;
            }
            let skipped = |length: Option<usize>, bytes: &mut &[u8]| match length
                .and_then(|length| bytes.split_off(..length))
            {
                Some(_) => Is(false),
                None => Broken,
            };
            match tag & 7 {
                0 => varint(bytes).then(|_| Is(false)),
                1 => skipped(Some(8), bytes),
                2 => varint(bytes).then(|length| skipped(usize::try_from(length).ok(), bytes)),
                3 => group(bytes, tag >> 3).then(|()| Is(false)),
                4 if tag >> 3 == number => Is(true),
                5 => skipped(Some(4), bytes),
                _ => Broken,
            }
        });
        match ended {
            Is(false) => {}
            Is(true) => return opinion,
            IsNot => return IsNot,
            Broken => return Broken,
            Unusual => return Unusual,
        }
    }
}

/// The last one counts.
fn number(fields: &Fields<'_>, wanted: u64) -> Option<u64> {
    fields.iter().rev().find_map(|(field, value)| match value {
        Value::Number(number) if *field == wanted => Some(*number),
        _ => None,
    })
}

fn fixed(fields: &Fields<'_>, wanted: u64) -> Option<u64> {
    fields.iter().rev().find_map(|(field, value)| match value {
        Value::Fixed(value) if *field == wanted => Some(*value),
        _ => None,
    })
}

fn flag(fields: &Fields<'_>, wanted: u64) -> Opinion<Option<bool>> {
    match number(fields, wanted) {
        None => Is(None),
        Some(value @ (0 | 1)) => Is(Some(value == 1)),
        Some(_) => Unusual,
    }
}

/// Which of the three it is, and what is in it.
fn envelope(body: &[u8]) -> Opinion<Option<(u64, Fields<'_>)>> {
    fields(body).then(|outer| {
        let mut last = None;
        let mut opinion = Is(None);
        for (field, value) in outer {
            let (1..=3, Value::Bytes(inner)) = (field, value) else {
                continue;
            };
            // A message that comes twice would have to be merged.
            if last.replace(field).is_some_and(|last| last == field) {
                return Unusual;
            }
            match fields(inner) {
                Is(inner) => opinion = Is(Some((field, inner))),
                IsNot => return IsNot,
                Broken => return Broken,
                Unusual => return Unusual,
            }
        }
        opinion
    })
}

/// A message of which there is a second opinion.
pub(super) trait Reference: Sized {
    fn opinion(body: &[u8]) -> Opinion<Self>;
}

impl Reference for Request {
    fn opinion(body: &[u8]) -> Opinion<Self> {
        envelope(body).then(|inner| match inner {
            Some((1, label)) => match number(&label, 1) {
                Some(id) => Is(Self::Label {
                    id: StreamId(id),
                    control: fixed(&label, 1001),
                    route: number(&label, 1002),
                }),
                None => IsNot,
            },
            Some((2, migrate)) => flag(&migrate, 1000).then(|verify| {
                match (number(&migrate, 1), number(&migrate, 2)) {
                    (Some(id), Some(from)) => Is(Self::Migrate {
                        id: StreamId(id),
                        from: StreamId(from),
                        verify: verify.unwrap_or(false),
                    }),
                    _ => IsNot,
                }
            }),
            _ => IsNot,
        })
    }
}

impl Reference for Ack {
    fn opinion(body: &[u8]) -> Opinion<Self> {
        envelope(body).then(|inner| {
            let ack = match inner {
                Some((3, ack)) => Is(ack),
                Some(_) => IsNot,
                None => fields(body),
            };
            ack.then(|ack| {
                flag(&ack, 1).then(|deny| {
                    flag(&ack, 1000).then(|verify| {
                        Is(Self {
                            deny: deny.unwrap_or(false),
                            verify: verify.unwrap_or(false),
                        })
                    })
                })
            })
        })
    }
}

impl Reference for Switched {
    fn opinion(body: &[u8]) -> Opinion<Self> {
        fields(body).then(|switched| {
            flag(&switched, 2).then(|cancelled| match (number(&switched, 1), cancelled) {
                (Some(sent), None | Some(false)) => Is(Self::Sent(sent)),
                (None, Some(true)) => Is(Self::Cancelled),
                _ => IsNot,
            })
        })
    }
}
