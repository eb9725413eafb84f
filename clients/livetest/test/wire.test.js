// The bytes on the socket: framing, ids, pieces, and HTTP as curl speaks it.
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { connect } from 'node:net'
import { after, before, test } from 'node:test'
import { promisify } from 'node:util'

import { Fixture } from '../src/fixture.js'

const cleanups = []
const scope = { after: (fn) => cleanups.push(fn) }
let fixture

before(async () => {
  fixture = await Fixture.start(scope)
})
after(async () => {
  for (const cleanup of cleanups.reverse()) await cleanup()
})

/** A connection that reads answers, each of which has to be one line. */
class Wire {
  #lines = []
  #waiting = []
  #text = ''

  static open() {
    return new Promise((resolve, reject) => {
      const socket = connect({ path: fixture.agent.socket, allowHalfOpen: true })
      socket.once('error', reject)
      socket.once('connect', () => resolve(new Wire(socket)))
    })
  }

  constructor(socket) {
    this.socket = socket
    socket.setNoDelay(true).setEncoding('utf8')
    socket.on('data', (chunk) => {
      this.#text += chunk
      const lines = this.#text.split('\n')
      this.#text = lines.pop()
      this.#lines.push(...lines.map((line) => JSON.parse(line)))
      this.#deliver()
    })
    socket.on('end', () => this.#waiting.forEach(({ reject }) => reject(new Error('the agent closed the connection'))))
  }

  write(text) {
    return new Promise((resolve) => this.socket.write(text, resolve))
  }

  /** The next `n` answers. */
  answers(n) {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ n, resolve, reject })
      this.#deliver()
    })
  }

  #deliver() {
    while (this.#waiting.length > 0 && this.#lines.length >= this.#waiting[0].n) {
      const { n, resolve } = this.#waiting.shift()
      resolve(this.#lines.splice(0, n))
    }
  }
}

async function open(t) {
  const wire = await Wire.open()
  t.after(() => wire.socket.destroy())
  return wire
}

const accounts = (id) => ({ jsonrpc: '2.0', id, method: 'eth_accounts', params: [] })

for (const id of [0, '', '550e8400-e29b-41d4-a716-446655440000', 'ü', -1, 2 ** 53 - 1]) {
  test(`the id ${JSON.stringify(id)} comes back as it was`, async (t) => {
    const wire = await open(t)
    await wire.write(JSON.stringify(accounts(id)))
    const [answer] = await wire.answers(1)
    assert.deepEqual(answer, { jsonrpc: '2.0', id, result: [fixture.signer] })
  })
}

test('a request without params, and without a newline', async (t) => {
  const wire = await open(t)
  await wire.write('{"jsonrpc":"2.0","id":0,"method":"eth_chainId"}')
  assert.deepEqual(await wire.answers(1), [{ jsonrpc: '2.0', id: 0, result: '0x2b74' }])
})

test('a signature over a request cut into single bytes', async (t) => {
  const wire = await open(t)
  const tx = fixture.mint(1)
  const request = JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'eth_signTypedData_v4', params: [fixture.signer, fixture.typedData(tx)] })
  for (const byte of request) await wire.write(byte)
  const [{ result }] = await wire.answers(1)
  assert.ok(await fixture.signed(tx, result))
})

test('several requests in one write, with and without newlines', async (t) => {
  const wire = await open(t)
  const documents = [1, 'two', 3].map((id) => JSON.stringify(accounts(id)))
  await wire.write(`${documents[0]}${documents[1]}\n\n${documents[2]}`)
  const answers = await wire.answers(3)
  assert.deepEqual(new Set(answers.map((a) => a.id)), new Set([1, 'two', 3]))
  for (const answer of answers) assert.deepEqual(answer.result, [fixture.signer])
})

test('a batch is answered as one', async (t) => {
  const wire = await open(t)
  await wire.write(JSON.stringify([accounts(1), { jsonrpc: '2.0', id: 'x', method: 'nothing' }]))
  const [batch] = await wire.answers(1)
  assert.deepEqual(batch.find((a) => a.id === 1).result, [fixture.signer])
  assert.equal(batch.find((a) => a.id === 'x').error.code, -32601)
})

test('a writer that has closed its half still gets its answers', async (t) => {
  const wire = await open(t)
  const answers = wire.answers(2)
  wire.socket.end(JSON.stringify(accounts(1)) + JSON.stringify(accounts(2)))
  assert.deepEqual((await answers).map((a) => a.id).sort(), [1, 2])
})

test('what is no JSON is answered, with its id if that could be read', async (t) => {
  for (const [text, id] of [['{"jsonrpc":"2.0","id":1,]\n', 1], ['}\n', null]]) {
    const wire = await open(t)
    await wire.write(text)
    const [answer] = await wire.answers(1)
    assert.deepEqual([answer.id, answer.error.code], [id, -32700])
  }
})

test('a wrong request leaves the connection as good as it was', async (t) => {
  const wire = await open(t)
  await wire.write('{"jsonrpc":"2.0","id":7,"method":5}\n')
  const [wrong] = await wire.answers(1)
  assert.equal(wrong.error.code, -32600)
  await wire.write(JSON.stringify(accounts(8)))
  assert.deepEqual((await wire.answers(1))[0].result, [fixture.signer])
})

/** Runs curl against the agent, and returns the HTTP status and the body. */
async function curl(...args) {
  const url = ['--unix-socket', fixture.agent.socket, 'http://localhost/']
  const { stdout } = await promisify(execFile)('curl', ['--silent', '--show-error', '--write-out', '\n%{http_code}', ...url, ...args])
  const end = stdout.lastIndexOf('\n')
  return { status: Number(stdout.slice(end + 1)), body: JSON.parse(stdout.slice(0, end)) }
}

const body = JSON.stringify(accounts('http'))

test('curl -d, with the content type that it sends by itself', async () => {
  assert.deepEqual(await curl('-d', body), { status: 200, body: { jsonrpc: '2.0', id: 'http', result: [fixture.signer] } })
})

test('curl --json', async () => {
  assert.deepEqual((await curl('--json', body)).body.result, [fixture.signer])
})

test('curl with a chunked body', async () => {
  assert.deepEqual((await curl('-H', 'Transfer-Encoding: chunked', '-d', body)).body.result, [fixture.signer])
})

test('a denial is status 200 too', async () => {
  const params = [fixture.signer, fixture.typedData(fixture.theft(2))]
  const { status, body } = await curl('-d', JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'eth_signTypedData_v4', params }))
  assert.equal(status, 200)
  assert.equal(body.error.code, 4001)
  assert.equal(body.error.data.reason, 'callNotAllowed')
})

test('a GET, and a request from a web page, are refused as HTTP has it', async () => {
  assert.equal((await curl('--get')).status, 405)
  assert.equal((await curl('-d', body, '-H', 'Origin: https://example.com')).status, 403)
})
