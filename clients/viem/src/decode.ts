import { type Address, getAddress, type Hex, isAddress, isHex } from 'viem'

import { KeywardProtocolError } from './errors.js'

/** A JSON value of an answer, and where in it: what is not as it should be is refused with that path. */
export class Field {
  readonly #value: unknown
  readonly #path: string

  constructor(value: unknown, path: string) {
    this.#value = value
    this.#path = path
  }

  /** The field `name` of an object; absent fields are undefined in it. */
  at(name: string): Field {
    return new Field(this.object()[name], `${this.#path}.${name}`)
  }

  /** `read` of this field, undefined if it is absent or null. */
  maybe<T>(read: (field: Field) => T): T | undefined {
    return this.#value === undefined || this.#value === null ? undefined : read(this)
  }

  /** Each element of a list. Go's empty list may be null. */
  list<T>(read: (field: Field) => T): T[] {
    if (this.#value === null || this.#value === undefined) return []
    if (!Array.isArray(this.#value)) throw this.#wrong('a list')
    return this.#value.map((value, i) => read(new Field(value, `${this.#path}[${i}]`)))
  }

  text(): string {
    if (typeof this.#value !== 'string') throw this.#wrong('a string')
    return this.#value
  }

  boolean(): boolean {
    if (typeof this.#value !== 'boolean') throw this.#wrong('true or false')
    return this.#value
  }

  number(): number {
    if (typeof this.#value !== 'number' || !Number.isSafeInteger(this.#value)) throw this.#wrong('an exact integer')
    return this.#value
  }

  /** An unsigned integer: a decimal string, 0x-hex, or a number that is exact. */
  bigint(): bigint {
    if (typeof this.#value === 'number') return BigInt(this.number())
    if (typeof this.#value !== 'string' || !/^([0-9]+|0x[0-9a-fA-F]+)$/.test(this.#value)) throw this.#wrong('an unsigned integer')
    return BigInt(this.#value)
  }

  hex(): Hex {
    if (!isHex(this.#value)) throw this.#wrong('0x-hex')
    return this.#value
  }

  address(): Address {
    if (typeof this.#value !== 'string' || !isAddress(this.#value, { strict: false })) throw this.#wrong('an address')
    return getAddress(this.#value)
  }

  date(): Date {
    const date = new Date(this.text())
    if (Number.isNaN(date.getTime())) throw this.#wrong('a time')
    return date
  }

  object(): Record<string, unknown> {
    if (typeof this.#value !== 'object' || this.#value === null || Array.isArray(this.#value)) throw this.#wrong('an object')
    return this.#value as Record<string, unknown>
  }

  #wrong(wanted: string): KeywardProtocolError {
    return new KeywardProtocolError(`${this.#path}: want ${wanted}`)
  }
}
