//! The protocol of a substream, by the first bytes of whoever opened it. For the table alone: with
//! the layer, a protocol's bytes are on many substreams, of which only the first says its name.

use std::collections::HashMap;

use crate::tally::Protocol;

/// Enough for all proposals.
pub const LENGTH: usize = 256;

/// The prefix of legs between two layers, and the tags of its messages (`docs/protocol.md`).
const LINK: &str = "/libp2p/stream-migration/link/1.0.0";
const LABEL: u8 = 0x0a;
const MIGRATE: u8 = 0x12;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// A stream that does not move.
    Plain(Option<Protocol>),
    /// The first leg of one that may.
    Labelled { id: u64, protocol: Option<Protocol> },
    /// A later leg.
    Moved { id: u64, from: u64 },
}

pub fn read(mut bytes: &[u8]) -> Head {
    let mut label = None;
    let protocol = loop {
        let Some(name) = frame(&mut bytes).and_then(proposal) else {
            break None;
        };
        if name == LINK {
            match frame(&mut bytes).and_then(message) {
                Some((MIGRATE, id, from)) => return Head::Moved { id, from },
                Some((LABEL, id, _)) => label = Some(id),
                Some(_) | None => break None,
            }
        } else if let Some(protocol) = protocol(name) {
            break Some(protocol);
        }
    };
    match label {
        Some(id) => Head::Labelled { id, protocol },
        None => Head::Plain(protocol),
    }
}

/// The protocol of each: a leg's is that of the leg before.
pub fn protocols(heads: &[Head]) -> Vec<Option<Protocol>> {
    let mut before = HashMap::new();
    let mut known = HashMap::new();
    for head in heads {
        match *head {
            Head::Moved { id, from } => {
                before.insert(id, from);
            }
            Head::Labelled { id, protocol } => {
                known.insert(id, protocol);
            }
            Head::Plain(_) => {}
        }
    }
    let of_leg = |mut id: u64| {
        // No leg has more before it than there are.
        for _ in 0..=before.len() {
            match known.get(&id) {
                Some(protocol) => return *protocol,
                None => id = *before.get(&id)?,
            }
        }
        None
    };
    let of = |head: &Head| match *head {
        Head::Plain(protocol) | Head::Labelled { protocol, .. } => protocol,
        Head::Moved { id, .. } => of_leg(id),
    };
    heads.iter().map(of).collect()
}

fn protocol(name: &str) -> Option<Protocol> {
    let prefixes = [
        ("/meshsub/", Protocol::Gossipsub),
        ("/unmodified/response/", Protocol::Response),
        ("/unmodified/requests/", Protocol::Requests),
        ("/unmodified/kad/", Protocol::Kad),
        ("/ipfs/id/", Protocol::Identify),
        ("/ipfs/ping/", Protocol::Ping),
        ("/unmodified/stream/", Protocol::Stream),
    ];
    let found = prefixes.iter().find(|(prefix, _)| name.starts_with(prefix));
    found.map(|(_, protocol)| *protocol)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// A length, and so many bytes.
fn frame<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(varint(bytes)?).ok()?;
    let (frame, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(frame)
}

/// A line of multistream-select, its header among them.
fn proposal(line: &[u8]) -> Option<&str> {
    let name = str::from_utf8(line).ok()?.strip_suffix('\n')?;
    name.starts_with('/').then_some(name)
}

/// A message's kind, and its first two fields.
fn message(bytes: &[u8]) -> Option<(u8, u64, u64)> {
    let (kind, mut rest) = bytes.split_first()?;
    let mut fields = frame(&mut rest)?;
    let (mut id, mut from) = (None, None);
    while let Some(tag) = varint(&mut fields) {
        let value = varint(&mut fields)?;
        match tag >> 3 {
            1 => id = Some(value),
            2 => from = Some(value),
            _ => {}
        }
    }
    Some((*kind, id?, from.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proposals(names: &[&str]) -> Vec<u8> {
        let line = |name: &&str| {
            let length = u8::try_from(name.len() + 1).unwrap();
            [&[length], name.as_bytes(), b"\n"].concat()
        };
        names.iter().flat_map(line).collect()
    }

    #[test]
    fn a_leg_has_the_protocol_of_the_first() {
        let begin = ["/multistream/1.0.0", LINK];
        // As in `docs/protocol.md`: 5, for connection 3; from 5 to 7.
        let label = [7, 0x0a, 5, 0x08, 5, 0xd0, 0x3e, 3];
        let migrate = [6, 0x12, 4, 0x08, 7, 0x10, 5];
        let inner = proposals(&["/multistream/1.0.0", "/meshsub/1.2.0"]);
        let first = [&proposals(&begin)[..], &label, &inner, b"data"].concat();
        let later = [&proposals(&begin)[..], &migrate, b"more data"].concat();
        let plain = proposals(&["/multistream/1.0.0", "/ipfs/ping/1.0.0"]);
        let none = proposals(&["/multistream/1.0.0", "/libp2p/dcutr"]);
        let heads = [&later, &first, &plain, &none, &vec![]].map(|bytes| read(bytes));
        assert_eq!(heads[0], Head::Moved { id: 7, from: 5 });
        let gossipsub = Some(Protocol::Gossipsub);
        let expected = [gossipsub, gossipsub, Some(Protocol::Ping), None, None];
        assert_eq!(protocols(&heads), expected);
        // What is cut short is nothing.
        for end in 0..first.len() - 5 {
            assert_eq!(protocols(&[read(&first[..end])]), [None]);
        }
    }
}
