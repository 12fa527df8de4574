// Between js-libp2p and the streams: opens and accepts streams, and decides about each Migrate.
import { EventEmitter } from 'node:events'
import { decodeStreamMigration, encodeLabel, readFrame } from './codec.js'
import { failedError, PeerError } from './errors.js'
import { Layer, LINK } from './layer.js'
import { Leg } from './leg.js'
import { accept, deny, initiate } from './migration.js'
import { handle, select } from './mss.js'
import { withTimeout } from './signal.js'
import { MigratableStream } from './stream.js'
import { PeerTable } from './table.js'

export const PREFIX = '/libp2p/stream-migration'
const MANY = 100_000
const LIMITS = { streamsPerPeer: 4096, holdsPerStream: 4, holdsPerPeer: 64, migratesPerSecond: 50 }
const DEADLINES = { ack: 10_000, prefix: 10_000, early: 10_000, held: 60_000, oldLeg: 10_000, probe: 5_000, hello: 5_000, closed: 30_000 }

export class Hub extends EventEmitter {
  /** Migrates are answered by `policy(stream)`: see `answer` in interop/README.md. */
  constructor (node, { protocol, migration = true, verify = true, wrapped = true, layer = false, policy = () => 'accept', deadlines = {} }) {
    super()
    this.node = node
    this.protocol = protocol
    this.migration = migration
    this.verify = verify
    this.wrapped = wrapped
    this.policy = policy
    this.deadlines = { ...DEADLINES, ...deadlines }
    this.table = new PeerTable(node.peerId)
    this.violations = []
    this.kept = new Set() // what the policy told us to hold
    this.layer = layer ? new Layer(this) : null
  }

  async start () {
    const options = { maxInboundStreams: MANY, maxOutboundStreams: MANY, runOnLimitedConnection: true }
    await this.node.handle(this.protocol, (stream, connection) => { this.#acceptPlain(stream, connection) }, options)
    const serve = (layer) => (stream, connection) => {
      const leg = new Leg(stream, connection)
      this.#firstMessage(leg, layer).catch((err) => {
        this.violation(err.message)
        leg.abort(err.message)
      })
    }
    if (this.migration) await this.node.handle(PREFIX, serve(null), options)
    if (this.layer === null) return
    await this.node.handle(LINK, serve(this.layer), options)
    await this.layer.start(options)
  }

  violation (what) {
    this.violations.push(what)
    process.stderr.write(`violation: ${what}\n`)
  }

  async #newStream (connection, protocols) {
    try {
      return await connection.newStream(protocols, {
        runOnLimitedConnection: true,
        maxOutboundStreams: MANY,
        signal: AbortSignal.timeout(this.deadlines.prefix)
      })
    } catch (err) {
      const kind = err.name === 'UnsupportedProtocolError' ? 'unsupported' : 'other'
      throw new PeerError(kind, `cannot open a substream: ${err.message}`)
    }
  }

  /** Does anybody answer on this connection? Any answer will do, "unsupported" too. */
  async probe (connection) {
    try {
      const signal = AbortSignal.timeout(this.deadlines.probe)
      const stream = await connection.newStream('/ipfs/ping/1.0.0', { runOnLimitedConnection: true, signal })
      stream.abort(new Error('was a probe'))
      return true
    } catch (err) {
      return err.name === 'UnsupportedProtocolError'
    }
  }

  // ---- opening

  /** *Opening*: `[stream-migration, P]` in one negotiation, so that a peer without it costs no stream. */
  async open (connection, { layer = false, ...label } = {}) {
    if (layer) return await this.#openLayered(connection, label)
    const offered = this.migration ? [PREFIX, this.protocol] : [this.protocol]
    const substream = await this.#newStream(connection, offered)
    if (substream.protocol !== PREFIX) return this.#plain(substream, connection, true)
    return await this.#begin(this.table.get(connection.remotePeer), new Leg(substream, connection))
  }

  /** *Streams of a connection*: on this link, for the connection that came `of` it or of another, or for none. */
  async #openLayered (connection, { of = connection, unrouted = false, route }) {
    const { remotePeer } = connection
    const { epoch } = this.theLayer.mustBeReady(connection).remote
    const owner = unrouted ? null : this.layer.ownerOf(of, remotePeer, epoch)
    if (route === undefined && (owner?.closed || owner?.remoteClosed)) throw new PeerError('unsupported', 'that connection is closed')
    const substream = await this.#newStream(connection, [LINK])
    const peer = this.table.get(remotePeer, epoch)
    return await this.#begin(peer, new Leg(substream, connection), { owner, route: route ?? owner?.remote.connection })
  }

  get theLayer () {
    if (this.layer === null) throw new PeerError('unsupported', 'no layer here: see --layer')
    return this.layer
  }

  async #begin (peer, leg, { owner, route } = {}) {
    const id = peer.nextId()
    leg.send(encodeLabel({ id, route }))
    const stream = this.#label(peer, leg, { id, opener: true, owner })
    try {
      await withTimeout(select(stream, this.protocol), this.deadlines.prefix, 'no answer to the inner negotiation')
    } catch (err) {
      stream.reset(err.message)
      throw err
    }
    return stream
  }

  #label (peer, leg, { id, opener, owner }) {
    const stream = new MigratableStream({ hub: this, peer, leg, id, opener, owner })
    peer.ids.set(id, stream)
    owner?.streams.add(stream)
    return stream
  }

  #plain (substream, connection, opener) {
    const leg = new Leg(substream, connection, { guard: false })
    return new MigratableStream({ hub: this, peer: null, leg, opener })
  }

  #acceptPlain (substream, connection) {
    this.emit('accepted', this.#plain(substream, connection, false))
  }

  // ---- the first message of a leg that the remote opened

  /** `layer` is null for the specification's prefix: no routes, and the table that knows of no epoch. */
  async #firstMessage (leg, layer) {
    const body = await withTimeout(readFrame(leg), this.deadlines.prefix, 'no first message in time')
    const message = decodeStreamMigration(body)
    const place = layer === null ? { epoch: null } : await layer.placeOf(leg, message)
    if (place === null) return leg.abort('no such connection')
    const peer = this.table.get(leg.connection.remotePeer, place.epoch)
    if (message.type === 'label') return await this.#acceptLabelled(peer, leg, message.id, place.owner)
    if (message.type === 'migrate') return this.#dispatch({ peer, leg, message, announced: false })
    throw new Error('an answer that nobody asked for')
  }

  async #acceptLabelled (peer, leg, id, owner) {
    if (peer.ids.has(id)) throw new Error(`Label: ID ${id} is in use`)
    if (peer.ids.size >= LIMITS.streamsPerPeer) throw new Error('too many streams')
    const stream = this.#label(peer, leg, { id, opener: false, owner })
    for (const held of [...peer.early]) {
      if (held.message.from === id) { this.#unhold(held); this.#dispatch(held) }
    }
    try {
      await withTimeout(handle(stream, [this.protocol]), this.deadlines.prefix, 'the inner negotiation takes too long')
    } catch (err) {
      return stream.reset(err.message)
    }
    this.emit('accepted', stream)
  }

  streamEnded (stream, cleanly) {
    const { peer } = stream
    if (peer !== null) {
      peer.ids.delete(stream.id)
      stream.owner?.streams.delete(stream)
      if (cleanly) peer.end(stream.id)
      for (const held of [...stream.held]) {
        this.#unhold(held)
        if (cleanly) this.#dispatch(held)
        else held.leg.abort('the stream is gone')
      }
    }
    this.emit('ended', stream)
  }

  // ---- Migrates

  /** *Overtaking*, *Who starts*: what to do with a Migrate that has just arrived, or counts as such. */
  #dispatch (incoming) {
    const { peer, leg, message } = incoming
    if (leg.lost !== null || leg.finSeen) return leg.abort('gone before its answer')
    if (peer.ids.has(message.id)) {
      this.violation(`Migrate: ID ${message.id} is in use`)
      return leg.abort('ID in use')
    }
    const stream = peer.ids.get(message.from)
    if (stream === undefined) {
      if (peer.hasEnded(message.from)) return deny(null, leg, this)
      if (peer.wasRetired(message.from)) return leg.abort('from an ID that has moved')
      return this.#hold(incoming, peer.early, this.deadlines.early) // before its Label
    }
    if (!incoming.announced) {
      incoming.announced = true
      if (this.#tooOften(stream)) return leg.abort('too many Migrates')
      this.emit('migrate_received', stream)
    }
    const { migration } = stream
    const simultaneous = migration !== null && migration.initiator && migration.state === 'sent' && message.from === stream.id
    if (migration !== null && (!simultaneous || peer.designated)) {
      return this.#hold(incoming, stream.held, this.deadlines.held)
    }
    // In doubt, a peer that does not verify gets no answer.
    if (stream.doubt && !(this.verify && message.verify)) return leg.abort('in doubt')
    this.#answer(incoming, stream)
  }

  #answer (incoming, stream) {
    const { leg, message } = incoming
    const answer = incoming.forced ?? (stream.weDenied ? 'deny' : this.policy(stream))
    switch (answer) {
      case 'accept':
      case 'reset_after_ack':
        stream.migration?.failAttempt('yielded to the designated peer')
        if (stream.migration !== null || stream.gone) return leg.abort('overtaken')
        return accept(stream, leg, message, { resetAfter: answer === 'reset_after_ack' })
      case 'deny':
        deny(stream, leg, this)
        return this.emit('migration_failed', stream, { initiator: false, reason: 'denied' })
      case 'hold': return this.#hold(incoming, this.kept, this.deadlines.held)
      case 'reset_before_ack':
        leg.abort('the stream is reset')
        return stream.reset('reset before the answer')
      default: return leg.abort('ignored')
    }
  }

  #tooOften (stream) {
    const second = Math.floor(Date.now() / 1000)
    if (stream.second !== second) Object.assign(stream, { second, inSecond: 0 })
    return ++stream.inSecond > LIMITS.migratesPerSecond
  }

  /** Holds are bounded in number and time; what does not fit is dropped without an answer. */
  #hold (incoming, set, ms) {
    const { peer, leg } = incoming
    const size = set.size ?? set.length
    if (peer.holds >= LIMITS.holdsPerPeer || (Array.isArray(set) && size >= LIMITS.holdsPerStream)) {
      return leg.abort('too many are held')
    }
    peer.holds++
    if (Array.isArray(set)) set.push(incoming)
    else set.add(incoming)
    const drop = (why) => { this.#unhold(incoming); leg.abort(why) }
    incoming.timer = setTimeout(drop, ms, 'held for too long')
    incoming.set = set
    leg.onchange = () => { if (leg.lost !== null || leg.finSeen) drop('gone while held') }
  }

  #unhold (incoming) {
    const { set, leg, timer, peer } = incoming
    if (set === null) return
    clearTimeout(timer)
    leg.onchange = () => {}
    if (Array.isArray(set)) set.splice(set.indexOf(incoming), 1)
    else set.delete(incoming)
    incoming.set = null
    peer.holds--
  }

  /** Our own attempt is decided or the migration complete: what was held is as if just arrived. */
  redispatch (stream) {
    for (const held of [...stream.held]) {
      this.#unhold(held)
      this.#dispatch(held)
    }
  }

  /** Our own Migrate was accepted: the other's for the same ID gets no answer. */
  dropSimultaneous (stream) {
    for (const held of [...stream.held]) {
      if (held.message.from !== stream.id) continue
      this.#unhold(held)
      held.leg.abort('the designated peer has won')
    }
  }

  /** What the policy held is answered with an accept. */
  release () {
    for (const held of [...this.kept]) {
      this.#unhold(held)
      held.forced = 'accept'
      this.#dispatch(held)
    }
  }

  /** Resolves when the migration is complete. */
  async migrate (stream, connection, options = {}) {
    if (!stream.migratable) throw new PeerError('unsupported', 'the stream is not migratable')
    while (stream.migration !== null && stream.error === null) await stream.changed() // one at a time
    const check = () => {
      if (stream.error !== null) throw stream.error
      if (stream.finished) throw failedError('the stream has ended')
      if (stream.remoteDenied) throw new PeerError('denied', 'the remote has denied this stream')
      if (stream.migration !== null) throw failedError('the remote has started a migration')
    }
    check()
    let substream
    try {
      if (stream.layered) this.layer.mustBeReady(connection, stream.peer.epoch)
      substream = await this.#newStream(connection, [stream.layered ? LINK : PREFIX])
    } catch (err) {
      this.emit('migration_failed', stream, { initiator: true, reason: err.message })
      throw failedError(err.message) // nothing was sent: no doubt
    }
    const leg = new Leg(substream, connection)
    try {
      check()
    } catch (err) {
      leg.abort('not needed')
      throw err
    }
    await initiate(stream, leg, stream.peer.nextId(), options)
  }
}

