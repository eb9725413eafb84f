// Compiled, never run: what apps write has to type-check.
import { keyward, toKeywardAccount } from '@keyward/viem'
import { type Account, createWalletClient, type CustomSource, http, type LocalAccount, type PrivateKeyAccount } from 'viem'
import { sepolia } from 'viem/chains'

const signer = '0x00000000000000000000000000000000000000a1'

const account = toKeywardAccount({ socketPath: '/run/agent.sock', signer, timeout: 5_000 })
export const asLocal: LocalAccount<'keyward'> = account
export const asAccount: Account = account
export const shared: Account = toKeywardAccount({ agent: keyward('/run/agent.sock'), signer })
export const sent: Promise<`0x${string}`> = createWalletClient({ account, chain: sepolia, transport: http() }).sendTransaction({
  to: signer,
  value: 1n,
})

// What drop-in.test.js compares. A member that a later viem adds to its account types breaks this line.
type Compared =
  | 'address' | 'nonceManager' | 'publicKey' | 'sign' | 'signAuthorization' | 'signMessage' | 'signTransaction' | 'signTypedData' | 'source' | 'type'
type Members = keyof PrivateKeyAccount | keyof LocalAccount | keyof CustomSource
export const nothingElse: [Exclude<Members, Compared>, Exclude<Compared, Members>] extends [never, never] ? true : false = true

// @ts-expect-error: either a socket or an agent
toKeywardAccount({ signer })
// @ts-expect-error: not both
toKeywardAccount({ signer, socketPath: '/run/agent.sock', agent: keyward('/run/agent.sock') })
