//! A remote that speaks the protocol by hand, byte by byte, over real connections: what must happen in
//! an order that two honest peers show only by chance.

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, StreamExt};
use libp2p::PeerId;
use libp2p_stream_migration::{Event, Failure, MigrateError, PROTOCOL_NAME, Violation};

use crate::harness::*;

const LABEL_0: &[u8] = &[4, 0x0a, 2, 8, 0];
const ACCEPT: &[u8] = &[2, 0x1a, 0];

/// A node of ours and one without the behaviour, which plays the remote.
struct Raw {
    net: Net,
    old: Pair,
    new: Pair,
}

impl Raw {
    async fn new(old: Kind, new: Kind) -> Self {
        let node = Node::with(Setup {
            config: libp2p_stream_migration::Config::default()
                .with_answer_timeout(std::time::Duration::from_millis(300)),
            ..Default::default()
        });
        let raw = Node::with(Setup {
            migration: false,
            plain: true,
            ..Default::default()
        });
        // Ours listens, the raw one dials, so that it can open substreams on a chosen connection: the
        // plain behaviour picks one at random, and there is only one at first.
        let mut net = Net::with(raw, node);
        let old = net.connect(old).await;
        Self {
            net,
            old,
            new: Pair { ..old },
        }
        .with_new(new)
    }

    fn with_new(self, _: Kind) -> Self {
        self
    }

    fn raw_id(&self) -> PeerId {
        self.net.dialer.id
    }

    /// A substream of the raw peer, the prefix agreed.
    async fn prefix(&mut self) -> impl AsyncRead + AsyncWrite + Unpin + use<> {
        let peer = self.net.listener.id;
        let control = self.net.dialer.plain.as_mut().unwrap();
        within("the prefix", control.open_stream(peer, PROTOCOL_NAME))
            .await
            .unwrap()
    }
}
