// Writes clients.json to stdout: see README.md.
import { JsonRpcApiProvider, Network } from 'ethers'
import {
  concatHex, createWalletClient, custom, encodeAbiParameters, getAddress, hashTypedData, keccak256,
  parseAbiParameters, parseTransaction, serializeTransaction, toHex,
} from 'viem'
import { privateKeyToAccount } from 'viem/accounts'
import { abstractTestnet, mainnet } from 'viem/chains'
import { Web3 } from 'web3'

const local = privateKeyToAccount(keccak256(toHex('a key for fixtures')))
const validator = '0x34ca1501FAE231cC2ebc995CE013Dbe882d7d081'
const account = getAddress('0x6347ebde6a8d8f4c5711f509ea276e74f4132841')
const target = getAddress('0x9976c0267ae33ef761b6ad01313c2f8f2024c0dd')
const paymaster = getAddress('0x5407B5040dec3D339A9247f3654E59EEccbb6391')
const mint = '0x40c10f19000000000000000000000000db94c1da9a9f561a848c23d93cc19e522c9c4029' +
  '0000000000000000000000000000000000000000000000000000000000000001'
const word = (n) => toHex(BigInt(n), { size: 32 })
const max = 2n ** 256n - 1n

// Transactions as agw-client hands them to viem's ZKsync functions.
const zksync = {
  call: { to: target, data: mint, value: 0n, nonce: 173, gas: 2386000n, maxFeePerGas: 250000000n, maxPriorityFeePerGas: 0n },
  transfer: { to: target, data: '0x', value: 10n ** 18n, nonce: 1, gas: 150000n, maxFeePerGas: 45250000n, maxPriorityFeePerGas: 45250000n },
  paymaster: { to: target, data: mint, value: 0n, nonce: 7, gas: 500000n, maxFeePerGas: 25000000n, maxPriorityFeePerGas: 0n,
    paymaster, paymasterInput: '0x8c5a344500000000000000000000000000000000000000000000000000000000000000200000000000000000000000000000000000000000000000000000000000000000' },
  emptyPaymasterInput: { to: target, data: '0x01', value: 5n, nonce: 8, gas: 500000n, maxFeePerGas: 25000000n, maxPriorityFeePerGas: 0n,
    paymaster, paymasterInput: '0x' },
  factoryDeps: { to: target, data: mint, value: 0n, nonce: 9, gas: 5000000n, maxFeePerGas: 25000000n, maxPriorityFeePerGas: 1n,
    gasPerPubdata: 800n, factoryDeps: [word(1), concatHex([word(1), word(2), word(3)])] },
  largest: { to: target, data: mint, value: max, nonce: Number.MAX_SAFE_INTEGER, gas: max, maxFeePerGas: max, maxPriorityFeePerGas: max, gasPerPubdata: max },
  zeros: { to: '0x0000000000000000000000000000000000000000', data: '0x', value: 0n, nonce: 0, gas: 0n, maxFeePerGas: 0n, maxPriorityFeePerGas: 0n },
}

const chain = abstractTestnet
const ethereum = {
  legacy: { type: 'legacy', gasPrice: 30000000000n },
  accessList: { type: 'eip2930', gasPrice: 30000000000n, accessList: [{ address: target, storageKeys: [word(1), word(2)] }] },
  dynamicFee: { type: 'eip1559', maxFeePerGas: 40000000000n, maxPriorityFeePerGas: 1000000000n },
  dynamicFeeAccessList: { type: 'eip1559', maxFeePerGas: 40000000000n, maxPriorityFeePerGas: 0n, accessList: [{ address: target, storageKeys: [] }] },
}

// caught runs f with a request function that records the first request of that method.
async function caught(method, chainId, f) {
  let params
  const request = async (r) => {
    if (r.method === 'eth_chainId') return toHex(chainId)
    if (r.method === 'net_version') return String(chainId)
    if (r.method === 'eth_accounts') return [local.address.toLowerCase()]
    if (r.method === method) params = r.params
    throw Object.assign(new Error('caught'), { code: 4001 })
  }
  await f(request).catch((e) => { if (!params) throw e })
  return params
}

const viemClient = (chain, request) => createWalletClient({ account: local.address, chain, transport: custom({ request }) })

async function ethersSigner(chainId, request) {
  class Provider extends JsonRpcApiProvider {
    async _send(payload) {
      const { id, method, params } = payload
      return [await request({ method, params }).then((result) => ({ id, result }), (error) => ({ id, error: { code: 4001, message: error.message } }))]
    }
  }
  const network = Network.from(chainId)
  const provider = new Provider(network, { staticNetwork: network, batchMaxCount: 1 })
  provider._start()
  return provider.getSigner(local.address)
}

const hookData = ['0x', concatHex([word(5), '0x1234'])]
const signature = await local.sign({ hash: keccak256('0x01'), to: 'hex' })
const customSignature = encodeAbiParameters(parseAbiParameters(['bytes', 'address', 'bytes[]']), [signature, validator, hookData])

const out = {
  custom: { signature, validator, hookData, customSignature },
  typedData: [], zksync: [], ethereum: [],
}
for (const [name, fields] of Object.entries(zksync)) {
  const tx = { ...fields, type: 'eip712', from: account, chainId: chain.id }
  const typedData = chain.custom.getEip712Domain(tx)
  const digest = hashTypedData(typedData)
  const raw = chain.serializers.transaction({ ...tx, customSignature })
  const want = { digest, raw, hash: keccak256(concatHex([digest, keccak256(customSignature)])) }
  const { EIP712Domain, ...types } = typedData.types
  out.typedData.push({ client: 'viem', name, ...want,
    params: await caught('eth_signTypedData_v4', chain.id, (request) => viemClient(chain, request).signTypedData(typedData)) })
  out.typedData.push({ client: 'ethers', name, ...want,
    params: await caught('eth_signTypedData_v4', chain.id, async (request) =>
      (await ethersSigner(chain.id, request)).signTypedData(typedData.domain, types, typedData.message)) })
  // viem's own check of the request refuses fees this large.
  if (name === 'largest') continue
  out.zksync.push({ client: 'viem', name, ...want,
    params: await caught('eth_signTransaction', chain.id, async (request) => {
      const { from, ...rest } = tx
      return createWalletClient({ account, chain, transport: custom({ request }) }).signTransaction(rest)
    }) })
}
for (const [name, fields] of Object.entries(ethereum)) {
  const tx = { ...fields, to: target, value: 12345n, data: mint, nonce: 42, gas: 90000n }
  const raw = await local.signTransaction({ ...tx, chainId: mainnet.id })
  const { r, s, yParity } = parseTransaction(raw)
  const want = { raw, hash: keccak256(raw), signature: concatHex([toHex(BigInt(r), { size: 32 }), toHex(BigInt(s), { size: 32 }), toHex(27 + yParity)]),
    digest: keccak256(serializeTransaction({ ...tx, chainId: mainnet.id })) }
  const { gas, type, ...rest } = tx
  const number = { legacy: 0, eip2930: 1, eip1559: 2 }[type]
  out.ethereum.push({ client: 'viem', name, ...want,
    params: await caught('eth_signTransaction', mainnet.id, (request) => viemClient(mainnet, request).signTransaction(tx)) })
  out.ethereum.push({ client: 'ethers', name, ...want,
    params: await caught('eth_signTransaction', mainnet.id, async (request) =>
      (await ethersSigner(mainnet.id, request)).signTransaction({ ...rest, type: number, gasLimit: gas, chainId: mainnet.id })) })
  out.ethereum.push({ client: 'web3', name, ...want,
    params: await caught('eth_signTransaction', mainnet.id, (request) =>
      new Web3({ request }).eth.signTransaction({ ...rest, type: number, gas, from: local.address, chainId: mainnet.id })) })
}
console.log(JSON.stringify(out, null, 1))
process.exit(0)
