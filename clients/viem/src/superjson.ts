import { isDeepStrictEqual } from 'node:util'

import { join, type Refuse } from './strict-json.js'

/**
 * The value in what superjson writes, `{json, meta}`. `meta` names the type of each value that JSON can't have, of which
 * a session has bigints only, and the values that were one in memory, as all of JavaScript's equal bigints are.
 */
export function unwrapSuperjson(wrapper: Record<string, unknown>, path: string, refuse: Refuse): unknown {
  const { json, meta } = only(wrapper, path, ['json', 'meta'], refuse)
  if (meta === undefined) return json
  const at = join(path, 'meta')
  const { values, referentialEqualities, v } = only(meta, at, ['values', 'referentialEqualities', 'v'], refuse)
  if (v !== undefined && v !== 1 && v !== 1n) throw refuse(join(at, 'v'), "want 1, the version of superjson's format that is known")

  for (const [name, type, found, where] of paths(json, values, join(at, 'values'), refuse)) {
    if (!isDeepStrictEqual(type, ['bigint'])) throw refuse(where, 'want the type bigint only')
    if (typeof found !== 'string' || !/^(0|[1-9][0-9]*)$/.test(found)) throw refuse(where, `want a decimal string at ${name} in "json"`)
  }
  for (const [name, others, found, where] of paths(json, referentialEqualities, join(at, 'referentialEqualities'), refuse)) {
    if (!Array.isArray(others)) throw refuse(where, 'want a list of paths')
    for (const other of others) {
      const same = typeof other === 'string' ? valueAt(json, other) : undefined
      if (same === undefined) throw refuse(where, 'it lists a path that is not in "json"')
      if (same === null && found !== null) throw refuse(where, 'superjson\'s option "dedupe" has left a value out: write the session without that option')
      if (!isDeepStrictEqual(same, found)) throw refuse(where, `the values at ${name} and at a path in its list differ in "json"`)
    }
  }
  return json
}

/** Each path of one of meta's lists, what the list says of it, and the value in `json` that it leads to. */
function paths(json: unknown, list: unknown, at: string, refuse: Refuse): [name: string, said: unknown, found: unknown, where: string][] {
  if (list === undefined) return []
  if (!isRecord(list)) throw refuse(at, 'want an object of paths')
  return Object.entries(list).map(([name, said]) => {
    const where = join(at, name)
    const found = valueAt(json, name)
    if (found === undefined) throw refuse(where, 'there is no such path in "json"')
    return [name, said, found, where]
  })
}

/** Follows a path of superjson's, `callPolicies.0.target`; undefined if it leads nowhere. */
function valueAt(value: unknown, path: string): unknown {
  return path.split('.').reduce<unknown>((parent, step) => {
    if (Array.isArray(parent) ? !/^(0|[1-9][0-9]*)$/.test(step) : !isRecord(parent)) return undefined
    return Object.getOwnPropertyDescriptor(parent, step)?.value
  }, value)
}

function only(value: unknown, path: string, known: string[], refuse: Refuse): Record<string, unknown> {
  if (!isRecord(value)) throw refuse(path, 'want an object')
  const unknown = Object.keys(value).find((name) => !known.includes(name))
  if (unknown !== undefined) throw refuse(join(path, unknown), `unknown member; the known ones are ${known.join(', ')}`)
  return value
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
