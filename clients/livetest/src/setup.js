// Prepares what the tests run: the agent's binary, and @keyward/viem as npm would publish it.
// A KEYWARD_BIN in the environment is used instead of building one.
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'

const here = join(import.meta.dirname, '..')
const root = join(here, '..', '..')
const build = join(here, '.build')

function run(cwd, command, ...args) {
  execFileSync(command, args, { cwd, stdio: ['ignore', 'ignore', 'inherit'] })
}

mkdirSync(build, { recursive: true })
if (!process.env.KEYWARD_BIN) run(root, 'go', 'build', '-o', join(build, 'keyward'), './cmd/keyward')

const client = join(root, 'clients', 'viem')
if (!existsSync(join(client, 'node_modules', 'typescript'))) run(client, 'npm', 'ci', '--no-audit', '--no-fund')
run(client, 'npm', 'pack', '--silent', '--pack-destination', build)
// Unpacked rather than linked: a link would bring the client's own copy of viem along.
const installed = join(here, 'node_modules', '@keyward', 'viem')
rmSync(installed, { recursive: true, force: true })
mkdirSync(installed, { recursive: true })
run(installed, 'tar', 'xzf', join(build, 'keyward-viem-0.1.0.tgz'), '--strip-components=1')
