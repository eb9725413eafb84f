import { encodeFunctionData } from 'viem'

import { Agent } from './agent.js'
import { digestOf, recoverSigner, typedDataOf } from './raw.js'
import { abi, account, nft, sessionSpec, stranger } from './spec.js'

/** An agent with one active session, and transactions that it allows and forbids. */
export class Fixture {
  static async start(t) {
    const agent = await Agent.start(t)
    return new Fixture(agent, await agent.createSession(sessionSpec(), { account }))
  }

  constructor(agent, session) {
    this.agent = agent
    this.session = session
    this.signer = session.signer
  }

  /** A transaction that the session allows, with bigint fields. */
  mint(nonce) {
    return {
      from: account, to: nft, data: encodeFunctionData({ abi, functionName: 'mint', args: [account, 1n] }), value: 0n, nonce: BigInt(nonce),
      gas: 300_000n, gasPerPubdata: 50_000n, maxFeePerGas: 45_250_000n, maxPriorityFeePerGas: 0n, chainId: 11124n, paymaster: '0x00', paymasterInput: '0x',
    }
  }

  /** One that it does not allow: the contract is not in the policy. */
  theft(nonce) {
    return { ...this.mint(nonce), to: stranger }
  }

  /** The typed data of a transaction, as JSON. */
  typedData(tx) {
    return typedDataOf(tx)
  }

  /** What the session has been charged for so far, by limit. */
  async used() {
    const { limits } = await this.agent.cli('session', 'show', this.session.id)
    return Object.fromEntries(limits.map(({ tracker, used }) => [tracker, used]))
  }

  /** How much was minted today, as the agent counts it. */
  async minted() {
    const used = Object.entries(await this.used()).filter(([tracker]) => tracker.startsWith('callParam:'))
    return used.reduce((sum, [, amount]) => sum + BigInt(amount), 0n)
  }

  /** Whether `signature` is the session's over `tx`. */
  async signed(tx, signature) {
    return (await recoverSigner(digestOf(tx), signature)) === this.signer
  }
}
