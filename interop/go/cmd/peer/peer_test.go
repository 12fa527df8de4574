package main

import (
	"testing"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

func TestPattern(t *testing.T) {
	// ((i xor s) * 2654435761) mod 2^32, its top byte: by hand for the first two of each seed.
	for seed, want := range map[uint32][2]byte{1: {0x9e, 0x00}, 2: {0x3c, 0xda}} {
		var got [2]byte
		pattern(got[:], 0, seed)
		if got != want {
			t.Errorf("seed %d: %x", seed, got)
		}
	}
	// It does not depend on where a buffer begins.
	whole, part := make([]byte, 300), make([]byte, 100)
	pattern(whole, 1000, 7)
	pattern(part, 1200, 7)
	if string(whole[200:]) != string(part) {
		t.Error("position")
	}
}

func TestKey(t *testing.T) {
	key, err := keyOf(1)
	if err != nil {
		t.Fatal(err)
	}
	// RFC 8032 leaves one public key for a seed; other implementations must come to this ID too.
	if id, err := peer.IDFromPrivateKey(key); err != nil || id.String() != "12D3KooWAFqdXSsCC3HNjoydH4kP2cd4YWUq13TQHe1CgrzJ6Pig" {
		t.Error(id, err)
	}
}

func TestWithPort(t *testing.T) {
	for _, same := range []string{"/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/4001/quic-v1", "/ip4/127.0.0.1/tcp/0/ws"} {
		a := ma.StringCast(same)
		if got, err := withPort(a); err != nil || !got.Equal(a) {
			t.Error(got, err)
		}
	}
	got, err := withPort(ma.StringCast("/ip4/127.0.0.1/udp/0/quic-v1"))
	if err != nil {
		t.Fatal(err)
	}
	if port, err := got.ValueForProtocol(ma.P_UDP); err != nil || port == "0" {
		t.Error(got, err)
	}
}

// A migration may be told of after the connection that it left has gone.
func TestNamesStay(t *testing.T) {
	h := &hosts{names: make(map[network.Conn]string), byName: make(map[string]network.Conn)}
	a, b := &goneConn{number: 1}, &goneConn{number: 2}
	if h.nameOf(a) != "c1" || h.nameOf(b) != "c2" || h.nameOf(a) != "c1" {
		t.Error(h.names)
	}
	if _, err := h.conn("c1"); err == nil {
		t.Error("a connection that is not there")
	}
}

type goneConn struct {
	network.Conn
	number int
}
