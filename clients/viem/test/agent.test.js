import assert from 'node:assert/strict'
import { test } from 'node:test'

import { KeywardDeniedError, KeywardProtocolError, keyward } from '@keyward/viem'
import { StubAgent } from './stub.js'

const address = '0x34ca1501FAE231cC2ebc995CE013Dbe882d7d081'
const word = `0x${'0'.repeat(62)}a1`
const lifetime = (limit) => ({ limitType: 1, limit, period: '0' })
const session = {
  id: '00112233aabbccdd',
  kind: 'agw',
  signer: address.toLowerCase(),
  account: address.toLowerCase(),
  chainId: 11124,
  validator: address,
  status: 'active',
  sessionHash: word,
  session: {
    signer: address.toLowerCase(),
    expiresAt: '1800000000',
    feeLimit: lifetime('1000000000000000000'),
    callPolicies: [
      {
        target: address,
        selector: '0x40c10f19',
        maxValuePerUse: '0',
        valueLimit: lifetime('0'),
        constraints: [{ condition: 1, index: '0', refValue: word, limit: { limitType: 2, limit: '5', period: '86400' } }],
      },
    ],
    transferPolicies: [],
  },
  keyUri: 'pkcs11:token=x;id=%01',
  backend: 'softhsm',
  protection: 'resident',
  clients: ['uid:1000'],
  createdAt: '2026-01-02T03:04:05Z',
  signsUntil: '2027-01-15T07:59:00Z',
}

async function agentFor(t, answer) {
  const stub = await StubAgent.start(t, answer)
  const agent = keyward(stub.path)
  t.after(() => agent.close())
  return { stub, agent }
}

test('sessions come in the shape of the SDK, integers as bigints', async (t) => {
  const { stub, agent } = await agentFor(t, () => [session])
  const [got] = await agent.sessions()
  assert.deepEqual(stub.requests[0].params, [])
  assert.equal(got.signer, address)
  assert.equal(got.createdAt.toISOString(), '2026-01-02T03:04:05.000Z')
  assert.equal(got.activatedAt, undefined)
  assert.deepEqual(got.session, {
    signer: address,
    expiresAt: 1800000000n,
    feeLimit: { limitType: 1, limit: 10n ** 18n, period: 0n },
    callPolicies: [
      {
        target: address,
        selector: '0x40c10f19',
        maxValuePerUse: 0n,
        valueLimit: { limitType: 1, limit: 0n, period: 0n },
        constraints: [{ condition: 1, index: 0n, refValue: word, limit: { limitType: 2, limit: 5n, period: 86400n } }],
      },
    ],
    transferPolicies: [],
  })
})

test('no sessions is an empty list', async (t) => {
  const { agent } = await agentFor(t, () => [])
  assert.deepEqual(await agent.sessions(), [])
})

test('one session comes with what is left of its limits', async (t) => {
  const limits = [{ tracker: 'fee', limit: '10', used: '4', remaining: '6' }]
  const { stub, agent } = await agentFor(t, () => ({ ...session, limits, outstanding: 2, createSessionCalldata: '0x5a0694d2' }))
  const got = await agent.session(session.id)
  assert.deepEqual([stub.requests[0].method, stub.requests[0].params], ['session_get', [session.id]])
  assert.deepEqual(got.limits, [{ tracker: 'fee', limit: 10n, used: 4n, remaining: 6n }])
  assert.deepEqual([got.outstanding, got.createSessionCalldata], [2, '0x5a0694d2'])
})

const tx = { session: session.id, hooks: [address], from: address, to: address, data: '0x40c10f19', nonce: 7, gas: 300000n, maxFeePerGas: 25000000n, paymaster: address, paymasterInput: '0x8c5a3445' }
const txOnWire = { ...tx, nonce: '0x7', gas: '0x493e0', maxFeePerGas: '0x17d7840' }
const charges = [{ tracker: 'fee', limit: '100', amount: '7' }]

test('signTransaction gives all that was signed', async (t) => {
  const signed = { raw: '0x71', hash: word, signature: word, customSignature: '0xcc', digest: word, session: session.id, sessionHash: word, periodIds: [0, '20123'] }
  const { stub, agent } = await agentFor(t, () => signed)
  assert.deepEqual(await agent.signTransaction(tx), { ...signed, periodIds: [0n, 20123n] })
  assert.deepEqual(stub.requests[0].params, [txOnWire])
})

test('an eoa session has no customSignature and no period ids', async (t) => {
  const { agent } = await agentFor(t, () => ({ raw: '0x02', hash: word, signature: word, digest: word, session: session.id, sessionHash: word }))
  const signed = await agent.signTransaction({ from: address, to: address, nonce: 0, gas: 1n })
  assert.deepEqual([signed.customSignature, signed.periodIds], [undefined, []])
})

test('simulate gives the charges of what is allowed', async (t) => {
  const { stub, agent } = await agentFor(t, () => ({ allow: true, charges, digest: word, session: session.id, periodIds: [0] }))
  const verdict = await agent.simulate(tx)
  assert.deepEqual([stub.requests[0].method, stub.requests[0].params], ['session_simulate', [txOnWire]])
  assert.deepEqual(verdict, {
    allow: true, denial: undefined, charges: [{ tracker: 'fee', limit: 100n, amount: 7n }], digest: word, session: session.id, periodIds: [0n],
  })
})

test('simulate gives the error that signing would throw', async (t) => {
  const denial = { reason: 'lifetimeLimitExceeded', revert: 'Lifetime limit exceeded', limit: '5', used: '5', asked: '1', remaining: '0' }
  const answer = { allow: false, reason: denial.reason, message: 'Lifetime limit exceeded', denial, charges: [], digest: word, session: session.id }
  const { agent } = await agentFor(t, () => answer)
  const verdict = await agent.simulate(tx)
  assert.equal(verdict.allow, false)
  assert.ok(verdict.denial instanceof KeywardDeniedError)
  assert.deepEqual([verdict.denial.reason, verdict.denial.remaining], ['lifetimeLimitExceeded', 0n])
})

const broken = [
  ['a missing field', { ...session, signer: undefined }, /session_get\.signer: want an address/],
  ['an inexact integer', { ...session, chainId: 2 ** 53 }, /session_get\.chainId: want an exact integer/],
  ['a wrong amount', { ...session, session: { ...session.session, expiresAt: '-1' } }, /session_get\.session\.expiresAt: want an unsigned integer/],
  ['a wrong time', { ...session, createdAt: 'yesterday' }, /session_get\.createdAt: want a time/],
  ['a text for a list', { ...session, clients: 'uid:1' }, /session_get\.clients: want a list/],
  ['a list for an object', [session], /session_get: want an object/],
]
for (const [name, answer, want] of broken) {
  test(`an answer with ${name} is refused with its path`, async (t) => {
    const { agent } = await agentFor(t, () => answer)
    await assert.rejects(agent.session(session.id), (err) => {
      assert.ok(err instanceof KeywardProtocolError)
      assert.match(err.message, want)
      return true
    })
  })
}
