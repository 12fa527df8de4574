// A js-libp2p node for tests: loopback, no discovery, nothing that pings, prunes or idles out.
import './polyfill.js'
import { createLibp2p } from 'libp2p'
import { generateKeyPairFromSeed } from '@libp2p/crypto/keys'
import { tcp } from '@libp2p/tcp'
import { webSockets } from '@libp2p/websockets'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { identify } from '@libp2p/identify'
import { circuitRelayServer, circuitRelayTransport } from '@libp2p/circuit-relay-v2'
import { Counts } from './counts.js'

const NEVER = 0x7fffffff // the longest timer that Node has: 24 days
const MANY = 100_000

/** 32 bytes: the number as a big-endian 8-byte number, four times over. */
export function keySeed (n) {
  const seed = new DataView(new ArrayBuffer(32))
  for (let at = 0; at < 32; at += 8) seed.setBigUint64(at, BigInt(n))
  return new Uint8Array(seed.buffer)
}

/** The QUIC transport is a native addon inside an npm package; without it the peer does without. */
async function optionalQuic () {
  try {
    const { quic } = await import('@chainsafe/libp2p-quic')
    await tellResetsFromFins()
    return [quic()]
  } catch (err) {
    process.stderr.write(`no QUIC: ${err.message}\n`)
    return []
  }
}

/**
 * libp2p-quic 2.1 takes a failed read with the code 'Unknown' (a reset, a lost connection) for the end
 * of the stream, exactly like a FIN: a silent truncation. Under any other code it aborts the stream.
 */
async function tellResetsFromFins () {
  const entry = import.meta.resolve('@chainsafe/libp2p-quic')
  const { Stream } = await import(new URL('./napi.js', entry))
  const { read } = Stream.prototype
  Stream.prototype.read = async function (max) {
    try {
      return await read.call(this, max)
    } catch (err) {
      throw Object.assign(new Error(`QUIC read failed: ${err.message}`), { code: 'ReadFailed' })
    }
  }
}

async function encrypter (security) {
  if (security === 'noise') return noise()
  const { tls } = await import('@libp2p/tls')
  return tls()
}

export async function createNode ({ seed, security = 'noise', relay = false }, counts = new Counts()) {
  const services = { identify: identify({ runOnLimitedConnection: true, runOnConnectionOpen: true }) }
  if (relay) {
    services.relay = circuitRelayServer({
      hopTimeout: 60_000,
      maxInboundHopStreams: MANY,
      maxOutboundHopStreams: MANY,
      maxOutboundStopStreams: MANY,
      reservations: { maxReservations: 1000, applyDefaultLimit: false }
    })
  }
  return await createLibp2p({
    privateKey: await generateKeyPairFromSeed('Ed25519', keySeed(seed)),
    addresses: { listen: [] },
    transports: [
      tcp({ inboundSocketInactivityTimeout: NEVER, outboundSocketInactivityTimeout: NEVER }),
      webSockets(),
      circuitRelayTransport({ maxInboundStopStreams: MANY, maxOutboundStopStreams: MANY }),
      ...await optionalQuic()
    ],
    connectionEncrypters: [await encrypter(security)],
    streamMuxers: [counts.counted(yamux({
      enableKeepAlive: false,
      maxInboundStreams: MANY,
      maxOutboundStreams: MANY,
      streamOptions: { maxStreamWindowSize: 1024 * 1024, maxReadBufferLength: 4 * 1024 * 1024 }
    }))],
    connectionMonitor: { enabled: false },
    connectionManager: {
      maxConnections: MANY,
      inboundConnectionThreshold: MANY,
      maxIncomingPendingConnections: MANY,
      reconnectRetries: 0
    },
    services
  })
}
