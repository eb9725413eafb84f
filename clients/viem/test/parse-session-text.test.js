// parseSession and what the parser of a text could pass over: members given twice, rounded numbers, superjson's meta, keys.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'

import { KeywardMalformedError, parseSession } from '@keyward/viem'

// One session as superjson, wagmi and others wrote it; its README says with which versions.
const forms = join(import.meta.dirname, '..', '..', '..', 'policy', 'testdata', 'forms')
const form = (name) => readFileSync(join(forms, `${name}.json`), 'utf8')
const whole = form('superjson')
const want = parseSession(JSON.parse(whole).json)

for (const name of ['superjson', 'superjsonSession', 'wagmi', 'ox', 'n', 'bigint']) {
  test(`what a library wrote is read: ${name}.json`, () => {
    assert.deepEqual(parseSession(form(name)), want)
    assert.deepEqual(parseSession(JSON.parse(form(name))), want)
    assert.equal(typeof want.callPolicies[0].constraints[1].limit.period, 'bigint')
  })
}

test('superjson inside what was printed', () => {
  assert.deepEqual(parseSession({ id: '1', signer: want.signer, session: JSON.parse(whole) }), want)
})

/** Checks that `value` is refused at `path`, with nothing in the error that must not be shown. */
function refused(value, path, message) {
  assert.throws(() => parseSession(value), (err) => {
    assert.ok(err instanceof KeywardMalformedError, String(err))
    assert.match(err.shortMessage, message)
    assert.deepEqual([err.reason, err.path ?? ''], ['invalidSession', path])
    for (let at = 0; at + 16 <= key.length; at++) assert.ok(!err.message.includes(key.slice(at, at + 16)), 'a part of the key is shown')
    return true
  })
}

const key = '4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318'
const plain = JSON.stringify(JSON.parse(whole).json)
const printed = (more) => `{"session":${plain}${more}}`

/** `text` with `old`, which it has, replaced. */
function edit(text, old, replacement) {
  assert.ok(text.includes(old), old)
  return text.replace(old, replacement)
}

const cases = {
  'a member twice, with another value': [edit(plain, '"expiresAt":', '"expiresAt":"1","expiresAt":'), 'expiresAt', /given twice/],
  'a member twice, as an escape': [edit(plain, '"expiresAt":', '"expires\\u0041t":"1","expiresAt":'), 'expiresAt', /given twice/],
  'a member twice, deep inside': [edit(plain, '"condition":', '"condition":0,"condition":'), 'callPolicies[0].constraints[0].condition', /given twice/],
  'a member twice beside the session': [printed(',"id":"1","id":"2"'), 'id', /given twice/],
  'the session twice': [printed(`,"session":${plain}`), 'session', /given twice/],
  '__proto__': [edit(plain, '"expiresAt":', '"__proto__":{},"expiresAt":'), 'session.__proto__', /unknown member/],
  'a number that would be rounded to an integer': [edit(plain, '"period":"0"', '"period":0.99999999999999999999'), 'session.feeLimit.period', /"0\.99999999999999999999": want an unsigned/],
  'an exponent': [edit(plain, '"period":"0"', '"period":1e3'), 'session.feeLimit.period', /"1e3": want an unsigned/],
  'minus zero': [edit(plain, '"period":"0"', '"period":-0'), 'session.feeLimit.period', /"-0": want an unsigned/],
  'two marks of a bigint': [edit(plain, '"period":"0"', '"period":"__bigint__0#__bigint"'), 'session.feeLimit.period', /want an unsigned/],
  'leading zeros': [edit(plain, '"period":"0"', '"period":"010"'), 'session.feeLimit.period', /"010": want an unsigned/],
  'nesting without end': [`${'['.repeat(5_000)}${']'.repeat(5_000)}`, '', /nested deeper than 32/],

  'a path that is not there': [edit(whole, '"expiresAt":["bigint"]', '"expires":["bigint"]'), 'meta.values.expires', /no such path/],
  'a path beyond a list': [edit(whole, '"callPolicies.0.maxValuePerUse":["bigint"]', '"callPolicies.1.maxValuePerUse":["bigint"]'), 'meta.values.callPolicies.1.maxValuePerUse', /no such path/],
  "a path to a list's length": [edit(whole, '"expiresAt":["bigint"]', '"callPolicies.length":["bigint"]'), 'meta.values.callPolicies.length', /no such path/],
  'a type beside bigint': [edit(whole, '"expiresAt":["bigint"]', '"expiresAt":["bigint",{"a":["Date"]}]'), 'meta.values.expiresAt', /bigint only/],
  'a class': [edit(whole, '"expiresAt":["bigint"]', '"feeLimit":[["class","Limit"]]'), 'meta.values.feeLimit', /bigint only/],
  'a bigint that is no decimal string': [edit(whole, '"expiresAt":["bigint"]', '"feeLimit.limitType":["bigint"]'), 'meta.values.feeLimit.limitType', /decimal string at feeLimit\.limitType/],
  'a path twice': [edit(whole, '"expiresAt":["bigint"]', '"expiresAt":["bigint"],"expiresAt":["bigint"]'), 'meta.values.expiresAt', /given twice/],
  'values that are not equal': [edit(whole, '"callPolicies.0.valueLimit":["callPolicies.0.constraints.0.limit"]', '"callPolicies.0.valueLimit":["feeLimit"]'), 'meta.referentialEqualities.callPolicies.0.valueLimit', /differ/],
  'an equal value that is not there': [edit(whole, '"callPolicies.0.valueLimit":["callPolicies.0.constraints.0.limit"]', '"callPolicies.0.valueLimit":["x"]'), 'meta.referentialEqualities.callPolicies.0.valueLimit', /not in "json"/],
  "superjson's option dedupe": [form('dedupe'), 'meta.referentialEqualities.feeLimit.period', /write the session without that option/],
  'another version of superjson': [edit(whole, '"v":1', '"v":2'), 'meta.v', /want 1/],
  'more in meta': [edit(whole, '"v":1', '"v":1,"w":1'), 'meta.w', /unknown member/],
  'meta that is a list': [edit(whole, '"meta":{', '"meta":[],"m":{'), 'm', /unknown member/],

  'a key in a list beside the session': [printed(`,"keys":["0x${key}"]`), 'keys[0]', /private key.*delete/],
  'a key deep beside the session': [printed(`,"wallet":{"k":["${key}"]}`), 'wallet.k[0]', /private key/],
  "a key as a member's name": [printed(`,"${key}":1`), '…', /private key/],
  "a key as a member's name in it": [edit(plain, '"expiresAt":', `"0x${key}":1,"expiresAt":`), 'session.…', /private key/],
  'a mnemonic': [printed(',"wallet":{"Mnemonic":"test test"}'), 'wallet.Mnemonic', /private key/],
  'a key in capitals, without 0x': [printed(`,"k":" ${key.toUpperCase()} "`), 'k', /private key/],
  'a key and no more': [JSON.stringify([key]), '[0]', /private key/],
  'a key as limitType': [edit(plain, '"limitType":1', `"limitType":"${key}"`), 'session.feeLimit.limitType', /a text of 64 characters/],
  'a key as an unknown member of superjson': [edit(whole, '"meta":', `"m":"${key}","meta":`), 'm', /private key/],
  'a key in base64': [edit(plain, '"selector":"0x40c10f19"', `"selector":"${Buffer.from(key, 'hex').toString('base64')}"`), 'session.callPolicies[0].selector', /a text of 44 characters/],
  'words where a selector belongs': [edit(plain, '"selector":"0x40c10f19"', '"selector":"test test test test test test test test test test test junk"'), 'session.callPolicies[0].selector', /a text of 59 characters/],
}
for (const [name, [text, path, message]] of Object.entries(cases)) {
  test(`parseSession refuses ${name}`, () => refused(text, path, message))
}

test('a hash beside the session is no key', () => {
  assert.deepEqual(parseSession(printed(`,"createTransactionHash":"0x${key}"`)), want)
})

test('enums have every form of an integer', () => {
  for (const one of ['1', '"1"', '"0x1"', '"1n"', '"__bigint__1"', '"LIFETIME"', '"life-time"']) {
    assert.equal(parseSession(edit(plain, '"limitType":1', `"limitType":${one}`)).feeLimit.limitType, 1, one)
  }
})
