import {
  type Address,
  type Hex,
  type LocalAccount,
  type NonceManager,
  type SignableMessage,
  type TypedDataDefinition,
  getAddress,
  serializeTypedData,
  stringToHex,
  toHex,
} from 'viem'
import { toAccount } from 'viem/accounts'

import { type Keyward, keyward } from './agent.js'
import type { ConnectionOptions } from './connection.js'
import { Field } from './decode.js'
import { KeywardProtocolError, KeywardUnsupportedError } from './errors.js'
import { encodeTransaction } from './transaction.js'

export type ToKeywardAccountParameters = {
  /** The signer's address, as `session create` printed it. */
  signer: Address
  /** Hands out nonces. agw-client asks the signer's, not the account's, so it belongs here. */
  nonceManager?: NonceManager | undefined
  /** Gives up what is under way and everything after it. */
  signal?: AbortSignal | undefined
} & (
  | ({ /** The agent's socket. */ socketPath: string; agent?: undefined } & ConnectionOptions)
  | { /** A client to share a connection with. */ agent: Keyward; socketPath?: undefined }
)

/**
 * An account that signs through the agent. As with every custom account of viem, `publicKey` is
 * not known; the agent tells a session's signer, and that is `address`.
 */
export type KeywardAccount = LocalAccount<'keyward'> & {
  /** The agent that signs, to look at the session or to close the connection. */
  agent: Keyward
}

/**
 * A viem account whose key the agent holds. Give it as `signer` to agw-client's `createSessionClient`
 * or `toSessionClient`; of an `eoa` session, as `account` to `createWalletClient`.
 */
export function toKeywardAccount(parameters: ToKeywardAccountParameters): KeywardAccount {
  const { agent: shared, nonceManager, signal, signer, socketPath, ...options } = parameters
  const agent = shared ?? keyward(socketPath, options)
  const address = getAddress(signer)
  const request = async (method: string, params: readonly unknown[]): Promise<Hex> =>
    new Field(await agent.request(method, params, { signal }), method).hex()

  const account = toAccount({
    address,
    nonceManager,
    async signTypedData(typedData) {
      const params = [address, serializeTypedData(typedData as TypedDataDefinition)]
      return assertSignature(await request('eth_signTypedData_v4', params))
    },
    // The agent serializes the transaction that it signs, so the chain's own serializer is not asked.
    async signTransaction(tx) {
      return request('eth_signTransaction', [{ ...encodeTransaction(tx as Record<string, unknown>), from: address }])
    },
    // Refused by the agent, unless the operator has allowed it.
    async signMessage({ message }) {
      return assertSignature(await request('personal_sign', [messageToHex(message), address]))
    },
    async sign() {
      throw new KeywardUnsupportedError(4200, 'the agent signs transactions, never a bare digest')
    },
  })
  return { ...account, source: 'keyward', agent } as KeywardAccount
}

function messageToHex(message: SignableMessage): Hex {
  if (typeof message === 'string') return stringToHex(message)
  return typeof message.raw === 'string' ? message.raw : toHex(message.raw)
}

function assertSignature(signature: Hex): Hex {
  if (!/^0x[0-9a-f]{130}$/.test(signature)) throw new KeywardProtocolError('a signature that is not 65 bytes of lower-case hex')
  return signature
}
