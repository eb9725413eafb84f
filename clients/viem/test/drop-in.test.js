// toKeywardAccount beside viem's privateKeyToAccount: the stub agent signs what it is sent with the same key, so
// that equal signatures mean that the same thing was sent.
import assert from 'node:assert/strict'
import { test } from 'node:test'

import { KeywardDeniedError, KeywardError, KeywardMalformedError, KeywardUnsupportedError, toKeywardAccount } from '@keyward/viem'
import { BaseError, createWalletClient, custom, fromHex, hexToBigInt, UnsupportedProviderMethodError, UserRejectedRequestError } from 'viem'
import { nonceManager, privateKeyToAccount } from 'viem/accounts'
import { abstractTestnet, sepolia } from 'viem/chains'
import { StubAgent } from './stub.js'

const key = `0x${'42'.repeat(32)}`
const local = privateKeyToAccount(key, { nonceManager })
const to = '0x34ca1501FAE231cC2ebc995CE013Dbe882d7d081'
const smartAccount = '0x1111111111111111111111111111111111111111'

const types = { '0x0': 'legacy', '0x1': 'eip2930', '0x2': 'eip1559', '0x71': 'eip712' }

/** Signs as the agent of an eoa session would. */
async function agentOf({ method, params }) {
  switch (method) {
    case 'eth_signTypedData_v4': {
      assert.equal(params[0], local.address)
      return local.signTypedData(JSON.parse(params[1]))
    }
    case 'personal_sign':
      return local.signMessage({ message: { raw: params[0] } })
    case 'session_signTransaction': {
      const { from, signer, type, to, data, accessList, ...quantities } = params[0]
      assert.deepEqual([from, signer], [local.address, local.address])
      const integers = Object.entries(quantities).map(([name, hex]) => [name, name === 'nonce' || name === 'chainId' ? fromHex(hex, 'number') : hexToBigInt(hex)])
      return { raw: await local.signTransaction({ to, data, accessList, type: types[type], ...Object.fromEntries(integers) }) }
    }
  }
  throw { code: -32601, message: `the method ${method} does not exist/is not available` }
}

async function accountFor(t, answer = agentOf) {
  const stub = await StubAgent.start(t, answer)
  const account = toKeywardAccount({ socketPath: stub.path, signer: local.address, nonceManager })
  t.after(() => account.agent.close())
  return account
}

const wallet = (account, chain = sepolia) =>
  createWalletClient({ account, chain, transport: custom({ request: async ({ method }) => (method === 'eth_chainId' ? `0x${chain.id.toString(16)}` : '0x0') }) })

const permit = {
  domain: { name: 'Token', version: '1', chainId: 11124, verifyingContract: to, salt: `0x${'07'.repeat(32)}` },
  types: { Person: [{ name: 'wallet', type: 'address' }], Permit: [{ name: 'to', type: 'Person[]' }, { name: 'value', type: 'uint256' }, { name: 'flags', type: 'bytes4' }] },
  primaryType: 'Permit',
  message: { to: [{ wallet: to }], value: 2n ** 255n, flags: '0x01020304' },
}
const zksync = abstractTestnet.custom.getEip712Domain({
  type: 'eip712', from: smartAccount, to, nonce: 3, gas: 300_000n, gasPerPubdata: 50_000n, maxFeePerGas: 45_250_000n, chainId: 11124, data: '0x40c10f19',
})
const EIP712Domain = [{ name: 'name', type: 'string' }, { name: 'chainId', type: 'uint256' }]

// Each in the shapes that apps send.
const typedData = {
  'a ZKsync transaction': zksync,
  'a permit': permit,
  'a domain in lower case': { ...permit, domain: { ...permit.domain, verifyingContract: to.toLowerCase() } },
  'EIP712Domain in types': { ...permit, domain: { name: 'Token', chainId: 1 }, types: { ...permit.types, EIP712Domain } },
  'chainId as a bigint': { ...permit, domain: { ...permit.domain, chainId: 11124n } },
  'chainId as text': { ...permit, domain: { ...permit.domain, chainId: '11124' } },
  'an empty domain': { ...permit, domain: {} },
  'no domain': { ...permit, domain: undefined },
}

const wrongTypedData = {
  'a value above its type': { ...permit, message: { ...permit.message, value: 2n ** 256n } },
  'bytes of another length': { ...permit, message: { ...permit.message, flags: '0x01' } },
  'an address that is none': { ...permit, message: { ...permit.message, to: [{ wallet: '0x12' }] } },
  'a primary type that is not in types': { ...permit, primaryType: 'Order' },
}

const fees = { nonce: 0, gas: 21_000n, maxFeePerGas: 5n, maxPriorityFeePerGas: 0n, chainId: sepolia.id }
const transactions = {
  'type 2': { type: 'eip1559', to, value: 10n ** 18n, data: '0x01', ...fees },
  'type 2, not named': { to, value: 1n, ...fees, nonce: 7 },
  'type 1': { type: 'eip2930', to, gas: 1n, nonce: 1, gasPrice: 7n, chainId: sepolia.id, accessList: [{ address: to, storageKeys: [`0x${'00'.repeat(32)}`] }] },
  'type 0': { type: 'legacy', to, gas: 1n, nonce: 1, gasPrice: 7n, chainId: sepolia.id },
  'empty lists': { type: 'eip1559', to, ...fees, accessList: [], blobs: [] },
}

// Of every member of viem's accounts: is it the same, directly and through a wallet client?
const compare = {
  address: (account) => assert.equal(account.address, local.address),
  type: (account) => assert.equal(account.type, local.type),
  nonceManager: (account) => assert.equal(account.nonceManager, local.nonceManager),
  source: (account) => assert.equal(account.source, 'keyward'),
  publicKey: (account) => assert.equal(account.publicKey, undefined),

  async signTypedData(account) {
    for (const [name, data] of Object.entries(typedData)) {
      const want = await local.signTypedData(data)
      assert.equal(await account.signTypedData(data), want, name)
      assert.equal(await wallet(account).signTypedData(data), want, `${name}, through a wallet client`)
    }
    for (const [name, data] of Object.entries(wrongTypedData)) {
      const wrong = await local.signTypedData(data).then(() => assert.fail(`viem signs ${name}`), (err) => err)
      await assert.rejects(account.signTypedData(data), { name: wrong.name }, name)
      await assert.rejects(wallet(account).signTypedData(data), { name: wrong.name }, name)
    }
  },

  async signTransaction(account) {
    for (const [name, tx] of Object.entries(transactions)) {
      const want = await local.signTransaction(tx)
      assert.equal(await account.signTransaction(tx), want, name)
      const { chainId, ...request } = tx
      assert.equal(await wallet(account).signTransaction(request), await wallet(local).signTransaction(request), `${name}, through a wallet client`)
    }
    await assert.rejects(account.signTransaction({ ...transactions['type 2'], r: key, s: key, v: 27n }), KeywardMalformedError)
  },

  async signMessage(account) {
    for (const message of ['hi', '', 'ü', { raw: '0x6869' }, { raw: Uint8Array.of(0, 255) }]) {
      const want = await local.signMessage({ message })
      assert.equal(await account.signMessage({ message }), want)
      assert.equal(await wallet(account).signMessage({ message }), want)
    }
  },

  async sign(account) {
    await assert.rejects(account.sign({ hash: key }), unsupported)
  },

  async signAuthorization(account) {
    await assert.rejects(account.signAuthorization({ address: to, chainId: 1, nonce: 0 }), unsupported)
    await assert.rejects(wallet(account).signAuthorization({ contractAddress: to, chainId: 1, nonce: 0 }), unsupported)
  },
}

function unsupported(err) {
  assert.ok(err instanceof KeywardUnsupportedError, String(err))
  assert.deepEqual([err.code, err.reason, err.data.reason], [4200, 'unsupportedMethod', 'unsupportedMethod'])
  assert.ok(err.walk((e) => e instanceof UnsupportedProviderMethodError))
  return true
}

test('the members are those of privateKeyToAccount, and the agent', async (t) => {
  const account = await accountFor(t)
  const { publicKey: known, ...members } = local
  assert.deepEqual(Object.keys(account).sort(), [...Object.keys(members), 'agent'].sort())
  // A member that a later viem adds has no comparison here, and fails.
  assert.deepEqual(Object.keys(local).sort(), Object.keys(compare).sort())
})

for (const [member, check] of Object.entries(compare)) {
  test(`${member} is as privateKeyToAccount's, or typed`, async (t) => check(await accountFor(t)))
}

test("every method's denial is a typed error, and viem's own class", async (t) => {
  const account = await accountFor(t, () => Promise.reject({ code: 4001, message: 'User denied: no', data: { reason: 'callNotAllowed', revert: 'no' } }))
  const client = wallet(account)
  const calls = {
    signTypedData: () => account.signTypedData(permit),
    'wallet.signTypedData': () => client.signTypedData(permit),
    signTransaction: () => account.signTransaction(transactions['type 2']),
    'wallet.signTransaction': () => client.signTransaction(transactions['type 2']),
    'wallet.sendTransaction': () => client.sendTransaction({ ...transactions['type 2'] }),
    'wallet.writeContract': () => client.writeContract({ address: to, abi: [{ type: 'function', name: 'f', inputs: [], outputs: [], stateMutability: 'payable' }], functionName: 'f', ...fees }),
    signMessage: () => account.signMessage({ message: 'hi' }),
    'wallet.signMessage': () => client.signMessage({ message: 'hi' }),
  }
  for (const [name, call] of Object.entries(calls)) {
    await assert.rejects(call, (err) => {
      assert.ok(err instanceof BaseError, `${name}: ${err}`)
      const denied = err.walk((e) => e instanceof KeywardDeniedError)
      assert.deepEqual([denied?.code, denied?.data.reason, denied instanceof KeywardError], [4001, 'callNotAllowed', true], `${name}: ${err}`)
      assert.ok(err.walk((e) => e instanceof UserRejectedRequestError), name)
      return true
    })
  }
})

test("viem's zksync actions sign a type 0x71 transaction of the signer's own address through typed data", async (t) => {
  const { eip712WalletActions } = await import('viem/zksync')
  const tx = { type: 'eip712', to, nonce: 3, gas: 300_000n, gasPerPubdata: 50_000n, maxFeePerGas: 45_250_000n, maxPriorityFeePerGas: 0n, data: '0x40c10f19', paymaster: to, paymasterInput: '0x' }
  const signed = (account) => wallet(account, abstractTestnet).extend(eip712WalletActions()).signTransaction(tx)
  assert.equal(await signed(await accountFor(t)), await signed(local))
})
