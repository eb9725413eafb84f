// What each client does with the agent, by its raw JSON-RPC calls.
import assert from 'node:assert/strict'
import { after, before, suite, test } from 'node:test'

import { clients } from '../src/clients.js'
import { Fixture } from '../src/fixture.js'
import { stranger } from '../src/spec.js'

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
  suite(client.name, () => {
    let connection

    before(async () => {
      connection = await client.open(fixture.agent.socket)
    })
    after(() => connection.close())

    const sign = (tx) => connection.call('eth_signTypedData_v4', [fixture.signer, JSON.stringify(fixture.typedData(tx))])

    test('connects, and is told chain and accounts', async () => {
      assert.equal(await connection.call('eth_chainId'), '0x2b74')
      assert.deepEqual(await connection.call('eth_accounts'), [fixture.signer])
    })

    test('signs typed data given as text and as an object, and the same is charged once', async () => {
      const tx = fixture.mint(nonce++)
      assert.ok(await fixture.signed(tx, await sign(tx)))
      const used = await fixture.used()
      assert.ok(await fixture.signed(tx, await connection.call('eth_signTypedData_v4', [fixture.signer, fixture.typedData(tx)])))
      assert.deepEqual(await fixture.used(), used)
    })

    test("is refused with code 4001 and the contract's own words", async () => {
      await assert.rejects(sign(fixture.theft(nonce++)), (err) => {
        assert.equal(err.code, 4001, err)
        assert.match(err.message, /User denied: .*Call to this contract is not allowed/)
        return true
      })
    })

    test('is told the same of a signer that is unknown', async () => {
      const call = connection.call('eth_signTypedData_v4', [stranger, JSON.stringify(fixture.typedData(fixture.mint(nonce++)))])
      await assert.rejects(call, { code: 4100 })
    })

    test('is told that messages are not signed, transactions not sent, methods not known', async () => {
      await assert.rejects(connection.call('personal_sign', ['0x6869', fixture.signer]), { code: 4001 })
      await assert.rejects(connection.call('eth_sendTransaction', [{ from: fixture.signer }]), { code: 4200 })
      await assert.rejects(connection.call('eth_mine'), { code: -32601 })
      await assert.rejects(connection.call('eth_signTypedData_v4', [fixture.signer]), { code: -32602 })
    })

    test('gets 20 answers to 20 parallel requests', async () => {
      const txs = Array.from({ length: 20 }, () => fixture.mint(nonce++))
      const signatures = await Promise.all(txs.map(sign))
      const good = await Promise.all(txs.map((tx, i) => fixture.signed(tx, signatures[i])))
      assert.ok(good.every(Boolean))
      assert.equal(new Set(signatures).size, 20)
    })
  })
}
