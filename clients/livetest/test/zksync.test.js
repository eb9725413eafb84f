// Libraries' own ways to a ZKsync transaction (type 0x71) of a smart account: docs/app-guide.md says which work.
import assert from 'node:assert/strict'
import { after, before, suite, test } from 'node:test'

import { createSessionClient, getSessionHash } from '@abstract-foundation/agw-client/sessions'
import { KeywardDeniedError, parseSession, toKeywardAccount } from '@keyward/viem'
import { IpcSocketProvider } from 'ethers'
import { createWalletClient, http } from 'viem'
import { ipc } from 'viem/node'
import { abstractTestnet } from 'viem/chains'
import { eip712WalletActions } from 'viem/zksync'
import { Web3 } from 'web3'
import { ZKsyncPlugin } from 'web3-plugin-zksync'
import { IpcProvider } from 'web3-providers-ipc'
import { BrowserProvider, EIP712Signer, Provider, Signer } from 'zksync-ethers'

import { Fixture } from '../src/fixture.js'
import { StubNode } from '../src/node.js'
import { decodeRaw, digestOf } from '../src/raw.js'
import { abi, account } from '../src/spec.js'

const cleanups = []
const scope = { after: (fn) => cleanups.push(fn) }
let fixture, node

before(async () => {
  fixture = await Fixture.start(scope)
  node = await StubNode.start(scope)
})
after(async () => {
  for (const cleanup of cleanups.reverse()) await cleanup()
})

/** Checks a raw transaction: that of `nonce`, signed by the session's key. */
async function check(raw, nonce) {
  const decoded = await decodeRaw(raw)
  assert.deepEqual([decoded.signer, decoded.digest], [fixture.signer, digestOf(fixture.mint(nonce))])
}

const denied = (err) => err.walk((e) => e.code === 4001) !== null

suite('viem', () => {
  const request = (nonce) => {
    const { to, data, gas, gasPerPubdata, maxFeePerGas, maxPriorityFeePerGas } = fixture.mint(nonce)
    return { type: 'eip712', to, data, gas, gasPerPubdata, maxFeePerGas, maxPriorityFeePerGas, nonce }
  }
  let rpc, local
  before(() => {
    rpc = createWalletClient({ chain: abstractTestnet, transport: ipc(fixture.agent.socket) })
    const signer = toKeywardAccount({ socketPath: fixture.agent.socket, signer: fixture.signer })
    scope.after(() => signer.agent.close())
    local = createWalletClient({ account: signer, chain: abstractTestnet, transport: http(node.url) })
  })
  after(async () => (await rpc.transport.getRpcClient()).close())

  test('eip712WalletActions put the signer into from: denied', async () => {
    await assert.rejects(rpc.extend(eip712WalletActions()).signTransaction({ account: fixture.signer, ...request(1) }), denied)
    await assert.rejects(rpc.extend(eip712WalletActions()).sendTransaction({ account: fixture.signer, ...request(1) }), denied)
    await assert.rejects(local.extend(eip712WalletActions()).signTransaction(request(1)), denied)
    await assert.rejects(local.extend(eip712WalletActions()).sendTransaction(request(1)), denied)
    const { type, to: address, data, ...fees } = request(1)
    const call = { address, abi, functionName: 'mint', args: [account, 1n], ...fees }
    await assert.rejects(local.extend(eip712WalletActions()).writeContract(call), denied)
    await assert.rejects(rpc.extend(eip712WalletActions()).writeContract({ account: fixture.signer, ...call }), denied)
  })

  test('signTransaction with the smart account as JSON-RPC account', async () => {
    await check(await rpc.signTransaction({ account, ...request(1) }), 1)
  })

  test('toKeywardAccount signs with the smart account as from', async () => {
    const tx = { ...request(2), from: account, chainId: 11124 }
    await check(await local.account.signTransaction(tx), 2)
    await check(await local.signTransaction({ ...request(3), from: account }), 3)
  })

  test('toKeywardAccount without from: denied, with the address that belongs there', async () => {
    await assert.rejects(local.account.signTransaction({ ...request(4), chainId: 11124 }), (err) => {
      assert.ok(err instanceof KeywardDeniedError || err.code === -32602, String(err))
      assert.ok(err.message.toLowerCase().includes(account), err.message)
      return true
    })
  })

  test('getEip712Domain, and the account called directly', async () => {
    const tx = fixture.mint(5)
    const data = abstractTestnet.custom.getEip712Domain({ ...tx, paymaster: undefined, paymasterInput: undefined, nonce: 5, chainId: 11124, type: 'eip712' })
    assert.ok(await fixture.signed(tx, await local.account.signTypedData(data)))
  })
})

suite('zksync-ethers', () => {
  let ethers, signer
  before(async () => {
    ethers = new IpcSocketProvider(fixture.agent.socket)
    const browser = new BrowserProvider({ request: ({ method, params }) => ethers.send(method, params ?? []) })
    signer = Signer.from(await browser.getSigner(fixture.signer), 11124, new Provider(node.url))
  })
  after(() => ethers.destroy())

  const request = (nonce) => {
    const { to, data, gas: gasLimit, maxFeePerGas, maxPriorityFeePerGas } = fixture.mint(nonce)
    return { type: 113, from: account, to, data, gasLimit, maxFeePerGas, maxPriorityFeePerGas, nonce, chainId: 11124, customData: {} }
  }

  test('Signer.sendTransaction puts the signer into from: denied', async () => {
    const { from, ...tx } = request(10)
    await assert.rejects(signer.sendTransaction(tx), { code: 'ACTION_REJECTED' })
  })

  test('Signer.signTransaction refuses a from that is not the signer', async () => {
    await assert.rejects(signer.signTransaction(request(10)), { code: 'INVALID_ARGUMENT', shortMessage: 'from address mismatch' })
  })

  // It takes a priority fee of 0 for absent, and puts maxFeePerGas there.
  test('EIP712Signer signs with the smart account as from', async () => {
    const signature = await new EIP712Signer(await ethers.getSigner(fixture.signer), 11124).sign(request(11))
    const tx = fixture.mint(11)
    assert.ok(await fixture.signed({ ...tx, maxPriorityFeePerGas: tx.maxFeePerGas }, signature))
  })

  test('eth_signTransaction through the provider gives the raw transaction', async () => {
    const { to, data } = fixture.mint(12)
    const raw = await ethers.send('eth_signTransaction', [{ type: '0x71', from: account, to, data, nonce: '0xc', gas: '0x493e0', maxFeePerGas: '0x2b275d0', maxPriorityFeePerGas: '0x0' }])
    await check(raw, 12)
  })
})

suite('web3', () => {
  for (const [name, plugin] of [['alone', false], ['with web3-plugin-zksync', true]]) {
    test(`${name}: eth.signTransaction can't read type 0x71, and the transaction is charged`, async (t) => {
      const web3 = new Web3(new IpcProvider(fixture.agent.socket, {}, { autoReconnect: false }))
      t.after(() => web3.provider.disconnect())
      if (plugin) web3.registerPlugin(new ZKsyncPlugin(node.url))
      const nonce = plugin ? 21 : 20
      const { to, data } = fixture.mint(nonce)
      const tx = { type: '0x71', from: account, to, data, nonce: `0x${nonce.toString(16)}`, gas: '0x493e0', maxFeePerGas: '0x2b275d0', maxPriorityFeePerGas: '0x0', chainId: '0x2b74' }
      const minted = await fixture.minted()
      await assert.rejects(web3.eth.signTransaction(tx), /TypedTransaction with ID 113 unknown/)
      assert.equal((await fixture.minted()) - minted, 1n)

      // The same transaction by a plain request costs nothing more.
      const { result } = await web3.provider.request({ jsonrpc: '2.0', id: 1, method: 'eth_signTransaction', params: [tx] })
      await check(result, nonce)
      assert.equal((await fixture.minted()) - minted, 1n)
    })
  }
})

test('what session create --json printed goes through parseSession into the SDK', async () => {
  // The CLI's own text, with an allowance in it: the SDK divides BigInt time by its period.
  const session = parseSession(JSON.stringify(fixture.session))
  assert.equal(getSessionHash(session), fixture.session.sessionHash)
  assert.throws(() => parseSession({ ...fixture.session, session: { ...fixture.session.session, expiresAt: '1' } }), { reason: 'invalidSession', path: 'sessionHash' })
  const signer = toKeywardAccount({ socketPath: fixture.agent.socket, signer: session.signer })
  const client = createSessionClient({ account, signer, session, chain: abstractTestnet, transport: http(node.url) })
  const { to, data, gas, maxFeePerGas, maxPriorityFeePerGas } = fixture.mint(30)
  try {
    await check(await client.signTransaction({ to, data, gas, maxFeePerGas, maxPriorityFeePerGas, nonce: 30 }), 30)
  } finally {
    signer.agent.close()
  }
  const unparsed = createSessionClient({ account, signer, session: fixture.session.session, chain: abstractTestnet, transport: http(node.url) })
  await assert.rejects(unparsed.signTransaction({ to, data, gas, maxFeePerGas, maxPriorityFeePerGas, nonce: 31 }), /Cannot mix BigInt/)
})

test('an account that is not deployed yet: the SDK puts the signer into from, and the answer names the account', async (t) => {
  const session = parseSession(JSON.stringify(fixture.session))
  const signer = toKeywardAccount({ socketPath: fixture.agent.socket, signer: session.signer })
  t.after(() => signer.agent.close())
  const client = createSessionClient({ account, signer, session, chain: abstractTestnet, transport: http(node.url) })
  node.code = '0x'
  t.after(() => (node.code = '0x01'))
  const { to, data, gas, maxFeePerGas, maxPriorityFeePerGas } = fixture.mint(32)
  const tx = { to, data, gas, maxFeePerGas, maxPriorityFeePerGas, nonce: 32 }
  await assert.rejects(client.signTransaction(tx), /Smart account not deployed/)
  await assert.rejects(client.sendTransaction(tx), (err) => {
    const denied = err.walk((e) => e instanceof KeywardDeniedError)
    assert.equal(denied?.reason, 'wrongAccount', String(err))
    assert.ok(denied.message.toLowerCase().includes(account), denied.message)
    return true
  })
})
