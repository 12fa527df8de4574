import assert from 'node:assert/strict'
import { test } from '../support/timed.js'
import { finish, pair, transfer } from '../support/peer-process.js'

const MIB = 1024 * 1024

async function moveUnderLoad (t, options, { mover = 'a' } = {}) {
  const p = await pair(t, options)
  assert.equal(p.opened.migratable, true)
  assert.equal(p.accepted.migratable, true)
  const bytes = 8 * MIB
  const traffic = Promise.all([
    transfer(p.a, p.sa, 1, p.b, p.sb, bytes),
    transfer(p.b, p.sb, 2, p.a, p.sa, bytes)
  ])
  const start = Date.now()
  const stream = mover === 'a' ? p.sa : p.sb
  await p[mover].do('migrate', { stream, conn: p.c1[mover] })
  const moved = await Promise.all([p.a.event('migrated'), p.b.event('migrated')])
  assert.deepEqual(moved.map((e) => [e.from, e.to, e.initiator]),
    [[p.c0.a, p.c1.a, mover === 'a'], [p.c0.b, p.c1.b, mover === 'b']])
  // and back again
  await p.b.do('migrate', { stream: p.sb, conn: p.c0.b })
  await Promise.all([p.a.event('migrated'), p.b.event('migrated')])
  await traffic
  t.diagnostic(`${Date.now() - start} ms`)
  const [{ streams: [atA] }, { streams: [atB] }] = await Promise.all([p.a.do('streams'), p.b.do('streams')])
  assert.equal(atA.id, atB.id)
  assert.deepEqual([atA.opener, atB.opener], [true, false])
  const ends = await finish(p)
  assert.deepEqual(ends.map((e) => [e.read, e.eof]), [[0, true], [0, true]])
  return p
}

for (const [from, to] of [['tcp', 'tcp'], ['tcp', 'ws'], ['ws', 'quic'], ['quic', 'tcp']]) {
  test(`8 MiB each way, moved twice, ${from} to ${to}`, (t) => moveUnderLoad(t, { from, to }))
}

test('started by the acceptor', (t) => moveUnderLoad(t, {}, { mover: 'b' }))
test('without verify here', (t) => moveUnderLoad(t, { aFlags: ['--no-verify'] }))
test('without verify there', (t) => moveUnderLoad(t, { bFlags: ['--no-verify'] }))
test('without verify, bare acks', (t) => moveUnderLoad(t, { aFlags: ['--no-verify', '--ack', 'bare'], bFlags: ['--no-verify', '--ack', 'bare'] }))
test('bare acks with verify', (t) => moveUnderLoad(t, { aFlags: ['--ack', 'bare'], bFlags: ['--ack', 'bare'] }))
test('over TLS', (t) => moveUnderLoad(t, { aFlags: ['--security', 'tls'], bFlags: ['--security', 'tls'] }))

test('the old connection may go once the stream has moved', async (t) => {
  const p = await pair(t)
  await transfer(p.a, p.sa, 1, p.b, p.sb, 100_000)
  await p.a.do('migrate', { stream: p.sa, conn: p.c1.a })
  await p.b.event('migrated')
  await p.a.do('close_connection', { conn: p.c0.a })
  await p.b.event('disconnected', { conn: p.c0.b })
  await transfer(p.a, p.sa, 1, p.b, p.sb, MIB)
  await transfer(p.b, p.sb, 2, p.a, p.sa, MIB)
  await finish(p)
})

test('nobody reads, more than the read-ahead is on its way', async (t) => {
  const p = await pair(t)
  const write = p.a.do('write', { stream: p.sa, bytes: 6 * MIB, seed: 1 })
  await new Promise((resolve) => { setTimeout(resolve, 200) })
  const migrate = p.a.do('migrate', { stream: p.sa, conn: p.c1.a })
  await new Promise((resolve) => { setTimeout(resolve, 500) })
  await Promise.all([write, migrate, p.b.do('read', { stream: p.sb, bytes: 6 * MIB, seed: 1 })])
  await finish(p)
})

for (const flags of [[], ['--no-verify']]) {
  const mode = flags.length === 0 ? 'verify' : 'no verify'
  for (const closer of ['a', 'b']) {
    for (const mover of ['a', 'b']) {
      test(`half-closed by ${closer}, moved by ${mover}, ${mode}`, async (t) => {
        const p = await pair(t, { aFlags: flags, bFlags: flags })
        const open = closer === 'a' ? 'b' : 'a'
        const [sc, so] = closer === 'a' ? [p.sa, p.sb] : [p.sb, p.sa]
        const [seedC, seedO] = closer === 'a' ? [1, 2] : [2, 1]
        await p[closer].do('write', { stream: sc, bytes: 1000, seed: seedC })
        await p[closer].do('close', { stream: sc })
        const got = await p[open].do('read', { stream: so, eof: true, seed: seedC })
        assert.deepEqual([got.read, got.eof], [1000, true])
        await p[mover].do('migrate', { stream: mover === closer ? sc : so, conn: p.c1[mover] })
        await transfer(p[open], so, seedO, p[closer], sc, 2 * MIB)
        await p[open].do('close', { stream: so })
        const end = await p[closer].do('read', { stream: sc, eof: true, seed: seedO })
        assert.deepEqual([end.read, end.eof], [0, true])
        await p.a.do('drop', { stream: p.sa })
        await p.b.do('drop', { stream: p.sb })
        assert.deepEqual((await p.a.do('streams')).streams, [])
        assert.deepEqual((await p.b.do('streams')).streams, [])
      })
    }
  }

  test(`a chain of ten moves from both ends, ${mode}`, async (t) => {
    const p = await pair(t, { aFlags: flags, bFlags: flags })
    const traffic = Promise.all([
      transfer(p.a, p.sa, 1, p.b, p.sb, 4 * MIB),
      transfer(p.b, p.sb, 2, p.a, p.sa, 4 * MIB)
    ])
    for (let i = 0; i < 10; i++) {
      const mover = i % 3 === 0 ? 'b' : 'a'
      const target = i % 2 === 0 ? p.c1 : p.c0
      await p[mover].do('migrate', { stream: mover === 'a' ? p.sa : p.sb, conn: target[mover] })
    }
    await traffic
    await finish(p)
  })
}
