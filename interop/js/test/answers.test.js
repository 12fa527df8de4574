import assert from 'node:assert/strict'
import { test } from '../support/timed.js'
import { peerIdFromString } from '@libp2p/peer-id'
import { isDesignated } from '../lib/roles.js'
import { finish, pair, PeerProcess, transfer } from '../support/peer-process.js'

const MIB = 1024 * 1024
const fails = async (promise, kind) => {
  const answer = await promise
  assert.deepEqual([answer.ok, answer.kind], [false, kind], JSON.stringify(answer))
  return answer
}
const pause = (ms) => new Promise((resolve) => { setTimeout(resolve, ms) })

test('deny: the stream goes on, and nobody asks again', async (t) => {
  const p = await pair(t)
  await p.b.do('answer', { next: ['deny'] })
  await fails(p.a.ask('migrate', { stream: p.sa, conn: p.c1.a }), 'denied')
  await p.b.event('migrate_received', { stream: p.sb })
  await p.a.event('migration_failed', { stream: p.sa, initiator: true })
  await fails(p.a.ask('migrate', { stream: p.sa, conn: p.c1.a }), 'denied')
  await transfer(p.a, p.sa, 1, p.b, p.sb, MIB)
  await transfer(p.b, p.sb, 2, p.a, p.sa, MIB)
  // Who has denied may still start itself.
  await p.b.do('migrate', { stream: p.sb, conn: p.c1.b })
  await transfer(p.a, p.sa, 1, p.b, p.sb, MIB)
  await finish(p)
})

test('ignore: try again later, and the second time it works', async (t) => {
  const p = await pair(t)
  await p.b.do('answer', { next: ['ignore'] })
  await fails(p.a.ask('migrate', { stream: p.sa, conn: p.c1.a }), 'failed')
  await transfer(p.a, p.sa, 1, p.b, p.sb, MIB)
  await p.a.do('migrate', { stream: p.sa, conn: p.c1.a })
  await transfer(p.b, p.sb, 2, p.a, p.sa, MIB)
  await finish(p)
})

test('ignore, then a normal end on the old leg', async (t) => {
  const p = await pair(t)
  await p.b.do('answer', { next: ['ignore'] })
  await fails(p.a.ask('migrate', { stream: p.sa, conn: p.c1.a }), 'failed')
  // In doubt with our write side open: the EOF is the application's.
  await p.b.do('close', { stream: p.sb })
  assert.equal((await p.a.do('read', { stream: p.sa, eof: true, seed: 2 })).eof, true)
  await p.a.do('close', { stream: p.sa })
  assert.equal((await p.b.do('read', { stream: p.sb, eof: true, seed: 1 })).eof, true)
})

test('ignore, our FIN, their EOF: in doubt, so a reset and never a clean end', async (t) => {
  const p = await pair(t)
  await p.b.do('answer', { next: ['ignore'] })
  await fails(p.a.ask('migrate', { stream: p.sa, conn: p.c1.a }), 'failed')
  await p.a.do('close', { stream: p.sa })
  await p.b.do('read', { stream: p.sb, eof: true, seed: 1 })
  await p.b.do('close', { stream: p.sb })
  await fails(p.a.ask('read', { stream: p.sa, eof: true, seed: 2 }), 'reset')
})

test('hold and release, with an EOF held meanwhile', async (t) => {
  const p = await pair(t)
  await p.b.do('answer', { next: ['hold'] })
  const migrate = p.a.do('migrate', { stream: p.sa, conn: p.c1.a })
  await p.b.event('migrate_received')
  await p.b.do('write', { stream: p.sb, bytes: 100_000, seed: 2 })
  await p.b.do('close', { stream: p.sb })
  const read = p.a.do('read', { stream: p.sa, eof: true, seed: 2 })
  await pause(200)
  assert.equal(p.a.events.length, 2) // both connections; nothing ended
  await p.b.do('release')
  await migrate
  assert.equal((await read).read, 100_000)
  await transfer(p.a, p.sa, 1, p.b, p.sb, MIB)
  await p.a.do('close', { stream: p.sa })
  assert.equal((await p.b.do('read', { stream: p.sb, eof: true, seed: 1 })).read, 0)
})

test('held beyond the time limit: failed, and cancelled to a peer known to verify', async (t) => {
  const p = await pair(t)
  await p.a.do('migrate', { stream: p.sa, conn: p.c1.a })
  await p.b.do('answer', { next: ['hold'] })
  await fails(p.a.ask('migrate', { stream: p.sa, conn: p.c0.a }), 'failed')
  await p.b.do('release') // the leg has been withdrawn
  await transfer(p.a, p.sa, 1, p.b, p.sb, MIB)
  await p.a.do('migrate', { stream: p.sa, conn: p.c0.a })
  await transfer(p.b, p.sb, 2, p.a, p.sa, MIB)
  await finish(p)
})

for (const reset of ['before_ack', 'after_ack']) {
  test(`the initiator resets ${reset}`, async (t) => {
    const p = await pair(t)
    await fails(p.a.ask('migrate', { stream: p.sa, conn: p.c1.a, reset }), 'reset')
    await fails(p.b.ask('read', { stream: p.sb, eof: true, seed: 1 }), 'reset')
    await fails(p.a.ask('write', { stream: p.sa, bytes: 10, seed: 1 }), 'reset')
    assert.deepEqual((await p.b.do('streams')).streams, [])
  })
  test(`the responder resets ${reset}`, async (t) => {
    const p = await pair(t)
    await p.b.do('answer', { next: [`reset_${reset}`] })
    // The migration's own answer depends on which leg's reset comes first.
    const answer = await p.a.ask('migrate', { stream: p.sa, conn: p.c1.a })
    assert.ok(!answer.ok && ['reset', 'failed'].includes(answer.kind), JSON.stringify(answer))
    await fails(p.a.ask('read', { stream: p.sa, eof: true, seed: 2 }), 'reset')
    await fails(p.b.ask('write', { stream: p.sb, bytes: 10, seed: 2 }), 'reset')
  })
}

test('a stream that has ended cleanly is denied, and ends cleanly at the other side', async (t) => {
  const p = await pair(t)
  await p.b.do('close', { stream: p.sb })
  await p.a.do('read', { stream: p.sa, eof: true, seed: 2 })
  const [, migrate] = await Promise.all([
    p.a.do('close', { stream: p.sa }),
    p.a.ask('migrate', { stream: p.sa, conn: p.c1.a }),
    p.b.do('read', { stream: p.sb, eof: true, seed: 1 })
  ])
  assert.ok(migrate.ok || ['failed', 'denied'].includes(migrate.kind))
  await p.b.do('drop', { stream: p.sb })
})

test('resets and drops', async (t) => {
  const p = await pair(t)
  await p.a.do('reset', { stream: p.sa })
  await fails(p.b.ask('read', { stream: p.sb, eof: true, seed: 1 }), 'reset')
  const second = await p.a.do('open', { peer: p.b.id, conn: p.c0.a })
  const there = await p.b.event('accepted')
  await p.a.do('write', { stream: second.stream, bytes: MIB, seed: 1 })
  await p.a.do('close', { stream: second.stream })
  await p.a.do('drop', { stream: second.stream }) // detached: all of it arrives
  assert.equal((await p.b.do('read', { stream: there.stream, eof: true, seed: 1 })).read, MIB)
  await p.b.do('close', { stream: there.stream })
  const third = await p.a.do('open', { peer: p.b.id, conn: p.c0.a })
  const third2 = await p.b.event('accepted')
  await p.a.do('drop', { stream: third.stream })
  await fails(p.b.ask('read', { stream: third2.stream, eof: true, seed: 1 }), 'reset')
})

for (const from of ['tcp', 'ws', 'quic']) {
  for (const how of ['connection lost', 'reset']) {
    test(`an error, not a clean end: ${how}, ${from}`, async (t) => {
      const p = await pair(t, { from })
      await transfer(p.a, p.sa, 1, p.b, p.sb, 1000)
      if (how === 'reset') await p.a.do('reset', { stream: p.sa })
      else await p.a.do('close_connection', { conn: p.c0.a })
      await fails(p.b.ask('read', { stream: p.sb, eof: true, seed: 1 }), 'reset')
      await fails(p.a.ask('read', { stream: p.sa, eof: true, seed: 2 }), 'reset')
    })
  }
}

test('commands that are wrong', async (t) => {
  const p = await pair(t)
  await fails(p.a.ask('fly'), 'bad_command')
  await fails(p.a.ask('toString'), 'bad_command')
  await fails(p.a.ask('write', { stream: 's99', bytes: 1, seed: 1 }), 'bad_command')
  await fails(p.a.ask('answer', { next: ['maybe'] }), 'bad_command')
  await p.a.do('write', { stream: p.sa, bytes: 10, seed: 3 })
  await fails(p.b.ask('read', { stream: p.sb, bytes: 10, seed: 1 }), 'corrupt')
})

test('flags that are refused', async () => {
  for (const flags of [['--nested'], ['--unknown'], ['--ack', 'odd'], ['--security', 'none']]) {
    const peer = new PeerProcess(1, flags)
    assert.equal(await peer.exited, 2, flags.join(' '))
    assert.notEqual(peer.stderr, '')
  }
})

for (const [aFlags, bFlags] of [[['--no-migration'], []], [[], ['--no-migration']]]) {
  test(`a peer that has never heard of it: ${aFlags.length === 0 ? 'there' : 'here'}`, async (t) => {
    const p = await pair(t, { aFlags, bFlags })
    assert.deepEqual([p.opened.migratable, p.accepted.migratable], [false, false])
    await fails(p.a.ask('migrate', { stream: p.sa, conn: p.c1.a }), 'unsupported')
    await transfer(p.a, p.sa, 1, p.b, p.sb, MIB)
    await finish(p)
  })
}

for (const flags of [[], ['--no-verify']]) {
  test(`both start at once, ${flags[0] ?? 'verify'}`, async (t) => {
    const p = await pair(t, { aFlags: flags, bFlags: flags })
    const [a, b] = [p.a.id, p.b.id].map((id) => peerIdFromString(id).toMultihash().bytes)
    const designated = isDesignated(a, b) ? 'a' : 'b'
    const traffic = Promise.all([
      transfer(p.a, p.sa, 1, p.b, p.sb, 8 * MIB),
      transfer(p.b, p.sb, 2, p.a, p.sa, 8 * MIB)
    ])
    let lost = 0
    for (let i = 0; i < 12; i++) {
      const target = i % 2 === 0 ? p.c1 : p.c0
      const answers = await Promise.all([
        p.a.ask('migrate', { stream: p.sa, conn: target.a }),
        p.b.ask('migrate', { stream: p.sb, conn: target.b })
      ])
      const [winner, loser] = designated === 'a' ? answers : [...answers].reverse()
      assert.ok(winner.ok || winner.kind === 'failed', JSON.stringify(answers))
      assert.ok(winner.ok || loser.ok, JSON.stringify(answers))
      assert.ok(loser.ok || loser.kind === 'failed', JSON.stringify(answers))
      if (!loser.ok) lost++
    }
    t.diagnostic(`${lost} of 12 yielded`)
    await traffic
    await finish(p)
  })
}
