//! What goes over a channel, as protobuf.
//!
//! ```protobuf
//! // The first message each way: the RFC's, with what it leaves open.
//! message ChannelInfo {
//!   uint32 id = 1;          // the channel's number
//!   uint32 max_message = 2; // the largest message that this side accepts
//!   string refused = 3;     // why there will be no channel; then the stream is closed
//! }
//!
//! // All that follow.
//! message Packet {
//!   uint64 sequence = 1;
//!   bytes data = 2;
//! }
//! ```
//!
//! Written by hand, for there are two of them. Fields of later versions are skipped; none of these
//! holds a message itself, which is what quick-protobuf 0.8 gets wrong (see `docs/guarantees.md`).

use quick_protobuf::{
    BytesReader, MessageRead, MessageWrite, Result, Writer, WriterBackend,
    sizeofs::{sizeof_len, sizeof_varint},
};

const VARINT: u32 = 0;
const BYTES: u32 = 2;

const fn tag(field: u32, kind: u32) -> u32 {
    field << 3 | kind
}

const ID: u32 = tag(1, VARINT);
const MAX_MESSAGE: u32 = tag(2, VARINT);
const REFUSED: u32 = tag(3, BYTES);
const SEQUENCE: u32 = tag(1, VARINT);
const DATA: u32 = tag(2, BYTES);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChannelInfo {
    /// `None` is no number that anybody meant.
    pub id: Option<u32>,
    pub max_message: u32,
    pub refused: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packet {
    pub sequence: u64,
    pub data: Vec<u8>,
}

impl MessageWrite for ChannelInfo {
    fn get_size(&self) -> usize {
        let id = self.id.map_or(0, |id| 1 + sizeof_varint(id.into()));
        let refused = match self.refused.len() {
            0 => 0,
            length => 1 + sizeof_len(length),
        };
        id + 1 + sizeof_varint(self.max_message.into()) + refused
    }

    fn write_message<W: WriterBackend>(&self, to: &mut Writer<W>) -> Result<()> {
        if let Some(id) = self.id {
            to.write_with_tag(ID, |to| to.write_uint32(id))?;
        }
        to.write_with_tag(MAX_MESSAGE, |to| to.write_uint32(self.max_message))?;
        if !self.refused.is_empty() {
            to.write_with_tag(REFUSED, |to| to.write_string(&self.refused))?;
        }
        Ok(())
    }
}

impl<'a> MessageRead<'a> for ChannelInfo {
    fn from_reader(from: &mut BytesReader, bytes: &'a [u8]) -> Result<Self> {
        let mut message = Self::default();
        while !from.is_eof() {
            match from.next_tag(bytes)? {
                ID => message.id = Some(from.read_uint32(bytes)?),
                MAX_MESSAGE => message.max_message = from.read_uint32(bytes)?,
                REFUSED => message.refused = from.read_string(bytes)?.to_owned(),
                other => from.read_unknown(bytes, other)?,
            }
        }
        Ok(message)
    }
}

impl MessageWrite for Packet {
    fn get_size(&self) -> usize {
        1 + sizeof_varint(self.sequence) + 1 + sizeof_len(self.data.len())
    }

    fn write_message<W: WriterBackend>(&self, to: &mut Writer<W>) -> Result<()> {
        to.write_with_tag(SEQUENCE, |to| to.write_uint64(self.sequence))?;
        to.write_with_tag(DATA, |to| to.write_bytes(&self.data))
    }
}

impl<'a> MessageRead<'a> for Packet {
    fn from_reader(from: &mut BytesReader, bytes: &'a [u8]) -> Result<Self> {
        let mut message = Self::default();
        while !from.is_eof() {
            match from.next_tag(bytes)? {
                SEQUENCE => message.sequence = from.read_uint64(bytes)?,
                DATA => message.data = from.read_bytes(bytes)?.to_vec(),
                other => from.read_unknown(bytes, other)?,
            }
        }
        Ok(message)
    }
}
