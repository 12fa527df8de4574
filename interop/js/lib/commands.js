// The commands of interop/README.md over a node and a hub.
import { createHash } from 'node:crypto'
import { multiaddr } from '@multiformats/multiaddr'
import { PeerError } from './errors.js'
import { isRelayed } from './leg.js'
import { fillPattern, firstMismatch } from './pattern.js'

const CHUNK = 64 * 1024
const DIAL_MS = 15_000
const jsonNumber = (n) => n > BigInt(Number.MAX_SAFE_INTEGER) ? n.toString() : Number(n)
const jsonEpoch = (n) => n.toString(16).padStart(16, '0')
const LINK_STATES = { new: 'pending', said: 'pending', silent: 'silent', ready: 'ready', plain: 'plain' }
const ANSWERS = ['accept', 'deny', 'ignore', 'reset_before_ack', 'reset_after_ack', 'hold']

/** Names that are given once per object: "s1", "c1". */
class Names {
  #byObject = new Map()
  #byName = new Map()

  constructor (prefix) { this.prefix = prefix }

  of (object) {
    let name = this.#byObject.get(object)
    if (name === undefined) {
      name = `${this.prefix}${this.#byObject.size + 1}`
      this.#byObject.set(object, name)
      this.#byName.set(name, object)
    }
    return name
  }

  get (name) {
    const object = this.#byName.get(name)
    if (object === undefined) throw new PeerError('bad_command', `no ${JSON.stringify(name)}`)
    return object
  }
}

export class Commands {
  #streams = new Names('s')
  #connections = new Names('c')
  #dials = new Map() // js-libp2p joins dials to one peer that run at the same time: one after the other
  #answers = []
  #onRelayed = 'keep'
  #known = new Set()
  #everConnected = []

  constructor (node, hub, counts, emit) {
    this.node = node
    this.hub = hub
    this.counts = counts
    this.emit = emit
    hub.policy = () => this.#answers.shift() ?? 'accept'
    this.#listenToHub()
    node.addEventListener('connection:open', ({ detail }) => { this.#connected(detail) })
    node.addEventListener('connection:close', ({ detail }) => { this.#disconnected(detail) })
  }

  // ---- events

  #listenToHub () {
    const { hub } = this
    hub.on('accepted', (stream) => {
      this.#known.add(stream)
      this.emit({ event: 'accepted', ...this.#describe(stream), migratable: stream.migratable })
    })
    hub.on('ended', (stream) => { this.#known.delete(stream) })
    hub.on('migrate_received', (stream) => {
      this.emit({ event: 'migrate_received', stream: this.#streams.of(stream) })
    })
    hub.on('migrated', (stream, { from, to, initiator }) => {
      const [a, b] = [from, to].map((connection) => this.#connections.of(connection))
      this.emit({ event: 'migrated', stream: this.#streams.of(stream), from: a, to: b, initiator })
    })
    hub.on('migration_failed', (stream, { initiator, reason }) => {
      this.emit({ event: 'migration_failed', stream: this.#streams.of(stream), initiator, reason })
    })
    for (const event of ['link_ready', 'link_plain']) {
      hub.on(event, ({ connection }) => {
        this.emit({ event, conn: this.#connections.of(connection), ...this.#describeLink(connection) })
      })
    }
    hub.on('closed_read', ({ connection }, { numbers }) => {
      this.emit({ event: 'closed_read', conn: this.#connections.of(connection), numbers: numbers.map(jsonNumber) })
    })
    hub.on('route_unknown', ({ connection }, { route }) => {
      this.emit({ event: 'route_unknown', conn: this.#connections.of(connection), route: jsonNumber(route) })
    })
    hub.on('connection_closed', ({ connection, number }) => {
      this.emit({ event: 'connection_closed', conn: this.#connections.of(connection), number: jsonNumber(number) })
    })
  }

  #connected (connection) {
    this.#everConnected.push(connection)
    this.emit({ event: 'connected', peer: connection.remotePeer.toString(), ...this.#describeConnection(connection) })
    if (this.#onRelayed !== 'close' || isRelayed(connection)) return
    for (const other of this.node.getConnections(connection.remotePeer)) {
      if (isRelayed(other)) other.close().catch((err) => { other.abort(err) })
    }
  }

  #disconnected (connection) {
    this.emit({ event: 'disconnected', peer: connection.remotePeer.toString(), ...this.#describeConnection(connection) })
  }

  #describeConnection (connection) {
    return {
      conn: this.#connections.of(connection),
      addr: connection.remoteAddr.toString(),
      relayed: isRelayed(connection),
      dialer: connection.direction === 'outbound'
    }
  }

  #describe (stream) {
    return {
      stream: this.#streams.of(stream),
      peer: stream.connection.remotePeer.toString(),
      conn: this.#connections.of(stream.connection),
      layer: stream.layered,
      ...stream.owner !== null && { of: this.#connections.of(stream.owner.connection) }
    }
  }

  #describeLink (connection) {
    if (this.hub.layer === null) return {}
    const { state, number, closed, remote, reason } = this.hub.layer.describe(connection)
    if (state === undefined) return {}
    return {
      link: LINK_STATES[state],
      number: jsonNumber(number),
      epoch: jsonEpoch(this.hub.layer.epoch),
      closed,
      ...state === 'ready' && { remote_number: jsonNumber(remote.connection), remote_epoch: jsonEpoch(remote.epoch) },
      ...state === 'plain' && { reason }
    }
  }

  // ---- running

  async run (command) {
    const { cmd } = command
    if (typeof cmd !== 'string' || !Object.hasOwn(Commands.handlers, cmd)) {
      throw new PeerError('bad_command', `no command ${JSON.stringify(cmd)}`)
    }
    return await Commands.handlers[cmd].call(this, command) ?? {}
  }

  /** Runs `work` after whatever is queued under `key` on this stream. */
  #inOrder (stream, key, work) {
    const result = (stream[key] ?? Promise.resolve()).then(work)
    stream[key] = result.catch(() => {})
    return result
  }

  #address (text) {
    try {
      return multiaddr(text)
    } catch (err) {
      throw new PeerError('bad_command', `not an address: ${err.message}`)
    }
  }

  async listen ({ addr }) {
    const address = this.#address(addr)
    const { transportManager } = this.node.components
    if (transportManager.listenTransportForMultiaddr(address) === undefined) {
      throw new PeerError('unsupported', `no transport listens on ${addr}`)
    }
    const before = new Set(transportManager.getListeners())
    await transportManager.listen([address])
    const listeners = transportManager.getListeners().filter((listener) => !before.has(listener))
    const self = `/p2p/${this.node.peerId}`
    const circuit = `${addr}${self}`
    const addrs = listeners.flatMap((listener) => listener.getAddrs().map((a) => `${a}${self}`))
    // The relay may name addresses of its own choice, or none: the one asked for comes first.
    if (addr.includes('/p2p-circuit')) return { addrs: [circuit, ...addrs.filter((a) => a !== circuit)] }
    return { addrs }
  }

  async dial ({ addr }) {
    const address = this.#address(addr)
    const target = addr.split('/p2p/').at(-1)
    if (!addr.includes('/p2p/')) throw new PeerError('bad_command', 'the address does not end in /p2p/…')
    if (this.node.components.transportManager.dialTransportForMultiaddr(address) === undefined) {
      throw new PeerError('unsupported', `no transport dials ${addr}`)
    }
    const turn = (this.#dials.get(target) ?? Promise.resolve()).then(
      () => this.node.dial(address, { force: true, signal: AbortSignal.timeout(DIAL_MS) }))
    this.#dials.set(target, turn.catch(() => {}))
    const connection = await turn
    return { conn: this.#connections.of(connection), peer: connection.remotePeer.toString() }
  }

  connections ({ peer }) {
    const connections = this.node.getConnections().filter((c) => c.status === 'open' && c.remotePeer.toString() === peer)
    const describe = (connection) => ({ ...this.#describeConnection(connection), ...this.#describeLink(connection) })
    return { connections: connections.map(describe) }
  }

  async closeConnection ({ conn }) {
    const connection = this.#connections.get(conn)
    try {
      await connection.close()
    } catch (err) {
      connection.abort(err)
    }
  }

  onRelayed ({ action }) {
    if (!['close', 'keep'].includes(action)) throw new PeerError('bad_command', 'action is close or keep')
    this.#onRelayed = action
  }

  async open ({ peer, conn, layer = false, of, unrouted, route }) {
    const connection = this.#connections.get(conn)
    if (peer !== undefined && connection.remotePeer.toString() !== peer) {
      throw new PeerError('bad_command', `${conn} is a connection to another peer`)
    }
    if (route !== undefined && !Number.isSafeInteger(route)) throw new PeerError('bad_command', 'route is a number')
    const stream = await this.hub.open(connection, {
      layer,
      of: of === undefined ? undefined : this.#connections.get(of),
      unrouted,
      route: route === undefined ? undefined : BigInt(route)
    })
    if (!stream.gone) this.#known.add(stream)
    return { stream: this.#streams.of(stream), migratable: stream.migratable }
  }

  hello ({ conn }) {
    this.hub.theLayer.hello(this.#connections.get(conn))
  }

  closeNumber ({ conn, quietly }) {
    this.hub.theLayer.closeNumber(this.#connections.get(conn), { quietly })
  }

  write ({ stream: name, bytes, seed }) {
    const stream = this.#streams.get(name)
    return this.#inOrder(stream, 'writes', async () => {
      const end = (stream.patternOut ?? 0) + bytes
      while ((stream.patternOut ?? 0) < end) {
        const at = stream.patternOut ?? 0
        const chunk = fillPattern(new Uint8Array(Math.min(CHUNK, end - at)), at, seed)
        await stream.write(chunk)
        stream.patternOut = at + chunk.length
      }
      return { written: bytes }
    })
  }

  read ({ stream: name, seed, bytes, eof: toEnd = false }) {
    const stream = this.#streams.get(name)
    return this.#inOrder(stream, 'reads', async () => {
      const hash = createHash('sha256')
      const wanted = toEnd ? Infinity : bytes
      let read = 0
      let eof = false
      while (read < wanted) {
        const chunk = await stream.read(Math.min(CHUNK, wanted - read))
        if (chunk === null) {
          eof = true
          break
        }
        const at = stream.patternIn ?? 0
        const bad = firstMismatch(chunk, at, seed)
        if (bad >= 0) throw new PeerError('corrupt', `byte ${at + bad} is not the pattern's`)
        stream.patternIn = at + chunk.length
        read += chunk.length
        hash.update(chunk)
      }
      return { read, sha256: hash.digest('hex'), eof }
    })
  }

  close ({ stream: name }) {
    const stream = this.#streams.get(name)
    stream.closing = true
    return this.#inOrder(stream, 'writes', () => { stream.close() })
  }

  reset ({ stream: name }) {
    this.#streams.get(name).reset()
  }

  drop ({ stream: name }) {
    const stream = this.#streams.get(name)
    if (stream.closing) return this.#inOrder(stream, 'writes', () => { stream.drop() })
    stream.drop()
  }

  async migrate ({ stream: name, conn, reset }) {
    if (reset !== undefined && !['before_ack', 'after_ack'].includes(reset)) {
      throw new PeerError('bad_command', 'reset is before_ack or after_ack')
    }
    const stream = this.#streams.get(name)
    const connection = this.#connections.get(conn)
    if (!connection.remotePeer.equals(stream.connection.remotePeer)) {
      throw new PeerError('bad_command', `${conn} is a connection to another peer`)
    }
    const start = performance.now()
    await this.hub.migrate(stream, connection, { reset })
    return { took_ms: performance.now() - start }
  }

  answer ({ next }) {
    if (!Array.isArray(next) || !next.every((word) => ANSWERS.includes(word))) {
      throw new PeerError('bad_command', `next is a list of ${ANSWERS.join(', ')}`)
    }
    this.#answers = [...next]
  }

  release () { this.hub.release() }

  async count ({ peer }) {
    const connections = this.#everConnected.filter(({ remotePeer }) => remotePeer.toString() === peer)
    return { counts: await this.counts.on(connections) }
  }

  listStreams () {
    const streams = [...this.#known].filter((stream) => !stream.gone).map((stream) => ({
      ...this.#describe(stream),
      in_conn: this.#connections.of(stream.inLeg.connection),
      id: stream.id === null ? null : jsonNumber(stream.id),
      opener: stream.opener
    }))
    return { streams }
  }

  static handlers = {
    listen: Commands.prototype.listen,
    dial: Commands.prototype.dial,
    connections: Commands.prototype.connections,
    close_connection: Commands.prototype.closeConnection,
    on_relayed: Commands.prototype.onRelayed,
    open: Commands.prototype.open,
    hello: Commands.prototype.hello,
    close_number: Commands.prototype.closeNumber,
    write: Commands.prototype.write,
    read: Commands.prototype.read,
    close: Commands.prototype.close,
    reset: Commands.prototype.reset,
    drop: Commands.prototype.drop,
    migrate: Commands.prototype.migrate,
    answer: Commands.prototype.answer,
    release: Commands.prototype.release,
    count: Commands.prototype.count,
    streams: Commands.prototype.listStreams
  }
}
