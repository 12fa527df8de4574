// The bytes that all test peers write: byte i with seed s is the top byte of
// ((i xor s) * 2654435761) mod 2^32.

export function fillPattern (chunk, offset, seed) {
  for (let k = 0; k < chunk.length; k++) {
    chunk[k] = Math.imul((offset + k) ^ seed, 0x9e3779b1) >>> 24
  }
  return chunk
}

/** The index in `chunk` of the first byte that is not the pattern's, or -1. */
export function firstMismatch (chunk, offset, seed) {
  for (let k = 0; k < chunk.length; k++) {
    if (chunk[k] !== Math.imul((offset + k) ^ seed, 0x9e3779b1) >>> 24) return k
  }
  return -1
}
