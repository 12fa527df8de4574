// What the application holds. Bytes go out on `outLeg` and come in from `inLeg`; the two differ only
// while a migration is open. A pump reads ahead, so that a migration makes progress while the
// application polls nothing; past its bound the migration waits for the reader and loses nothing.
import { ByteQueue, Signal } from './signal.js'
import { PeerError, resetError } from './errors.js'

const READ_AHEAD = 1024 * 1024
const CHUNK = 64 * 1024
const DETACHED_DEADLINE = 30_000
const LAST_FIN_DEADLINE = 30_000

export class MigratableStream {
  #buffer = new ByteQueue()
  #changed = new Signal()
  #detached = false

  /**
   * `peer` is the table's entry of the remote, or null for a plain stream, which never migrates. `owner`
   * is the link whose connection the stream belongs to, if a layer's label has named one.
   */
  constructor ({ hub, peer, leg, id = null, opener, owner = null }) {
    this.hub = hub
    this.peer = peer
    this.id = id
    this.opener = opener
    this.owner = owner
    this.sent = 0 // stream bytes written: every byte after the label, over all legs
    this.received = 0
    this.closed = false // our write side
    this.inEnded = false // the remote's write side, once judged
    this.error = null
    this.finished = false
    this.migration = null
    this.doubt = false // *Doubt*: a failed attempt leaves the old leg in doubt
    this.weDenied = false
    this.remoteDenied = false
    this.held = []
    this.outLeg = this.inLeg = leg
    this.watch(leg)
    this.#pump()
  }

  get migratable () { return this.peer !== null }
  get layered () { return this.migratable && this.peer.epoch !== null }
  get gone () { return this.error !== null || this.finished }
  get connection () { return this.outLeg.connection }
  get readAheadIsFull () { return !this.#detached && this.#buffer.length >= READ_AHEAD }

  notify () { this.#changed.notify() }
  changed () { return this.#changed.wait() }

  watch (leg) {
    leg.onchange = () => {
      if (leg.lost !== null && !this.gone) this.#legLost(leg)
      this.notify()
    }
  }

  // ---- the application's side

  async write (bytes) {
    for (let at = 0; at < bytes.length;) {
      if (this.error !== null) throw this.error
      if (this.closed) throw new PeerError('other', 'the write side is closed')
      const leg = this.outLeg // never blocked by a migration: a switch only changes this
      if (leg.full && leg.lost === null) {
        await this.changed()
        continue
      }
      const chunk = bytes.subarray(at, at + CHUNK)
      leg.send(chunk)
      this.sent += chunk.length
      at += chunk.length
    }
  }

  /** Some bytes, or null at a clean end. */
  async read (max = CHUNK) {
    for (;;) {
      const wasFull = this.readAheadIsFull
      const chunk = this.#buffer.shift(max)
      if (chunk !== null) {
        if (wasFull) this.notify()
        return chunk
      }
      if (this.error !== null) throw this.error
      if (this.inEnded) return null
      await this.changed()
    }
  }

  async readExactly (n) {
    while (this.#buffer.length < n) {
      if (this.error !== null) throw this.error
      if (this.inEnded) throw new PeerError('other', 'the stream ended')
      await this.changed()
    }
    return this.#buffer.take(n)
  }

  /** Local, as everywhere: resolves before anything is flushed. */
  close () {
    if (this.error !== null) throw this.error
    if (this.closed) return
    this.closed = true
    this.outLeg.close()
    this.maybeFinish()
    this.notify()
  }

  reset (why = 'reset by the application') {
    this.#buffer.clear()
    this.fail(resetError(why))
  }

  /** *Failure*: before a close this aborts; after one, what was written is still delivered. */
  drop () {
    if (this.gone) return
    if (!this.closed) return this.reset('dropped by the application')
    this.#detached = true
    this.#buffer.clear()
    setTimeout(() => { this.fail(resetError('detached for too long')) }, DETACHED_DEADLINE).unref()
    this.notify()
  }

  // ---- the ends

  /** *Resets*: the stream as a whole is aborted, with all its legs. What was read stays readable. */
  fail (error) {
    if (this.gone) return
    this.error = error
    const legs = new Set([this.inLeg, this.outLeg])
    if (this.migration !== null) legs.add(this.migration.oldLeg).add(this.migration.newLeg)
    this.migration?.streamFailed(error)
    for (const leg of legs) leg.abort(error.message)
    this.hub.streamEnded(this, false)
    this.notify()
  }

  /** Both directions have ended and no migration is open: the stream leaves the table. */
  maybeFinish () {
    if (this.gone || !this.closed || !this.inEnded || this.migration !== null) return
    this.finished = true
    this.hub.streamEnded(this, true)
    const leg = this.inLeg
    leg.discard()
    setTimeout(() => { if (!leg.finSeen) leg.abort('the last FIN did not come') }, LAST_FIN_DEADLINE).unref()
  }

  #legLost (leg) {
    if (this.migration !== null) {
      this.migration.legLost(leg)
    } else if (leg === this.outLeg && this.inEnded && !this.closed) {
      this.fail(leg.lost) // else the pump meets the loss, after the bytes before it
    }
  }

  // ---- the in side

  async #pump () {
    while (this.error === null) {
      if (this.readAheadIsFull) {
        await this.changed()
        continue
      }
      const leg = this.inLeg
      const got = await leg.read(CHUNK)
      if (this.error !== null) return
      if (got.data === undefined) {
        if (!await this.#legEnded(leg, got)) return
      } else if (this.inEnded) {
        // *Half-closed streams*: data in a direction that has already ended.
        this.hub.violation('data after the end of a direction')
        if (this.finished) leg.abort('data after the end')
        return this.fail(resetError('the remote wrote after its end'))
      } else {
        this.received += got.data.length
        if (!this.#detached) this.#buffer.push(got.data)
        this.notify()
      }
    }
  }

  /** The in side met the end of `leg`. True: go on reading, from another leg. */
  async #legEnded (leg, { fin, lost }) {
    while (!this.gone) {
      const migration = this.migration
      if (migration !== null && leg === migration.oldLeg) {
        if (migration.state === 'sent') {
          if (!fin && !this.inEnded) { this.fail(lost); break }
          await this.changed() // an EOF is held while Migrate is unanswered
          continue
        }
        switch (await migration.oldLegEnded({ fin: fin || this.inEnded, lost })) {
          case 'switched': return true
          case 'over': continue // cancelled: the old leg goes on, judge as below
          default: return false
        }
      }
      if (!this.inEnded) this.#judgeEnd(leg, fin, lost)
      if (!this.gone) await this.changed() // a later migration may take the in side on
    }
    return false
  }

  /** *Doubt*: is this EOF the application's? Judged when it is read. */
  #judgeEnd (leg, fin, lost) {
    if (!fin) return this.fail(lost)
    if (this.migratable) {
      if (this.doubt && leg.closeCalled) return this.fail(resetError('an EOF in doubt, after our own FIN'))
      if (this.doubt && leg.quic) return this.fail(resetError('an EOF in doubt, on a leg that gives no evidence'))
      if (!leg.closeCalled && !leg.alive) return this.fail(lost ?? resetError('an EOF on a dead leg'))
    }
    this.inEnded = true
    this.maybeFinish()
    this.notify()
  }
}
