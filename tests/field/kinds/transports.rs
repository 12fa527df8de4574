//! Transports beside TCP and QUIC: WebSocket, WebRTC, the memory transport, one that nobody knows, and one
//! whose dialers name a host and do not learn where it is.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{LazyLock, Mutex},
    task::{Context, Poll},
};

use futures::{AsyncRead, AsyncWrite};
use libp2p::{
    Multiaddr, PeerId, Transport,
    core::{
        muxing::{StreamMuxer, StreamMuxerBox, StreamMuxerEvent},
        transport::{Boxed, DialOpts, ListenerId, MemoryTransport, TransportError, TransportEvent},
        upgrade::Version,
    },
    identity::Keypair,
    multiaddr::Protocol,
    noise, quic, tcp, websocket, yamux,
};
use libp2p_webrtc::tokio::{Certificate, Transport as WebRtc};

type Connected = (PeerId, StreamMuxerBox);

/// All of them.
pub fn all(keypair: &Keypair) -> Boxed<Connected> {
    // WebRTC's DTLS has to be told, because libp2p's own TLS brings another one. It may have been before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let tcp = || tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
    let secured = || noise::Config::new(keypair).unwrap();
    let websocket = websocket::Config::new(tcp())
        .upgrade(Version::V1Lazy)
        .authenticate(secured())
        .multiplex(yamux::Config::default())
        .boxed();
    let certificate = Certificate::generate(&mut rand::rng()).unwrap();
    let webrtc = WebRtc::new(keypair.clone(), certificate);
    let webrtc = webrtc.map(|(peer, connection), _| (peer, StreamMuxerBox::new(connection)));
    let memory = || {
        MemoryTransport::default()
            .upgrade(Version::V1Lazy)
            .authenticate(secured())
            .multiplex(yamux::Config::default())
    };
    let made_up =
        memory().map(|(peer, muxer), _| (peer, StreamMuxerBox::new(Touchy { muxer, peer })));
    let named_tcp = tcp()
        .upgrade(Version::V1Lazy)
        .authenticate(secured())
        .multiplex(yamux::Config::default());
    let named_quic = quic::tokio::Transport::new(quic::Config::new(keypair));
    let named_quic =
        named_quic.map(|(peer, connection), _| (peer, StreamMuxerBox::new(connection)));
    let named = either(named_tcp.boxed(), named_quic.boxed());
    let all = either(websocket, webrtc.boxed());
    let all = either(all, memory().boxed());
    let made_up = Renamed {
        inner: made_up.boxed(),
        inwards: |address| match address.iter().next()? {
            Protocol::Unix(number) => Some(Protocol::Memory(number.parse().ok()?).into()),
            _ => None,
        },
        outwards: |address| match address.iter().next() {
            Some(Protocol::Memory(number)) => Protocol::Unix(number.to_string().into()).into(),
            _ => address,
        },
    };
    let named = Renamed {
        inner: named,
        inwards: |address| match address.iter().next()? {
            Protocol::Dnsaddr(name) => {
                let (transport, port) = name.split_once('.')?;
                let address = match transport {
                    "tcp" => format!("/ip4/127.0.0.1/tcp/{port}"),
                    _ => format!("/ip4/127.0.0.1/udp/{port}/quic-v1"),
                };
                address.parse().ok()
            }
            _ => None,
        },
        outwards: |address| address,
    };
    either(either(all, made_up.boxed()), named.boxed())
}

fn either(a: Boxed<Connected>, b: Boxed<Connected>) -> Boxed<Connected> {
    a.or_transport(b)
        .map(|either, _| either.into_inner())
        .boxed()
}

/// What stands for this address where names are looked up only in dialing: `/dnsaddr/quic.4001`.
pub fn named(address: &Multiaddr) -> Multiaddr {
    let name = address.iter().find_map(|part| match part {
        Protocol::Tcp(port) => Some(format!("tcp.{port}")),
        Protocol::Udp(port) => Some(format!("quic.{port}")),
        _ => None,
    });
    Protocol::Dnsaddr(name.unwrap().into()).into()
}

/// A transport under other addresses.
struct Renamed {
    inner: Boxed<Connected>,
    inwards: fn(&Multiaddr) -> Option<Multiaddr>,
    outwards: fn(Multiaddr) -> Multiaddr,
}

impl Transport for Renamed {
    type Output = Connected;
    type Error = io::Error;
    type ListenerUpgrade = <Boxed<Connected> as Transport>::ListenerUpgrade;
    type Dial = <Boxed<Connected> as Transport>::Dial;

    fn listen_on(
        &mut self,
        id: ListenerId,
        address: Multiaddr,
    ) -> Result<(), TransportError<io::Error>> {
        match (self.inwards)(&address) {
            Some(inner) => self.inner.listen_on(id, inner),
            None => Err(TransportError::MultiaddrNotSupported(address)),
        }
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        opts: DialOpts,
    ) -> Result<Self::Dial, TransportError<io::Error>> {
        match (self.inwards)(&address) {
            Some(inner) => self.inner.dial(inner, opts),
            None => Err(TransportError::MultiaddrNotSupported(address)),
        }
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        let outwards = self.outwards;
        let event = Pin::new(&mut self.inner).poll(cx);
        event.map(|event| match event {
            TransportEvent::NewAddress {
                listener_id,
                listen_addr,
            } => TransportEvent::NewAddress {
                listener_id,
                listen_addr: outwards(listen_addr),
            },
            TransportEvent::Incoming {
                listener_id,
                upgrade,
                local_addr,
                send_back_addr,
            } => TransportEvent::Incoming {
                listener_id,
                upgrade,
                local_addr: outwards(local_addr),
                send_back_addr: outwards(send_back_addr),
            },
            event => event,
        })
    }
}

/// Empty writes on the transport that nobody knows, by the peer that they were to go to.
static EMPTY_WRITES: LazyLock<Mutex<HashMap<PeerId, usize>>> = LazyLock::new(Mutex::default);

/// How often this peer would have been sent something that its application takes for an end.
pub fn empty_writes(to: PeerId) -> usize {
    EMPTY_WRITES.lock().unwrap().get(&to).copied().unwrap_or(0)
}

/// A muxer whose streams take an empty write for who knows what.
struct Touchy<M> {
    muxer: M,
    peer: PeerId,
}

impl<M: StreamMuxer<Substream: Unpin> + Unpin> StreamMuxer for Touchy<M> {
    type Substream = TouchyStream<M::Substream>;
    type Error = M::Error;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, M::Error>> {
        let peer = self.peer;
        let polled = Pin::new(&mut self.muxer).poll_inbound(cx);
        polled.map_ok(|io| TouchyStream { io, peer })
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, M::Error>> {
        let peer = self.peer;
        let polled = Pin::new(&mut self.muxer).poll_outbound(cx);
        polled.map_ok(|io| TouchyStream { io, peer })
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), M::Error>> {
        Pin::new(&mut self.muxer).poll_close(cx)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, M::Error>> {
        Pin::new(&mut self.muxer).poll(cx)
    }
}

struct TouchyStream<S> {
    io: S,
    peer: PeerId,
}

impl<S: AsyncRead + Unpin> AsyncRead for TouchyStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TouchyStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            *EMPTY_WRITES.lock().unwrap().entry(self.peer).or_default() += 1;
        }
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_close(cx)
    }
}
