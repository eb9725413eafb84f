// What happens to connected clients when the agent is restarted.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { after, before, suite, test } from 'node:test'

import { keyward, toKeywardAccount } from '@keyward/viem'

import { clients } from '../src/clients.js'
import { Fixture } from '../src/fixture.js'

const cleanups = []
const scope = { after: (fn) => cleanups.push(fn) }
let fixture

before(async () => {
  fixture = await Fixture.start(scope)
})
after(async () => {
  for (const cleanup of cleanups.reverse()) await cleanup()
})

let nonce = 0

for (const client of Object.values(clients)) {
  for (const signal of ['SIGTERM', 'SIGKILL']) {
    test(`${client.name}, ${signal}: ${client.survives ? 'goes on' : 'closed and opened again, goes on'}`, async () => {
      let connection = await client.open(fixture.agent.socket)
      await connection.call('eth_accounts')
      await fixture.agent.restart(signal)
      if (!client.survives) {
        await connection.close()
        connection = await client.open(fixture.agent.socket)
      }
      const tx = fixture.mint(nonce++)
      const signature = await connection.call('eth_signTypedData_v4', [fixture.signer, fixture.typedData(tx)])
      assert.ok(await fixture.signed(tx, signature))
      await connection.close()
    })
  }
}

suite('@keyward/viem under load', () => {
  for (const signal of ['SIGTERM', 'SIGKILL']) {
    test(`${signal}: every request is answered with a signature, and each is charged once`, async () => {
      const agent = keyward(fixture.agent.socket, { timeout: 60_000, reconnectFor: 60_000 })
      const account = toKeywardAccount({ agent, signer: fixture.signer })
      const before = await fixture.minted()
      const work = Array.from({ length: 100 }, async () => {
        const tx = fixture.mint(nonce++)
        return fixture.signed(tx, await account.signTypedData(fixture.typedData(tx)))
      })
      await work[10] // some are answered, others under way
      await fixture.agent.restart(signal)
      const good = await Promise.all(work)
      agent.close()
      assert.ok(good.every(Boolean))
      assert.equal((await fixture.minted()) - before, 100n)
    })
  }
})

test('ethers left to itself takes its process down with the agent', async () => {
  const script = `
    import { IpcSocketProvider } from 'ethers'
    const provider = new IpcSocketProvider(${JSON.stringify(fixture.agent.socket)})
    console.log(await provider.send('eth_accounts', []))
    setInterval(() => {}, 1000)`
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], { cwd: import.meta.dirname })
  await once(child.stdout, 'data')
  let stderr = ''
  child.stderr.on('data', (chunk) => (stderr += chunk))
  const exited = once(child, 'exit')
  await fixture.agent.restart()
  assert.deepEqual(await exited, [1, null])
  assert.match(stderr, /unknown ProviderEvent/)
})
