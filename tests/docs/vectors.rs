//! The bytes on record in `interop/vectors`; the Go and the JS tests read those of `messages.json`, too.

use libp2p_stream_migration_core::{machine, protocol};

use std::{collections::BTreeSet, fmt::Debug, fs};

use futures::{FutureExt, io::Cursor};
use machine::{Facts, StreamId};
use protocol::{
    PROTOCOL_NAME,
    codec::{Ack, Control, Hello, Message, Request, Resume, Resumed, Switched, frame, read},
};
use serde_json::Value;

/// Reads the message, of which it has to take every byte and not one more.
fn decode<M: Message>(bytes: &[u8]) -> M {
    let followed = [bytes, b"\xff"].concat();
    let mut cursor = Cursor::new(&followed);
    let message = read(&mut cursor).now_or_never().unwrap().unwrap();
    assert_eq!(cursor.position(), bytes.len() as u64);
    message
}

fn check<M: Message + PartialEq + Debug>(bytes: &[u8], message: M, is_what_we_write: bool) {
    assert_eq!(decode::<M>(bytes), message);
    if is_what_we_write {
        assert_eq!(frame(&message), bytes);
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks_exact(2);
    assert!(digits.remainder().is_empty(), "{hex}");
    digits
        .map(|byte| u8::from_str_radix(str::from_utf8(byte).unwrap(), 16).unwrap())
        .collect()
}

fn number(vector: &Value, field: &str) -> u64 {
    optional(vector, field).unwrap()
}

/// Numbers are text, as they do not fit what JSON calls a number.
fn optional(vector: &Value, field: &str) -> Option<u64> {
    Some(vector.get(field)?.as_str().unwrap().parse().unwrap())
}

fn control(vector: &Value) -> Control {
    let hello = optional(vector, "epoch").map(|epoch| Hello {
        epoch,
        connection: optional(vector, "connection"),
        facts: vector["believes"] == true,
        resume: vector["resumes"] == true,
    });
    let closed = vector["closed"].as_array().unwrap().iter();
    let closed = closed.map(|number| number.as_str().unwrap().parse().unwrap());
    Control {
        hello,
        facts: facts(vector),
        closed: closed.collect(),
        ping: optional(vector, "ping"),
        pong: optional(vector, "pong"),
        bye: vector["bye"] == true,
    }
}

fn facts(vector: &Value) -> Vec<(StreamId, Facts)> {
    let facts = vector["facts"].as_array().into_iter().flatten();
    facts.map(fact).collect()
}

fn fact(facts: &Value) -> (StreamId, Facts) {
    let said = Facts {
        received: optional(facts, "received").unwrap_or(0),
        done: facts["done"] == true,
        total: optional(facts, "total"),
        lost: optional(facts, "lost"),
        gone: facts["gone"] == true,
        sent: optional(facts, "sent"),
    };
    (StreamId(number(facts, "origin")), said)
}

/// The lines of multistream-select that come before the message on a new leg.
fn prefix(protocol: &str) -> Vec<u8> {
    ["/multistream/1.0.0", protocol]
        .into_iter()
        .flat_map(|line| {
            let length = u8::try_from(line.len() + 1).unwrap();
            [&[length], line.as_bytes(), b"\n"].concat()
        })
        .collect()
}

#[test]
fn bytes_on_record() {
    let file = |name| {
        let path = format!("{}/interop/vectors/{name}.json", env!("CARGO_MANIFEST_DIR"));
        let file = fs::read(path).unwrap();
        serde_json::from_slice::<Vec<Value>>(&file).unwrap()
    };
    let vectors = [file("messages"), file("facts"), file("resume")].concat();
    let mut pairs = BTreeSet::new();
    let mut ours = false;
    for vector in &vectors {
        let mut bytes = &bytes(vector["hex"].as_str().unwrap())[..];
        if let Some(protocol) = vector["protocol"].as_str() {
            ours |= protocol == PROTOCOL_NAME;
            let rest = bytes.strip_prefix(&prefix(protocol)[..]);
            bytes = rest.unwrap_or_else(|| panic!("{vector}"));
        }
        let verify = vector["verify"] == true;
        match vector["message"].as_str().unwrap() {
            "label" => {
                let id = StreamId(number(vector, "id"));
                let route = optional(vector, "route");
                let control = optional(vector, "control");
                check(bytes, Request::Label { id, control, route }, true);
            }
            "migrate" => {
                let (id, from) = (number(vector, "id"), number(vector, "from"));
                pairs.insert((id, from));
                let migrate = Request::Migrate {
                    id: StreamId(id),
                    from: StreamId(from),
                    verify,
                };
                check(bytes, migrate, true);
            }
            "ack" => {
                let deny = vector["deny"] == true;
                check(bytes, Ack { deny, verify }, vector["wrapped"] == true);
            }
            "switched" if vector["cancelled"] == true => check(bytes, Switched::Cancelled, true),
            "switched" => check(bytes, Switched::Sent(number(vector, "sent")), true),
            "control" => check(bytes, control(vector), true),
            "resume" => {
                let (origin, facts) = fact(&vector["facts"]);
                let resume = Resume {
                    epoch: number(vector, "epoch"),
                    remote: optional(vector, "remote"),
                    origin,
                    generation: number(vector, "generation"),
                    facts,
                };
                let id = StreamId(number(vector, "id"));
                check(bytes, Request::Resume { id, resume }, true);
            }
            "resumed" if vector["not_now"] == true => check(bytes, Resumed::NotNow, true),
            "resumed" => {
                let (origin, facts) = fact(&vector["facts"]);
                check(bytes, Resumed::Facts(origin, facts), true);
            }
            _ => panic!("{vector}"),
        }
    }
    assert!(pairs.len() >= 10, "{pairs:?}");
    assert!(ours, "no message behind our own protocol's name");
    let kinds = [
        "label", "migrate", "ack", "switched", "control", "resume", "resumed",
    ];
    for message in kinds {
        assert!(vectors.iter().any(|vector| vector["message"] == message));
    }
}
