// The package as npm installs it, from ESM and from CommonJS: what it exports, what it does, and what its types say.
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { after, before, suite, test } from 'node:test'
import { promisify } from 'node:util'

import * as esm from '@keyward/viem'

import { Fixture } from '../src/fixture.js'

const exec = promisify(execFile)
const cjs = createRequire(import.meta.url)('@keyward/viem')
const dir = join(import.meta.dirname, '..', '.build', 'modules')
const tsc = join(import.meta.dirname, '..', 'node_modules', '.bin', 'tsc')

const cleanups = []
const scope = { after: (fn) => cleanups.push(fn) }
let fixture

before(async () => {
  fixture = await Fixture.start(scope)
  rmSync(dir, { recursive: true, force: true })
  mkdirSync(dir, { recursive: true })
})
after(async () => {
  for (const cleanup of cleanups.reverse()) await cleanup()
})

test('import and require() give the same names, each from its own files', () => {
  assert.deepEqual(Object.keys(cjs).sort(), Object.keys(esm).sort())
  assert.ok(Object.keys(esm).includes('toKeywardAccount'))
  assert.notEqual(cjs.toKeywardAccount, esm.toKeywardAccount)
})

// Run by node itself, so that nothing of this file's ESM is around it.
const program = `
async function main({ parseSession, toKeywardAccount, KeywardError, KeywardMalformedError, KeywardDeniedError }) {
  const [socketPath, printed, good, bad] = process.argv.slice(2)
  const session = parseSession(printed)
  let refused
  try { parseSession('{') } catch (err) { refused = err }
  const account = toKeywardAccount({ socketPath, signer: session.signer })
  const signature = await account.signTypedData(JSON.parse(good))
  const denied = await account.signTypedData(JSON.parse(bad)).catch((err) => err)
  account.agent.close()
  console.log(JSON.stringify({
    signature, period: typeof session.feeLimit.period,
    refused: [refused instanceof KeywardMalformedError, refused instanceof KeywardError, refused instanceof KeywardDeniedError, refused.reason],
    denied: [denied instanceof KeywardDeniedError, denied instanceof KeywardMalformedError, denied.reason],
  }))
}
`
const programs = {
  'esm.mjs': `import * as keyward from '@keyward/viem'\n${program}\nawait main(keyward)`,
  'cjs.cjs': `const keyward = require('@keyward/viem')\n${program}\nmain(keyward)`,
}
for (const [i, [file, text]] of Object.entries(programs).entries()) {
  test(`${file}: a program signs, and its errors are typed`, async () => {
    writeFileSync(join(dir, file), text)
    const tx = fixture.mint(i)
    const args = [fixture.session, fixture.typedData(tx), fixture.typedData(fixture.theft(i))].map((value) => JSON.stringify(value))
    const { stdout } = await exec(process.execPath, [join(dir, file), fixture.agent.socket, ...args])
    const { signature, ...others } = JSON.parse(stdout)
    assert.ok(await fixture.signed(tx, signature))
    assert.deepEqual(others, { period: 'bigint', refused: [true, true, false, 'invalidSession'], denied: [true, false, 'callNotAllowed'] })
  })
}

suite('errors of one copy, seen by the other', () => {
  for (const [name, thrower, catcher] of [['CommonJS in ESM', cjs, esm], ['ESM in CommonJS', esm, cjs]]) {
    test(name, () => {
      let err
      try { thrower.parseSession('{') } catch (caught) { err = caught }
      assert.ok(err instanceof catcher.KeywardError)
      assert.ok(err instanceof catcher.KeywardMalformedError)
      for (const other of ['KeywardDeniedError', 'KeywardUnauthorizedError', 'KeywardUnsupportedError', 'KeywardUnavailableError', 'KeywardLimitedError', 'KeywardProtocolError']) {
        assert.ok(!(err instanceof catcher[other]), other)
        assert.ok(new catcher[other](1, 'x') instanceof thrower[other], other)
      }
      const wrapped = new Error('wrapped', { cause: err })
      assert.equal(catcher.findKeywardError(wrapped), err)
      assert.equal(catcher.findKeywardError(wrapped, catcher.KeywardMalformedError), err)
      assert.equal(catcher.findKeywardError(wrapped, catcher.KeywardDeniedError), undefined)
    })
  }

  test("an app's own subclass, and what is no error of ours", () => {
    class Own extends esm.KeywardError {}
    assert.ok(new Own(1, 'x') instanceof Own)
    assert.ok(new Own(1, 'x') instanceof cjs.KeywardError)
    assert.ok(!(new esm.KeywardError(1, 'x') instanceof Own))
    const others = [undefined, null, 'KeywardError', {}, new Error('x'), Object.create(null), { name: 'KeywardError' }, esm.KeywardError.prototype]
    assert.deepEqual(others.filter((value) => value instanceof esm.KeywardError), [])
  })
})

// What an app writes, with each exported type; and lines that must not compile.
const good = (wallet) => `import ${names} from '@keyward/viem'
import type { SessionConfig } from '@abstract-foundation/agw-client/sessions'
import type { LocalAccount } from 'viem' with { 'resolution-mode': 'import' }

const session: SessionConfig = parseSession('{}')
const signer: KeywardAccount = toKeywardAccount({ socketPath: '/run/keyward/agent.sock', signer: session.signer })
const account: LocalAccount = signer
const options: ToKeywardAccountParameters = { agent: keyward('/run/keyward/agent.sock', { timeout: 1 }), signer: account.address }
export async function look(err: unknown): Promise<bigint | undefined> {
  const verdict: Verdict = await options.agent!.simulate({ from: account.address, to: account.address, nonce: 1, gas: 1n, maxFeePerGas: 1n } satisfies KeywardTransaction)
  if (err instanceof KeywardDeniedError) return err.remaining
  if (err instanceof KeywardError) return BigInt(err.code)
  return verdict.denial?.remaining ?? findKeywardError(err, KeywardDeniedError)?.limit
}
${wallet}`
// viem's own types are for ESM alone, so with node16 a CommonJS file can't import viem: error TS1479.
const withWallet = `import { createWalletClient, http } from 'viem'
import { abstractTestnet } from 'viem/chains'
export const wallet = createWalletClient({ account, chain: abstractTestnet, transport: http() })
`
const names = '{ findKeywardError, keyward, KeywardDeniedError, KeywardError, parseSession, toKeywardAccount, type KeywardAccount, type KeywardTransaction, type ToKeywardAccountParameters, type Verdict }'
const wrong = [
  `import { toKeywardAccount } from '@keyward/viem'\ntoKeywardAccount({ signer: '0x12' })\n`, // neither socketPath nor agent
  `import { toKeywardAccount } from '@keyward/viem'\ntoKeywardAccount({ socketPath: 's', signer: 'me' })\n`,
  `import { parseSession } from '@keyward/viem'\nexport const text: string = parseSession('').expiresAt\n`,
  `import { KeywardError } from '@keyward/viem'\nexport const f = (err: unknown): bigint => (err instanceof KeywardError ? err.code : 0n)\n`,
  `import { noSuchName } from '@keyward/viem'\nexport const n = noSuchName\n`,
  `import { parseSession } from '@keyward/viem/dist/esm/parse-session.js'\nexport const p = parseSession\n`, // not exported
]

for (const [resolution, module] of [['node16', 'node16'], ['nodenext', 'nodenext'], ['bundler', 'preserve']]) {
  for (const extension of ['mts', 'cts']) {
    test(`the types, with moduleResolution ${resolution} from .${extension}`, async () => {
      const work = join(dir, `${resolution}-${extension}`)
      mkdirSync(work)
      const config = (name, files) =>
        writeFileSync(join(work, name), JSON.stringify({
          compilerOptions: { strict: true, exactOptionalPropertyTypes: true, target: 'es2022', module, moduleResolution: resolution, skipLibCheck: true, types: ['node'], noEmit: true },
          files,
        }))
      writeFileSync(join(work, `good.${extension}`), good(resolution === 'node16' && extension === 'cts' ? '' : withWallet))
      config('good.json', [`good.${extension}`])
      await exec(tsc, ['-p', join(work, 'good.json')]).catch((err) => assert.fail(err.stdout))

      wrong.forEach((text, i) => writeFileSync(join(work, `wrong${i}.${extension}`), text))
      config('wrong.json', wrong.map((_, i) => `wrong${i}.${extension}`))
      const output = await exec(tsc, ['-p', join(work, 'wrong.json'), '--pretty', 'false']).then(() => assert.fail('wrong programs compile'), (err) => err.stdout)
      // Exactly one error in each, so that no program is wrong for another reason than its own.
      const files = [...output.matchAll(/^.*?(wrong\d+)\.[cm]ts\(\d+,\d+\): error/gm)].map((m) => m[1])
      assert.deepEqual(files.sort(), wrong.map((_, i) => `wrong${i}`), output)
    })
  }
}
