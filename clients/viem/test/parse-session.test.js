import assert from 'node:assert/strict'
import { test } from 'node:test'

import { KeywardMalformedError, parseSession } from '@keyward/viem'

const address = '0x34ca1501FAE231cC2ebc995CE013Dbe882d7d081'
const word = `0x${'0'.repeat(62)}a1`
const printed = {
  id: '00112233aabbccdd',
  signer: address,
  session: {
    signer: address,
    expiresAt: '1800000000',
    feeLimit: { limitType: 1, limit: '1000000000000000000', period: '0' },
    callPolicies: [
      {
        target: address,
        selector: '0x40c10f19',
        maxValuePerUse: '0',
        valueLimit: { limitType: 0, limit: '0', period: '0' },
        constraints: [{ condition: 5, index: '1', refValue: word, limit: { limitType: 2, limit: '5', period: '86400' } }],
      },
    ],
    transferPolicies: [{ target: address, maxValuePerUse: '7', valueLimit: { limitType: 1, limit: '9', period: '0' } }],
  },
}

const want = {
  signer: address,
  expiresAt: 1_800_000_000n,
  feeLimit: { limitType: 1, limit: 10n ** 18n, period: 0n },
  callPolicies: [
    {
      target: address,
      selector: '0x40c10f19',
      maxValuePerUse: 0n,
      valueLimit: { limitType: 0, limit: 0n, period: 0n },
      constraints: [{ condition: 5, index: 1n, refValue: word, limit: { limitType: 2, limit: 5n, period: 86_400n } }],
    },
  ],
  transferPolicies: [{ target: address, maxValuePerUse: 7n, valueLimit: { limitType: 1, limit: 9n, period: 0n } }],
}

/** `printed.session` with the value at `path` replaced; undefined removes it. */
function changed(path, value) {
  const copy = structuredClone(printed.session)
  const names = path.split('.')
  const last = names.pop()
  const parent = names.reduce((object, name) => object[name], copy)
  if (value === undefined) delete parent[last]
  else parent[last] = value
  return copy
}

/** Every integer of the session rewritten. */
function rewritten(write) {
  const integers = new Set(['expiresAt', 'limit', 'period', 'maxValuePerUse', 'index'])
  const walk = (value, name) => {
    if (Array.isArray(value)) return value.map((element) => walk(element))
    if (typeof value === 'object') return Object.fromEntries(Object.entries(value).map(([name, member]) => [name, walk(member, name)]))
    return integers.has(name) ? write(value) : value
  }
  return walk(printed.session)
}

const forms = {
  'the text as printed': JSON.stringify(printed),
  'the object': printed,
  'the session alone': printed.session,
  'its text': JSON.stringify(printed.session),
  bigints: rewritten(BigInt),
  'hex': rewritten((n) => `0x${BigInt(n).toString(16)}`),
  '"123n"': rewritten((n) => `${n}n`),
  '"__bigint__123"': rewritten((n) => `__bigint__${n}`),
  "wagmi's": rewritten((value) => ({ __type: 'bigint', value })),
  "superjson's": { json: printed.session, meta: { values: { expiresAt: ['bigint'], 'feeLimit.limit': ['bigint'], 'callPolicies.0.maxValuePerUse': ['bigint'] }, v: 1 } },
  "superjson's without meta": { json: printed },
  'an address in lower case': changed('signer', address.toLowerCase()),
  'an address in upper case': changed('signer', `0x${address.slice(2).toUpperCase()}`),
  'the name of a limit': changed('feeLimit.limitType', 'Lifetime'),
  "the contract's name of a condition": changed('callPolicies.0.constraints.0.condition', 'LESS_OR_EQUAL'),
  "the SDK's name of a condition": changed('callPolicies.0.constraints.0.condition', 'LessEqual'),
}

for (const [name, form] of Object.entries(forms)) {
  test(`parseSession takes ${name}`, () => assert.deepEqual(parseSession(form), want))
}

const secret = `0x${'ab'.repeat(32)}`
const wrong = [
  ['text that is no JSON', '{"privateKey": 0xabab', '', /want the JSON/],
  ['a list', [], 'session', /want an object/],
  ['null', null, 'session', /want an object/],
  ['an unknown member', changed('feeLimit.currency', 'ETH'), 'session.feeLimit.currency', /unknown member; the known ones are limitType, limit, period/],
  ['a missing member', changed('feeLimit.period', undefined), 'session.feeLimit.period', /missing/],
  ['null for a list', changed('transferPolicies', null), 'session.transferPolicies', /want a list/],
  ['a fraction', changed('expiresAt', 1.5), 'session.expiresAt', /1\.5: want an unsigned integer/],
  ['an inexact number', changed('feeLimit.limit', 2 ** 53), 'session.feeLimit.limit', /9007199254740992: want/],
  ['a negative bigint', changed('expiresAt', -1n), 'session.expiresAt', /-1: want/],
  ['an empty text', changed('expiresAt', ''), 'session.expiresAt', /"": want/],
  ['both forms in one', changed('expiresAt', '__bigint__1n'), 'session.expiresAt', /want/],
  ["wagmi's form with more in it", changed('expiresAt', { __type: 'bigint', value: '1', x: 1 }), 'session.expiresAt', /an object: want/],
  ['more than 256 bits', changed('expiresAt', 2n ** 256n), 'session.expiresAt', /256 bits/],
  ['an index of more than 64 bits', changed('callPolicies.0.constraints.0.index', 2n ** 64n), 'session.callPolicies[0].constraints[0].index', /64 bits/],
  ['an enum beyond its end', changed('feeLimit.limitType', 3), 'session.feeLimit.limitType', /3: want one of 0 \(unlimited\)/],
  ["a name of Object's", changed('feeLimit.limitType', 'constructor'), 'session.feeLimit.limitType', /want one of/],
  ['a wrong checksum', changed('signer', address.replace('FAE', 'FaE')), 'session.signer', /checksum/],
  ['a short selector', changed('callPolicies.0.selector', '0x40c1'), 'session.callPolicies[0].selector', /4 bytes/],
  ['a signer that is another', { ...printed, signer: word.slice(0, 42) }, 'signer', /want session\.signer/],
  ['a hash that is another', { ...printed, sessionHash: word }, 'sessionHash', /not the hash/],
  ['a private key beside it', { session: printed.session, privateKey: secret }, 'privateKey', /the device holds the session's key/],
  ['a private key in it', changed('signerKey', secret), 'session.signerKey', /looks like a private key/],
  ['a key where a selector belongs', changed('callPolicies.0.selector', secret), 'session.callPolicies[0].selector', /a text of 66 characters/],
  ["another type in superjson's meta", { json: printed.session, meta: { values: { expiresAt: ['Date'] } } }, 'meta.values.expiresAt', /bigint only/],
  ["more beside superjson's json", { json: printed.session, extra: 1 }, 'extra', /unknown member/],
]
for (const [name, value, path, message] of wrong) {
  test(`parseSession refuses ${name}`, () => {
    assert.throws(() => parseSession(value), (err) => {
      assert.ok(err instanceof KeywardMalformedError, String(err))
      assert.match(err.shortMessage, message)
      assert.deepEqual([err.code, err.reason, err.path ?? ''], [-32602, 'invalidSession', path])
      assert.doesNotMatch(err.message, /abab/, 'the key is not shown')
      return true
    })
  })
}
