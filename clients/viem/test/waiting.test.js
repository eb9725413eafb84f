import assert from 'node:assert/strict'
import { test } from 'node:test'

import { keyward } from '@keyward/viem'
import { StubAgent } from './stub.js'

const waiting = (socket, id, what) => socket.write(`${JSON.stringify({ jsonrpc: '2.0', method: 'keyward_waiting', params: { id, for: what } })}\n`)

function client(t, stub) {
  const told = []
  const agent = keyward(stub.path, { onWaiting: (what) => told.push(what) })
  t.after(() => agent.close())
  return { agent, told }
}

test('who wants to be told asks once on each connection, before all else', async (t) => {
  const stub = await StubAgent.start(t, ({ method }) => (method === 'rpc_notifyWaiting' ? Promise.reject({ code: -32601, message: 'no' }) : method))
  const { agent, told } = client(t, stub)
  assert.equal(await agent.request('a'), 'a')
  assert.equal(await agent.request('b'), 'b')
  for (const socket of stub.sockets) socket.destroy()
  assert.equal(await agent.request('c'), 'c')
  assert.deepEqual(stub.requests.map(({ method }) => method), ['rpc_notifyWaiting', 'a', 'b', 'rpc_notifyWaiting', 'c'])
  assert.deepEqual(told, [])
})

test('a wait is told of once, until the last request that has it is over', async (t) => {
  const held = []
  const stub = await StubAgent.start(t, ({ id, method }, socket) => {
    if (method === 'rpc_notifyWaiting') return { ok: true }
    waiting(socket, 4711, 'somebody else')
    waiting(socket, id, 'touch it')
    return new Promise((resolve) => held.push(() => resolve(id)))
  })
  const { agent, told } = client(t, stub)
  const answers = [agent.request('x'), agent.request('y')]
  await stub.until(() => held.length === 2)
  held[0]()
  await answers[0]
  assert.deepEqual(told, ['touch it'])
  held[1]()
  await answers[1]
  assert.deepEqual(told, ['touch it', ''])
})

test('what onWaiting throws does not end the connection', async (t) => {
  const stub = await StubAgent.start(t, ({ id, method }, socket) => {
    if (method === 'x') waiting(socket, id, 'touch it')
    return method
  })
  const thrown = []
  process.setUncaughtExceptionCaptureCallback((err) => thrown.push(err.message))
  t.after(() => process.setUncaughtExceptionCaptureCallback(null))
  const agent = keyward(stub.path, { onWaiting: (what) => { throw new Error(what) } })
  t.after(() => agent.close())
  assert.equal(await agent.request('x'), 'x')
  assert.equal(await agent.request('y'), 'y')
  assert.deepEqual(thrown, ['touch it', ''])
  assert.equal(stub.connections, 1)
})
