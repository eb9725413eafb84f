import { type Address, encodeAbiParameters, getAddress, type Hex, isAddress, isHex, keccak256, parseAbiParameters, size } from 'viem'

import { KeywardMalformedError } from './errors.js'
import type { CallPolicy, Constraint, SessionSpec, TransferPolicy, UsageLimit } from './session.js'

/** Checks a value that was found at `path`, and returns it in the SDK's type. */
type Reader<T> = (value: unknown, path: string) => T

const limitTypes = { unlimited: 0, lifetime: 1, allowance: 2 } as const
const conditions = {
  unconstrained: 0, equal: 1, greater: 2, less: 3, greaterequal: 4, greaterorequal: 4, lessequal: 5, lessorequal: 5, notequal: 6,
} as const

const usageLimit = object<UsageLimit>({ limitType: oneOf(limitTypes), limit: uint(256), period: uint(256) })

const constraint = object<Constraint>({ condition: oneOf(conditions), index: uint(64), refValue: bytes(32), limit: usageLimit })

const transferPolicy = object<TransferPolicy>({ target: address, maxValuePerUse: uint(256), valueLimit: usageLimit })

const callPolicy = object<CallPolicy>({
  target: address,
  selector: bytes(4),
  maxValuePerUse: uint(256),
  valueLimit: usageLimit,
  constraints: list(constraint),
})

const spec = object<SessionSpec>({
  signer: address,
  expiresAt: uint(256),
  feeLimit: usageLimit,
  callPolicies: list(callPolicy),
  transferPolicies: list(transferPolicy),
})

// SessionLib.sol's SessionSpec: what the validator hashes.
const specAbi = parseAbiParameters([
  'SessionSpec spec',
  'struct SessionSpec { address signer; uint256 expiresAt; UsageLimit feeLimit; CallSpec[] callPolicies; TransferSpec[] transferPolicies; }',
  'struct CallSpec { address target; bytes4 selector; uint256 maxValuePerUse; UsageLimit valueLimit; Constraint[] constraints; }',
  'struct TransferSpec { address target; uint256 maxValuePerUse; UsageLimit valueLimit; }',
  'struct Constraint { uint8 condition; uint64 index; bytes32 refValue; UsageLimit limit; }',
  'struct UsageLimit { uint8 limitType; uint256 limit; uint256 period; }',
])

/**
 * The session that `keyward session create --json` printed, as the SDK takes it: a `SessionConfig` with bigints
 * and the SDK's enum values, for `createSession`, `createSessionClient` and `toSessionClient`.
 *
 * `printed` is the whole of what was printed or its `session` member, as text or as an object. Integers may also have
 * the forms in which apps store a bigint: bigint, `"123n"`, `"__bigint__123"`, wagmi's
 * `{"__type":"bigint","value":"123"}`, superjson's `{json, meta}`. If `signer` or `sessionHash` stands beside
 * `session`, it has to match.
 *
 * It throws a {@link KeywardMalformedError} with `reason` `'invalidSession'` and the `path` of the member that is unknown,
 * missing or wrong. An unknown member's value is not in the error: it could be a key.
 */
export function parseSession(printed: unknown): SessionSpec {
  const outer = unwrapSuperjson(typeof printed === 'string' ? parseJson(printed) : printed)
  if (!isRecord(outer) || !('session' in outer)) return spec(outer, 'session')
  for (const name of Object.keys(outer)) {
    if (/private|secret|mnemonic|seed/i.test(name)) throw invalid(name, 'this looks like a private key: the device holds the session\'s key; delete the member and the key')
  }
  const session = spec(outer['session'], 'session')
  if ('signer' in outer && address(outer['signer'], 'signer') !== session.signer) throw invalid('signer', `want session.signer, ${session.signer}`)
  if ('sessionHash' in outer && bytes(32)(outer['sessionHash'], 'sessionHash') !== sessionHash(session)) {
    throw invalid('sessionHash', 'it is not the hash of the session beside it: one of the two was changed')
  }
  return session
}

function sessionHash(session: SessionSpec): Hex {
  return keccak256(encodeAbiParameters(specAbi, [session]))
}

// superjson lists in `meta` which members are bigints. Other types than bigint have no place in a session.
function unwrapSuperjson(value: unknown): unknown {
  if (!isRecord(value) || !('json' in value)) return value
  const unknown = Object.keys(value).find((name) => name !== 'json' && name !== 'meta')
  if (unknown !== undefined) throw invalid(unknown, 'unknown member beside "json" and "meta"')
  const { meta } = value
  if (meta !== undefined) {
    const { values, ...others } = isRecord(meta) ? meta : { meta }
    if (Object.keys(others).some((name) => name !== 'v')) throw invalid('meta', 'want superjson\'s {"values": …} and no more')
    if (values !== undefined && !namesBigintsOnly(values)) throw invalid('meta.values', 'want the type bigint only')
  }
  return value['json']
}

// superjson's tree of types: ["bigint"] at a leaf, an object of paths at a node.
function namesBigintsOnly(tree: unknown): boolean {
  if (Array.isArray(tree)) return tree.length === 1 && tree[0] === 'bigint'
  return isRecord(tree) && Object.values(tree).every(namesBigintsOnly)
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    // The parser's own message quotes the text.
    throw invalid('', 'want the JSON that "keyward session create --json" printed')
  }
}

function object<T>(members: { [K in keyof T]: Reader<T[K]> }): Reader<T> {
  return (value, path) => {
    if (!isRecord(value)) throw invalid(path, 'want an object')
    const unknown = Object.keys(value).find((name) => !Object.hasOwn(members, name))
    if (unknown !== undefined) throw invalid(`${path}.${unknown}`, `unknown member; the known ones are ${Object.keys(members).join(', ')}`)
    const entries = Object.entries<Reader<unknown>>(members).map(([name, read]) => {
      if (!Object.hasOwn(value, name)) throw invalid(`${path}.${name}`, 'missing')
      return [name, read(value[name], `${path}.${name}`)]
    })
    return Object.fromEntries(entries) as T
  }
}

function list<T>(read: Reader<T>): Reader<T[]> {
  return (value, path) => {
    if (!Array.isArray(value)) throw invalid(path, 'want a list')
    return value.map((element, i) => read(element, `${path}[${i}]`))
  }
}

function uint(bits: number): Reader<bigint> {
  return (value, path) => {
    const n = toBigint(value)
    if (n === undefined || n < 0n || n >> BigInt(bits) !== 0n) throw invalid(path, `${show(value)}: want an unsigned integer of ${bits} bits`)
    return n
  }
}

function toBigint(value: unknown): bigint | undefined {
  if (typeof value === 'bigint') return value
  if (typeof value === 'number') return Number.isSafeInteger(value) ? BigInt(value) : undefined
  if (isRecord(value) && value['__type'] === 'bigint' && Object.keys(value).length === 2) {
    const text = value['value']
    return typeof text === 'string' && /^[0-9]+$/.test(text) ? BigInt(text) : undefined
  }
  if (typeof value !== 'string') return undefined
  const decimal = /^(?:__bigint__)?([0-9]+)$|^([0-9]+)n$/.exec(value)
  if (decimal) return BigInt((decimal[1] ?? decimal[2]) as string)
  return /^0x[0-9a-fA-F]+$/.test(value) ? BigInt(value) : undefined
}

function oneOf<T extends number>(names: Readonly<Record<string, T>>): Reader<T> {
  return (value, path) => {
    const known = Object.values(names).find((n) => n === value)
    const named = typeof value === 'string' ? nameOf(names, value) : undefined
    const found = known ?? named
    if (found === undefined) throw invalid(path, `${show(value)}: want one of ${Object.entries(names).map(([name, n]) => `${n} (${name})`).join(', ')}`)
    return found
  }
}

function nameOf<T>(names: Readonly<Record<string, T>>, text: string): T | undefined {
  const name = text.toLowerCase().replaceAll('_', '')
  return Object.hasOwn(names, name) ? names[name] : undefined
}

function address(value: unknown, path: string): Address {
  if (typeof value !== 'string' || !isAddress(value, { strict: isMixedCase(value) })) {
    throw invalid(path, `${show(value)}: want an address, with the right checksum if it is in mixed case`)
  }
  return getAddress(value)
}

function isMixedCase(hex: string): boolean {
  return /[a-f]/.test(hex) && /[A-F]/.test(hex)
}

function bytes(length: number): Reader<Hex> {
  return (value, path) => {
    if (!isHex(value) || value.length % 2 !== 0 || size(value) !== length) throw invalid(path, `${show(value)}: want 0x-hex of ${length} bytes`)
    return value.toLowerCase() as Hex
  }
}

// A value that could be a key is not shown.
function show(value: unknown): string {
  if (typeof value === 'object' && value !== null) return Array.isArray(value) ? 'a list' : 'an object'
  const text = typeof value === 'string' ? JSON.stringify(value) : String(value)
  return /[0-9a-fA-F]{64}/.test(text) ? 'a value of 32 bytes' : text
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function invalid(path: string, why: string): KeywardMalformedError {
  return new KeywardMalformedError(-32602, `parseSession: ${path === '' ? '' : `${path}: `}${why}`, { reason: 'invalidSession', path })
}
