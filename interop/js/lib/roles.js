// Which of two peers is lower, whose IDs are odd, and whom the hash rule names.
import { createHash } from 'node:crypto'

/** Peer IDs compare as their multihash bytes. */
export function compareBytes (a, b) {
  return Buffer.compare(a, b)
}

/** *Stream IDs*: `counter << 1 | (local peer ID > remote peer ID)`. */
export class IdAllocator {
  constructor (localBytes, remoteBytes) {
    this.parity = compareBytes(localBytes, remoteBytes) > 0 ? 1n : 0n
    this.counter = 0n
  }

  /** The next ID that `inUse` does not know: the remote may not keep to its parity. */
  next (inUse = () => false) {
    for (;;) {
      const id = BigInt.asUintN(64, this.counter << 1n) | this.parity
      this.counter++
      if (!inUse(id)) return id
    }
  }
}

/**
 * *Who moves the stream*: SHA-256 over the lower ID followed by the higher one; even names the lower
 * peer. (The spec's example hashed "AB" with a newline: SHA-256("AB") ends in 53, so it names "B".)
 */
export function isDesignated (localBytes, remoteBytes) {
  const localIsLower = compareBytes(localBytes, remoteBytes) < 0
  const [low, high] = localIsLower ? [localBytes, remoteBytes] : [remoteBytes, localBytes]
  const digest = createHash('sha256').update(low).update(high).digest()
  const lowerIsNamed = (digest[digest.length - 1] & 1) === 0
  return lowerIsNamed === localIsLower
}
