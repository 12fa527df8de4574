
use quick_protobuf::{MessageInfo, MessageRead, MessageWrite, BytesReader, Writer, WriterBackend, Result};
use quick_protobuf::sizeofs::*;
use super::*;

#[allow(clippy::derive_partial_eq_without_eq)]
#[derive(Debug, Default, PartialEq, Clone)]
pub struct StreamMigration {
    pub type_pb: mod_StreamMigration::OneOftype_pb,
}

impl<'a> MessageRead<'a> for StreamMigration {
    fn from_reader(r: &mut BytesReader, bytes: &'a [u8]) -> Result<Self> {
        let mut msg = Self::default();
        while !r.is_eof() {
            match r.next_tag(bytes) {
                Ok(10) => msg.type_pb = mod_StreamMigration::OneOftype_pb::label(r.read_message::<Label>(bytes)?),
                Ok(18) => msg.type_pb = mod_StreamMigration::OneOftype_pb::migrate(r.read_message::<Migrate>(bytes)?),
                Ok(26) => msg.type_pb = mod_StreamMigration::OneOftype_pb::ack_migrate(r.read_message::<AckMigrate>(bytes)?),
                Ok(t) => { r.read_unknown(bytes, t)?; }
                Err(e) => return Err(e),
            }
        }
        Ok(msg)
    }
}

impl MessageWrite for StreamMigration {
    fn get_size(&self) -> usize {
        0
        + match self.type_pb {
            mod_StreamMigration::OneOftype_pb::label(ref m) => 1 + sizeof_len((m).get_size()),
            mod_StreamMigration::OneOftype_pb::migrate(ref m) => 1 + sizeof_len((m).get_size()),
            mod_StreamMigration::OneOftype_pb::ack_migrate(ref m) => 1 + sizeof_len((m).get_size()),
            mod_StreamMigration::OneOftype_pb::None => 0,
    }    }

    fn write_message<W: WriterBackend>(&self, w: &mut Writer<W>) -> Result<()> {
        match self.type_pb {            mod_StreamMigration::OneOftype_pb::label(ref m) => { w.write_with_tag(10, |w| w.write_message(m))? },
            mod_StreamMigration::OneOftype_pb::migrate(ref m) => { w.write_with_tag(18, |w| w.write_message(m))? },
            mod_StreamMigration::OneOftype_pb::ack_migrate(ref m) => { w.write_with_tag(26, |w| w.write_message(m))? },
            mod_StreamMigration::OneOftype_pb::None => {},
    }        Ok(())
    }
}

pub mod mod_StreamMigration {

use super::*;

#[derive(Debug, PartialEq, Clone)]
pub enum OneOftype_pb {
    label(Label),
    migrate(Migrate),
    ack_migrate(AckMigrate),
    None,
}

impl Default for OneOftype_pb {
    fn default() -> Self {
        OneOftype_pb::None
    }
}

}

#[allow(clippy::derive_partial_eq_without_eq)]
#[derive(Debug, Default, PartialEq, Clone)]
pub struct Label {
    pub id: Option<u64>,
    pub control: Option<u64>,
    pub route: Option<u64>,
}

impl<'a> MessageRead<'a> for Label {
    fn from_reader(r: &mut BytesReader, bytes: &'a [u8]) -> Result<Self> {
        let mut msg = Self::default();
        while !r.is_eof() {
            match r.next_tag(bytes) {
                Ok(8) => msg.id = Some(r.read_uint64(bytes)?),
                Ok(8009) => msg.control = Some(r.read_fixed64(bytes)?),
                Ok(8016) => msg.route = Some(r.read_uint64(bytes)?),
                Ok(t) => { r.read_unknown(bytes, t)?; }
                Err(e) => return Err(e),
            }
        }
        Ok(msg)
    }
}

impl MessageWrite for Label {
    fn get_size(&self) -> usize {
        0
        + self.id.as_ref().map_or(0, |m| 1 + sizeof_varint(*(m) as u64))
        + self.control.as_ref().map_or(0, |_| 2 + 8)
        + self.route.as_ref().map_or(0, |m| 2 + sizeof_varint(*(m) as u64))
    }

    fn write_message<W: WriterBackend>(&self, w: &mut Writer<W>) -> Result<()> {
        if let Some(ref s) = self.id { w.write_with_tag(8, |w| w.write_uint64(*s))?; }
        if let Some(ref s) = self.control { w.write_with_tag(8009, |w| w.write_fixed64(*s))?; }
        if let Some(ref s) = self.route { w.write_with_tag(8016, |w| w.write_uint64(*s))?; }
        Ok(())
    }
}

#[allow(clippy::derive_partial_eq_without_eq)]
#[derive(Debug, Default, PartialEq, Clone)]
pub struct Migrate {
    pub id: Option<u64>,
    pub from: Option<u64>,
    pub verify: Option<bool>,
    pub resume: Option<Resume>,
}

impl<'a> MessageRead<'a> for Migrate {
    fn from_reader(r: &mut BytesReader, bytes: &'a [u8]) -> Result<Self> {
        let mut msg = Self::default();
        while !r.is_eof() {
            match r.next_tag(bytes) {
                Ok(8) => msg.id = Some(r.read_uint64(bytes)?),
                Ok(16) => msg.from = Some(r.read_uint64(bytes)?),
                Ok(8000) => msg.verify = Some(r.read_bool(bytes)?),
                Ok(8010) => msg.resume = Some(r.read_message::<Resume>(bytes)?),
                Ok(t) => { r.read_unknown(bytes, t)?; }
                Err(e) => return Err(e),
            }
        }
        Ok(msg)
    }
}

impl MessageWrite for Migrate {
    fn get_size(&self) -> usize {
        0
        + self.id.as_ref().map_or(0, |m| 1 + sizeof_varint(*(m) as u64))
        + self.from.as_ref().map_or(0, |m| 1 + sizeof_varint(*(m) as u64))
        + self.verify.as_ref().map_or(0, |m| 2 + sizeof_varint(*(m) as u64))
        + self.resume.as_ref().map_or(0, |m| 2 + sizeof_len((m).get_size()))
    }

    fn write_message<W: WriterBackend>(&self, w: &mut Writer<W>) -> Result<()> {
        if let Some(ref s) = self.id { w.write_with_tag(8, |w| w.write_uint64(*s))?; }
        if let Some(ref s) = self.from { w.write_with_tag(16, |w| w.write_uint64(*s))?; }
        if let Some(ref s) = self.verify { w.write_with_tag(8000, |w| w.write_bool(*s))?; }
        if let Some(ref s) = self.resume { w.write_with_tag(8010, |w| w.write_message(s))?; }
        Ok(())
    }
}

#[allow(clippy::derive_partial_eq_without_eq)]
#[derive(Debug, Default, PartialEq, Clone)]
pub struct Resume {
    pub epoch: Option<u64>,
    pub remote: Option<u64>,
    pub generation: Option<u64>,
    pub facts: Option<Facts>,
}

impl<'a> MessageRead<'a> for Resume {
    fn from_reader(r: &mut BytesReader, bytes: &'a [u8]) -> Result<Self> {
        let mut msg = Self::default();
        while !r.is_eof() {
            match r.next_tag(bytes) {
                Ok(9) => msg.epoch = Some(r.read_fixed64(bytes)?),
                Ok(17) => msg.remote = Some(r.read_fixed64(bytes)?),
                Ok(24) => msg.generation = Some(r.read_uint64(bytes)?),
                Ok(34) => msg.facts = Some(r.read_message::<Facts>(bytes)?),
                Ok(t) => { r.read_unknown(bytes, t)?; }
                Err(e) => return Err(e),
            }
        }
        Ok(msg)
    }
}

impl MessageWrite for Resume {
    fn get_size(&self) -> usize {
        0
        + self.epoch.as_ref().map_or(0, |_| 1 + 8)
        + self.remote.as_ref().map_or(0, |_| 1 + 8)
        + self.generation.as_ref().map_or(0, |m| 1 + sizeof_varint(*(m) as u64))
        + self.facts.as_ref().map_or(0, |m| 1 + sizeof_len((m).get_size()))
    }

    fn write_message<W: WriterBackend>(&self, w: &mut Writer<W>) -> Result<()> {
        if let Some(ref s) = self.epoch { w.write_with_tag(9, |w| w.write_fixed64(*s))?; }
        if let Some(ref s) = self.remote { w.write_with_tag(17, |w| w.write_fixed64(*s))?; }
        if let Some(ref s) = self.generation { w.write_with_tag(24, |w| w.write_uint64(*s))?; }
        if let Some(ref s) = self.facts { w.write_with_tag(34, |w| w.write_message(s))?; }
        Ok(())
    }
}

#[allow(clippy::derive_partial_eq_without_eq)]
#[derive(Debug, Default, PartialEq, Clone)]
pub struct AckMigrate {
    pub deny_migrate: Option<bool>,
    pub verify: Option<bool>,
    pub resume: Option<Facts>,
    pub not_now: Option<bool>,
}

impl<'a> MessageRead<'a> for AckMigrate {
    fn from_reader(r: &mut BytesReader, bytes: &'a [u8]) -> Result<Self> {
        let mut msg = Self::default();
        while !r.is_eof() {
            match r.next_tag(bytes) {
                Ok(8) => msg.deny_migrate = Some(r.read_bool(bytes)?),
                Ok(8000) => msg.verify = Some(r.read_bool(bytes)?),
                Ok(8010) => msg.resume = Some(r.read_message::<Facts>(bytes)?),
                Ok(8016) => msg.not_now = Some(r.read_bool(bytes)?),
                Ok(t) => { r.read_unknown(bytes, t)?; }
                Err(e) => return Err(e),
            }
        }
        Ok(msg)
    }
}

impl MessageWrite for AckMigrate {
    fn get_size(&self) -> usize {
        0
        + self.deny_migrate.as_ref().map_or(0, |m| 1 + sizeof_varint(*(m) as u64))
        + self.verify.as_ref().map_or(0, |m| 2 + sizeof_varint(*(m) as u64))
        + self.resume.as_ref().map_or(0, |m| 2 + sizeof_len((m).get_size()))
        + self.not_now.as_ref().map_or(0, |m| 2 + sizeof_varint(*(m) as u64))
    }

    fn write_message<W: WriterBackend>(&self, w: &mut Writer<W>) -> Result<()> {
        if let Some(ref s) = self.deny_migrate { w.write_with_tag(8, |w| w.write_bool(*s))?; }
        if let Some(ref s) = self.verify { w.write_with_tag(8000, |w| w.write_bool(*s))?; }
        if let Some(ref s) = self.resume { w.write_with_tag(8010, |w| w.write_message(s))?; }
        if let Some(ref s) = self.not_now { w.write_with_tag(8016, |w| w.write_bool(*s))?; }
        Ok(())
    }
}

#[allow(clippy::derive_partial_eq_without_eq)]
#[derive(Debug, Default, PartialEq, Clone)]
pub struct Switched {
    pub sent: Option<u64>,
    pub cancelled: Option<bool>,
}

impl<'a> MessageRead<'a> for Switched {
    fn from_reader(r: &mut BytesReader, bytes: &'a [u8]) -> Result<Self> {
        let mut msg = Self::default();
        while !r.is_eof() {
            match r.next_tag(bytes) {
                Ok(8) => msg.sent = Some(r.read_uint64(bytes)?),
                Ok(16) => msg.cancelled = Some(r.read_bool(bytes)?),
                Ok(t) => { r.read_unknown(bytes, t)?; }
                Err(e) => return Err(e),
            }
        }
        Ok(msg)
    }
}

impl MessageWrite for Switched {
    fn get_size(&self) -> usize {
        0
        + self.sent.as_ref().map_or(0, |m| 1 + sizeof_varint(*(m) as u64))
        + self.cancelled.as_ref().map_or(0, |m| 1 + sizeof_varint(*(m) as u64))
    }

    fn write_message<W: WriterBackend>(&self, w: &mut Writer<W>) -> Result<()> {
        if let Some(ref s) = self.sent { w.write_with_tag(8, |w| w.write_uint64(*s))?; }
        if let Some(ref s) = self.cancelled { w.write_with_tag(16, |w| w.write_bool(*s))?; }
        Ok(())
    }
}

#[allow(clippy::derive_partial_eq_without_eq)]
#[derive(Debug, Default, PartialEq, Clone)]
pub struct Control {
    pub hello: Option<Hello>,
    pub facts: Vec<Facts>,
    pub ping: Option<u64>,
    pub pong: Option<u64>,
    pub closed: Vec<u64>,
    pub bye: Option<bool>,
}

impl<'a> MessageRead<'a> for Control {
    fn from_reader(r: &mut BytesReader, bytes: &'a [u8]) -> Result<Self> {
        let mut msg = Self::default();
        while !r.is_eof() {
            match r.next_tag(bytes) {
                Ok(10) => msg.hello = Some(r.read_message::<Hello>(bytes)?),
                Ok(18) => msg.facts.push(r.read_message::<Facts>(bytes)?),
                Ok(24) => msg.ping = Some(r.read_uint64(bytes)?),
                Ok(32) => msg.pong = Some(r.read_uint64(bytes)?),
                Ok(40) => msg.closed.push(r.read_uint64(bytes)?),
                Ok(48) => msg.bye = Some(r.read_bool(bytes)?),
                Ok(t) => { r.read_unknown(bytes, t)?; }
                Err(e) => return Err(e),
            }
        }
        Ok(msg)
    }
}

impl MessageWrite for Control {
    fn get_size(&self) -> usize {
        0
        + self.hello.as_ref().map_or(0, |m| 1 + sizeof_len((m).get_size()))
        + self.facts.iter().map(|s| 1 + sizeof_len((s).get_size())).sum::<usize>()
        + self.ping.as_ref().map_or(0, |m| 1 + sizeof_varint(*(m) as u64))
        + self.pong.as_ref().map_or(0, |m| 1 + sizeof_varint(*(m) as u64))
        + self.closed.iter().map(|s| 1 + sizeof_varint(*(s) as u64)).sum::<usize>()
        + self.bye.as_ref().map_or(0, |m| 1 + sizeof_varint(*(m) as u64))
    }

    fn write_message<W: WriterBackend>(&self, w: &mut Writer<W>) -> Result<()> {
        if let Some(ref s) = self.hello { w.write_with_tag(10, |w| w.write_message(s))?; }
        for s in &self.facts { w.write_with_tag(18, |w| w.write_message(s))?; }
        if let Some(ref s) = self.ping { w.write_with_tag(24, |w| w.write_uint64(*s))?; }
        if let Some(ref s) = self.pong { w.write_with_tag(32, |w| w.write_uint64(*s))?; }
        for s in &self.closed { w.write_with_tag(40, |w| w.write_uint64(*s))?; }
        if let Some(ref s) = self.bye { w.write_with_tag(48, |w| w.write_bool(*s))?; }
        Ok(())
    }
}

#[allow(clippy::derive_partial_eq_without_eq)]
#[derive(Debug, Default, PartialEq, Clone)]
pub struct Hello {
    pub epoch: Option<u64>,
    pub resume: Option<bool>,
    pub connection: Option<u64>,
    pub facts: Option<bool>,
}

impl<'a> MessageRead<'a> for Hello {
    fn from_reader(r: &mut BytesReader, bytes: &'a [u8]) -> Result<Self> {
        let mut msg = Self::default();
        while !r.is_eof() {
            match r.next_tag(bytes) {
                Ok(9) => msg.epoch = Some(r.read_fixed64(bytes)?),
                Ok(16) => msg.resume = Some(r.read_bool(bytes)?),
                Ok(24) => msg.connection = Some(r.read_uint64(bytes)?),
                Ok(32) => msg.facts = Some(r.read_bool(bytes)?),
                Ok(t) => { r.read_unknown(bytes, t)?; }
                Err(e) => return Err(e),
            }
        }
        Ok(msg)
    }
}

impl MessageWrite for Hello {
    fn get_size(&self) -> usize {
        0
        + self.epoch.as_ref().map_or(0, |_| 1 + 8)
        + self.resume.as_ref().map_or(0, |m| 1 + sizeof_varint(*(m) as u64))
        + self.connection.as_ref().map_or(0, |m| 1 + sizeof_varint(*(m) as u64))
        + self.facts.as_ref().map_or(0, |m| 1 + sizeof_varint(*(m) as u64))
    }

    fn write_message<W: WriterBackend>(&self, w: &mut Writer<W>) -> Result<()> {
        if let Some(ref s) = self.epoch { w.write_with_tag(9, |w| w.write_fixed64(*s))?; }
        if let Some(ref s) = self.resume { w.write_with_tag(16, |w| w.write_bool(*s))?; }
        if let Some(ref s) = self.connection { w.write_with_tag(24, |w| w.write_uint64(*s))?; }
        if let Some(ref s) = self.facts { w.write_with_tag(32, |w| w.write_bool(*s))?; }
        Ok(())
    }
}

#[allow(clippy::derive_partial_eq_without_eq)]
#[derive(Debug, Default, PartialEq, Clone)]
pub struct Facts {
    pub origin: Option<u64>,
    pub received: Option<u64>,
    pub done: Option<bool>,
    pub total: Option<u64>,
    pub lost: Option<u64>,
    pub gone: Option<bool>,
    pub sent: Option<u64>,
}

impl<'a> MessageRead<'a> for Facts {
    fn from_reader(r: &mut BytesReader, bytes: &'a [u8]) -> Result<Self> {
        let mut msg = Self::default();
        while !r.is_eof() {
            match r.next_tag(bytes) {
                Ok(8) => msg.origin = Some(r.read_uint64(bytes)?),
                Ok(16) => msg.received = Some(r.read_uint64(bytes)?),
                Ok(24) => msg.done = Some(r.read_bool(bytes)?),
                Ok(32) => msg.total = Some(r.read_uint64(bytes)?),
                Ok(40) => msg.lost = Some(r.read_uint64(bytes)?),
                Ok(48) => msg.gone = Some(r.read_bool(bytes)?),
                Ok(56) => msg.sent = Some(r.read_uint64(bytes)?),
                Ok(t) => { r.read_unknown(bytes, t)?; }
                Err(e) => return Err(e),
            }
        }
        Ok(msg)
    }
}

impl MessageWrite for Facts {
    fn get_size(&self) -> usize {
        0
        + self.origin.as_ref().map_or(0, |m| 1 + sizeof_varint(*(m) as u64))
        + self.received.as_ref().map_or(0, |m| 1 + sizeof_varint(*(m) as u64))
        + self.done.as_ref().map_or(0, |m| 1 + sizeof_varint(*(m) as u64))
        + self.total.as_ref().map_or(0, |m| 1 + sizeof_varint(*(m) as u64))
        + self.lost.as_ref().map_or(0, |m| 1 + sizeof_varint(*(m) as u64))
        + self.gone.as_ref().map_or(0, |m| 1 + sizeof_varint(*(m) as u64))
        + self.sent.as_ref().map_or(0, |m| 1 + sizeof_varint(*(m) as u64))
    }

    fn write_message<W: WriterBackend>(&self, w: &mut Writer<W>) -> Result<()> {
        if let Some(ref s) = self.origin { w.write_with_tag(8, |w| w.write_uint64(*s))?; }
        if let Some(ref s) = self.received { w.write_with_tag(16, |w| w.write_uint64(*s))?; }
        if let Some(ref s) = self.done { w.write_with_tag(24, |w| w.write_bool(*s))?; }
        if let Some(ref s) = self.total { w.write_with_tag(32, |w| w.write_uint64(*s))?; }
        if let Some(ref s) = self.lost { w.write_with_tag(40, |w| w.write_uint64(*s))?; }
        if let Some(ref s) = self.gone { w.write_with_tag(48, |w| w.write_bool(*s))?; }
        if let Some(ref s) = self.sent { w.write_with_tag(56, |w| w.write_uint64(*s))?; }
        Ok(())
    }
}

