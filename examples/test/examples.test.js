// Each example against a real agent and a stub node.
import assert from 'node:assert/strict'
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { after, before, suite, test } from 'node:test'
import { promisify } from 'node:util'

import { fromRlp, pad, slice } from 'viem'

process.env.KEYWARD_BIN ??= join(import.meta.dirname, '.build', 'keyward')
const { Agent } = await import('../../clients/livetest/src/agent.js')
const { StubNode } = await import('../../clients/livetest/src/node.js')

const examples = join(import.meta.dirname, '..')
const exec = promisify(execFile)

const account = '0x1111111111111111111111111111111111111111'
const items = '0xC4822AbB9F05646A9Ce44EFa6dDcda0Bf45595AA'
const player = '0xA16081F360e3847006dB660bae1c6d1b2e17eC2A'
const shop = '0x5555555555555555555555555555555555555555'
const stranger = '0x7777777777777777777777777777777777777777'
const ether = 10n ** 18n

const lifetime = (limit) => ({ limitType: 'Lifetime', limit, period: 0n })

/** Five items to one player, and a tenth of an ether to the shop. */
const spec = {
  expiresAt: BigInt(Math.floor(Date.now() / 1000) + 86_400),
  feeLimit: lifetime(ether),
  callPolicies: [
    {
      target: items,
      selector: '0x40c10f19',
      maxValuePerUse: 0n,
      valueLimit: lifetime(0n),
      constraints: [
        { condition: 'Equal', index: 0n, refValue: pad(player), limit: { limitType: 'Unlimited', limit: 0n, period: 0n } },
        { condition: 'Unconstrained', index: 1n, refValue: pad('0x'), limit: lifetime(5n) },
      ],
    },
  ],
  transferPolicies: [{ target: shop, maxValuePerUse: ether, valueLimit: lifetime(ether / 10n) }],
}

/** An agent with that session, and a node; `env` is what an example needs to find both. */
async function world(t) {
  const agent = await Agent.start(t)
  await agent.createSession(spec, { account })
  const node = await StubNode.start(t)
  return { agent, node, env: { ...process.env, KEYWARD_SOCKET: agent.socket, RPC_URL: node.url, PORT: '0' } }
}

/** Starts a program that is stopped when the test is over. */
function start(t, command, args, env) {
  const child = spawn(command, args, { cwd: examples, env, stdio: ['pipe', 'pipe', 'inherit'] })
  t.after(async () => {
    if (child.exitCode !== null) return
    const exited = once(child, 'exit')
    child.kill()
    await exited
  })
  return child
}

/** Checks that the node was sent a session transaction to each of these, in order. */
function sentTo(node, ...targets) {
  const sent = node.raws.map((raw) => {
    assert.equal(slice(raw, 0, 1), '0x71')
    return fromRlp(slice(raw, 1))[4]
  })
  assert.deepEqual(sent, targets.map((target) => target.toLowerCase()))
}

test('game server', async (t) => {
  const { node, env } = await world(t)
  const server = start(t, 'node', ['dist/gameserver/server.js'], env)
  const [line] = await once(createInterface({ input: server.stdout }), 'line')
  const url = /http:\S+/.exec(line)[0]
  const mint = async (body) => {
    const response = await fetch(`${url}/mint`, { method: 'POST', body: JSON.stringify(body) })
    return { status: response.status, body: await response.json() }
  }

  const minted = await mint({ to: player, amount: 1 })
  assert.equal(minted.status, 200)
  assert.match(minted.body.hash, /^0x[0-9a-f]{64}$/)
  assert.equal((await mint({ to: 'nobody', amount: 1 })).status, 400)
  assert.deepEqual((await mint({ to: stranger, amount: 1 })).body.reason, 'constraintNotMet')
  const greedy = await mint({ to: player, amount: 5 })
  assert.deepEqual([greedy.status, greedy.body.reason, greedy.body.remaining], [403, 'lifetimeLimitExceeded', '4'])
  // Refusals have left no gap in the nonces, and players who come at once get one each.
  const statuses = await Promise.all([1, 2, 3].map(async () => (await mint({ to: player, amount: 1 })).status))
  assert.deepEqual(statuses, [200, 200, 200])
  sentTo(node, items, items, items, items)
  assert.deepEqual(node.raws.map((raw) => Number(fromRlp(slice(raw, 1))[0])), [7, 8, 9, 10])
})

test('Go bot mints until it is told that it is enough', async (t) => {
  const { node, env } = await world(t)
  const { stdout } = await exec(join(import.meta.dirname, '.build', 'gobot'), ['--to', player, '--interval', '1ms'], { env })
  const lines = stdout.trimEnd().split('\n')
  assert.deepEqual(lines.map((line) => line.split(':')[0]), [...Array(5).fill('minted'), 'enough'])
  assert.match(lines[5], /Lifetime limit exceeded/)
  sentTo(node, ...Array(5).fill(items))
})

suite('shell', () => {
  const script = join(examples, 'shell', 'mint.sh')

  test('mints', async (t) => {
    const { node, env } = await world(t)
    const { stdout } = await exec(script, [player, '2'], { env })
    assert.match(stdout, /^0x[0-9a-f]{64}\n$/)
    sentTo(node, items)
  })

  test('prints the raw transaction if there is no node', async (t) => {
    const { env } = await world(t)
    const { stdout } = await exec(script, [player], { env: { ...env, RPC_URL: '' } })
    assert.match(stdout, /^0x71[0-9a-f]+\n$/)
  })

  test('says why it was refused, and exits with 3', async (t) => {
    const { node, env } = await world(t)
    await assert.rejects(exec(script, [stranger], { env }), (err) => {
      assert.equal(err.code, 3)
      assert.match(err.stderr, /EQUAL constraint not met/)
      return true
    })
    sentTo(node)
  })
})

suite('tool server', () => {
  const cleanups = []
  const scope = { after: (fn) => cleanups.push(fn) }
  let node, server, lines
  let id = 0

  before(async () => {
    let env
    ;({ node, env } = await world(scope))
    server = start(scope, 'node', ['dist/toolserver/server.js'], env)
    lines = createInterface({ input: server.stdout })[Symbol.asyncIterator]()
  })
  after(async () => {
    for (const cleanup of cleanups.reverse()) await cleanup()
  })

  async function ask(method, params) {
    server.stdin.write(`${JSON.stringify({ jsonrpc: '2.0', id: ++id, method, params })}\n`)
    const answer = JSON.parse((await lines.next()).value)
    assert.equal(answer.id, id)
    return answer
  }

  async function call(name, args = {}) {
    const { content, isError } = (await ask('tools/call', { name, arguments: args })).result
    return { text: content[0].text, isError }
  }

  test('introduces itself and its tools', async () => {
    assert.deepEqual((await ask('initialize', { protocolVersion: '2025-06-18' })).result.capabilities, { tools: {} })
    server.stdin.write('{"jsonrpc":"2.0","method":"notifications/initialized"}\n')
    const { tools } = (await ask('tools/list')).result
    assert.deepEqual(tools.map((tool) => tool.name), ['budget', 'pay', 'mint'])
    assert.equal((await ask('resources/list')).error.code, -32601)
  })

  test('pays and mints', async () => {
    assert.match((await call('pay', { to: shop, ether: '0.06' })).text, /^paid 0.06 ether: 0x/)
    assert.match((await call('mint', { to: player, amount: 2 })).text, /^minted 2: 0x/)
    sentTo(node, shop, items)
  })

  test('tells what is left', async () => {
    assert.match((await call('budget')).text, /transferValue:0x5{40}: 40000000000000000 of 100000000000000000 left/)
  })

  test('spends no more than the session allows, however it is asked', async () => {
    const over = await call('pay', { to: shop, ether: '0.05' })
    assert.deepEqual([over.isError, /\(40000000000000000 left\)/.test(over.text)], [true, true], over.text)
    const theft = await call('pay', { to: stranger, ether: '0.01' })
    assert.match(theft.text, /^Not allowed: .*Transfer to this address is not allowed/)
    assert.equal((await call('pay', { to: shop, ether: '0.04' })).isError, false)
    sentTo(node, shop, items, shop)
  })

  test('survives nonsense', async () => {
    assert.equal((await call('steal')).isError, true)
    assert.equal((await call('pay', { to: 'me', ether: 'all' })).isError, true)
    server.stdin.write('}\n')
    assert.equal(JSON.parse((await lines.next()).value).error.code, -32700)
    assert.deepEqual((await ask('ping')).result, {})
  })
})
