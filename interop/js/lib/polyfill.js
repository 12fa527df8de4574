// js-libp2p 3.3 calls Promise.withResolvers, which Node has from version 22 on. Import this file first.
if (Promise.withResolvers === undefined) {
  Promise.withResolvers = function withResolvers () {
    let resolve, reject
    const promise = new this((res, rej) => { resolve = res; reject = rej })
    return { promise, resolve, reject }
  }
}

// Its WebSocket transport dials with the global class, which Node also has from version 22 on. `ws` is
// what the transport's listener uses anyway.
// Events one at a time, as the standard has them: the transport begins to listen for messages only after
// the task in which it was told `open`, and a go-libp2p listener speaks first.
if (globalThis.WebSocket === undefined) {
  const { WebSocket } = await import('ws')
  globalThis.WebSocket = class extends WebSocket {
    constructor (url, protocols) {
      super(url, protocols, { allowSynchronousEvents: false })
    }
  }
}
