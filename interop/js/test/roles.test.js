import '../lib/polyfill.js'
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { fillPattern, firstMismatch } from '../lib/pattern.js'
import { IdAllocator, isDesignated } from '../lib/roles.js'
import { keySeed } from '../lib/node.js'

const A = Buffer.from('A')
const B = Buffer.from('B')

test('SHA-256("AB") ends in 53: odd, so B', () => {
  assert.equal(isDesignated(B, A), true)
  assert.equal(isDesignated(A, B), false)
})

test('exactly one of two is designated', () => {
  for (let i = 0; i < 64; i++) {
    const [x, y] = [Buffer.from([0, i]), Buffer.from([1, 255 - i])]
    assert.notEqual(isDesignated(x, y), isDesignated(y, x))
  }
})

test('the lower peer counts even, the higher odd, from 0', () => {
  const low = new IdAllocator(A, B)
  const high = new IdAllocator(B, A)
  assert.deepEqual([low.next(), low.next(), low.next()], [0n, 2n, 4n])
  assert.deepEqual([high.next(), high.next()], [1n, 3n])
  assert.equal(high.next((id) => id < 9n), 9n) // IDs in use are skipped
})

test('the pattern', () => {
  const whole = fillPattern(new Uint8Array(1000), 0, 1)
  for (const i of [0, 1, 2, 999]) {
    const expected = Number((BigInt(i ^ 1) * 2654435761n & 0xffffffffn) >> 24n)
    assert.equal(whole[i], expected)
  }
  const part = fillPattern(new Uint8Array(10), 500, 1)
  assert.deepEqual(part, whole.slice(500, 510))
  assert.equal(firstMismatch(part, 500, 1), -1)
  part[7] ^= 1
  assert.equal(firstMismatch(part, 500, 1), 7)
})

test('the key seed', () => {
  assert.equal(Buffer.from(keySeed(258)).toString('hex'), '0000000000000102'.repeat(4))
})
