// Two small tools: a condition that many may wait for, and a queue of bytes.

export class Signal {
  #next = Promise.withResolvers()

  /** Resolves at the next `notify`. Check the condition again afterwards. */
  wait () { return this.#next.promise }

  notify () {
    const { resolve } = this.#next
    this.#next = Promise.withResolvers()
    resolve()
  }
}

export class ByteQueue {
  #chunks = []
  length = 0

  push (chunk) {
    if (chunk.length === 0) return
    this.#chunks.push(chunk)
    this.length += chunk.length
  }

  /** Some bytes, at most `max`, without copying; null if there are none. */
  shift (max) {
    const head = this.#chunks[0]
    if (head === undefined) return null
    if (head.length <= max) {
      this.#chunks.shift()
      this.length -= head.length
      return head
    }
    this.#chunks[0] = head.subarray(max)
    this.length -= max
    return head.subarray(0, max)
  }

  /** Exactly `n` bytes; there must be so many. */
  take (n) {
    const out = new Uint8Array(n)
    for (let at = 0; at < n;) {
      const part = this.shift(n - at)
      out.set(part, at)
      at += part.length
    }
    return out
  }

  clear () {
    this.#chunks = []
    this.length = 0
  }
}

export function withTimeout (promise, ms, message) {
  let timer
  const late = new Promise((resolve, reject) => {
    timer = setTimeout(() => { reject(new Error(message)) }, ms)
  })
  return Promise.race([promise, late]).finally(() => { clearTimeout(timer) })
}
