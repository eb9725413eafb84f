/** Says what is wrong with a document, and where. */
export type Refuse = (path: string, why: string) => Error

// Of one JSON text: a string, a mark, or a word such as a number.
const token = /"(?:[^"\\]|\\.)*"|[[\]{}:,]|[^\s[\]{}:,"]+/g

export const maxDepth = 32 // a printed session has 8

/**
 * Reads JSON without what `JSON.parse` does silently: it keeps the last of two members with one name, and it rounds
 * numbers. Here a second member is refused, a number of plain digits becomes a bigint, and another number stays
 * as its text, for no reader to take it for an integer.
 */
export function parseStrictJson(text: string, refuse: Refuse): unknown {
  try {
    JSON.parse(text)
  } catch {
    // The parser's own message quotes the text.
    throw refuse('', 'want the JSON that "keyward session create --json" printed')
  }
  const tokens = text.match(token) ?? []
  let position = 0

  function value(path: string, depth: number): unknown {
    if (depth > maxDepth) throw refuse('', `nested deeper than ${maxDepth} levels`)
    const first = tokens[position++] as string
    if (first === '{') return members(path, depth)
    if (first === '[') return elements(path, depth)
    if (/^-?[0-9]/.test(first)) return /^-?(0|[1-9][0-9]*)$/.test(first) && first !== '-0' ? BigInt(first) : first
    return JSON.parse(first)
  }

  function members(path: string, depth: number): Record<string, unknown> {
    const object: Record<string, unknown> = Object.create(null) // so that "__proto__" is a name like others
    while (tokens[position] !== '}') {
      if (tokens[position] === ',') position++
      const name = JSON.parse(tokens[position] as string) as string
      position += 2 // the name and its colon
      const at = join(path, name)
      if (name in object) throw refuse(at, 'given twice')
      object[name] = value(at, depth + 1)
    }
    position++
    return object
  }

  function elements(path: string, depth: number): unknown[] {
    const list: unknown[] = []
    while (tokens[position] !== ']') {
      if (tokens[position] === ',') position++
      list.push(value(`${path}[${list.length}]`, depth + 1))
    }
    position++
    return list
  }

  return value('', 0)
}

/** The path of a member. A long name could be a key, and is not shown. */
export function join(path: string, name: string): string {
  const shown = name.length > 42 ? '…' : name
  return path === '' ? shown : `${path}.${shown}`
}
