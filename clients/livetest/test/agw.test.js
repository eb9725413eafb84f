// The unmodified agw-client, with the agent as its signer in the two ways an app would do it:
// viem's own toAccount over viem's own IPC transport, and @keyward/viem.
import assert from 'node:assert/strict'
import { after, before, suite, test } from 'node:test'

import { createAbstractClient } from '@abstract-foundation/agw-client'
import { createSessionClient } from '@abstract-foundation/agw-client/sessions'
import { findKeywardError, KeywardDeniedError, keyward, toKeywardAccount } from '@keyward/viem'
import { createClient, encodeFunctionData, http, isAddressEqual, parseEther } from 'viem'
import { privateKeyToAccount, toAccount } from 'viem/accounts'
import { abstractTestnet } from 'viem/chains'
import { ipc } from 'viem/node'

import { Agent } from '../src/agent.js'
import { hashOf, StubNode, validator } from '../src/node.js'
import { decodeCustomSignature, decodeRaw, digestOf, encodeHookData, recoverSigner, typedDataOf } from '../src/raw.js'
import { abi, account, friend, nft, paymaster, sessionSpec, shop, stranger } from '../src/spec.js'

const mint = encodeFunctionData({ abi, functionName: 'mint', args: [account, 1n] })
const fees = { nonce: 3, gas: 300_000n, maxFeePerGas: 45_250_000n, maxPriorityFeePerGas: 0n }

/** viem's toAccount, forwarding typed data to the socket by viem's IPC transport. */
function plainSigner(agent, address) {
  const client = createClient({ transport: ipc(agent.socket) })
  const refuse = () => assert.fail('only typed data is asked for')
  const signer = toAccount({
    address,
    signMessage: refuse,
    signTransaction: refuse,
    signTypedData: (typedData) =>
      client.request({
        method: 'eth_signTypedData_v4',
        params: [address, JSON.stringify(typedData, (_, value) => (typeof value === 'bigint' ? value.toString() : value))],
      }),
  })
  return { signer, close: async () => (await client.transport.getRpcClient()).close() }
}

function keywardSigner(agent, address) {
  const signer = toKeywardAccount({ socketPath: agent.socket, signer: address })
  return { signer, close: () => signer.agent.close() }
}

for (const [name, makeSigner] of [['toAccount over ipc', plainSigner], ['@keyward/viem', keywardSigner]]) {
  suite(`agw-client with ${name}`, () => {
    const cleanups = []
    const scope = { after: (fn) => cleanups.push(fn) }
    let node, socketPath, session, signer, client

    before(async () => {
      const agent = await Agent.start(scope)
      socketPath = agent.socket
      node = await StubNode.start(scope)
      const created = await agent.createSession(sessionSpec(), { account })
      session = { ...sessionSpec(), expiresAt: BigInt(created.session.expiresAt), signer: created.signer }
      const made = makeSigner(agent, created.signer)
      scope.after(made.close)
      signer = made.signer
      client = sessionClient(session)
    })
    after(async () => {
      for (const cleanup of cleanups.reverse()) await cleanup()
    })

    function sessionClient(config, options) {
      return createSessionClient({ account, signer, session: config, chain: abstractTestnet, transport: http(node.url), ...options })
    }

    /** Checks a raw transaction from its bytes, and returns what it holds. */
    async function check(raw, want) {
      const decoded = await decodeRaw(raw)
      assert.ok(isAddressEqual(decoded.signer, session.signer), `signed by ${decoded.signer}, want ${session.signer}`)
      assert.equal(decoded.validator, validator)
      assert.equal(decoded.tx.chainId, 11124n)
      assert.ok(isAddressEqual(decoded.tx.from, account))
      for (const [field, value] of Object.entries(want)) assert.equal(String(decoded.tx[field]).toLowerCase(), String(value).toLowerCase(), field)
      assert.equal(decoded.hookData.length, 1)
      assert.ok(hookDataNow(decoded.tx).includes(decoded.hookData[0]), 'hook data is the session and its period ids')
      return decoded
    }

    // Now and a minute ago, since a period may have ended while the test ran.
    function hookDataNow({ to, data }) {
      const now = BigInt(Math.floor(Date.now() / 1000))
      return [now, now - 60n].map((time) => encodeHookData(session, periodIds(to, data, time)))
    }

    // Of the fee limit, the value limit, and each constraint.
    function periodIds(to, data, time) {
      const isCall = data.length >= 10
      const policies = isCall ? session.callPolicies : session.transferPolicies
      const policy = policies.find((p) => isAddressEqual(p.target, to) && (!isCall || p.selector === data.slice(0, 10)))
      const limits = [session.feeLimit, policy.valueLimit, ...(policy.constraints ?? []).map((c) => c.limit)]
      return limits.map(({ limitType, period }) => (limitType === 2 ? time / period : 0n))
    }

    /** Runs what sends one transaction, and returns that transaction's bytes. */
    async function sent(send) {
      const before = node.raws.length
      const hash = await send()
      assert.equal(node.raws.length, before + 1)
      assert.equal(hash, hashOf(node.raws.at(-1)))
      return node.raws.at(-1)
    }

    test('signTransaction', async () => {
      const raw = await client.signTransaction({ to: nft, data: mint, ...fees })
      await check(raw, { to: nft, data: mint, value: 0, paymasterInput: '0x', ...fees })
    })

    test('sendTransaction fills in nonce, gas and fees', async () => {
      const { nonce } = node
      const raw = await sent(() => client.sendTransaction({ to: nft, data: mint }))
      await check(raw, { to: nft, data: mint, nonce, gas: 300_000n, maxFeePerGas: 0x2b275d0 })
    })

    test('writeContract, with value', async () => {
      const call = { address: shop, abi, functionName: 'buy', args: [9n], value: parseEther('0.5') }
      const raw = await sent(() => client.writeContract(call))
      await check(raw, { to: shop, data: encodeFunctionData(call), value: parseEther('0.5') })
    })

    test('a plain value transfer', async () => {
      const raw = await sent(() => client.sendTransaction({ to: friend, value: parseEther('1') }))
      await check(raw, { to: friend, data: '0x', value: parseEther('1') })
    })

    test('a transaction that a paymaster pays', async () => {
      const paymasterInput = '0x8c5a344500000000000000000000000000000000000000000000000000000000000000200000000000000000000000000000000000000000000000000000000000000000'
      const raw = await sent(() => client.sendTransaction({ to: nft, data: mint, paymaster, paymasterInput }))
      await check(raw, { to: nft, paymaster, paymasterInput })
    })

    test('a paymaster handler', async () => {
      const sponsored = sessionClient(session, { paymasterHandler: async () => ({ paymaster, paymasterInput: '0x8c5a3445' }) })
      const raw = await sent(() => sponsored.sendTransaction({ to: nft, data: mint }))
      await check(raw, { to: nft, paymaster, paymasterInput: '0x8c5a3445' })
    })

    test('signTypedData gives the customSignature of a transaction', async () => {
      const tx = { ...fees, nonce: 11n, from: account, to: nft, data: mint, value: 0n, gasPerPubdata: 50_000n, chainId: 11124n, paymaster: '0x00', paymasterInput: '0x' }
      const customSignature = await client.signTypedData(typedDataOf(tx))
      const decoded = decodeCustomSignature(customSignature)
      assert.equal(await recoverSigner(digestOf(tx), decoded.signature), session.signer)
      assert.equal(decoded.validator, validator)
      assert.ok(hookDataNow(tx).includes(decoded.hookData[0]))
    })

    test('toSessionClient', async () => {
      // Only the owner's wallet client needs a key of its own, and it signs nothing here.
      const owner = privateKeyToAccount(`0x${'01'.repeat(32)}`)
      const wallet = await createAbstractClient({ signer: owner, address: account, chain: abstractTestnet, transport: http(node.url) })
      const raw = await wallet.toSessionClient(signer, session).signTransaction({ to: nft, data: mint, ...fees, nonce: 12 })
      await check(raw, { to: nft, nonce: 12 })
    })

    test('hooks that are not the validator get no data', async () => {
      node.hooks = [stranger, validator]
      const raw = await client.signTransaction({ to: nft, data: mint, ...fees, nonce: 13 })
      node.hooks = [validator]
      const { hookData } = await decodeRaw(raw)
      assert.equal(hookData.length, 2)
      assert.equal(hookData[0], '0x')
    })

    test('20 transactions in parallel', async () => {
      const raws = await Promise.all(
        Array.from({ length: 20 }, (_, i) => client.signTransaction({ to: nft, data: mint, ...fees, nonce: 100 + i })),
      )
      const nonces = await Promise.all(raws.map(async (raw) => (await check(raw, { to: nft })).tx.nonce))
      assert.deepEqual(nonces, Array.from({ length: 20 }, (_, i) => BigInt(100 + i)))
    })

    /** Checks that `send` is refused with the contract's words, and that nothing was sent. */
    async function refused(send, revert) {
      const before = node.raws.length
      await assert.rejects(send, (err) => {
        const denial = err.walk((e) => e.code === 4001)
        assert.ok(denial, `no error 4001 in: ${err}`)
        assert.match(err.message, new RegExp(revert))
        if (name === '@keyward/viem') {
          assert.ok(denial instanceof KeywardDeniedError)
          assert.equal(findKeywardError(err, KeywardDeniedError)?.revert, revert)
        }
        return true
      })
      assert.equal(node.raws.length, before)
    }

    test('a contract outside the policy is refused with the contract\'s own reason', async () => {
      // The SDK looks the policy up in what the app gives it, so the app has to lie to get as far as the agent.
      const [first, ...others] = session.callPolicies
      const wider = sessionClient({ ...session, callPolicies: [{ ...first, target: stranger }, ...others] })
      await refused(() => wider.sendTransaction({ to: stranger, data: mint }), 'Call to this contract is not allowed')
      await refused(() => wider.signTransaction({ to: stranger, data: mint, ...fees }), 'Call to this contract is not allowed')
    })

    test('a violated constraint is refused with the contract\'s own reason', async () => {
      const call = { address: nft, abi, functionName: 'mint', args: [stranger, 1n] }
      await refused(() => client.writeContract(call), 'EQUAL constraint not met')
    })

    test('a used-up limit is refused', async () => {
      const call = { address: nft, abi, functionName: 'mint', args: [account, 1_001n] }
      await refused(() => client.writeContract(call), 'Allowance limit exceeded')
    })

    test('typed data that is no transaction is refused', async () => {
      const permit = {
        domain: { name: 'Token', version: '1', chainId: 11124, verifyingContract: nft },
        types: { Permit: [{ name: 'spender', type: 'address' }, { name: 'value', type: 'uint256' }] },
        primaryType: 'Permit',
        message: { spender: stranger, value: 1n },
      }
      await assert.rejects(signer.signTypedData(permit), (err) => err.code === 4001)
    })

    test('another account is refused', async () => {
      const other = sessionClient(session, { account: stranger })
      await assert.rejects(other.signTransaction({ to: nft, data: mint, ...fees }), (err) => err.walk((e) => e.code === 4001) !== null)
    })

    test('the session that the agent gives is the one that the SDK takes', async () => {
      const agent = keyward(socketPath)
      const { session: config } = await agent.session(session.signer).finally(() => agent.close())
      const raw = await sessionClient(config).signTransaction({ to: nft, data: mint, ...fees, nonce: 14 })
      await check(raw, { nonce: 14 })
    })
  })
}
