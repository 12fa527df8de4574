// Every test that talks to another process has a time limit of its own.
import { test as plain } from 'node:test'

export const test = (name, run) => plain(name, { timeout: 60_000 }, run)
