import type { Address, Hash, Hex } from 'viem'

import { Connection, type ConnectionOptions, type RequestOptions } from './connection.js'
import { Field } from './decode.js'
import { readSession, type Session } from './session.js'
import { encodeTransaction, type KeywardTransaction } from './transaction.js'

/** A complete signed transaction, to be sent with `eth_sendRawTransaction`. */
export type SignedTransaction = {
  raw: Hex
  /** The hash that it will have on chain. */
  hash: Hash
  /** 65 bytes: r ‖ s ‖ v, low s, v 27 or 28. */
  signature: Hex
  /** Only of `agw` sessions. */
  customSignature: Hex | undefined
  digest: Hash
  sessionHash: Hash
  /** Only of `agw` sessions. */
  periodIds: bigint[]
}

/** One amount that a transaction counts against one limit. */
export type Charge = { tracker: string; limit: bigint; amount: bigint }

/** What signing would answer now. Nothing is counted. */
export type Verdict = {
  allow: boolean
  /** A stable word for programs; undefined if allowed. */
  reason: string | undefined
  /** The contract's own revert text; undefined if allowed, or if the rule is not the contract's. */
  revert: string | undefined
  charges: Charge[]
}

export type SessionTransaction = KeywardTransaction & {
  /** A session's id, where several sessions fit `from` and `chainId`. */
  session?: string | undefined
}

/** An agent, as an app sees it. */
export type Keyward = {
  /** The sessions that this process may use and that have not ended, oldest first. */
  sessions(options?: RequestOptions): Promise<Session[]>
  /** One session, by its id or its signer's address, with what is left of its limits. */
  session(idOrSigner: string | Address, options?: RequestOptions): Promise<Session>
  /** The verdict that {@link Keyward.signTransaction} would get now. */
  simulate(tx: SessionTransaction, options?: RequestOptions): Promise<Verdict>
  /** Signs a transaction, and gives it complete: of an `agw` session with its customSignature. */
  signTransaction(tx: SessionTransaction, options?: RequestOptions): Promise<SignedTransaction>
  /** Any other method of the agent. A lost connection makes it be sent a second time. */
  request(method: string, params?: readonly unknown[], options?: RequestOptions): Promise<unknown>
  /** Rejects what is under way and closes the connection, for good. */
  close(): void
}

/**
 * A client of the agent that listens at `socketPath`. It connects when it is first asked something,
 * and does not keep the process alive.
 */
export function keyward(socketPath: string, options: ConnectionOptions = {}): Keyward {
  const connection = new Connection(socketPath, options)
  const call = async (method: string, params: readonly unknown[], requestOptions?: RequestOptions) =>
    new Field(await connection.request(method, params, requestOptions), method)

  return {
    sessions: async (options) => (await call('session_list', [], options)).list(readSession),
    session: async (idOrSigner, options) => readSession(await call('session_get', [idOrSigner], options)),
    simulate: async (tx, options) => readVerdict(await call('session_simulate', [encodeSessionTransaction(tx)], options)),
    signTransaction: async (tx, options) =>
      readSigned(await call('session_signTransaction', [encodeSessionTransaction(tx)], options)),
    request: (method, params = [], options) => connection.request(method, params, options),
    close: () => connection.close(),
  }
}

function encodeSessionTransaction(tx: SessionTransaction): Record<string, unknown> {
  return { ...(tx.session !== undefined && { session: tx.session }), ...encodeTransaction(tx) }
}

function readSigned(f: Field): SignedTransaction {
  return {
    raw: f.at('raw').hex(),
    hash: f.at('hash').hex(),
    signature: f.at('signature').hex(),
    customSignature: f.at('customSignature').maybe((s) => s.hex()),
    digest: f.at('digest').hex(),
    sessionHash: f.at('sessionHash').hex(),
    periodIds: f.at('periodIds').list((id) => id.bigint()),
  }
}

function readVerdict(f: Field): Verdict {
  return {
    allow: f.at('allow').boolean(),
    reason: f.at('reason').maybe((r) => r.text()) || undefined,
    revert: f.at('revert').maybe((r) => r.text()) || undefined,
    charges: f.at('charges').list((c) => ({
      tracker: c.at('tracker').text(),
      limit: c.at('limit').bigint(),
      amount: c.at('amount').bigint(),
    })),
  }
}
