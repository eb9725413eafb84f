import assert from 'node:assert/strict'
import { test } from 'node:test'

import { KeywardDeniedError, KeywardMalformedError, KeywardProtocolError, KeywardUnsupportedError, keyward, toKeywardAccount } from '@keyward/viem'
import { createWalletClient, custom, getAddress } from 'viem'
import { nonceManager } from 'viem/accounts'
import { sepolia } from 'viem/chains'
import { StubAgent } from './stub.js'

const signer = '0x34ca1501fae231cc2ebc995ce013dbe882d7d081'
const signature = `0x${'11'.repeat(64)}1b`
const typedData = {
  domain: { name: 'zkSync', version: '2', chainId: 11124 },
  types: { Transaction: [{ name: 'txType', type: 'uint256' }, { name: 'nonce', type: 'uint256' }] },
  primaryType: 'Transaction',
  message: { txType: 113n, nonce: 2n ** 200n },
}

async function accountFor(t, answer, options) {
  const stub = await StubAgent.start(t, answer)
  const account = toKeywardAccount({ socketPath: stub.path, signer, ...options })
  t.after(() => account.agent.close())
  return { stub, account }
}

test('the account is a local one, with a checksummed address', async (t) => {
  const { account } = await accountFor(t, () => '0x', { nonceManager })
  assert.equal(account.address, getAddress(signer))
  assert.equal(account.type, 'local')
  assert.equal(account.source, 'keyward')
  assert.equal(account.nonceManager, nonceManager)
})

test('a wrong signer is refused when the account is made', () => {
  assert.throws(() => toKeywardAccount({ socketPath: '/x', signer: '0x12' }), /Address "0x12" is invalid/)
})

test('signTypedData sends the typed data as text, with exact integers', async (t) => {
  const { stub, account } = await accountFor(t, () => signature)
  assert.equal(await account.signTypedData(typedData), signature)
  const { method, params } = stub.requests[0]
  assert.equal(method, 'eth_signTypedData_v4')
  assert.equal(params[0], getAddress(signer))
  const sent = JSON.parse(params[1])
  assert.equal(sent.message.nonce, (2n ** 200n).toString())
  assert.deepEqual(sent.types.Transaction, typedData.types.Transaction)
})

test('a signature that is none is refused', async (t) => {
  const { account } = await accountFor(t, () => '0x1234')
  await assert.rejects(account.signTypedData(typedData), KeywardProtocolError)
})

test('signMessage asks the agent, and its refusal is typed', async (t) => {
  const { stub, account } = await accountFor(t, () => Promise.reject({ code: 4001, message: 'User denied: messages are not signed' }))
  for (const message of ['hi', { raw: '0x6869' }, { raw: Uint8Array.of(0x68, 0x69) }]) {
    await assert.rejects(account.signMessage({ message }), KeywardDeniedError)
  }
  assert.deepEqual(stub.requests.map((r) => [r.method, ...r.params]), Array(3).fill(['personal_sign', '0x6869', getAddress(signer)]))
})

test('a bare digest is never signed, nor asked for', async (t) => {
  const { stub, account } = await accountFor(t, () => signature)
  await assert.rejects(account.sign({ hash: `0x${'22'.repeat(32)}` }), KeywardUnsupportedError)
  await assert.rejects(account.signAuthorization({ address: signer, chainId: 1, nonce: 0 }), KeywardUnsupportedError)
  assert.equal(stub.requests.length, 0)
})

test('signTransaction sends every field, and gives back the raw transaction', async (t) => {
  const { stub, account } = await accountFor(t, () => ({ raw: '0x02abcd' }))
  const accessList = [{ address: signer, storageKeys: [`0x${'00'.repeat(32)}`] }]
  const wallet = createWalletClient({
    account,
    chain: sepolia,
    transport: custom({ request: async () => '0xaa36a7' }),
  })
  const raw = await wallet.signTransaction({
    type: 'eip1559', to: signer, value: 10n ** 18n, data: '0x01', nonce: 0, gas: 21000n, maxFeePerGas: 5n, maxPriorityFeePerGas: 0n, accessList,
  })
  assert.equal(raw, '0x02abcd')
  assert.deepEqual(stub.requests[0].params, [
    {
      from: getAddress(signer), signer: getAddress(signer), type: '0x2', to: signer, value: '0xde0b6b3a7640000', data: '0x01', nonce: '0x0', gas: '0x5208',
      maxFeePerGas: '0x5', maxPriorityFeePerGas: '0x0', accessList, chainId: '0xaa36a7',
    },
  ])
  assert.equal(stub.requests[0].method, 'session_signTransaction')
})

test('a from that is the smart account stays, and the signer names the session', async (t) => {
  const { stub, account } = await accountFor(t, () => ({ raw: '0x71abcd' }))
  const from = '0x1111111111111111111111111111111111111111'
  const tx = { type: 'eip712', from, to: signer, nonce: 1, gas: 21000n, maxFeePerGas: 5n, gasPerPubdata: 50_000n, factoryDeps: [], chainId: 11124 }
  assert.equal(await account.signTransaction(tx), '0x71abcd')
  const { type, factoryDeps, ...sent } = stub.requests[0].params[0]
  assert.deepEqual([type, factoryDeps, sent.from, sent.signer], ['0x71', undefined, from, getAddress(signer)])
})

const refused = [
  ['an unknown field', { to: signer, feeCurrency: signer }, /feeCurrency/],
  ['blobs', { to: signer, blobs: ['0x00'] }, /blobs/],
  ['an authorization list', { to: signer, authorizationList: [{}] }, /authorizationList/],
  ['an inexact number', { to: signer, nonce: 2 ** 53 }, /nonce/],
  ['a negative value', { to: signer, value: -1n }, /value/],
  ['a text where an integer belongs', { to: signer, gas: '21000' }, /gas/],
  ['an unknown type', { to: signer, type: 'deposit' }, /deposit/],
]
for (const [name, tx, want] of refused) {
  test(`signTransaction refuses ${name} before it asks`, async (t) => {
    const { stub, account } = await accountFor(t, () => '0x02')
    await assert.rejects(account.signTransaction(tx), (err) => {
      assert.ok(err instanceof KeywardMalformedError, String(err))
      assert.match(err.message, want)
      return true
    })
    assert.equal(stub.requests.length, 0)
  })
}

test('types that only the agent refuses reach it', async (t) => {
  const { stub, account } = await accountFor(t, () => Promise.reject({ code: 4001, message: 'User denied: blobs' }))
  await assert.rejects(account.signTransaction({ to: signer, type: 'eip4844' }), KeywardDeniedError)
  assert.equal(stub.requests[0].params[0].type, '0x3')
})

test('accounts can share one connection', async (t) => {
  const stub = await StubAgent.start(t, () => signature)
  const agent = keyward(stub.path)
  t.after(() => agent.close())
  const accounts = [signer, '0x00000000000000000000000000000000000000a1'].map((signer) => toKeywardAccount({ agent, signer }))
  await Promise.all(accounts.map((account) => account.signTypedData(typedData)))
  assert.equal(stub.connections, 1)
})

test("the account's signal ends what is under way", async (t) => {
  const controller = new AbortController()
  const { stub, account } = await accountFor(t, () => StubAgent.silent, { signal: controller.signal })
  const signing = account.signTypedData(typedData)
  await stub.until(() => stub.requests.length === 1)
  controller.abort()
  await assert.rejects(signing, { name: 'AbortError' })
})
