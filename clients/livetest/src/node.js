import { once } from 'node:events'
import { createServer } from 'node:http'

import { encodeAbiParameters, keccak256 } from 'viem'

export const validator = '0x34ca1501FAE231cC2ebc995CE013Dbe882d7d081'

/**
 * A node that answers what agw-client asks for, and keeps the raw transactions it is sent.
 * The account it knows is deployed, rich, and has the session validator as its only hook.
 */
export class StubNode {
  raws = []
  nonce = 7
  #server = createServer((request, response) => this.#serve(request, response))

  static async start(t, { chainId = 11124, hooks = [validator] } = {}) {
    const node = new StubNode()
    node.chainId = chainId
    node.hooks = hooks
    node.#server.listen(0, '127.0.0.1')
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
      eth_getCode: () => '0x01',
      eth_getBalance: () => '0xffffffffffffffffff',
      eth_getTransactionCount: () => `0x${this.nonce.toString(16)}`,
      eth_gasPrice: () => '0x2b275d0',
      eth_estimateGas: () => '0x493e0',
      // listHooks(true), the only thing that is read from a contract.
      eth_call: () => encodeAbiParameters([{ type: 'address[]' }], [this.hooks]),
      eth_sendRawTransaction: () => {
        this.raws.push(params[0])
        this.nonce++
        return keccak256(params[0])
      },
    }
    const answer = methods[method]
    if (!answer) return { jsonrpc: '2.0', id, error: { code: -32601, message: `the method ${method} does not exist/is not available` } }
    return { jsonrpc: '2.0', id, result: answer() }
  }
}
