export { type KeywardAccount, type ToKeywardAccountParameters, toKeywardAccount } from './account.js'
export {
  type Charge,
  type Keyward,
  keyward,
  type SessionTransaction,
  type SignedTransaction,
  type Verdict,
} from './agent.js'
export type { ConnectionOptions, RequestOptions } from './connection.js'
export {
  findKeywardError,
  KeywardDeniedError,
  KeywardError,
  type KeywardErrorData,
  KeywardLimitedError,
  KeywardMalformedError,
  KeywardProtocolError,
  KeywardUnauthorizedError,
  KeywardUnavailableError,
  KeywardUnsupportedError,
} from './errors.js'
export { parseSession } from './parse-session.js'
export type {
  CallPolicy,
  Constraint,
  Session,
  SessionLimit,
  SessionSpec,
  SessionStatus,
  TransferPolicy,
  UsageLimit,
} from './session.js'
export type { KeywardTransaction } from './transaction.js'
