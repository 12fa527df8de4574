#!/usr/bin/env node
// The js-libp2p test peer: JSON lines in, JSON lines out. See ../README.md.
import './lib/polyfill.js'
import { createInterface } from 'node:readline'
import { Commands } from './lib/commands.js'
import { Counts } from './lib/counts.js'
import { parseFlags } from './lib/flags.js'
import { Hub } from './lib/hub.js'
import { createNode } from './lib/node.js'

const PROTOCOL = '/interop/1'
const say = (line) => { process.stdout.write(JSON.stringify(line) + '\n') }

let flags
try {
  flags = parseFlags(process.argv.slice(2))
} catch (err) {
  process.stderr.write(`${err.message}\n`)
  process.exit(2)
}
process.on('unhandledRejection', (err) => { process.stderr.write(`unhandled: ${err?.stack ?? err}\n`) })

const exit = () => { process.stdout.write('', () => { process.exit(0) }) }

const counts = new Counts()
const node = await createNode(flags, counts)
const hub = new Hub(node, { protocol: PROTOCOL, ...flags })
const commands = new Commands(node, hub, counts, say)
await hub.start()
say({ event: 'ready', peer: node.peerId.toString() })

async function answer (text) {
  let command
  try {
    command = JSON.parse(text)
  } catch (err) {
    return say({ seq: null, ok: false, error: `not JSON: ${err.message}`, kind: 'bad_command' })
  }
  const seq = command?.seq ?? null
  if (command?.cmd === 'quit') {
    say({ seq, ok: true })
    return exit()
  }
  try {
    say({ seq, ok: true, ...await commands.run(command ?? {}) })
  } catch (err) {
    say({ seq, ok: false, error: err.message, kind: err.kind ?? 'other' })
  }
}

const input = createInterface({ input: process.stdin })
input.on('line', (text) => { if (text.trim() !== '') answer(text) })
input.on('close', exit)
