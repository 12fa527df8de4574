// Everything is looked up under the authenticated peer ID: no peer can name another's stream.
import { IdAllocator, isDesignated } from './roles.js'

const REMEMBER_MS = 60_000
const REMEMBER_MAX = 1024

/** What ended or was replaced lately, bounded in number and time. */
class Recent {
  #until = new Map()

  add (id) {
    this.#until.delete(id)
    this.#until.set(id, Date.now() + REMEMBER_MS)
    if (this.#until.size > REMEMBER_MAX) this.#until.delete(this.#until.keys().next().value)
  }

  has (id) { return (this.#until.get(id) ?? 0) > Date.now() }
}

class Peer {
  constructor (id, localBytes) {
    const remoteBytes = id.toMultihash().bytes
    this.id = id
    this.designated = isDesignated(localBytes, remoteBytes) // are we?
    this.verifies = false // an ack of its said so
    this.ids = new Map() // ID → stream: current IDs, and those of open migrations
    this.early = new Set() // Migrates whose `from` is not known (yet)
    this.holds = 0
    this.#allocator = new IdAllocator(localBytes, remoteBytes)
  }

  #allocator
  #ended = new Recent()
  #retired = new Recent()

  nextId () { return this.#allocator.next((id) => this.ids.has(id)) }
  end (id) { this.#ended.add(id) }
  hasEnded (id) { return this.#ended.has(id) }
  retire (id) { this.#retired.add(id) }
  wasRetired (id) { return this.#retired.has(id) }
}

export class PeerTable {
  #peers = new Map()

  constructor (localId) {
    this.localBytes = localId.toMultihash().bytes
  }

  get (peerId) {
    const key = peerId.toString()
    let peer = this.#peers.get(key)
    if (peer === undefined) this.#peers.set(key, peer = new Peer(peerId, this.localBytes))
    return peer
  }
}
