//! Many streams at once: bursts, full connections, opens whose caller has given up.

use std::{io, pin::Pin};

use futures::{AsyncReadExt, FutureExt, StreamExt};
use libp2p::{PeerId, StreamProtocol, swarm::ConnectionId};
use libp2p_stream_migration::{Config, Control, Event, OpenStreamError, PROTOCOL_NAME, Stream};

use crate::{harness::*, proxy::Proxy};

type Opening = Pin<Box<dyn Future<Output = Result<Stream, OpenStreamError>>>>;

/// A call that has been made and is waited for.
fn opening(control: &Control, peer: PeerId, on: ConnectionId) -> Opening {
    let mut control = control.clone();
    let open = async move { control.open_stream_on(peer, on, PROTOCOL).await };
    let mut open: Opening = Box::pin(open);
    assert!(open.as_mut().now_or_never().is_none());
    open
}

fn is_refused(opened: &Result<Stream, OpenStreamError>) -> bool {
    matches!(opened, Err(OpenStreamError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock)
}

/// Callers have set a timeout for their opens, which has passed; they hold no place, and later calls are
/// not refused for their sake.
/// B15 · rust-libp2p 6157
#[tokio::test]
async fn callers_who_have_given_up_hold_no_place() {
    const PLACES: usize = 8;
    /// How many a connection is asked for at once.
    const ASKED: usize = 64;
    let dialer = Node::with(Setup {
        config: Config::default().with_max_pending_opens(PLACES),
        ..Default::default()
    });
    let net = Net::with(dialer, Node::new());
    let path = Proxy::default();
    let on = path.connect(&net, Kind::Tcp).await.here;
    path.silence();
    let (control, peer) = (&net.dialer.control, net.listener.id);
    let given_up: Vec<_> = (0..ASKED + PLACES)
        .map(|_| opening(control, peer, on))
        .collect();
    let refused = within("a refusal", opening(control, peer, on)).await;
    assert!(is_refused(&refused), "{refused:?}");
    drop(given_up);
    let live: Vec<_> = (0..PLACES).map(|_| opening(control, peer, on)).collect();
    let refused = within("a refusal", opening(control, peer, on)).await;
    assert!(is_refused(&refused), "{refused:?}");
    for mut live in live {
        assert!(live.as_mut().now_or_never().is_none());
    }
}

/// A caller gives up while the remote thinks about its protocol: the stream is let go of at once, and the
/// next caller has one of its own.
/// B15 · rust-libp2p 5651
#[tokio::test]
async fn a_caller_gives_up_while_the_protocol_is_negotiated() {
    // By another name, the protocol's real name is a protocol like any other.
    let raw = Node::with(Setup {
        config: Config::default().with_protocol_name(StreamProtocol::new("/raw")),
        ..Default::default()
    });
    let mut net = Net::with(Node::new(), raw);
    let mut inside = net.listener.control.accept(PROTOCOL_NAME).unwrap();
    let on = net.connect(Kind::Tcp).await.here;
    let peer = net.listener.id;
    let given_up = opening(&net.dialer.control, peer, on);
    let (_, _, mut leg) = within("the label", inside.next()).await.unwrap();
    within("the label's first byte", leg.read_exact(&mut [0]))
        .await
        .unwrap();
    drop(given_up);
    let mut said = Vec::new();
    // A reset, on some transports; the label and the offer before it.
    let _ = within("it is let go of", leg.read_to_end(&mut said)).await;
    let over = |event: &Event| matches!(event, Event::StreamEnded { .. }).then_some(());
    net.dialer.event("the end", over).await;
    assert!(net.dialer.control.streams(peer).await.is_empty());
}
