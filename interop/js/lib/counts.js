// Streams of a node's muxers, and every byte that they carry.

export class Counts {
  #streams = new Map() // by muxer

  /** yamux, or another muxer, whose streams are counted. */
  counted (makeFactory) {
    return (components) => {
      const factory = makeFactory(components)
      const create = factory.createStreamMuxer.bind(factory)
      factory.createStreamMuxer = (...args) => this.#muxer(create(...args))
      return factory
    }
  }

  #muxer (muxer) {
    const all = []
    this.#streams.set(muxer, all)
    const onCreateStream = muxer.onCreateStream.bind(muxer)
    muxer.onCreateStream = (...args) => this.#stream(all, onCreateStream(...args))
    const onRemoteStream = muxer.onRemoteStream.bind(muxer)
    muxer.onRemoteStream = (stream) => { onRemoteStream(this.#stream(all, stream)) }
    return muxer
  }

  #stream (all, stream) {
    const one = { stream, read: 0, written: 0 }
    one.closed = new Promise((resolve) => {
      stream.addEventListener('close', resolve, { once: true })
    })
    const onData = stream.onData.bind(stream)
    stream.onData = (data) => {
      one.read += data.byteLength
      onData(data)
    }
    const sendData = stream.sendData.bind(stream)
    stream.sendData = (data) => {
      const sent = sendData(data)
      one.written += sent.sentBytes
      return sent
    }
    all.push(one)
    return stream
  }

  /** What there was on these connections, by protocol, once none of their streams is open. */
  async on (connections) {
    const counts = {}
    for (const one of connections.flatMap(({ muxer }) => this.#streams.get(muxer) ?? [])) {
      await one.closed
      const { protocol, direction } = one.stream
      counts[protocol] ??= { streams_in: 0, streams_out: 0, read: 0, written: 0 }
      counts[protocol][direction === 'inbound' ? 'streams_in' : 'streams_out']++
      counts[protocol].read += one.read
      counts[protocol].written += one.written
    }
    return counts
  }
}
