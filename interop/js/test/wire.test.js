import assert from 'node:assert/strict'
import { test } from '../support/timed.js'
import { INNER, raw } from '../support/raw.js'

const HELLO = '68656c6c6f'
const NEGOTIATED = INNER.length / 2 // the stream bytes of the inner negotiation, each way
const count = (n) => `02 08 ${n.toString(16).padStart(2, '0')}`
const MIGRATE = '06 12 04 08 06 10 04'
const MIGRATE_VERIFY = '09 12 07 08 06 10 04 c0 3e 01'
const plain = (text) => text.replaceAll(' ', '')
const sleep = (ms) => new Promise((resolve) => { setTimeout(resolve, ms) })

for (const flags of [[], ['--no-verify'], ['--ack', 'bare']]) {
  test(`responder, a Migrate without verify, ${flags}`, async (t) => {
    const r = await raw(t, { flags })
    const { old, stream } = await r.label()
    const next = await r.leg(r.c1)
    next.write(MIGRATE)
    const ack = flags[1] === 'bare' ? '00' : '021a00'
    assert.equal(await next.hex(ack.length / 2), ack)
    await old.close()
    next.write(HELLO)
    await next.close()
    assert.deepEqual(await old.rest(), ['', 'fin'])
    await r.peer.event('migrated', { initiator: false })
    assert.equal((await r.peer.ask('read', { stream, bytes: 5, seed: 0 })).kind, 'corrupt') // "hello" has come
    await r.peer.do('close', { stream })
    assert.deepEqual(await next.rest(), ['', 'fin']) // no Switched
  })
}

test('responder, with verify: the count is the commit', async (t) => {
  const r = await raw(t)
  const { old, stream } = await r.label()
  const next = await r.leg(r.c1)
  next.write(MIGRATE_VERIFY)
  assert.equal(await next.hex(6), '051a03c03e01')
  old.write('0000')
  await old.close()
  await sleep(200)
  assert.equal(old.finSeen, false) // not without the count
  next.write(count(NEGOTIATED + 2))
  assert.deepEqual(await old.rest(), ['', 'fin'])
  assert.equal(await next.hex(3), plain(count(NEGOTIATED)))
  await r.peer.event('migrated')
  await r.peer.do('close', { stream })
  assert.deepEqual(await next.rest(), ['', 'fin'])
})

test('--no-verify: verify is neither read nor set', async (t) => {
  const r = await raw(t, { flags: ['--no-verify'] })
  const { old } = await r.label()
  const next = await r.leg(r.c1)
  next.write(MIGRATE_VERIFY)
  assert.equal(await next.hex(3), '021a00')
  await old.close()
  assert.deepEqual(await old.rest(), ['', 'fin']) // switched without a count
})

for (const [what, n] of [['fewer', 3], ['more', 1]]) {
  test(`responder, ${what} bytes read than counted`, async (t) => {
    const r = await raw(t)
    const { old, stream } = await r.label()
    const next = await r.leg(r.c1)
    next.write(MIGRATE_VERIFY + count(NEGOTIATED + n))
    old.write('0000')
    await old.close()
    assert.equal((await r.peer.ask('read', { stream, eof: true, seed: 0 })).ok, false)
    assert.equal((await old.rest())[1], 'reset')
    assert.equal((await next.rest())[1], 'reset')
    assert.equal((await r.peer.ask('write', { stream, bytes: 1, seed: 2 })).kind, 'reset')
  })
}

test('cancelled: nothing was switched, the old leg goes on', async (t) => {
  const r = await raw(t)
  const { old, stream } = await r.label()
  const next = await r.leg(r.c1)
  next.write(MIGRATE_VERIFY)
  assert.equal(await next.hex(6), '051a03c03e01')
  next.write('02 10 01')
  await next.close()
  assert.deepEqual(await next.rest(), ['', 'fin'])
  await r.peer.event('migration_failed', { initiator: false })
  await r.peer.do('write', { stream, bytes: 5, seed: 2 })
  await old.readExactly(5)
  await old.close()
  assert.deepEqual((await r.peer.do('read', { stream, eof: true, seed: 1 })).eof, true)
  await r.peer.do('close', { stream })
  assert.deepEqual(await old.rest(), ['', 'fin'])
})

test('the new leg ends before its count: abort', async (t) => {
  const r = await raw(t)
  const { old, stream } = await r.label()
  const next = await r.leg(r.c1)
  next.write(MIGRATE_VERIFY)
  await next.readExactly(6)
  await next.close()
  assert.equal((await old.rest())[1], 'reset')
  assert.equal((await r.peer.ask('read', { stream, eof: true, seed: 1 })).kind, 'reset')
})

test('Migrate overtakes Label', async (t) => {
  const r = await raw(t)
  const next = await r.leg(r.c1)
  next.write(MIGRATE)
  await sleep(300)
  const { old, stream } = await r.label()
  assert.equal(await next.hex(3), '021a00')
  await r.peer.event('migrate_received', { stream })
  await old.close()
  assert.deepEqual(await old.rest(), ['', 'fin'])
})

test('an ended stream is denied, for good and in the configured form', async (t) => {
  for (const [flags, expected] of [[[], '041a020801'], [['--ack', 'bare'], '020801']]) {
    const r = await raw(t, { flags })
    const { old, stream } = await r.label()
    await old.close()
    await r.peer.do('close', { stream })
    await old.rest()
    await r.peer.do('read', { stream, eof: true, seed: 1 })
    const next = await r.leg(r.c1)
    next.write(MIGRATE)
    assert.deepEqual(await next.rest(), [expected, 'fin'])
  }
})

test('IDs in use, of Labels and Migrates, cost the new leg only', async (t) => {
  const r = await raw(t)
  const { stream } = await r.label()
  const second = await r.leg(r.c1)
  second.write('04 0a 02 08 04')
  assert.deepEqual(await second.rest(), ['', 'reset'])
  const next = await r.leg(r.c1)
  next.write('06 12 04 08 04 10 04')
  assert.deepEqual(await next.rest(), ['', 'reset'])
  assert.equal((await r.peer.do('streams')).streams[0].stream, stream)
})

test('messages that are wrong cost the leg only', async (t) => {
  const r = await raw(t)
  await r.label()
  for (const wrong of ['00', '02 0a 00', '02 1a 00', '81 02', '04 12 02 08 08', 'ff ff ff ff ff']) {
    const leg = await r.leg(r.c1)
    leg.write(wrong)
    assert.deepEqual(await leg.rest(), ['', 'reset'], wrong)
  }
  assert.equal((await r.peer.do('streams')).streams.length, 1)
})

test('holds are bounded', async (t) => {
  const r = await raw(t)
  const legs = []
  for (let i = 0; i < 65; i++) {
    const leg = await r.leg(r.c1)
    leg.write('07 12 05 08' + (i + 0x80).toString(16).padStart(2, '0') + '01 10 63')
    legs.push(leg)
  }
  assert.deepEqual(await legs[64].rest(), ['', 'reset'])
  assert.equal(legs[0].lost, null)
})

test('a prefix inside a prefix is refused', async (t) => {
  const r = await raw(t)
  const leg = await r.leg(r.c0)
  const name = '19' + Buffer.from('/libp2p/stream-migration\n').toString('hex')
  leg.write('04 0a 02 08 04' + INNER.slice(0, 40) + name)
  assert.equal(await leg.hex(24), INNER.slice(0, 40) + '036e610a')
})

test('data after the end of a direction: abort', async (t) => {
  const r = await raw(t)
  const { old, stream } = await r.label()
  await old.close()
  await r.peer.do('read', { stream, eof: true, seed: 1 })
  const next = await r.leg(r.c1)
  next.write(MIGRATE)
  assert.equal(await next.hex(3), '021a00')
  await old.rest()
  next.write(HELLO)
  assert.equal((await next.rest())[1], 'reset')
  assert.equal((await r.peer.ask('write', { stream, bytes: 1, seed: 2 })).kind, 'reset')
})

// ---- the peer as initiator

for (const [flags, ack, verify] of [[[], '021a00', false], [[], '00', false], [[], '05 1a 03 c0 3e 01', true],
  [[], '03 c0 3e 01', true], [['--no-verify'], '05 1a 03 c0 3e 01', false]]) {
  test(`initiator, ${flags} answered with ${ack}`, async (t) => {
    const r = await raw(t, { flags })
    const { old, stream } = await r.label()
    await r.peer.do('write', { stream, bytes: 3, seed: 2 })
    const migrate = r.peer.do('migrate', { stream, conn: r.conn1 })
    const next = await r.accepted()
    const id = r.higher ? '00' : '01'
    assert.equal(await next.hex(flags.length ? 7 : 10), flags.length ? `06120408${id}1004` : `09120708${id}1004c03e01`)
    next.write(ack)
    await old.readExactly(3)
    assert.deepEqual(await old.rest(), ['', 'fin'])
    await old.close()
    if (verify) {
      next.write(count(NEGOTIATED))
      assert.equal(await next.hex(3), plain(count(NEGOTIATED + 3)))
    }
    await migrate
    await r.peer.do('close', { stream })
    await next.close()
    assert.deepEqual(await next.rest(), ['', 'fin'])
    assert.equal((await r.peer.do('read', { stream, eof: true, seed: 1 })).eof, true)
  })
}

test('simultaneous start, the peer designated: it holds, and its own wins', async (t) => {
  const r = await raw(t)
  const { old, stream } = await r.label()
  const migrate = r.peer.do('migrate', { stream, conn: r.conn1 })
  const theirs = await r.accepted()
  await theirs.readExactly(10)
  const mine = await r.leg(r.c1)
  mine.write(MIGRATE_VERIFY)
  await sleep(200)
  assert.equal(mine.lost, null) // held
  theirs.write('021a00')
  await old.rest()
  await old.close()
  await migrate
  assert.deepEqual(await mine.rest(), ['', 'reset'])
})

test('… denied: the other\'s counts as just arrived', async (t) => {
  const r = await raw(t)
  const { stream } = await r.label()
  const migrate = r.peer.ask('migrate', { stream, conn: r.conn1 })
  const theirs = await r.accepted()
  await theirs.readExactly(10)
  const mine = await r.leg(r.c1)
  mine.write(MIGRATE_VERIFY)
  await sleep(200)
  theirs.write('041a020801')
  assert.equal((await migrate).kind, 'denied')
  assert.equal(await mine.hex(6), '051a03c03e01')
})

test('simultaneous start, the peer not designated: it yields, or denies and keeps its own', async (t) => {
  for (const answer of ['accept', 'deny']) {
    const r = await raw(t, { designated: 'raw' })
    const { stream } = await r.label()
    await r.peer.do('answer', { next: [answer] })
    const migrate = r.peer.ask('migrate', { stream, conn: r.conn1 })
    const theirs = await r.accepted()
    await theirs.readExactly(10)
    const mine = await r.leg(r.c1)
    mine.write(MIGRATE_VERIFY)
    if (answer === 'accept') {
      assert.equal(await mine.hex(6), '051a03c03e01')
      assert.deepEqual(await theirs.rest(), ['', 'reset'])
      assert.equal((await migrate).kind, 'failed')
    } else {
      assert.deepEqual(await mine.rest(), ['041a020801', 'fin'])
      assert.equal(theirs.lost, null)
    }
  }
})

test('yielding to a peer known to verify says cancelled', async (t) => {
  const r = await raw(t, { designated: 'raw' })
  const { old, stream } = await r.label()
  const first = r.peer.do('migrate', { stream, conn: r.conn1 })
  const one = await r.accepted()
  await one.readExactly(10)
  one.write('05 1a 03 c0 3e 01' + count(NEGOTIATED))
  await old.rest()
  await old.close()
  await first
  await one.readExactly(3)
  const id = (await r.peer.do('streams')).streams[0].id
  const second = r.peer.ask('migrate', { stream, conn: r.conn0 })
  const two = await r.accepted()
  await two.readExactly(10)
  const mine = await r.leg(r.c0)
  mine.write(`09 12 07 08 08 10 0${id} c0 3e 01`)
  assert.equal(await mine.hex(6), '051a03c03e01')
  assert.deepEqual(await two.rest(), ['021001', 'fin'])
  assert.equal((await second).kind, 'failed')
})

test('in doubt, a Migrate that does not verify gets no answer', async (t) => {
  const r = await raw(t)
  const { stream } = await r.label()
  const migrate = r.peer.ask('migrate', { stream, conn: r.conn1 })
  const theirs = await r.accepted()
  await theirs.readExactly(10) // sent, so it may have been accepted: doubt
  theirs.abort('unanswered')
  assert.equal((await migrate).kind, 'failed')
  const dropped = await r.leg(r.c1)
  dropped.write(MIGRATE)
  assert.deepEqual(await dropped.rest(), ['', 'reset'])
  const answered = await r.leg(r.c1)
  answered.write(MIGRATE_VERIFY)
  assert.equal(await answered.hex(6), '051a03c03e01')
})

test('a Migrate from the new ID waits for the migration to complete', async (t) => {
  const r = await raw(t)
  const { old, stream } = await r.label()
  const first = r.peer.do('migrate', { stream, conn: r.conn1 })
  const one = await r.accepted()
  await one.readExactly(10)
  one.write('021a00')
  await old.rest()
  const again = await r.leg(r.c0)
  again.write(`06 12 04 08 06 10 ${r.higher ? '00' : '01'}`)
  await sleep(200)
  assert.equal(again.lost, null)
  await old.close()
  await first
  assert.equal(await again.hex(3), '021a00')
})

