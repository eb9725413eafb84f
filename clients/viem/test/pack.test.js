import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'

const root = join(import.meta.dirname, '..')

test('the package holds the built code, its types, README and licence, and nothing else', () => {
  const out = execFileSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], { cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
  const packed = [JSON.parse(out)].flat().flatMap((entry) => ('files' in entry ? [entry] : Object.values(entry)))[0]
  const modules = ['account', 'agent', 'connection', 'decode', 'errors', 'index', 'lines', 'parse-session', 'session', 'strict-json', 'superjson', 'transaction']
  const want = ['LICENSE', 'README.md', 'package.json', ...['esm', 'cjs'].flatMap((format) => [`dist/${format}/package.json`, ...modules.flatMap((m) => [`dist/${format}/${m}.d.ts`, `dist/${format}/${m}.js`])])]
  assert.deepEqual(packed.files.map((f) => f.path).sort(), want.sort())
})

test('the package needs nothing at run time but viem as a peer', () => {
  const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
  assert.equal(manifest.dependencies, undefined)
  assert.deepEqual(Object.keys(manifest.peerDependencies), ['viem'])
})
