import {
  BaseError,
  InvalidParamsRpcError,
  InvalidRequestRpcError,
  LimitExceededRpcError,
  MethodNotFoundRpcError,
  ParseRpcError,
  UnauthorizedProviderError,
  UnsupportedProviderMethodError,
  UserRejectedRequestError,
} from 'viem'

/** What the agent puts beside an error's code and message. */
export type KeywardErrorData = Readonly<Record<string, unknown>>

export type KeywardErrorOptions = {
  cause?: Error | undefined
  data?: KeywardErrorData | undefined
  metaMessages?: string[] | undefined
}

// viem's classes by code. -32000 has none: viem's says that parameters are wrong, the agent's that it can't sign now.
const standardErrors: Record<number, new (cause: Error) => BaseError> = {
  4001: UserRejectedRequestError,
  4100: UnauthorizedProviderError,
  4200: UnsupportedProviderMethodError,
  [-32700]: ParseRpcError,
  [-32600]: InvalidRequestRpcError,
  [-32601]: MethodNotFoundRpcError,
  [-32602]: InvalidParamsRpcError,
  [-32005]: LimitExceededRpcError,
}

/**
 * Names the class on its prototype. A process that has both an import and a require() of this package has each class
 * twice: `instanceof` compares the names, so that either copy finds the errors of both.
 */
const className = Symbol.for('@keyward/viem className')

function classNameOf(prototype: object): unknown {
  return Object.getOwnPropertyDescriptor(prototype, className)?.value
}

function prototypeOf(value: unknown): object | null {
  return typeof value === 'object' && value !== null ? Object.getPrototypeOf(value) : null
}

/**
 * Anything that went wrong between the app and the agent.
 *
 * It is a viem `BaseError`, so viem and agw-client keep it as the `cause` of the
 * errors that they wrap it in: find it again with {@link findKeywardError}. Its own cause is the error that
 * viem throws for the same code, e.g. a `UserRejectedRequestError`, so that
 * `err.walk((e) => e instanceof UserRejectedRequestError)` finds it too.
 */
export class KeywardError extends BaseError {
  override name = 'KeywardError'
  /** The JSON-RPC error code. */
  readonly code: number
  /** A stable word for programs, e.g. `"callNotAllowed"`. */
  readonly reason: string | undefined
  /** Sending the same request again later may succeed. */
  readonly retryable: boolean = false
  /** The error's `data` as the agent sent it. */
  readonly data: KeywardErrorData | undefined

  constructor(code: number, message: string, options: KeywardErrorOptions = {}) {
    const { cause, data, metaMessages } = options
    super(message, { ...(cause && { cause }), ...(metaMessages && { metaMessages }) })
    this.code = code
    this.data = data
    this.reason = textOf(data?.['reason'])
    // After super, which would repeat the cause's text in the message.
    const Standard = standardErrors[code]
    if (!cause && Standard) this.cause = new Standard(new Error(message))
  }

  /** Makes `instanceof` find errors of another copy of this package, of ESM or CommonJS, too. */
  static override [Symbol.hasInstance](value: unknown): boolean {
    const wanted = classNameOf(this.prototype) // undefined for an app's own subclass
    for (let p = prototypeOf(value); p !== null; p = prototypeOf(p)) {
      if (p === this.prototype || (wanted !== undefined && classNameOf(p) === wanted)) return true
    }
    return false
  }
}

/**
 * The session's policy, one of its limits, or its state says no (4001). Signing the same
 * transaction again gives the same answer until a period, or the session, ends.
 */
export class KeywardDeniedError extends KeywardError {
  override name = 'KeywardDeniedError'
  /** The contract's own revert text; undefined if the rule is not the contract's. */
  readonly revert: string | undefined
  /** Index in the spec's callPolicies or transferPolicies. */
  readonly policy: number | undefined
  /** Index in that policy's constraints. */
  readonly constraint: number | undefined
  /** Of a limit that is used up, in the unit of what it counts (wei, or a calldata word). */
  readonly limit: bigint | undefined
  readonly used: bigint | undefined
  readonly asked: bigint | undefined
  readonly remaining: bigint | undefined

  constructor(message: string, data?: KeywardErrorData) {
    super(4001, message, { data, metaMessages: amountsLine(data) })
    this.revert = textOf(data?.['revert'])
    this.policy = indexOf(data?.['policy'])
    this.constraint = indexOf(data?.['constraint'])
    this.limit = amountOf(data?.['limit'])
    this.used = amountOf(data?.['used'])
    this.asked = amountOf(data?.['asked'])
    this.remaining = amountOf(data?.['remaining'])
  }
}

/** This process may not use that signer, or there is no such signer: the agent does not tell which (4100). */
export class KeywardUnauthorizedError extends KeywardError {
  override name = 'KeywardUnauthorizedError'
  constructor(message: string, data?: KeywardErrorData) {
    super(4100, message, { data })
  }
}

/** The agent does not do this at all: it signs transactions, it neither sends nor signs digests (4200, -32601). */
export class KeywardUnsupportedError extends KeywardError {
  override name = 'KeywardUnsupportedError'
}

/** The request was wrong (-32602, -32600, -32700). */
export class KeywardMalformedError extends KeywardError {
  override name = 'KeywardMalformedError'
  /** Which field, e.g. `message.gasLimit`. */
  readonly path: string | undefined

  constructor(code: number, message: string, data?: KeywardErrorData) {
    super(code, message, { data })
    this.path = textOf(data?.['path'])
  }
}

/**
 * Nothing was decided: no agent, a connection lost twice, a time-out, a locked agent, an
 * absent device (-32000). `reason` of those made here: `notReachable`, `connectionLost`, `timedOut`, `closed`.
 */
export class KeywardUnavailableError extends KeywardError {
  override name = 'KeywardUnavailableError'
  override readonly retryable: boolean
  /** What the operator has to do, e.g. `keyward unlock`. */
  readonly hint: string | undefined

  constructor(message: string, data?: KeywardErrorData, cause?: Error) {
    super(-32000, message, { cause, data })
    this.retryable = data?.['retryable'] === true
    this.hint = textOf(data?.['hint'])
  }
}

/** Too many requests in flight, or too fast: send again a little later (-32005). */
export class KeywardLimitedError extends KeywardError {
  override name = 'KeywardLimitedError'
  override readonly retryable: boolean = true
  constructor(message: string, data?: KeywardErrorData) {
    super(-32005, message, { data })
  }
}

/** What answered does not speak the agent's protocol, or its answer is beyond a bound of this client. */
export class KeywardProtocolError extends KeywardError {
  override name = 'KeywardProtocolError'
  constructor(message: string, cause?: Error) {
    super(-32603, message, { cause })
  }
}

// The keys stay as they are where a bundler renames classes.
const classes = {
  KeywardError,
  KeywardDeniedError,
  KeywardUnauthorizedError,
  KeywardUnsupportedError,
  KeywardMalformedError,
  KeywardUnavailableError,
  KeywardLimitedError,
  KeywardProtocolError,
}
for (const [name, { prototype }] of Object.entries(classes)) Object.defineProperty(prototype, className, { value: name })

/**
 * The agent's error inside whatever viem or agw-client wrapped it in; undefined if
 * there is none.
 *
 * ```ts
 * try { await sessionClient.writeContract(…) } catch (err) {
 *   const denied = findKeywardError(err, KeywardDeniedError)
 *   if (denied?.reason === 'lifetimeLimitExceeded') …
 * }
 * ```
 */
export function findKeywardError(err: unknown): KeywardError | undefined
export function findKeywardError<T extends KeywardError>(
  err: unknown,
  kind: abstract new (...args: never[]) => T,
): T | undefined
export function findKeywardError(
  err: unknown,
  kind: abstract new (...args: never[]) => KeywardError = KeywardError,
): KeywardError | undefined {
  const seen = new Set<unknown>() // a cause may point back
  for (let e = err; e instanceof Error && !seen.has(e); e = e.cause) {
    if (e instanceof kind) return e
    seen.add(e)
  }
  return undefined
}

/** The typed error for a JSON-RPC error object. */
export function errorFromResponse(code: number, message: string, data?: KeywardErrorData): KeywardError {
  switch (code) {
    case 4001:
      return new KeywardDeniedError(message, data)
    case 4100:
      return new KeywardUnauthorizedError(message, data)
    case 4200:
    case -32601:
      return new KeywardUnsupportedError(code, message, { data })
    case -32700:
    case -32600:
    case -32602:
      return new KeywardMalformedError(code, message, data)
    case -32000:
      return new KeywardUnavailableError(message, data)
    case -32005:
      return new KeywardLimitedError(message, data)
    default:
      return new KeywardError(code, message, { data })
  }
}

function amountsLine(data: KeywardErrorData | undefined): string[] | undefined {
  const parts = ['limit', 'used', 'asked', 'remaining'].flatMap((name) => {
    const amount = amountOf(data?.[name])
    return amount === undefined ? [] : [`${name} ${amount}`]
  })
  return parts.length > 0 ? [parts.join(', ')] : undefined
}

function textOf(value: unknown): string | undefined {
  return typeof value === 'string' && value !== '' ? value : undefined
}

// The agent's -1 says "none".
function indexOf(value: unknown): number | undefined {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0 ? value : undefined
}

// An error must not fail to be made: what is no amount is left out.
function amountOf(value: unknown): bigint | undefined {
  return typeof value === 'string' && /^[0-9]+$/.test(value) ? BigInt(value) : undefined
}
