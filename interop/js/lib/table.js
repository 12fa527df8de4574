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
  constructor (id, localBytes, epoch) {
    const remoteBytes = id.toMultihash().bytes
    this.id = id
    this.epoch = epoch // of its layer; null: the table of the streams that know of none
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
  #closed = new Recent()

  nextId () { return this.#allocator.next((id) => this.ids.has(id)) }
  end (id) { this.#ended.add(id) }
  hasEnded (id) { return this.#ended.has(id) }
  retire (id) { this.#retired.add(id) }
  wasRetired (id) { return this.#retired.has(id) }
  close (connection) { this.#closed.add(connection) }
  hasClosed (connection) { return this.#closed.has(connection) }
}

export class PeerTable {
  #peers = new Map()

  constructor (localId) {
    this.localBytes = localId.toMultihash().bytes
  }

  /** One table for each peer, and one for each epoch of its layer. */
  get (peerId, epoch = null) {
    const key = epoch === null ? peerId.toString() : `${peerId}/${epoch}`
    let peer = this.#peers.get(key)
    if (peer === undefined) this.#peers.set(key, peer = new Peer(peerId, this.localBytes, epoch))
    return peer
  }
}
