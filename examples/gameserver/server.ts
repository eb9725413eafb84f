// A game server that mints items to its players with agw-client. The key that signs is the agent's;
// this process has none, and can mint no more than its session allows.
//
//   POST /mint {"to": "0x…", "amount": 1}
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'

import { createSessionClient } from '@abstract-foundation/agw-client/sessions'
import { findKeywardError, KeywardDeniedError, keyward, toKeywardAccount } from '@keyward/viem'
import { type Address, type Hex, http, isAddress, parseAbi } from 'viem'
import { abstractTestnet } from 'viem/chains'

const socketPath = process.env['KEYWARD_SOCKET'] ?? '../.keyward/agent.sock'
const port = Number(process.env['PORT'] ?? 8080)
const items: Address = '0xC4822AbB9F05646A9Ce44EFa6dDcda0Bf45595AA'
const abi = parseAbi(['function mint(address to, uint256 amount)'])

// The operator has granted the session to this process: there is nothing to configure.
const agent = keyward(socketPath)
const granted = (await agent.sessions()).find((s) => s.kind === 'agw' && s.chainId === abstractTestnet.id)
if (!granted) throw new Error('the operator has granted no session on Abstract testnet to this user')
const { account, session, signer } = granted

const client = createSessionClient({
  account,
  session,
  signer: toKeywardAccount({ agent, signer }),
  chain: abstractTestnet,
  transport: http(process.env['RPC_URL']),
})

// A smart account has one sequence of nonces, so one mint is sent after the other.
let last: Promise<unknown> = Promise.resolve()

function mint(to: Address, amount: bigint): Promise<Hex> {
  const minted = last.then(() =>
    client.writeContract({ account, chain: abstractTestnet, address: items, abi, functionName: 'mint', args: [to, amount] }),
  )
  last = minted.catch(() => {})
  return minted
}

async function readMint(request: IncomingMessage): Promise<{ to: Address; amount: bigint } | undefined> {
  let body = ''
  for await (const chunk of request) {
    body += chunk
    if (body.length > 1000) return undefined
  }
  try {
    const { to, amount } = JSON.parse(body)
    return isAddress(to) && Number.isSafeInteger(amount) && amount > 0 ? { to, amount: BigInt(amount) } : undefined
  } catch {
    return undefined
  }
}

async function handle(request: IncomingMessage): Promise<[status: number, body: object]> {
  if (request.method !== 'POST' || request.url !== '/mint') return [404, { error: 'POST /mint' }]
  const wanted = await readMint(request)
  if (!wanted) return [400, { error: 'want {"to": "0x…", "amount": 1}' }]
  try {
    return [200, { hash: await mint(wanted.to, wanted.amount) }]
  } catch (err) {
    const failure = findKeywardError(err)
    if (failure instanceof KeywardDeniedError) {
      return [403, { error: failure.shortMessage, reason: failure.reason, remaining: failure.remaining?.toString() }]
    }
    console.error(err)
    return [failure?.retryable ? 503 : 500, { error: 'minting failed' }]
  }
}

async function answer(request: IncomingMessage, response: ServerResponse) {
  const [status, body] = await handle(request)
  response.writeHead(status, { 'content-type': 'application/json' }).end(`${JSON.stringify(body)}\n`)
}

const server = createServer(answer).listen(port, '127.0.0.1', () => {
  const address = server.address()
  const listening = typeof address === 'object' ? address?.port : port
  console.log(`minting from ${account} on http://127.0.0.1:${listening}`)
})
