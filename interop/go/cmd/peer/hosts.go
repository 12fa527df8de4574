package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	circuit "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	quic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/libp2p/go-libp2p/p2p/transport/websocket"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// hosts is the peer's network. A swarm of go-libp2p refuses to dial a peer that it is connected to,
// so every dial gets a host of its own with the same key; one main host listens, reserves and
// relays. All of them feed one migration manager, which does not mind whose a connection is.
type hosts struct {
	id     peer.ID
	key    crypto.PrivKey
	flags  flags
	attach func(host.Host)
	main   host.Host
	out    *output
	counts *counts

	mu      sync.Mutex              // protects all below
	names   map[network.Conn]string // every connection that there was, events may come late
	byName  map[string]network.Conn // those that are alive
	closing bool                    // action of on_relayed
}

// keyOf is the ed25519 key of which the seed is n as a big-endian 8-byte number, four times over.
func keyOf(n uint64) (crypto.PrivKey, error) {
	seed := bytes.Repeat(binary.BigEndian.AppendUint64(nil, n), 4)
	return crypto.UnmarshalEd25519PrivateKey(ed25519.NewKeyFromSeed(seed))
}

func newHosts(f flags, out *output, attach func(host.Host)) (*hosts, error) {
	key, err := keyOf(f.seed)
	if err != nil {
		return nil, err
	}
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		return nil, err
	}
	h := &hosts{
		id: id, key: key, flags: f, attach: attach, out: out, counts: newCounts(),
		names: make(map[network.Conn]string), byName: make(map[string]network.Conn),
	}
	if h.main, err = h.newHost(); err != nil || !f.relay {
		return h, err
	}
	// No limits that the matrix could reach: without a limit the connections through the relay do
	// not even count as limited ones. The relay's addresses are of the loopback, which go-libp2p
	// would leave out of a reservation, and a reservation without addresses is refused by others.
	const many = 1 << 20
	rc := relay.DefaultResources()
	rc.Limit, rc.BufferSize = nil, 64<<10
	rc.MaxReservations, rc.MaxCircuits, rc.MaxReservationsPerIP, rc.MaxReservationsPerASN = many, many, many, many
	_, err = relay.New(h.main, relay.WithResources(rc),
		relay.WithReservationAddressFilter(func(ma.Multiaddr) bool { return true }))
	return h, err
}

// newHost makes a host with nothing on it that is not needed, and no limits.
func (h *hosts) newHost() (host.Host, error) {
	// Both are spoken; the flag says which one a dial asks for first.
	viaNoise, viaTLS := libp2p.Security(noise.ID, noise.New), libp2p.Security(libp2ptls.ID, libp2ptls.New)
	security := libp2p.ChainOptions(viaNoise, viaTLS)
	if h.flags.security == "tls" {
		security = libp2p.ChainOptions(viaTLS, viaNoise)
	}
	one, err := libp2p.New(
		libp2p.Identity(h.key),
		libp2p.NoListenAddrs,
		libp2p.EnableRelay(),
		libp2p.Transport(tcp.NewTCPTransport),
		libp2p.Transport(websocket.New),
		libp2p.Transport(quic.NewTransport),
		security,
		libp2p.Muxer(yamux.ID, yamux.DefaultTransport),
		libp2p.ResourceManager(&streamManager{counts: h.counts}),
		libp2p.BandwidthReporter(h.counts),
		libp2p.ConnectionManager(connmgr.NullConnMgr{}), // closes nothing, ever
		libp2p.DisableMetrics(),
		libp2p.DisableIdentifyAddressDiscovery(),
		libp2p.Ping(false),
	)
	if err != nil {
		return nil, err
	}
	one.Network().Notify(&network.NotifyBundle{
		ConnectedF:    func(_ network.Network, c network.Conn) { h.connected(c) },
		DisconnectedF: func(_ network.Network, c network.Conn) { h.disconnected(one, c) },
	})
	if err := h.tellIdentified(one); err != nil {
		return nil, err
	}
	h.attach(one)
	return one, nil
}

// tellIdentified tells when identify has told all about the other end of a connection.
func (h *hosts) tellIdentified(one host.Host) error {
	told, err := one.EventBus().Subscribe(new(event.EvtPeerIdentificationCompleted))
	if err != nil {
		return err
	}
	go func() {
		for e := range told.Out() {
			c := e.(event.EvtPeerIdentificationCompleted).Conn
			h.out.emit(object{"event": "identified", "conn": h.nameOf(c)})
		}
	}()
	return nil
}

func isRelayed(c network.Conn) bool {
	_, err := c.RemoteMultiaddr().ValueForProtocol(ma.P_CIRCUIT)
	return err == nil
}

func (h *hosts) describe(name string, c network.Conn) object {
	return object{
		"conn": name, "peer": c.RemotePeer().String(), "addr": c.RemoteMultiaddr().String(),
		"relayed": isRelayed(c), "dialer": c.Stat().Direction == network.DirOutbound,
	}
}

func (h *hosts) connected(c network.Conn) {
	name := h.nameOf(c)
	h.mu.Lock()
	h.byName[name] = c
	h.mu.Unlock()
	event := h.describe(name, c)
	event["event"] = "connected"
	h.out.emit(event)
	h.closeRelayed(c)
}

func (h *hosts) disconnected(one host.Host, c network.Conn) {
	name := h.nameOf(c)
	h.mu.Lock()
	delete(h.byName, name)
	h.mu.Unlock()
	event := h.describe(name, c)
	event["event"] = "disconnected"
	h.out.emit(event)
	if one != h.main && len(one.Network().Conns()) == 0 {
		go one.Close() // made for one dial, whose connections are gone
	}
}

// closeRelayed does what js-libp2p does when a direct connection c comes up, if told to.
func (h *hosts) closeRelayed(c network.Conn) {
	h.mu.Lock()
	var doomed []network.Conn
	if h.closing && !isRelayed(c) {
		for _, other := range h.byName {
			if other.RemotePeer() == c.RemotePeer() && isRelayed(other) {
				doomed = append(doomed, other)
			}
		}
	}
	h.mu.Unlock()
	for _, d := range doomed {
		go d.Close()
	}
}

func (h *hosts) onRelayed(action string) error {
	if action != "close" && action != "keep" {
		return badCommand("action %q", action)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closing = action == "close"
	return nil
}

// close closes every connection. Without it the other ends of QUIC connections would believe in them
// until their idle timeout, and a relay would try them first.
func (h *hosts) close() {
	h.mu.Lock()
	conns := make([]network.Conn, 0, len(h.byName))
	for _, c := range h.byName {
		conns = append(conns, c)
	}
	h.mu.Unlock()
	var wg sync.WaitGroup
	for _, c := range conns {
		wg.Go(func() { c.Close() })
	}
	wg.Wait()
}

// nameOf names a connection. It keeps its name when it is gone: what happened on it may be told of later.
func (h *hosts) nameOf(c network.Conn) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	name := h.names[c]
	if name == "" {
		name = fmt.Sprintf("c%d", len(h.names)+1)
		h.names[c] = name
	}
	return name
}

func (h *hosts) conn(name string) (network.Conn, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.byName[name]; c != nil {
		return c, nil
	}
	return nil, badCommand("no connection %q", name)
}

// known is conn, also for one that has gone; nil if there was none.
func (h *hosts) known(name string) network.Conn {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c, n := range h.names {
		if n == name {
			return c
		}
	}
	return nil
}

func (h *hosts) connections(p string) []object {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := []object{}
	for name, c := range h.byName {
		if p == "" || c.RemotePeer().String() == p {
			list = append(list, h.describe(name, c))
		}
	}
	return list
}

// listen listens on an address with port 0, or reserves a place with a relay.
func (h *hosts) listen(ctx context.Context, addr string) ([]string, error) {
	a, err := ma.NewMultiaddr(addr)
	if err != nil {
		return nil, badCommand("%w", err)
	}
	self := "/p2p/" + h.id.String()
	if base, ok := strings.CutSuffix(addr, "/p2p-circuit"); ok {
		at, err := peer.AddrInfoFromString(base)
		if err != nil {
			return nil, badCommand("%w", err)
		}
		if err := h.dialExactly(ctx, h.main, *at); err != nil {
			return nil, err
		}
		if _, err := circuit.Reserve(ctx, h.main, *at); err != nil {
			return nil, err
		}
		return []string{addr + self}, nil
	}
	before := make(map[string]bool)
	for _, l := range h.main.Network().ListenAddresses() {
		before[l.String()] = true
	}
	if a, err = withPort(a); err != nil {
		return nil, err
	}
	if err := h.main.Network().Listen(a); err != nil {
		return nil, err
	}
	var addrs []string
	for _, l := range h.main.Network().ListenAddresses() {
		if !before[l.String()] {
			addrs = append(addrs, l.String()+self)
		}
	}
	return addrs, nil
}

// withPort chooses the port of a QUIC address with port 0: go-libp2p's QUIC transport knows its
// listeners by the address that was asked for, and panics at the second one with port 0.
func withPort(a ma.Multiaddr) (ma.Multiaddr, error) {
	if port, err := a.ValueForProtocol(ma.P_UDP); err != nil || port != "0" {
		return a, nil
	}
	network, addr, err := manet.DialArgs(a)
	if err != nil {
		return nil, err
	}
	socket, err := net.ListenPacket(network, addr)
	if err != nil {
		return nil, err
	}
	defer socket.Close()
	port := socket.LocalAddr().(*net.UDPAddr).Port
	return ma.NewMultiaddr(strings.Replace(a.String(), "/udp/0", fmt.Sprintf("/udp/%d", port), 1))
}

// dial makes a new connection, on a host of its own.
func (h *hosts) dial(ctx context.Context, addr string) (network.Conn, error) {
	at, err := peer.AddrInfoFromString(addr)
	if err != nil {
		return nil, badCommand("%w", err)
	}
	one, err := h.newHost()
	if err != nil {
		return nil, err
	}
	if err := h.dialExactly(ctx, one, *at); err != nil {
		one.Close()
		return nil, err
	}
	for _, c := range one.Network().ConnsToPeer(at.ID) {
		return c, nil
	}
	one.Close()
	return nil, fmt.Errorf("connection to %s lost at once", at.ID)
}

// dialExactly dials that address and no other that is known of the peer.
func (h *hosts) dialExactly(ctx context.Context, one host.Host, at peer.AddrInfo) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if sw, ok := one.Network().(*swarm.Swarm); ok {
		sw.Backoff().Clear(at.ID)
	}
	one.Peerstore().ClearAddrs(at.ID)
	one.Peerstore().AddAddrs(at.ID, at.Addrs, peerstore.TempAddrTTL)
	_, err := one.Network().DialPeer(ctx, at.ID)
	return err
}
