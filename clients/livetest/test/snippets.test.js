// Every TypeScript snippet in the documents compiles under "strict" against the pinned versions, and runs against an agent.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, test } from 'node:test'

import { Agent, bin } from '../src/agent.js'
import { Fixture } from '../src/fixture.js'
import { StubNode } from '../src/node.js'
import { account, friend, nft, sessionSpec } from '../src/spec.js'

const root = join(import.meta.dirname, '..', '..', '..')
const dir = join(import.meta.dirname, '..', '.build', 'snippets')
const documents = { 'README.md': 1, 'docs/app-guide.md': 3, 'clients/viem/README.md': 5 }

/** What a snippet may use without declaring it: an import, or a value that the reader has. */
const given = {
  createSessionClient: `import { createSessionClient } from '@abstract-foundation/agw-client/sessions'`,
  createWalletClient: `import { createWalletClient } from 'viem'`,
  http: `import { http } from 'viem'`,
  readFileSync: `import { readFileSync } from 'node:fs'`,
  keyward: `import { keyward } from '@keyward/viem'`,
  parseSession: `import { parseSession } from '@keyward/viem'`,
  toKeywardAccount: `import { toKeywardAccount } from '@keyward/viem'`,
  chain: `import { abstractTestnet as chain } from 'viem/chains'`,
  session: `const session: import('@abstract-foundation/agw-client/sessions').SessionConfig = reader.session`,
  client: `const client = reader.client`,
  account: `const account: \`0x\${string}\` = reader.account`,
  signer: `const signer: \`0x\${string}\` = reader.signer`, // the eoa session's, for a wallet of plain viem
  to: `const to: \`0x\${string}\` = reader.to`,
  tx: `const tx: import('@keyward/viem').KeywardTransaction = reader.tx`,
  rpcUrl: `const rpcUrl: string = reader.rpcUrl`,
  socketPath: `const socketPath: string = reader.socketPath`,
}

const cleanups = []
const scope = { after: (fn) => cleanups.push(fn) }
let values

/** The ts blocks of a document, with the line that each begins at. */
function snippets(document) {
  const text = readFileSync(join(root, document), 'utf8')
  return [...text.matchAll(/^( *)```ts\n([\s\S]*?)^\1```$/gm)].map((m) => ({
    name: `${document.replaceAll(/[/.]/g, '-')}-${text.slice(0, m.index).split('\n').length + 1}`,
    code: m[2].split('\n').map((line) => line.slice(m[1].length)).join('\n'),
  }))
}

/** The snippet as a module: with what it takes as given, and the reader's own values in place of those that stand for them. */
function moduleOf(code) {
  const own = code
    .replaceAll('/run/keyward/agent.sock', values.socketPath)
    .replaceAll('"0x…"', JSON.stringify(values.signer))
    .replaceAll('"0xUserAccount"', JSON.stringify(account))
    .replaceAll('"0xGame"', JSON.stringify(nft))
    .replaceAll('http()', `http(${JSON.stringify(values.rpcUrl)})`)
    .replaceAll('(…)', '(reader.call)')
  const names = (text) => text.match(/\w+/g) ?? []
  const declared = new Set([
    ...[...own.matchAll(/^import \{([^}]*)\}/gm)].flatMap((m) => names(m[1])),
    ...[...own.matchAll(/\bconst ([^=:]+)[=:]/g)].flatMap((m) => names(m[1])),
  ])
  const uses = Object.keys(given).filter((name) => new RegExp(`(?<![.\\w'"])${name}\\b(?!:|'|")`).test(own) && !declared.has(name))
  const prelude = uses.map((name) => (code.includes('createWalletClient') ? given[name].replace('reader.signer', 'reader.eoa') : given[name]))
  return [...prelude, `declare const reader: any`, own, `export {}`].join('\n')
}

before(async () => {
  const fixture = await Fixture.start(scope)
  const node = await StubNode.start(scope)
  const { parseSession, toKeywardAccount } = await import('@keyward/viem')
  const { createSessionClient } = await import('@abstract-foundation/agw-client/sessions')
  const { http, parseAbi } = await import('viem')
  const { abstractTestnet } = await import('viem/chains')
  const session = parseSession(JSON.stringify(fixture.session))
  const { paymaster, paymasterInput, ...request } = fixture.mint(90) // a request leaves out what it does not have
  const eoa = await fixture.agent.createSession(sessionSpec(), { kind: 'eoa' })
  values = { session, account, signer: fixture.signer, eoa: eoa.signer, to: friend, tx: { ...request, session: fixture.session.id }, rpcUrl: node.url, socketPath: fixture.agent.socket }
  const signer = toKeywardAccount({ socketPath: values.socketPath, signer: fixture.signer })
  scope.after(() => signer.agent.close())
  values.client = createSessionClient({ account, signer, session, chain: abstractTestnet, transport: http(node.url) })
  values.call = { address: nft, abi: parseAbi(['function mint(address, uint256)']), functionName: 'mint', args: [account, 1n] }
  globalThis.reader = values

  rmSync(dir, { recursive: true, force: true })
  mkdirSync(dir, { recursive: true })
  for (const document of Object.keys(documents)) {
    for (const { name, code } of snippets(document)) writeFileSync(join(dir, `${name}.ts`), moduleOf(code))
  }
  writeFileSync(join(dir, 'session.json'), JSON.stringify(fixture.session))
  writeFileSync(join(dir, 'tsconfig.json'), JSON.stringify({
    compilerOptions: { strict: true, target: 'es2022', module: 'nodenext', skipLibCheck: true, types: ['node'], outDir: 'out' },
  }))
  const tsc = join(import.meta.dirname, '..', 'node_modules', '.bin', 'tsc')
  try {
    execFileSync(tsc, ['-p', dir], { encoding: 'utf8' })
  } catch (err) {
    assert.fail(`a snippet does not compile:\n${err.stdout}`)
  }
})
after(async () => {
  for (const cleanup of cleanups.reverse()) await cleanup()
})

for (const [document, count] of Object.entries(documents)) {
  test(`${document}: its snippets run`, async () => {
    const all = snippets(document)
    assert.equal(all.length, count, 'the number of ts snippets: change it here with the document')
    process.chdir(dir) // for the files that they read and write
    for (const { name } of all) await import(join(dir, 'out', `${name}.js`))
  })
}

test('docs/app-guide.md: its five steps, by their own commands', async (t) => {
  const agent = await Agent.start(t)
  const guide = readFileSync(join(root, 'docs', 'app-guide.md'), 'utf8')
  const blocks = (language) => [...guide.matchAll(new RegExp(`^( *)\`\`\`${language}\\n([\\s\\S]*?)^\\1\`\`\`$`, 'gm'))].map((m) => m[2])
  const [[handwritten, ...moreJson], [create, ...moreShell]] = [blocks('json'), blocks('sh')]
  assert.deepEqual([moreJson, moreShell], [[], []], 'each block of the guide is run here')
  const spec = join(dir, 'spec.json')
  const [written] = snippets('docs/app-guide.md')
  await import(`${join(dir, 'out', `${written.name}.js`)}?again`) // step 1 in code, which writes spec.json
  const run = (text) => execFileSync('sh', ['-ec', `keyward() { "$KEYWARD" "$@" --dir "$DIR"; }\n${text}`], { cwd: dir, encoding: 'utf8', env: { ...process.env, KEYWARD: bin, DIR: agent.dir } })

  const [show] = /keyward policy show --spec spec\.json/.exec(guide)
  const [activate] = /keyward session activate ID/.exec(guide)
  for (const text of [readFileSync(spec, 'utf8'), handwritten]) {
    writeFileSync(spec, text)
    assert.match(run(show), /mint\(address,uint256\)/)
    run(create.replace('0xUserAccount', account).replace('uid:1000', `uid:${process.getuid()}`))
    const created = JSON.parse(readFileSync(join(dir, 'session.json'), 'utf8'))
    assert.deepEqual([created.status, created.session.signer], ['pending', created.signer])
    run(activate.replace('ID', created.id))
    assert.equal((await agent.cli('session', 'show', created.id)).status, 'active')
  }
})
