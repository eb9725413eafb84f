import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:http'

export const validator = '0x34ca1501FAE231cC2ebc995CE013Dbe882d7d081'

/**
 * A node that answers what agw-client and a wallet of viem ask for, and keeps the raw transactions it is sent.
 * The account it knows is deployed, rich, and has the session validator as its only hook.
 */
export class StubNode {
  raws = []
  nonce = 7
  chainId = 11124
  hooks = [validator]
  code = '0x01' // of every account
  #server = createServer((request, response) => this.#serve(request, response))

  static async start(t, { port = 0 } = {}) {
    const node = new StubNode()
    node.#server.listen(port, '127.0.0.1')
    await once(node.#server, 'listening')
    node.url = `http://127.0.0.1:${node.#server.address().port}`
    t.after(() => {
      node.#server.close()
      node.#server.closeAllConnections()
    })
    return node
  }

  async #serve(request, response) {
    let body = ''
    for await (const chunk of request.setEncoding('utf8')) body += chunk
    const call = JSON.parse(body)
    const answer = Array.isArray(call) ? call.map((c) => this.#answer(c)) : this.#answer(call)
    response.setHeader('content-type', 'application/json').end(JSON.stringify(answer))
  }

  #answer({ id, method, params }) {
    const methods = {
      eth_chainId: () => `0x${this.chainId.toString(16)}`,
      eth_getCode: () => this.code,
      eth_getBalance: () => '0xffffffffffffffffff',
      eth_getTransactionCount: () => `0x${this.nonce.toString(16)}`,
      eth_gasPrice: () => '0x2b275d0',
      eth_estimateGas: () => '0x493e0',
      eth_maxPriorityFeePerGas: () => '0x0',
      eth_getBlockByNumber: () => ({ number: '0x1', timestamp: '0x1', baseFeePerGas: '0x2b275d0', transactions: [] }),
      // listHooks(true), the only thing that is read from a contract.
      eth_call: () => encodeAddresses(this.hooks),
      eth_sendRawTransaction: () => {
        this.raws.push(params[0])
        this.nonce++
        return hashOf(params[0])
      },
    }
    const answer = methods[method]
    if (!answer) return { jsonrpc: '2.0', id, error: { code: -32601, message: `the method ${method} does not exist/is not available` } }
    return { jsonrpc: '2.0', id, result: answer() }
  }
}

/** What the stub says is the hash of a raw transaction: 32 bytes, but not those that a chain would compute. */
export function hashOf(raw) {
  return `0x${createHash('sha256').update(raw).digest('hex')}`
}

// abi.encode(address[])
function encodeAddresses(addresses) {
  const word = (hex) => hex.toLowerCase().padStart(64, '0')
  return `0x${[word('20'), word(addresses.length.toString(16)), ...addresses.map((a) => word(a.slice(2)))].join('')}`
}
