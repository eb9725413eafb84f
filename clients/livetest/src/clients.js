// The clients that people have, unmodified, each behind the same three lines: open a connection to a
// socket, call a method, close. A refused call throws an error that has `code`, the agent's own.
//
// `survives` says whether a connection goes on working when the agent was restarted. Where it does not, the app has
// to close it and open another, and for some there is more to it: see `open` and `close`.
import { execFile } from 'node:child_process'
import { createRequire } from 'node:module'
import { promisify } from 'node:util'

import { KeywardError, keyward } from '@keyward/viem'
import { IpcSocketProvider } from 'ethers'
import { createClient } from 'viem'
import { ipc } from 'viem/node'
import { IpcProvider } from 'web3-providers-ipc'

const exec = promisify(execFile)
// The binary itself: npm's wrapper around it exits with 0 whatever happens.
const arch = { x64: 'amd64', arm64: 'arm64' }[process.arch]
const cast = createRequire(import.meta.url).resolve(`@foundry-rs/cast-${process.platform}-${arch}/bin/cast`)

function rpcError(code, message) {
  return Object.assign(new Error(message), { code })
}

const viem = {
  name: "viem's ipc transport",
  survives: false,
  async open(path) {
    const client = createClient({ transport: ipc(path) })
    const rpc = await client.transport.getRpcClient()
    return {
      call: (method, params) => client.request({ method, ...(params && { params }) }).catch((err) => Promise.reject(rpcError(err.code, err.message))),
      // viem keeps one connection for each path in the whole process, also after it is lost: a new client
      // gets the dead one until somebody closes it like this.
      close: () => rpc.close(),
    }
  },
}

const ethers = {
  name: 'ethers IpcSocketProvider',
  survives: false,
  async open(path) {
    const provider = new IpcSocketProvider(path)
    // Without these ethers ends the whole process when the agent goes away: at the connection's end it emits
    // an event "close" that it does not know itself, and nobody listens for the socket's errors.
    provider.socket.removeAllListeners('end')
    provider.socket.on('error', () => {})
    return {
      // ethers keeps the JSON-RPC error inside its own.
      call: (method, params = []) => provider.send(method, params).catch((err) => Promise.reject(rpcError(err.error?.code ?? err.info?.error?.code, err.message))),
      close: () => provider.destroy(),
    }
  },
}

const web3 = {
  name: 'web3.js IpcProvider',
  // With autoReconnect it does mostly, but now and then web3.js takes its listeners off the connection
  // that it has just opened, and no answer arrives any more.
  survives: false,
  async open(path) {
    const provider = new IpcProvider(path, {}, { autoReconnect: false })
    return {
      async call(method, params = []) {
        const { error, result } = await provider
          .request({ jsonrpc: '2.0', id: crypto.randomUUID(), method, params })
          .catch((err) => (err.error ? err : Promise.reject(err)))
        if (error) throw rpcError(error.code, error.message)
        return result
      },
      close: () => provider.disconnect(),
    }
  },
}

const castRpc = {
  name: 'cast rpc',
  survives: true,
  async open(path) {
    return {
      async call(method, params = []) {
        const args = ['rpc', '--rpc-url', path, '--raw', method, JSON.stringify(params)]
        try {
          return JSON.parse((await exec(cast, args)).stdout)
        } catch (err) {
          const [, code, message] = /error code (-?\d+): (.*)/.exec(err.stderr) ?? []
          throw code ? rpcError(Number(code), message) : err
        }
      },
      close: () => {},
    }
  },
}

const curl = {
  name: 'curl',
  survives: true,
  async open(path) {
    return {
      async call(method, params = []) {
        const body = JSON.stringify({ jsonrpc: '2.0', id: 1, method, params })
        const { stdout } = await exec('curl', ['--silent', '--show-error', '--fail', '--unix-socket', path, 'http://localhost/', '-d', body])
        const { error, result } = JSON.parse(stdout)
        if (error) throw rpcError(error.code, error.message)
        return result
      },
      close: () => {},
    }
  },
}

const keywardViem = {
  name: '@keyward/viem',
  survives: true,
  async open(path) {
    const agent = keyward(path)
    return {
      call: (method, params) => agent.request(method, params).catch((err) => Promise.reject(err instanceof KeywardError ? rpcError(err.code, err.shortMessage) : err)),
      close: () => agent.close(),
    }
  },
}

export const clients = { viem, ethers, web3, cast: castRpc, curl, keywardViem }
