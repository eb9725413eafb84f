import type { Address, Hash, Hex } from 'viem'

import type { Field } from './decode.js'

/** How a limit counts: 0 unlimited, 1 lifetime, 2 allowance per period. */
export type UsageLimit = { limitType: 0 | 1 | 2; limit: bigint; period: bigint }

export type Constraint = {
  /** 0 unconstrained, 1 equal, 2 greater, 3 less, 4 greater or equal, 5 less or equal, 6 not equal. */
  condition: 0 | 1 | 2 | 3 | 4 | 5 | 6
  /** Of a 32-byte calldata word: it starts at byte 4 + 32 * index. */
  index: bigint
  refValue: Hash
  limit: UsageLimit
}

export type CallPolicy = {
  target: Address
  selector: Hex
  maxValuePerUse: bigint
  valueLimit: UsageLimit
  constraints: Constraint[]
}

export type TransferPolicy = { target: Address; maxValuePerUse: bigint; valueLimit: UsageLimit }

/** A session's spec, in the shape of agw-client's `SessionConfig`: give it to `createSessionClient` as it is. */
export type SessionSpec = {
  signer: Address
  /** Unix seconds, inclusive. */
  expiresAt: bigint
  feeLimit: UsageLimit
  callPolicies: CallPolicy[]
  transferPolicies: TransferPolicy[]
}

/** One limit of a session, and what is left of it now. */
export type SessionLimit = {
  /** What it counts, e.g. `fee`, `callValue:0xTARGET:0xSELECTOR`, `callParam:0xTARGET:0xSELECTOR:2@PERIODID`. */
  tracker: string
  /** In the unit of what is counted: wei, or the calldata word as it is. */
  limit: bigint
  /** Signed for, whether or not it landed. */
  used: bigint
  remaining: bigint
}

export type SessionStatus = 'pending' | 'active' | 'expired' | 'revoked' | 'closed'

export type Session = {
  id: string
  /** `agw`: signs for a smart account. `eoa`: the signer is the account. */
  kind: 'agw' | 'eoa'
  signer: Address
  account: Address
  chainId: number
  /** Only of `agw` sessions. */
  validator: Address | undefined
  status: SessionStatus
  sessionHash: Hash
  session: SessionSpec
  keyUri: string
  backend: string
  /** Where the key is: `resident`, `wrapped` or `sealed`. */
  protection: string
  clients: string[]
  createdAt: Date
  activatedAt: Date | undefined
  endedAt: Date | undefined
  /** The agent signs until then: `expiresAt` less the operator's margin. */
  signsUntil: Date
  /** Only from `session()`. */
  limits: SessionLimit[]
  /** Nonces that were signed for and are not settled on chain. Only from `session()`. */
  outstanding: number | undefined
  /** What the account's owner sends to the validator. Only from `session()`, of `agw` sessions. */
  createSessionCalldata: Hex | undefined
}

export function readSession(f: Field): Session {
  return {
    id: f.at('id').text(),
    kind: f.at('kind').text() as Session['kind'],
    signer: f.at('signer').address(),
    account: f.at('account').address(),
    chainId: f.at('chainId').number(),
    validator: f.at('validator').maybe((v) => v.address()),
    status: f.at('status').text() as SessionStatus,
    sessionHash: f.at('sessionHash').hex(),
    session: readSpec(f.at('session')),
    keyUri: f.at('keyUri').text(),
    backend: f.at('backend').text(),
    protection: f.at('protection').text(),
    clients: f.at('clients').list((c) => c.text()),
    createdAt: f.at('createdAt').date(),
    activatedAt: f.at('activatedAt').maybe((t) => t.date()),
    endedAt: f.at('endedAt').maybe((t) => t.date()),
    signsUntil: f.at('signsUntil').date(),
    limits: f.at('limits').list(readLimit),
    outstanding: f.at('outstanding').maybe((n) => n.number()),
    createSessionCalldata: f.at('createSessionCalldata').maybe((c) => c.hex()),
  }
}

function readSpec(f: Field): SessionSpec {
  return {
    signer: f.at('signer').address(),
    expiresAt: f.at('expiresAt').bigint(),
    feeLimit: readUsageLimit(f.at('feeLimit')),
    callPolicies: f.at('callPolicies').list(readCallPolicy),
    transferPolicies: f.at('transferPolicies').list(readTransferPolicy),
  }
}

function readCallPolicy(f: Field): CallPolicy {
  return {
    ...readTransferPolicy(f),
    selector: f.at('selector').hex(),
    constraints: f.at('constraints').list(readConstraint),
  }
}

function readTransferPolicy(f: Field): TransferPolicy {
  return {
    target: f.at('target').address(),
    maxValuePerUse: f.at('maxValuePerUse').bigint(),
    valueLimit: readUsageLimit(f.at('valueLimit')),
  }
}

function readConstraint(f: Field): Constraint {
  return {
    condition: f.at('condition').number() as Constraint['condition'],
    index: f.at('index').bigint(),
    refValue: f.at('refValue').hex(),
    limit: readUsageLimit(f.at('limit')),
  }
}

function readUsageLimit(f: Field): UsageLimit {
  return {
    limitType: f.at('limitType').number() as UsageLimit['limitType'],
    limit: f.at('limit').bigint(),
    period: f.at('period').bigint(),
  }
}

function readLimit(f: Field): SessionLimit {
  return {
    tracker: f.at('tracker').text(),
    limit: f.at('limit').bigint(),
    used: f.at('used').bigint(),
    remaining: f.at('remaining').bigint(),
  }
}
