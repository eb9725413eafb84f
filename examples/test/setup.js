// Builds the agent, unless KEYWARD_BIN names one, and the Go example.
import { execFileSync } from 'node:child_process'
import { join } from 'node:path'

const root = join(import.meta.dirname, '..', '..')
const build = join(import.meta.dirname, '.build')

for (const [output, command] of [['keyward', './cmd/keyward'], ['gobot', './examples/gobot']]) {
  if (output === 'keyward' && process.env.KEYWARD_BIN) continue
  execFileSync('go', ['build', '-o', join(build, output), command], { cwd: root, stdio: 'inherit' })
}
