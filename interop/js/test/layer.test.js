import assert from 'node:assert/strict'
import { once } from 'node:events'
import { multiaddr } from '@multiformats/multiaddr'
import { decodeControl, encodeControl, encodeLabel, encodeMigrate, MAX_CONTROL, readFrame } from '../lib/codec.js'
import { Hub, PREFIX } from '../lib/hub.js'
import { CONTROL, LINK } from '../lib/layer.js'
import { line } from '../lib/mss.js'
import { createNode } from '../lib/node.js'
import { finish, onRelay, pair, PeerProcess, transfer } from '../support/peer-process.js'
import { INNER, lazily, PROTOCOL, raw, RawLeg } from '../support/raw.js'
import { test } from '../support/timed.js'

const MIB = 1024 * 1024
const LAYER = ['--layer']
const EPOCH = 0x0807060504030201n
const hex = (bytes) => Buffer.from(bytes).toString('hex')
const pause = (ms) => new Promise((resolve) => { setTimeout(resolve, ms) })
const heard = async (leg) => decodeControl(await readFrame(leg, MAX_CONTROL))
const helloOf = (connection, epoch = EPOCH) => hex(encodeControl({ hello: { epoch, connection } }))
const sayHello = (connection, number, epoch) => lazily(connection, CONTROL, helloOf(number, epoch))
const closedOf = (...closed) => hex(encodeControl({ closed }))
const labelOf = (id, route) => hex(encodeLabel({ id, route })) + INNER

// ---- byte by byte

/** A raw layer, that has said Hello on the first of two direct connections: `control`, `hello` are the peer's. */
async function layered (t) {
  const r = await raw(t, { flags: LAYER, protocols: [PREFIX, CONTROL, LINK] })
  await pause(300)
  assert.equal(r.inbound.get(CONTROL).legs.length, 0) // direct links: nothing by itself
  const mine = await sayHello(r.c0, 7n)
  const ready = await r.peer.event('link_ready')
  const control = new Map()
  const hello = new Map()
  for (let i = 0; i < 2; i++) {
    const leg = await r.accepted(CONTROL)
    control.set(leg.connection, leg)
    hello.set(leg.connection, (await heard(leg)).hello)
  }
  return { ...r, mine, ready, control, hello }
}

const links = async (r) => (await r.peer.do('connections', { peer: r.node.peerId.toString() })).connections.map((c) => c.link)

test('on direct links Hello is said after the other side, and then on all', async (t) => {
  const r = await layered(t)
  const [here, there] = [r.hello.get(r.c0), r.hello.get(r.c1)]
  assert.equal(here.epoch, there.epoch)
  assert.notEqual(here.connection, there.connection)
  assert.deepEqual(r.ready, {
    event: 'link_ready',
    conn: r.conn0,
    link: 'ready',
    number: Number(here.connection),
    epoch: here.epoch.toString(16).padStart(16, '0'),
    closed: false,
    remote_number: 7,
    remote_epoch: '0807060504030201'
  })
  assert.deepEqual(await links(r), ['ready', 'pending'])
  await sayHello(r.c1, 8n)
  await r.peer.event('link_ready', { conn: r.conn1, number: Number(there.connection), remote_number: 8 })
  assert.deepEqual(await links(r), ['ready', 'ready'])
})

test('a routed stream, in one flight; its leg on one link, its route another\'s', async (t) => {
  const r = await layered(t)
  const own = await lazily(r.c0, LINK, labelOf(4n, r.hello.get(r.c0).connection))
  assert.equal(await own.hex(INNER.length / 2), INNER)
  const accepted = await r.peer.event('accepted')
  assert.deepEqual([accepted.layer, accepted.migratable, accepted.conn, accepted.of], [true, true, r.conn0, r.conn0])
  // The label is faster than the Hello of the link that it is about.
  const other = lazily(r.c0, LINK, labelOf(6n, r.hello.get(r.c1).connection))
  await pause(300)
  assert.equal(r.peer.events.filter(({ event }) => event === 'accepted').length, 0)
  await sayHello(r.c1, 8n)
  assert.equal(await (await other).hex(INNER.length / 2), INNER)
  const second = await r.peer.event('accepted')
  assert.deepEqual([second.conn, second.of], [r.conn0, r.conn1])
  // A label without a route belongs to no connection; what is not served is refused as on any stream.
  const ours = await lazily(r.c0, LINK, labelOf(8n))
  assert.equal(await ours.hex(INNER.length / 2), INNER)
  const third = await r.peer.event('accepted')
  assert.deepEqual([third.layer, third.of], [true, undefined])
  const asks = hex(line('/ipfs/id/1.0.0'))
  const refused = await lazily(r.c0, LINK, hex(encodeLabel({ id: 10n, route: r.hello.get(r.c0).connection })) + INNER.slice(0, 40) + asks)
  assert.equal(await refused.hex(24), INNER.slice(0, 40) + '036e610a')
})

test('a route that is not known, and one of another epoch: closed', async (t) => {
  const r = await layered(t)
  await sayHello(r.c1, 8n, 1n)
  await r.peer.event('link_ready', { conn: r.conn1, remote_epoch: '0000000000000001' })
  for (const route of [99n, r.hello.get(r.c1).connection]) {
    const leg = await lazily(r.c0, LINK, labelOf(4n, route))
    assert.deepEqual(await leg.rest(), ['', 'reset'])
    assert.deepEqual(await heard(r.control.get(r.c0)), { hello: null, closed: [route] })
    await r.peer.event('route_unknown', { conn: r.conn0, route: Number(route) })
  }
  assert.deepEqual((await r.peer.do('streams')).streams, [])
  assert.deepEqual(await links(r), ['ready', 'ready'])
})

test('a Migrate finds streams of its own prefix only', async (t) => {
  const r = await layered(t)
  await sayHello(r.c1, 8n)
  const old = await lazily(r.c0, LINK, labelOf(4n, r.hello.get(r.c0).connection))
  const { stream } = await r.peer.event('accepted')
  const plain = await r.leg(r.c1)
  plain.write(hex(encodeMigrate({ id: 6n, from: 4n })))
  const next = await r.leg(r.c1, LINK)
  next.write(hex(encodeMigrate({ id: 6n, from: 4n })))
  assert.equal(await next.hex(3), '021a00')
  await old.close()
  assert.deepEqual(await old.rest(), [INNER, 'fin'])
  await r.peer.event('migrated', { stream, from: r.conn0, to: r.conn1 })
  assert.equal(plain.lost, null) // held, as it would be before its label
  const [{ conn, in_conn: from, of }] = (await r.peer.do('streams')).streams
  assert.deepEqual([conn, from, of], [r.conn1, r.conn1, r.conn0])
})

const violations = [
  ['twice', helloOf(8n) + helloOf(8n), 'Hello comes twice'],
  ['twice in one message', '1a' + helloOf(8n).slice(2).repeat(2), 'Hello comes twice'],
  ['absent from the first message', closedOf(1n), 'Hello is absent from the first message'],
  ['after an empty message', '00' + helloOf(8n), 'Hello is absent from the first message'],
  ['without an epoch', '040a021801', 'required field Hello.epoch is absent'],
  ['cut off', '060a0409010203', 'field cut off'],
  ['above the cap', '8120', 'message of 4097 bytes is above the cap'],
  ['without a connection', helloOf(undefined), 'no layer there']
]
for (const [what, said, reason] of violations) {
  const ready = what === 'twice' // by the first of the two
  test(`Hello ${what}: ${ready ? 'no more of that substream' : 'the link is plain'}`, async (t) => {
    const r = await layered(t)
    const control = await lazily(r.c1, CONTROL, said)
    if (!ready) await r.peer.event('link_plain', { conn: r.conn1, reason })
    assert.equal((await control.rest())[1], 'reset')
    assert.deepEqual(await links(r), ['ready', ready ? 'ready' : 'plain'])
    const leg = await lazily(r.c1, LINK, labelOf(4n, r.hello.get(r.c0).connection))
    const again = await sayHello(r.c1, 8n)
    if (ready) {
      assert.equal(await leg.hex(INNER.length / 2), INNER)
      again.write(closedOf(1n))
      return await r.peer.event('closed_read', { conn: r.conn1 })
    }
    // It is plain for good, and a connection like any other.
    assert.deepEqual(await leg.rest(), ['', 'reset'])
    assert.equal((await again.rest())[1], 'reset')
    const refused = await r.peer.ask('open', { conn: r.conn1, layer: true })
    assert.deepEqual([refused.ok, refused.kind], [false, 'unsupported'])
    const plain = await r.leg(r.c1)
    plain.write('04 0a 02 08 04' + INNER)
    assert.equal((await r.peer.event('accepted')).conn, r.conn1)
  })
}

test('no Hello for a while: silent, and ready when one comes', async (t) => {
  const r = await layered(t)
  await pause(4000)
  assert.deepEqual(await links(r), ['ready', 'pending'])
  await pause(1500)
  assert.deepEqual(await links(r), ['ready', 'silent'])
  assert.equal((await r.peer.ask('open', { conn: r.conn1, layer: true })).kind, 'unsupported')
  await sayHello(r.c1, 8n)
  await r.peer.event('link_ready', { conn: r.conn1 })
})

test('a second control substream replaces the first, if it says the same', async (t) => {
  const r = await layered(t)
  const second = await sayHello(r.c0, 7n)
  assert.equal((await r.mine.rest())[1], 'reset')
  second.write(closedOf(40n, 41n))
  assert.deepEqual((await r.peer.event('closed_read')).numbers, [40, 41])
  await second.close() // its end is no fault
  await pause(300)
  const third = await sayHello(r.c0, 9n)
  assert.equal((await third.rest())[1], 'reset')
  assert.equal((await links(r))[0], 'ready')
})

test('closed: nothing new, what is there is read to its end, then ours is closed as well', async (t) => {
  const r = await layered(t)
  const route = r.hello.get(r.c0).connection
  const leg = await lazily(r.c0, LINK, labelOf(4n, route))
  await leg.hex(INNER.length / 2)
  const { stream } = await r.peer.event('accepted')
  r.mine.write(closedOf(7n))
  await r.peer.event('closed_read', { conn: r.conn0 })
  assert.equal((await r.peer.ask('open', { conn: r.conn0, layer: true })).kind, 'unsupported')
  await pause(300)
  await r.peer.do('write', { stream, bytes: 5, seed: 2 })
  await leg.readExactly(5)
  await leg.close()
  await r.peer.do('read', { stream, eof: true, seed: 1 })
  assert.equal(r.peer.events.filter(({ event }) => event === 'connection_closed').length, 0)
  await r.peer.do('close', { stream })
  assert.deepEqual(await leg.rest(), ['', 'fin'])
  await r.peer.event('connection_closed', { conn: r.conn0, number: Number(route) })
  const late = await lazily(r.c0, LINK, labelOf(6n, route))
  assert.deepEqual(await late.rest(), ['', 'reset'])
  await r.peer.event('route_unknown', { conn: r.conn0, route: Number(route) })
  assert.equal((await links(r))[0], 'ready') // a link for others
})

test('closed: for so long at most', async (t) => {
  const [node, remote] = await Promise.all([createNode({ seed: 1 }), createNode({ seed: 2 })])
  t.after(async () => { await Promise.all([node.stop(), remote.stop()]) })
  const hub = new Hub(node, { protocol: PROTOCOL, layer: true, deadlines: { closed: 300 } })
  await hub.start()
  const said = new Promise((resolve) => { remote.handle(CONTROL, (stream, connection) => { resolve(new RawLeg(stream, connection)) }) })
  await node.components.transportManager.listen([multiaddr('/ip4/127.0.0.1/tcp/0')])
  const connection = await remote.dial(multiaddr(`${node.getMultiaddrs()[0]}`))
  const control = await sayHello(connection, 7n)
  const { hello } = await heard(await said)
  const leg = await lazily(connection, LINK, labelOf(4n, hello.connection))
  await leg.hex(INNER.length / 2)
  const closed = once(hub, 'connection_closed')
  const start = Date.now()
  control.write(closedOf(7n))
  assert.deepEqual(await leg.rest(), ['', 'reset'])
  await closed
  assert.ok(Date.now() - start >= 290)
})

test('closed overtakes the Hello of the link that it is about', async (t) => {
  const r = await layered(t)
  r.mine.write(closedOf(8n))
  await r.peer.event('closed_read', { conn: r.conn0 })
  await sayHello(r.c1, 8n)
  await r.peer.event('connection_closed', { conn: r.conn1 })
  assert.deepEqual(await links(r), ['ready', 'ready'])
})

test('close_number: closed is said on every link of the epoch, or not at all', async (t) => {
  const r = await layered(t)
  await sayHello(r.c1, 8n)
  await r.peer.event('link_ready', { conn: r.conn1 })
  const [n0, n1] = [r.c0, r.c1].map((c) => r.hello.get(c).connection)
  await r.peer.do('close_number', { conn: r.conn0 })
  for (const c of [r.c0, r.c1]) assert.deepEqual(await heard(r.control.get(c)), { hello: null, closed: [n0] })
  await r.peer.do('close_number', { conn: r.conn1, quietly: true })
  const leg = await lazily(r.c0, LINK, labelOf(4n, n1))
  assert.deepEqual(await leg.rest(), ['', 'reset'])
  assert.deepEqual(await heard(r.control.get(r.c0)), { hello: null, closed: [n1] })
  assert.equal(await Promise.race([heard(r.control.get(r.c1)), pause(300)]), undefined) // only to who asked
  const { connections } = await r.peer.do('connections', { peer: r.node.peerId.toString() })
  assert.deepEqual(connections.map((c) => [c.link, c.closed]), [['ready', true], ['ready', true]])
})

test('Hello leaves with its proposal, and nobody waits', async (t) => {
  const r = await raw(t, { flags: LAYER, protocols: [CONTROL] })
  const substream = new Promise((resolve) => {
    r.c0.muxer.removeEventListener('stream', r.c0.onIncomingStream)
    r.c0.muxer.addEventListener('stream', ({ detail }) => { resolve(new RawLeg(detail, r.c0)) })
  })
  await sayHello(r.c0, 7n)
  const leg = await substream
  const proposal = Buffer.concat([line('/multistream/1.0.0'), line(CONTROL)])
  assert.equal(await leg.hex(proposal.length), proposal.toString('hex'))
  assert.notEqual((await heard(leg)).hello, null)
  await r.peer.event('link_ready', { conn: r.conn0 }) // unanswered
  leg.send(Buffer.concat([line('/multistream/1.0.0'), line('na')]))
  await r.peer.event('link_plain', { conn: r.conn0, reason: 'refused' })
})

// ---- two layers

/** Two peers with a ready relayed link, and a routed stream on it. */
async function routed (t, { to = 'tcp', by = 'a' } = {}) {
  const p = await onRelay(t, { aFlags: LAYER, bFlags: LAYER, to })
  const [readyA, readyB] = await Promise.all([p.a.event('link_ready', { conn: p.conn }), p.b.event('link_ready', { conn: p.connB })])
  assert.deepEqual([readyA.number, readyA.epoch], [readyB.remote_number, readyB.remote_epoch])
  assert.deepEqual([readyB.number, readyB.epoch], [readyA.remote_number, readyA.remote_epoch])
  const s = await openRouted(p, by, { conn: by === 'a' ? p.conn : p.connB })
  return { ...p, ...s, numberB: readyB.number }
}

/** A stream through the layer, opened by one of the two. */
async function openRouted (p, by, fields) {
  const opened = await p[by].do('open', { layer: true, ...fields })
  const accepted = await p[by === 'a' ? 'b' : 'a'].event('accepted')
  assert.deepEqual([opened.migratable, accepted.migratable, accepted.layer], [true, true, true])
  const [sa, sb] = by === 'a' ? [opened.stream, accepted.stream] : [accepted.stream, opened.stream]
  return { sa, sb, accepted }
}

/** A direct connection, ready at both ends, beside a relayed one that is. */
async function direct (p) {
  const { conn } = await p.a.do('dial', { addr: p.direct })
  const { conn: connB } = await p.b.event('connected', { relayed: false, peer: p.a.id })
  await Promise.all([p.a.event('link_ready', { conn }), p.b.event('link_ready', { conn: connB })])
  return { a: conn, b: connB }
}

for (const [to, by, mover] of [['tcp', 'a', 'a'], ['tcp', 'b', 'a'], ['tcp', 'a', 'b'], ['quic', 'a', 'a']]) {
  test(`a routed stream from a relay to ${to}, opened by ${by}, moved by ${mover}`, async (t) => {
    const p = await routed(t, { to, by })
    const [seedA, seedB] = by === 'a' ? [1, 2] : [2, 1]
    const traffic = Promise.all([
      transfer(p.a, p.sa, seedA, p.b, p.sb, 4 * MIB),
      transfer(p.b, p.sb, seedB, p.a, p.sa, 4 * MIB)
    ])
    const c = await direct(p)
    await p[mover].do('migrate', { stream: mover === 'a' ? p.sa : p.sb, conn: c[mover] })
    await Promise.all([p.a.event('migrated', { from: p.conn, to: c.a }), p.b.event('migrated', { from: p.connB, to: c.b })])
    await traffic
    for (const [peer, conn, of] of [[p.a, c.a, p.conn], [p.b, c.b, p.connB]]) {
      const [stream] = (await peer.do('streams')).streams
      assert.deepEqual([stream.conn, stream.in_conn, stream.of, stream.layer], [conn, conn, of, true])
    }
    // The number outlives the link: the stream goes on, and new ones are opened.
    await p.a.do('close_connection', { conn: p.conn })
    await p.b.event('disconnected', { conn: p.connB })
    await transfer(p.a, p.sa, seedA, p.b, p.sb, MIB)
    for (const opener of ['a', 'b']) {
      const s = await openRouted(p, opener, opener === 'a' ? { conn: c.a, of: p.conn } : { conn: c.b, of: p.connB })
      assert.deepEqual([s.accepted.conn, s.accepted.of], opener === 'a' ? [c.b, p.connB] : [c.a, p.conn])
      if (opener === 'a') await finish({ ...p, ...s })
    }
    await Promise.all([p.a.do('close', { stream: p.sa }), p.b.do('close', { stream: p.sb })])
    const ends = await Promise.all([
      p.a.do('read', { stream: p.sa, eof: true, seed: seedB }), p.b.do('read', { stream: p.sb, eof: true, seed: seedA })])
    assert.deepEqual(ends.map((end) => [end.read, end.eof]), [[0, true], [0, true]])
  })
}

test('two direct links, after hello; a stream of the one on the other, and moved to its own', async (t) => {
  const p = await pair(t, { from: 'tcp', to: 'ws', aFlags: LAYER, bFlags: LAYER })
  assert.equal((await p.a.ask('open', { conn: p.c0.a, layer: true })).kind, 'unsupported')
  await p.a.do('hello', { conn: p.c0.a })
  await Promise.all([p.a, p.b].flatMap((peer, i) => [p.c0, p.c1].map((c) => peer.event('link_ready', { conn: i === 0 ? c.a : c.b }))))
  const s = await openRouted(p, 'a', { conn: p.c1.a, of: p.c0.a })
  assert.deepEqual([s.accepted.conn, s.accepted.of], [p.c1.b, p.c0.b])
  await transfer(p.a, s.sa, 1, p.b, s.sb, 100_000)
  await p.b.do('migrate', { stream: s.sb, conn: p.c0.b })
  await transfer(p.b, s.sb, 2, p.a, s.sa, 100_000)
  await finish({ ...p, ...s })
  // One of no connection moves as well, and beside it one that knows of no layer.
  const none = await openRouted(p, 'a', { conn: p.c0.a, unrouted: true })
  assert.equal(none.accepted.of, undefined)
  assert.deepEqual([p.opened.layer, p.accepted.layer], [undefined, false])
  for (const q of [{ ...p, ...none }, p]) {
    await p.a.do('migrate', { stream: q.sa, conn: p.c1.a })
    await transfer(p.a, q.sa, 1, p.b, q.sb, 100_000)
    await finish(q)
  }
})

test('routes that are not known, and a connection that is closed, between two peers', async (t) => {
  const p = await routed(t)
  const unknown = await p.a.ask('open', { conn: p.conn, layer: true, route: 4711 })
  assert.deepEqual([unknown.ok, unknown.kind], [false, 'reset'])
  await p.b.event('route_unknown', { conn: p.connB, route: 4711 })
  assert.deepEqual((await p.a.event('closed_read', { conn: p.conn })).numbers, [4711])
  await p.b.do('close_number', { conn: p.connB })
  assert.deepEqual((await p.a.event('closed_read', { conn: p.conn })).numbers, [p.numberB])
  assert.equal((await p.a.ask('open', { conn: p.conn, layer: true })).ok, false)
  await transfer(p.a, p.sa, 1, p.b, p.sb, 100_000)
  await finish(p)
  await p.a.event('connection_closed', { conn: p.conn })
  await openRouted(p, 'a', { conn: p.conn, unrouted: true }) // the link is there
})

// ---- without a layer there

test('a peer without the layer: refused once, and all is as ever', async (t) => {
  const p = await onRelay(t, { aFlags: LAYER })
  await p.a.event('link_plain', { conn: p.conn, reason: 'refused' })
  const answer = await p.a.ask('open', { conn: p.conn, layer: true })
  assert.deepEqual([answer.ok, answer.kind], [false, 'unsupported'])
  assert.equal((await p.b.ask('open', { conn: p.connB, layer: true })).kind, 'unsupported')
  const { stream: sa } = await p.a.do('open', { conn: p.conn })
  const { stream: sb } = await p.b.event('accepted')
  const { conn } = await p.a.do('dial', { addr: p.direct })
  await p.a.do('migrate', { stream: sa, conn })
  await transfer(p.b, sb, 2, p.a, sa, MIB)
  await finish({ ...p, sa, sb })
  const { connections } = await p.a.do('connections', { peer: p.b.id })
  assert.deepEqual(connections.map((c) => c.link), ['plain', 'pending'])
  assert.equal(p.b.stderr, '')
})

test('… sees one refused proposal on a relayed connection, and none on a direct one', async (t) => {
  const [relay, a] = await PeerProcess.startAll(t, [9, '--relay'], [1, ...LAYER])
  const node = await createNode({ seed: 2 })
  t.after(() => node.stop())
  const substreams = []
  node.addEventListener('connection:open', ({ detail: connection }) => {
    if (connection.remotePeer.toString() !== a.id) return
    const relayed = connection.remoteAddr.toString().includes('/p2p-circuit')
    connection.muxer.addEventListener('stream', ({ detail }) => { substreams.push([relayed, detail]) })
  })
  await node.handle(PROTOCOL, () => {})
  const { transportManager } = node.components
  const { addrs: [there] } = await relay.do('listen', { addr: '/ip4/127.0.0.1/tcp/0' })
  await transportManager.listen([multiaddr('/ip4/127.0.0.1/tcp/0')])
  const [own] = transportManager.getListeners()[0].getAddrs()
  await transportManager.listen([multiaddr(`${there}/p2p-circuit`)])
  await a.do('dial', { addr: `${there}/p2p-circuit/p2p/${node.peerId}` })
  await a.event('link_plain', { reason: 'refused' })
  await a.do('dial', { addr: `${own}/p2p/${node.peerId}` })
  await pause(500)
  const refused = (on) => substreams.filter(([relayed, { protocol }]) => relayed === on && protocol === '')
  assert.deepEqual([refused(true).length, refused(false).length], [1, 0])
  assert.ok(substreams.some(([relayed]) => !relayed)) // we would have seen it: Identify, at least
  assert.equal(refused(true)[0][1].status === 'open', false) // let go of
})
