import type { Address, Hash, Hex } from 'viem'

import { Connection, type ConnectionOptions, type RequestOptions } from './connection.js'
import { Field } from './decode.js'
import { KeywardDeniedError } from './errors.js'
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
  /** The id of the session that it was signed with. */
  session: string
  sessionHash: Hash
  /** Those in customSignature; empty for `eoa` sessions. */
  periodIds: bigint[]
}

/** One amount that a transaction counts against one limit. */
export type Charge = { tracker: string; limit: bigint; amount: bigint }

/** What signing would answer now. Nothing is counted. */
export type Verdict = {
  allow: boolean
  /** The error that signing would throw; undefined if it is allowed. */
  denial: KeywardDeniedError | undefined
  /** What signing would count. */
  charges: Charge[]
  digest: Hash
  /** The id of the session that would sign. */
  session: string
  periodIds: bigint[]
}

export type SessionTransaction = KeywardTransaction & {
  /** A session's id or signer, where several sessions fit `from` and `chainId`. */
  session?: string | undefined
  /** `agw` sessions: the account's validation hooks, in the account's order. Default: the session's validator alone. */
  hooks?: readonly Address[] | undefined
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

function encodeSessionTransaction({ session, hooks, ...tx }: SessionTransaction): Record<string, unknown> {
  return { ...(session !== undefined && { session }), ...(hooks && { hooks }), ...encodeTransaction(tx) }
}

function readSigned(f: Field): SignedTransaction {
  return {
    raw: f.at('raw').hex(),
    hash: f.at('hash').hex(),
    signature: f.at('signature').hex(),
    customSignature: f.at('customSignature').maybe((s) => s.hex()),
    digest: f.at('digest').hex(),
    session: f.at('session').text(),
    sessionHash: f.at('sessionHash').hex(),
    periodIds: f.at('periodIds').list((id) => id.bigint()),
  }
}

function readVerdict(f: Field): Verdict {
  return {
    allow: f.at('allow').boolean(),
    denial: f.at('denial').maybe((d) => new KeywardDeniedError(`User denied: ${f.at('message').text()}`, d.object())),
    charges: f.at('charges').list((c) => ({
      tracker: c.at('tracker').text(),
      limit: c.at('limit').bigint(),
      amount: c.at('amount').bigint(),
    })),
    digest: f.at('digest').hex(),
    session: f.at('session').text(),
    periodIds: f.at('periodIds').list((id) => id.bigint()),
  }
}
