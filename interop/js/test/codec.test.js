import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import * as codec from '../lib/codec.js'
import { line } from '../lib/mss.js'

const hex = (bytes) => Buffer.from(bytes).toString('hex')
const bytes = (text) => new Uint8Array(Buffer.from(text.replaceAll(' ', ''), 'hex'))

/** A source that counts what is taken from it. */
function source (data) {
  let at = 0
  return {
    get taken () { return at },
    async readExactly (n) {
      if (at + n > data.length) throw new Error('short')
      return data.subarray(at, at += n)
    }
  }
}

async function read (text, decode) {
  return decode(await codec.readFrame(source(bytes(text))))
}

test('what is written', () => {
  assert.equal(hex(codec.encodeLabel({ id: 0n })), '040a020800')
  assert.equal(hex(codec.encodeMigrate({ id: 2n, from: 0n })), '061204' + '08021000')
  assert.equal(hex(codec.encodeMigrate({ id: 2n, from: 0n, verify: true })), '091207' + '08021000c03e01')
  assert.equal(hex(codec.encodeAck()), '021a00')
  assert.equal(hex(codec.encodeAck({ deny: true })), '041a020801')
  assert.equal(hex(codec.encodeAck({ wrapped: false })), '00')
  assert.equal(hex(codec.encodeAck({ wrapped: false, deny: true })), '020801')
  assert.equal(hex(codec.encodeAck({ verify: true })), '051a03c03e01')
  assert.equal(hex(codec.encodeSwitched({ sent: 300 })), '0308ac02')
  assert.equal(hex(codec.encodeSwitched({ cancelled: true })), '021001')
  assert.throws(() => codec.encodeLabel({ id: -1n }))
  assert.throws(() => codec.encodeLabel({ id: 1n << 64n }))
})

test('64-bit IDs survive', async () => {
  for (const id of [0n, 127n, 128n, 16383n, 16384n, 2n ** 53n + 1n, 2n ** 64n - 1n]) {
    const label = codec.encodeLabel({ id })
    assert.equal((await read(hex(label), codec.decodeStreamMigration)).id, id)
    const migrate = await read(hex(codec.encodeMigrate({ id, from: id })), codec.decodeStreamMigration)
    assert.deepEqual(migrate, { type: 'migrate', id, from: id, verify: false })
  }
})

test('both forms of the answer', async () => {
  const cases = {
    '02 1a 00': { deny: false, verify: false, wrapped: true },
    '00': { deny: false, verify: false, wrapped: false },
    '02 08 01': { deny: true, verify: false, wrapped: false },
    '02 08 00': { deny: false, verify: false, wrapped: false },
    '04 1a 02 08 01': { deny: true, verify: false, wrapped: true },
    '05 1a 03 c0 3e 01': { deny: false, verify: true, wrapped: true },
    '03 c0 3e 01': { deny: false, verify: true, wrapped: false }
  }
  for (const [text, expected] of Object.entries(cases)) {
    assert.deepEqual(await read(text, codec.decodeAck), { type: 'ack', ...expected }, text)
  }
  await assert.rejects(read('04 0a 02 08 00', codec.decodeAck), codec.CodecError) // a Label
  await assert.rejects(read('06 12 04 08 02 10 00', codec.decodeAck), codec.CodecError) // a Migrate
})

test('required fields are required, unknown ones are skipped', async () => {
  for (const text of ['02 0a 00', '04 12 02 08 02', '04 12 02 10 02', '02 12 00', '00', '02 18 01']) {
    await assert.rejects(read(text, codec.decodeStreamMigration), codec.CodecError, text)
  }
  // Unknown: varint 9, fixed64 10, bytes 11, fixed32 12, group 13; inside the Label too.
  const unknown = '48 05' + '51 0102030405060708' + '5a 02 0a00' + '65 01020304' + '6b 08 01 6c'
  const inner = unknown + '08 07'
  const label = '0a' + Buffer.from([bytes(inner).length]).toString('hex') + inner
  const body = unknown + label + unknown
  const framed = Buffer.from([bytes(body).length]).toString('hex') + body
  assert.deepEqual(await read(framed, codec.decodeStreamMigration), { type: 'label', id: 7n })
})

test('the oneof: the last member counts, a repeated one is merged', async () => {
  assert.equal((await read('0a 0a 02 08 01 12 04 08 02 10 01', codec.decodeStreamMigration)).type, 'migrate')
  const merged = await read('08 12 02 08 02 12 02 10 05', codec.decodeStreamMigration)
  assert.deepEqual(merged, { type: 'migrate', id: 2n, from: 5n, verify: false })
})

test('broken bytes', async () => {
  const broken = [
    '02 0a 05', // longer than the message
    '03 0a 01 08', // cut varint
    '0d 0a 0b 08 ff ff ff ff ff ff ff ff ff 02', // above 64 bits
    '0e 0a 0c 08 ff ff ff ff ff ff ff ff ff ff 01', // 11 bytes
    '02 00 01', // field 0
    '01 0e', // wire type 6
    '01 0c' // a group's end
  ]
  for (const text of broken) await assert.rejects(read(text, codec.decodeStreamMigration), undefined, text)
})

test('Switched is one of two', async () => {
  assert.deepEqual(await read('02 08 00', codec.decodeSwitched), { type: 'switched', sent: 0n, cancelled: false })
  assert.deepEqual(await read('02 10 01', codec.decodeSwitched), { type: 'switched', cancelled: true })
  await assert.rejects(read('00', codec.decodeSwitched), codec.CodecError)
  await assert.rejects(read('04 08 01 10 01', codec.decodeSwitched), codec.CodecError)
})

test('the cap, and not a byte further', async () => {
  const full = new Uint8Array(300).fill(0x48)
  full.set([0x80, 0x02]) // 256
  const input = source(full)
  assert.equal((await codec.readFrame(input)).length, 256)
  assert.equal(input.taken, 258)
  await assert.rejects(codec.readFrame(source(bytes('81 02' + '00'.repeat(300)))), codec.CodecError)
  const long = source(bytes('ff ff ff ff 0f'))
  await assert.rejects(codec.readFrame(long), codec.CodecError)
  assert.ok(long.taken <= 2)
  await assert.rejects(codec.readFrame(source(bytes('80 00'))), codec.CodecError)
})

test('a label with a route', async () => {
  assert.equal(hex(codec.encodeLabel({ id: 5n, route: 0n })), '070a050805d03e00')
  const label = await read('08 0a 06 08 05 d0 3e ac 02', codec.decodeStreamMigration)
  assert.deepEqual(label, { type: 'label', id: 5n, route: 300n })
})

const EPOCH = '01 02 03 04 05 06 07 08'
const hello = { epoch: 0x0807060504030201n, connection: 7n }
const control = async (text) => codec.decodeControl(await codec.readFrame(source(bytes(text)), codec.MAX_CONTROL))

test('Control', async () => {
  const said = `0d 0a 0b 09 ${EPOCH} 18 07`
  assert.equal(hex(codec.encodeControl({ hello })), said.replaceAll(' ', ''))
  assert.deepEqual(await control(said), { hello, closed: [] })
  assert.equal(hex(codec.encodeControl({ closed: [1n, 300n] })), '05 28 01 28 ac 02'.replaceAll(' ', ''))
  assert.deepEqual(await control('05 28 01 28 ac 02'), { hello: null, closed: [1n, 300n] })
  assert.deepEqual(await control('05 2a 03 01 ac 02'), { hello: null, closed: [1n, 300n] }) // packed
  assert.deepEqual(await control('00'), { hello: null, closed: [] })
  const withoutConnection = `0b 0a 09 09 ${EPOCH}`
  assert.deepEqual(await control(withoutConnection), { hello: { epoch: hello.epoch }, closed: [] })
  // Unknown fields, in both.
  assert.deepEqual(await control(`13 48 05 0a 0d 09 ${EPOCH} 10 01 18 07 50 01`), { hello, closed: [] })
  const full = `80 20 5a fd 1f ${'00'.repeat(4093)}`
  assert.deepEqual(await control(full), { hello: null, closed: [] })
})

test('a Hello that is none', async () => {
  const wrong = {
    'no epoch': '04 0a 02 18 07',
    'an epoch that is a varint': '06 0a 04 08 01 18 07',
    'a cut epoch': '06 0a 04 09 01 02 03',
    'twice in one message': `16 0a 09 09 ${EPOCH} 0a 09 09 ${EPOCH}`,
    'too long': '81 20'
  }
  for (const [what, text] of Object.entries(wrong)) await assert.rejects(control(text), codec.CodecError, what)
})

// ---- the vectors that all implementations share

const encoders = {
  label: (v) => codec.encodeLabel({ id: BigInt(v.id), route: v.route === undefined ? undefined : BigInt(v.route) }),
  migrate: (v) => codec.encodeMigrate({ id: BigInt(v.id), from: BigInt(v.from), verify: v.verify }),
  ack: (v) => codec.encodeAck(v),
  switched: (v) => codec.encodeSwitched(v),
  control: (v) => codec.encodeControl(controlOf(v))
}
const decoders = {
  label: codec.decodeStreamMigration,
  migrate: codec.decodeStreamMigration,
  ack: codec.decodeAck,
  switched: codec.decodeSwitched,
  control: codec.decodeControl
}

const controlOf = ({ epoch, connection, closed }) => ({
  hello: epoch === undefined ? undefined : { epoch: BigInt(epoch), ...(connection === undefined ? {} : { connection: BigInt(connection) }) },
  closed: closed.map(BigInt)
})

test('the shared vectors', async (t) => {
  const vectors = JSON.parse(readFileSync(new URL('../../vectors/messages.json', import.meta.url)))
  for (const vector of vectors) {
    const { message, kind, protocol, hex: expected, ...fields } = vector
    const written = encoders[message](vector)
    const prefix = kind === 'prefix' ? [line('/multistream/1.0.0'), line(protocol)] : []
    assert.equal(hex(Buffer.concat([...prefix, written])), expected, JSON.stringify(vector))
    // What follows a message is not touched.
    const input = source(Buffer.concat([written, Buffer.from('more')]))
    const read = decoders[message](await codec.readFrame(input))
    assert.equal(input.taken, written.length)
    if (message === 'control') {
      assert.deepEqual({ ...read, hello: read.hello ?? undefined }, controlOf(vector))
      continue
    }
    for (const [name, value] of Object.entries(fields)) {
      const expectedValue = typeof value === 'string' ? BigInt(value) : value
      assert.equal(read[name], expectedValue, `${name} of ${JSON.stringify(vector)}`)
    }
    assert.equal(read.type, message)
  }
  t.diagnostic(`${vectors.length} vectors`)
})
