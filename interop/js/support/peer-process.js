// Runs peer.js as a child process and speaks its command line, for the tests.
import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

const PEER = fileURLToPath(new URL('../peer.js', import.meta.url))
const PATIENCE = 30_000

export class PeerProcess {
  #seq = 0
  #answers = new Map()
  #waiters = []
  events = []

  static async start (seed, ...flags) {
    const peer = new PeerProcess(seed, flags)
    try {
      peer.id = (await peer.event('ready')).peer
    } catch (err) {
      peer.child.kill()
      throw err
    }
    return peer
  }

  /** Some at once, each as [seed, ...flags]; they end with the test, also if one of them never begins. */
  static async startAll (t, ...all) {
    const starts = all.map((args) => PeerProcess.start(...args))
    t.after(() => Promise.allSettled(starts.map(async (start) => { await (await start).quit() })))
    return await Promise.all(starts)
  }

  constructor (seed, flags) {
    this.child = spawn(process.execPath, [PEER, '--seed', `${seed}`, ...flags], { stdio: ['pipe', 'pipe', 'pipe'] })
    this.stderr = ''
    this.child.stderr.on('data', (data) => { this.stderr += data })
    this.exited = new Promise((resolve) => { this.child.on('exit', resolve) })
    createInterface({ input: this.child.stdout }).on('line', (line) => { this.#line(JSON.parse(line)) })
  }

  #line (message) {
    if (message.event === undefined) {
      this.#answers.get(message.seq)(message)
      return
    }
    this.events.push(message)
    for (const waiter of [...this.#waiters]) waiter()
  }

  /** The whole answer, ok or not. */
  ask (cmd, fields = {}) {
    const seq = ++this.#seq
    return this.#patiently(cmd, new Promise((resolve) => {
      this.#answers.set(seq, resolve)
      this.child.stdin.write(JSON.stringify({ seq, cmd, ...fields }) + '\n')
    }))
  }

  /** The answer, which must be ok. */
  async do (cmd, fields = {}) {
    const answer = await this.ask(cmd, fields)
    if (!answer.ok) throw new Error(`${cmd} ${JSON.stringify(fields)}: ${JSON.stringify(answer)}\n${this.stderr}`)
    return answer
  }

  /** The next event (taken out) of that name whose fields match. */
  event (name, fields = {}) {
    const matches = (e) => e.event === name && Object.entries(fields).every(([key, value]) => e[key] === value)
    return this.#patiently(`event ${name}`, new Promise((resolve) => {
      const look = () => {
        const index = this.events.findIndex(matches)
        if (index < 0) return
        this.#waiters = this.#waiters.filter((waiter) => waiter !== look)
        resolve(this.events.splice(index, 1)[0])
      }
      this.#waiters.push(look)
      look()
    }))
  }

  async #patiently (what, promise) {
    let timer
    const late = new Promise((resolve, reject) => {
      timer = setTimeout(() => { reject(new Error(`${what}: nothing after ${PATIENCE} ms\n${this.stderr}`)) }, PATIENCE)
    })
    return await Promise.race([promise, late]).finally(() => { clearTimeout(timer) })
  }

  async quit () {
    this.child.stdin.end()
    return await this.exited
  }
}

const ADDRESSES = {
  tcp: '/ip4/127.0.0.1/tcp/0',
  ws: '/ip4/127.0.0.1/tcp/0/ws',
  quic: '/ip4/127.0.0.1/udp/0/quic-v1'
}

/** Two peers with a stream from `a` to `b` on the first connection, and a second connection. */
export async function pair (t, { from = 'tcp', to = 'tcp', seeds = [1, 2], aFlags = [], bFlags = [] } = {}) {
  const [a, b] = await PeerProcess.startAll(t, [seeds[0], ...aFlags], [seeds[1], ...bFlags])
  const dial = async (kind) => {
    const { addrs } = await b.do('listen', { addr: ADDRESSES[kind] })
    const { conn } = await a.do('dial', { addr: addrs[0] })
    return { a: conn, b: (await b.event('connected')).conn }
  }
  const c0 = await dial(from)
  const c1 = await dial(to)
  const opened = await a.do('open', { peer: b.id, conn: c0.a })
  const accepted = await b.event('accepted')
  return { a, b, c0, c1, sa: opened.stream, sb: accepted.stream, opened, accepted }
}

/** `a` and `b` with a relayed connection, `b` also listens itself: `direct` is where. */
export async function onRelay (t, { aFlags = [], bFlags = [], to = 'tcp' } = {}) {
  const [relay, a, b] = await PeerProcess.startAll(t, [9, '--relay'], [1, ...aFlags], [2, ...bFlags])
  const { addrs: [there] } = await relay.do('listen', { addr: ADDRESSES.tcp })
  const { addrs: [circuit] } = await b.do('listen', { addr: `${there}/p2p-circuit` })
  const { addrs: [direct] } = await b.do('listen', { addr: ADDRESSES[to] })
  const { conn } = await a.do('dial', { addr: circuit })
  const { conn: connB } = await b.event('connected', { peer: a.id, relayed: true })
  return { relay, a, b, conn, connB, circuit, direct }
}

/** … and a stream on it. */
export async function relayed (t) {
  const p = await onRelay(t)
  if (!p.circuit.endsWith(`/p2p-circuit/p2p/${p.b.id}`)) throw new Error(p.circuit)
  const { stream: sa, migratable } = await p.a.do('open', { peer: p.b.id, conn: p.conn })
  if (!migratable) throw new Error('not migratable')
  const { stream: sb } = await p.b.event('accepted')
  return { ...p, sa, sb }
}

/** Writes `bytes` at one side while the other reads them. */
export async function transfer (from, fromStream, seed, to, toStream, bytes) {
  const [, read] = await Promise.all([
    from.do('write', { stream: fromStream, bytes, seed }),
    to.do('read', { stream: toStream, bytes, seed })
  ])
  if (read.read !== bytes) throw new Error(`read ${read.read} of ${bytes}`)
}

/** Both sides close and read to a clean end. */
export async function finish ({ a, b, sa, sb }) {
  await Promise.all([a.do('close', { stream: sa }), b.do('close', { stream: sb })])
  return await Promise.all([
    a.do('read', { stream: sa, eof: true, seed: 2 }),
    b.do('read', { stream: sb, eof: true, seed: 1 })
  ])
}
