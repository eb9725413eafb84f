import { type AccessList, type Address, type Hex, numberToHex } from 'viem'

import { KeywardMalformedError } from './errors.js'

/** A transaction to sign or to try. Integers are exact: no field is filled in by the agent but `chainId`. */
export type KeywardTransaction = {
  /** The account: of an `agw` session the smart account, of an `eoa` session the signer. */
  from: Address
  to: Address
  /** wei. Default 0. */
  value?: bigint | undefined
  data?: Hex | undefined
  nonce: number
  /** The gas limit. `gas * maxFeePerGas` counts against the session's fee limit, with no refund. */
  gas: bigint
  /** wei. */
  maxFeePerGas?: bigint | undefined
  /** wei. */
  maxPriorityFeePerGas?: bigint | undefined
  /** wei. `eoa` sessions, transaction types 0 and 1. */
  gasPrice?: bigint | undefined
  /** Default: the session's. */
  chainId?: number | undefined
  type?: 'legacy' | 'eip2930' | 'eip1559' | 'eip712' | undefined
  accessList?: AccessList | undefined
  /** `agw` sessions. Default 50,000. */
  gasPerPubdata?: bigint | undefined
  /** `agw` sessions. */
  paymaster?: Address | undefined
  /** `agw` sessions. */
  paymasterInput?: Hex | undefined
}

const quantities = ['value', 'nonce', 'gas', 'maxFeePerGas', 'maxPriorityFeePerGas', 'gasPrice', 'chainId', 'gasPerPubdata'] as const
const plain = ['from', 'to', 'data', 'accessList', 'paymaster', 'paymasterInput'] as const

const types: Record<string, Hex> = {
  legacy: '0x0',
  eip2930: '0x1',
  eip1559: '0x2',
  eip4844: '0x3',
  eip7702: '0x4',
  eip712: '0x71',
}

// Of viem's requests: how to prepare one, not what is signed.
const notSigned = new Set(['account', 'chain', 'kzg', 'nonceManager', 'parameters'])

// Empty, each is the same transaction as without it.
const emptyIsAbsent = new Set(['factoryDeps', 'blobs', 'blobVersionedHashes', 'sidecars', 'authorizationList'])

/**
 * The transaction as the agent reads it, quantities as 0x-hex. A field that would be part of what is
 * signed and has no place there is refused rather than dropped: the app would get
 * a signature for something else than it asked for.
 */
export function encodeTransaction(tx: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const out: Record<string, unknown> = {}
  for (const [name, value] of Object.entries(tx)) {
    if (value === undefined || value === null || notSigned.has(name)) continue
    if (emptyIsAbsent.has(name) && Array.isArray(value) && value.length === 0) continue
    if (isOneOf(quantities, name)) out[name] = quantityToHex(name, value)
    else if (isOneOf(plain, name)) out[name] = value
    else if (name === 'type') out[name] = typeToHex(value)
    else throw new KeywardMalformedError(-32602, `transaction field ${JSON.stringify(name)} cannot be signed by the agent`)
  }
  return out
}

function quantityToHex(name: string, value: unknown): Hex {
  const exact = typeof value === 'bigint' || (typeof value === 'number' && Number.isSafeInteger(value))
  if (!exact || (value as bigint | number) < 0) {
    throw new KeywardMalformedError(-32602, `transaction field ${JSON.stringify(name)}: want an unsigned integer`)
  }
  return numberToHex(value as bigint | number)
}

function typeToHex(value: unknown): Hex {
  const hex = typeof value === 'string' ? (types[value] ?? value) : undefined
  if (hex === undefined || !/^0x[0-9a-f]+$/.test(hex)) throw new KeywardMalformedError(-32602, `transaction type ${String(value)} is unknown`)
  return hex as Hex
}

function isOneOf<T extends string>(names: readonly T[], name: string): name is T {
  return (names as readonly string[]).includes(name)
}
