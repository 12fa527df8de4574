//! Message bodies: arbitrary bytes in, and arbitrary messages out and in again.

use std::fmt::Debug;

use futures::{FutureExt, io::Cursor};

use super::{
    Source,
    reference::{Opinion, Reference},
};
use crate::{
    machine::StreamId,
    protocol::codec::{self, Ack, Control, MAX_MESSAGE, Message, Request, Switched},
};

/// The bytes are a message's body, and the numbers of messages.
pub(crate) fn codec(data: &[u8]) {
    let is_request = decode::<Request>(data);
    let is_ack = decode::<Ack>(data);
    decode::<Switched>(data);
    // *On the wire*: what is read first on a leg cannot be taken for an answer.
    assert!(!(is_request && is_ack));

    let mut source = Source(data);
    let id = StreamId(source.number());
    let from = StreamId(source.number());
    let [deny, verify] = [source.bit(), source.bit()];
    let route = verify.then_some(from.0);
    round_trip(Request::Label {
        id,
        control: None,
        route,
    });
    round_trip(Request::Migrate { id, from, verify });
    round_trip(Ack { deny, verify });
    round_trip(Switched::Sent(id.0));
    round_trip(Switched::Cancelled);

    // What two layers say on a control substream comes out as it went in.
    if let Ok(control) = Control::decode(data) {
        assert_eq!(Control::decode(&control.encode()).ok(), Some(control));
    }
}

fn decode<M: Message + Reference + Copy + PartialEq + Debug>(body: &[u8]) -> bool {
    let decoded = M::decode(body).ok();
    match M::opinion(body) {
        Opinion::Is(message) => assert_eq!(decoded, Some(message), "{body:02x?}"),
        Opinion::IsNot | Opinion::Broken => assert_eq!(decoded, None, "{body:02x?}"),
        Opinion::Unusual => {}
    }
    if let Some(message) = decoded {
        round_trip(message);
    }
    decoded.is_some()
}

fn round_trip<M: Message + Reference + Copy + PartialEq + Debug>(message: M) {
    let body = message.encode();
    assert_eq!(M::opinion(&body), Opinion::Is(message), "{body:02x?}");
    assert_eq!(M::decode(&body).ok(), Some(message), "{body:02x?}");

    let mut bytes = codec::frame(&message).to_vec();
    assert!(bytes.len() <= MAX_MESSAGE);
    let length = bytes.len();
    bytes.extend([0x13; 4]);
    let mut cursor = Cursor::new(bytes);
    let read = codec::read::<M>(&mut cursor).now_or_never();
    assert_eq!(read.and_then(Result::ok), Some(message), "{cursor:02x?}");
    assert_eq!(cursor.position(), length as u64);
}
