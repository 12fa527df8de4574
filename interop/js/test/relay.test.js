import assert from 'node:assert/strict'
import { finish, relayed, transfer } from '../support/peer-process.js'
import { test } from '../support/timed.js'

const MIB = 1024 * 1024

test('from a relayed connection to a direct one, under load', async (t) => {
  const p = await relayed(t)
  const traffic = Promise.all([
    transfer(p.a, p.sa, 1, p.b, p.sb, 4 * MIB),
    transfer(p.b, p.sb, 2, p.a, p.sa, 4 * MIB)
  ])
  const { conn } = await p.a.do('dial', { addr: p.direct })
  await p.a.do('migrate', { stream: p.sa, conn })
  await p.a.event('migrated', { from: p.conn, to: conn })
  await p.b.event('migrated')
  await traffic
  const { connections } = await p.a.do('connections', { peer: p.b.id })
  assert.deepEqual(connections.map((c) => [c.relayed, c.dialer]), [[true, true], [false, true]])
  await p.a.do('close_connection', { conn: p.conn })
  await transfer(p.b, p.sb, 2, p.a, p.sa, MIB)
  await finish(p)
})

test('on_relayed close: the relayed connection goes, and its stream with an error', async (t) => {
  const p = await relayed(t)
  await p.b.do('on_relayed', { action: 'close' })
  const { conn } = await p.a.do('dial', { addr: p.direct })
  await p.a.event('disconnected', { conn: p.conn })
  for (const [peer, stream, seed] of [[p.a, p.sa, 2], [p.b, p.sb, 1]]) {
    assert.equal((await peer.ask('read', { stream, eof: true, seed })).kind, 'reset')
  }
  assert.equal((await p.a.do('connections', { peer: p.b.id })).connections[0].conn, conn)
})

test('no wait on a silent old leg is for ever', async (t) => {
  const p = await relayed(t)
  const { conn } = await p.a.do('dial', { addr: p.direct })
  p.relay.child.kill('SIGSTOP')
  t.after(() => { p.relay.child.kill('SIGCONT') })
  await p.a.do('write', { stream: p.sa, bytes: 1000, seed: 1 })
  const answer = await p.a.ask('migrate', { stream: p.sa, conn })
  assert.deepEqual([answer.ok, answer.kind], [false, 'reset'])
  assert.equal((await p.b.ask('read', { stream: p.sb, eof: true, seed: 1 })).kind, 'reset')
  p.relay.child.kill('SIGCONT')
})
