// Tools for an AI agent: a Model Context Protocol server on stdin and stdout that lets the model pay and mint.
// Whatever the model is talked into, it can spend no more than the session allows: the limits are
// kept by Keyward, and this process has no key to get around them.
import { createInterface } from 'node:readline'

import { KeywardDeniedError, keyward, type Session } from '@keyward/viem'
import { type Address, encodeFunctionData, formatEther, getAddress, type Hex, parseAbi, parseEther } from 'viem'

const rpcUrl = process.env['RPC_URL'] ?? 'https://api.testnet.abs.xyz'
const items: Address = '0xC4822AbB9F05646A9Ce44EFa6dDcda0Bf45595AA'
const abi = parseAbi(['function mint(address to, uint256 amount)'])
const gas = 400_000n

const agent = keyward(process.env['KEYWARD_SOCKET'] ?? '../.keyward/agent.sock')

type Arguments = Record<string, unknown>
type Tool = { description: string; properties: Record<string, object>; run(args: Arguments): Promise<string> }

const to = { type: 'string', description: 'address, 0x and 40 hex digits' }

const tools: Record<string, Tool> = {
  budget: {
    description: 'What may still be spent, by limit',
    properties: {},
    run: async () => {
      const { limits, signsUntil } = await agent.session((await grantedSession()).id)
      const lines = limits.map((l) => `${l.tracker}: ${l.remaining} of ${l.limit} left`)
      return [...lines, `until ${signsUntil.toISOString()}`].join('\n')
    },
  },
  pay: {
    description: 'Send ether to an address',
    properties: { to, ether: { type: 'string', description: 'amount in ether, e.g. "0.01"' } },
    run: async (args) => {
      const value = parseEther(String(args['ether']))
      const hash = await send({ to: getAddress(String(args['to'])), value })
      return `paid ${formatEther(value)} ether: ${hash}`
    },
  },
  mint: {
    description: 'Mint items to an address',
    properties: { to, amount: { type: 'integer', minimum: 1 } },
    run: async (args) => {
      const amount = BigInt(Number(args['amount']))
      const data = encodeFunctionData({ abi, functionName: 'mint', args: [getAddress(String(args['to'])), amount] })
      return `minted ${amount}: ${await send({ to: items, data })}`
    },
  },
}

async function grantedSession(): Promise<Session> {
  const session = (await agent.sessions()).find((s) => s.kind === 'agw' && s.status === 'active')
  if (!session) throw new Error('the operator has granted no session to this user')
  return session
}

/** Signs a call from the session's account and sends it. Returns its hash. */
async function send(call: { to: Address; value?: bigint; data?: Hex }): Promise<Hex> {
  const { account, id } = await grantedSession()
  const [nonce, maxFeePerGas] = await Promise.all([node('eth_getTransactionCount', account, 'pending'), node('eth_gasPrice')])
  const tx = { ...call, session: id, from: account, nonce: Number(nonce), gas, maxFeePerGas: BigInt(maxFeePerGas), maxPriorityFeePerGas: 0n }
  const { raw } = await agent.signTransaction(tx)
  return node('eth_sendRawTransaction', raw)
}

async function node(method: string, ...params: unknown[]): Promise<Hex> {
  const body = JSON.stringify({ jsonrpc: '2.0', id: 1, method, params })
  const response = await fetch(rpcUrl, { method: 'POST', headers: { 'content-type': 'application/json' }, body })
  const { error, result } = (await response.json()) as { error?: { message: string }; result: Hex }
  if (error) throw new Error(`${method}: ${error.message}`)
  return result
}

/** Runs a tool. A refusal is an answer that the model can read and reason about, not a failure of the server. */
async function callTool(name: string, args: Arguments) {
  try {
    const tool = tools[name]
    if (!tool) throw new Error(`no tool ${name}`)
    return { content: [{ type: 'text', text: await tool.run(args) }], isError: false }
  } catch (err) {
    return { content: [{ type: 'text', text: explain(err) }], isError: true }
  }
}

function explain(err: unknown): string {
  if (err instanceof KeywardDeniedError) {
    const left = err.remaining === undefined ? '' : ` (${err.remaining} left)`
    return `Not allowed: ${err.shortMessage}${left}. Do not try again with the same request.`
  }
  return `Failed: ${err instanceof Error ? err.message : String(err)}`
}

type Request = { id?: number | string; method: string; params?: { name?: string; arguments?: Arguments; protocolVersion?: string } }

async function handle({ method, params }: Request): Promise<object | undefined> {
  switch (method) {
    case 'initialize':
      return {
        protocolVersion: params?.protocolVersion ?? '2025-06-18',
        capabilities: { tools: {} },
        serverInfo: { name: 'keyward-example', version: '1.0.0' },
      }
    case 'ping':
      return {}
    case 'tools/list':
      return {
        tools: Object.entries(tools).map(([name, { description, properties }]) => ({
          name,
          description,
          inputSchema: { type: 'object', properties, required: Object.keys(properties) },
        })),
      }
    case 'tools/call':
      return callTool(params?.name ?? '', params?.arguments ?? {})
    default:
      return undefined
  }
}

function write(message: object) {
  process.stdout.write(`${JSON.stringify({ jsonrpc: '2.0', ...message })}\n`)
}

for await (const line of createInterface({ input: process.stdin })) {
  let request: Request
  try {
    request = JSON.parse(line)
  } catch {
    write({ id: null, error: { code: -32700, message: 'not JSON' } })
    continue
  }
  if (request.id === undefined) continue // a notification
  const result = await handle(request)
  write(result ? { id: request.id, result } : { id: request.id, error: { code: -32601, message: `no method ${request.method}` } })
}
