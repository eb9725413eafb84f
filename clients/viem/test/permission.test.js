// A socket whose file keeps this process out.
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { chmod, chown, mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { promisify } from 'node:util'

const stranger = 65534 // Root may open every file, so a test of root's asks as another user.
const isRoot = process.getuid() === 0

const cases = [
  ['the group may', 0o060, 0o755, /ask the agent's operator to add this user to its group, gid \d+; then start this process again/],
  ['only the owner may', 0o000, 0o755, /only its owner, uid \d+, may/],
  ['a directory hides it', 0o660, 0o000, /ask the agent's operator which group may, and to add this user to it/],
]
for (const [name, socketMode, directoryMode, want] of cases) {
  test(`no permission where ${name}: says whom to ask for what, and not to run as the agent's user`, async (t) => {
    const dir = await mkdtemp(join(tmpdir(), 'kw-'))
    const hidden = await mkdtemp(join(dir, 'run-'))
    const path = join(hidden, 'agent.sock')
    const server = createServer()
    await new Promise((resolve) => server.listen(path, resolve))
    t.after(async () => {
      server.close()
      await chmod(hidden, 0o700)
      await rm(dir, { recursive: true })
    })
    await chmod(dir, 0o755)
    if (isRoot) await chown(path, 0, 4711)
    await chmod(path, socketMode)
    await chmod(hidden, directoryMode)

    const script = `
      import { keyward, KeywardUnavailableError } from '@keyward/viem'
      if (${isRoot}) process.setgroups([]), process.setgid(${stranger}), process.setuid(${stranger})
      const err = await keyward(${JSON.stringify(path)}).sessions().catch((err) => err)
      console.log(JSON.stringify({ typed: err instanceof KeywardUnavailableError, reason: err.reason, cause: err.cause?.code, message: err.shortMessage }))`
    const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', script], { cwd: import.meta.dirname })
    const { message, ...rest } = JSON.parse(stdout)
    assert.deepEqual(rest, { typed: true, reason: 'notReachable', cause: 'EACCES' })
    assert.match(message, want)
    assert.doesNotMatch(message, /as the agent|sudo/)
  })
}
