package migration

import (
	"crypto/sha256"

	"github.com/libp2p/go-libp2p/core/peer"
)

// streamID makes an ID of a counter: even from the lower peer, odd from the higher one
// (*Stream IDs*). A peer.ID is the multihash's bytes, and strings compare as bytes.
func streamID(counter uint64, local, remote peer.ID) uint64 {
	id := counter << 1
	if local > remote {
		id |= 1
	}
	return id
}

// designated says which of two peers the hash rule names (*Who moves the stream*).
func designated(a, b peer.ID) peer.ID {
	low, high := min(a, b), max(a, b)
	sum := sha256.Sum256([]byte(low + high))
	if sum[len(sum)-1]&1 == 0 {
		return low
	}
	return high
}
