// One migration of one stream, from the Migrate's writing (initiator) or its acceptance (responder)
// to its completion. Names in *italics* are sections of docs/protocol.md.
import { decodeAck, decodeSwitched, encodeAck, encodeMigrate, encodeSwitched, readFrame } from './codec.js'
import { failedError, PeerError, resetError } from './errors.js'
import { withTimeout } from './signal.js'

const LINGER = 30_000

class Migration {
  /** 'sent' (Migrate unanswered), 'agreed', 'over' */
  state = 'sent'
  verify = false
  outLeft = false // our out side has left the old leg
  oldClosed = false // … and the old leg's write side is closed, flushed
  inDone = false // our in side has left the old leg

  constructor (stream, initiator, newLeg, newId) {
    this.stream = stream
    this.hub = stream.hub
    this.initiator = initiator
    this.newLeg = newLeg
    this.newId = newId
    this.oldLeg = stream.outLeg
    this.count = Promise.withResolvers()
    this.done = Promise.withResolvers()
    this.count.promise.catch(() => {})
    this.done.promise.catch(() => {})
    stream.migration = this
    stream.peer.ids.set(newId, stream)
    stream.watch(newLeg)
  }

  // ---- switching

  agreed (verify) {
    this.state = 'agreed'
    this.verify = verify
    this.#armDeadline()
    if (verify) this.#readCount()
    if (this.newLeg.lost !== null) this.stream.fail(this.newLeg.lost)
  }

  /** Close the old leg for writing (after what was written there) and write to the new one. */
  switchOut () {
    const { stream, oldLeg, newLeg } = this
    this.outLeft = true
    stream.outLeg = newLeg
    try {
      if (this.verify) newLeg.send(encodeSwitched({ sent: stream.sent }))
    } catch (err) {
      return stream.fail(err)
    }
    if (stream.closed) newLeg.close() // *Half-closed streams*
    oldLeg.close().then(() => {
      if (this.state !== 'agreed') return
      if (oldLeg.lost === null) this.#oldIsClosed()
      else this.legLost(oldLeg)
    })
    stream.notify()
  }

  #oldIsClosed () {
    this.oldClosed = true
    this.#maybeComplete()
  }

  /** The in side met the old leg's end, after the agreement. 'switched', 'over' or 'failed'. */
  async oldLegEnded ({ fin, lost }) {
    const { stream } = this
    const fail = (message) => {
      stream.fail(resetError(message))
      return 'failed'
    }
    // With the count, an in side that has everything lost nothing, however the old leg ended.
    if ((!fin || lost !== null) && !(this.verify && this.outLeft)) return fail('the old leg was lost')
    if (this.verify) {
      let count
      try {
        count = await this.count.promise
      } catch {
        return this.state === 'over' && stream.error === null ? 'over' : 'failed'
      }
      if (this.state === 'over') return stream.error === null ? 'over' : 'failed'
      if (BigInt(stream.received) < count) return fail(`the old leg was cut: ${stream.received} of ${count} bytes`)
      if (BigInt(stream.received) > count) {
        this.hub.violation('more bytes than the count')
        return fail('more bytes than the count')
      }
    }
    stream.inLeg = this.newLeg
    this.inDone = true
    if (!this.initiator) this.switchOut()
    if (this.oldLeg.lost !== null) this.legLost(this.oldLeg)
    this.#maybeComplete()
    return stream.error === null ? 'switched' : 'failed'
  }

  async #readCount () {
    let message
    try {
      message = decodeSwitched(await readFrame(this.newLeg))
      if (message.cancelled && this.initiator) throw new Error('a responder cannot cancel')
    } catch (err) {
      if (this.state === 'agreed') this.stream.fail(resetError(`the new leg ended before its count: ${err.message}`))
      return this.count.reject(err)
    }
    if (message.cancelled) this.#cancelled()
    else this.count.resolve(message.sent)
  }

  /** Nothing was switched; the old leg goes on, with the doubt that it had before. */
  #cancelled () {
    if (this.state !== 'agreed' || this.outLeft) return
    retire(this.newLeg)
    this.#end('cancelled by the initiator')
    this.count.reject(failedError('cancelled'))
  }

  // ---- ends

  /** The attempt came to nothing before we read an accepting answer. */
  failAttempt (reason) {
    if (this.state !== 'sent') return
    this.stream.doubt = true
    const tellIt = this.hub.verify && this.stream.peer.verifies && this.newLeg.lost === null
    try {
      if (tellIt) this.newLeg.send(encodeSwitched({ cancelled: true }))
    } catch {}
    if (tellIt) retire(this.newLeg)
    else this.newLeg.abort(reason)
    this.#end(reason)
  }

  denied () {
    this.stream.remoteDenied = true
    retire(this.newLeg)
    this.#end('denied')
  }

  #end (reason) {
    const { stream } = this
    this.state = 'over'
    clearTimeout(this.timer)
    stream.peer.ids.delete(this.newId)
    stream.migration = null
    this.hub.emit('migration_failed', stream, { initiator: this.initiator, reason })
    this.done.reject(reason === 'denied' ? new PeerError('denied', 'the remote denied') : failedError(reason))
    stream.notify()
    stream.maybeFinish()
    this.hub.redispatch(stream)
  }

  streamFailed (error) {
    this.state = 'over'
    clearTimeout(this.timer)
    this.stream.peer.ids.delete(this.newId)
    this.hub.emit('migration_failed', this.stream, { initiator: this.initiator, reason: error.message })
    this.count.reject(error)
    this.done.reject(error)
  }

  #maybeComplete () {
    const { stream } = this
    if (this.state !== 'agreed' || !this.inDone || !this.oldClosed) return
    this.state = 'over'
    clearTimeout(this.timer)
    stream.peer.retire(stream.id)
    stream.peer.ids.delete(stream.id)
    stream.id = this.newId
    stream.migration = null
    stream.doubt = false
    this.hub.emit('migrated', stream, { from: this.oldLeg.connection, to: this.newLeg.connection, initiator: this.initiator })
    this.done.resolve()
    stream.notify()
    stream.maybeFinish()
    this.hub.redispatch(stream)
  }

  /** *Failure*: a leg was lost while this migration is open. */
  legLost (leg) {
    const { stream } = this
    if (this.state === 'sent') {
      // The new leg: whoever waits for the answer sees it. The old one: the pump sees it, if it reads.
      if (leg === this.oldLeg && stream.inEnded && !stream.closed) stream.fail(leg.lost)
    } else if (leg === this.newLeg) {
      stream.fail(leg.lost)
    } else if (this.verify && this.outLeft) {
      if (this.inDone) this.#oldIsClosed() // else the pump compares with the count
    } else {
      stream.fail(leg.lost)
    }
  }

  /** No wait on an old leg is for ever: on the deadline, ask the old connection whether it lives. */
  #armDeadline () {
    this.timer = setTimeout(async () => {
      const alive = this.stream.readAheadIsFull || await this.hub.probe(this.oldLeg.connection)
      if (this.state !== 'agreed') return
      if (alive) return this.#armDeadline()
      this.oldLeg.abort('the old connection is silent')
    }, this.hub.deadlines.oldLeg)
  }
}

/** Closes a leg that carries nothing any more, in a way that lets its last bytes arrive. */
function retire (leg) {
  leg.onchange = () => {}
  leg.discard()
  leg.close()
  setTimeout(() => { if (!leg.finSeen) leg.abort('lingered') }, LINGER).unref()
}

/** As initiator: resolves when the migration is complete. */
export async function initiate (stream, newLeg, newId, { reset } = {}) {
  const { hub, peer } = stream
  if (newLeg.lost !== null) throw failedError(newLeg.lost.message) // nothing was sent: no doubt
  const migration = new Migration(stream, true, newLeg, newId)
  try {
    newLeg.send(encodeMigrate({ id: newId, from: stream.id, verify: hub.verify }))
  } catch (err) {
    migration.failAttempt(err.message)
    return await migration.done.promise
  }
  if (reset === 'before_ack') {
    stream.reset('reset before the answer')
    throw stream.error
  }
  let ack
  try {
    const answer = Promise.race([readFrame(newLeg), migration.done.promise])
    ack = decodeAck(await withTimeout(answer, hub.deadlines.ack, 'no answer in time'))
  } catch (err) {
    migration.failAttempt(err.message)
    return await migration.done.promise
  }
  // Meanwhile we may have yielded, or the stream may have died.
  if (migration.state !== 'sent') return await migration.done.promise
  if (ack.verify && hub.verify) peer.verifies = true
  if (ack.deny) {
    migration.denied()
  } else if (reset === 'after_ack') {
    stream.reset('reset after the answer')
  } else {
    stream.doubt = false // ended by *reading* an accepting ack
    hub.dropSimultaneous(stream)
    migration.agreed(hub.verify && ack.verify)
    if (stream.error === null) migration.switchOut()
  }
  return await migration.done.promise
}

/** As responder: the policy has said yes. */
export function accept (stream, newLeg, message, { resetAfter = false } = {}) {
  const { hub } = stream
  const migration = new Migration(stream, false, newLeg, message.id)
  const verify = hub.verify && message.verify
  try {
    newLeg.send(encodeAck({ verify, wrapped: hub.wrapped }))
  } catch (err) {
    return stream.fail(err)
  }
  if (resetAfter) return stream.reset('reset after the answer')
  migration.agreed(verify)
  stream.notify()
}

export function deny (stream, leg, { wrapped }) {
  if (stream !== null) stream.weDenied = true
  try {
    leg.send(encodeAck({ deny: true, wrapped }))
  } catch {}
  retire(leg)
}
