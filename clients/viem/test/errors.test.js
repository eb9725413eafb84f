import assert from 'node:assert/strict'
import { test } from 'node:test'

import {
  findKeywardError,
  KeywardDeniedError,
  KeywardError,
  KeywardLimitedError,
  KeywardMalformedError,
  KeywardUnauthorizedError,
  KeywardUnavailableError,
  KeywardUnsupportedError,
  keyward,
  toKeywardAccount,
} from '@keyward/viem'
import { BaseError, createWalletClient, custom, TransactionExecutionError } from 'viem'
import { sepolia } from 'viem/chains'
import { StubAgent } from './stub.js'

const signer = '0x00000000000000000000000000000000000000a1'

async function errorFor(t, error) {
  const stub = await StubAgent.start(t, () => Promise.reject(error))
  const agent = keyward(stub.path)
  t.after(() => agent.close())
  return agent.request('x').then(
    () => assert.fail('was answered'),
    (err) => err,
  )
}

const kinds = [
  [4001, KeywardDeniedError, false],
  [4100, KeywardUnauthorizedError, false],
  [4200, KeywardUnsupportedError, false],
  [-32601, KeywardUnsupportedError, false],
  [-32700, KeywardMalformedError, false],
  [-32600, KeywardMalformedError, false],
  [-32602, KeywardMalformedError, false],
  [-32000, KeywardUnavailableError, false],
  [-32005, KeywardLimitedError, true],
  [-32603, KeywardError, false],
]
for (const [code, kind, retryable] of kinds) {
  test(`code ${code} becomes ${kind.name}`, async (t) => {
    const err = await errorFor(t, { code, message: 'the message', data: { reason: 'aWord' } })
    assert.equal(err.constructor, kind)
    assert.equal(err.name, kind.name)
    assert.ok(err instanceof BaseError)
    assert.deepEqual(
      { code: err.code, short: err.shortMessage, reason: err.reason, retryable: err.retryable },
      { code, short: 'the message', reason: 'aWord', retryable },
    )
  })
}

test('unavailable errors are retryable where the agent says so', async (t) => {
  const err = await errorFor(t, { code: -32000, message: 'locked', data: { reason: 'locked', retryable: true } })
  assert.equal(err.retryable, true)
})

test('errors say what to do, and where', async (t) => {
  const locked = await errorFor(t, { code: -32000, message: 'locked', data: { reason: 'deviceLocked', hint: 'keyward unlock' } })
  assert.equal(locked.hint, 'keyward unlock')
  const malformed = await errorFor(t, { code: -32602, message: 'invalid params', data: { reason: 'invalidParams', path: 'message.gasLimit' } })
  assert.equal(malformed.path, 'message.gasLimit')
})

test('a denial carries what was compared, exactly', async (t) => {
  const err = await errorFor(t, {
    code: 4001,
    message: 'User denied: Lifetime limit exceeded',
    data: {
      reason: 'lifetimeLimitExceeded',
      revert: 'Lifetime limit exceeded',
      policy: 0,
      constraint: 2,
      limit: '115792089237316195423570985008687907853269984665640564039457584007913129639935',
      used: '9007199254740993',
      asked: '5',
      remaining: '0',
    },
  })
  assert.equal(err.reason, 'lifetimeLimitExceeded')
  assert.equal(err.revert, 'Lifetime limit exceeded')
  assert.deepEqual([err.policy, err.constraint], [0, 2])
  assert.deepEqual([err.limit, err.used, err.asked, err.remaining], [2n ** 256n - 1n, 9007199254740993n, 5n, 0n])
  assert.match(err.message, /used 9007199254740993, asked 5, remaining 0/)
})

test('a denial without a limit has none', async (t) => {
  const err = await errorFor(t, { code: 4001, message: 'User denied', data: { reason: 'expired', policy: -1, constraint: -1 } })
  assert.deepEqual([err.revert, err.policy, err.constraint, err.limit, err.remaining], Array(5).fill(undefined))
})

test('viem keeps the error as a cause, and findKeywardError finds it', async (t) => {
  const message = 'User denied: Call to this contract is not allowed'
  const stub = await StubAgent.start(t, () => Promise.reject({ code: 4001, message, data: { reason: 'callNotAllowed' } }))
  const account = toKeywardAccount({ socketPath: stub.path, signer })
  t.after(() => account.agent.close())
  const node = { eth_chainId: '0xaa36a7' }
  const wallet = createWalletClient({
    account,
    chain: sepolia,
    transport: custom({ request: async ({ method }) => node[method] ?? assert.fail(`the node was asked ${method}`) }),
  })
  const tx = { to: signer, gas: 21000n, nonce: 0, maxFeePerGas: 1n, maxPriorityFeePerGas: 0n, type: 'eip1559' }
  await assert.rejects(wallet.sendTransaction(tx), (err) => {
    assert.ok(err instanceof TransactionExecutionError)
    assert.match(err.message, /Call to this contract is not allowed/)
    assert.equal(findKeywardError(err, KeywardDeniedError).reason, 'callNotAllowed')
    assert.equal(findKeywardError(err, KeywardUnavailableError), undefined)
    assert.equal(findKeywardError(err).code, 4001)
    return true
  })
})

test('findKeywardError ends on other errors and on circles', () => {
  const circle = new Error('a')
  circle.cause = new Error('b', { cause: circle })
  assert.equal(findKeywardError(circle), undefined)
  assert.equal(findKeywardError('text'), undefined)
  assert.equal(findKeywardError(undefined), undefined)
})
