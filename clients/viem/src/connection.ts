import { type Stats, statSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

import {
  errorFromResponse,
  type KeywardError,
  type KeywardErrorData,
  KeywardMalformedError,
  KeywardProtocolError,
  KeywardUnavailableError,
} from './errors.js'
import { LineReader } from './lines.js'

export type ConnectionOptions = {
  /** Milliseconds until a request is given up. Default 10,000. */
  timeout?: number | undefined
  /** Milliseconds for which a lost or missing agent is looked for before requests fail. Default 5,000. */
  reconnectFor?: number | undefined
  /** Milliseconds after which a connection that nobody waits on is closed. Default 30,000. */
  idleTimeout?: number | undefined
  /** Bytes of one request, newline included. Default 1 MiB, the agent's own default. */
  maxRequestBytes?: number | undefined
  /** Bytes of one answer. Default 16 MiB. */
  maxResponseBytes?: number | undefined
  /** Is told what a person has to do while requests wait for that, e.g. to touch a YubiKey; `''`: none waits any more. */
  onWaiting?: ((what: string) => void) | undefined
}

export type RequestOptions = {
  /** Gives the request up. The agent may still sign: asking again for the same transaction costs nothing more. */
  signal?: AbortSignal | undefined
  /** Milliseconds, instead of the connection's. */
  timeout?: number | undefined
}

type Outcome = { result: unknown } | { error: unknown }

type Pending = {
  readonly line: string
  /** How often it was written to a connection. */
  sends: number
  /** What a person has to do for it; '': nothing. */
  waitsFor: string
  /** Ends the request once; later calls do nothing. */
  settle(outcome: Outcome): void
}

// A request whose connection is lost is sent once more: everything that is asked
// here is idempotent, signatures by digest. Not more often, or a request that
// makes the agent fall over would do so again and again.
const MAX_SENDS = 2

const FIRST_PAUSE = 20 // ms between attempts to connect; doubles up to
const LONGEST_PAUSE = 500

/**
 * A JSON-RPC 2.0 client on a Unix socket: one JSON document a line, many requests
 * at once on one connection, answers in any order.
 *
 * It connects when there is something to ask, keeps the process alive only while something
 * is asked, and connects again when the agent was restarted.
 */
export class Connection {
  readonly #path: string
  readonly #options: Required<{ [K in keyof Omit<ConnectionOptions, 'onWaiting'>]: number }>
  readonly #onWaiting: ConnectionOptions['onWaiting']
  #told = ''
  readonly #pending = new Map<number, Pending>()
  #lastId = 0
  #socket: Socket | undefined
  #connecting = false
  #closed = false
  #idleTimer: NodeJS.Timeout | undefined

  constructor(path: string, options: ConnectionOptions = {}) {
    this.#path = path
    this.#onWaiting = options.onWaiting
    this.#options = {
      timeout: options.timeout ?? 10_000,
      reconnectFor: options.reconnectFor ?? 5_000,
      idleTimeout: options.idleTimeout ?? 30_000,
      maxRequestBytes: options.maxRequestBytes ?? 1 << 20,
      maxResponseBytes: options.maxResponseBytes ?? 16 << 20,
    }
  }

  /** The result of one call. Rejects with a {@link KeywardError}, or with the signal's reason. */
  request(method: string, params: readonly unknown[], options: RequestOptions = {}): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (this.#closed) throw this.#unavailable('closed', 'this client was closed')
      options.signal?.throwIfAborted()

      const id = ++this.#lastId
      const line = `${JSON.stringify({ jsonrpc: '2.0', id, method, params })}\n`
      this.#checkSize(line, method)

      const timeout = options.timeout ?? this.#options.timeout
      const timer = setTimeout(() => {
        settle({ error: this.#unavailable('timedOut', `no answer to ${method} within ${timeout} ms`) })
      }, timeout)
      const onAbort = () => settle({ error: options.signal?.reason })
      const settle: Pending['settle'] = (outcome) => {
        if (!this.#pending.delete(id)) return
        clearTimeout(timer)
        options.signal?.removeEventListener('abort', onAbort)
        this.#tellWaiting()
        this.#hold()
        if ('error' in outcome) reject(outcome.error)
        else resolve(outcome.result)
      }
      options.signal?.addEventListener('abort', onAbort, { once: true })

      const pending: Pending = { line, sends: 0, waitsFor: '', settle }
      this.#pending.set(id, pending)
      this.#hold()
      if (this.#socket) this.#send(this.#socket, pending)
      else void this.#connect()
    })
  }

  /** Rejects what is under way and closes the connection. */
  close(): void {
    this.#closed = true
    this.#drop()
    this.#settleAll(this.#unavailable('closed', 'this client was closed'))
  }

  #checkSize(line: string, method: string): void {
    const bytes = Buffer.byteLength(line)
    if (bytes <= this.#options.maxRequestBytes) return
    throw new KeywardMalformedError(-32600, `${method}: a request of ${bytes} bytes is above the bound of ${this.#options.maxRequestBytes}`)
  }

  #send(socket: Socket, pending: Pending): void {
    pending.sends++
    socket.write(pending.line)
  }

  // Connects, as long as somebody waits for it, and sends all that waits. Never rejects.
  async #connect(): Promise<void> {
    if (this.#connecting) return
    this.#connecting = true
    try {
      const socket = await this.#dialUntilAnswered()
      if (this.#closed) socket?.destroy()
      else if (socket) this.#adopt(socket)
    } catch (err) {
      this.#settleAll(this.#unavailable('notReachable', connectMessage(this.#path, err), err))
    } finally {
      this.#connecting = false
    }
    // Somebody may have asked just as nobody was waiting any more.
    if (!this.#socket && !this.#closed && this.#pending.size > 0) void this.#connect()
  }

  async #dialUntilAnswered(): Promise<Socket | undefined> {
    const deadline = Date.now() + this.#options.reconnectFor
    for (let pause = FIRST_PAUSE; this.#pending.size > 0; pause = Math.min(2 * pause, LONGEST_PAUSE)) {
      try {
        return await dial(this.#path)
      } catch (err) {
        if (!isRestart(err) || Date.now() + pause > deadline) throw err
        await sleep(pause)
      }
    }
    return undefined
  }

  #adopt(socket: Socket): void {
    this.#socket = socket
    const lines = new LineReader(this.#options.maxResponseBytes)
    let failure: Error | undefined
    socket.on('error', (err) => {
      failure = err // 'close' follows
    })
    socket.on('end', () => this.#lost(socket, failure))
    socket.on('close', () => this.#lost(socket, failure))
    socket.on('data', (chunk) => {
      try {
        for (const line of lines.push(chunk)) this.#receive(line)
      } catch (err) {
        // Answers can no longer be told apart, and asking again would give the same.
        this.#drop()
        this.#settleAll(err instanceof KeywardProtocolError ? err : new KeywardProtocolError(messageOf(err)))
      }
    })
    this.#hold()
    // First, as it is for the requests that follow. An agent that does not know it is an older one.
    if (this.#onWaiting) socket.write(`${JSON.stringify({ jsonrpc: '2.0', id: ++this.#lastId, method: 'rpc_notifyWaiting', params: [] })}\n`)
    for (const pending of this.#pending.values()) this.#send(socket, pending)
  }

  #drop(): void {
    const socket = this.#socket
    this.#socket = undefined
    socket?.destroy()
  }

  #lost(socket: Socket, cause: Error | undefined): void {
    if (this.#socket !== socket) return // dropped by us, or known already
    this.#drop()
    for (const pending of this.#pending.values()) pending.waitsFor = ''
    this.#tellWaiting()
    for (const pending of [...this.#pending.values()]) {
      if (pending.sends < MAX_SENDS) continue
      pending.settle({ error: this.#unavailable('connectionLost', 'the agent closed the connection twice without an answer', cause) })
    }
    if (this.#pending.size > 0) void this.#connect()
  }

  #receive(line: string): void {
    const message = parseObject(line)
    if (message['method'] === 'keyward_waiting') {
      this.#noteWaiting(message['params'])
      return
    }
    const answer = parseAnswer(message)
    if (answer.id > this.#lastId) throw new KeywardProtocolError(`an answer to a request ${answer.id} that was never made`)
    const pending = this.#pending.get(answer.id) // none: the request was given up
    // An agent that shuts down answers so, then closes the connection, and the request is sent to its successor.
    if (isRestarting(answer.outcome) && pending && pending.sends < MAX_SENDS) return
    pending?.settle(answer.outcome)
  }

  #noteWaiting(params: unknown): void {
    if (!isRecord(params) || typeof params['id'] !== 'number' || typeof params['for'] !== 'string') return
    const pending = this.#pending.get(params['id'])
    if (!pending) return
    pending.waitsFor = params['for']
    this.#tellWaiting()
  }

  #tellWaiting(): void {
    const waits = [...this.#pending.values()].map(({ waitsFor }) => waitsFor).filter((what) => what !== '')
    const what = waits.includes(this.#told) ? this.#told : (waits[0] ?? '')
    if (what === this.#told) return
    this.#told = what
    queueMicrotask(() => this.#onWaiting?.(what)) // what it throws is not the connection's
  }

  #settleAll(error: KeywardError): void {
    for (const pending of [...this.#pending.values()]) pending.settle({ error })
  }

  // Keeps the process alive while something is asked, and only then.
  #hold(): void {
    clearTimeout(this.#idleTimer)
    if (!this.#socket) return
    if (this.#pending.size > 0) {
      this.#socket.ref()
      return
    }
    this.#socket.unref()
    this.#idleTimer = setTimeout(() => this.#drop(), this.#options.idleTimeout).unref()
  }

  #unavailable(reason: string, message: string, cause?: unknown): KeywardUnavailableError {
    const data = { reason, retryable: reason !== 'closed' }
    return new KeywardUnavailableError(message, data, cause instanceof Error ? cause : undefined)
  }
}

function dial(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(path)
    socket.once('error', reject)
    socket.once('connect', () => {
      socket.off('error', reject)
      resolve(socket)
    })
  })
}

// Errors of a socket whose agent is being restarted; others, as EACCES, don't go away.
function isRestart(err: unknown): boolean {
  const code = codeOf(err)
  return code === 'ENOENT' || code === 'ECONNREFUSED' || code === 'ECONNRESET' || code === 'EAGAIN'
}

function connectMessage(path: string, err: unknown): string {
  switch (codeOf(err)) {
    case 'ENOENT':
    case 'ECONNREFUSED':
      return `no agent listens at ${path}: is "keyward serve" running, with this socket?`
    case 'EACCES':
      return noPermission(path)
    default:
      return `connecting to ${path}: ${messageOf(err)}`
  }
}

// Says whom to ask for what. A directory on the way may hide the socket and its group.
function noPermission(path: string): string {
  const refused = `this user may not open ${path}:`
  let file: Stats
  try {
    file = statSync(path)
  } catch {
    return `${refused} ask the agent's operator which group may, and to add this user to it`
  }
  if ((file.mode & 0o020) === 0) return `${refused} only its owner, uid ${file.uid}, may; apps use the agent's other socket`
  if (file.gid === 0) return `${refused} ask the agent's operator to give the socket to a group that this user is in`
  return `${refused} ask the agent's operator to add this user to its group, gid ${file.gid}; then start this process again`
}

type Answer = { id: number; outcome: Outcome }

function parseAnswer(message: Record<string, unknown>): Answer {
  const { id, error } = message
  const rpcError = error === undefined || error === null ? undefined : rpcErrorOf(error)
  if (typeof id !== 'number' || !Number.isSafeInteger(id) || id < 1) {
    // The agent answers so when it could not read a request at all.
    throw new KeywardProtocolError(rpcError ? `the agent could not read a request: ${rpcError.shortMessage}` : 'an answer without an id')
  }
  if (rpcError) return { id, outcome: { error: rpcError } }
  if (!('result' in message)) throw new KeywardProtocolError(`answer ${id} has neither a result nor an error`)
  return { id, outcome: { result: message['result'] } }
}

function isRestarting(outcome: Outcome): boolean {
  return 'error' in outcome && outcome.error instanceof KeywardUnavailableError && outcome.error.reason === 'restarting'
}

function parseObject(line: string): Record<string, unknown> {
  let value: unknown
  try {
    value = JSON.parse(line)
  } catch (err) {
    throw new KeywardProtocolError('an answer is not JSON: does another program listen there?', err as Error)
  }
  if (!isRecord(value)) throw new KeywardProtocolError('an answer is not a JSON object')
  return value
}

function rpcErrorOf(error: unknown): KeywardError {
  if (!isRecord(error) || typeof error['code'] !== 'number' || typeof error['message'] !== 'string')
    throw new KeywardProtocolError('an error without code and message')
  const data = error['data']
  return errorFromResponse(error['code'], error['message'], isRecord(data) ? (data as KeywardErrorData) : undefined)
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function codeOf(err: unknown): string | undefined {
  return err instanceof Error && 'code' in err ? String(err.code) : undefined
}

function messageOf(err: unknown): string {
  return err instanceof Error ? err.message : String(err)
}
