// What apps do with each library's own API, rather than by raw calls.
import assert from 'node:assert/strict'
import { after, before, suite, test } from 'node:test'

import { KeywardDeniedError, KeywardUnauthorizedError, keyward, toKeywardAccount } from '@keyward/viem'
import { IpcSocketProvider, Transaction } from 'ethers'
import { createWalletClient, defineChain, http, isAddressEqual, parseEther, parseTransaction, recoverTransactionAddress } from 'viem'
import { ipc } from 'viem/node'
import { Web3 } from 'web3'
import { IpcProvider } from 'web3-providers-ipc'

import { Fixture } from '../src/fixture.js'
import { hashOf, StubNode } from '../src/node.js'
import { decodeRaw, digestOf } from '../src/raw.js'
import { friend, sessionSpec, stranger } from '../src/spec.js'

const cleanups = []
const scope = { after: (fn) => cleanups.push(fn) }
let fixture, eoa, node

before(async () => {
  fixture = await Fixture.start(scope)
  eoa = await fixture.agent.createSession(sessionSpec(), { kind: 'eoa' })
  node = await StubNode.start(scope)
})
after(async () => {
  for (const cleanup of cleanups.reverse()) await cleanup()
})

// An ordinary chain, as far as viem knows.
const chain = defineChain({ id: 11124, name: 'plain', nativeCurrency: { name: 'Ether', symbol: 'ETH', decimals: 18 }, rpcUrls: { default: { http: [] } } })
const transfer = { to: friend, value: parseEther('0.001'), gas: 21_000n, nonce: 0 }
const dynamicFees = { type: 'eip1559', maxFeePerGas: 45_250_000n, maxPriorityFeePerGas: 1n }

/** Checks that `raw` is the transaction that was asked for, signed by the eoa session's key. */
async function check(raw, want) {
  const tx = parseTransaction(raw)
  for (const [field, value] of Object.entries({ chainId: 11124, ...want })) assert.deepEqual(tx[field] ?? 0, value, field)
  assert.ok(isAddressEqual(await recoverTransactionAddress({ serializedTransaction: raw }), eoa.signer))
}

const denied = (err) => err.code === 4001 || err.walk?.((e) => e.code === 4001)

suite('viem with a JSON-RPC account over ipc', () => {
  let wallet
  before(() => {
    wallet = createWalletClient({ chain, transport: ipc(fixture.agent.socket) })
  })
  after(async () => (await wallet.transport.getRpcClient()).close())

  test('getAddresses, getChainId', async () => {
    assert.deepEqual(new Set(await wallet.getAddresses()), new Set([fixture.signer, eoa.signer]))
    assert.equal(await wallet.getChainId(), 11124)
  })

  test('signTypedData', async () => {
    const tx = fixture.mint(1)
    assert.ok(await fixture.signed(tx, await wallet.signTypedData({ account: fixture.signer, ...fixture.typedData(tx) })))
  })

  test('signTransaction', async () => {
    await check(await wallet.signTransaction({ account: eoa.signer, ...transfer, ...dynamicFees }), { ...transfer, ...dynamicFees })
  })

  test('signMessage and sendTransaction are refused', async () => {
    await assert.rejects(wallet.signMessage({ account: eoa.signer, message: 'hi' }), denied)
    await assert.rejects(wallet.sendTransaction({ account: eoa.signer, ...transfer, ...dynamicFees }), (err) => err.walk((e) => e.code === 4200) !== null)
  })
})

suite('viem with @keyward/viem', () => {
  let agent, wallet
  before(() => {
    agent = keyward(fixture.agent.socket)
    wallet = createWalletClient({ account: toKeywardAccount({ agent, signer: eoa.signer }), chain, transport: http(node.url) })
  })
  after(() => agent.close())

  const kinds = {
    legacy: { type: 'legacy', gasPrice: 45_250_000n },
    eip1559: dynamicFees,
  }
  for (const [kind, fees] of Object.entries(kinds)) {
    test(`signTransaction, ${kind}`, async () => {
      await check(await wallet.signTransaction({ ...transfer, ...fees, nonce: 1 }), { ...transfer, ...fees, nonce: 1 })
    })
  }

  test('signTransaction, eip2930: no ZKsync chain takes an access list', async () => {
    const accessList = [{ address: friend, storageKeys: [`0x${'00'.repeat(32)}`] }]
    await assert.rejects(wallet.signTransaction({ ...transfer, type: 'eip2930', gasPrice: 45_250_000n, accessList, nonce: 1 }),
      (err) => err.walk((e) => e.reason === 'notIncludable') !== null)
  })

  test('sendTransaction', async () => {
    const hash = await wallet.sendTransaction({ ...transfer, ...dynamicFees, nonce: 2 })
    assert.equal(hash, hashOf(node.raws.at(-1)))
    await check(node.raws.at(-1), { ...transfer, nonce: 2 })
  })

  test('a transfer outside the policy', async () => {
    await assert.rejects(wallet.sendTransaction({ ...transfer, ...dynamicFees, to: stranger }), (err) => {
      assert.equal(err.walk((e) => e instanceof KeywardDeniedError).reason, 'transferNotAllowed')
      return true
    })
  })

  test('blobs, set-code and contract creation', async () => {
    for (const tx of [{ type: 'eip4844' }, { type: 'eip7702' }, { ...dynamicFees, to: undefined, data: '0x00' }]) {
      await assert.rejects(wallet.account.signTransaction({ ...transfer, chainId: 11124, maxFeePerGas: 1n, ...tx }), denied)
    }
  })

  test('signMessage', async () => {
    await assert.rejects(wallet.signMessage({ message: 'hi' }), (err) => err instanceof KeywardDeniedError)
  })

  test('a signer of somebody else', async () => {
    const other = toKeywardAccount({ agent, signer: stranger })
    await assert.rejects(other.signTypedData(fixture.typedData(fixture.mint(2))), (err) => err instanceof KeywardUnauthorizedError)
  })

  test('sessions and one session, with its limits', async () => {
    const sessions = await agent.sessions()
    assert.deepEqual(sessions.map((s) => [s.id, s.kind, s.status]), [[fixture.session.id, 'agw', 'active'], [eoa.id, 'eoa', 'active']])
    const one = await agent.session(fixture.signer)
    assert.equal(one.protection, 'resident')
    assert.equal(one.createSessionCalldata.slice(0, 10), '0x5a0694d2')
    const fee = one.limits.find((l) => l.tracker === 'fee')
    assert.equal(fee.limit, parseEther('1'))
    assert.equal(fee.used + fee.remaining, fee.limit)
    assert.deepEqual(await agent.session(fixture.session.id), one)
  })

  /** A transaction as `keyward()` takes it. */
  function request(tx) {
    const { from, to, data, value, gas, gasPerPubdata, maxFeePerGas, maxPriorityFeePerGas } = tx
    return { from, to, data, value, gas, gasPerPubdata, maxFeePerGas, maxPriorityFeePerGas, nonce: Number(tx.nonce), chainId: 11124 }
  }

  test('signTransaction gives a complete raw transaction', async () => {
    const tx = fixture.mint(3)
    const signed = await agent.signTransaction(request(tx))
    const decoded = await decodeRaw(signed.raw)
    assert.equal(decoded.signer, fixture.signer)
    assert.deepEqual([decoded.digest, decoded.signature], [digestOf(tx), signed.signature])
    assert.deepEqual([signed.session, signed.sessionHash], [fixture.session.id, fixture.session.sessionHash])
    assert.deepEqual(signed.periodIds.slice(0, 3), [0n, 0n, 0n])
  })

  test('hooks of the account get an entry each', async () => {
    const signed = await agent.signTransaction({ ...request(fixture.mint(4)), hooks: [stranger, fixture.session.validator] })
    assert.deepEqual((await decodeRaw(signed.raw)).hookData.map((h) => h === '0x'), [true, false])
  })

  test('simulate says what signing would, and counts nothing', async () => {
    const used = await fixture.used()
    const good = await agent.simulate(request(fixture.mint(5)))
    assert.deepEqual([good.allow, good.denial, good.digest], [true, undefined, digestOf(fixture.mint(5))])
    assert.equal(good.charges.find((c) => c.tracker === 'fee').amount, 300_000n * 45_250_000n)
    const bad = await agent.simulate(request(fixture.theft(5)))
    assert.equal(bad.allow, false)
    assert.equal(bad.denial.revert, 'Call to this contract is not allowed')
    assert.deepEqual(await fixture.used(), used)
  })

  test('a used-up limit says how far', async () => {
    const tx = { ...request(fixture.mint(6)), to: friend, data: '0x', value: parseEther('1') }
    for (let i = 0; i < 5; i++) await agent.signTransaction({ ...tx, nonce: 1000 + i })
    await assert.rejects(agent.signTransaction({ ...tx, nonce: 1005, value: 7n }), (err) => {
      assert.ok(err instanceof KeywardDeniedError)
      assert.deepEqual([err.reason, err.limit, err.used, err.asked, err.remaining], ['lifetimeLimitExceeded', parseEther('5'), parseEther('5'), 7n, 0n])
      return true
    })
  })
})

suite('ethers JsonRpcSigner', () => {
  let provider
  before(() => {
    provider = new IpcSocketProvider(fixture.agent.socket)
  })
  after(() => provider.destroy())

  test('signTypedData', async () => {
    const signer = await provider.getSigner(fixture.signer)
    const tx = fixture.mint(7)
    const { domain, types: { Transaction: fields }, message } = fixture.typedData(tx)
    assert.ok(await fixture.signed(tx, await signer.signTypedData(domain, { Transaction: fields }, message)))
  })

  test('signTransaction', async () => {
    const signer = await provider.getSigner(eoa.signer)
    const raw = await signer.signTransaction({ ...transfer, type: 2, nonce: 8, chainId: 11124, gasLimit: 21_000n, gas: undefined, maxFeePerGas: 45_250_000n, maxPriorityFeePerGas: 1n })
    await check(raw, { ...transfer, nonce: 8 })
    assert.equal(Transaction.from(raw).from, eoa.signer)
  })

  test('a refusal is an ACTION_REJECTED', async () => {
    const signer = await provider.getSigner(fixture.signer)
    const { domain, types: { Transaction: fields }, message } = fixture.typedData(fixture.theft(8))
    await assert.rejects(signer.signTypedData(domain, { Transaction: fields }, message), { code: 'ACTION_REJECTED' })
  })
})

suite('web3.js', () => {
  let web3
  before(() => {
    web3 = new Web3(new IpcProvider(fixture.agent.socket, {}, { autoReconnect: false }))
  })
  after(() => web3.provider.disconnect())

  test('getAccounts, getChainId', async () => {
    assert.deepEqual(new Set(await web3.eth.getAccounts()), new Set([fixture.signer, eoa.signer]))
    assert.equal(await web3.eth.getChainId(), 11124n)
  })

  test('signTypedData', async () => {
    const tx = fixture.mint(9)
    assert.ok(await fixture.signed(tx, await web3.eth.signTypedData(fixture.signer, fixture.typedData(tx))))
  })

  test('signTransaction', async () => {
    const { raw } = await web3.eth.signTransaction({ from: eoa.signer, ...transfer, nonce: 10, chainId: 11124, maxFeePerGas: 45_250_000n, maxPriorityFeePerGas: 1n, type: 2 })
    await check(raw, { ...transfer, nonce: 10 })
  })
})
