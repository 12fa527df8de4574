package migration

import (
	"errors"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

var (
	errInUse = errors.New("ID in use")
	errFull  = errors.New("too many streams")
)

// How long, and how many, ended streams are remembered, so that a late Migrate for one of them
// can be denied (*Overtaking*).
const (
	endedFor = time.Minute
	maxEnded = 4096
)

// party is the other side of a table: a peer, and below the swarm one life of it (*Streams of a
// connection*).
type party struct {
	id      peer.ID
	layered bool
	epoch   uint64
}

type key struct {
	party party
	id    uint64
}

type ended struct {
	key   key
	clean bool
	until time.Time
}

// peerState lasts as long as the table: an ID is unique between two parties across all their
// connections.
type peerState struct {
	counter  uint64
	live     int  // IDs in the table
	held     int  // Migrates that wait
	verifies bool // an ack of its said so
	ahead    int  // bytes read ahead for its streams
}

// table holds the streams under the party and the ID: no peer can name another's stream
// (*Hostile or broken peers*).
type table struct {
	mu      sync.Mutex // protects all below; nothing is called under it
	max     int        // labelled streams per peer
	streams map[key]*Stream
	peers   map[party]*peerState
	ended   map[key]ended
	order   []ended       // of ended, oldest first
	changed chan struct{} // closed and replaced when a stream comes in
}

func newTable(max int) *table {
	return &table{
		max:     max,
		streams: make(map[key]*Stream),
		peers:   make(map[party]*peerState),
		ended:   make(map[key]ended),
		changed: make(chan struct{}),
	}
}

// state is called under mu.
func (t *table) state(p party) *peerState {
	st := t.peers[p]
	if st == nil {
		st = &peerState{}
		t.peers[p] = st
	}
	return st
}

// with runs f on what is known of a peer.
func (t *table) with(p party, f func(*peerState)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f(t.state(p))
}

// unusedID returns an ID for a label that names no stream for long.
func (t *table) unusedID(local peer.ID, p party) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.unusedIDLocked(local, p)
}

// reserve enters s under a new ID of ours.
func (t *table) reserve(local peer.ID, p party, s *Stream) (uint64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	id := t.unusedIDLocked(local, p)
	return id, t.putLocked(p, id, s)
}

// unusedIDLocked skips IDs in use: the remote may have taken some of our parity.
func (t *table) unusedIDLocked(local peer.ID, p party) uint64 {
	st := t.state(p)
	for {
		id := streamID(st.counter, local, p.id)
		st.counter++
		if _, used := t.streams[key{p, id}]; !used {
			return id
		}
	}
}

// put enters s under an ID that the remote chose, of whatever parity.
func (t *table) put(p party, id uint64, s *Stream) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.putLocked(p, id, s)
}

func (t *table) putLocked(p party, id uint64, s *Stream) error {
	st := t.state(p)
	if _, used := t.streams[key{p, id}]; used {
		return errInUse
	}
	if st.live >= t.max {
		return errFull
	}
	st.live++
	t.streams[key{p, id}] = s
	close(t.changed)
	t.changed = make(chan struct{})
	return nil
}

// drop takes an ID out that names nothing any more.
func (t *table) drop(p party, id uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dropLocked(key{p, id})
}

func (t *table) dropLocked(k key) {
	if _, ok := t.streams[k]; ok {
		delete(t.streams, k)
		t.state(k.party).live--
	}
}

// end takes an ID out whose stream has ended, and remembers it for a while.
func (t *table) end(p party, id uint64, clean bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := key{p, id}
	t.dropLocked(k)
	now := time.Now()
	for len(t.order) > 0 && (len(t.order) >= maxEnded || t.order[0].until.Before(now)) {
		// An ID that ended twice has a later entry, which stays.
		if t.ended[t.order[0].key] == t.order[0] {
			delete(t.ended, t.order[0].key)
		}
		t.order = t.order[1:]
	}
	e := ended{k, clean, now.Add(endedFor)}
	t.ended[k] = e
	t.order = append(t.order, e)
}

// find returns the stream, or what is remembered of it, and a channel that is closed when
// another answer may be had.
func (t *table) find(p party, id uint64) (s *Stream, e *ended, changed <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := key{p, id}
	if s := t.streams[k]; s != nil {
		return s, nil, nil
	}
	if e, ok := t.ended[k]; ok {
		return nil, &e, nil
	}
	return nil, nil, t.changed
}

// all returns every stream once.
func (t *table) all() []*Stream {
	t.mu.Lock()
	defer t.mu.Unlock()
	seen := make(map[*Stream]bool, len(t.streams))
	list := make([]*Stream, 0, len(t.streams))
	for _, s := range t.streams {
		if !seen[s] {
			seen[s] = true
			list = append(list, s)
		}
	}
	return list
}
