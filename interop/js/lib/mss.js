// multistream-select 1.0.0 on top of a migratable stream, so that its bytes are ordinary stream bytes
// and a migration during it is nothing special. (js-libp2p's own wants its own kind of stream.)
import { PeerError } from './errors.js'

const HEADER = '/multistream/1.0.0'
const MAX_LINE = 1024
const encoder = new TextEncoder()
const decoder = new TextDecoder()

/** A line of the negotiation: its length, the text, a newline. */
export function line (text) {
  const body = encoder.encode(text + '\n')
  const length = body.length < 0x80 ? [body.length] : [body.length & 0x7f | 0x80, body.length >> 7]
  return Uint8Array.from([...length, ...body])
}

async function readLine (stream) {
  let [length] = await stream.readExactly(1)
  if (length >= 0x80) length = (length & 0x7f) | (await stream.readExactly(1))[0] << 7
  if (length === 0 || length > MAX_LINE) throw new PeerError('other', 'multistream-select: bad line length')
  const text = decoder.decode(await stream.readExactly(length))
  if (!text.endsWith('\n')) throw new PeerError('other', 'multistream-select: no newline')
  return text.slice(0, -1)
}

/** As dialer: one protocol, sent together with the header. */
export async function select (stream, protocol) {
  await stream.write(Buffer.concat([line(HEADER), line(protocol)]))
  await answered(stream, protocol)
}

/** As dialer, on a leg: what is said first leaves with the proposal. Resolves with the answer, if it comes. */
export function propose (leg, protocol, first) {
  leg.send(Buffer.concat([line(HEADER), line(protocol), first]))
  return answered(leg, protocol)
}

async function answered (stream, protocol) {
  if (await readLine(stream) !== HEADER) throw new PeerError('other', 'multistream-select: no header')
  if (await readLine(stream) !== protocol) throw new PeerError('unsupported', `the remote does not speak ${protocol}`)
}

/** As listener: answers until a protocol of the list is asked for. */
export async function handle (stream, protocols) {
  if (await readLine(stream) !== HEADER) throw new PeerError('other', 'multistream-select: no header')
  await stream.write(line(HEADER))
  for (;;) {
    const asked = await readLine(stream)
    if (protocols.includes(asked)) {
      await stream.write(line(asked))
      return asked
    }
    await stream.write(line('na')) // a prefix inside a prefix ends here too
  }
}
