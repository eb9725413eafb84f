import assert from 'node:assert/strict'

import { decodeAbiParameters, encodeAbiParameters, fromRlp, hashTypedData, parseAbiParameters, recoverAddress, slice } from 'viem'

const types = {
  Transaction: [
    { name: 'txType', type: 'uint256' },
    { name: 'from', type: 'uint256' },
    { name: 'to', type: 'uint256' },
    { name: 'gasLimit', type: 'uint256' },
    { name: 'gasPerPubdataByteLimit', type: 'uint256' },
    { name: 'maxFeePerGas', type: 'uint256' },
    { name: 'maxPriorityFeePerGas', type: 'uint256' },
    { name: 'paymaster', type: 'uint256' },
    { name: 'nonce', type: 'uint256' },
    { name: 'value', type: 'uint256' },
    { name: 'data', type: 'bytes' },
    { name: 'factoryDeps', type: 'bytes32[]' },
    { name: 'paymasterInput', type: 'bytes' },
  ],
}

// What the validator reads beside the signature (SessionLib.sol).
const hookData = parseAbiParameters([
  'SessionSpec spec, uint64[] periodIds',
  'struct SessionSpec { address signer; uint256 expiresAt; UsageLimit feeLimit; CallSpec[] callPolicies; TransferSpec[] transferPolicies; }',
  'struct CallSpec { address target; bytes4 selector; uint256 maxValuePerUse; UsageLimit valueLimit; Constraint[] constraints; }',
  'struct TransferSpec { address target; uint256 maxValuePerUse; UsageLimit valueLimit; }',
  'struct Constraint { uint8 condition; uint64 index; bytes32 refValue; UsageLimit limit; }',
  'struct UsageLimit { uint8 limitType; uint256 limit; uint256 period; }',
])

/** The hook data of a spec and its period ids, encoded here and not by the SDK. */
export function encodeHookData(spec, periodIds) {
  return encodeAbiParameters(hookData, [spec, periodIds])
}

// Half the order of secp256k1: s above it is malleable (EIP-2).
const halfOrder = 0x7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0n

/**
 * Reads a raw ZKsync transaction (type 0x71) from its bytes alone, with nothing of the SDK: the fields, the
 * parts of customSignature, the digest, and who signed it.
 */
export async function decodeRaw(raw) {
  assert.equal(slice(raw, 0, 1), '0x71')
  const fields = fromRlp(slice(raw, 1))
  assert.equal(fields.length, 16)
  const [nonce, maxPriorityFeePerGas, maxFeePerGas, gas, to, value, data, chainId, r, s, chainIdAgain, from, gasPerPubdata, factoryDeps, customSignature, paymasterParams] = fields
  assert.deepEqual([r, s, chainIdAgain, factoryDeps], ['0x', '0x', chainId, []])
  const [paymaster, paymasterInput] = paymasterParams.length === 0 ? ['0x00', '0x'] : paymasterParams
  const tx = {
    nonce: integer(nonce), gas: integer(gas), value: integer(value), gasPerPubdata: integer(gasPerPubdata), chainId: integer(chainId),
    maxFeePerGas: integer(maxFeePerGas), maxPriorityFeePerGas: integer(maxPriorityFeePerGas), from, to, data, paymaster, paymasterInput,
  }
  const digest = digestOf(tx)
  const parts = decodeCustomSignature(customSignature)
  return { tx, digest, ...parts, signer: await recoverSigner(digest, parts.signature) }
}

/** What stands in a raw transaction where the signature would be. */
export function decodeCustomSignature(customSignature) {
  const [signature, validator, hookData] = decodeAbiParameters(parseAbiParameters('bytes, address, bytes[]'), customSignature)
  return { signature, validator, hookData }
}

/** The EIP-712 digest of a transaction with bigint fields. */
export function digestOf(tx) {
  return hashTypedData({
    domain: { name: 'zkSync', version: '2', chainId: tx.chainId },
    types,
    primaryType: 'Transaction',
    message: messageOf(tx),
  })
}

/** A transaction with bigint fields as typed data, in the JSON that a client without an SDK would write. */
export function typedDataOf(tx) {
  const message = Object.fromEntries(
    Object.entries(messageOf(tx)).map(([name, value]) => [name, typeof value === 'bigint' ? value.toString() : value]),
  )
  const domain = { name: 'zkSync', version: '2', chainId: Number(tx.chainId) }
  const EIP712Domain = [
    { name: 'name', type: 'string' },
    { name: 'version', type: 'string' },
    { name: 'chainId', type: 'uint256' },
  ]
  return { domain, types: { EIP712Domain, ...types }, primaryType: 'Transaction', message }
}

/** The address whose key made the 65-byte signature, which has to be in canonical form. */
export async function recoverSigner(digest, signature) {
  assert.match(signature, /^0x[0-9a-f]{128}(1b|1c)$/, 'r ‖ s ‖ v with v 27 or 28')
  assert.ok(BigInt(slice(signature, 32, 64)) <= halfOrder, 'low s')
  return recoverAddress({ hash: digest, signature })
}

function messageOf(tx) {
  return {
    txType: 113n,
    from: BigInt(tx.from),
    to: BigInt(tx.to),
    gasLimit: tx.gas,
    gasPerPubdataByteLimit: tx.gasPerPubdata,
    maxFeePerGas: tx.maxFeePerGas,
    maxPriorityFeePerGas: tx.maxPriorityFeePerGas,
    paymaster: BigInt(tx.paymaster),
    nonce: tx.nonce,
    value: tx.value,
    data: tx.data,
    factoryDeps: [],
    paymasterInput: tx.paymasterInput,
  }
}

function integer(hex) {
  return hex === '0x' ? 0n : BigInt(hex)
}
