package policy

// EncodeABI returns abi.encode(spec): one dynamic tuple, so it starts with the offset 0x20.
func (s *Spec) EncodeABI() []byte { panic("to be written") }

// Hash is the session hash, keccak256(abi.encode(spec)).
func (s *Spec) Hash() Hash { panic("to be written") }

// HookData returns abi.encode(spec, uint64[] periodIds), what the validator reads beside the signature.
func (s *Spec) HookData(periodIDs []uint64) []byte { panic("to be written") }

// CreateSessionCalldata returns the calldata of createSession(spec), which the
// account's owner sends to the validator.
func (s *Spec) CreateSessionCalldata() []byte { panic("to be written") }

// ParseSpec reads a spec in the SDK's JSON shape, strictly: [docs/protocol.md].
// requireSigner false accepts a spec without "signer" (Signer is then zero).
func ParseSpec(data []byte, requireSigner bool) (*Spec, error) { panic("to be written") }

// Validate refuses what createSession refuses, with the contract's own words.
// The error is a *[Denial].
func (s *Spec) Validate() error { panic("to be written") }

// Describe says in plain words what the spec allows, one line a rule.
func (s *Spec) Describe() []string { panic("to be written") }
