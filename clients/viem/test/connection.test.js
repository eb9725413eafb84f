import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { test } from 'node:test'

import {
  KeywardMalformedError,
  KeywardProtocolError,
  KeywardUnavailableError,
  keyward,
} from '@keyward/viem'
import { StubAgent } from './stub.js'

const echo = ({ params }) => params[0]

function client(t, stub, options) {
  const agent = keyward(stub.path, options)
  t.after(() => agent.close())
  return agent
}

test('requests are JSON-RPC 2.0 documents with ids of their own', async (t) => {
  const stub = await StubAgent.start(t, echo)
  const agent = client(t, stub)
  assert.equal(await agent.request('a', ['x']), 'x')
  assert.equal(await agent.request('b', ['y']), 'y')
  assert.deepEqual(stub.requests, [
    { jsonrpc: '2.0', id: 1, method: 'a', params: ['x'] },
    { jsonrpc: '2.0', id: 2, method: 'b', params: ['y'] },
  ])
})

test('100 requests share one connection and may be answered in any order', async (t) => {
  const held = []
  const stub = await StubAgent.start(t, ({ params }) => new Promise((resolve) => held.push(() => resolve(params[0]))))
  const agent = client(t, stub)
  const answers = Array.from({ length: 100 }, (_, i) => agent.request('echo', [i]))
  await stub.until(() => held.length === 100)
  for (const answer of held.reverse()) answer()
  assert.deepEqual(await Promise.all(answers), Array.from({ length: 100 }, (_, i) => i))
  assert.equal(stub.connections, 1)
})

test('answers arrive in pieces, and several in one piece', async (t) => {
  const word = 'zwölf 🗝'
  const stub = await StubAgent.start(t, async ({ id }, socket) => {
    if (id < 3) return StubAgent.silent
    const answers = Buffer.from([3, 1, 2].map((n) => `${JSON.stringify({ jsonrpc: '2.0', id: n, result: word + n })}\n`).join(''))
    for (const byte of answers.subarray(0, 60)) {
      await new Promise((resolve) => socket.write(Buffer.of(byte), resolve))
    }
    socket.write(answers.subarray(60))
    return StubAgent.silent
  })
  const agent = client(t, stub)
  const answers = await Promise.all([1, 2, 3].map(() => agent.request('x')))
  assert.deepEqual(answers, [`${word}1`, `${word}2`, `${word}3`])
})

test('an unanswered request is sent again when the agent is back', async (t) => {
  const stub = await StubAgent.start(t, () => StubAgent.silent)
  const agent = client(t, stub)
  const answer = agent.request('sign', ['tx'])
  await stub.until(() => stub.requests.length === 1)
  await stub.stop()
  stub.answer = echo
  await stub.listen()
  assert.equal(await answer, 'tx')
  assert.deepEqual(stub.requests[1], stub.requests[0])
  assert.equal(await agent.request('sign', ['more']), 'more')
})

test('a request that a stopping agent turns away goes to its successor', async (t) => {
  const stub = await StubAgent.start(t, () => Promise.reject({ code: -32000, message: 'restarting', data: { reason: 'restarting', retryable: true } }))
  const agent = client(t, stub)
  const answer = agent.request('sign', ['tx'])
  await stub.until(() => stub.requests.length === 1)
  stub.answer = echo
  for (const socket of stub.sockets) socket.end()
  assert.equal(await answer, 'tx')
})

test('answered requests are not sent again', async (t) => {
  const stub = await StubAgent.start(t, echo)
  const agent = client(t, stub)
  await agent.request('a', [1])
  await stub.stop()
  await stub.listen()
  await agent.request('b', [2])
  assert.deepEqual(stub.requests.map((r) => r.method), ['a', 'b'])
})

test('a request that loses its connection twice fails, retryable', async (t) => {
  const stub = await StubAgent.start(t, (_, socket) => {
    socket.destroy()
    return StubAgent.silent
  })
  await assert.rejects(client(t, stub).request('x'), (err) => {
    assert.ok(err instanceof KeywardUnavailableError)
    assert.equal(err.reason, 'connectionLost')
    assert.equal(err.retryable, true)
    return true
  })
  assert.equal(stub.requests.length, 2)
})

test('a request waits for an agent that starts a little later', async (t) => {
  const stub = await StubAgent.start(t, echo)
  await stub.stop()
  const answer = client(t, stub).request('x', ['late'])
  await stub.listen()
  assert.equal(await answer, 'late')
})

test('no agent: the error names the socket, and the next request tries anew', async (t) => {
  const stub = await StubAgent.start(t, echo)
  await stub.stop()
  const agent = client(t, stub, { reconnectFor: 30 })
  await assert.rejects(agent.request('x'), (err) => {
    assert.ok(err instanceof KeywardUnavailableError)
    assert.equal(err.reason, 'notReachable')
    assert.ok(err.message.includes(stub.path), err.message)
    return true
  })
  await stub.listen()
  assert.equal(await agent.request('x', [1]), 1)
})

test('a time-out gives up one request and lets its late answer pass', async (t) => {
  let answerLate
  const stub = await StubAgent.start(t, ({ method, params }) => (method === 'slow' ? new Promise((r) => (answerLate = r)) : params[0]))
  const agent = client(t, stub)
  await assert.rejects(agent.request('slow', [], { timeout: 20 }), (err) => {
    assert.ok(err instanceof KeywardUnavailableError)
    assert.equal(err.reason, 'timedOut')
    assert.equal(err.retryable, true)
    return true
  })
  answerLate('too late')
  assert.equal(await agent.request('fast', ['ok']), 'ok')
  assert.equal(stub.connections, 1)
})

test("the client's own time-out also bounds the wait for a connection", async (t) => {
  const stub = await StubAgent.start(t, echo)
  await stub.stop()
  const agent = client(t, stub, { timeout: 30, reconnectFor: 60_000 })
  await assert.rejects(agent.request('x'), { reason: 'timedOut' })
})

test('a signal gives up one request with its own reason', async (t) => {
  const stub = await StubAgent.start(t, ({ method, params }) => (method === 'slow' ? StubAgent.silent : params[0]))
  const agent = client(t, stub)
  const controller = new AbortController()
  const slow = agent.request('slow', [], { signal: controller.signal })
  await stub.until(() => stub.requests.length === 1)
  controller.abort(new Error('changed my mind'))
  await assert.rejects(slow, { message: 'changed my mind' })
  assert.equal(await agent.request('fast', [1]), 1)
})

test('a signal that was aborted before sends nothing', async (t) => {
  const stub = await StubAgent.start(t, echo)
  const agent = client(t, stub)
  await assert.rejects(agent.request('x', [], { signal: AbortSignal.abort() }), { name: 'AbortError' })
  assert.equal(await agent.request('y', [1]), 1)
  assert.deepEqual(stub.requests.map((r) => r.method), ['y'])
})

test('close rejects what is under way and everything later', async (t) => {
  const stub = await StubAgent.start(t, () => StubAgent.silent)
  const agent = client(t, stub)
  const slow = agent.request('x')
  await stub.until(() => stub.requests.length === 1)
  agent.close()
  await assert.rejects(slow, { reason: 'closed', retryable: false })
  await assert.rejects(agent.request('y'), { reason: 'closed' })
  await stub.until(() => stub.sockets.size === 0)
})

test('an idle connection is closed, and opened again when needed', async (t) => {
  const stub = await StubAgent.start(t, echo)
  const agent = client(t, stub, { idleTimeout: 10 })
  await agent.request('x', [1])
  // The idle timer alone would not keep this process waiting for it.
  const alive = setInterval(() => {}, 1000)
  t.after(() => clearInterval(alive))
  await stub.until(() => stub.sockets.size === 0)
  assert.equal(await agent.request('x', [2]), 2)
  assert.equal(stub.connections, 2)
})

test('a request above the bound is refused here, and harms no other', async (t) => {
  const stub = await StubAgent.start(t, echo)
  const agent = client(t, stub, { maxRequestBytes: 200 })
  await assert.rejects(agent.request('x', ['é'.repeat(100)]), KeywardMalformedError)
  assert.equal(await agent.request('x', ['small']), 'small')
  assert.equal(stub.requests.length, 1)
})

const badAnswers = [
  ['no JSON', 'HTTP/1.1 400 Bad Request\n', /not JSON/],
  ['no object', '[1]\n', /not a JSON object/],
  ['no id', '{"jsonrpc":"2.0","result":1}\n', /without an id/],
  ['a null id with an error', '{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"bad JSON"}}\n', /could not read a request: bad JSON/],
  ['an id that was never given', '{"jsonrpc":"2.0","id":99,"result":1}\n', /99/],
  ['neither result nor error', '{"jsonrpc":"2.0","id":1}\n', /neither/],
  ['an error without a code', '{"jsonrpc":"2.0","id":1,"error":{"message":"x"}}\n', /without code/],
  ['an endless line', 'x'.repeat(5000), /longer than 1000 bytes/],
]
for (const [name, answer, want] of badAnswers) {
  test(`an answer with ${name} ends the connection, unrepeated`, async (t) => {
    const stub = await StubAgent.start(t, (_, socket) => {
      socket.write(answer)
      return StubAgent.silent
    })
    const agent = client(t, stub, { maxResponseBytes: 1000 })
    await assert.rejects(agent.request('x'), (err) => {
      assert.ok(err instanceof KeywardProtocolError, String(err))
      assert.match(err.message, want)
      return true
    })
    stub.answer = echo
    assert.equal(await agent.request('x', ['again']), 'again')
    assert.deepEqual(stub.requests.map((r) => r.id), [1, 2])
  })
}

test('an open connection does not keep the process alive; a request does', async (t) => {
  const stub = await StubAgent.start(t, ({ params }) => new Promise((resolve) => setTimeout(resolve, 50, params[0])))
  const script = `
    import { keyward } from '@keyward/viem'
    const agent = keyward(${JSON.stringify(stub.path)})
    console.log(await agent.request('x', ['answered']))`
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    cwd: import.meta.dirname,
    stdio: ['ignore', 'pipe', 'inherit'],
    timeout: 20_000,
  })
  let out = ''
  child.stdout.on('data', (chunk) => (out += chunk))
  const [code, signal] = await once(child, 'close')
  assert.deepEqual({ code, signal, out }, { code: 0, signal: null, out: 'answered\n' })
})

test('a socket that is a plain file is an error at once', async (t) => {
  const stub = await StubAgent.start(t, echo)
  const agent = keyward(`${stub.path}/not/a/directory`, { reconnectFor: 60_000 })
  await assert.rejects(agent.request('x'), { reason: 'notReachable' })
})
