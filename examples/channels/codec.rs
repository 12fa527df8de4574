//! Frames: the length of a message as an unsigned varint, then the message.
//!
//! Lengths are looked at on both sides. A message that the remote would refuse is an error here,
//! before a byte of it is on its way, and the channel goes on; one that a remote sends anyway is an
//! error when its length has been read, before there is memory for it, and the channel is over.

use std::{io, marker::PhantomData};

use asynchronous_codec::{BytesMut, Decoder, Encoder};
use quick_protobuf::{BytesReader, MessageRead, MessageWrite, Writer};
use unsigned_varint::{decode, encode, encode::usize_buffer};

/// What is wrong with a message.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    #[error("a message of {size} bytes is not sent, for the remote accepts {limit}")]
    TooLargeToSend { size: usize, limit: usize },
    #[error("a message of {size} bytes was announced, where {limit} are accepted")]
    TooLarge { size: usize, limit: usize },
    #[error("a message is malformed")]
    Malformed,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Messages of one kind, with the largest in each direction in bytes, lengths not counted.
#[derive(Debug, Clone)]
pub struct Codec<M> {
    pub max_out: usize,
    pub max_in: usize,
    message: PhantomData<M>,
}

impl<M> Codec<M> {
    pub fn new(max_out: usize, max_in: usize) -> Self {
        Self {
            max_out,
            max_in,
            message: PhantomData,
        }
    }
}

impl<M: MessageWrite> Encoder for Codec<M> {
    type Item<'a> = M;
    type Error = CodecError;

    fn encode(&mut self, message: M, to: &mut BytesMut) -> Result<(), CodecError> {
        let (size, limit) = (message.get_size(), self.max_out);
        if size > limit {
            return Err(CodecError::TooLargeToSend { size, limit });
        }
        let mut body = Vec::with_capacity(size);
        message
            .write_message(&mut Writer::new(&mut body))
            .map_err(|_| CodecError::Malformed)?;
        let mut length = usize_buffer();
        to.extend_from_slice(encode::usize(body.len(), &mut length));
        to.extend_from_slice(&body);
        Ok(())
    }
}

impl<M: for<'a> MessageRead<'a>> Decoder for Codec<M> {
    type Item = M;
    type Error = CodecError;

    fn decode(&mut self, from: &mut BytesMut) -> Result<Option<M>, CodecError> {
        let (size, rest) = match decode::usize(from) {
            Ok((size, rest)) => (size, rest.len()),
            Err(decode::Error::Insufficient) => return Ok(None),
            Err(_) => return Err(CodecError::Malformed),
        };
        let limit = self.max_in;
        if size > limit {
            return Err(CodecError::TooLarge { size, limit });
        }
        if rest < size {
            from.reserve(size - rest);
            return Ok(None);
        }
        drop(from.split_to(from.len() - rest));
        let body = from.split_to(size);
        let message = M::from_reader(&mut BytesReader::from_bytes(&body), &body);
        message.map(Some).map_err(|_| CodecError::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::{ChannelInfo, Packet};

    fn packet(length: usize) -> Packet {
        Packet {
            sequence: 1 << 40,
            data: vec![7; length],
        }
    }

    #[test]
    fn messages_survive_in_pieces_of_any_length() {
        let mut codec = Codec::new(1000, 1000);
        let mut bytes = BytesMut::new();
        for length in [0, 1, 127, 128, 900] {
            codec.encode(packet(length), &mut bytes).unwrap();
        }
        for piece in [1, 2, 100, bytes.len()] {
            let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
            for piece in bytes.chunks(piece) {
                buffer.extend_from_slice(piece);
                while let Some(packet) = codec.decode(&mut buffer).unwrap() {
                    found.push(packet.data.len());
                }
            }
            assert_eq!(found, [0, 1, 127, 128, 900]);
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn what_is_too_large_leaves_no_trace_at_the_sender() {
        let limit = packet(100).get_size();
        let mut codec = Codec::new(limit, 0);
        let mut bytes = BytesMut::new();
        let error = codec.encode(packet(101), &mut bytes).unwrap_err();
        assert!(matches!(error, CodecError::TooLargeToSend { size, .. } if size == limit + 1));
        assert!(bytes.is_empty());
        codec.encode(packet(100), &mut bytes).unwrap();
    }

    #[test]
    fn what_is_too_large_is_refused_by_its_length_alone() {
        let mut codec = Codec::<Packet>::new(0, 100);
        for size in [101, usize::MAX] {
            let mut length = usize_buffer();
            let mut bytes = BytesMut::from(encode::usize(size, &mut length));
            let error = codec.decode(&mut bytes).unwrap_err();
            assert!(
                matches!(error, CodecError::TooLarge { limit: 100, .. }),
                "{error}"
            );
        }
        let mut endless = BytesMut::from(&[0xff; 11][..]);
        assert!(matches!(
            codec.decode(&mut endless),
            Err(CodecError::Malformed)
        ));
    }

    #[test]
    fn later_fields_are_skipped_and_hostile_ones_are_errors() {
        let read = |body: &[u8]| {
            let mut bytes = BytesMut::from(&[body.len() as u8][..]);
            bytes.extend_from_slice(body);
            Codec::<ChannelInfo>::new(0, 100).decode(&mut bytes)
        };
        let info = read(&[8, 0x22, 16, 100, 0x7a, 2, 1, 2, 0x70, 5])
            .unwrap()
            .unwrap();
        assert_eq!((info.id, info.max_message), (Some(0x22), 100));
        assert_eq!(read(&[]).unwrap().unwrap().id, None);
        for hostile in [
            &[8][..],
            &[0x1a, 5, b'a'],
            &[0x1a, 1, 0xff],
            &[0x7b],
            &[0x7d, 1],
            &[
                0x7a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1,
            ],
            &[0x1a, 0xff, 0xff, 0xff, 0xff, 0xf],
        ] {
            assert!(
                matches!(read(hostile), Err(CodecError::Malformed)),
                "{hostile:?}"
            );
        }
    }
}
