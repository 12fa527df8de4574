// A leg is one substream on one connection. This wraps js-libp2p's event-driven stream (v3: `message`,
// `remoteCloseWrite`, `close`, `drain`; `send`, `close`, `abort`) into something that is pulled.
//
// What js-libp2p does, and what follows from it here:
// - yamux sends window updates whether or not anybody listens, unless the stream is paused; an unread
//   buffer above 4 MiB aborts the stream. So: pause above a bound, resume when it has been read.
// - a FIN is the event `remoteCloseWrite`; a lost connection is `close` without it and *without an
//   error*; a reset is `close` with an error. (QUIC needs help for this: node.js.)
// - closing a connection sends a FIN on each of its open streams. That would end a migratable stream
//   cleanly in the middle, so such a close is turned into an abort here.
// - `onDrain()` returns at once from its second use on: the `drain` event is used instead.
import { ByteQueue, Signal } from './signal.js'
import { resetError } from './errors.js'

const PAUSE_ABOVE = 512 * 1024
const RESUME_BELOW = 256 * 1024
const WRITE_BUFFER = 256 * 1024

export const isQuic = (connection) => connection.remoteAddr.toString().includes('/quic-v1') && !isRelayed(connection)
export const isRelayed = (connection) => connection.remoteAddr.toString().includes('/p2p-circuit')

export class Leg {
  #queue = new ByteQueue()
  #changed = new Signal()
  #close
  #closing = null
  #paused = false
  #discarding = false

  constructor (stream, connection, { guard = true } = {}) {
    this.stream = stream
    this.connection = connection
    this.quic = isQuic(connection)
    this.finSeen = stream.status === 'open' && stream.remoteWriteStatus === 'closed'
    this.lost = null
    this.onchange = () => {}
    // QUIC streams cannot be paused and would abort themselves at 4 MiB.
    if (this.quic) stream.maxReadBufferLength = Infinity
    this.#close = stream.close.bind(stream)
    if (guard) stream.close = (options) => this.#closedByMuxer(options)
    stream.addEventListener('remoteCloseWrite', () => { this.finSeen = true; this.#wake() })
    stream.addEventListener('close', (event) => { this.#onClose(event) })
    stream.addEventListener('drain', () => { this.#wake() })
    stream.addEventListener('idle', () => { this.#wake() })
    stream.addEventListener('message', (event) => { this.#onMessage(event.data.subarray()) })
    if (stream.status !== 'open') this.lost = resetError(`substream is ${stream.status}`)
  }

  #wake () {
    this.#changed.notify()
    this.onchange()
  }

  #onMessage (bytes) {
    if (this.#discarding) return
    this.#queue.push(bytes)
    if (this.#queue.length > PAUSE_ABOVE && !this.#paused && this.stream.readStatus === 'readable') {
      this.#paused = true
      this.stream.pause()
    }
    this.#wake()
  }

  #onClose (event) {
    const clean = event.error == null && this.finSeen && this.closeCalled
    if (!clean) this.#lose(event.error?.message ?? 'connection lost')
    else this.#wake()
  }

  #lose (why) {
    this.lost ??= resetError(`substream lost: ${why}`)
    this.#resume()
    this.#wake()
  }

  #closedByMuxer (options) {
    if (this.closeCalled) return this.#close(options)
    this.stream.abort(new Error('connection is closing'))
  }

  #resume () {
    if (!this.#paused) return
    this.#paused = false
    try {
      this.stream.resume() // hands over what is buffered, then may fail on a dead connection
    } catch {}
  }

  // ---- reading

  #shift (max) {
    const chunk = this.#queue.shift(max)
    if (this.#queue.length < RESUME_BELOW) this.#resume()
    return chunk
  }

  get #inputIsOver () {
    return (this.finSeen && this.stream.readBufferLength === 0) || this.lost !== null
  }

  /**
   * The next bytes as `{ data }`, or the end as `{ fin, lost }`: `fin` if the remote closed its write
   * side, `lost` the error if the substream died (perhaps after a FIN).
   */
  async read (max = 64 * 1024) {
    for (;;) {
      const data = this.#shift(max) ?? this.#shift(max)
      if (data !== null) return { data }
      if (this.#inputIsOver) return { fin: this.finSeen, lost: this.lost }
      await this.#changed.wait()
    }
  }

  /** For messages: exactly so many bytes, or an error if the leg ends before. */
  async readExactly (n) {
    while (this.#queue.length < n) {
      if (this.#inputIsOver) throw this.lost ?? resetError('the leg ended within a message')
      await this.#changed.wait()
    }
    const bytes = this.#queue.take(n)
    if (this.#queue.length < RESUME_BELOW) this.#resume()
    return bytes
  }

  /** Unread and future input is thrown away, so that the remote can finish. */
  discard () {
    this.#discarding = true
    this.#queue.clear()
    this.#resume()
  }

  // ---- writing

  get closeCalled () { return this.#closing !== null }

  get full () {
    return this.stream.writableNeedsDrain || this.stream.writeBufferLength > WRITE_BUFFER
  }

  /** Takes all of `bytes`, and keeps a reference to them; wait while `full` before the next. */
  send (bytes) {
    if (this.lost !== null) throw this.lost
    try {
      this.stream.send(bytes)
    } catch (err) {
      this.#lose(err.message)
      throw this.lost
    }
  }

  /** Flushes, then sends FIN. Reading goes on. Resolves also if the leg is lost: look at `lost`. */
  close () {
    this.#closing ??= (async () => {
      try {
        await this.#close()
      } catch (err) {
        this.#lose(err.error?.message ?? err.message ?? 'closed while flushing')
      }
      this.#wake()
    })()
    return this.#closing
  }

  abort (why) {
    this.stream.abort(new Error(why))
    this.lost ??= resetError(why)
    this.#wake()
  }

  /** The evidence that our open write side gives about an EOF: is the substream still whole? */
  get alive () {
    return this.lost === null && this.stream.status === 'open' && this.connection.status === 'open'
  }
}
