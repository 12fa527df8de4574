// The flags of interop/README.md. What is refused is refused with a reason; peer.js exits with code 2.

export function parseFlags (args) {
  const flags = { seed: null, security: 'noise', relay: false, migration: true, verify: true, wrapped: true, layer: false }
  const rest = [...args]
  const value = (flag) => {
    if (rest.length === 0) throw new Error(`${flag} needs a value`)
    return rest.shift()
  }
  while (rest.length > 0) {
    const flag = rest.shift()
    switch (flag) {
      case '--seed': {
        const text = value(flag)
        if (!/^\d+$/.test(text)) throw new Error('--seed needs a number')
        flags.seed = BigInt(text)
        break
      }
      case '--security':
        flags.security = value(flag)
        if (!['noise', 'tls'].includes(flags.security)) throw new Error('--security is noise or tls')
        break
      case '--ack': {
        const form = value(flag)
        if (!['wrapped', 'bare'].includes(form)) throw new Error('--ack is wrapped or bare')
        flags.wrapped = form === 'wrapped'
        break
      }
      case '--relay': flags.relay = true; break
      case '--no-migration': flags.migration = false; break
      case '--layer': flags.layer = true; break
      case '--no-verify': flags.verify = false; break
      case '--nested': throw new Error('--nested is not supported: this peer speaks the spec only, not the proof of concept')
      default: throw new Error(`unknown flag ${flag}`)
    }
  }
  if (flags.seed === null) throw new Error('--seed is required')
  return flags
}
