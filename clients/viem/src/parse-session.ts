import { type Address, encodeAbiParameters, getAddress, type Hex, isAddress, isHex, keccak256, parseAbiParameters, size } from 'viem'

import { KeywardMalformedError } from './errors.js'
import type { CallPolicy, Constraint, SessionSpec, TransferPolicy, UsageLimit } from './session.js'
import { join, maxDepth, parseStrictJson } from './strict-json.js'
import { isRecord, unwrapSuperjson } from './superjson.js'

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
 * the forms in which apps store a bigint: bigint, `"123n"`, `"__bigint__123"`, ox's `"123#__bigint"`, wagmi's
 * `{"__type":"bigint","value":"123"}`, superjson's `{json, meta}`. If `signer` or `sessionHash` stands beside
 * `session`, it has to match.
 *
 * It throws a {@link KeywardMalformedError} with `reason` `'invalidSession'` and the `path` of the member that is unknown,
 * missing, given twice or wrong. Of numbers in a text only those of plain digits are read, so that none is rounded. What could be
 * a private key is refused wherever it is, and no value that could be one is in the error.
 */
export function parseSession(printed: unknown): SessionSpec {
  const document = typeof printed === 'string' ? parseStrictJson(printed, invalid) : printed
  refuseKeys(document, isRecord(document) && !Object.hasOwn(document, 'session') && !Object.hasOwn(document, 'json') ? 'session' : '', 0)
  const { outer, value } = unwrap(document)
  const session = spec(value, 'session')
  if ('signer' in outer && address(outer['signer'], 'signer') !== session.signer) throw invalid('signer', `want session.signer, ${session.signer}`)
  if ('sessionHash' in outer && bytes(32)(outer['sessionHash'], 'sessionHash') !== sessionHash(session)) {
    throw invalid('sessionHash', 'it is not the hash of the session beside it: one of the two was changed')
  }
  return session
}

/** The session in what superjson and the command line put around it, and the members beside it. */
function unwrap(document: unknown): { outer: Record<string, unknown>; value: unknown } {
  const value = withoutSuperjson(document)
  if (!isRecord(value) || !Object.hasOwn(value, 'session')) return { outer: {}, value }
  return { outer: value, value: withoutSuperjson(value['session']) }
}

function withoutSuperjson(value: unknown): unknown {
  return isRecord(value) && Object.hasOwn(value, 'json') ? withoutSuperjson(unwrapSuperjson(value, '', invalid)) : value
}

// In the names of members that hold a private key, or what one is made from.
const keyName = /privatekey|privkey|secret|mnemonic|seed|sessionkey|signerkey/

// Names whose value may have 32 bytes, or whose reader says what is wrong with it.
const known = new Set(['signer', 'expiresAt', 'limit', 'period', 'target', 'selector', 'maxValuePerUse', 'index', 'refValue', 'limitType', 'condition'])

/** Finds a private key anywhere in the document. A hash has the same form, but a name that says so. */
function refuseKeys(value: unknown, path: string, depth: number): void {
  if (depth > maxDepth) throw invalid('', `nested deeper than ${maxDepth} levels`)
  if (Array.isArray(value)) {
    value.forEach((element, i) => {
      if (isKeyLike(element)) throw invalid(`${path}[${i}]`, aKey)
      refuseKeys(element, `${path}[${i}]`, depth + 1)
    })
  }
  if (!isRecord(value)) return
  for (const [name, member] of Object.entries(value)) {
    const word = name.toLowerCase().replaceAll(/[_ -]/g, '')
    const at = join(path, name)
    if (keyName.test(word) || isKeyLike(name)) throw invalid(at, aKey)
    if (isKeyLike(member) && !word.includes('hash') && !known.has(name)) throw invalid(at, aKey)
    refuseKeys(member, at, depth + 1)
  }
}

const aKey = "this looks like a private key: the device holds the session's key; delete the member and the key"

// 32 bytes of hex, or hardly less.
function isKeyLike(value: unknown): boolean {
  return typeof value === 'string' && /^\s*(0x)?[0-9a-f]{63,64}\s*$/i.test(value)
}

function sessionHash(session: SessionSpec): Hex {
  return keccak256(encodeAbiParameters(specAbi, [session]))
}

function object<T>(members: { [K in keyof T]: Reader<T[K]> }): Reader<T> {
  return (value, path) => {
    if (!isRecord(value)) throw invalid(path, 'want an object')
    const unknown = Object.keys(value).find((name) => !Object.hasOwn(members, name))
    if (unknown !== undefined) throw invalid(join(path, unknown), `unknown member; the known ones are ${Object.keys(members).join(', ')}`)
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
    return typeof text === 'string' && /^(0|[1-9][0-9]*)$/.test(text) ? BigInt(text) : undefined
  }
  if (typeof value !== 'string') return undefined
  const decimal = /^(?:__bigint__)?(0|[1-9][0-9]*)$|^(0|[1-9][0-9]*)(?:n|#__bigint)$/.exec(value)
  if (decimal) return BigInt((decimal[1] ?? decimal[2]) as string)
  return /^0x[0-9a-fA-F]+$/.test(value) ? BigInt(value) : undefined
}

function oneOf<T extends number>(names: Readonly<Record<string, T>>): Reader<T> {
  return (value, path) => {
    const number = toBigint(value)
    const found = number === undefined ? nameOf(names, value) : Object.values(names).find((n) => BigInt(n) === number)
    if (found === undefined) throw invalid(path, `${show(value)}: want one of ${Object.entries(names).map(([name, n]) => `${n} (${name})`).join(', ')}`)
    return found
  }
}

function nameOf<T>(names: Readonly<Record<string, T>>, text: unknown): T | undefined {
  if (typeof text !== 'string') return undefined
  const name = text.toLowerCase().replaceAll(/[_ -]/g, '')
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

// A value that could be a key is not shown, be it hex, base64 or words. An address has 42 characters.
function show(value: unknown): string {
  if (typeof value === 'object' && value !== null) return Array.isArray(value) ? 'a list' : 'an object'
  const text = String(value)
  if (text.length > 42) return `a ${typeof value === 'string' ? 'text' : 'number'} of ${text.length} characters`
  return typeof value === 'string' ? JSON.stringify(value) : text
}

function invalid(path: string, why: string): KeywardMalformedError {
  return new KeywardMalformedError(-32602, `parseSession: ${path === '' ? '' : `${path}: `}${why}`, { reason: 'invalidSession', path })
}
