package main

import (
	"sync"

	"github.com/libp2p/go-libp2p/core/metrics"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// count is of one protocol's streams with one peer, and of the bytes on them.
type count struct {
	StreamsIn  int   `json:"streams_in"`
	StreamsOut int   `json:"streams_out"`
	Read       int64 `json:"read"`
	Written    int64 `json:"written"`
}

// counts are a peer program's, of all its hosts. go-libp2p counts as "" what it reads and writes
// before a protocol is agreed on, and a stream on which none ever is.
type counts struct {
	*metrics.BandwidthCounter // for what of it nobody asks

	mu    sync.Mutex // protects all below
	peers map[peer.ID]map[protocol.ID]*count
	open  map[peer.ID]int // streams
	ended sync.Cond       // a stream has
}

func newCounts() *counts {
	c := &counts{
		BandwidthCounter: metrics.NewBandwidthCounter(),
		peers:            make(map[peer.ID]map[protocol.ID]*count),
		open:             make(map[peer.ID]int),
	}
	c.ended.L = &c.mu
	return c
}

func (c *counts) change(p peer.ID, proto protocol.ID, change func(*count)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.peers[p] == nil {
		c.peers[p] = make(map[protocol.ID]*count)
	}
	if c.peers[p][proto] == nil {
		c.peers[p][proto] = new(count)
	}
	change(c.peers[p][proto])
}

// LogSentMessageStream is go-libp2p's, for each write.
func (c *counts) LogSentMessageStream(n int64, proto protocol.ID, p peer.ID) {
	c.change(p, proto, func(one *count) { one.Written += n })
}

// LogRecvMessageStream is go-libp2p's, for each read.
func (c *counts) LogRecvMessageStream(n int64, proto protocol.ID, p peer.ID) {
	c.change(p, proto, func(one *count) { one.Read += n })
}

// with waits until no stream to the peer is open, and says what there was.
func (c *counts) with(p peer.ID) map[protocol.ID]count {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.open[p] > 0 {
		c.ended.Wait()
	}
	all := make(map[protocol.ID]count)
	for proto, one := range c.peers[p] {
		all[proto] = *one
	}
	return all
}

// streamManager limits nothing, and counts streams.
type streamManager struct {
	network.NullResourceManager
	counts *counts
}

func (m *streamManager) OpenStream(p peer.ID, dir network.Direction) (network.StreamManagementScope, error) {
	m.counts.mu.Lock()
	m.counts.open[p]++
	m.counts.mu.Unlock()
	scope := &streamScope{counts: m.counts, peer: p, dir: dir}
	scope.add("", 1)
	return scope, nil
}

// streamScope is one stream.
type streamScope struct {
	network.NullScope
	counts *counts
	peer   peer.ID
	dir    network.Direction
	once   sync.Once
}

func (s *streamScope) add(proto protocol.ID, n int) {
	s.counts.change(s.peer, proto, func(one *count) {
		if s.dir == network.DirInbound {
			one.StreamsIn += n
		} else {
			one.StreamsOut += n
		}
	})
}

func (s *streamScope) SetProtocol(proto protocol.ID) error {
	s.add("", -1)
	s.add(proto, 1)
	return nil
}

func (s *streamScope) Done() {
	s.once.Do(func() {
		s.counts.mu.Lock()
		defer s.counts.mu.Unlock()
		s.counts.open[s.peer]--
		s.counts.ended.Broadcast()
	})
}
