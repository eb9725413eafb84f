import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/**
 * A socket server that answers as a test tells it to. `answer` gets each request and the
 * connection it came on, and returns the result, throws {code, message, data}, or returns
 * `StubAgent.silent` to say nothing.
 */
export class StubAgent {
  static silent = Symbol('silent')

  requests = []
  sockets = new Set()
  connections = 0
  #server
  #waiting = []

  static async start(t, answer) {
    const dir = await mkdtemp(join(tmpdir(), 'keyward-viem-'))
    const stub = new StubAgent(join(dir, 'agent.sock'), answer)
    t.after(async () => {
      await stub.stop()
      await rm(dir, { recursive: true })
    })
    await stub.listen()
    return stub
  }

  constructor(path, answer) {
    this.path = path
    this.answer = answer
  }

  listen() {
    this.#server = createServer((socket) => this.#serve(socket))
    return new Promise((resolve, reject) => this.#server.once('error', reject).listen(this.path, resolve))
  }

  /** Ends all connections at once, as a killed agent does. */
  async stop() {
    if (!this.#server?.listening) return
    const closed = new Promise((resolve) => this.#server.close(resolve))
    for (const socket of this.sockets) socket.destroy()
    await closed
  }

  /** Resolves when `condition()` holds; looked at whenever something happens on a connection. */
  until(condition) {
    return new Promise((resolve) => {
      this.#waiting.push({ condition, resolve })
      this.#notify()
    })
  }

  #notify() {
    this.#waiting = this.#waiting.filter(({ condition, resolve }) => !condition() || void resolve())
  }

  #serve(socket) {
    this.connections++
    this.sockets.add(socket)
    socket.on('error', () => {})
    socket.on('close', () => {
      this.sockets.delete(socket)
      this.#notify()
    })
    let text = ''
    socket.setEncoding('utf8').on('data', (chunk) => {
      text += chunk
      for (let end = text.indexOf('\n'); end !== -1; end = text.indexOf('\n')) {
        const request = JSON.parse(text.slice(0, end))
        text = text.slice(end + 1)
        this.requests.push(request)
        this.#reply(request, socket)
        this.#notify()
      }
    })
    this.#notify()
  }

  async #reply(request, socket) {
    let reply
    try {
      reply = { result: await this.answer(request, socket) }
    } catch (error) {
      reply = { error }
    }
    if (reply.result !== StubAgent.silent) socket.write(`${JSON.stringify({ jsonrpc: '2.0', id: request.id, ...reply })}\n`)
  }
}
