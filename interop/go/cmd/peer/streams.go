package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"sync"

	"libp2p-stream-migration/interop/migration"
)

// pattern fills p with the bytes from position i on (interop/README.md, "The pattern").
func pattern(p []byte, i uint64, seed uint32) {
	for k := range p {
		p[k] = byte((uint32(i+uint64(k)) ^ seed) * 2654435761 >> 24)
	}
}

// queue runs what it is given in order.
type queue struct {
	mu   sync.Mutex // protects tail
	tail chan struct{}
}

// add queues f without waiting for it.
func (q *queue) add(f func()) {
	q.mu.Lock()
	before, done := q.tail, make(chan struct{})
	q.tail = done
	q.mu.Unlock()
	go func() {
		defer close(done)
		if before != nil {
			<-before
		}
		f()
	}()
}

// stream is one of the application's streams.
type stream struct {
	*migration.Stream
	name   string
	writes queue // of write, close, drop
	reads  queue
	// Positions in the pattern, each used from its queue only.
	written, read uint64
}

func (s *stream) write(bytes uint64, seed uint32) (object, error) {
	var total uint64
	buf := make([]byte, min(bytes, 64<<10))
	for total < bytes {
		p := buf[:min(bytes-total, uint64(len(buf)))]
		pattern(p, s.written, seed)
		n, err := s.Write(p)
		s.written += uint64(n)
		total += uint64(n)
		if err != nil {
			return object{"written": total}, err
		}
	}
	return object{"written": total}, nil
}

// readPattern reads so many bytes, or up to a clean end. Without a number, and if the end comes
// before it, "eof" says that there was one.
func (s *stream) readPattern(want uint64, toEOF bool, seed uint32) (object, error) {
	sum := sha256.New()
	var total uint64
	got, expected := make([]byte, 64<<10), make([]byte, 64<<10)
	result := func(eof bool) object {
		return object{"read": total, "sha256": hex.EncodeToString(sum.Sum(nil)), "eof": eof}
	}
	for toEOF || total < want {
		p := got
		if !toEOF {
			p = got[:min(want-total, uint64(len(got)))]
		}
		n, err := s.Read(p)
		pattern(expected[:n], s.read, seed)
		for k := range n {
			if got[k] != expected[k] {
				return result(false), kindError{"corrupt", fmt.Errorf("byte %d is %d, not %d", s.read+uint64(k), got[k], expected[k])}
			}
		}
		sum.Write(got[:n])
		total += uint64(n)
		s.read += uint64(n)
		if err == io.EOF {
			return result(true), nil
		}
		if err != nil {
			return result(false), err
		}
	}
	return result(false), nil
}

// streams names the application's streams. A dropped one has no name any more.
type streams struct {
	mu       sync.Mutex // protects all below
	byName   map[string]*stream
	byStream map[*migration.Stream]*stream
	next     int
}

func newStreams() *streams {
	return &streams{byName: make(map[string]*stream), byStream: make(map[*migration.Stream]*stream)}
}

// name gives a stream its name. A migration may ask before the application does: a Migrate can come
// while the inner negotiation is still going on.
func (t *streams) name(s *migration.Stream) *stream {
	t.mu.Lock()
	defer t.mu.Unlock()
	if known := t.byStream[s]; known != nil {
		return known
	}
	t.next++
	one := &stream{Stream: s, name: fmt.Sprintf("s%d", t.next)}
	t.byName[one.name], t.byStream[s] = one, one
	return one
}

func (t *streams) get(name string) (*stream, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.byName[name]; s != nil {
		return s, nil
	}
	return nil, badCommand("no stream %q", name)
}

// hide takes the name out of the commands' reach; events may still need it.
func (t *streams) hide(s *stream) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.byName, s.name)
}

func (t *streams) list() []*stream {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]*stream, 0, len(t.byName))
	for _, s := range t.byName {
		list = append(list, s)
	}
	return list
}
