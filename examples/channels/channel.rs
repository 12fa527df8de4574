//! A channel: a stream with a number, and messages no larger than its other side accepts.
//!
//! Whoever opens the stream says its number and what it accepts, and is told what the other side
//! accepts, or why there is no such channel. This is the handshake that the RFC asks for, since a
//! QUIC stream does not say what it is for. A stream that moves to another connection stays the
//! same stream, and needs no other.

use std::time::Duration;

use asynchronous_codec::Framed;
use futures::{SinkExt, StreamExt};
use libp2p::{PeerId, StreamProtocol};
use libp2p_stream_migration::{Control, OpenStreamError, Stream, StreamKey};

use crate::{
    codec::{Codec, CodecError},
    messages::{ChannelInfo, Packet},
};

pub const PROTOCOL: StreamProtocol = StreamProtocol::new("/channels/1.0.0");

/// The largest `ChannelInfo`; nothing has been agreed on at that time.
const MAX_INFO: usize = 256;
/// How long a handshake may take, so that a remote cannot keep us waiting with half of one.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a node says of one of its channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    pub name: &'static str,
    pub id: u32,
    /// The largest message that it accepts, in bytes.
    pub max_message: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    #[error("no stream")]
    Open(#[from] OpenStreamError),
    #[error(transparent)]
    Codec(#[from] CodecError),
    #[error("the stream ended in the middle of a handshake")]
    Ended,
    #[error("no handshake within {PATIENCE:?}")]
    Timeout,
    #[error("a handshake without a number or a largest message")]
    Incomplete,
    #[error("asked for channel {asked:#x}, the remote answered for {answered:#x}")]
    Another { asked: u32, answered: u32 },
    #[error("the remote refuses channel {id:#x}: {why}")]
    Refused { id: u32, why: String },
    #[error("the remote asks for channel {id:#x}, which is refused: {why}")]
    Unwanted { id: u32, why: &'static str },
}

/// An open channel.
#[derive(Debug)]
pub struct Channel {
    pub spec: Spec,
    /// The largest message that the remote accepts.
    pub remote_max: u32,
    pub stream: StreamKey,
    pub framed: Framed<Stream, Codec<Packet>>,
}

impl Channel {
    /// Opens a channel to the peer.
    pub async fn open(
        control: &mut Control,
        peer: PeerId,
        spec: Spec,
    ) -> Result<Self, ChannelError> {
        in_time(async {
            let stream = control.open_stream(peer, PROTOCOL).await?;
            let mut framed = Framed::new(stream, Codec::new(MAX_INFO, MAX_INFO));
            framed.send(info(spec)).await?;
            let (answered, answer) = hear(&mut framed).await?;
            if answered != spec.id {
                let asked = spec.id;
                return Err(ChannelError::Another { asked, answered });
            }
            if !answer.refused.is_empty() {
                return Err(ChannelError::Refused {
                    id: spec.id,
                    // To be shown to somebody: without what plays with a terminal.
                    why: answer.refused.replace(char::is_control, " "),
                });
            }
            Self::agreed(framed, spec, answer.max_message)
        })
        .await
    }

    /// Answers for one of `ours`, unless it is `taken`.
    pub async fn accept(
        stream: Stream,
        ours: &[Spec],
        taken: &[u32],
    ) -> Result<Self, ChannelError> {
        in_time(async {
            let mut framed = Framed::new(stream, Codec::new(MAX_INFO, MAX_INFO));
            let (id, asked) = hear(&mut framed).await?;
            let refuse = |why| (Err(ChannelError::Unwanted { id, why }), why);
            let (spec, why) = match ours.iter().find(|spec| spec.id == id) {
                None => refuse("there is no such channel"),
                Some(_) if taken.contains(&id) => refuse("it is open already"),
                Some(spec) => (Ok(*spec), ""),
            };
            let answer = ChannelInfo {
                id: Some(id),
                max_message: spec.as_ref().map_or(0, |spec| spec.max_message),
                refused: why.to_owned(),
            };
            framed.send(answer).await?;
            match spec {
                Ok(spec) => Self::agreed(framed, spec, asked.max_message),
                Err(refused) => {
                    framed.close().await?;
                    Err(refused)
                }
            }
        })
        .await
    }

    fn agreed(
        framed: Framed<Stream, Codec<ChannelInfo>>,
        spec: Spec,
        remote_max: u32,
    ) -> Result<Self, ChannelError> {
        if remote_max == 0 {
            return Err(ChannelError::Incomplete);
        }
        let size = |max| usize::try_from(max).unwrap_or(usize::MAX);
        let codec = Codec::new(size(remote_max), size(spec.max_message));
        let stream = framed.key();
        // Its buffers are kept: messages may have come with the handshake.
        let framed = Framed::from_parts(framed.into_parts().map_codec(|_| codec));
        Ok(Self {
            spec,
            remote_max,
            stream,
            framed,
        })
    }
}

fn info(spec: Spec) -> ChannelInfo {
    ChannelInfo {
        id: Some(spec.id),
        max_message: spec.max_message,
        refused: String::new(),
    }
}

async fn hear(
    framed: &mut Framed<Stream, Codec<ChannelInfo>>,
) -> Result<(u32, ChannelInfo), ChannelError> {
    let info = framed.next().await.ok_or(ChannelError::Ended)??;
    let id = info.id.ok_or(ChannelError::Incomplete)?;
    Ok((id, info))
}

async fn in_time<T>(
    work: impl Future<Output = Result<T, ChannelError>>,
) -> Result<T, ChannelError> {
    let done = tokio::time::timeout(PATIENCE, work).await;
    done.unwrap_or(Err(ChannelError::Timeout))
}
