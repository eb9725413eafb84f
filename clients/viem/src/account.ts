import {
  type Address,
  type Hex,
  type LocalAccount,
  type NonceManager,
  type SignableMessage,
  type TypedDataDefinition,
  getAddress,
  getTypesForEIP712Domain,
  hashTypedData,
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
 * An account that signs through the agent, a drop-in for viem's `privateKeyToAccount` with three
 * differences: `publicKey` is undefined, although viem's type names it, because the agent tells a
 * signer's address only; `source` is `'keyward'`; and `sign` and `signAuthorization` always
 * throw a {@link KeywardUnsupportedError}.
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
      return assertSignature(await request('eth_signTypedData_v4', [address, typedDataToJson(typedData as TypedDataDefinition)]))
    },
    // The agent serializes the transaction that it signs, so the chain's own serializer is not used.
    // `signer` names the session. `from` is the account: of an `agw` session the smart account.
    async signTransaction(tx) {
      const params = { from: address, ...encodeTransaction(tx as Record<string, unknown>), signer: address }
      return new Field(await agent.request('session_signTransaction', [params], { signal }), 'session_signTransaction').at('raw').hex()
    },
    // The agent denies messages: the chain's validator refuses those of a session key too.
    async signMessage({ message }) {
      return assertSignature(await request('personal_sign', [messageToHex(message), address]))
    },
    async sign() {
      throw unsupported('sign', 'the agent signs transactions, never a bare digest')
    },
    // EIP-7702: it would hand the signer's own address to a contract.
    async signAuthorization() {
      throw unsupported('signAuthorization', 'the agent signs no EIP-7702 authorizations')
    },
  })
  return { ...account, source: 'keyward', agent } as KeywardAccount
}

// viem's wallet actions add EIP712Domain to `types`; viem's own accounts do the same when an app calls them directly.
// Without EIP712Domain, serializeTypedData would drop the domain. The hash is not used: making it
// finds the same errors as viem's own accounts do.
function typedDataToJson(typedData: TypedDataDefinition): string {
  hashTypedData(typedData)
  const { domain, types } = typedData
  return serializeTypedData({ ...typedData, types: { EIP712Domain: getTypesForEIP712Domain({ domain }), ...types } } as TypedDataDefinition)
}

function unsupported(method: string, why: string): KeywardUnsupportedError {
  return new KeywardUnsupportedError(4200, `${method}: ${why}`, { data: { reason: 'unsupportedMethod' } })
}

function messageToHex(message: SignableMessage): Hex {
  if (typeof message === 'string') return stringToHex(message)
  return typeof message.raw === 'string' ? message.raw : toHex(message.raw)
}

function assertSignature(signature: Hex): Hex {
  if (!/^0x[0-9a-f]{130}$/.test(signature)) throw new KeywardProtocolError('a signature that is not 65 bytes of lower-case hex')
  return signature
}
