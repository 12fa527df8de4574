// *Stream Migration Messages*: an unsigned-varint length, then a protobuf (proto2).
// Hand-written, so that required fields, the cap and both forms of the answer are in one place.

export const MAX_MESSAGE = 256 // bytes of body; the length itself comes on top
export const MAX_CONTROL = 4096 // likewise, of a layer's Control

export class CodecError extends Error {
  name = 'CodecError'
}

const FIELD = { label: 1, migrate: 2, ackMigrate: 3, id: 1, from: 2, deny: 1, sent: 1, cancelled: 2, verify: 1000, route: 1002 }
const CONTROL = { hello: 1, closed: 5, epoch: 1, connection: 3 }
const VARINT = 0
const I64 = 1
const LEN = 2
const GROUP = 3
const GROUP_END = 4
const I32 = 5
const MAX_GROUP_DEPTH = 8
const MAX_U64 = (1n << 64n) - 1n

// ---- writing

export function encodeVarint (value) {
  let v = BigInt(value)
  if (v < 0n || v > MAX_U64) throw new CodecError(`not a uint64: ${v}`)
  const out = []
  while (v >= 0x80n) {
    out.push(Number(v & 0x7fn) | 0x80)
    v >>= 7n
  }
  out.push(Number(v))
  return out
}

const varintField = (field, value) => [...encodeVarint(field << 3 | VARINT), ...encodeVarint(value)]
const lenField = (field, body) => [...encodeVarint(field << 3 | LEN), ...encodeVarint(body.length), ...body]
const framed = (body) => Uint8Array.from([...encodeVarint(body.length), ...body])

export function encodeLabel ({ id, route }) {
  const body = varintField(FIELD.id, id)
  if (route !== undefined) body.push(...varintField(FIELD.route, route))
  return framed(lenField(FIELD.label, body))
}

export function encodeMigrate ({ id, from, verify = false }) {
  const body = [...varintField(FIELD.id, id), ...varintField(FIELD.from, from)]
  if (verify) body.push(...varintField(FIELD.verify, 1))
  return framed(lenField(FIELD.migrate, body))
}

/** The spec head's form is wrapped in a StreamMigration; the earlier revision's is bare. */
export function encodeAck ({ deny = false, verify = false, wrapped = true } = {}) {
  const body = []
  if (deny) body.push(...varintField(FIELD.deny, 1))
  if (verify) body.push(...varintField(FIELD.verify, 1))
  return framed(wrapped ? lenField(FIELD.ackMigrate, body) : body)
}

export const encodeSwitched = ({ sent, cancelled = false }) =>
  framed(cancelled ? varintField(FIELD.cancelled, 1) : varintField(FIELD.sent, sent))

/** *Control*: what one layer says to another. */
export function encodeControl ({ hello, closed = [] }) {
  const body = []
  if (hello !== undefined) body.push(...lenField(CONTROL.hello, helloBody(hello)))
  for (const number of closed) body.push(...varintField(CONTROL.closed, number))
  return framed(body)
}

function helloBody ({ epoch, connection }) {
  const fixed = new Uint8Array(8)
  new DataView(fixed.buffer).setBigUint64(0, epoch, true)
  const body = [...encodeVarint(CONTROL.epoch << 3 | I64), ...fixed]
  if (connection !== undefined) body.push(...varintField(CONTROL.connection, connection))
  return body
}

// ---- reading

class Reader {
  constructor (bytes) {
    this.bytes = bytes
    this.pos = 0
  }

  get done () { return this.pos === this.bytes.length }

  varint () {
    let value = 0n
    for (let i = 0; i < 10; i++) {
      if (this.done) throw new CodecError('varint cut off')
      const byte = this.bytes[this.pos++]
      value |= BigInt(byte & 0x7f) << BigInt(7 * i)
      if (byte < 0x80) {
        if (value > MAX_U64) throw new CodecError('varint above 64 bits')
        return value
      }
    }
    throw new CodecError('varint longer than 10 bytes')
  }

  take (n) {
    if (n > BigInt(this.bytes.length - this.pos)) throw new CodecError('field cut off')
    const start = this.pos
    this.pos += Number(n)
    return this.bytes.subarray(start, this.pos)
  }

  tag () {
    const tag = this.varint()
    if (tag >> 3n === 0n || tag > 0xffffffffn) throw new CodecError('invalid field number')
    return { field: Number(tag >> 3n), wire: Number(tag & 7n) }
  }

  skip (field, wire, depth = 0) {
    switch (wire) {
      case VARINT: this.varint(); return
      case I64: this.take(8n); return
      case I32: this.take(4n); return
      case LEN: this.take(this.varint()); return
      case GROUP:
        if (depth >= MAX_GROUP_DEPTH) throw new CodecError('groups nested too deep')
        for (;;) {
          const inner = this.tag()
          if (inner.wire === GROUP_END) {
            if (inner.field !== field) throw new CodecError('group ends with another number')
            return
          }
          this.skip(inner.field, inner.wire, depth + 1)
        }
      default: throw new CodecError(`invalid wire type ${wire}`)
    }
  }
}

/** All varint fields of a message by number (the last one wins); everything else is skipped. */
function varintFields (bytes, known) {
  const reader = new Reader(bytes)
  const found = new Map()
  while (!reader.done) {
    const { field, wire } = reader.tag()
    if (wire === VARINT && known.includes(field)) found.set(field, reader.varint())
    else reader.skip(field, wire)
  }
  return found
}

function required (fields, number, name) {
  if (!fields.has(number)) throw new CodecError(`required field ${name} is absent`)
  return fields.get(number)
}

const bool = (fields, number) => (fields.get(number) ?? 0n) !== 0n

function decodeAckBody (bytes, wrapped) {
  const fields = varintFields(bytes, [FIELD.deny, FIELD.verify])
  return { type: 'ack', deny: bool(fields, FIELD.deny), verify: bool(fields, FIELD.verify), wrapped }
}

/** The oneof of StreamMigration: the last member counts; one that is repeated is merged (proto2). */
function decodeOneof (bytes) {
  const reader = new Reader(bytes)
  let member = null
  let body = null
  while (!reader.done) {
    const { field, wire } = reader.tag()
    if (wire === LEN && field >= FIELD.label && field <= FIELD.ackMigrate) {
      const payload = reader.take(reader.varint())
      body = member === field ? Uint8Array.from([...body, ...payload]) : payload
      member = field
    } else {
      reader.skip(field, wire)
    }
  }
  return { member, body }
}

/** The body of the first message on a leg: a Label or a Migrate. */
export function decodeStreamMigration (bytes) {
  const { member, body } = decodeOneof(bytes)
  switch (member) {
    case FIELD.label: {
      const fields = varintFields(body, [FIELD.id, FIELD.route])
      const label = { type: 'label', id: required(fields, FIELD.id, 'Label.id') }
      return fields.has(FIELD.route) ? { ...label, route: fields.get(FIELD.route) } : label
    }
    case FIELD.migrate: {
      const fields = varintFields(body, [FIELD.id, FIELD.from, FIELD.verify])
      return {
        type: 'migrate',
        id: required(fields, FIELD.id, 'Migrate.id'),
        from: required(fields, FIELD.from, 'Migrate.from'),
        verify: bool(fields, FIELD.verify)
      }
    }
    case FIELD.ackMigrate: return decodeAckBody(body, true)
    default: throw new CodecError('neither label nor migrate nor ack_migrate')
  }
}

/** The body of the answer to a Migrate, wrapped (`1a …`) or bare. */
export function decodeAck (bytes) {
  const { member, body } = decodeOneof(bytes)
  if (member === FIELD.ackMigrate) return decodeAckBody(body, true)
  if (member !== null) throw new CodecError('the answer to a Migrate is not an AckMigrate')
  return decodeAckBody(bytes, false)
}

/** Our extension's only message: one of `sent` and `cancelled`. */
export function decodeSwitched (bytes) {
  const fields = varintFields(bytes, [FIELD.sent, FIELD.cancelled])
  const cancelled = bool(fields, FIELD.cancelled)
  if (cancelled === fields.has(FIELD.sent)) throw new CodecError('not one of sent and cancelled')
  return cancelled ? { type: 'switched', cancelled } : { type: 'switched', sent: fields.get(FIELD.sent), cancelled }
}

/** The body of a Control: `hello` is null if it is absent. */
export function decodeControl (bytes) {
  const reader = new Reader(bytes)
  const message = { hello: null, closed: [] }
  while (!reader.done) {
    const { field, wire } = reader.tag()
    if (field === CONTROL.hello && wire === LEN) {
      if (message.hello !== null) throw new CodecError('Hello comes twice')
      message.hello = decodeHello(reader.take(reader.varint()))
    } else if (field === CONTROL.closed && wire === VARINT) {
      message.closed.push(reader.varint())
    } else if (field === CONTROL.closed && wire === LEN) { // packed, as a reader has to understand as well
      const packed = new Reader(reader.take(reader.varint()))
      while (!packed.done) message.closed.push(packed.varint())
    } else {
      reader.skip(field, wire)
    }
  }
  return message
}

function decodeHello (bytes) {
  const reader = new Reader(bytes)
  const hello = {}
  while (!reader.done) {
    const { field, wire } = reader.tag()
    if (field === CONTROL.epoch && wire === I64) hello.epoch = Buffer.from(reader.take(8n)).readBigUInt64LE()
    else if (field === CONTROL.connection && wire === VARINT) hello.connection = reader.varint()
    else reader.skip(field, wire)
  }
  if (hello.epoch === undefined) throw new CodecError('required field Hello.epoch is absent')
  return hello
}

/**
 * Reads one length-prefixed body from `source.readExactly(n)` and not a byte more: what follows
 * belongs to the inner negotiation or to the application.
 */
export async function readFrame (source, max = MAX_MESSAGE) {
  let length = 0
  for (let i = 0; ; i++) {
    const [byte] = await source.readExactly(1)
    length |= (byte & 0x7f) << (7 * i)
    if (byte < 0x80) {
      if (i > 0 && byte === 0) throw new CodecError('length is not minimal')
      break
    }
    if (i === 1) throw new CodecError('length above the cap')
  }
  if (length > max) throw new CodecError(`message of ${length} bytes is above the cap`)
  return length === 0 ? new Uint8Array(0) : await source.readExactly(length)
}
