//! Many streams at once.

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt, future::join_all};
use libp2p::{PeerId, StreamProtocol};
use libp2p_stream_migration::{Chain, Config, Initiate};
use testing::*;

/// Of each kind and side; of all, more than four times what a yamux connection carries.
const MANY: usize = 500;

const PLAIN: StreamProtocol = StreamProtocol::new("/plain/1.0.0");

fn node() -> Node {
    Node::with(Setup {
        layer: true,
        plain: true,
        config: Config::default()
            .with_initiate(Initiate::Either)
            .with_layer_always(true)
            .with_accept_backlog(4 * MANY)
            .with_max_pending_opens(4 * MANY),
        policy: Box::new(Chain::default()),
        ..Default::default()
    })
}

/// Answers each stream with what it says.
fn echo(node: &mut Node) {
    let mut incoming = node.control.accept(PROTOCOL).unwrap();
    let mut plain = node.accept_plain(PLAIN);
    tokio::spawn(async move {
        while let Some((_, stream)) = incoming.next().await {
            tokio::spawn(answer(stream));
        }
    });
    tokio::spawn(async move {
        while let Some((_, stream)) = plain.next().await {
            tokio::spawn(answer(stream));
        }
    });
}

async fn answer(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin) {
    let mut word = Vec::new();
    stream.read_to_end(&mut word).await.unwrap();
    stream.write_all(&word).await.unwrap();
    stream.close().await.unwrap();
}

async fn ask(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, number: usize) {
    let word = number.to_be_bytes();
    stream.write_all(&word).await.unwrap();
    // Others come meanwhile.
    tokio::task::yield_now().await;
    stream.close().await.unwrap();
    let mut echo = Vec::new();
    stream.read_to_end(&mut echo).await.unwrap();
    assert_eq!(echo, word);
}

async fn crowd(node: &Node, peer: PeerId) {
    let (control, plain) = (node.control.clone(), node.plain.clone().unwrap());
    let moving = (0..MANY).map(|number| {
        let mut control = control.clone();
        async move { ask(control.open_stream(peer, PROTOCOL).await.unwrap(), number).await }
    });
    let others = (0..MANY).map(|number| {
        let mut plain = plain.clone();
        async move { ask(plain.open_stream(peer, PLAIN).await.unwrap(), number).await }
    });
    futures::join!(join_all(moving), join_all(others));
}

/// "I opened five hundred streams at once, and the connection was closed under all of them." What is more than the
/// muxer carries waits, whoever opens it and by whatever behaviour.
#[tokio::test]
async fn bursts_of_both_sides_end_no_link() {
    for kind in [Kind::Tcp, Kind::Relayed] {
        let mut net = Net::with(node(), node());
        net.connect(kind).await;
        echo(&mut net.dialer);
        echo(&mut net.listener);
        let [here, there] = [net.dialer.id, net.listener.id];
        within("all of them", async {
            futures::join!(crowd(&net.dialer, there), crowd(&net.listener, here))
        })
        .await;
        let closed = |node: &Node| node.read(|seen| matches!(seen, Seen::Closed(_)));
        assert!(!closed(&net.dialer) && !closed(&net.listener));
    }
}
