// The kinds of error that the command line of interop/README.md knows.
export class PeerError extends Error {
  constructor (kind, message) {
    super(message)
    this.name = 'PeerError'
    this.kind = kind
  }
}

export const resetError = (message) => new PeerError('reset', message)
export const failedError = (message) => new PeerError('failed', message)
