// The wire of a layer: *Below the swarm*. Here every libp2p connection is a link, and the connection
// that came with it is no more than a number, which outlives the link as long as the remote has another.
// So the home of a connection is whatever link it is told to open a stream on.
import { randomBytes } from 'node:crypto'
import { CodecError, decodeControl, encodeControl, MAX_CONTROL, readFrame } from './codec.js'
import { failedError, PeerError } from './errors.js'
import { isRelayed, Leg } from './leg.js'
import { propose } from './mss.js'
import { withTimeout } from './signal.js'

export const CONTROL = '/libp2p/stream-migration/control/1.0.0'
export const LINK = '/libp2p/stream-migration/link/1.0.0'

/** A link, and the connection that came with it. */
class Link {
  /** 'new', 'said' (our Hello), 'silent' (and no answer in time), 'ready', 'plain' (for good) */
  state = 'new'
  gone = false // as a link
  sent = false // our Hello is with the muxer
  remote = null // the other's Hello: { epoch, connection }
  heard = Promise.withResolvers() // it has come, or will not
  ours = null // the control substream that we write
  theirs = null // the one that we read
  closed = false // as a connection
  remoteClosed = false // its counterpart is
  streams = new Set() // those of this connection, on whatever link

  constructor (connection, number) {
    this.connection = connection
    this.number = number
  }

  get ready () { return this.state === 'ready' && !this.gone }
  isOf (peerId, epoch) { return this.connection.remotePeer.equals(peerId) && this.remote?.epoch === epoch }
}

export class Layer {
  #links = new Map() // by libp2p connection
  #next = 0n

  constructor (hub) {
    this.hub = hub
    this.epoch = randomBytes(8).readBigUInt64LE()
    hub.on('ended', ({ owner }) => { if (owner !== null) this.#maybeWound(owner) })
  }

  async start (options) {
    const { node } = this.hub
    node.addEventListener('connection:open', ({ detail }) => { this.#consider(this.#of(detail)) })
    node.addEventListener('connection:close', ({ detail }) => { this.#gone(this.#of(detail)) })
    await node.handle(CONTROL, (stream, connection) => {
      this.#read(this.#of(connection), new Leg(stream, connection, { guard: false }))
    }, options)
  }

  /** Substreams may come before the event that announces their connection. */
  #of (connection) {
    let link = this.#links.get(connection)
    if (link === undefined) this.#links.set(connection, link = new Link(connection, this.#next++))
    return link
  }

  #ofPeer (peerId) {
    return [...this.#links.values()].filter((link) => link.connection.remotePeer.equals(peerId))
  }

  #get (connection) {
    const link = this.#links.get(connection)
    if (link === undefined) throw failedError('the connection is gone')
    return link
  }

  describe (connection) {
    const link = this.#links.get(connection)
    if (link === undefined) return {}
    const { state, number, closed, remote, reason } = link
    return { state, number, closed, remote, reason }
  }

  // ---- our Hello

  /** On a relayed link at once; on a direct one if another is ready, or the other side has said it here. */
  #consider (link) {
    const elsewhere = () => this.#ofPeer(link.connection.remotePeer).some((other) => other.ready)
    if (isRelayed(link.connection) || link.remote !== null || elsewhere()) this.#say(link)
  }

  /** Without an occasion. */
  hello (connection) {
    const link = this.#get(connection)
    this.#say(link)
    if (link.state === 'new' || link.state === 'plain') throw failedError(`the link is ${link.state}`)
  }

  #say (link) {
    if (link.state !== 'new' || link.connection.status !== 'open') return
    link.state = 'said'
    link.timer = setTimeout(() => { link.state = 'silent' }, this.hub.deadlines.hello)
    this.#propose(link).catch((err) => { this.#plain(link, err.kind === 'unsupported' ? 'refused' : err.message) })
  }

  /** Below js-libp2p's `newStream`, which would wait for the answer before the first byte. */
  async #propose (link) {
    const leg = new Leg(await link.connection.muxer.createStream(), link.connection, { guard: false })
    if (link.state === 'plain') return leg.abort('plain')
    link.ours = leg
    const answer = propose(leg, CONTROL, encodeControl({ hello: { epoch: this.epoch, connection: link.number } }))
    link.sent = true
    this.#maybeReady(link)
    await answer
  }

  #maybeReady (link) {
    if (!['said', 'silent'].includes(link.state) || !link.sent || link.remote === null) return
    clearTimeout(link.timer)
    link.state = 'ready'
    this.hub.emit('link_ready', link)
    const { remotePeer } = link.connection
    if (this.hub.table.get(remotePeer, link.remote.epoch).hasClosed(link.remote.connection)) this.#wind(link)
    for (const other of this.#ofPeer(remotePeer)) this.#consider(other)
  }

  /** For good. */
  #plain (link, reason) {
    if (link.state === 'plain' || link.gone) return
    clearTimeout(link.timer)
    Object.assign(link, { state: 'plain', reason })
    link.heard.resolve()
    for (const leg of [link.ours, link.theirs]) leg?.abort(reason)
    this.hub.emit('link_plain', link)
  }

  // ---- what the other side says

  async #read (link, leg) {
    if (link.state === 'plain') return leg.abort('plain')
    link.theirs?.abort('replaced')
    link.theirs = leg
    try {
      let message = decodeControl(await readFrame(leg, MAX_CONTROL))
      if (message.hello === null) throw new CodecError('Hello is absent from the first message')
      this.#hello(link, message.hello)
      for (;;) {
        if (message.closed.length > 0) this.#closed(link, message.closed)
        message = decodeControl(await readFrame(leg, MAX_CONTROL))
        if (message.hello !== null) throw new CodecError('Hello comes twice')
      }
    } catch (err) {
      if (link.theirs !== leg || err.kind === 'reset') return // replaced, or at its end
      if (err instanceof CodecError) this.hub.violation(`control: ${err.message}`)
      leg.abort(err.message)
      if (link.state !== 'ready') this.#plain(link, err.message)
    }
  }

  #hello (link, hello) {
    if (link.remote !== null) {
      const same = link.remote.epoch === hello.epoch && link.remote.connection === hello.connection
      if (!same) throw new CodecError('another Hello than the first')
      return
    }
    if (hello.connection === undefined) throw failedError('no layer there')
    link.remote = hello
    link.heard.resolve()
    this.#say(link)
    this.#maybeReady(link)
  }

  /** `numbers` are the other's, of connections that may have come with other links, or with none. */
  #closed (link, numbers) {
    const { remotePeer } = link.connection
    const { epoch } = link.remote
    this.hub.emit('closed_read', link, { numbers })
    const peer = this.hub.table.get(remotePeer, epoch)
    for (const number of numbers) {
      peer.close(number) // its Hello may still be on its way, on a slower link
      for (const other of this.#ofPeer(remotePeer)) {
        if (other.isOf(remotePeer, epoch) && other.remote.connection === number) this.#wind(other)
      }
    }
  }

  /** The counterpart is closed: what is there is read to its end, and then ours is closed, too. */
  #wind (link) {
    if (link.remoteClosed || link.closed) return
    link.remoteClosed = true
    link.winding = setTimeout(() => {
      for (const stream of [...link.streams]) stream.reset('its connection is closed')
    }, this.hub.deadlines.closed).unref()
    this.#maybeWound(link)
  }

  #maybeWound (link) {
    if (!link.remoteClosed || link.closed || link.streams.size > 0) return
    clearTimeout(link.winding)
    link.closed = true
    this.hub.emit('connection_closed', link)
  }

  // ---- what we say later

  /** The connection is closed; its link stays. */
  closeNumber (connection, { quietly = false } = {}) {
    const link = this.#get(connection)
    link.closed = true
    if (quietly || link.remote === null) return
    for (const other of this.#ofPeer(connection.remotePeer)) {
      if (other.ready && other.remote.epoch === link.remote.epoch) this.#sayClosed(other, link.number)
    }
  }

  #sayClosed (link, number) {
    try {
      link.ours?.send(encodeControl({ closed: [number] }))
    } catch {} // the link is lost, or its remote reads no more
  }

  #gone (link) {
    clearTimeout(link.timer)
    link.gone = true
    link.heard.resolve()
    const all = this.#ofPeer(link.connection.remotePeer)
    const alive = all.some((other) => !other.gone && ['said', 'silent', 'ready'].includes(other.state))
    for (const other of all) {
      // A number needs a link on which labels may still come.
      if (other.gone && (!alive || other.state !== 'ready')) this.#links.delete(other.connection)
    }
  }

  // ---- routes

  mustBeReady (connection, epoch) {
    const link = this.#get(connection)
    if (!link.ready) throw new PeerError('unsupported', `the link is ${link.gone ? 'gone' : link.state}, not ready`)
    if (epoch !== undefined && link.remote.epoch !== epoch) throw new PeerError('unsupported', 'the link is of another epoch')
    return link
  }

  /** Whose stream may begin on a link to `remotePeer` in `epoch`. */
  ownerOf (connection, remotePeer, epoch) {
    const owner = this.#get(connection)
    if (owner.state !== 'ready' || !owner.isOf(remotePeer, epoch)) {
      throw new PeerError('unsupported', 'a connection without a layer, or to another')
    }
    return owner
  }

  /**
   * Of a leg that the remote opened: the epoch whose table it is for, and whose stream it begins, if a
   * label says so; or null if it is to be dropped. Hellos may be slower than the leg: on its own link
   * if substreams have no order, on the one that the route is about in any case.
   */
  async placeOf (leg, message) {
    const link = this.#of(leg.connection)
    if (link.state === 'new') throw new Error('a leg of the layer where we have said no Hello')
    await this.#heard(link)
    if (!link.ready) return null
    const { epoch } = link.remote
    if (message.route === undefined) return { epoch }
    const { remotePeer } = leg.connection
    const owner = this.#ofPeer(remotePeer).find(({ number, state }) => number === message.route && state !== 'new')
    if (owner !== undefined) await this.#heard(owner)
    if (owner?.state === 'ready' && !owner.closed && owner.isOf(remotePeer, epoch)) return { epoch, owner }
    this.#sayClosed(link, message.route)
    this.hub.emit('route_unknown', link, { route: message.route })
    return null
  }

  async #heard ({ heard }) {
    await withTimeout(heard.promise, this.hub.deadlines.hello, 'no Hello').catch(() => {})
  }
}
