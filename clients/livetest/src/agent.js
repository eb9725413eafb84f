import assert from 'node:assert/strict'
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'

export const bin = process.env.KEYWARD_BIN ?? join(import.meta.dirname, '..', '.build', 'keyward')

const START_TIMEOUT = 30_000 // ms; a token is made and a machine may be slow

/** A real agent on a throw-away SoftHSM token, stopped and removed when the test `t` is over. */
export class Agent {
  #process
  #log = ''

  static async start(t) {
    // Short, since a socket's path has 107 bytes at most.
    const agent = new Agent(await mkdtemp(join(tmpdir(), 'kw-')))
    t.after(async () => {
      await agent.stop()
      await rm(agent.dir, { recursive: true, force: true })
    })
    await agent.#run('init', '--softhsm')
    await agent.serve()
    return agent
  }

  constructor(dir) {
    this.dir = dir
    this.socket = join(dir, 'agent.sock')
  }

  /** Starts the agent and returns when it listens. */
  async serve() {
    const child = spawn(bin, ['serve', '--dir', this.dir], { stdio: ['ignore', 'ignore', 'pipe'] })
    this.#process = child
    child.stderr.on('data', (chunk) => (this.#log += chunk))
    const deadline = Date.now() + START_TIMEOUT
    while (!(await listens(this.socket))) {
      assert.equal(child.exitCode, null, `the agent ended:\n${this.#log}`)
      assert.ok(Date.now() < deadline, `the agent does not listen:\n${this.#log}`)
      await sleep(10)
    }
  }

  /** Stops the agent as a service manager does, or with SIGKILL. Returns when it is gone. */
  async stop(signal = 'SIGTERM') {
    const child = this.#process
    if (!child || child.exitCode !== null || child.signalCode !== null) return
    const exited = once(child, 'exit')
    child.kill(signal)
    await exited
  }

  async restart(signal) {
    await this.stop(signal)
    await this.serve()
  }

  /** Makes a session that this process may use, and activates it. Returns what the CLI printed. */
  async createSession(spec, { kind = 'agw', account, chain = 'abstract-testnet' } = {}) {
    const file = join(this.dir, 'spec.json')
    await writeFile(file, JSON.stringify(spec, (_, value) => (typeof value === 'bigint' ? value.toString() : value)))
    const who = kind === 'eoa' ? ['--kind', 'eoa'] : ['--account', account]
    const created = await this.cli('session', 'create', '--spec', file, ...who, '--chain', chain, '--client', `uid:${process.getuid()}`)
    if (created.status === 'pending') await this.cli('session', 'activate', created.id)
    return created
  }

  /** Runs a command and returns the JSON that it printed. */
  async cli(...args) {
    return JSON.parse(await this.#run(...args, '--json'))
  }

  async #run(...args) {
    const { stdout } = await promisify(execFile)(bin, [...args, '--dir', this.dir])
    return stdout
  }
}

function listens(path) {
  return new Promise((resolve) => {
    const socket = connect(path)
    socket.once('error', () => resolve(false))
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
  })
}
