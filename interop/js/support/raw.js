// A remote that is played by hand, byte by byte, against a peer under test.
import '../lib/polyfill.js'
import { multiaddr } from '@multiformats/multiaddr'
import { createNode } from '../lib/node.js'
import { Leg } from '../lib/leg.js'
import { isDesignated } from '../lib/roles.js'
import { PeerProcess } from './peer-process.js'
import { line } from '../lib/mss.js'
import { peerIdFromString } from '@libp2p/peer-id'

export const PREFIX = '/libp2p/stream-migration'
export const PROTOCOL = '/interop/1'
export const bytes = (text) => new Uint8Array(Buffer.from(text.replaceAll(' ', ''), 'hex'))
export const INNER = '13' + Buffer.from('/multistream/1.0.0\n').toString('hex') + '0b' + Buffer.from('/interop/1\n').toString('hex')

export class RawLeg extends Leg {
  write (hex) { this.send(bytes(hex)) }
  async hex (n) { return Buffer.from(await this.readExactly(n)).toString('hex') }

  /** Everything up to the end, as hex and how it ended: 'fin' or 'reset'. */
  async rest () {
    let hex = ''
    for (;;) {
      const got = await this.read()
      if (got.data === undefined) return [hex, got.lost === null ? 'fin' : 'reset']
      hex += Buffer.from(got.data).toString('hex')
    }
  }
}

/** Lazily: header, proposal and `hex` in one flight; then the answer, which must be yes. */
export async function lazily (connection, protocol, hex) {
  const leg = new RawLeg(await connection.muxer.createStream(), connection)
  const proposal = Buffer.concat([line('/multistream/1.0.0'), line(protocol)])
  leg.send(Buffer.concat([proposal, bytes(hex)]))
  if (await leg.hex(proposal.length) !== proposal.toString('hex')) throw new Error(`refused: ${protocol}`)
  return leg
}

/** A raw node with two connections to a peer process; `designated` says which of the two is. */
export async function raw (t, { flags = [], designated = 'peer', protocols = [PREFIX] } = {}) {
  const peer = await PeerProcess.start(1, ...flags)
  const [{ addrs: [first] }, { addrs: [second] }] = [
    await peer.do('listen', { addr: '/ip4/127.0.0.1/tcp/0' }), await peer.do('listen', { addr: '/ip4/127.0.0.1/tcp/0/ws' })]
  const peerBytes = peerIdFromString(peer.id).toMultihash().bytes
  let node
  for (let seed = 2; ; seed++) {
    node = await createNode({ seed })
    if (isDesignated(peerBytes, node.peerId.toMultihash().bytes) === (designated === 'peer')) break
    await node.stop()
  }
  t.after(async () => { await Promise.all([peer.quit(), node.stop()]) })
  const inbound = new Map()
  for (const protocol of protocols) {
    const queue = { legs: [], waiting: [] }
    inbound.set(protocol, queue)
    await node.handle(protocol, (stream, connection) => {
      const leg = new RawLeg(stream, connection)
      queue.waiting.length > 0 ? queue.waiting.shift()(leg) : queue.legs.push(leg)
    }, { runOnLimitedConnection: true, maxOutboundStreams: 1000 })
  }
  const c0 = await node.dial(multiaddr(first), { force: true })
  const conn0 = (await peer.event('connected')).conn
  const c1 = await node.dial(multiaddr(second), { force: true })
  const conn1 = (await peer.event('connected')).conn
  const leg = async (connection, protocol = PREFIX) => new RawLeg(await connection.newStream(protocol), connection)
  return {
    peer, node, c0, c1, conn0, conn1, leg,
    higher: Buffer.compare(node.peerId.toMultihash().bytes, peerBytes) > 0,
    inbound,
    accepted (protocol = PREFIX) {
      const { legs, waiting } = inbound.get(protocol)
      return legs.length > 0 ? Promise.resolve(legs.shift()) : new Promise((resolve) => { waiting.push(resolve) })
    },
    /** A stream labelled `id` (one byte) on the first connection, its inner negotiation done. */
    async label (id = '04') {
      const old = await leg(c0)
      old.write(`04 0a 02 08 ${id} ${INNER}`)
      const stream = (await peer.event('accepted')).stream
      if (await old.hex(INNER.length / 2) !== INNER) throw new Error('the inner negotiation failed')
      return { old, stream }
    }
  }
}
